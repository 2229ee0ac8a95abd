"""How a judge's labels agree with people's, from tables of counts, with intervals that resample clusters.

A table has people's labels in its rows and the judge's in its columns. Every statistic takes one table or a stack of
them and gives NaN where it has no value, so that all resamples are computed at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard_eval.errors import UsageError
from shard_eval.stats.intervals import check_level, wilson

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

RESAMPLES = 2000
_BLOCK = 200  # resamples drawn at a time, so that the numbers drawn never fill the memory


@dataclass(frozen=True)
class Measured:
    """A statistic with its interval.

    Attributes:
        value: None where it is not defined (people gave one label only, say).
        low: lower bound; None where most resamples have no value either.
        high: upper bound.
        undefined: how many resamples have no value; the interval is of the others.
    """

    value: float | None
    low: float | None
    high: float | None
    undefined: int


# --- statistics --------------------------------------------------------------------------------------------------


def kappa(tables: Floats) -> Floats:
    """Cohen's kappa (1960); NaN where people gave one label only: there is nothing to tell apart."""
    return _kappa(tables, 1.0 - np.eye(tables.shape[-1]))


def linear_kappa(tables: Floats) -> Floats:
    """Cohen's kappa with linear weights (1968), for labels in order; NaN as `kappa`."""
    steps = np.arange(tables.shape[-1])
    return _kappa(tables, np.abs(np.subtract.outer(steps, steps)).astype(float))


def _kappa(tables: Floats, cost: Floats) -> Floats:
    total = tables.sum((-2, -1))
    people, judge = tables.sum(-1), tables.sum(-2)
    chance = np.einsum("...i,ij,...j->...", people, cost, judge)
    seen = (cost * tables).sum((-2, -1))
    return 1.0 - _ratio(seen * total, np.where(_two_classes(tables), chance, 0.0))


def ordinal_alpha(tables: Floats) -> Floats:
    """Krippendorff's alpha of people and judge as two raters, for labels in order (2011); NaN as `kappa`."""
    both = tables + np.swapaxes(tables, -2, -1)
    given = both.sum(-1)
    total = given.sum(-1)
    middle = np.cumsum(given, -1) - given / 2  # mid-ranks
    cost = (middle[..., :, None] - middle[..., None, :]) ** 2
    seen = (cost * both).sum((-2, -1))
    expected = np.einsum("...i,...ij,...j->...", given, cost, given)
    return 1.0 - _ratio(seen * (total - 1), np.where(_two_classes(tables), expected, 0.0))


def precision(tables: Floats) -> Floats:
    """Share of what the judge flagged that people flag; of tables with two rows, the second flagged.

    NaN where the judge flagged nothing, or people did not: then nothing that is flagged could be right.
    """
    return _ratio(tables[..., 1, 1], np.where(_flagged(tables), tables[..., :, 1].sum(-1), 0.0))


def f1(tables: Floats) -> Floats:
    """F1 of the flagged class; NaN where people flagged nothing."""
    both = tables[..., :, 1].sum(-1) + tables[..., 1, :].sum(-1)
    return _ratio(2 * tables[..., 1, 1], np.where(_flagged(tables), both, 0.0))


def macro_f1(tables: Floats) -> Floats:
    """Mean F1 of the classes that people or the judge used, each counted alike."""
    hits = np.diagonal(tables, axis1=-2, axis2=-1)
    used = tables.sum(-1) + tables.sum(-2)
    each = np.where(used > 0, 2 * hits / np.where(used > 0, used, 1.0), 0.0)
    return _ratio(each.sum(-1), (used > 0).sum(-1).astype(float))


def _flagged(tables: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(tables[..., 1, :].sum(-1) > 0)


def _two_classes(tables: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray((tables.sum(-1) > 0).sum(-1) > 1)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    some = np.asarray(bottom) > 0
    return np.where(some, top / np.where(some, bottom, 1.0), math.nan)


# --- intervals ---------------------------------------------------------------------------------------------------


class Counts:
    """Labels of people and judge as one table per cluster, for parts of them to be resampled together.

    Args:
        people: n labels, from 0 to `labels` - 1.
        judge: n labels.
        clusters: n labels; replies to the same prompt share one.
        labels: number of labels on the scale.
        resamples: how often clusters are drawn, with replacement, as many as there are.
        seed: another number, other draws.

    Raises:
        UsageError: if lengths differ or there is nothing.
    """

    def __init__(
        self,
        people: Sequence[int],
        judge: Sequence[int],
        clusters: Sequence[Hashable],
        labels: int,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        if not len(people) == len(judge) == len(clusters) or not len(people):
            raise UsageError(f"{len(people)} labels of people, {len(judge)} of the judge, {len(clusters)} clusters")
        numbers: dict[Hashable, int] = {}
        self._labels = labels
        self._cluster = np.array([numbers.setdefault(c, len(numbers)) for c in clusters], dtype=np.intp)
        self._cell = np.asarray(people, dtype=np.intp) * labels + np.asarray(judge, dtype=np.intp)
        self._drawn = _draw(len(numbers), resamples, seed)

    def part(self, chosen: Sequence[int] | None = None) -> Part:
        """The table of some rows (all: None), and of the same rows in every resample."""
        index = np.arange(len(self._cell)) if chosen is None else np.asarray(chosen, dtype=np.intp)
        there, group = np.unique(self._cluster[index], return_inverse=True)
        k = self._labels
        per_cluster = np.bincount(group * k * k + self._cell[index], minlength=len(there) * k * k)
        by_cluster = per_cluster.reshape(len(there), k * k).astype(np.float32)
        resampled = (self._drawn[:, there] @ by_cluster).astype(float).reshape(-1, k, k)
        return Part(by_cluster.sum(0).astype(float).reshape(k, k), resampled, len(there))


def _draw(clusters: int, resamples: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each cluster is drawn in each resample; single precision holds such counts exactly."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, clusters), dtype=np.float32)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        picked = rng.integers(0, clusters, (rows, clusters)) + np.arange(rows)[:, None] * clusters
        drawn[start : start + rows] = np.bincount(picked.ravel(), minlength=rows * clusters).reshape(rows, clusters)
    return drawn


@dataclass(frozen=True)
class Part:
    """A table of counts, its resamples, and how many clusters it holds."""

    table: Floats
    resampled: Floats
    clusters: int

    def collapsed(self, least: int = 1) -> Part:
        """The same with two labels: below `least`, and from it."""
        return Part(_two(self.table, least), _two(self.resampled, least), self.clusters)

    def measure(self, statistic: Statistic, level: float = 0.95) -> Measured:
        """A statistic with a percentile interval (Efron 1981), clusters resampled.

        Where all resamples give the same value the interval would have no width, as if what was not seen could not be
        (a judge that agrees on 20 of 20). Then the statistic is taken at the tables that the Wilson bound for 0 of as
        many clusters still allows: that share of the rows moved to disagreement, or to agreement.
        By simulation (`tests/test_confusion.py`) a nominal 95 % covers at least 91 % from 60 clusters on.
        """
        check_level(level)
        value = float(statistic(self.table))
        found = statistic(self.resampled)
        known = found[~np.isnan(found)]
        undefined = len(found) - len(known)
        if math.isnan(value):
            return Measured(None, None, None, undefined)
        if 2 * len(known) < len(found):
            return Measured(value, None, None, undefined)
        tail = (1 - level) / 2
        low, high = (float(x) for x in np.quantile(known, [tail, 1 - tail]))
        if np.ptp(known) < 1e-12:
            low, high = self._unseen(statistic, level)
        return Measured(value, min(low, value), max(high, value), undefined)

    def _unseen(self, statistic: Statistic, level: float) -> tuple[float, float]:
        share = wilson(0.0, self.clusters, level)[1]
        k, people = len(self.table), self.table.sum(1)
        right = np.diag(people)
        wrong = (people[:, None] - right) / (k - 1)
        ends = [float(statistic((1 - share) * self.table + share * other)) for other in (wrong, right)]
        return min(ends), max(ends)


def _two(tables: Floats, least: int) -> Floats:
    halves = slice(None, least), slice(least, None)
    cells = [[tables[..., a, b].sum((-2, -1)) for b in halves] for a in halves]
    return np.moveaxis(np.array(cells), (0, 1), (-2, -1))
