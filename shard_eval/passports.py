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

from shard_eval import attacks, calibrate, running, score
from shard_eval.attacks import Attacked
from shard_eval.benchmarks import labelled
from shard_eval.benchmarks.labelled import Labelled
from shard_eval.benchmarks.labelled_files import RESERVED
from shard_eval.errors import UsageError
from shard_eval.judges import held_out
from shard_eval.judges.embedded import HELD_OUT
from shard_eval.judges.embedded import agreement as embedded_agreement
from shard_eval.logs import Protocol, Row, read_run
from shard_eval.pairs import read_preferences
from shard_eval.records import Axis, Record, sha256
from shard_eval.systems import resolve
from shard_eval.verdict_cost import cost

FLOOR = 0.4
"""Kappa against people below which a judge's verdicts carry no claim, unless told otherwise."""

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
    _refuse_learned(judging, on)
    task = calibrate.calibration_task(on, judging.kind, axes, limit=limit)
    log = _run(task, judging, judging.kind, calibrate.label(on), f"{axes} {limit}", root, console)
    run, known = read_run(log), labelled.read(on)
    truth = calibrate.sample(known.rows, limit)
    rows, learned = _held_out(run.rows, truth, judging.kind)
    sources = sorted({reply.record.source for reply in truth}) if learned else ()
    name = _name(judging)
    prompts = dict(run.metadata.get("judge_prompts", {}))
    packaged = judging.kind == "embedded" and on in labelled.SETS
    found = calibrate.passport(
        calibrate.label(on),
        name,
        prompts,
        calibrate.agree(rows, truth, sources or _undeveloped(judging.kind, on)),
        categories=calibrate.by_category(rows, truth),
        cost={} if packaged else cost(log),  # what is part of the package must be the same on every machine
        raters={axis: asdict(raters) for axis, raters in known.raters.items()},
        system_ids=known.system_ids,
        unlabelled=known.unlabelled,
        held_out=learned,
    )
    if not packaged:
        _keep(found, str(limit or "all"))
    return found


def _undeveloped(kind: str, on: str) -> Sequence[str]:
    """Source models that the embedded judge's rules were not developed on."""
    return HELD_OUT.get(on, ()) if kind == "embedded" else ()


def _learned(kind: str, records: Sequence[Record]) -> list[dict[Axis, int] | None]:
    """For each reply that a trained judge learned from, the verdict of one that had not seen its model."""
    place = Path(kind.removeprefix("trained:")).expanduser() / "held_out.csv"
    if not kind.startswith("trained:") or not place.is_file():
        return [None] * len(records)
    return held_out.verdicts(records, place)


def _held_out(rows: Sequence[Row], truth: Sequence[Labelled], kind: str) -> tuple[list[Row], int]:
    """Of replies a trained judge learned from, the verdicts of judges that had not seen them.

    Returns:
        The rows, and how many replies were learned from.
    """
    records = [reply.record for reply in truth]
    verdicts = dict(zip((r.id for r in records), _learned(kind, records), strict=True))
    replaced = []
    for row in rows:
        known = verdicts[row.id]
        labels = row.labels if known is None else {axis: known.get(axis, label) for axis, label in row.labels.items()}
        replaced.append(replace(row, labels=labels))
    return replaced, sum(verdict is not None for verdict in verdicts.values())


def _refuse_learned(judging: score.Judging, on: str) -> None:
    """A panel cannot be measured on replies that one of its members learned from."""
    trained = [member.kind for member in judging.members if member.kind.startswith("trained:")]
    records = [reply.record for reply in labelled.load(on)] if trained else []
    for kind in trained:
        learned = sum(verdict is not None for verdict in _learned(kind, records))
        if learned:
            raise UsageError(
                f"the panel's member {kind!r} was trained on {learned} of the {len(records)} replies of {on!r}, which "
                "would flatter the panel. Calibrate it on other labels, or without that member."
            )


def _name(judging: score.Judging) -> str:
    """Name of a judge with its grader's identity, as logs have it."""
    return judging.identified


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
    found = attacks.summarise(run.rows, attacks.responses(on, limit), _name(judging), prompts, label)
    if judging.kind != "embedded" or on not in PACKAGED_ATTACKS:  # those are part of the package
        _write(f"{_key(found.judge, prompts)}-attacks-{label.replace(' ', '-')}-{limit}.json", attacks.to_json(found))
    return found


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
    (store() / name).write_text(calibrate.dumps(found))


def find(judge: str, prompts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Passports that speak for a judge: its name, and the same prompts on the axes they share.

    Args:
        judge: name of the judge, with its grader's identity.
        prompts: fingerprint per axis.
    """
    packaged = embedded_agreement() if judge == "embedded" else []
    known = [p for p in packaged if _speaks_for(p, judge, prompts)]
    return [*known, *(p for _, p in kept(judge, prompts) if "agreement" in p)]


PACKAGED_ATTACKS = ("mini", "dna")
"""The sets whose responses the embedded judge was attacked on for the package."""


@lru_cache(maxsize=1)
def packaged_attacks() -> tuple[dict[str, Any], ...]:
    """What attacks do to the embedded judge; `make attacks` writes it."""
    text = (resources.files("shard_eval.judges") / "embedded_attacks.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


def attacked(judge: str, prompts: Mapping[str, str]) -> list[Attacked]:
    """Results of attacks that speak for a judge, as `find` gives its passports."""
    packaged = packaged_attacks() if judge == "embedded" else ()
    known = [p for p in packaged if _speaks_for(p, judge, prompts)]
    return [attacks.from_json(p) for p in (*known, *(p for _, p in kept(judge, prompts) if "flips" in p))]


def attack_line(protocol: Protocol) -> str:
    """One line on what attacks do to the judge on the axes of a table; "" if nobody attacked it, or it is people."""
    prompts: dict[str, str] = dict(protocol.prompts)
    return attacks.describe(protocol.judge, attacked(protocol.judge, prompts), list(prompts))


def kept(judge: str, prompts: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Passports and results of attacks in the store alone, each with its file's name."""
    paths = sorted(store().glob("*.json")) if store().is_dir() else []
    found = [(path.name, json.loads(path.read_text())) for path in paths]
    return [(name, p) for name, p in found if _speaks_for(p, judge, prompts)]


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


def line(protocol: Protocol) -> str:
    """One line on how far to trust the judge on the axes of a table; "" if nobody has measured it."""
    return describe(protocol.judge, dict(protocol.prompts))


def describe(judge: str, prompts: Mapping[str, str]) -> str:
    """The same for a judge by name."""
    if judge == HUMAN:
        return "Judged by people: the reference that other judges are measured against."
    best = agreements(judge, prompts)
    parts = []
    for a in best:
        text = f"{a.axis} κ {a.found['kappa']:.2f}"
        if a.axis == "harm" and "detection" in a.found:
            rates = (f"{k} {_rate(a.found['detection'][k]['value'])}" for k in ("sensitivity", "specificity"))
            text += f" ({', '.join(rates)})"
        parts.append(f"{text}, n {a.found['n']} {'held-out ' if a.held_out else ''}{a.on}")
    if not parts:
        return ""
    blind = sorted(prompts.keys() - {a.axis for a in best})
    rest = f"; no human labels for {', '.join(blind)}" if blind else ""
    rules = " (lexical rules, v0)" if judge == "embedded" else ""
    return f"Judge {judge}{rules} against people: {'; '.join(parts)}{rest}."


def _rate(value: float | None) -> str:
    """A rate, or a dash where there was nothing to find (a small sample may hold no harmful reply)."""
    return "–" if value is None else f"{value:.3f}"
