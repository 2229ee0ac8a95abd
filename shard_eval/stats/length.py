"""Preference at equal length: a judge that likes long answers must not make a talkative model look helpful."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from shard_eval.errors import UsageError


@dataclass(frozen=True)
class LengthControlled:
    """Net preference with the two responses' lengths held equal.

    Attributes:
        estimate: intercept of the regression; None if it cannot be told apart from the effect of length.
        low: lower bound; -1 if there is no estimate.
        high: upper bound; 1 if there is no estimate.
        slope: change of the preference per unit of tanh(length difference / its standard deviation), or None.
        slope_low: lower bound of the slope.
        slope_high: upper bound of the slope.
        n: number of pairs.
        method: name of the regression.
        level: confidence level.
    """

    estimate: float | None
    low: float
    high: float
    slope: float | None
    slope_low: float | None
    slope_high: float | None
    n: int
    method: str
    level: float


METHOD = "OLS of the preference on tanh(length difference / SD), cluster-robust (CR1), t"


def length_controlled(
    d: Sequence[float], longer: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95
) -> LengthControlled:
    """Regress the preference on the length difference and read it off at equal length.

    After the length-controlled win rate of AlpacaEval (Dubois et al. 2024, arXiv:2404.04475): the same tanh of the
    standardised length difference, but linear instead of logistic, so that it exists when one side always wins.

    Args:
        d: n preferences from -1 to 1, higher is better for the candidate.
        longer: n length differences, candidate minus baseline, in any unit.
        clusters: n labels; equal labels are not independent.
        level: confidence level.

    Raises:
        UsageError: if lengths differ or a value is not a number.
    """
    if not len(d) == len(longer) == len(clusters):
        raise UsageError(f"{len(d)} preferences, {len(longer)} length differences, {len(clusters)} clusters")
    y, x = np.asarray(d, dtype=float), np.asarray(longer, dtype=float)
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise UsageError("preferences and length differences must be finite numbers")
    spread = float(x.std()) if len(x) else 0.0
    _, group = np.unique([repr(c) for c in clusters], return_inverse=True) if len(x) else ([], np.zeros(0, int))
    g = int(group.max()) + 1 if len(x) else 0
    nothing = LengthControlled(None, -1.0, 1.0, None, None, None, len(x), METHOD, level)
    if spread == 0 or g < 3:
        return nothing  # all differences alike: length and system cannot be told apart
    design = np.column_stack([np.ones_like(x), np.tanh(x / spread)])
    bread = np.linalg.pinv(design.T @ design)
    beta = bread @ design.T @ y
    scores = np.zeros((g, 2))
    np.add.at(scores, group, design * (y - design @ beta)[:, None])
    small = g / (g - 1) * (len(x) - 1) / (len(x) - 2)
    se = np.sqrt(np.maximum(small * np.diag(bread @ scores.T @ scores @ bread), 0.0))
    if se[0] < 1e-9:
        return nothing  # a perfect fit leaves nothing to estimate the error from
    half = float(special.stdtrit(g - 1, (1 + level) / 2)) * se
    low, high = max(-1.0, beta[0] - half[0]), min(1.0, beta[0] + half[0])
    return LengthControlled(
        float(beta[0]), float(low), float(high), float(beta[1]), float(beta[1] - half[1]), float(beta[1] + half[1]),
        len(x), METHOD, level,
    )  # fmt: skip
