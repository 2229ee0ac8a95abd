"""Passports of judges: made by calibrating, found again by the judge's identity, printed beside every table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console
from rich.table import Table

from shard_eval import calibrate, score
from shard_eval.benchmarks import labelled
from shard_eval.judges.embedded import HELD_OUT
from shard_eval.judges.embedded import agreement as embedded_agreement
from shard_eval.logs import Protocol
from shard_eval.records import sha256
from shard_eval.systems import resolve


def _store() -> Path:
    return platformdirs.user_data_path("shard-eval") / "passports"


def _key(judge: str, prompts: Mapping[str, str]) -> str:
    return sha256(json.dumps([judge, dict(prompts)], sort_keys=True))[:16]


def measure(
    judging: score.Judging, on: str, axes: str, limit: int | None, root: str, console: Console
) -> dict[str, Any]:
    """Calibrate a judge and store its passport.

    Args:
        judging: who judges.
        on: the labelled set.
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
    task = calibrate.calibration_task(on, judging.kind, axes, limit=limit)
    grader = judging.grader
    identity = sha256(f"{judging.name} {grader.id if grader else ''} {on} {axes} {limit} {task.metadata}")[:8]
    folder = f"{root.rstrip('/')}/judges/{judging.kind.replace(':', '-')}-{on}-{identity}"
    run = score.evaluate(
        task,
        f"judge {judging.name} on {on}",
        len(task.dataset),
        folder,
        console,
        model=resolve("recorded").open(),
        model_roles={"grader": score.open_grader(grader, cache=True)} if grader else None,
    )
    truth = calibrate.sample(labelled.load(on), limit)
    name = judging.kind if grader is None else f"{judging.kind}:{grader.name} {grader.id}"
    prompts = dict(run.metadata.get("judge_prompts", {}))
    found = calibrate.passport(
        on, name, prompts, calibrate.agree(run.rows, truth, HELD_OUT.get(on, ()) if name == "embedded" else ())
    )
    if judging.kind != "embedded":  # its passport is part of the package
        path = _store() / f"{_key(name, prompts)}-{on}-{limit or 'all'}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(calibrate.dumps(found))
    return found


def find(protocol: Protocol) -> list[dict[str, Any]]:
    """Passports that speak for the judge of a table: same judge, and the same prompts on the axes they share."""
    prompts = dict(protocol.prompts)
    candidates = embedded_agreement() if protocol.judge == "embedded" else _stored()
    return [
        p
        for p in candidates
        if p["judge"] == protocol.judge and all(prompts.get(a, sha) == sha for a, sha in p["prompts"].items())
    ]


def _stored() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(_store().glob("*.json"))] if _store().is_dir() else []


def line(protocol: Protocol) -> str:
    """One line on how far to trust the judge on the axes of a table; "" if nobody has measured it."""
    judged = {axis for axis, _ in protocol.prompts}
    best: dict[tuple[str, str], dict[str, Any]] = {}  # a quick look at a few replies must not hide a full one
    for passport in find(protocol):
        for axis, by_model in passport["agreement"].items():
            known = best.get((axis, passport["on"]), {"all": {"n": 0}})
            if axis in judged and "kappa" in by_model["all"] and by_model["all"]["n"] > known["all"]["n"]:
                best[axis, passport["on"]] = by_model
    parts = []
    for (axis, on), by_model in best.items():
        group = "held out" if "held out" in by_model else "all"
        whole = by_model[group]
        text = f"{axis} κ {whole['kappa']:.2f}"
        if axis == "harm":
            d = whole["detection"]
            rates = (f"{k} {_rate(d[k]['value'])}" for k in ("sensitivity", "specificity"))
            text += f" ({', '.join(rates)})"
        parts.append(f"{text}, n {whole['n']} {'held-out ' if group != 'all' else ''}{on}")
    if not parts:
        return ""
    blind = sorted(judged - {axis for axis, _ in best})
    rest = f"; no human labels for {', '.join(blind)}" if blind else ""
    rules = " (lexical rules, v0)" if protocol.judge == "embedded" else ""
    return f"Judge {protocol.judge}{rules} against people: {'; '.join(parts)}{rest}."


def _rate(value: float | None) -> str:
    """A rate, or a dash where there was nothing to find (a small sample may hold no harmful reply)."""
    return "–" if value is None else f"{value:.3f}"


def show(console: Console, passport: dict[str, Any]) -> None:
    """Print a passport."""
    table = Table("axis", "source model", "n", "κ", "accuracy", "sensitivity", "specificity", "unscored")
    for axis, models in passport["agreement"].items():
        for model, found in models.items():
            detected = found.get("detection", {})
            table.add_row(
                axis,
                model,
                str(found["n"]),
                f"{found['kappa']:.3f}" if "kappa" in found else "–",
                f"{found['accuracy']:.3f}" if "accuracy" in found else "–",
                *(_interval(detected.get(k)) for k in ("sensitivity", "specificity")),
                ", ".join(f"{reason} {n}" for reason, n in found["unscored"].items()) or "0",
            )
    console.print(f"Judge {passport['judge']} against people on {passport['on']}", markup=False, highlight=False)
    console.print(table)


def _interval(found: Mapping[str, float] | None) -> str:
    if not found or found.get("value") is None:
        return "–"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
