"""Rates and differences corrected for a judge's errors, with the uncertainty of the correction in the interval.

Two roads. If the judge was calibrated elsewhere, its sensitivity and specificity turn a judged rate into a true one
(`rogan_gladen`, `corrected_difference`); this takes for granted that both are the same here as there, and for either
arm, whatever the true label. If some of the very answers were labelled by people, `ppi` needs no such assumption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.errors import UsageError
from shard_eval.stats.intervals import Estimate, check_level, wilson
from shard_eval.stats.paired import difference, tango

Floats = npt.NDArray[np.float64]
Rate = tuple[float, float] | Estimate  # k of n, or an estimate, whose clusters and n are then respected
Judge = tuple[Rate, Rate]  # sensitivity and specificity

PSEUDO_LABELS = 2.0  # labelled pairs that speak for every kind of disagreement of judge and people, seen or not


@dataclass(frozen=True)
class Corrected:
    """A rate or difference corrected by sensitivity and specificity.

    Attributes:
        estimate: the corrected value; None if it is not identified (then the interval is the whole range).
        low: lower bound.
        high: upper bound.
        judged: what the judge says, uncorrected; None without data.
        youden: sensitivity + specificity - 1, the smaller one of two judges; None if unknown.
        n: number of judged values; an effective one for an estimate.
        level: confidence level.
        method: name of estimate and interval, or why there is none.
    """

    estimate: float | None
    low: float
    high: float
    judged: float | None
    youden: float | None
    n: float
    level: float
    method: str

    def mirrored(self) -> Corrected:
        """The same of the baseline minus the candidate."""
        value, judged = (None if x is None else 0.0 - x for x in (self.estimate, self.judged))
        return replace(self, estimate=value, low=0.0 - self.high, high=0.0 - self.low, judged=judged)


@dataclass(frozen=True)
class PredictionPowered:
    """A mean or difference from many judge's labels and some human ones.

    Attributes:
        estimate: the mean of the human labels to be expected, had people labelled everything.
        low: lower bound.
        high: upper bound.
        weight: lambda, the trust in the judge: 0 takes the human labels alone, 1 the judge with its bias removed.
        n: number of values with a human label.
        judged: number of values without.
        clusters: number of clusters with a human label.
        level: confidence level.
        method: name of estimate and interval.
    """

    estimate: float
    low: float
    high: float
    weight: float
    n: int
    judged: int
    clusters: int
    level: float
    method: str


# --- sensitivity and specificity ---------------------------------------------------------------------------------


def youden(sensitivity: Rate, specificity: Rate, level: float = 0.95) -> tuple[float, float, float]:
    """Youden's index, sensitivity + specificity - 1, with an interval (Youden 1950, Cancer 3:32).

    The interval adds the squared Wilson half-widths (Zou and Donner 2008, Stat. Med. 27:1693: MOVER).

    Args:
        sensitivity: (found, all that are there) or an estimate.
        specificity: (left alone, all that are not there) or an estimate.
        level: confidence level.

    Returns:
        Index, lower and upper bound; the bounds are -1 and 1 if either is unknown.

    Raises:
        UsageError: if counts are impossible or level is not between 0 and 1.
    """
    check_level(level)
    (se, n_se), (sp, n_sp) = share(sensitivity), share(specificity)
    if min(n_se, n_sp) == 0:
        return se + sp - 1, -1.0, 1.0
    (se_low, se_high), (sp_low, sp_high) = wilson(se, n_se, level), wilson(sp, n_sp, level)
    index = se + sp - 1
    return index, index - math.hypot(se - se_low, sp - sp_low), index + math.hypot(se_high - se, sp_high - sp)


def rogan_gladen(judged: Rate, sensitivity: Rate, specificity: Rate, level: float = 0.95) -> Corrected:
    """True rate behind a judged one: (p + sp - 1) / (se + sp - 1), within 0-1 (Rogan and Gladen 1978, AJE 107:71).

    The interval is Lang and Reiczigel's (2014, Prev. Vet. Med. 113:13, eq. 16 and 17), which Lee et al. 2025 (arXiv
    2511.21140) recommend for judges. By simulation (`tests/test_correction.py`) a nominal 95 % covers at least 94.5 %,
    also for rates of 1-3 % with specificity 0.99. Clustered estimates enter with their effective n.

    Args:
        judged: (judged positive, all) or an estimate.
        sensitivity: (found, all that are there) or an estimate.
        specificity: (left alone, all that are not there) or an estimate.
        level: confidence level.

    Returns:
        The corrected rate. It is not identified, with interval 0-1, if the interval of Youden's index reaches 0 or
        the judged rate is impossible for such a judge.

    Raises:
        UsageError: if counts are impossible or level is not between 0 and 1.
    """
    (p, n), (se, n_se), (sp, n_sp) = share(judged), share(sensitivity), share(specificity)
    index, index_low, _ = youden(sensitivity, specificity, level)
    nothing = Corrected(None, 0.0, 1.0, p if n else None, index, n, level, "no data")
    if n == 0:
        return nothing
    if index_low <= 0:
        return replace(nothing, method=_unidentified(index, index_low))
    low, high = _lang_reiczigel((p, n), (se, n_se), (sp, n_sp), _z(level))
    if high <= 0 or low >= 1:
        return replace(nothing, method="not identified: the judged rate does not fit this sensitivity and specificity")
    theta = min(1.0, max(0.0, (p + sp - 1) / index))
    low, high = min(max(0.0, low), theta), max(min(1.0, high), theta)
    return Corrected(theta, low, high, p, index, n, level, "Rogan-Gladen, Lang-Reiczigel interval")


def corrected_difference(
    d: Sequence[float], clusters: Sequence[Hashable], sensitivity: Rate, specificity: Rate, level: float = 0.95
) -> Corrected:
    """True difference of two rates behind the judged one, if the judge errs alike on both arms: d / Youden's index.

    The interval of the ratio comes from that of the judged difference (Tango's, clusters respected) and that of
    Youden's index, as Fieller's does but not symmetric (Donner and Zou 2012, Stat. Methods Med. Res. 21:347; Newcombe
    2016, ibid. 25:1774: MOVER-R). It is never narrower than the judged one divided by the index.

    Args:
        d: one judged label of the candidate minus the baseline's per prompt, -1 to 1; the sign is kept.
        clusters: as many labels; equal labels are not independent.
        sensitivity: (found, all that are there) or an estimate.
        specificity: (left alone, all that are not there) or an estimate.
        level: confidence level.

    Returns:
        The corrected difference, within -1 to 1; not identified if the interval of Youden's index reaches 0.

    Raises:
        UsageError: if lengths differ, a value is out of range, or counts are impossible.
    """
    seen = difference(d, clusters, level)
    index, index_low, index_high = youden(sensitivity, specificity, level)
    nothing = Corrected(None, -1.0, 1.0, seen.estimate, index, seen.n, level, "no data")
    if seen.estimate is None:
        return nothing
    if index_low <= 0:
        return replace(nothing, method=_unidentified(index, index_low))
    slack = (index - index_low, index_high - index)
    high = _upper_ratio(seen.estimate, seen.high, index, slack)
    low = -_upper_ratio(-seen.estimate, -seen.low, index, slack)
    ratio, low, high = (min(1.0, max(-1.0, x)) for x in (seen.estimate / index, low, high))
    method = f"difference / Youden's index, MOVER-R interval; {seen.interval_method}"
    return Corrected(ratio, low, high, seen.estimate, index, seen.n, level, method)


def corrected_difference_per_arm(
    candidate: Sequence[float],
    baseline: Sequence[float],
    clusters: Sequence[Hashable],
    candidate_judge: Judge,
    baseline_judge: Judge,
    level: float = 0.95,
) -> Corrected:
    """True difference of two rates if the judge errs differently on the two arms, each calibrated by itself.

    Both judged rates are corrected as in `rogan_gladen`, not clipped. The interval adds the squared shifts of the
    difference that the bounds of each independent part cause: the judged labels (paired, Tango's interval at effective
    n) and the four rates of the judge (Wilson's): MOVER by substitution (Zou and Donner 2008, Stat. Med. 27:1693).

    Args:
        candidate: n judged labels of the candidate, 0-1.
        baseline: n judged labels of the baseline on the same prompts.
        clusters: n labels; equal labels are not independent.
        candidate_judge: sensitivity and specificity on the candidate's answers, each (k, n) or an estimate.
        baseline_judge: the same on the baseline's answers.
        level: confidence level.

    Returns:
        The corrected difference, candidate minus baseline; not identified if either judge is not better than chance.

    Raises:
        UsageError: if lengths differ, a value is out of range, or counts are impossible.
    """
    c, b = _labels(candidate, len(clusters)), _labels(baseline, len(clusters))
    indices = [youden(*judge, level=level) for judge in (candidate_judge, baseline_judge)]
    index, index_low, _ = min(indices, key=lambda found: found[1])
    judged = float((c - b).mean()) if c.size else None
    nothing = Corrected(None, -1.0, 1.0, judged, index, c.size, level, "no data")
    if judged is None:
        return nothing
    if index_low <= 0:
        return replace(nothing, method=_unidentified(index, index_low))
    scale = min(found[0] for found in indices)  # brings c / index_c - b / index_b into -1 to 1
    scaled = scale * (c / indices[0][0] - b / indices[1][0])
    seen, centre = difference(list(scaled), clusters, level), float(scaled.mean())
    parts = [_shifts(float(c.mean()), candidate_judge, level, 1), _shifts(float(b.mean()), baseline_judge, level, -1)]
    value = parts[0][0] + parts[1][0]
    down = math.hypot((centre - seen.low) / scale, *parts[0][1], *parts[1][1])
    up = math.hypot((seen.high - centre) / scale, *parts[0][2], *parts[1][2])
    value, low, high = (min(1.0, max(-1.0, x)) for x in (value, value - down, value + up))
    return Corrected(value, low, high, judged, index, c.size, level, "Rogan-Gladen per arm, MOVER by substitution")


def _lang_reiczigel(
    judged: tuple[float, float], sensitivity: tuple[float, float], specificity: tuple[float, float], z: float
) -> tuple[float, float]:
    """Lang and Reiczigel's interval from three (share, n); primes of the paper are `_`. Not clipped."""
    (p, n), (se, n_se), (sp, n_sp) = judged, sensitivity, specificity
    p_, se_, sp_ = (p * n + z * z / 2) / (n + z * z), (se * n_se + 1) / (n_se + 2), (sp * n_sp + 1) / (n_sp + 2)
    index = se_ + sp_ - 1
    if index <= 0:
        return 0.0, 1.0
    theta = (p_ + sp_ - 1) / index
    var_se, var_sp = se_ * (1 - se_) / (n_se + 2), sp_ * (1 - sp_) / (n_sp + 2)
    shift = 2 * z * z * (theta * var_se - (1 - theta) * var_sp)
    half = z * math.sqrt(p_ * (1 - p_) / (n + z * z) + theta**2 * var_se + (1 - theta) ** 2 * var_sp) / index
    return theta + shift - half, theta + shift + half


def _upper_ratio(top: float, top_high: float, bottom: float, slack: tuple[float, float]) -> float:
    """Upper MOVER-R limit of top / bottom: where the lower limit of ratio * bottom - top is 0; bottom > slack[0]."""
    g = slack[0] if top_high > 0 else slack[1]
    spread = (top_high - top) ** 2
    a, c = bottom**2 - g**2, top**2 - spread
    root = math.sqrt(max(0.0, (top * bottom) ** 2 - a * c))
    # The two forms of the same root; each where it does not cancel or divide by 0.
    return c / (top * bottom - root) if top < 0 else (top * bottom + root) / a


def _shifts(p: float, judge: Judge, level: float, sign: int) -> tuple[float, list[float], list[float]]:
    """Corrected rate times sign, and how far the bounds of sensitivity and specificity move it down and up."""
    (se, n_se), (sp, n_sp) = (share(rate) for rate in judge)

    def at(se: float, sp: float) -> float:
        return sign * (p + sp - 1) / (se + sp - 1)

    value = at(se, sp)
    moved = [[at(x, sp) - value for x in wilson(se, n_se, level)], [at(se, x) - value for x in wilson(sp, n_sp, level)]]
    return value, [-min(0.0, *m) for m in moved], [max(0.0, *m) for m in moved]


def share(rate: Rate) -> tuple[float, float]:
    """Share and sample size of a rate; the effective size of an estimate is read off its interval, as if Wilson's.

    Raises:
        UsageError: if counts are impossible.
    """
    if not isinstance(rate, Estimate):
        k, n = rate
        if not 0 <= k <= n < math.inf:
            raise UsageError(f"a rate needs k of n with 0 <= k <= n, got {k} of {n}")
        return (k / n, float(n)) if n else (0.5, 0.0)
    if rate.value is None:
        return 0.5, 0.0
    p, bound = rate.value, max(rate.low, rate.high, key=lambda x: x * (1 - x))
    if bound == p or bound in (0.0, 1.0):
        return p, 0.0
    return p, _z(rate.level) ** 2 * bound * (1 - bound) / (bound - p) ** 2


def _unidentified(index: float, low: float) -> str:
    return f"not identified: the judge may be no better than chance (Youden's index {index:.2f}, lower bound {low:.2f})"


# --- human labels on some of the answers -------------------------------------------------------------------------


def ppi(
    judged: Sequence[float], human: Sequence[float | None], clusters: Sequence[Hashable], level: float = 0.95
) -> PredictionPowered:
    """Mean human label, from the judge's labels of all answers and human labels of a random part of them.

    Prediction-powered inference (Angelopoulos et al. 2023, Science 382:669) with power tuning (PPI++: Angelopoulos,
    Duchi and Zrnic 2023, arXiv 2311.01453) and a cluster-robust variance. The published normal interval covers as
    little as 60 % where labels are rare (own simulation: 100 labels, rate 1 %). Here Wilson's is taken at the effective
    n, and the judge's errors vary as if two more labelled pairs, spread over all kinds of agreement and disagreement,
    had been seen: that covers at least 94 %, also for rates of 1-3 % (`tests/test_correction.py`).

    Args:
        judged: n labels of the judge, 0-1.
        human: n human labels, 0-1; None or NaN where there is none. Who is labelled must not depend on the label.
        clusters: n cluster labels; equal ones are not independent.
        level: confidence level.

    Returns:
        The estimate, within 0-1.

    Raises:
        UsageError: if lengths differ, a value is out of range, or fewer than two clusters have a human label.
    """
    data = _tune(judged, human, clusters, level, kinds=(0.0, 1.0))
    theta = min(1.0, max(0.0, data.mean))
    size = theta * (1 - theta) / data.variance
    low, high = wilson(theta, size if size > 0 else data.clusters, level, data.df)
    return data.result(theta, low, high, "PPI++, Wilson at effective n")


def ppi_difference(
    judged: Sequence[tuple[float, float]],
    human: Sequence[tuple[float, float] | None],
    clusters: Sequence[Hashable],
    level: float = 0.95,
) -> PredictionPowered:
    """Mean human label of the candidate minus the baseline's on the same prompts; see `ppi`.

    The trust in the judge is tuned to the difference, so both answers to a prompt must have a human label or neither.
    The interval is Tango's at the effective n.

    Args:
        judged: n pairs (candidate, baseline) of the judge's labels, 0-1.
        human: n pairs of human labels; None where there is none.
        clusters: n cluster labels; equal ones are not independent.
        level: confidence level.

    Returns:
        The estimated difference, within -1 to 1.

    Raises:
        UsageError: as `ppi`.
    """
    guessed = [c - b for c, b in judged]
    known = [None if pair is None else pair[0] - pair[1] for pair in human]
    data = _tune(guessed, known, clusters, level, kinds=(-1.0, 0.0, 1.0))
    delta = min(1.0, max(-1.0, data.mean))
    flips = min(1.0, max(abs(delta), data.mean_of(np.abs)))
    single = flips - delta**2
    size = single / data.variance if single > 1e-12 else data.clusters
    wins, losses = (flips + delta) / 2 * size, (flips - delta) / 2 * size
    low, high = tango(wins, losses, size, level, data.df)
    return data.result(delta, min(low, delta), max(high, delta), "PPI++ of the difference, Tango score at effective n")


@dataclass(frozen=True)
class _Tuned:
    """Human labels y, the judge's on the same answers f and on the others g, and what follows from them."""

    y: Floats
    f: Floats
    g: Floats
    weight: float
    variance: float
    clusters: int  # with a human label
    df: float
    level: float

    @property
    def mean(self) -> float:
        return self.mean_of(np.asarray)

    def mean_of(self, what: Callable[[Floats], Floats]) -> float:
        """The tuned estimate of the mean of a function of the human labels."""
        others = self.weight * float(what(self.g).mean()) if self.g.size else 0.0
        return float((what(self.y) - self.weight * what(self.f)).mean()) + others

    def result(self, value: float, low: float, high: float, method: str) -> PredictionPowered:
        counts = (len(self.y), len(self.g), self.clusters)
        return PredictionPowered(value, low, high, self.weight, *counts, self.level, method)


def _tune(
    judged: Sequence[float],
    human: Sequence[float | None],
    clusters: Sequence[Hashable],
    level: float,
    kinds: tuple[float, ...],
) -> _Tuned:
    """Check the labels, choose the trust in the judge and find the variance; `kinds` are the labels' typical values."""
    check_level(level)
    f = _labels(judged, len(clusters), kinds[0])
    known = np.array([x is not None and x == x for x in human], dtype=bool)
    y = _labels([x for x in human if x is not None and x == x], int(known.sum()), kinds[0])
    if len(human) != len(f):
        raise UsageError(f"{len(human)} human labels (None where missing) but {len(f)} of the judge")
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(c, len(numbers)) for c in clusters], dtype=np.intp)
    with_label = len(np.unique(group[known]))
    if with_label < 2:
        raise UsageError(f"human labels are needed in at least two clusters, found {with_label}")
    weight = _weight(y, f[known], f[~known])
    variance = _variance(y, f, known, group, weight) + _unseen(y - weight * f[known], weight, with_label, kinds)
    df = math.inf if len(numbers) == len(f) else with_label - 1.0
    return _Tuned(y, f[known], f[~known], weight, variance, with_label, df, level)


def _weight(y: Floats, f: Floats, g: Floats) -> float:
    """The variance-minimising lambda of PPI++, cov(y, f) / ((1 + n / N) var(f)), within 0-1."""
    everything = np.concatenate([f, g])
    if g.size == 0 or np.ptp(everything) == 0:
        return 0.0
    covariance = float(((y - y.mean()) * (f - f.mean())).mean())
    return float(np.clip(covariance / ((1 + len(f) / len(g)) * everything.var(ddof=1)), 0, 1))


def _variance(y: Floats, f: Floats, known: npt.NDArray[np.bool_], group: npt.NDArray[np.intp], weight: float) -> float:
    """Cluster-robust variance of the estimate, from the influence of each row."""
    influence = np.zeros(len(f))
    error = y - weight * f[known]
    influence[known] = (error - error.mean()) / len(error)
    if not known.all():
        others = f[~known]
        influence[~known] = weight * (others - others.mean()) / len(others)
    totals = np.bincount(group, weights=influence)
    return len(totals) / (len(totals) - 1) * float((totals**2).sum())


def _unseen(error: Floats, weight: float, clusters: int, kinds: tuple[float, ...]) -> float:
    """What the pseudo-labels add to the variance of the mean error y - weight * f: kinds not seen may still exist."""
    pairs = np.array([a - weight * b for a in kinds for b in kinds if abs(a - b) <= 1])
    total = clusters + PSEUDO_LABELS
    mean = (clusters * error.mean() + PSEUDO_LABELS * pairs.mean()) / total
    squares = clusters * ((error - mean) ** 2).mean() + PSEUDO_LABELS * ((pairs - mean) ** 2).mean()
    return max(0.0, float(squares / total - error.var()) / clusters)


def _labels(values: Sequence[float], n: int, least: float = 0.0) -> Floats:
    """Values as an array of n numbers between `least` and 1."""
    x = np.asarray(values, dtype=float)
    if len(x) != n:
        raise UsageError(f"{len(x)} labels for {n} rows; every list needs one entry per row")
    bad = x[~((x >= least) & (x <= 1))]
    if bad.size:
        raise UsageError(f"labels must be numbers between 0 and 1, got {bad[0]}; divide by the scale's range")
    return x


def _z(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))
