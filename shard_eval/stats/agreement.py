"""Agreement of a judge with human labels: kappa, sensitivity, specificity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shard_eval.errors import UsageError
from shard_eval.stats.intervals import Estimate, estimate


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
