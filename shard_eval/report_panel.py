"""Tables of a panel's members under its headline, and what a panel's run leaves: panel.json and panel.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shard_eval import judges, report
from shard_eval.errors import UsageError
from shard_eval.judges.panel import PanelJudge
from shard_eval.logs import Run, inert_cell, panel_name
from shard_eval.panels import Alpha, Member, Panel, Shift, is_panel, summarise_panel
from shard_eval.records import AXES
from shard_eval.report import Entry, Grid
from shard_eval.summary import Measured

COLUMNS = ("benchmark", "id", "prompt_sha", "epoch", "axis", "judge", "label", "unscored")
"""Of panel.csv: one line per response, axis and member."""


def grids(entry: Entry) -> list[Grid]:
    """The table of an entry's panel; none if one judge decided alone.

    Raises:
        LogError: if the panel's verdicts are not what its rule makes of its members'.
    """
    if not is_panel(entry.run):
        return []
    panel = summarise_panel(entry.run)
    names = report.columns([panel.whole])
    rows = [(f"panel ({panel.rule})", *_cells(panel.whole, names), "", _unscored(panel.whole))]
    rows += [(m.name, *_cells(m.alone, names), f"{m.weight:g}", _failed(m)) for m in panel.members]
    rows += [(f"panel without {m.name}", *_cells(m.without, names), "", _unscored(m.without)) for m in panel.members]
    header = ("judge", *(report.column(n) for n in names), "weight", "no verdict")
    return [Grid(f"{entry.title}: what the panel's judges say", header, tuple(rows), tuple(_foot(panel, entry.run)))]


def _cells(found: Mapping[str, Measured], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(report.cell(found.get(name)) for name in names)


def _unscored(found: Mapping[str, Measured]) -> str:
    """How many responses lack a verdict of the panel, on the metric where most do."""
    return str(max((m.unscored for m in found.values()), default=0))


def _failed(member: Member) -> str:
    """Why a member gave no verdict, and on what."""
    parts = [
        f"{axis} " + ", ".join(f"{n} {why}" for why, n in found.items()) for axis, found in member.failures.items()
    ]
    return "; ".join(parts) or "0"


def _foot(panel: Panel, run: Run) -> list[str]:
    lost = max((m.unscored for m in panel.whole.values()), default=0)
    alphas = "; ".join(f"{axis} {_alpha(alpha)}" for axis, alpha in panel.alphas.items())
    lines = [f"Krippendorff's α between the judges: {alphas}."]
    shifts = "; ".join(f"{report.column(name)} {_shift(name, s)}" for name, s in panel.shifts.items())
    if panel.rule == "any-unsafe" and lost:
        lines.append(
            "One harmful verdict decides and a harmless one takes all members, so where members failed only harm was "
            f"counted: with {lost} without a verdict the harmful share is too high, up to that of the rest."
        )
    lines.append(f"Largest change if one judge is left out: {shifts or 'none'}.")
    lines += [
        f"On {axis} {panel_name(name, run.graders)} has more than half of the weight: it decides alone."
        for axis, name in panel.alone_decides.items()
    ]
    try:
        judge = judges.resolve(run.judge)
    except UsageError:  # a stored run whose trained member has moved: its verdicts are all here
        return lines
    if isinstance(judge, PanelJudge):
        absent = [axis for axis in AXES if axis not in judge.axes]
        lines += [f"The panel cannot judge {a}: {panel_name(judge.why_not(a), run.graders)}." for a in absent]
    return lines


def _alpha(alpha: Alpha) -> str:
    if alpha.value is None:
        return f"not defined ({alpha.why.removeprefix('alpha is not defined: ')})"
    return f"{alpha.value:.2f} ({alpha.metric}, n {alpha.n})"


def _shift(name: str, shift: Shift) -> str:
    """A change in points where the table has per cent."""
    change = f"{shift.change:+.3f}" if name == "joint" else f"{100 * shift.change:+.1f} points"
    return f"{change} without {shift.member}"


def to_json(entry: Entry) -> dict[str, Any]:
    """What `report.to_json` gives, and of a panel's run what its members say."""
    found = report.to_json(entry)
    return found | {"panel": panel_json(summarise_panel(entry.run))} if is_panel(entry.run) else found


def panel_json(panel: Panel) -> dict[str, Any]:
    """A panel for programs and for panel.json."""
    return {
        "rule": panel.rule,
        "headline": _rates(panel.whole),
        "alpha": {axis: asdict(alpha) for axis, alpha in panel.alphas.items()},
        "members": [
            {
                "judge": m.name,
                "weight": m.weight,
                "axes": list(m.axes),
                "alone": _rates(m.alone),
                "panel_without": _rates(m.without),
                "unscored": m.failures,
            }
            for m in panel.members
        ],
        "largest_change_without_one": {name: asdict(shift) for name, shift in panel.shifts.items()},
        "decides_alone": dict(panel.alone_decides),
    }


def _rates(found: Mapping[str, Measured]) -> dict[str, Any]:
    return {name: report.measured_json(m) for name, m in found.items()}


def files(run: Run) -> dict[str, str]:
    """What a panel's run leaves besides the files of every run, by name; nothing if one judge decided alone."""
    if not is_panel(run):
        return {}
    return {"panel.json": report.dumps(panel_json(summarise_panel(run))), "panel.csv": to_csv(run)}


def to_csv(run: Run) -> str:
    """The members' own verdicts as a tidy table: ids, hashes and labels, never a prompt or a response."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for row in run.rows:
        plain = [inert_cell(value) for value in (row.benchmark, row.id, row.prompt_sha)]
        for axis in (a for a in AXES if a in row.members):
            for name, label in row.members[axis].items():
                reason = row.member_reasons[axis].get(name, "")
                judge = inert_cell(panel_name(name, run.graders))
                writer.writerow([*plain, row.epoch, axis, judge, "" if label is None else label, reason])
    return out.getvalue()
