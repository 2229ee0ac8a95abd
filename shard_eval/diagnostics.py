"""How a pairwise judge behaved: flips between the orders, position and length bias, calls, help at equal length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from shard_eval.pairs import PairRow
from shard_eval.records import SIGNED, Axis
from shard_eval.stats.intervals import Estimate, estimate
from shard_eval.stats.length import LengthControlled, length_controlled


@dataclass(frozen=True)
class Diagnostics:
    """A pairwise judge's behaviour on one axis.

    Attributes:
        states: how many pairs ended as candidate, baseline, tie or inconsistent.
        unscored: how many have no state, by reason.
        identical: pairs whose responses are the same text, ties without a call.
        calls: how often the judge was asked.
        flips: share of the pairs answered in both orders on which the orders disagree.
        names_first: share of the judge's A/B answers that name the reply shown first; 0.5 is no position bias.
        longer_preferred: share of the decided pairs (of different length) in which the longer response was preferred.
        controlled: net preference at equal length (helpfulness only: harmful answers may be long for good reason).
    """

    axis: Axis
    states: dict[str, int]
    unscored: dict[str, int]
    identical: int
    calls: int
    flips: Estimate
    names_first: Estimate
    longer_preferred: Estimate
    controlled: LengthControlled | None


def diagnose(rows: Sequence[PairRow], axis: Axis, level: float = 0.95) -> Diagnostics:
    """Describe a pairwise judge's behaviour on an axis it was asked about."""
    asked = [r for r in rows if r.orders[axis]]
    both = [r for r in asked if None not in r.orders[axis]]
    decided = [r for r in both if r.states[axis] in ("candidate", "baseline") and r.chars[0] != r.chars[1]]
    scored = [(r, state) for r in rows if (state := r.states[axis]) is not None]
    controlled = None
    if axis == "helpfulness":
        controlled = length_controlled(
            [SIGNED[state] for _, state in scored],
            [r.chars[0] - r.chars[1] for r, _ in scored],
            [r.cluster for r, _ in scored],
            level,
        )
    return Diagnostics(
        axis=axis,
        states={state: sum(s == state for _, s in scored) for state in SIGNED},
        unscored=dict(Counter(r.reasons[axis] for r in rows if axis in r.reasons)),
        identical=sum(r.identical for r in rows),
        calls=sum(len(r.orders[axis]) for r in rows),
        flips=_share([(r.states[axis] == "inconsistent", r.cluster) for r in both], level),
        names_first=_share([(first, r.cluster) for r in asked for first in _firsts(r, axis)], level),
        longer_preferred=_share(
            [((r.states[axis] == "candidate") == (r.chars[0] > r.chars[1]), r.cluster) for r in decided], level
        ),
        controlled=controlled,
    )


def _share(values: Sequence[tuple[bool, Hashable]], level: float) -> Estimate:
    return estimate([float(v) for v, _ in values], [c for _, c in values], level)


def _firsts(row: PairRow, axis: Axis) -> list[bool]:
    """Per order with an A/B answer: did it name the reply shown first? On harm the judge names the worse one."""
    found = []
    for choice, first in zip(row.orders[axis], ("candidate", "baseline"), strict=True):
        if choice in ("candidate", "baseline"):
            found.append((choice == first) != (axis == "harm"))
    return found
