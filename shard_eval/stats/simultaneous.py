"""Joint intervals of the means of many columns of differences that do not all have the same rows.

    low, high = simultaneous(differences, clusters)  # n × k, NaN where a verdict is missing

`resampling.differences` does the same for complete tables, with p-values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shard_eval.errors import UsageError
from shard_eval.stats.paired import difference
from shard_eval.stats.resampling import NO_SPREAD, ClusterBootstrap, cluster_weights, max_t
from shard_eval.stats.tables import tango

__all__ = ["residual_means", "simultaneous"]

RESAMPLES = 10_000

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def simultaneous(
    values: Floats,
    clusters: Sequence[str],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    cautious: bool = False,
) -> tuple[Floats, Floats]:
    """Intervals of the means of k columns of differences that all hold at once.

    The largest |t| of all columns, as in `resampling.differences`, which takes no gaps: here each column has its own
    rows. Where nothing varies, Bonferroni. None is narrower than the pointwise one. The time is linear in k.

    Args:
        values: n × k differences between -1 and 1, NaN where there is none; every column has some.
        clusters: n labels; rows that share one are drawn together.
        level: confidence level of all k together.
        resamples: of the clusters.
        seed: of the draws.
        cautious: widen each interval as if one cluster more had been won and one lost, of the size of those that
            differ (in the spirit of Agresti and Min 2005, Stat. Med. 24:729). Many pairs of few clusters need it: the
            190 pairs of 20 equal systems on 36 to 60 prompts are else divided in 8 % (docs/decisions/0008-ranks.md).

    Returns:
        k lower and k upper bounds.

    Raises:
        UsageError: if a column is empty or has a value outside -1 to 1, if there are fewer than two clusters, or too
            few resamples.

    Source: `resampling.max_t`.
    """
    boot = cluster_weights(clusters, resamples=resamples, seed=seed)
    means, residuals, scored = residual_means(values, boot)
    k = means.size
    varies = np.abs(residuals).max(axis=0) * (~np.isnan(values)).sum(axis=0) > NO_SPREAD
    deviations = np.zeros((k + 1, resamples))  # the last row is what the others are compared with: 0
    # In double precision: a board must be the same number for number whatever order a processor adds in.
    np.matmul(residuals.T, boot.weights.T.astype(float), out=deviations[:k])
    errors = np.where(varies, deviations[:k].std(axis=1, ddof=1), 0.0)
    df = float(scored[varies].min() - 1) if varies.any() else math.inf
    critical = max_t(deviations, np.arange(k), np.full(k, k), means, errors, df, level)[0]
    reach = critical * np.sqrt(errors**2 + cautious * 2 * _typical_square(residuals))
    alone = _alone(values, boot.cluster, np.where(varies, level, 1 - (1 - level) / k))
    low: Floats = np.maximum(-1.0, np.minimum(means - reach, alone[:, 0]))
    high: Floats = np.minimum(1.0, np.maximum(means + reach, alone[:, 1]))
    return low, high


def residual_means(values: Floats, boot: ClusterBootstrap) -> tuple[Floats, Floats, Indices]:
    """Means over the rows that are there, linearised.

    Args:
        values: n × k, NaN where there is none.
        boot: resamples of the clusters of the n rows.

    Returns:
        The k means; what each cluster adds to the resampled deviation of each mean when it is drawn once more
        (clusters × k, with the small-sample correction of `resampling.unbiased` for the clusters that a column has);
        and the number of clusters that each column has.

    Raises:
        UsageError: if a column is empty.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, chapter 2.7.
    """
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    if not counts.all():
        raise UsageError(f"column {int(counts.argmin())} has no value at all; leave it out")
    means: Floats = np.where(known, values, 0.0).sum(axis=0) / counts
    residuals = boot.totals(np.where(known, values - means, 0.0))
    scored = (boot.totals(known.astype(float)) > 0).sum(axis=0)
    residuals *= np.sqrt(scored / np.maximum(scored - 1, 1)) / counts
    return means, residuals, scored


def _typical_square(residuals: Floats) -> Floats:
    """Square of what a cluster that differs typically adds to each mean: 1 / n^2 where single rows of n are 1 or -1.

    Clusters count by their squares, as in the number of clusters that a variance rests on
    (`intervals.effective_size`), so that those which hardly differ hardly count.
    """
    squares = residuals**2
    total = squares.sum(axis=0)
    typical: Floats = np.divide((squares**2).sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    return typical


def _alone(values: Floats, cluster: Indices, levels: Floats) -> Floats:
    """The pointwise interval of each column, `paired.difference`'s, k × 2.

    With rows of -1, 0 and 1 that are clusters of their own it depends on three counts only, of which rare events have
    few. Any other column costs about half a millisecond.
    """
    known = ~np.isnan(values)
    single = np.bincount(cluster).max() == 1
    plain = single & (np.isin(values, (-1.0, 0.0, 1.0)) | ~known).all(axis=0) & (known.sum(axis=0) > 1)
    wins, losses, n = (values > 0).sum(axis=0), (values < 0).sum(axis=0), known.sum(axis=0)
    bounds = np.empty((values.shape[1], 2))
    for i, level in enumerate(levels.tolist()):
        if plain[i]:
            bounds[i] = _counted(int(wins[i]), int(losses[i]), int(n[i]), level)
        else:
            mine = known[:, i]
            found = difference(values[mine, i].tolist(), cluster[mine].tolist(), level)
            bounds[i] = found.low, found.high
    return bounds


@lru_cache(maxsize=10_000)
def _counted(wins: int, losses: int, n: int, level: float) -> tuple[float, float]:
    return tango(wins, losses, n, level)
