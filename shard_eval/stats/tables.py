"""Tests and intervals for the counts of a paired table: pairs won, lost and tied by the candidate."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.errors import UsageError, unknown
from shard_eval.stats.comparison import Alternative, Comparison
from shard_eval.stats.intervals import check_level, wilson


def score(wins: float, losses: float, n: float, null: float) -> float:
    """Tango's score statistic: (wins - losses) / n less `null`, in standard errors under the null hypothesis.

    It rises with wins and falls with losses and with `null`; its square at null 0 is McNemar's statistic.

    Args:
        wins: pairs in which the candidate is better; may be an effective, fractional count, as may the others.
        losses: pairs in which it is worse.
        n: all pairs.
        null: the difference under the null hypothesis, -1 to 1.

    Returns:
        The statistic; 0 if nothing was seen that could speak for or against `null`, infinite if `null` is impossible.

    Raises:
        UsageError: if a count is negative or not finite, n is 0 or below wins + losses, or null is outside -1 to 1.

    Source: Tango 1998, Stat. Med. 17:891-908.
    """
    finite = math.isfinite(wins) and math.isfinite(losses) and math.isfinite(n)
    if not finite or min(wins, losses) < 0 or n <= 0 or wins + losses > n * (1 + 1e-9) or not -1 <= null <= 1:
        raise UsageError(
            f"wins and losses must be counts of n > 0 pairs and null within -1 to 1, got wins {wins}, losses {losses}, "
            f"n {n} and null {null}"
        )
    if null < 0:
        return -score(losses, wins, n, -null)
    # Share of losses that maximises the likelihood given that the share of wins is `null` higher: the larger root of
    # 2n q^2 + b q + c = 0 (c <= 0), in the form that does not cancel.
    b = (2 * n - wins + losses) * null - wins - losses
    c = -losses * null * (1 - null)
    root = math.sqrt(b * b - 8 * n * c)
    q = (root - b) / (4 * n) if b <= 0 else -2 * c / (root + b)
    distance = wins - losses - n * null
    variance = n * (2 * q + null * (1 - null))
    if variance <= 0:
        return 0.0 if abs(distance) <= 1e-9 * n else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def tango(wins: float, losses: float, n: float, level: float = 0.95, df: float = math.inf) -> tuple[float, float]:
    """Tango's score interval for the difference (wins - losses) / n of two paired shares.

    Args:
        wins: pairs in which the candidate is better; may be an effective, fractional count, as may the others.
        losses: pairs in which it is worse.
        n: all pairs.
        level: confidence level.
        df: degrees of freedom of the quantile; infinite gives Tango's own.

    Returns:
        Lower and upper bound: the differences that `tango_p` does not reject. Never of zero width.

    Raises:
        UsageError: as `score`, or if level is not between 0 and 1.
    """
    check_level(level)
    tail = (1 + level) / 2
    z = float(special.ndtri(tail) if math.isinf(df) else special.stdtrit(df, tail))
    return -_upper(losses, wins, n, z), _upper(wins, losses, n, z)


def _upper(wins: float, losses: float, n: float, z: float) -> float:
    """The largest difference whose score statistic is not below -z; bisection, as the statistic falls with it."""
    if score(wins, losses, n, 1.0) >= -z:
        return 1.0
    inside, outside = max(-1.0, (wins - losses) / n), 1.0
    while outside - inside > 1e-12:
        middle = (inside + outside) / 2
        if score(wins, losses, n, middle) >= -z:
            inside = middle
        else:
            outside = middle
    return inside


def tango_p(wins: float, losses: float, n: float, null: float, alternative: Alternative, df: float = math.inf) -> float:
    """P-value of Tango's score test of the difference (wins - losses) / n against `null`.

    Args:
        wins: pairs in which the candidate is better; may be an effective, fractional count, as may the others.
        losses: pairs in which it is worse.
        n: all pairs.
        null: the difference under the null hypothesis.
        alternative: which side of `null` speaks against it.
        df: degrees of freedom; infinite gives Tango's own.

    Returns:
        The p-value; 1 if there is neither a win nor a loss and `null` is 0.

    Raises:
        UsageError: as `score`, or if the alternative is unknown.
    """
    check_alternative(alternative)
    z = score(wins, losses, n, null)
    if wins == losses == null == 0:
        return 1.0
    side = {"two-sided": -abs(z), "greater": -z, "less": z}[alternative]
    tail = float(special.ndtr(side) if math.isinf(df) else special.stdtr(df, side))
    return min(1.0, 2 * tail) if alternative == "two-sided" else tail


def newcombe(both: int, wins: int, losses: int, neither: int, level: float = 0.95) -> tuple[float, float]:
    """Newcombe's hybrid score interval for the difference (wins - losses) / n of two paired shares.

    It needs the concordant pairs one by one, which a preference does not have, and is kept as a second opinion.

    Args:
        both: pairs with the event under candidate and baseline.
        wins: pairs with the event under the candidate alone.
        losses: pairs with the event under the baseline alone.
        neither: pairs without the event.
        level: confidence level.

    Returns:
        Lower and upper bound.

    Raises:
        UsageError: if a count is negative, all are 0, or level is not between 0 and 1.

    Source: Newcombe 1998, Stat. Med. 17:2635-2650, method 10 (correlation corrected for continuity).
    """
    check_level(level)
    n = both + wins + losses + neither
    if min(both, wins, losses, neither) < 0 or n == 0:
        raise UsageError(f"a table needs counts of at least one pair, got {(both, wins, losses, neither)}")
    first, second = (both + wins) / n, (both + losses) / n
    (low1, high1), (low2, high2) = wilson(first, n, level), wilson(second, n, level)
    cross = float(both * neither - wins * losses)
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    margins = (both + wins) * (losses + neither) * (both + losses) * (wins + neither)
    phi = cross / math.sqrt(margins) if margins else 0.0

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return first - second - half(first - low1, high2 - second), first - second + half(high1 - first, second - low2)


def sign_test(
    wins: int, losses: int, ties: int, alternative: Alternative = "two-sided", level: float = 0.95
) -> Comparison:
    """The exact sign test. On a paired 2 x 2 table it is McNemar's exact test: the same p from the same pairs.

    Args:
        wins: independent pairs in which the candidate is better.
        losses: pairs in which it is worse.
        ties: pairs without a difference; they do not enter p, but they do enter estimate and interval.
        alternative: which side of 0 speaks against "wins and losses are equally likely".
        level: confidence level of the interval.

    Returns:
        The difference (wins - losses) / n with Tango's interval.

    Raises:
        UsageError: if a count is negative or no integer, the alternative is unknown, or level is not between 0 and 1.
    """
    check_alternative(alternative)
    check_level(level)
    for count in (wins, losses, ties):
        if count != int(count) or count < 0:
            raise UsageError(f"wins, losses and ties must be counts, got {wins}, {losses} and {ties}")
    decided, n = wins + losses, wins + losses + ties
    fewer, more = float(special.bdtr(wins, decided, 0.5)), float(special.bdtr(losses, decided, 0.5))
    p = {"two-sided": min(1.0, 2 * min(fewer, more)), "greater": more, "less": fewer}[alternative]
    method = f"exact sign test (McNemar), {ties} of {n} pairs tied and set aside"
    if n == 0:
        return Comparison(None, -1.0, 1.0, 1.0, alternative, 0.0, method, "no data", 0, 0, level)
    low, high = tango(wins, losses, n, level)
    return Comparison((wins - losses) / n, low, high, p, alternative, 0.0, method, "Tango score", n, n, level)


def exact_p(wins: int, losses: int, n: int, null: float) -> float:
    """Exact unconditional p-value of "the difference is above `null`" for n independent pairs.

    The largest probability, over all shares of wins and losses that differ by `null`, of a table with as high a score
    as the observed one. It holds for all smaller differences too, because the score rises with wins and falls with
    losses (Hsueh, Liu and Chen 2001, Biometrics 57:478-483). Takes about 0.02 s for 1,000 pairs and 0.05 s for 3,000.

    Args:
        wins: pairs in which the candidate is better.
        losses: pairs in which it is worse.
        n: all pairs.
        null: the difference under the null hypothesis, -1 to 1.

    Raises:
        UsageError: as `score`.
    """
    least = _least_wins(wins, losses, n, null)
    # As an angle a share is equally well resolved where wins (or losses) are rare and where ties are: a probability
    # changes over about 1 / sqrt(2n). Some five points for each such stretch, then finer around the largest, twice.
    grid = np.linspace(0, math.pi / 2, 50 + 10 * math.isqrt(n))
    step, best = grid[1], 0.0
    for _ in range(3):
        found = _tails((1 - abs(null)) / 2 * np.sin(grid) ** 2, null, n, least)
        best = max(best, float(found.max()))
        peak = float(grid[int(np.argmax(found))])
        grid, step = np.clip(np.linspace(peak - step, peak + step, 21), 0, math.pi / 2), step / 10
    return min(1.0, best)


def _least_wins(wins: int, losses: int, n: int, null: float) -> npt.NDArray[np.float64]:
    """For each number of losses the fewest wins whose score against `null` is as high as the observed one.

    The fewest wins rise with the losses, so one walk along the edge finds them all. Where no number of wins is enough
    the list ends.
    """
    seen = score(wins, losses, n, null) - 1e-9
    least: list[int] = []
    needed = 0
    for c in range(n + 1):
        while needed <= n - c and score(needed, c, n, null) < seen:
            needed += 1
        if needed > n - c:
            break
        least.append(needed)
    return np.array(least, dtype=float)


def _tails(
    rarer: npt.NDArray[np.float64], null: float, n: int, least: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Probabilities of least[c] or more wins at c losses.

    Args:
        rarer: m probabilities of a win or of a loss, whichever is rarer; the other one is |null| more frequent.
        null: probability of a win less that of a loss.
        n: number of pairs.
        least: fewest wins for 0, 1, ... losses; more losses than these do not count.

    Returns:
        m probabilities.
    """
    win, loss = rarer + max(null, 0.0), rarer + max(-null, 0.0)
    c = np.arange(len(least), dtype=float)
    ways = special.gammaln(n + 1) - special.gammaln(c + 1) - special.gammaln(n - c + 1)
    mass = np.exp(ways + special.xlogy(c, loss[:, None]) + special.xlog1py(n - c, -loss[:, None]))
    # The rest is too improbable to change a digit of p that anybody reads, and counts as if it had enough wins.
    row, column = np.nonzero(mass > 1e-15)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(loss < 1, np.minimum(1.0, win / (1 - loss)), 0.0)[row]
    needed = least[column]
    enough = np.where(needed > 0, special.betainc(np.maximum(needed, 1), n - c[column] - needed + 1, share), 1.0)
    mass[row, column] *= enough
    total: npt.NDArray[np.float64] = mass.sum(axis=1)
    return total


def check_alternative(alternative: str) -> None:
    """Refuse an unknown alternative.

    Raises:
        UsageError: naming the known ones.
    """
    if alternative not in get_args(Alternative):
        raise unknown("alternative", alternative, get_args(Alternative))
