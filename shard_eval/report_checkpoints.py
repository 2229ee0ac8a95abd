"""Tables and files of a family of checkpoints: all arms on test, differences to the base, the choice, the claim.

results/families/BASE-ID/{family.json, verdicts.csv, manifest.json, curves.svg, curves.png}
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import fsspec
from rich.console import Console

from shard_eval import capability, passports, report, report_compare
from shard_eval.checkpoints import ITSELF, Arm, Difference, Result
from shard_eval.compare import arms_differ
from shard_eval.logs import Run, differing_arms, inert_cell, to_csv
from shard_eval.plots import Point
from shard_eval.report import Entry, Grid
from shard_eval.score import versions
from shard_eval.summary import METRICS, measure

CURVES = ("joint", "harmful", "over_refusal")
CHOSEN = " *"


def _title(result: Result, arm: Arm) -> str:
    return arm.name + (CHOSEN if arm.name == result.choice.arm else "")


def _step(step: int | None) -> str:
    return "" if step is None else str(step)


def arms(result: Result, i: int) -> Grid:
    """Every arm by itself on one benchmark: base, controls, checkpoints."""
    entries = [Entry(_title(result, arm), result.test[arm.name][i], arm.note) for arm in result.arms]
    found = report.headline(entries, passports.trust(entries[0].run.protocol))
    header = (found.header[0].replace("system", "arm"), "step", *found.header[1:])
    rows = tuple((row[0], _step(arm.step), *row[1:]) for arm, row in zip(result.arms, found.rows, strict=True))
    chosen = f"*{' chosen' if result.choice.scores else ''}: {result.choice.reason}."
    foot = (chosen, *(line for line in found.foot if line not in _meant(result, i)))
    return replace(found, title=f"{result.splits[1]} · {found.title}", header=header, rows=rows, foot=foot)


def _meant(result: Result, i: int) -> set[str]:
    """Lines on how arms differ that only tell that the base was drawn again with another seed, as its note does."""
    runs = {arm.name: result.test[arm.name][i] for arm in result.arms}
    others = [runs[arm.name] for arm in result.arms if arm.kind != "resampled"]
    lines = set(differing_arms(list(runs.values()))) if not differing_arms(others) else set()
    return {f"{line[0].upper()}{line[1:]}." for line in lines}


def differences(result: Result, benchmark: str) -> Grid:
    """Every arm against the base on one benchmark, with both kinds of interval."""
    found = [d for d in result.family.differences if d.benchmark == benchmark]
    steps = {arm.name: arm.step for arm in result.arms}
    rows = [
        (
            d.arm + (CHOSEN if d.arm == result.choice.arm else ""),
            _step(steps.get(d.arm)),
            next(m.title for m in METRICS if m.name == d.metric),
            _points(d.alone.estimate),
            _interval(d.alone.low, d.alone.high),
            "control" if d.kind != "checkpoint" else "" if d.low is None else _interval(d.low, d.high or 0.0),
            str(d.alone.n),
            str(d.unscored),
        )
        for d in found
    ]
    level = f"{100 * result.family.level:g} %"
    header = ("arm", "step", "better in", "difference", f"{level} alone", f"{level} all at once", "pairs", "unscored")
    title = f"{result.splits[1]} · {benchmark} · difference to {result.base.system.name}"
    return Grid(title, header, tuple(rows), _difference_foot(result, benchmark, found))


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value + 0.0:+.1f}"


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def _difference_foot(result: Result, benchmark: str, found: Sequence[Difference]) -> tuple[str, ...]:
    family = result.family
    tested = [d for d in found if d.kind == "checkpoint"]
    count, metrics = len({d.arm for d in tested}), len({d.metric for d in tested})
    lines = [
        "Points, arm minus base on the same prompts, turned so that higher is better; prompts of a cluster together."
    ]
    if size := family.sizes[benchmark]:
        lines.append(
            f"All at once: max-T over the {size} differences of {count} checkpoints in {metrics} metrics of "
            f"{benchmark} (cluster bootstrap, {family.resamples} resamples, seed {family.seed}); "
            "controls are not of that family."
        )
    else:
        lines.append("No intervals that hold all at once: one cluster of prompts, or no pair with verdicts.")
    lines += [line for d in found if d.arm == ITSELF and (line := _not_zero(d))]
    lines += _resampled(found)
    if gaps := sum(d.unscored for d in found):
        lines.append(f"{gaps} pairs lack a verdict and are left out here; the claim sets them against the checkpoint.")
    return tuple(lines)


def _not_zero(d: Difference) -> str:
    """A warning if a run differs from itself, which only a fault can cause."""
    return f"FAULT: the base differs from itself in {d.metric}; trust nothing here." if d.alone.estimate else ""


def _resampled(found: Sequence[Difference]) -> list[str]:
    """Whether another draw of the base is a tie with it, as it must be."""
    drawn = [d for d in found if d.kind == "resampled"]
    off = [f"{d.metric} {_interval(d.alone.low, d.alone.high)}" for d in drawn if not d.alone.low <= 0 <= d.alone.high]
    if not drawn:
        return ["The base was not drawn again, so nobody can see here what sampling alone changes."]
    if not off:
        return [f"{drawn[0].arm}: a tie, every interval contains 0, as it must be."]
    return [
        f"{drawn[0].arm}: NO tie in {', '.join(off)}; one of {len(drawn)} such intervals misses 0 by chance in up to "
        f"{100 * (1 - drawn[0].alone.level) * len(drawn):.0f} % of families. Read the differences with care."
    ]


def selection(result: Result) -> Grid | None:
    """The checkpoints on dev, and which was chosen; None if there was nothing to choose."""
    scores = result.choice.scores
    if not scores:
        return None
    names = [name for name, _ in scores[0].parts]
    rows = []
    for s in scores:
        mean = "–" if s.value is None else f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}]"
        parts = [report.score(estimate) for _, estimate in s.parts]
        cells = (mean, *(parts if len(names) > 1 else []), f"{s.floor:.3f}", str(s.unscored))
        rows.append((s.arm + (CHOSEN if s.arm == result.choice.arm else ""), _step(s.step), *cells))
    foot = [f"* chosen: {result.choice.reason}. Intervals are pointwise."]
    foot.append("Unscored as 0 decides: an answer that cannot be judged must not help to be chosen.")
    if result.choice.absent:
        foot.append(f"No say, as no joint score is measured there: {', '.join(result.choice.absent)}.")
    header = ("checkpoint", "step", "mean joint ↑", *(names if len(names) > 1 else []), "unscored as 0", "unscored")
    return Grid(f"{result.splits[0]} · choice of the checkpoint", header, tuple(rows), tuple(foot))


def render(console: Console, result: Result) -> None:
    """Print all tables and the claim."""
    n = range(len(result.matched))
    names = [m.benchmark for m in result.matched]
    chosen = selection(result)
    grids = [*([chosen] if chosen is not None else []), *(arms(result, i) for i in n)]
    grids += [differences(result, name) for name in names]
    grids += capable(result)
    grids.append(report_compare.parts(result.claim, f"{result.chosen.name} against {result.base.system.name}"))
    report.show(console, grids)
    footnotes = sorted({line for m in result.matched for line in arms_differ(m)}) if result.terms.declared else []
    report_compare.print_claim(console, result.claim, result.terms, footnotes)
    console.print(f"The claim is about {result.chosen.name}: {_why_one(result)}.", style="dim", markup=False)


def capable(result: Result) -> list[Grid]:
    """What the base and the checkpoints can do besides; nothing if no task was named."""
    titled = [(_title(result, arm), scores) for arm in result.arms for scores in result.capable.get(arm.name, [])]
    return [capability.grid(titled)] if titled else []


def _why_one(result: Result) -> str:
    dev, test = result.splits
    if not result.choice.scores:
        return f"{result.choice.reason}, so it is one comparison"
    return f"chosen on {dev}, tested on {test}, so it is one comparison and needs no correction for the others"


def to_json(result: Result) -> dict[str, Any]:
    """Everything the tables show, and more, ready for a file: ids and numbers, no text."""
    return {
        "id": result.id,
        "base": result.base.system.name,
        "splits": {"choice": result.splits[0], "report": result.splits[1]},
        "arms": [_arm(result, arm) for arm in result.arms],
        "choice": asdict(result.choice),
        "differences": [asdict(d) for d in result.family.differences],
        "simultaneous": {
            "family": result.family.sizes,
            "level": result.family.level,
            "resamples": result.family.resamples,
            "seed": result.family.seed,
        },
        **({"capability": capability.to_json(by_arm)} if (by_arm := _by_arm(result)) else {}),
        "comparison": report_compare.to_json(result.matched, result.claim, result.terms),
        "claim": result.claim.status,
        "why_no_correction": _why_one(result),
    }


def _by_arm(result: Result) -> list[tuple[str, capability.Scores]]:
    return [(name, scores) for name, several in result.capable.items() for scores in several]


def _arm(result: Result, arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "kind": arm.kind,
        "step": arm.step,
        "note": arm.note,
        "chosen": arm.name == result.choice.arm,
        "system": arm.system.manifest,
        "runs": {
            split: [_run(arm, run) for run in runs.get(arm.name, [])]
            for split, runs in zip(result.splits, (result.dev, result.test), strict=True)
        },
    }


def _run(arm: Arm, run: Run) -> dict[str, Any]:
    return report.to_json(Entry(arm.name, replace(run, log=run.log.rsplit("/", 1)[-1]), arm.note))


def verdicts_csv(result: Result) -> str:
    """The verdicts of all arms on both splits: ids, hashes and labels, never a prompt or a response."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for i, (arm, run) in enumerate(_all_runs(result)):
        header, *rows = csv.reader(io.StringIO(to_csv(run.rows)))
        if i == 0:
            writer.writerow(["arm", "step", *header])
        writer.writerows([inert_cell(arm.name), _step(arm.step), *row] for row in rows)
    return out.getvalue()


def _all_runs(result: Result) -> list[tuple[Arm, Run]]:
    return [(arm, run) for runs in (result.dev, result.test) for arm in result.arms for run in runs.get(arm.name, [])]


def points(result: Result) -> tuple[list[Point], list[Point]]:
    """What `plots.curves` draws: the checkpoints' scores, and the base's. Without steps, the order counts."""
    checkpoints = [arm for arm in result.arms if arm.kind == "checkpoint"]
    stepped = all(arm.step is not None for arm in checkpoints)
    steps = {arm.name: (arm.step if stepped else i) for i, arm in enumerate(checkpoints, start=1)}
    found: list[Point] = []
    base: list[Point] = []
    for split, runs in zip(result.splits, (result.dev, result.test), strict=True):
        for arm in (result.base, *checkpoints):
            for run in runs.get(arm.name, []):
                (base if arm is result.base else found).extend(_points_of(run, split, steps.get(arm.name)))
    return found, base


def _points_of(run: Run, split: str, step: int | None) -> list[Point]:
    measured = [m for name in CURVES for m in METRICS if m.name == name]
    return [
        Point(
            step=step,
            split=split,
            benchmark=run.protocol.benchmark,
            metric=f"{found.metric.title} {'↑' if found.metric.better == 'higher' else '↓'}",
            value=e.value,
            low=e.low,
            high=e.high,
        )
        for metric in measured
        if (found := measure(metric, run.rows)) is not None and (e := found.estimate).value is not None
    ]


def folder_of(result: Result, root: str) -> str:
    """Where a family's files go."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", result.base.system.label).strip("-.") or "base"
    return f"{root.rstrip('/')}/families/{plain}-{result.id}"


def write(result: Result, root: str, pictures: Mapping[str, bytes]) -> str:
    """Leave the family's files.

    Args:
        result: of the evaluation.
        root: results folder; any place fsspec knows.
        pictures: further files by name.

    Returns:
        The folder.
    """
    folder = folder_of(result, root)
    manifest = {
        "arms": {arm.name: {"id": arm.system.id, "system": arm.system.manifest} for arm in result.arms},
        "protocols": [asdict(m.candidate.protocol) for m in result.matched],
        "terms": asdict(result.terms),
        "versions": versions(),
    }
    texts = {
        "family.json": report.dumps(to_json(result)),
        "verdicts.csv": verdicts_csv(result),
        "manifest.json": report.dumps(manifest),
    }
    for name, content in {**{n: t.encode() for n, t in texts.items()}, **pictures}.items():
        with fsspec.open(f"{folder}/{name}", "wb", auto_mkdir=True) as file:
            file.write(content)
    return folder
