"""A board from its spec: read the runs, compute, and lay out the tables. No model is called, nothing is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shard_eval import families, passports
from shard_eval.compare import Matched, arms_differ, evidence
from shard_eval.errors import UsageError
from shard_eval.leaderboard import columns, corrections, sources, verdicts
from shard_eval.leaderboard.scores import Joint, Scored, alone, compare_all, read_base, score
from shard_eval.leaderboard.sources import Key
from shard_eval.leaderboard.spec import Spec, SystemSpec
from shard_eval.leaderboard.table import Board, Curve, Groups, Row, System, Table, Verdict
from shard_eval.logs import Run, differing_arms
from shard_eval.records import PAIR_AXES, Axis
from shard_eval.stats.claims import MIN_CLUSTERS, Claim, Part, claim
from shard_eval.stats.comparison import Comparison
from shard_eval.stats.multiplicity import holm
from shard_eval.summary import metric


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "x"


KINDS = ("baseline", "system", "resampled", "control")
TERMS = (
    "margin", "refusal_margin", "level", "correction", "floor", "rank_by", "declared", "resamples", "seed",
)  # fmt: skip
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
        if _claims(system, spec):
            absent = [key for key, folders in chosen.items() if system.name not in folders]
            claims[system.name] = _claim(matched, absent, spec)
    decided = verdicts.decide(claims, spec)
    joints = {key: compare_all(lines, bases[key], spec) for key, lines in scored.items()}
    whole = {s.name: tuple(f for place in chosen.values() for f in _both(place, s.name, spec)) for s in spec.systems}
    tables = tuple(_table(key, scored[key], joints[key], claims, decided, whole, spec, trained) for key in chosen)
    return Board(
        name=spec.name,
        title=spec.title,
        about=spec.about,
        baseline=spec.baseline,
        terms={name: getattr(spec, name) for name in TERMS} | {"rank_by": _ranked_by(joints)},
        tables=tables,
        systems={s.name: _system(s, scored, decided, spec, trained) for s in _in_order(spec)},
        passports=_passports([line for lines in scored.values() for line in lines]),
        checks=tuple(check for key in chosen for check in _checks(scored[key], spec)),
        footnotes=(*spec.footnotes, *_absent(spec, chosen), *_uncontrolled(spec), *_uncorrected(spec)),
    )


def _in_order(spec: Spec) -> list[SystemSpec]:
    """The baseline first, then as the spec has them."""
    return sorted(spec.systems, key=lambda s: s.name != spec.baseline)


def _ranked_by(joints: Mapping[Key, Joint]) -> str:
    """The metrics that were really ranked by."""
    return ", ".join(dict.fromkeys(joint.metric for joint in joints.values() if joint.metric))


def _claims(system: SystemSpec, spec: Spec) -> bool:
    """Whether the board says something of a system: not of the baseline, nor of controls."""
    return system.kind == "system" and system.name != spec.baseline


def _both(folders: Mapping[str, str], name: str, spec: Spec) -> tuple[str, ...]:
    """A system's folder in a table, and the baseline's."""
    return (folders[name], folders[spec.baseline]) if name in folders else ()


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


def _uncorrected(spec: Spec) -> list[str]:
    if spec.correction != "none":
        return []
    return ["Verdicts are NOT corrected for the number of systems on the board, so none is set in bold."]


# --- claims ------------------------------------------------------------------------------------------------------


def _source(run: Run) -> str:
    return f"{run.protocol.benchmark} by {run.protocol.judge}"


def _claim(matched: Sequence[Matched], absent: Sequence[Key], spec: Spec) -> Claim:
    """A system's claim over all tables of the board; the values of single pairs are let go.

    A table that the system does not stand in leaves the claim undecided: what was left out may be what speaks against
    it. The bounds that are corrected for the judge's errors hold for all systems of the board at once (Bonferroni).
    """
    systems = sum(_claims(system, spec) for system in spec.systems) if spec.correction != "none" else 1
    strict = replace(spec.terms, level=1 - (1 - spec.level) / systems)
    found = [replace(e, source=_part_source(m, e.source)) for m in matched for e in evidence(m, strict)]
    doubts = [] if spec.declared else sorted({line for m in matched for line in arms_differ(m)})
    doubts += [f"not scored on {key.benchmark} by {key.judge}, which is a table of this board" for key in absent]
    whole = claim(found, doubts, spec.level)
    return replace(whole, parts=tuple(_light(part) for part in whole.parts))


def _part_source(matched: Matched, source: str) -> str:
    """Benchmark and judge of a part: that of single answers, or of pairs."""
    if matched.preferences is not None and source.endswith(", pairs"):
        return f"{matched.benchmark} by {matched.preferences.judge}, pairs"
    return _source(matched.candidate)


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
    folders: Mapping[str, tuple[str, ...]],
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
            line,
            base,
            joint,
            spec,
            decided.get(name),
            folders[name],
            harm.get(name),
            _selected(line.run, trained),
            notes,
        )
        kind = "baseline" if line is base else line.system.kind
        measured = {n: m.estimate for n, m in line.measured.items()}
        made.append(Row(name, kind, columns.cells(cell_line), line.folder, measured, line.parts, line.plane))
    for line in ordered:
        for text in (line.system.note, families.own_family_line(line.run.metadata)):
            if text:
                notes.mark(f"{line.system.name}: {text}")
    there = {name for row in made for name in row.cells}
    return Table(
        key=f"{_slug(protocol.benchmark)}-{_slug(key.judge)}",
        benchmark=protocol.benchmark,
        judge=protocol.judge,
        passport=passports.trust(protocol).agreement,
        title=_title(base.run, spec),
        columns=tuple(c for c in columns.heads(spec) if c.name in there),
        rows=tuple(made),
        foot=tuple(notes.lines),
        groups=_groups(joint, lines),
        content=protocol.content,
        fixture=protocol.origin == "fixture",
    )


def _doubts(run: Run, axis: Axis, spec: Spec) -> list[str]:
    """Why the judge of a run must not carry a claim on an axis."""
    prompts: dict[str, str] = dict(run.protocol.prompts)
    return passports.untrusted(run.protocol.judge, prompts, [axis], spec.floor)


def _title(run: Run, spec: Spec) -> str:
    """Benchmark, task and judge; a fixture and a judge that nobody measured are named in the title."""
    p = run.protocol
    title = f"{p.benchmark} · {p.task} {p.version} · judge {p.judge}"
    title += f" · {part}" if (part := _part_of(run)) else ""
    if p.origin == "fixture":
        title += " · FIXTURE, not the benchmark: quote no number from it"
    return title + passports.uncalibrated(p.judge, dict(p.prompts), spec.floor)


def _part_of(run: Run) -> str:
    """Which records, if not all: the split, and how many of the first."""
    ran = run.metadata.get("run") or {}
    first = f"first {ran['limit']} records only" if ran.get("limit") is not None else ""
    return ", ".join(part for part in (str(ran.get("split") or ""), first) if part)


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
    found += corrections.lines(lines, spec)
    doubts = [d for axis, _ in base.run.protocol.prompts for d in _doubts(base.run, axis, spec)]
    pairwise = dict.fromkeys(line.pairwise for line in lines if line.pairwise is not None)
    for judge in pairwise:
        doubts += passports.untrusted(judge.judge, dict(judge.prompts), PAIR_AXES, spec.floor)
    found += [f"{text[0].upper()}{text[1:]}." for text in dict.fromkeys(doubts)]
    found += _left_out(lines, joint)
    if base.run.protocol.origin == "fixture":
        found.append("A FIXTURE stands in for the benchmark: these numbers say nothing about it.")
    ranked = [line.run for line in lines if line.system.kind == "system"]
    found += [
        f"{text[0].upper()}{text[1:]}{' (declared)' if spec.declared else ''}." for text in differing_arms(ranked)
    ]
    return found + _attacked(base.run) + _cut(lines)


def _left_out(lines: Sequence[Scored], joint: Joint) -> list[str]:
    """Which systems a comparison could not hold, and whose missing verdicts it leaves out."""
    systems = [line for line in lines if line.system.kind == "system"]
    found = []
    few: dict[tuple[str, ...], list[str]] = {}
    for name, there in joint.intervals.items():
        judged = [s for s in systems[1:] if (s.wins is not None if name == "wins" else name in s.values)]
        absent = tuple(s.system.name for s in judged if s.system.name not in there)
        few.setdefault(absent, []).append("helpfulness" if name == "wins" else metric(name).title)
    for names, titles in few.items():
        if names:
            why = f"fewer than {MIN_CLUSTERS} independent prompts with verdicts"
            found.append(f"Not compared in {', '.join(titles)}, for {why}: {', '.join(names)}.")
    if not joint.metric:
        found.append("Not ranked: the metric to rank by was not judged here.")
        return found
    unranked = [s.system.name for s in systems if s.system.name not in joint.ranked]
    if unranked:
        found.append(f"Not ranked, for want of verdicts: {', '.join(unranked)}.")
    gaps = [s.system.name for s in systems if s.system.name in joint.ranked and s.missing[joint.metric].any()]
    if gaps:
        found.append(
            f"Ranks leave missing verdicts out; some are missing of {', '.join(gaps)}. Bold and verdicts do not."
        )
    return found


def _attacked(run: Run) -> list[str]:
    """One line on what attacks do to the judge, or on that nobody knows; none for people."""
    if run.protocol.judge == passports.HUMAN or not run.protocol.prompts:
        return []
    return [passports.trust(run.protocol).attacked or passports.NEVER_ATTACKED]


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
    graders = [grader] if "model" in grader else list(grader.values())  # a panel's by their roles
    same = [k for k in ("model", "weights_sha256") for g in graders if selector.get(k) and selector.get(k) == g.get(k)]
    return "the judge of this table selected its training data; expect it to like the result." if same else ""


def _passports(lines: Sequence[Scored]) -> dict[str, Any]:
    """Per judge, of single answers or of pairs, how far to trust it on the axes it judged anywhere on the board."""
    prompts: dict[str, dict[str, str]] = {}
    for line in lines:
        prompts.setdefault(line.run.protocol.judge, {}).update(line.run.protocol.prompts)
        if line.pairwise is not None:
            prompts.setdefault(line.pairwise.judge, {}).update(line.pairwise.prompts)
    return {
        judge: {
            "line": passports.describe(judge, known),
            "agreement": [_agreement(a) for a in passports.agreements(judge, known)],
        }
        for judge, known in prompts.items()
    }


_FIGURES = ("accuracy", "detection", "kappa", "n", "unscored")


def _agreement(found: passports.Agreement) -> dict[str, Any]:
    """What a board keeps of a passport: the figures that its tables print and rest on."""
    figures = {name: found.found[name] for name in _FIGURES if name in found.found}
    return {"axis": found.axis, "on": found.on, "found": figures, "held_out": found.held_out}


def _checks(lines: Sequence[Scored], spec: Spec) -> list[str]:
    """What the controls of a table say: the baseline drawn again must be a tie, a constant must not lead."""
    base, found = lines[0], []
    where = _source(base.run)
    again = [line for line in lines if line.system.kind == "resampled"]
    for line in again:
        if line.folder == base.folder:
            raise UsageError(f"{line.system.name} is the baseline's own run, not another draw of it: {line.folder}.")
        tested = [m for m in CONTROL_METRICS if m in line.values and m in base.values]
        # Shared out, so that one control in twenty fails by chance, not one in seven.
        level = 1 - (1 - spec.level) / max(1, len(tested) * len(again))
        found.append(_again(where, line, {m: alone(line, base, m, level) for m in tested}))
    for line in (line for line in lines if line.system.kind == "control"):
        found.append(_constant(where, line, [o for o in lines if o.system.kind == "system"]))
    return found


def _again(where: str, line: Scored, found: Mapping[str, Comparison]) -> str:
    name = f"{where}: {line.system.name}"
    if not any(c.n for c in found.values()):
        return f"not checked: {name} has no verdicts in common with the baseline."
    off = [m for m, c in found.items() if not c.low <= 0 <= c.high]
    if off:
        return f"FAIL: {name} differs from the baseline in {', '.join(off)}."
    return f"pass: {name} is a tie with the baseline."


def _constant(where: str, line: Scored, systems: Sequence[Scored]) -> str:
    name = f"{where}: {line.system.name}"
    scores = {o.system.name: o.measured["joint"].estimate.value for o in systems if "joint" in o.measured}
    own = line.measured["joint"].estimate.value if "joint" in line.measured else None
    if own is None or all(score is None for score in scores.values()):
        return f"not checked: {name} needs a joint score, which was not judged here."
    below = [other for other, score in scores.items() if score is not None and score <= own]
    if below:
        return f"FAIL: {name} is not below {', '.join(below)}."
    return f"pass: {name} has the lowest joint score, as it must."
