"""Intervals for a share or a mean of values between 0 and 1, honest when nothing happens and when prompts repeat."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.errors import UsageError

MIN_DESIGN_EFFECT = 0.1  # a mean of values that hardly vary is not taken as more certain than this
FEW_CLUSTERS = 10.0  # a variance that rests on fewer clusters than this is not trusted to be small


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, and how it was made.

    Attributes:
        value: the mean; None if there was nothing to average (then low and high are 0 and 1).
        n: number of values.
        clusters: number of independent clusters among them.
    """

    value: float | None
    low: float
    high: float
    n: int
    clusters: int
    method: str
    level: float


def wilson(mean: float, n: float, level: float = 0.95, df: float = math.inf) -> tuple[float, float]:
    """Wilson's score interval for a share.

    Args:
        mean: the observed share, 0-1.
        n: sample size, or effective sample size.
        level: confidence level.
        df: degrees of freedom of the quantile; infinite gives Wilson's own.

    Returns:
        Lower and upper bound. Source: Wilson 1927, JASA 22:209.

    Raises:
        UsageError: if mean is not within 0-1 or n is not positive.
    """
    if not 0 <= mean <= 1 or n <= 0:
        raise UsageError(f"a Wilson interval needs a share in 0-1 and n > 0, got {mean} and {n}")
    tail = (1 + level) / 2
    z = float(special.ndtri(tail) if math.isinf(df) else special.stdtrit(df, tail))
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # Rounding must not push the bound past the mean at 0 and 1.
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def check_level(level: float) -> None:
    """Refuse a confidence level that is not between 0 and 1.

    Raises:
        UsageError: naming the level.
    """
    if not 0 < level < 1:
        raise UsageError(f"the confidence level must be between 0 and 1, such as 0.95, got {level}")


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of Clopper and Pearson for a share: covers at least at its level, usually more often.

    Args:
        k: number of successes.
        n: number of independent trials.
        level: confidence level.

    Returns:
        Lower and upper bound. Source: Clopper and Pearson 1934, Biometrika 26:404.

    Raises:
        UsageError: if k is not within 0-n, n is not positive, or level is not between 0 and 1.
    """
    check_level(level)
    if not 0 <= k <= n or n == 0 or k != int(k) or n != int(n):
        raise UsageError(f"a Clopper-Pearson interval needs k successes of n > 0 trials, got {k} and {n}")
    tail = (1 - level) / 2
    low = float(special.betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(special.betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def effective_size(x: npt.NDArray[np.float64], group: npt.NDArray[np.intp], single: float) -> tuple[float, bool]:
    """How many independent values that are all or nothing tell as much about the mean as these clustered ones.

    That is single / v, where v is the cluster-robust variance of the mean (Korn and Graubard 1998, Survey Methodology
    24:193). Where v rests on few clusters it may well be too small, because the rare clusters that matter were not
    drawn. Then no more than one value per cluster counts (per effective cluster if they differ in size,
    n^2 / sum n_g^2), which errs on the safe side: a cluster's mean varies at most as much as one value that is all or
    nothing. Where no cluster differs each counts once.

    The number of clusters that v rests on is (sum r_g^2)^2 / sum r_g^4 of the clusters' residual sums r_g: those that
    differ alike count fully, those that hardly differ hardly. Ten, or a quarter of all, are enough by simulation
    (docs/decisions/0004-intervals.md).

    Args:
        x: n values of at least two clusters.
        group: n cluster numbers, from 0 without gaps.
        single: variance of one value of the same mean that is all or nothing.

    Returns:
        The number, and whether few differing clusters limited it.
    """
    sizes = np.bincount(group)
    n, g = len(x), len(sizes)
    squares = np.bincount(group, weights=x - x.mean()) ** 2
    variance = g / (g - 1) * float(squares.sum()) / n**2
    if min(single, variance) <= 1e-12:
        return float(g), True
    size = single / max(variance, MIN_DESIGN_EFFECT * single / g)
    differing = float(squares.sum()) ** 2 / float((squares**2).sum())
    most = n**2 / float((sizes**2).sum())
    few = differing < min(FEW_CLUSTERS, g / 4) * (1 - 1e-9) and size > most  # rounding decides nothing
    return (most if few else size), few


def estimate(values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95) -> Estimate:
    """Mean of values in 0-1 with an interval.

    Independent 0/1 values get Wilson's interval. Otherwise Wilson's interval is taken at `effective_size`, with a t
    quantile on clusters - 1 degrees of freedom (Korn and Graubard 1998, Survey Methodology 24:193; Dean and Pagano
    2015, J. Surv. Stat. Methodol. 3:484). At a mean of 0 or 1, or if few clusters differ, each cluster counts once.

    Args:
        values: n numbers between 0 and 1.
        clusters: n labels; equal labels are not independent.
        level: confidence level.

    Raises:
        UsageError: if lengths differ or a value is outside 0-1 or not a number.
    """
    if len(values) != len(clusters):
        raise UsageError(f"{len(values)} values but {len(clusters)} clusters")
    x = np.asarray(values, dtype=float)
    if x.size and not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise UsageError("values must be numbers between 0 and 1")
    n = len(x)
    if n == 0:
        return Estimate(None, 0.0, 1.0, 0, 0, "no data", level)
    _, group = np.unique(np.asarray([repr(c) for c in clusters]), return_inverse=True)
    g = int(group.max()) + 1
    mean = float(x.mean())
    if g == n and np.isin(x, (0.0, 1.0)).all():
        return Estimate(mean, *wilson(mean, n, level), n, g, "Wilson", level)
    if g == 1:
        return Estimate(mean, 0.0, 1.0, n, 1, "one cluster: nothing known", level)
    size, few = effective_size(x, group, mean * (1 - mean))
    low, high = wilson(mean, size, level, df=g - 1)
    method = "Wilson at effective n, clustered" + ("; few differ, so each counts once at most" if few else "")
    return Estimate(mean, low, high, n, g, method, level)
