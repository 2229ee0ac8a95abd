"""Intervals for a share or a mean of values between 0 and 1, honest when nothing happens and when prompts repeat."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from shard_eval.errors import UsageError

MIN_DESIGN_EFFECT = 0.1  # a mean of values that hardly vary is not taken as more certain than this


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


def estimate(values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95) -> Estimate:
    """Mean of values in 0-1 with an interval.

    Independent 0/1 values get Wilson's interval. Otherwise Wilson's interval is taken at the effective sample size
    n / deff, where deff is the ratio of the cluster-robust variance to that of independent 0/1 values, with a t
    quantile on clusters - 1 degrees of freedom (Korn and Graubard 1998, Survey Methodology 24:193; Dean and Pagano
    2015, J. Surv. Stat. Methodol. 3:484). At a mean of 0 or 1 each cluster counts once.

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
    spread = mean * (1 - mean)
    effective = float(g)
    if spread > 0:
        totals = np.bincount(group, weights=x - mean, minlength=g)
        variance = g / (g - 1) * float((totals**2).sum()) / n**2
        effective = spread / max(variance, MIN_DESIGN_EFFECT * spread / g)
    low, high = wilson(mean, effective, level, df=g - 1)
    return Estimate(mean, low, high, n, g, "Wilson at effective n, clustered", level)
