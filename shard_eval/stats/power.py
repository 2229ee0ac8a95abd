"""How many prompts a claim needs: power, sample size and detectable effect of each part, and of all parts together.

A claim has parts of two kinds, both on the same prompts for both systems: superiority (more wins than losses, by the
sign test) and non-inferiority (the difference of two rates above minus a margin, by Tango's score test). Shares,
differences and margins are between 0 and 1; differences are signed so that higher is better for the candidate. All
tests are one-sided.

`deff` is the design effect of prompts that are not independent: n prompts count as n / deff. A judge that errs
shrinks a difference by `youden` = sensitivity + specificity - 1 and makes verdicts differ on prompts where nothing
does (`noise`; see `judge_noise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.errors import UsageError, unknown

MAX_N = 10_000_000  # no search for a sample size goes beyond this
STEADY = 10  # exact power is saw-toothed in n: a sample size must suffice for this many numbers in a row
NEGLIGIBLE = 1e-12  # probability left out on either side of a sum over counts

Floats = npt.NDArray[np.float64]
Method = Literal["score", "normal", "exact"]


@dataclass(frozen=True)
class Power:
    """Power of one part of a claim, and what it was computed for.

    Attributes:
        power: probability that the test succeeds.
        n: number of prompts.
        effect: win share minus loss share (superiority) or margin (non-inferiority); None if none is detectable.
        difference: true difference that is assumed.
        flips: share of prompts on which the two systems truly differ.
        alpha: one-sided level of the test.
        deff: design effect.
        youden: Youden's index of the judge.
        noise: share of prompts on which the judge's errors alone make the two verdicts differ.
        method: how the power was computed.
    """

    power: float
    n: int
    effect: float | None
    difference: float
    flips: float
    alpha: float
    deff: float
    youden: float
    noise: float
    method: str


@dataclass(frozen=True)
class Floor:
    """Prompts needed to show non-inferiority if the two systems never differ.

    Attributes:
        exact: smallest n with (1 - margin)^n <= alpha.
        score: smallest n whose Tango bound is not below minus the margin: z^2 (1 - margin) / margin.
        margin: the margin, 0-1.
        alpha: one-sided level.
    """

    exact: int
    score: int
    margin: float
    alpha: float


@dataclass(frozen=True)
class JointPower:
    """Power of a claim that holds only if every part does (intersection-union).

    Attributes:
        bonferroni: 1 minus the sum of the misses, at least 0: a lower bound whatever the dependence.
        independent: product of the powers; a lower bound too if the parts help each other.
        weakest: smallest of the powers: an upper bound whatever the dependence.
        powers: the powers of the parts.
    """

    bonferroni: float
    independent: float
    weakest: float
    powers: tuple[float, ...]


def judge_noise(sensitivity: float, specificity: float, rate: float) -> float:
    """Share of prompts on which a judge's errors alone make the verdicts on two systems differ.

    With errors independent given the truth, the judged flips are youden^2 * flips + noise, where
    noise = 2 (rate * se (1 - se) + (1 - rate) * sp (1 - sp)): two verdicts on equal answers differ that often.

    Args:
        sensitivity: share of what is there that the judge finds.
        specificity: share of what is not there that the judge leaves alone.
        rate: true rate, averaged over the two systems.

    Raises:
        UsageError: if an argument is not within 0-1.
    """
    _shares(sensitivity=sensitivity, specificity=specificity, rate=rate)
    return 2 * (rate * sensitivity * (1 - sensitivity) + (1 - rate) * specificity * (1 - specificity))


def superiority_power(
    n: int,
    win: float,
    loss: float,
    *,
    alpha: float = 0.025,
    deff: float = 1.0,
    youden: float = 1.0,
    noise: float | None = None,
) -> Power:
    """Exact power of the one-sided sign test.

    The number of decisive prompts is binomial, and so is the number of wins among them; the power is summed over
    both. A sign test at alpha is the one-sided half of a two-sided one at 2 alpha.

    Args:
        n: number of prompts.
        win: true share of prompts that the candidate wins.
        loss: true share that it loses; the rest are ties.
        alpha: one-sided level.
        deff: design effect, at least 1.
        youden: Youden's index of the judge, above 0.
        noise: judge's noise flips; None: of a judge that errs equally often either way.

    Raises:
        UsageError: if shares do not fit together or an argument is out of range.
    """
    _common(alpha, deff, youden)
    _pair(win, loss)
    if n < 1:
        raise UsageError(f"power needs at least one prompt, got n = {n}")
    noise = _noise(youden, noise)
    power = _sign_power(math.floor(n / deff), *_judged(win, loss, youden, noise), alpha)
    return Power(power, n, win - loss, win - loss, win + loss, alpha, deff, youden, noise, "exact sign test")


def superiority_n(
    win: float,
    loss: float,
    power: float = 0.8,
    *,
    alpha: float = 0.025,
    deff: float = 1.0,
    youden: float = 1.0,
    noise: float | None = None,
) -> Power:
    """Smallest number of prompts with which the sign test has the power, and keeps it with a few more.

    Args: as in `superiority_power`; power is the power to reach.

    Raises:
        UsageError: if win is not above loss, or an argument is out of range.
    """
    _pair(win, loss)
    _target(power)
    if win <= loss:
        raise UsageError(f"superiority needs a win share above the loss share, got {win} and {loss}")

    def at(n: int) -> Power:
        return superiority_power(n, win, loss, alpha=alpha, deff=deff, youden=youden, noise=noise)

    return at(_steady(lambda n: at(n).power >= power))


def superiority_mde(
    n: int,
    decisive: float,
    power: float = 0.8,
    *,
    alpha: float = 0.025,
    deff: float = 1.0,
    youden: float = 1.0,
    noise: float | None = None,
) -> Power:
    """Smallest win share minus loss share that the sign test detects with the power.

    Args:
        n: number of prompts.
        decisive: true share of prompts that are not ties.
        power: power to reach.
        alpha: one-sided level.
        deff: design effect.
        youden: Youden's index of the judge.
        noise: judge's noise flips; None: of a judge that errs equally often either way.

    Returns:
        The power with its effect; None if even wins alone do not reach it.

    Raises:
        UsageError: if an argument is out of range.
    """
    _target(power)
    _shares(decisive=decisive)

    def at(effect: float) -> Power:
        win, loss = (decisive + effect) / 2, (decisive - effect) / 2
        return superiority_power(n, win, loss, alpha=alpha, deff=deff, youden=youden, noise=noise)

    return _detectable(at, decisive, power)


def noninferiority_power(
    n: int,
    margin: float,
    flips: float,
    difference: float = 0.0,
    *,
    alpha: float = 0.025,
    deff: float = 1.0,
    youden: float = 1.0,
    noise: float | None = None,
    method: Method = "score",
) -> Power:
    """Power to show by Tango's score test that a rate is not worse by the margin or more.

    The test is Tango's (1998, Stat. Med. 17:891). "score" is the normal approximation with the variances of the test
    under its null hypothesis and under the truth (Nam 1997, Biometrics 53:1422; Lu and Bean 1995, Stat. Med. 14:1831),
    within 3 points of the exact power from about 10 expected flips on. "normal" takes the variance under the truth for
    both and is the formula of most plans; with few flips it promises up to 30 points too much. "exact" sums over all
    counts of wins and losses.

    Args:
        n: number of prompts.
        margin: non-inferiority margin, above 0.
        flips: true share of prompts on which the two systems differ.
        difference: true difference, candidate's rate minus the baseline's, higher is better.
        alpha: one-sided level.
        deff: design effect, at least 1.
        youden: Youden's index of the judge, above 0; the judged margin is youden * margin.
        noise: judge's noise flips; None: of a judge that errs equally often either way.
        method: how to compute it.

    Raises:
        UsageError: if an argument is out of range.
    """
    _common(alpha, deff, youden)
    _margin(margin, flips, difference)
    if n < 1:
        raise UsageError(f"power needs at least one prompt, got n = {n}")
    if method not in POWERS:
        raise unknown("method", method, POWERS)
    noise = _noise(youden, noise)
    judged = _judged((flips + difference) / 2, (flips - difference) / 2, youden, noise)
    power = POWERS[method](n / deff, *judged, youden * margin, alpha)
    return Power(power, n, margin, difference, flips, alpha, deff, youden, noise, f"{method}, Tango's test")


def noninferiority_n(
    margin: float,
    flips: float,
    difference: float = 0.0,
    power: float = 0.8,
    *,
    alpha: float = 0.025,
    deff: float = 1.0,
    youden: float = 1.0,
    noise: float | None = None,
    method: Method = "score",
) -> Power:
    """Smallest number of prompts that shows non-inferiority with the power, and keeps it with a few more.

    Args: as in `noninferiority_power`; power is the power to reach.

    Raises:
        UsageError: if the true difference is already as bad as the margin, or an argument is out of range.
    """
    _target(power)
    if margin + difference <= 0:
        raise UsageError(f"a candidate that is worse by {-difference} is not non-inferior at margin {margin}")

    def at(n: int) -> Power:
        known = {"alpha": alpha, "deff": deff, "youden": youden}
        return noninferiority_power(n, margin, flips, difference, noise=noise, method=method, **known)

    return at(_steady(lambda n: at(n).power >= power))


def noninferiority_mde(
    n: int,
    flips: float,
    difference: float = 0.0,
    power: float = 0.8,
    *,
    alpha: float = 0.025,
    deff: float = 1.0,
    youden: float = 1.0,
    noise: float | None = None,
    method: Method = "score",
) -> Power:
    """Smallest margin at which non-inferiority is shown with the power.

    With method "normal" it is (z_(1-alpha) + z_power) sqrt(flips - difference^2 + noise / youden^2) / sqrt(n / deff)
    - difference, but not below what no flips at all need.

    Args: as in `noninferiority_power`; power is the power to reach.

    Returns:
        The power with the margin as its effect; None if no margin up to 1 suffices.

    Raises:
        UsageError: if an argument is out of range.
    """
    _target(power)

    def at(margin: float) -> Power:
        known = {"alpha": alpha, "deff": deff, "youden": youden}
        return noninferiority_power(n, margin, flips, difference, noise=noise, method=method, **known)

    return _detectable(at, 1.0, power)


def zero_flip_floor(margin: float, alpha: float = 0.025) -> Floor:
    """Prompts that non-inferiority needs even if the two systems never differ.

    Args:
        margin: non-inferiority margin, above 0 and below 1.
        alpha: one-sided level.

    Raises:
        UsageError: if an argument is out of range.
    """
    _common(alpha, 1.0, 1.0)
    if not 0 < margin < 1:
        raise UsageError(f"the margin must be above 0 and below 1, got {margin}")
    exact = math.ceil(math.log(alpha) / math.log1p(-margin) - 1e-9)
    return Floor(exact, math.ceil(_floor(margin, alpha) - 1e-9), margin, alpha)


def joint_power(powers: Sequence[float]) -> JointPower:
    """Power of an intersection-union claim from the powers of its parts (Berger 1982, Technometrics 24:295).

    Args:
        powers: power of each part, 0-1.

    Raises:
        UsageError: if there is no part or a power is not within 0-1.
    """
    if not powers:
        raise UsageError("a claim needs at least one part, got none")
    _shares(**{f"power {i + 1}": p for i, p in enumerate(powers)})
    misses = math.fsum(1 - p for p in powers)
    return JointPower(max(0.0, 1 - misses), math.prod(powers), min(powers), tuple(powers))


def _sign_power(n: int, win: float, loss: float, alpha: float) -> float:
    """Probability that the one-sided sign test on n prompts is significant."""
    decisive = win + loss
    if n < 1 or decisive <= 0:
        return 0.0
    d = _likely(n, decisive)
    # Smallest number of wins that is significant among d decisive prompts.
    critical = _binom().isf(alpha, d, 0.5) + 1
    found = _binom().pmf(d, n, decisive) * _binom().sf(critical - 1, d, win / decisive)
    return min(1.0, float(found.sum()))


def _exact_power(n: float, win: float, loss: float, margin: float, alpha: float) -> float:
    """Probability that Tango's test on n prompts shows non-inferiority: the sum over the trinomial."""
    whole = math.floor(n)
    if whole < 1:
        return 0.0
    decided = _likely(whole, win + loss)
    share = win / (win + loss) if win + loss > 0 else 0.0
    d, wins = np.meshgrid(decided, np.arange(decided[-1] + 1), indexing="ij")
    weight = _binom().pmf(d, whole, win + loss) * _binom().pmf(wins, d, share)
    shown = (wins <= d) & (score_statistic(wins, d - wins, whole, margin) >= _z(alpha))
    return min(1.0, float(weight[shown].sum()))


def _score_power(n: float, win: float, loss: float, margin: float, alpha: float) -> float:
    """The same by the normal approximation with the variance under the null hypothesis and under the truth."""
    null = _null_variance(np.array(win), np.array(loss), margin)
    return _normal(n, win, loss, margin, _z(alpha) * math.sqrt(float(null)))


def _plain_power(n: float, win: float, loss: float, margin: float, alpha: float) -> float:
    """The same with the variance under the truth alone; 0 below what no flips need."""
    if n < _floor(margin, alpha) - 1e-9:
        return 0.0
    return _normal(n, win, loss, margin, _z(alpha) * math.sqrt(win + loss - (win - loss) ** 2))


def _normal(n: float, win: float, loss: float, margin: float, critical: float) -> float:
    """Probability that the judged difference is above critical / sqrt(n) - margin."""
    spread = math.sqrt(max(win + loss - (win - loss) ** 2, 0.0))
    distance = (margin + win - loss) * math.sqrt(n) - critical
    return float(special.ndtr(distance / spread)) if spread > 0 else float(distance >= -1e-9)


POWERS = {"score": _score_power, "normal": _plain_power, "exact": _exact_power}


def score_statistic(wins: Floats, losses: Floats, n: float, margin: float) -> Floats:
    """Tango's score statistic of (wins - losses) / n against minus the margin, for whole tables of counts.

    Args:
        wins: counts of any shape.
        losses: counts of the same shape.
        n: number of prompts.
        margin: non-inferiority margin, above 0.

    Returns:
        Statistics of the same shape. Source: Tango 1998, Stat. Med. 17:891.
    """
    variance = n * _null_variance(wins / n, losses / n, margin)
    return np.asarray((wins - losses + n * margin) / np.sqrt(np.maximum(variance, 1e-300)))


def _null_variance(win: Floats, loss: Floats, margin: float) -> Floats:
    """Variance of one prompt's difference if it is minus the margin: that of the most likely such shares."""
    b = -win - loss - (2 - win + loss) * margin
    c = loss * margin * (1 + margin)
    q = (np.sqrt(np.maximum(b * b - 8 * c, 0)) - b) / 4  # share of losses
    return np.asarray(2 * q - margin * (1 + margin))


def _judged(win: float, loss: float, youden: float, noise: float) -> tuple[float, float]:
    """Win and loss share as an erring judge sees them."""
    flips, difference = youden**2 * (win + loss) + noise, youden * (win - loss)
    if flips - abs(difference) < -1e-12:
        raise UsageError(
            f"noise flips of {noise} are fewer than a judge with Youden's index {youden} makes at a true difference of "
            f"{win - loss:.3g}; compute them with judge_noise"
        )
    return max((flips + difference) / 2, 0.0), max((flips - difference) / 2, 0.0)


def _noise(youden: float, noise: float | None) -> float:
    """Noise flips: the given ones, or those of a judge with equal sensitivity and specificity."""
    if noise is None:
        return (1 - youden**2) / 2
    if not 0 <= noise <= 0.5:
        raise UsageError(f"two verdicts on equal answers differ on 0 to half of the prompts, got noise = {noise}")
    return noise


def _steady(enough: Callable[[int], bool]) -> int:
    """Smallest number that is enough, as the next few are, by doubling and halving."""
    high = 1
    while not enough(high):
        high *= 2
        if high > MAX_N:
            raise UsageError(f"no sample size up to {MAX_N} reaches this power: the effect is too small")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    while not all(enough(high + i) for i in range(STEADY)):
        high += 1
    return high


def _detectable(at: Callable[[float], Power], most: float, power: float) -> Power:
    """Power at the smallest effect up to `most` that reaches it; without an effect if none does."""
    best = at(most)
    if best.power < power:
        return replace(best, effect=None, method=f"{best.method}; no effect suffices")
    low, high = 0.0, most
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle).power >= power else (middle, high)
    return at(high)


def _likely(n: int, share: float) -> Floats:
    """Counts of a binomial that are not negligibly rare."""
    first, last = _binom().ppf([NEGLIGIBLE, 1 - NEGLIGIBLE], n, share)
    return np.arange(max(first, 0.0), min(last, n) + 1)


def _floor(margin: float, alpha: float) -> float:
    return _z(alpha) ** 2 * (1 - margin) / margin


def _z(tail: float) -> float:
    """Upper quantile of the normal distribution."""
    return float(-special.ndtri(tail))


def _binom() -> Any:
    from scipy.stats import binom  # slow to import

    return binom


def _shares(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name} must be between 0 and 1, got {value}")


def _pair(win: float, loss: float) -> None:
    _shares(win=win, loss=loss)
    if win + loss > 1 + 1e-9:
        raise UsageError(f"win and loss share cannot sum to more than 1, got {win} and {loss}")


def _margin(margin: float, flips: float, difference: float) -> None:
    _shares(margin=margin, flips=flips)
    if margin == 0:
        raise UsageError("a margin of 0 can never be shown; state how much worse is still acceptable")
    if not abs(difference) <= flips + 1e-12:
        raise UsageError(f"a difference of {difference} needs at least as many flips, got {flips}")


def _target(power: float) -> None:
    if not 0 < power < 1:
        raise UsageError(f"the power to reach must be above 0 and below 1, got {power}")


def _common(alpha: float, deff: float, youden: float) -> None:
    if not 0 < alpha <= 0.5:
        raise UsageError(f"alpha is one-sided, above 0 and at most 0.5; got {alpha}")
    if not 1 <= deff < math.inf:
        raise UsageError(f"the design effect must be at least 1, got {deff}")
    if not 0 < youden <= 1:
        raise UsageError(f"a judge's Youden index must be above 0 and at most 1, got {youden}")
