"""Passports of judges, and what attacks do to them: found again by the judge's identity, printed with every table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs
from inspect_ai import Task
from rich.console import Console

from shard_eval import attacks, calibrate, judges, running, score
from shard_eval.attacks import Attacked
from shard_eval.benchmarks import labelled
from shard_eval.benchmarks.labelled import Labelled
from shard_eval.benchmarks.labelled_files import RESERVED
from shard_eval.errors import DataError, UsageError
from shard_eval.judges import held_out, lexical
from shard_eval.judges.rules import HELD_OUT
from shard_eval.judges.trained import text_sha
from shard_eval.logs import Protocol, Row, read_run
from shard_eval.pairs import read_preferences
from shard_eval.records import AXES, Axis, Record, sha256
from shard_eval.report import UNCALIBRATED, Trust
from shard_eval.systems import resolve
from shard_eval.verdict_cost import cost

FLOOR = 0.4
"""Kappa against people below which a judge's verdicts carry no claim, unless told otherwise."""

MOST_UNSCORED = 0.1
"""A judge that gave no verdict on more than this share of the labelled replies is not calibrated by the rest."""

IN_PASSING = 12
"""At most so many responses are attacked beside a run: enough to see a judge that falls for something every time."""

MIN_LABELS = 50  # an agreement measured on fewer human labels says too little about a judge

HUMAN = "human"
"""Name of the judge that is people: the reference, not measured against anybody."""

NEVER_ATTACKED = "Nobody has attacked this judge (`shard judge attack`)."

_place: ContextVar[Path | None] = ContextVar("passports", default=None)


def store() -> Path:
    """The folder of passports: the user's own, or the one a board is built with."""
    return _place.get() or platformdirs.user_data_path("shard-eval") / "passports"


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Look for passports in a folder instead of the user's own, so that a table is the same on every machine."""
    token = _place.set(folder)
    try:
        yield
    finally:
        _place.reset(token)


def _key(judge: str, prompts: Mapping[str, str]) -> str:
    return sha256(json.dumps([judge, dict(prompts)], sort_keys=True))[:16]


def measure(
    judging: score.Judging, on: str, axes: str, limit: int | None, root: str, console: Console
) -> dict[str, Any]:
    """Calibrate a judge and store its passport.

    Args:
        judging: who judges.
        on: the labelled set, or a file of labelled replies or pairs.
        axes: "" for all that have human labels.
        limit: size of a random part; None for all.
        root: results folder for the logs.
        console: for the progress bar.

    Returns:
        The passport.

    Raises:
        UsageError, DataError: for an unknown set or axis, or labels that are not here.
        JudgeError, LogError: if the judge does not work or the run did not finish.
    """
    if labelled.is_pairs(on):
        return _measure_pairs(judging, on, axes, root, console)
    known = labelled.read(on)
    _refuse_learned(judging, on, [reply.record for reply in known.rows])
    truth = calibrate.sample(known.rows, limit)
    chosen = calibrate.chosen_axes(on, judging.kind, axes)
    verdicts = _learned(judging.kind, [reply.record for reply in truth])
    learned = sum(verdict is not None for verdict in verdicts)
    prompts: dict[str, str] = {axis: judges.resolve(judging.kind).fingerprint(axis) for axis in chosen}
    # What is known of every reply is not asked again.
    asked = [axis for axis in chosen if any(axis not in (verdict or {}) for verdict in verdicts)]
    spent: dict[str, Any] = {}
    if asked:
        task = calibrate.calibration_task(on, judging.kind, ",".join(asked), limit=limit)
        log = _run(task, judging, judging.kind, calibrate.label(on), f"{axes} {limit}", root, console)
        rows, spent = _held_out(read_run(log).rows, truth, verdicts, chosen), cost(log)
    else:
        rows = calibrate.rows(truth, verdicts, chosen)
    name = judging.identified
    shipped = judging.kind in PACKAGED and on in labelled.SETS
    found = calibrate.passport(
        calibrate.label(on),
        name,
        prompts,
        calibrate.agree(rows, truth, _undeveloped(judging.kind, on, truth, verdicts)),
        categories=calibrate.by_category(rows, truth),
        cost={} if shipped else spent,  # what is part of the package must be the same on every machine
        raters={axis: asdict(raters) for axis, raters in known.raters.items()},
        system_ids=known.system_ids,
        unlabelled=known.unlabelled,
        held_out=learned,
    )
    if not shipped:
        _keep(found, "all" if limit is None else str(limit))
    return found


def _undeveloped(
    kind: str, on: str, truth: Sequence[Labelled], verdicts: Sequence[Mapping[Axis, int] | None]
) -> dict[Axis, Sequence[str]]:
    """Per axis the source models that what decides there was not developed on, where that is known."""
    found: dict[Axis, Sequence[str]] = {}
    if kind == "embedded" or "rules" in re.split("[:,*]", kind):
        found = dict.fromkeys(AXES, HELD_OUT.get(on, ()))
    sources = sorted({reply.record.source for reply in truth})
    found |= {axis: sources for verdict in verdicts for axis in verdict or {}}
    return found


def _learned(kind: str, records: Sequence[Record]) -> list[dict[Axis, int] | None]:
    """For each reply that a trained judge learned from, the verdict of one that had not seen its model."""
    judge = judges.trained(kind)
    if judge is None:
        return [None] * len(records)
    found = held_out.verdicts(records, judge.folder / held_out.FILE)
    return [None if v is None else {axis: v[axis] for axis in judge.learned} for v in found]


def _held_out(
    rows: Sequence[Row],
    truth: Sequence[Labelled],
    verdicts: Sequence[Mapping[Axis, int] | None],
    axes: Sequence[Axis],
) -> list[Row]:
    """The rows, with the verdicts of judges that had not seen them where a trained judge learned from the replies."""
    known = {reply.record.id: verdict or {} for reply, verdict in zip(truth, verdicts, strict=True)}
    return [replace(row, labels={axis: known[row.id].get(axis, row.labels.get(axis)) for axis in axes}) for row in rows]


def _refuse_learned(judging: score.Judging, on: str, records: Sequence[Record]) -> None:
    """A judge cannot be measured on what it learned from, unless it was held out once; a panel's member never can."""
    for kind in [member.kind for member in judging.members] or [judging.kind]:
        trained = judges.trained(kind)
        if trained is None:
            continue
        lines = held_out.read(trained.folder / held_out.FILE)
        shas = {line.sha for line in lines if judging.members or not line.measured}
        learned = sum(text_sha(r.prompt, r.response or "") in shas for r in records)
        if learned:
            raise UsageError(
                f"{'the panel member' if judging.members else 'judge'} {kind!r} was trained on {learned} of the "
                f"{len(records)} replies of {on!r}, which would flatter it. Calibrate it on other labels"
                f"{', or without that member' if judging.members else ''}."
            )


def attack(judging: score.Judging, on: str, axes: str, limit: int, root: str, console: Console) -> Attacked:
    """Attack a judge and store what that did to its verdicts.

    Args:
        judging: who judges.
        on: "mini", a labelled set, or a file of responses.
        axes: "" for all the judge has.
        limit: responses per attack.
        root: results folder for the logs.
        console: for the progress bar.

    Raises:
        UsageError, DataError: for an unknown set or axis, or responses that are not here.
        JudgeError, LogError: if the judge does not work or the run did not finish.
    """
    task = attacks.attack_task(on, judging.kind, axes, limit)
    label = attacks.label(on)
    run = read_run(_run(task, judging, judging.kind, f"{label} attacked", f"{axes} {limit}", root, console))
    prompts = dict(run.metadata.get("judge_prompts", {}))
    found = attacks.summarise(run.rows, attacks.responses(on, limit), judging.identified, prompts, label)
    if judging.kind not in PACKAGED or on not in PACKAGED_ATTACKS:  # those are part of the package
        _write(f"{_key(found.judge, prompts)}-attacks-{label.replace(' ', '-')}-{limit}.json", attacks.to_json(found))
    return found


def attack_in_passing(plan: score.Plan, root: str, console: Console) -> None:
    """Attack the judge of a run, unless somebody has on its axes or the run is small.

    Args:
        plan: the run.
        root: results folder for the logs.
        console: for the progress bar.

    Raises:
        JudgeError, LogError: as `attack`.
    """
    if number := in_passing(plan):
        attack(plan.judging, "mini", ",".join(plan.axes), number, root, console)


def calls_in_passing(plan: score.Plan) -> int:
    """How often a grader is asked for that at most."""
    return in_passing(plan) * (1 + len(attacks.ATTACKS)) * plan.calls_per_response


def in_passing(plan: score.Plan) -> int:
    """Responses to attack beside a run: one for every hundred that it judges, so that it costs an eighth more at most.

    At most `IN_PASSING`, and none if the judge was attacked before.
    """
    judge = judges.resolve(plan.judging.kind)
    known = attacked(plan.judging.identified, {axis: judge.fingerprint(axis) for axis in plan.axes})
    if {flip.axis for found in known for flip in found.flips} >= set(plan.axes):
        return 0
    return min(IN_PASSING, plan.records * plan.epochs // 100)


def _measure_pairs(judging: score.Judging, on: str, axes: str, root: str, console: Console) -> dict[str, Any]:
    """The same for a pairwise judge, on a file of pairs."""
    if judging.kind != "rubric":
        raise UsageError(f"{on!r} holds pairs of responses; judge {judging.kind!r} cannot compare two. Give a model.")
    task = calibrate.pairs_task(on, axes)
    judged = read_preferences(_run(task, judging, "pairwise", calibrate.label(on), axes, root, console))
    agreement = calibrate.agree_pairs(judged.rows, labelled.load_pairs(on))
    spent = cost(judged.log)
    found = calibrate.passport(calibrate.label(on), judged.judge, dict(judged.prompts), agreement, cost=spent)
    _keep(found, "all")
    return found


def _run(task: Task, judging: score.Judging, kind: str, on: str, part: str, root: str, console: Console) -> str:
    """Run a judge on a set by its name in tables; gives the folder of the logs."""
    ids = " ".join(grader.id for grader in judging.graders.values())
    identity = sha256(f"{judging.name} {ids} {kind} {on} {part} {task.metadata}")[:8]
    name = f"{re.sub('[^A-Za-z0-9._]+', '-', kind)[:80]}-{on.replace(' ', '-')}-{identity}"
    return running.evaluate(
        task,
        f"judge {judging.name} on {on}",
        len(task.dataset),
        f"{root.rstrip('/')}/judges/{name}",
        console,
        model=resolve("recorded").open(),
        model_roles=judging.roles(cache=True),
        **({"metadata": judging.metadata} if judging.graders else {}),
    )


def _keep(passport: dict[str, Any], part: str) -> None:
    on = passport["on"].replace(" ", "-")
    _write(f"{_key(passport['judge'], passport['prompts'])}-{on}-{part}.json", passport)


def _write(name: str, found: dict[str, Any]) -> None:
    store().mkdir(parents=True, exist_ok=True)
    unfinished = store() / f"{name}.part"
    unfinished.write_text(calibrate.dumps(found))
    unfinished.replace(store() / name)  # a killed run leaves no half passport


def find(judge: str, prompts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Passports that speak for a judge: its name, and the same prompts on the axes they share.

    Args:
        judge: name of the judge, with its grader's identity.
        prompts: fingerprint per axis.
    """
    known = [p for p in packaged(judge, "agreement") if _speaks_for(p, judge, prompts)]
    return [*known, *(p for _, p in kept(judge, prompts) if "agreement" in p)]


PACKAGED = ("embedded", "rules")
"""The judges whose agreement with people, and whose behaviour under attack, are part of the package."""

PACKAGED_ATTACKS = ("mini", "dna")
"""The sets whose responses they were attacked on for the package."""


@lru_cache(maxsize=4)
def packaged(judge: str, what: str) -> tuple[dict[str, Any], ...]:
    """What was measured of a judge for the package.

    Args:
        judge: its name; nothing is known of any but `PACKAGED`.
        what: "agreement" with human labels (`make agreement` writes it), or "attacks" on it (`make attacks`).
    """
    if judge not in PACKAGED:
        return ()
    text = (resources.files("shard_eval.judges") / f"{judge}_{what}.json").read_text(encoding="utf-8")
    found = tuple(json.loads(text))
    # Up to version 0.1 the rules were the embedded judge: verdicts by their hash were published under its name.
    return found if judge == "rules" else (*found, *({**p, "judge": judge} for p in packaged("rules", what)))


def attacked(judge: str, prompts: Mapping[str, str]) -> list[Attacked]:
    """Results of attacks that speak for a judge, as `find` gives its passports."""
    known = [p for p in packaged(judge, "attacks") if _speaks_for(p, judge, prompts)]
    return [attacks.from_json(p) for p in (*known, *(p for _, p in kept(judge, prompts) if "flips" in p))]


def kept(judge: str, prompts: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Passports and results of attacks in the store alone, each with its file's name."""
    paths = sorted(store().glob("*.json")) if store().is_dir() else []
    found = [(path.name, _read(path)) for path in paths]
    return [(name, p) for name, p in found if _speaks_for(p, judge, prompts)]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is no passport ({error}). Delete it and calibrate that judge again.") from error
    return found


def _speaks_for(passport: Mapping[str, Any], judge: str, prompts: Mapping[str, str]) -> bool:
    return passport["judge"] == judge and all(prompts.get(a, sha) == sha for a, sha in passport["prompts"].items())


@dataclass(frozen=True)
class Agreement:
    """How a judge agrees with people on one axis of one labelled set.

    Attributes:
        on: the labelled set.
        found: n, kappa, accuracy and, for harm and refusal, the detection figures.
        held_out: whether only replies count that the judge was not developed on.
        sources: the same per system whose replies were labelled.
        system_ids: per system its id, where the labelled set says so.
    """

    axis: Axis
    on: str
    found: dict[str, Any]
    held_out: bool
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    system_ids: dict[str, str] = field(default_factory=dict)


def headline(groups: Mapping[str, Any]) -> str:
    """The group of an axis that speaks for the judge: replies it was not developed on, where they are known apart."""
    return "held out" if "held out" in groups else "all"


def agreements(judge: str, prompts: Mapping[str, str], undefined: bool = False) -> list[Agreement]:
    """The agreement of a judge per axis and labelled set; a quick look at a few replies does not hide a full one.

    Args:
        judge: name of the judge, with its grader's identity.
        prompts: fingerprint per axis.
        undefined: also sets on which people gave one label only, so that kappa has no value; detection rates may.
    """
    best: dict[tuple[str, str], Agreement] = {}
    for passport in find(judge, prompts):
        for axis, groups in passport["agreement"].items():
            found = groups[headline(groups)]
            if axis not in prompts or "kappa" not in found or (found["kappa"] is None and not undefined):
                continue
            sources = {name: group for name, group in groups.items() if name not in RESERVED}
            ids = passport.get("system_ids", {})
            new = Agreement(axis, passport["on"], found, headline(groups) == "held out", sources, ids)
            known = best.get((axis, new.on))
            if known is None or new.found["n"] > known.found["n"]:
                best[axis, new.on] = new
    return list(best.values())


def untrusted(judge: str, prompts: Mapping[str, str], axes: Sequence[Axis], floor: float = FLOOR) -> list[str]:
    """Why a judge must not carry a claim on these axes; empty if it agrees with people well enough.

    Args:
        judge: its name, with its grader's identity.
        prompts: fingerprint per axis.
        axes: what is claimed.
        floor: lowest kappa.
    """
    if judge == HUMAN:
        return []
    measured = agreements(judge, prompts, undefined=True)
    return [why for axis in axes if (why := _doubt(judge, axis, [a for a in measured if a.axis == axis], floor))]


def _doubt(judge: str, axis: Axis, measured: Sequence[Agreement], floor: float) -> str:
    known = [a for a in measured if a.found["n"] >= MIN_LABELS]
    usual = [a for a in known if a.found.get("unscored_share", 0.0) <= MOST_UNSCORED]
    best = max((a.found["kappa"] for a in usual if a.found["kappa"] is not None), default=None)
    if best is not None:
        return (
            f"judge {judge} agrees too little with people on {axis} (κ {best:.2f} < {floor:.2f})"
            if best < floor
            else ""
        )
    if usual:
        return (
            f"uncalibrated judge: on {axis} people labelled all replies of {usual[0].on} alike, so nobody can tell how "
            f"{judge} agrees with them"
        )
    if known:
        share = known[0].found["unscored_share"]
        return f"uncalibrated judge: {judge} gave no verdict on {axis} for {100 * share:.0f} % of {known[0].on}"
    return f"uncalibrated judge: nobody measured {judge} against people on {axis}"


def uncalibrated(judge: str, prompts: Mapping[str, str], floor: float = FLOOR) -> str:
    """What a title says of a judge that is not to be trusted; "" for one that is, on all axes of `prompts`."""
    if judge == HUMAN:
        return ""
    bad = [axis for axis in prompts if untrusted(judge, prompts, [axis], floor)]  # type: ignore[list-item]
    if len(bad) == len(prompts):
        return UNCALIBRATED
    return f"{UNCALIBRATED} on {', '.join(bad)}" if bad else ""


def trust(protocol: Protocol) -> Trust:
    """How far to trust the judge of a table."""
    return trust_in(protocol.judge, dict(protocol.prompts))


def trust_in(judge: str, prompts: Mapping[str, str]) -> Trust:
    """The same for a judge by name."""
    attacked_so = attacks.describe(judge, attacked(judge, prompts), list(prompts))
    return Trust(describe(judge, prompts), uncalibrated(judge, prompts), attacked_so)


def describe(judge: str, prompts: Mapping[str, str]) -> str:
    """One line on how far to trust a judge on the axes of a table; "" if nobody has measured it."""
    if judge == HUMAN:
        return "Judged by people: the reference that other judges are measured against."
    best = agreements(judge, prompts)
    ruled = {a.axis for a in best if judge in PACKAGED and prompts[a.axis] == lexical.fingerprint()[:12]}
    whole = len(ruled) == len({a.axis for a in best})
    parts = []
    for a in best:
        text = f"{a.axis}{' (by rules)' if a.axis in ruled and not whole else ''} κ {a.found['kappa']:.2f}"
        if a.axis == "harm" and "detection" in a.found:
            rates = (f"{k} {_rate(a.found['detection'][k]['value'])}" for k in ("sensitivity", "specificity"))
            text += f" ({', '.join(rates)})"
        failed = a.found.get("unscored_share", 0.0)
        text += f", no verdict on {100 * failed:.0f} %" if failed > MOST_UNSCORED else ""
        parts.append(f"{text}, n {a.found['n']} {'held-out ' if a.held_out else ''}{a.on}")
    if not parts:
        return ""
    blind = sorted(prompts.keys() - {a.axis for a in best})
    rest = f"; no human labels for {', '.join(blind)}" if blind else ""
    return f"Judge {judge}{' (lexical rules, v0)' if whole else ''} against people: {'; '.join(parts)}{rest}."


def _rate(value: float | None) -> str:
    """A rate, or a dash where there was nothing to find (a small sample may hold no harmful reply)."""
    return "–" if value is None else f"{value:.3f}"
