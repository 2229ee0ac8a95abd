"""Agreement of a judge with human labels, and of raters with each other: kappa, alpha, sensitivity, specificity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from shard_eval.errors import UsageError, unknown
from shard_eval.stats.intervals import Estimate, estimate

Floats = npt.NDArray[np.float64]


def kappa(a: Sequence[int], b: Sequence[int], weights: Literal["none", "linear", "quadratic"] = "none") -> float:
    """Cohen's kappa of two raters, plain (1960) or weighted (1968).

    Args:
        a: n labels of the first rater.
        b: n labels of the second rater.
        weights: how a disagreement counts: all alike, by distance, or by squared distance of the labels.

    Returns:
        1 for perfect agreement, 0 for chance; 1 if both always give the same single label.

    Raises:
        UsageError: if lengths differ or there is nothing to compare.
    """
    if len(a) != len(b) or not len(a):
        raise UsageError(f"kappa needs two equally long lists that are not empty, got {len(a)} and {len(b)}")
    names = sorted(set(a) | set(b))
    index = {label: i for i, label in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    np.add.at(table, ([index[x] for x in a], [index[x] for x in b]), 1.0)
    table /= table.sum()
    distance = np.abs(np.subtract.outer(names, names)).astype(float)
    cost = {"none": (distance > 0).astype(float), "linear": distance, "quadratic": distance**2}[weights]
    chance = float((cost * np.outer(table.sum(1), table.sum(0))).sum())
    return 1.0 if chance == 0 else 1 - float((cost * table).sum()) / chance


def krippendorff_alpha(ratings: npt.ArrayLike, metric: Literal["nominal", "ordinal", "interval"] = "nominal") -> float:
    """Krippendorff's alpha of any number of raters, with ratings missing here and there.

    1 minus observed over expected disagreement, both from the coincidences of values within units (Krippendorff 2011,
    "Computing Krippendorff's alpha-reliability"; 2019, Content Analysis, 4th ed., ch. 12). Units with fewer than two
    ratings say nothing and are left out.

    Args:
        ratings: raters x units, numbers, NaN where a rating is missing.
        metric: how a disagreement counts: all alike, by the ranks between, or by the squared distance.

    Returns:
        1 for perfect agreement, 0 for chance, below 0 for less than that.

    Raises:
        UsageError: if ratings are no raters x units table, the metric is unknown, no unit has two ratings, or all
            ratings are the same (agreement is then not defined).
    """
    table = np.asarray(ratings, dtype=float)
    if table.ndim != 2:
        raise UsageError(f"ratings must be a table of raters x units, got {table.ndim} dimension(s)")
    table = table[:, (~np.isnan(table)).sum(0) >= 2]
    values = np.unique(table[~np.isnan(table)])
    if len(values) < 2:
        found = "no unit has two ratings" if not table.size else f"every rating is {values[0]:g}"
        raise UsageError(f"alpha is not defined: {found}")
    counts = (table[None, :, :] == values[:, None, None]).sum(1).astype(float)  # values x units
    pairs = counts / (counts.sum(0) - 1)
    coincidences = pairs @ counts.T - np.diag(pairs.sum(1))
    total = counts.sum(1)
    cost = _squared_distance(values, total, metric)
    expected = (cost * np.outer(total, total)).sum() / (total.sum() - 1)
    return 1 - float((cost * coincidences).sum() / expected)


def _squared_distance(values: Floats, total: Floats, metric: str) -> Floats:
    """Squared difference of every two of the ordered values; `total` says how often each was given."""
    if metric == "nominal":
        return 1.0 - np.eye(len(values))
    if metric == "interval":
        return np.asarray(np.subtract.outer(values, values) ** 2)
    if metric == "ordinal":
        # Ratings between the two, each end counted half: a difference of mid-ranks.
        middle = np.cumsum(total) - total / 2
        return np.asarray(np.subtract.outer(middle, middle) ** 2)
    raise unknown("metric", metric, ("nominal", "ordinal", "interval"))


@dataclass(frozen=True)
class Detection:
    """How a judge finds a rare class: rates with 95 % intervals, and kappa."""

    sensitivity: Estimate
    specificity: Estimate
    kappa: float
    prevalence: float
    n: int


def detection(truth: Sequence[bool], judged: Sequence[bool], clusters: Sequence[str]) -> Detection:
    """Sensitivity, specificity and kappa of a yes/no judge.

    Args:
        truth: n human labels.
        judged: n labels of the judge.
        clusters: n labels of what is not independent (the same prompt answered by several models).

    Raises:
        UsageError: if lengths differ or there is nothing to compare.
    """
    if not len(truth) == len(judged) == len(clusters):
        raise UsageError(f"{len(truth)} human labels, {len(judged)} of the judge, {len(clusters)} clusters")
    rows = list(zip(truth, judged, clusters, strict=True))
    positive = [(float(j), c) for t, j, c in rows if t]
    negative = [(float(not j), c) for t, j, c in rows if not t]
    return Detection(
        sensitivity=estimate([v for v, _ in positive], [c for _, c in positive]),
        specificity=estimate([v for v, _ in negative], [c for _, c in negative]),
        kappa=kappa([int(t) for t in truth], [int(j) for j in judged]),
        prevalence=len(positive) / len(rows),
        n=len(rows),
    )
