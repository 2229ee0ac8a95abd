"""Whether a judge errs alike: on the two systems that are compared, and on those it was measured on.

A rate corrected by one sensitivity and specificity takes for granted that the judge errs on this system as on those
it was measured on. Where people labelled the systems' own replies that can be tested (`differences`), and need not be
taken for granted (`correction.corrected_difference_per_arm`); elsewhere the spread over the systems it was measured on
(`spread`) says how bold it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from shard_eval.errors import UsageError
from shard_eval.stats.correction import Rate, share
from shard_eval.stats.intervals import Estimate, check_level, wilson

MIN_OWN = 10  # human labels of a class, below which a rate of one system's replies says less than the pooled one
TABLES = 9_999  # random tables of the exact test
LEAST_EXPECTED = 5.0  # in every cell, for the chi-square test (Cochran 1954, Biometrics 10:417)


@dataclass(frozen=True)
class ErrorRates:
    """How a judge errs: sensitivity and specificity, with the clusters of their labels respected."""

    sensitivity: Estimate
    specificity: Estimate


RATES = ("sensitivity", "specificity")


@dataclass(frozen=True)
class Difference:
    """A judge's rate on one system minus that on another.

    Attributes:
        rate: "sensitivity" or "specificity".
        level: confidence level of the interval.
    """

    rate: str
    candidate: Estimate
    baseline: Estimate
    estimate: float
    low: float
    high: float
    level: float

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def independent_difference(one: Rate, other: Rate, level: float = 0.95) -> tuple[float, float, float]:
    """Difference of two shares of different samples, with Newcombe's hybrid score interval (1998, Stat. Med. 17:873).

    His method 10; clustered estimates enter with their effective n. Labels of replies to the same prompts are not
    independent; where they agree more than by chance the interval is wider than it need be, never narrower.

    Args:
        one: (k, n) or an estimate.
        other: the same of the other sample.
        level: confidence level.

    Returns:
        Difference, lower and upper bound; the bounds are -1 and 1 if either has no data.

    Raises:
        UsageError: if counts are impossible or level is not between 0 and 1.
    """
    check_level(level)
    (p, n), (q, m) = share(one), share(other)
    if min(n, m) == 0:
        return p - q, -1.0, 1.0
    (p_low, p_high), (q_low, q_high) = wilson(p, n, level), wilson(q, m, level)
    return p - q, p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def differences(
    candidate: ErrorRates, baseline: ErrorRates, level: float = 0.95, systems: int = 1
) -> tuple[Difference, ...]:
    """How much more often a judge is right on one system than on another; both rates hold at once (Bonferroni).

    A judge that errs alike is called different in at most 1 - level of cases (`tests/test_judge_error.py`).

    Args:
        candidate: sensitivity and specificity on the candidate's own replies.
        baseline: the same on the baseline's.
        level: confidence level of all intervals together.
        systems: how many systems are compared with the same baseline.

    Returns:
        Of sensitivity and specificity, those that rest on at least MIN_OWN labels on either side.
    """
    strict = 1 - (1 - level) / (len(RATES) * systems)
    found = []
    for rate in RATES:
        one, other = getattr(candidate, rate), getattr(baseline, rate)
        if min(one.n, other.n) >= MIN_OWN:
            found.append(Difference(rate, one, other, *independent_difference(one, other, strict), strict))
    return tuple(found)


@dataclass(frozen=True)
class Spread:
    """How far a judge's rate differs between the systems it was measured on.

    Attributes:
        rate: "sensitivity" or "specificity".
        low: the lowest of the systems; likewise the highest.
        systems: how many have at least MIN_OWN labels of that class; only they count.
        p: of the test that the rate is the same on all.
        method: the test's name.
    """

    rate: str
    low: float
    high: float
    systems: int
    p: float
    method: str


def spread(known: Mapping[str, ErrorRates], rate: str) -> Spread | None:
    """The range of a judge's sensitivity or specificity over systems, and a test that it is the same on all.

    Args:
        known: per system, how the judge errs on its replies.
        rate: "sensitivity" or "specificity".

    Returns:
        None if fewer than two systems have MIN_OWN labels of that class.
    """
    counts = [(e.value, e.n) for rates in known.values() if (e := getattr(rates, rate)).n >= MIN_OWN]
    shares = [value for value, _ in counts if value is not None]
    if len(shares) < 2:
        return None
    p, method = homogeneity([(round(value * n), n) for value, n in counts if value is not None])
    return Spread(rate, min(shares), max(shares), len(shares), p, method)


def homogeneity(counts: list[tuple[int, int]], seed: int = 0) -> tuple[float, str]:
    """Test that shares of several samples are the same.

    Pearson's chi-square test; where an expected count is below 5, the exact test with the same statistic, its p-value
    from random tables with the same margins (Freeman and Halton 1951, Biometrika 38:141).

    Args:
        counts: per sample (k, n).
        seed: of the random tables.

    Returns:
        p-value, and the test's name.

    Raises:
        UsageError: if there are fewer than two samples, one is empty, or k is not within 0-n.
    """
    if len(counts) < 2 or any(not 0 <= k <= n or n == 0 for k, n in counts):
        raise UsageError(f"a test of homogeneity needs two or more (k, n) with 0 <= k <= n and n > 0, got {counts}")
    k, n = (np.array([pair[i] for pair in counts]) for i in (0, 1))
    if k.sum() in (0, n.sum()):
        return 1.0, "no two outcomes to compare"
    if min(k.sum(), (n - k).sum()) * n.min() / n.sum() >= LEAST_EXPECTED:
        return float(stats.chi2_contingency(np.stack([k, n - k]), correction=False).pvalue), "chi-square"
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(n, int(k.sum()), TABLES)
    extreme = int((_chi_square(drawn, n) >= _chi_square(k[None, :], n)[0] - 1e-9).sum())
    return (1 + extreme) / (1 + TABLES), "exact"


def _chi_square(k: npt.NDArray[np.int64], n: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Pearson's statistic of rows of counts k of n, up to a factor that is the same for all tables of a margin."""
    expected = n * (k.sum(-1, keepdims=True) / n.sum())
    return np.asarray((((k - expected) ** 2) / n).sum(-1))
