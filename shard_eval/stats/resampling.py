"""The cluster bootstrap: one set of resamples for all systems, all pairs of them and their joint intervals.

A cluster (a prompt with its epochs, orders and judges; a matched triple) is drawn whole, within its stratum. The draws
are kept as counts, so that every statistic that is a ratio of cluster totals costs one matrix product.

Joint intervals and adjusted p-values keep their error rate from about 20 clusters on, and with rare events (simulated
in `tests/test_resampling.py`). A percentile interval knows no null hypothesis and can be too narrow where only a
handful of prompts differ: it describes, `p` decides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.errors import UsageError
from shard_eval.stats.intervals import check_level, estimate

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

MIN_RESAMPLES = 100
DRAWS = 20_000  # clusters drawn at a time: few enough for the processor's cache
PAIRS = 32  # pairs whose differences are held at a time
NO_SPREAD = 1e-9  # a cluster total that differs by less than this from what is expected differs by rounding
# Single precision is off by less than this, relatively. Resampled statistics are raised by it, so that a tie with the
# observed one, which is common with yes/no values, counts as one.
ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class ClusterBootstrap:
    """Resamples of clusters, drawn once.

    Attributes:
        weights: resamples × clusters, how often each cluster was drawn. Single precision holds these counts exactly and
            makes the matrix products twice as fast; 4 bytes each.
        cluster: column of `weights` for each of the n rows of the data.
        stratum: stratum number of each cluster; the clusters of a stratum are neighbours.
        seed: seed of the draws.
    """

    weights: Singles
    cluster: Indices
    stratum: Indices
    seed: int

    @property
    def resamples(self) -> int:
        """Number of resamples."""
        return int(self.weights.shape[0])

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.weights.shape[1])

    @property
    def df(self) -> int:
        """Degrees of freedom of a variance between clusters: clusters less strata."""
        return self.clusters - int(self.stratum[-1]) - 1

    def totals(self, values: Floats) -> Floats:
        """Sum the n × k values over the rows of each cluster, giving clusters × k."""
        sums = np.empty((self.clusters, values.shape[1]))
        for i, column in enumerate(values.T):
            sums[:, i] = np.bincount(self.cluster, weights=column, minlength=self.clusters)
        return sums


def cluster_weights(
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> ClusterBootstrap:
    """Draw clusters with replacement, as many from each stratum as it has.

    The same labels give the same draws, in whatever order the rows come.

    Args:
        clusters: n labels; rows with equal labels are drawn together.
        strata: n labels, equal within a cluster; None for one stratum.
        resamples: number of resamples, at least 100.
        seed: seed of the draws.

    Raises:
        UsageError: if there are no rows, lengths differ, a cluster lies in two strata, a stratum has one cluster (its
            uncertainty cannot be resampled), or there are too few resamples.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, chapter 3.
    """
    if resamples < MIN_RESAMPLES:
        raise UsageError(f"the bootstrap needs at least {MIN_RESAMPLES} resamples, got {resamples}")
    cluster, stratum = _columns(clusters, strata)
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, stratum.size), dtype=np.float32)
    ends = [0, *(np.flatnonzero(np.diff(stratum)) + 1).tolist(), stratum.size]
    for low, high in itertools.pairwise(ends):
        _draw(weights[:, low:high], rng)
    return ClusterBootstrap(weights, cluster, stratum, seed)


def _columns(clusters: Sequence[Hashable], strata: Sequence[Hashable] | None) -> tuple[Indices, Indices]:
    """Number the clusters, stratum by stratum: the column of each row, and the stratum of each column."""
    if len(clusters) == 0:
        raise UsageError("there is nothing to resample: no rows")
    if strata is not None and len(strata) != len(clusters):
        raise UsageError(f"{len(clusters)} clusters but {len(strata)} strata; give one of each per row")
    labels, first, cluster = np.unique([repr(c) for c in clusters], return_index=True, return_inverse=True)
    names, row_stratum = np.unique([repr(s) for s in strata or [None] * len(clusters)], return_inverse=True)
    stratum = row_stratum[first]
    torn = np.flatnonzero(stratum[cluster] != row_stratum)
    if torn.size:
        raise UsageError(f"cluster {labels[cluster[torn[0]]]} lies in more than one stratum; a cluster needs one")
    sizes = np.bincount(stratum)
    if sizes.min() < 2:
        where = f"stratum {names[sizes.argmin()]} has" if strata is not None else "there is"
        raise UsageError(f"{where} only one cluster, which says nothing about its uncertainty; merge or drop it")
    order = np.argsort(stratum, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(order.size)
    return position[cluster], stratum[order]


def _draw(weights: Singles, rng: np.random.Generator) -> None:
    """Fill the resamples × m weights of one stratum with multinomial counts, in blocks of rows."""
    resamples, m = weights.shape
    step = max(1, DRAWS // m)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, m, (rows, m)) + m * np.arange(rows)[:, None]
        weights[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * m).reshape(rows, m)


# --- means -------------------------------------------------------------------------------------------------------


def bootstrap_means(values: npt.ArrayLike, boot: ClusterBootstrap) -> Floats:
    """Means of the resamples: sum of weight × cluster total over sum of weight × cluster size.

    These are the plain resamples; the intervals below first correct them for small strata (see `unbiased`).

    Args:
        values: n × k, one column for each system, between -1 and 1.
        boot: the resamples, for the same n rows.

    Returns:
        resamples × k.

    Raises:
        UsageError: if values are not such a table or one is missing.
    """
    table = _table(values, boot)
    draws: Floats = (table.mean(axis=0)[:, None] + _deviations(_residuals(table, boot), boot)).T
    return draws


@dataclass(frozen=True, eq=False)
class Means:
    """Means of k systems with percentile intervals; arrays of length k.

    Attributes:
        estimates: the means.
        errors: bootstrap standard errors.
        low: lower bounds; likewise high.
        constant: all clusters agree, so that there was nothing to resample; the interval is that of
            `shard_eval.stats.intervals.estimate`.
        level: confidence level of each interval.
        resamples: number of resamples.
        seed: seed of the resamples.
    """

    estimates: Floats
    errors: Floats
    low: Floats
    high: Floats
    constant: npt.NDArray[np.bool_]
    level: float
    resamples: int
    seed: int


def mean_intervals(values: npt.ArrayLike, boot: ClusterBootstrap, level: float = 0.95) -> Means:
    """Percentile intervals for the means of k systems.

    Args:
        values: n × k, one column for each system, between 0 and 1.
        boot: the resamples, for the same n rows.
        level: confidence level of each interval.

    Raises:
        UsageError: if values are not such a table, one is missing, or level and number of resamples do not go together.
    """
    ranks = _ranks(boot.resamples, level)
    table = _table(values, boot)
    if table.min() < 0:
        raise UsageError(f"a mean needs values between 0 and 1, got {table.min()}; use differences for signed values")
    residuals = unbiased(_residuals(table, boot), boot)
    deviations = _deviations(residuals, boot)
    means = table.mean(axis=0)
    low, high = (means + bound for bound in _percentiles(deviations, ranks))
    errors = deviations.std(axis=1, ddof=1, dtype=float)
    constant = np.abs(residuals).max(axis=0) <= NO_SPREAD
    for i in np.flatnonzero(constant):
        found = estimate(table[:, i].tolist(), boot.cluster.tolist(), level)
        low[i], high[i], errors[i] = found.low, found.high, 0.0
    return Means(means, errors, low, high, constant, level, boot.resamples, boot.seed)


def _table(values: npt.ArrayLike, boot: ClusterBootstrap) -> Floats:
    """The values as an n × k array, once they are known to be complete."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or table.shape[1] == 0:
        raise UsageError(f"values must be a table of rows × systems, got shape {table.shape}")
    if len(table) != boot.cluster.size:
        raise UsageError(f"{len(table)} rows of values but {boot.cluster.size} cluster labels; give one for each row")
    bad = ~(np.abs(table) <= 1)  # catches NaN, too
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UsageError(
            f"values must be numbers from -1 to 1, got {table[row, column]} in row {row}, column {column}; "
            "leave out rows that not every system has"
        )
    return table


def _residuals(table: Floats, boot: ClusterBootstrap) -> Floats:
    """Cluster totals less what the mean expects of clusters of their size, clusters × k."""
    sizes = np.bincount(boot.cluster, minlength=boot.clusters)
    return centred(boot.totals(table) - sizes[:, None] * table.mean(axis=0), boot)


def centred(totals: Floats, boot: ClusterBootstrap) -> Floats:
    """Cluster totals, clusters × k, that add up to 0 over all clusters, made to do so in every stratum.

    This changes no resample, as every stratum is drawn as often as it has clusters, but leaves exactly nothing where
    there is nothing to resample.
    """
    sizes = np.bincount(boot.stratum)
    sums = np.stack([np.bincount(boot.stratum, weights=column) for column in totals.T], axis=1)
    return totals - (sums / sizes[:, None])[boot.stratum]


def unbiased(residuals: Floats, boot: ClusterBootstrap) -> Floats:
    """Residuals, clusters × k, whose resampled sums vary as sums of new clusters would.

    Drawing m clusters from m gives (m - 1) / m of the variance, which matters where strata are small.

    Source: Rao and Wu 1988, JASA 83:231-241, with as many draws as clusters.
    """
    sizes = np.bincount(boot.stratum)
    return residuals * np.sqrt(sizes / (sizes - 1))[boot.stratum][:, None]


def _deviations(residuals: Floats, boot: ClusterBootstrap) -> Singles:
    """Resampled means less the observed ones, k × resamples: sum of weight × residual over sum of weight × size.

    Only deviations, never the means themselves, pass through single precision: it costs them a part in 100,000, far
    less than the error of drawing 10,000 resamples.
    """
    sizes = np.bincount(boot.cluster, minlength=boot.clusters).astype(np.float32)
    deviations: Singles = np.matmul(residuals.astype(np.float32).T, boot.weights.T)
    deviations /= boot.weights @ sizes
    return deviations


def _ranks(resamples: int, level: float) -> tuple[int, int]:
    """Positions, from 0, of the lower percentile bound and of the one-sided upper bound among sorted resamples.

    The k-th of B values is taken as the k / (B + 1) quantile (Davison and Hinkley 1997, chapter 2), rounded outwards.
    """
    check_level(level)
    lower = math.floor(round((resamples + 1) * (1 - level) / 2, 9))
    if lower < 1:
        raise UsageError(
            f"{resamples} resamples are too few for level {level}; use {math.ceil(2 / (1 - level))} or more"
        )
    return lower - 1, math.ceil(round((resamples + 1) * level, 9)) - 1


def _percentiles(rows: Singles, ranks: tuple[int, int]) -> tuple[Singles, Singles]:
    """Lower and upper percentile of each row, from a copy. One rank at a time: NumPy's fast partition takes no more."""
    lower, upper = ranks[0], rows.shape[1] - 1 - ranks[0]
    ordered = np.partition(rows, lower, axis=1)
    low = ordered[:, lower].copy()
    ordered.partition(upper, axis=1)
    return low, ordered[:, upper]


# --- differences -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Differences:
    """Differences of means, first less second, of m pairs of k systems; arrays of length m.

    Attributes:
        first: column of the one system of each pair.
        second: column of the other.
        estimates: the differences.
        errors: bootstrap standard errors; 0 where `constant`.
        low: lower bound of the percentile interval of this pair alone; likewise high.
        joint_low: lower bound of the simultaneous interval; all m hold at once at `level`. Likewise joint_high.
        p: two-sided p-values against 0, adjusted for all m.
        constant: nothing differs between clusters, so that there was nothing to resample; interval and p are those of
            `shard_eval.stats.paired.difference`, adjusted by Bonferroni.
        systems: k.
        clusters: number of clusters.
        level: confidence level.
        resamples: number of resamples.
        seed: seed of the resamples.
    """

    first: Indices
    second: Indices
    estimates: Floats
    errors: Floats
    low: Floats
    high: Floats
    joint_low: Floats
    joint_high: Floats
    p: Floats
    constant: npt.NDArray[np.bool_]
    systems: int
    clusters: int
    level: float
    resamples: int
    seed: int


def differences(
    values: npt.ArrayLike, boot: ClusterBootstrap, reference: int | None = None, level: float = 0.95
) -> Differences:
    """Compare k systems on the same rows: every pair of them, or every one with a reference.

    Joint intervals and adjusted p-values rest on the largest |t| of all pairs, which uses the correlation of the
    systems. Where all clusters agree about a pair, `shard_eval.stats.paired.difference` decides instead.

    Args:
        values: n × k, one column for each system, between -1 and 1, without gaps.
        boot: the resamples, for the same n rows.
        reference: column that the others are compared with (other less reference); None for all k(k-1)/2 pairs, the
            earlier column less the later.
        level: confidence level, of each percentile interval and of the joint intervals together.

    Raises:
        UsageError: if values are not such a table, one is missing, there is no such reference, or level and number of
            resamples do not go together.

    Source: `max_t`; percentile intervals: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    ranks = _ranks(boot.resamples, level)
    table = _table(values, boot)
    first, second = _pairs(table.shape[1], reference)
    residuals = unbiased(_residuals(table, boot), boot)
    deviations = _deviations(residuals, boot)
    estimates = table.mean(axis=0)[first] - table.mean(axis=0)[second]
    constant, low, high = _one_by_one(residuals, deviations, first, second, ranks)
    errors = np.where(constant, 0.0, standard_errors(deviations, first, second))
    critical, p = max_t(deviations, first, second, estimates, errors, boot.df, level)
    bounds = np.stack([low, high, -critical * errors, critical * errors]) + estimates
    for pair in np.flatnonzero(constant):
        d = table[:, first[pair]] - table[:, second[pair]]
        bounds[:, pair], p[pair] = _without_spread(d, boot, level, first.size)
    low, high, joint_low, joint_high = bounds
    return Differences(
        first=first,
        second=second,
        estimates=estimates,
        errors=errors,
        low=low,
        high=high,
        joint_low=joint_low,
        joint_high=joint_high,
        p=p,
        constant=constant,
        systems=table.shape[1],
        clusters=boot.clusters,
        level=level,
        resamples=boot.resamples,
        seed=boot.seed,
    )


def _pairs(systems: int, reference: int | None) -> tuple[Indices, Indices]:
    """The columns to compare: all pairs, or all others with the reference."""
    if systems < 2:
        raise UsageError("a comparison needs at least two systems, got one")
    if reference is None:
        return np.triu_indices(systems, 1)
    if not 0 <= reference < systems:
        raise UsageError(f"there is no system {reference} to compare with; use 0 to {systems - 1}")
    others = np.delete(np.arange(systems), reference)
    return others, np.full_like(others, reference)


def _one_by_one(
    residuals: Floats, deviations: Singles, first: Indices, second: Indices, ranks: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Whether each pair never varies, and the percentiles of its deviations, a block of pairs at a time."""
    constant = np.empty(first.size, dtype=bool)
    low, high = np.empty(first.size), np.empty(first.size)
    across = np.ascontiguousarray(residuals.T)
    for start in range(0, first.size, PAIRS):
        block = slice(start, start + PAIRS)
        i, j = first[block], second[block]
        constant[block] = np.abs(across[i] - across[j]).max(axis=1) <= NO_SPREAD
        low[block], high[block] = _percentiles(deviations[i] - deviations[j], ranks)
    return constant, low, high


def _without_spread(d: Floats, boot: ClusterBootstrap, level: float, family: int) -> tuple[list[float], float]:
    """Interval, joint interval and adjusted p of a difference in which all clusters agree."""
    from shard_eval.stats.paired import difference

    clusters = boot.cluster.tolist()
    alone = difference(d.tolist(), clusters, level=level)
    jointly = difference(d.tolist(), clusters, level=1 - (1 - level) / family)
    nothing = alone.estimate is None or abs(alone.estimate) <= NO_SPREAD
    return [alone.low, alone.high, jointly.low, jointly.high], 1.0 if nothing else min(1.0, family * alone.p)


# --- max-T -------------------------------------------------------------------------------------------------------


def standard_errors(deviations: Singles, first: Indices, second: Indices) -> Floats:
    """Bootstrap standard errors of m differences, from the covariance of the k × resamples deviations."""
    covariance = np.atleast_2d(np.cov(deviations.astype(float)))
    variance = np.diag(covariance)
    # Rounding may leave a difference of equal rows a little below 0.
    spread: Floats = np.sqrt(np.maximum(0.0, variance[first] + variance[second] - 2 * covariance[first, second]))
    return spread


def max_t(
    deviations: Singles | Floats,
    first: Indices,
    second: Indices,
    estimates: Floats,
    errors: Floats,
    df: float,
    level: float,
) -> tuple[float, Floats]:
    """Critical value for joint intervals and step-down p-values of m differences.

    The largest |t| is compared with the largest of all resampled ones, the next with the largest of those left, and so
    on. Every resample has the same standard error, so that its t is normal; the observed ones are first brought from
    Student's distribution to the normal one, which keeps the error rate with few clusters.

    Args:
        deviations: k × resamples, resampled less observed estimate of each system.
        first: row of the one system of each of the m differences.
        second: row of the other.
        estimates: the m differences.
        errors: their standard errors; a difference without one is left out (its p is 1).
        df: degrees of freedom of the standard errors.
        level: confidence level.

    Returns:
        A number c such that all estimates ± c × error hold at once, and m p-values against 0. An interval without 0 has
        p <= 1 - level. No p is below 1 / (resamples + 1), and none of both promises more than the t-test of a single
        difference would: with few distinct values the resamples can.

    Raises:
        UsageError: if level and number of resamples do not go together.

    Source: Romano and Wolf 2005, Econometrica 73:1237-1282; Westfall and Young 1993,
    Resampling-Based Multiple Testing, algorithm 2.8.
    """
    resamples = deviations.shape[1]
    rank = _ranks(resamples, level)[1]
    tested = np.flatnonzero(errors > 0)
    tails = np.full(first.size, 0.5)
    tails[tested] = special.stdtr(df, -np.abs(estimates[tested]) / errors[tested])
    z = -special.ndtri(tails)
    p = np.ones(first.size)
    largest = np.zeros(resamples, dtype=np.float32)
    upwards = tested[np.argsort(z[tested], kind="stable")]
    for pair in upwards:
        resampled = deviations[first[pair]] - deviations[second[pair]]
        np.abs(resampled, out=resampled)
        resampled *= np.float32((1 + ROUNDING) / errors[pair])
        np.maximum(largest, resampled, out=largest)
        p[pair] = (1 + np.count_nonzero(largest >= z[pair])) / (resamples + 1)
    # A smaller |t| must not get the smaller p.
    p[upwards] = np.maximum.accumulate(p[upwards][::-1])[::-1]
    tail = float(special.ndtr(-float(np.partition(largest, rank)[rank])))
    return -float(special.stdtrit(df, min(tail, (1 - level) / 2))), np.maximum(p, 2 * tails)
