"""The frozen result of a test: what was estimated, how surely, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Comparison:
    """One test of one difference. Differences are signed so that higher is better for the candidate.

    Attributes:
        estimate: the estimated difference; None if there was nothing to estimate it from.
        low: lower bound of the two-sided interval at `level`.
        high: upper bound of the same.
        p: p-value of the `alternative` against `null`; 1 if there was nothing to test.
        alternative: which side of `null` speaks against it.
        null: value of the difference under the null hypothesis; minus the margin for non-inferiority.
        method: name of the test.
        interval_method: name of the interval.
        n: number of pairs.
        clusters: number of independent clusters among them.
        level: confidence level of the interval.
        seed: seed of the resampling, if there was any.
    """

    estimate: float | None
    low: float
    high: float
    p: float
    alternative: Alternative
    null: float
    method: str
    interval_method: str
    n: int
    clusters: int
    level: float = 0.95
    seed: int | None = None
