"""What a panel's members say by themselves: agreement, rates, failures, and what the panel would say without each.

    panel = summarise(read_run("results/SYSTEM/BENCHMARK"))

Everything is computed from the members' verdicts in the log; nobody is asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from shard_eval.errors import LogError, UsageError
from shard_eval.judges.panel import Spec, combine
from shard_eval.logs import Row, Run, panel_name
from shard_eval.records import AXES, Axis, Verdict
from shard_eval.stats.agreement import krippendorff_alpha
from shard_eval.summary import HEADLINE, Measured, summarise


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha between the members on an axis.

    Attributes:
        value: None where it is not defined; `why` then says why.
        metric: "nominal" on action, else "ordinal".
        n: responses with at least two verdicts.
    """

    value: float | None
    metric: str
    n: int
    why: str = ""


@dataclass(frozen=True)
class Member:
    """A judge of the panel.

    Attributes:
        name: in tables.
        alone: the headline by its own verdicts.
        without: the panel's headline without it.
        failures: per axis, why it gave no verdict.
    """

    name: str
    weight: float
    axes: tuple[Axis, ...]
    alone: dict[str, Measured]
    without: dict[str, Measured]
    failures: dict[Axis, dict[str, int]]


@dataclass(frozen=True)
class Shift:
    """How far a rate moves if one member is left out: the one that moves it most."""

    member: str
    change: float


@dataclass(frozen=True)
class Panel:
    """A run's panel.

    Attributes:
        whole: the panel's own headline.
        alphas: agreement per axis.
        shifts: per metric the largest change without a member; none where leaving one out changes nothing.
        alone_decides: axes on which one member has more than half of the weight, and which.
    """

    rule: str
    members: tuple[Member, ...]
    whole: dict[str, Measured]
    alphas: dict[Axis, Alpha]
    shifts: dict[str, Shift]
    alone_decides: dict[Axis, str]


def is_panel(run: Run) -> bool:
    """Whether a panel judged a run whose log was read."""
    return run.judge.startswith("panel:") and any(row.members for row in run.rows)


def summarise_panel(run: Run) -> Panel:
    """Sum up what the members of a run's panel said.

    Raises:
        LogError: if the panel's verdicts are not what its rule makes of its members'.
    """
    spec = Spec.read(run.judge)
    _require_consistent(run, spec)
    whole = summarise(run.rows, HEADLINE)
    members = tuple(_member(run, spec, name, weight) for name, weight in zip(spec.members, spec.weights, strict=True))
    judged: list[Axis] = [axis for axis in AXES if any(axis in row.members for row in run.rows)]
    return Panel(
        rule=spec.rule,
        members=members,
        whole=whole,
        alphas={axis: agreement(run.rows, axis) for axis in judged},
        shifts={name: shift for name in whole if (shift := _shift(name, whole, members)) is not None},
        alone_decides={axis: name for axis in judged if (name := _decisive(members, axis))},
    )


def _verdicts(row: Row, axis: Axis, without: str = "") -> dict[str, Verdict]:
    """The members' verdicts on a response."""
    reasons = row.member_reasons.get(axis, {})
    return {
        name: Verdict(axis, label, reasons.get(name))  # type: ignore[arg-type]
        for name, label in row.members[axis].items()
        if name != without
    }


def _combined(row: Row, axis: Axis, spec: Spec, without: str = "") -> Verdict:
    weights = dict(zip(spec.members, spec.weights, strict=True))
    found = _verdicts(row, axis, without)
    return combine(axis, spec.rule, list(found.values()), [weights[name] for name in found])


def _require_consistent(run: Run, spec: Spec) -> None:
    for row in run.rows:
        strange = [n for names in row.members.values() for n in names if n not in spec.members]
        wrong = strange or [a for a in row.members if _combined(row, a, spec).label != row.labels.get(a)]
        if wrong:
            raise LogError(
                f"{run.log}: response {row.id!r}: the panel's verdict on {wrong[0]} is not what its members' verdicts "
                "make. The log was edited or is of another version: score again."
            )


def without_member(rows: Sequence[Row], spec: Spec, name: str) -> list[Row]:
    """The rows as the panel would have judged them without a member; the other members decide by the same rule."""
    return [
        _decided(row, {a: _combined(row, a, spec, name) for a in row.members if len(row.members[a]) > 1})
        for row in rows
    ]


def of_member(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows as one member judged them, on the axes that it can judge."""
    return [_decided(row, {a: _verdicts(row, a)[name] for a in row.members if name in row.members[a]}) for row in rows]


def _decided(row: Row, verdicts: dict[Axis, Verdict]) -> Row:
    return replace(
        row,
        labels={axis: v.label for axis, v in verdicts.items()},
        reasons={axis: v.reason for axis, v in verdicts.items() if v.reason is not None},
    )


def _member(run: Run, spec: Spec, name: str, weight: Fraction) -> Member:
    alone = of_member(run.rows, name)
    axes: tuple[Axis, ...] = tuple(a for a in AXES if any(a in row.labels for row in alone))
    failures = {axis: dict(Counter(r.reasons[axis] for r in alone if axis in r.reasons)) for axis in axes}
    return Member(
        name=panel_name(name, run.graders),
        weight=float(weight),
        axes=axes,
        alone=summarise(alone, HEADLINE),
        without=summarise(without_member(run.rows, spec, name), HEADLINE),
        failures={axis: found for axis, found in failures.items() if found},
    )


def agreement(rows: Sequence[Row], axis: Axis) -> Alpha:
    """Krippendorff's alpha between the members on an axis; all labels are ordered but action's."""
    judged = [row.members[axis] for row in rows if axis in row.members]
    names = list(dict.fromkeys(name for members in judged for name in members))
    labels = [[members.get(name) for members in judged] for name in names]
    ratings = np.array([[np.nan if label is None else label for label in line] for line in labels], dtype=float)
    n = int(((~np.isnan(ratings)).sum(0) >= 2).sum())
    metric: Literal["nominal", "ordinal"] = "nominal" if axis == "action" else "ordinal"
    try:
        return Alpha(krippendorff_alpha(ratings, metric), metric, n)
    except UsageError as error:
        return Alpha(None, metric, n, str(error))


def _shift(name: str, whole: dict[str, Measured], members: Sequence[Member]) -> Shift | None:
    """The largest change of a rate when a member that says something about it is left out."""
    before = whole[name].estimate.value
    changes = [
        Shift(m.name, after - before)
        for m in members
        if before is not None
        and set(whole[name].metric.needs) & set(m.axes)
        and name in m.without
        and (after := m.without[name].estimate.value) is not None
    ]
    largest = max(changes, key=lambda shift: abs(shift.change), default=None)
    return largest if largest is not None and largest.change else None


def _decisive(members: Sequence[Member], axis: Axis) -> str:
    """The member that has more than half of the weight on an axis, so that it decides alone; "" if none."""
    able = [m for m in members if axis in m.axes]
    most = max(able, key=lambda m: m.weight, default=None)
    total = sum(m.weight for m in able)
    return most.name if most is not None and 2 * most.weight > total else ""
