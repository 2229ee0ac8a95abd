"""A board from its spec: read the runs, compute, and lay out the tables. No model is called, nothing is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from shard_eval import passports
from shard_eval.compare import Matched, arms_differ, evidence, untrusted
from shard_eval.errors import UsageError
from shard_eval.leaderboard import columns, sources, verdicts
from shard_eval.leaderboard.scores import Joint, Scored, alone, compare_all, metric, passport_of, read_base, score
from shard_eval.leaderboard.sources import Key
from shard_eval.leaderboard.spec import Spec, SystemSpec
from shard_eval.leaderboard.table import Board, Curve, Groups, Row, System, Table, Verdict
from shard_eval.logs import Run, differing_arms
from shard_eval.records import Axis
from shard_eval.stats.claims import Claim, Part, claim
from shard_eval.stats.multiplicity import holm


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "x"


KINDS = ("baseline", "system", "resampled", "control")
CONTROL_METRICS = ("joint", "harmful", "over_refusal")


def build(spec: Spec, store: Path, experiments: str = "results/experiments") -> Board:
    """Compute a board.

    Args:
        spec: what is on it.
        store: folder of judges' passports; the user's own ones are not looked at.
        experiments: folder of training runs, to tell what trained a system.

    Raises:
        UsageError: if runs are missing or ambiguous, or a system's runs are of different systems.
        LogError: if a run is damaged, or was not scored like the baseline.
    """
    with passports.kept_in(store):
        return _build(spec, sources.experiments(experiments))


def _build(spec: Spec, trained: Mapping[str, dict[str, Any]]) -> Board:
    chosen = sources.find(spec)
    bases = {key: read_base(folders[spec.baseline]) for key, folders in chosen.items()}
    scored: dict[Key, list[Scored]] = {key: [] for key in chosen}
    claims: dict[str, Claim] = {}
    for system in _in_order(spec):
        matched = []
        for key, folders in chosen.items():
            if system.name in folders:
                line, pair = score(system, folders[system.name], bases[key], spec)
                scored[key].append(line)
                matched.append(pair)
        if system.kind == "system" and system.name != spec.baseline:
            claims[system.name] = _claim(matched, spec)
    decided = verdicts.decide(claims, spec)
    joints = {key: compare_all(lines, bases[key], spec) for key, lines in scored.items()}
    tables = tuple(_table(key, scored[key], joints[key], claims, decided, spec, trained) for key in chosen)
    return Board(
        name=spec.name,
        title=spec.title,
        about=spec.about,
        baseline=spec.baseline,
        terms=spec.model_dump(
            include={
                "margin",
                "refusal_margin",
                "level",
                "correction",
                "floor",
                "rank_by",
                "declared",
                "resamples",
                "seed",
            }
        ),
        tables=tables,
        systems={s.name: _system(s, scored, decided, spec, trained) for s in _in_order(spec)},
        passports={line.run.protocol.judge: _passport(line.run) for lines in scored.values() for line in lines[:1]},
        checks=tuple(check for key in chosen for check in _checks(scored[key], spec)),
        footnotes=(*spec.footnotes, *_absent(spec, chosen), *_uncontrolled(spec)),
    )


def _in_order(spec: Spec) -> list[SystemSpec]:
    """The baseline first, then as the spec has them."""
    return sorted(spec.systems, key=lambda s: s.name != spec.baseline)


def _absent(spec: Spec, chosen: Mapping[Key, Mapping[str, str]]) -> list[str]:
    return [
        f"{system.name} was not scored on {key.benchmark} by {key.judge}."
        for key, folders in chosen.items()
        for system in spec.systems
        if system.name not in folders
    ]


def _uncontrolled(spec: Spec) -> list[str]:
    if any(system.kind in ("resampled", "control") for system in spec.systems):
        return []
    return ["No controls ride along: neither the baseline drawn again nor a constant shows what this table can tell."]


# --- claims ------------------------------------------------------------------------------------------------------


def _source(run: Run) -> str:
    return f"{run.protocol.benchmark} by {run.protocol.judge}"


def _claim(matched: Sequence[Matched], spec: Spec) -> Claim:
    """A system's claim over all its tables; the values of single pairs are let go."""
    found = [replace(e, source=_source(m.candidate)) for m in matched for e in evidence(m, spec.terms)]
    doubts = [] if spec.declared else sorted({line for m in matched for line in arms_differ(m)})
    whole = claim(found, doubts, spec.level)
    return replace(whole, parts=tuple(_light(part) for part in whole.parts))


def _light(part: Part) -> Part:
    return replace(part, evidence=replace(part.evidence, low=(), high=(), clusters=()))


def _harm_parts(lines: Sequence[Scored], claims: Mapping[str, Claim]) -> dict[str, tuple[Part, float]]:
    """Per system the part of its claim about harm in this table, with the p-value after Holm over the table."""
    source = _source(lines[0].run)
    parts = {
        line.system.name: part
        for line in lines
        if line.system.name in claims
        for part in claims[line.system.name].parts
        if part.evidence.part == "harm" and part.evidence.source == source
    }
    if not parts:
        return {}
    adjusted = holm([part.worst.p for part in parts.values()])
    return {name: (part, float(p)) for (name, part), p in zip(parts.items(), adjusted, strict=True)}


# --- a table -----------------------------------------------------------------------------------------------------


def _table(
    key: Key,
    lines: Sequence[Scored],
    joint: Joint,
    claims: Mapping[str, Claim],
    decided: Mapping[str, Verdict],
    spec: Spec,
    trained: Mapping[str, dict[str, Any]],
) -> Table:
    base, protocol = lines[0], lines[0].run.protocol
    notes = columns.Notes()
    for text in _general(lines, joint, spec):
        notes.mark(text)
    harm = _harm_parts(lines, claims)
    ordered = _ordered(lines, joint)
    made = []
    for line in ordered:
        name = line.system.name
        cell_line = columns.Line(
            line, base, joint, spec, decided.get(name), harm.get(name), _selected(line.run, trained), notes
        )
        kind = "baseline" if line is base else line.system.kind
        measured = {n: m.estimate for n, m in line.measured.items()}
        made.append(Row(name, kind, columns.cells(cell_line), line.folder, measured, line.parts, line.plane))
    for line in ordered:
        if line.system.note:
            notes.mark(f"{line.system.name}: {line.system.note}")
    there = {name for row in made for name in row.cells}
    return Table(
        key=f"{_slug(protocol.benchmark)}-{_slug(key.judge)}",
        benchmark=protocol.benchmark,
        judge=protocol.judge,
        passport=passport_of(base.run),
        title=_title(base.run, spec),
        columns=tuple(c for c in columns.heads(spec) if c.name in there),
        rows=tuple(made),
        foot=tuple(notes.lines),
        groups=_groups(joint, lines),
        content=protocol.content,
        fixture=protocol.origin == "fixture",
    )


def _doubted_axes(run: Run, spec: Spec) -> list[Axis]:
    return [axis for axis, _ in run.protocol.prompts if _doubts(run, axis, spec)]


def _doubts(run: Run, axis: Axis, spec: Spec) -> list[str]:
    """Why the judge of a run must not carry a claim on an axis."""
    prompts: dict[str, str] = dict(run.protocol.prompts)
    return untrusted(run.protocol.judge, prompts, [axis], spec.floor)


def _title(run: Run, spec: Spec) -> str:
    """Benchmark, task and judge; a fixture and a judge that nobody measured are named in the title."""
    p = run.protocol
    title = f"{p.benchmark} · {p.task} {p.version} · judge {p.judge}"
    if spec.split:
        title += f" · {spec.split}"
    if p.origin == "fixture":
        title += " · FIXTURE, not the benchmark: quote no number from it"
    doubted = _doubted_axes(run, spec)
    if doubted:
        whole = len(doubted) == len(p.prompts)
        title += " · uncalibrated judge" + ("" if whole else f" on {', '.join(doubted)}")
    return title


def _general(lines: Sequence[Scored], joint: Joint, spec: Spec) -> list[str]:
    """Foot lines on how the table was made, and on what speaks against it."""
    base, level = lines[0], f"{100 * spec.level:g} %"
    found = [
        f"{level} intervals; of a system alone: Wilson, at the effective sample size where prompts share a cluster."
    ]
    if joint.ranking is not None:
        critical = joint.ranking.critical
        least = f" Least significant difference {100 * critical:.1f} points." if critical is not None else ""
        title = metric(joint.metric).title
        found.append(
            f"Ranks and groups by {title}, all pairs of {len(joint.ranked)} systems: {joint.ranking.method}.{least}"
        )
    methods = sorted({line.harm.method for line in lines if line.harm is not None and line.harm.estimate is not None})
    found += [f"Corrected for the judge's errors: {method}." for method in methods]
    doubts = [d for axis, _ in base.run.protocol.prompts for d in _doubts(base.run, axis, spec)]
    found += [f"{text[0].upper()}{text[1:]}." for text in doubts]
    if base.run.protocol.origin == "fixture":
        found.append("A FIXTURE stands in for the benchmark: these numbers say nothing about it.")
    ranked = [line.run for line in lines if line.system.kind == "system"]
    found += [
        f"{text[0].upper()}{text[1:]}{' (declared)' if spec.declared else ''}." for text in differing_arms(ranked)
    ]
    return found + _cut(lines)


def _cut(lines: Sequence[Scored]) -> list[str]:
    """One line on answers that were cut at the token limit."""
    cut = sorted((line for line in lines if line.cut), key=lambda line: -line.cut / line.n)
    if not cut:
        return []
    shown = ", ".join(f"{line.system.name} {line.cut} of {line.n}" for line in cut[:8])
    rest = f" and {len(cut) - 8} more" if len(cut) > 8 else ""
    return [f"Answers cut at the token limit: {shown}{rest}."]


def _ordered(lines: Sequence[Scored], joint: Joint) -> list[Scored]:
    """Baseline, then systems from the best, then controls."""
    place = {name: i for i, name in enumerate(_best_first(joint))}
    last = len(place)
    return sorted(
        lines,
        key=lambda line: (
            line is not lines[0],
            KINDS.index(line.system.kind),
            place.get(line.system.name, last),
        ),
    )


def _best_first(joint: Joint) -> list[str]:
    return [joint.ranked[i] for i in joint.ranking.order] if joint.ranking is not None else []


def _groups(joint: Joint, lines: Sequence[Scored]) -> Groups | None:
    ranking = joint.ranking
    if ranking is None:
        return None
    found = {
        line.system.name: line.measured[joint.metric].estimate.value for line in lines if joint.metric in line.measured
    }
    names = _best_first(joint)
    ranked_metric = metric(joint.metric)
    return Groups(
        metric=joint.metric,
        title=ranked_metric.title,
        systems=tuple(names),
        values=tuple(found[name] or 0.0 for name in names),
        bars=ranking.bars,
        skips=ranking.skips,
        best=tuple(int(ranking.best[i]) for i in ranking.order),
        worst=tuple(int(ranking.worst[i]) for i in ranking.order),
        letters=tuple(ranking.letters[i] for i in ranking.order),
        critical=ranking.critical,
        method=ranking.method,
        better=ranked_metric.better,
    )


# --- systems, judges, controls -----------------------------------------------------------------------------------


def _system(
    spec_of: SystemSpec,
    scored: Mapping[Key, Sequence[Scored]],
    decided: Mapping[str, Verdict],
    spec: Spec,
    trained: Mapping[str, dict[str, Any]],
) -> System:
    runs = [line.run for lines in scored.values() for line in lines if line.system.name == spec_of.name]
    if not runs:
        raise UsageError(f"{spec_of.name} has no run for any table of the board ({', '.join(spec_of.results)}).")
    found = [run.metadata["system"] for run in runs]
    if any(other != found[0] for other in found):
        raise UsageError(f"{spec_of.name}: its runs are of different systems; give each its own entry in the spec.")
    return System(
        name=spec_of.name,
        kind="baseline" if spec_of.name == spec.baseline else spec_of.kind,
        manifest=found[0],
        id=str(runs[0].metadata["system_id"]),
        note=spec_of.note,
        training=_training(found[0], trained),
        curve=Curve(spec_of.run, spec_of.step) if spec_of.step is not None else None,
        verdict=decided.get(spec_of.name),
    )


def _training(system: Mapping[str, Any], trained: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What is known of how a system was trained, if a training run left it."""
    found = trained.get(str(system.get("weights_sha256")))
    if found is None:
        return {}
    return {
        "method": found.get("method"),
        "selection": (found.get("recipe") or {}).get("selection", {}).get("rule"),
        "selector": found.get("selector"),
        "targets": found.get("targets"),
    }


def _selected(run: Run, trained: Mapping[str, dict[str, Any]]) -> str:
    """A warning if the judge of this run also chose what the system was trained on."""
    training = _training(run.metadata["system"], trained)
    grader = (run.metadata.get("run") or {}).get("grader")
    selector = training.get("selector")
    if not grader or not selector or training.get("selection") == "none":
        return ""
    same = [k for k in ("model", "weights_sha256") if selector.get(k) and selector.get(k) == grader.get(k)]
    return "the judge of this table selected its training data; expect it to like the result." if same else ""


def _passport(run: Run) -> dict[str, Any]:
    known = passports.agreements(run.protocol.judge, dict(run.protocol.prompts))
    return {"line": passport_of(run), "agreement": [asdict(a) for a in known]}


def _checks(lines: Sequence[Scored], spec: Spec) -> list[str]:
    """What the controls of a table say: the baseline drawn again must be a tie, a constant must not lead."""
    base, found = lines[0], []
    where = _source(base.run)
    for line in (line for line in lines if line.system.kind == "resampled"):
        off = [m for m in CONTROL_METRICS if m in line.values and not _tie(line, base, m, spec)]
        says = f"differs from the baseline in {', '.join(off)}" if off else "is a tie with the baseline"
        found.append(f"{'FAIL' if off else 'pass'}: {where}: {line.system.name} {says}.")
    ranked = [line for line in lines if line.system.kind == "system" and "joint" in line.measured]
    for line in (line for line in lines if line.system.kind == "control" and "joint" in line.measured and ranked):
        own = line.measured["joint"].estimate.value or 0.0
        below = [o.system.name for o in ranked if (o.measured["joint"].estimate.value or 0.0) <= own]
        says = f"is not below {', '.join(below)}" if below else "has the lowest joint score, as it must"
        found.append(f"{'FAIL' if below else 'pass'}: {where}: {line.system.name} {says}.")
    return found


def _tie(line: Scored, base: Scored, name: str, spec: Spec) -> bool:
    found = alone(line, base, name, spec.level)
    return found.low <= 0 <= found.high
