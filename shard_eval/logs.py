"""Inspect logs -> one row per response with its verdicts. Refuses what is unfinished, damaged or mixed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import fsspec
from inspect_ai.log import (
    EvalLog,
    EvalSampleSummary,
    list_eval_logs,
    read_eval_log,
    read_eval_log_sample_summaries,
)

from shard_eval.errors import LogError
from shard_eval.records import AXES, Axis, Verdict, offline, score_to_verdict, sha256

MOST_CHARS = 10_000_000
"""The longest response that a verdict table takes."""


@dataclass(frozen=True)
class Row:
    """One response and what was decided about it.

    Attributes:
        labels: label per judged axis, None where the judge gave none.
        reasons: reason per axis without a label.
        members: of a panel, per axis each member's own label, None where it gave none.
        member_reasons: per axis the reason of each member without a label.
        stop_reason: why the model stopped; "max_tokens" is an answer that was cut.
    """

    benchmark: str
    id: str
    prompt_sha: str
    epoch: int
    cluster: str
    split: str
    risk_area: str
    category: str
    type: str
    level: int | None
    intent: str
    source: str
    stop_reason: str
    chars: int
    labels: dict[Axis, int | None] = field(default_factory=dict)
    reasons: dict[Axis, str] = field(default_factory=dict)
    members: dict[Axis, dict[str, int | None]] = field(default_factory=dict)
    member_reasons: dict[Axis, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """What must be the same for verdicts to stand in one table.

    Attributes:
        judge: name of the judge, and of its grader model if it has one.
        prompts: fingerprint of the judge's prompts or rules per axis.
        content: hash of the benchmark's prompts.
    """

    task: str
    version: str
    benchmark: str
    origin: str
    content: str
    judge: str
    prompts: tuple[tuple[Axis, str], ...]


@dataclass(frozen=True)
class Run:
    """A finished evaluation of one System on one benchmark.

    Attributes:
        judge: kind of the judge, as the task was given it; "" where only the small files were read.
        graders: name in tables of the model in each grader's role.
    """

    log: str
    model: str
    solver: str
    decoding: dict[str, Any]
    protocol: Protocol
    metadata: dict[str, Any]
    rows: tuple[Row, ...]
    metrics: dict[str, float]
    usage: dict[str, int]
    judge: str = ""
    graders: dict[str, str] = field(default_factory=dict)


def _row(summary: EvalSampleSummary, log: str) -> Row:
    meta, scores = summary.metadata, summary.scores or {}
    labels: dict[Axis, int | None] = {}
    reasons: dict[Axis, str] = {}
    members: dict[Axis, dict[str, int | None]] = {}
    member_reasons: dict[Axis, dict[str, str]] = {}
    extra: dict[str, Any] = {}
    for axis in AXES:
        if axis not in scores:
            continue
        try:
            verdict: Verdict = score_to_verdict(axis, scores[axis])
        except ValueError as error:
            raise LogError(
                f"{log}: sample {summary.id!r}: {error}. The log was edited or is of another version."
            ) from error
        labels[axis], extra = verdict.label, scores[axis].metadata or {}
        if verdict.reason is not None:
            reasons[axis] = verdict.reason
        if verdict.members:
            members[axis] = {name: v.label for name, v in verdict.members}
            member_reasons[axis] = {name: v.reason for name, v in verdict.members if v.reason is not None}
    text = {k: str(meta.get(k) or "") for k in ("benchmark", "prompt_sha", "split", "risk_area", "category", "type")}
    return Row(
        **text,
        id=str(summary.id),
        epoch=summary.epoch,
        cluster=str(meta.get("cluster") or summary.id),
        level=meta.get("level"),
        intent=str(meta.get("intent") or "unknown"),
        source=str(meta.get("source") or ""),
        stop_reason=str(extra.get("stop_reason") or ""),
        chars=int(extra.get("chars") or 0),
        labels=labels,
        reasons=reasons,
        members=members,
        member_reasons=member_reasons,
    )


def find_log(folder: str | Path) -> str:
    """The newest finished log below a folder (any place fsspec knows), or the file itself.

    Raises:
        LogError: if there is none.
    """
    if str(folder).endswith((".eval", ".json")):
        return str(folder)
    names = [info.name for info in list_eval_logs(str(folder))]
    for name in sorted(names, reverse=True):
        if read_header(name).status == "success":
            return name
    state = f"{len(names)} unfinished" if names else "no"
    raise LogError(f"{folder} holds {state} log(s). Run the same `shard score` command again to finish.")


def set_aside_damaged(folder: str) -> list[str]:
    """Rename logs that cannot be read, so that an evaluation can go on without them.

    Returns:
        The new names, "….damaged"; nothing is deleted.
    """
    moved = []
    for info in list_eval_logs(folder):
        try:
            read_header(info.name)
        except LogError:
            filesystem, path = fsspec.core.url_to_fs(info.name)
            filesystem.mv(path, f"{path}.damaged")
            moved.append(f"{info.name}.damaged")
    return moved


def finished(folder: str) -> int:
    """How many responses the newest log below a folder holds already; an interrupted run goes on from there."""
    names = sorted((info.name for info in list_eval_logs(folder)), reverse=True)
    return sum(not s.error for s in read_eval_log_sample_summaries(names[0])) if names else 0


def read_header(name: str) -> EvalLog:
    """Everything of a log but its samples.

    Raises:
        LogError: if it cannot be read.
    """
    try:
        return read_eval_log(name, header_only=True)
    except Exception as error:  # a cut zip, a full disk, JSON of something else: many types, one meaning
        raise LogError(
            f"log {name} cannot be read ({type(error).__name__}: {str(error)[:200]}). It is damaged or half written: "
            "move it away and run the same command again; the cache keeps what was generated."
        ) from error


def read_run(log: str | Path, unfinished: bool = False) -> Run:
    """Read a log into rows, from its summaries alone (fast).

    Args:
        log: a log file, or a folder with one.
        unfinished: accept a log that did not finish.

    Raises:
        LogError: if it is damaged, unfinished, has no verdicts, or one sample failed.
    """
    name = find_log(log)
    header = read_header(name)
    summaries = read_summaries(name, header, unfinished)
    rows = tuple(sorted((_row(s, name) for s in summaries), key=lambda r: (r.id, r.epoch)))
    keys = {(r.benchmark, r.id, r.prompt_sha, r.epoch) for r in rows}
    if len(keys) != len(rows):
        raise LogError(f"log {name} holds the same record twice in one epoch.")
    if not rows:
        raise LogError(f"log {name} is empty: it holds no response. Run the same command again.")
    return Run(
        log=name,
        model=header.eval.model,
        solver=str(header.eval.task_args.get("solver", "direct")).partition(":")[0],  # without a folder of guidelines
        decoding=header.eval.model_generate_config.model_dump(exclude_none=True, exclude={"cache"}),
        protocol=_protocol(header),
        metadata={
            "model": header.eval.model,
            "judge": _kind(header),
            "roles": _roles(header),
            **(header.eval.metadata or {}),
        },
        rows=rows,
        metrics=_metrics(header),
        usage=usage(header),
        judge=_kind(header),
        graders=_graders(header),
    )


def read_summaries(name: str, header: EvalLog, unfinished: bool = False) -> list[EvalSampleSummary]:
    """The summaries of a log's samples; those that failed are left out if `unfinished`.

    Raises:
        LogError: if it is unfinished, or a sample failed, and that is not accepted.
    """
    if header.status != "success" and not unfinished:
        raise LogError(f"log {name} is unfinished ({header.status}). Run the same command again to finish it.")
    try:
        summaries = read_eval_log_sample_summaries(name)
    except Exception as error:
        raise LogError(f"log {name}: its samples cannot be read: {error}. Move it away and run again.") from error
    failed = [s.id for s in summaries if s.error]
    if failed and not unfinished:
        raise LogError(f"log {name}: {len(failed)} samples failed (first: {failed[0]!r}). Run again to retry them.")
    return [s for s in summaries if not s.error]


def _protocol(header: EvalLog) -> Protocol:
    meta = header.eval.metadata or {}
    return Protocol(
        task=header.eval.task.split("/")[-1],
        version=str(header.eval.task_version),
        benchmark=str(meta.get("benchmark", "")),
        origin=str(meta.get("origin", "")),
        content=str(meta.get("content_sha", "")),
        judge=judge_name(header, _kind(header)),
        prompts=tuple(sorted(cast(dict[Axis, str], meta.get("judge_prompts", {})).items())),
    )


def judge_name(header: EvalLog, kind: str) -> str:
    """The judge of a log: its kind, and its grader if it has one; of a panel, its members and their graders."""
    grader = _roles(header).get("grader")
    meta = header.eval.metadata or {}
    if kind.startswith("panel:"):
        return panel_name(kind, _graders(header), str(meta.get("grader", "")))
    if offline(kind) or grader is None:
        return kind
    return f"{kind}:{meta.get('grader', grader)}"


def panel_name(kind: str, graders: Mapping[str, str], id: str = "") -> str:
    """Name of a panel, or of one of its members, in tables.

    Args:
        kind: with "@ROLE" for each grader, e.g. "panel:majority:rubric@grader,embedded" or "rubric@grader".
        graders: name of the model in each role.
        id: short hash of the graders' manifests; "" if nobody knows it.
    """
    named = re.sub(r"@([\w-]+)", lambda role: f":{graders.get(role[1], role[1])}", kind)
    return f"{named} {id}" if id else named


def _kind(header: EvalLog) -> str:
    """Kind of the judge as a task's argument; Inspect's command line makes a list of what has commas."""
    given = header.eval.task_args.get("judge", "none")
    return ",".join(map(str, given)) if isinstance(given, list) else str(given)


def _roles(header: EvalLog) -> dict[str, str]:
    """The model in each role."""
    roles = (header.eval.model_roles or {}).items()
    return {role: config.model for role, config in roles if not isinstance(config, list)}


def _graders(header: EvalLog) -> dict[str, str]:
    return _roles(header) | dict((header.eval.metadata or {}).get("graders", {}))


def _metrics(header: EvalLog) -> dict[str, float]:
    scores = header.results.scores if header.results else []
    return {f"{s.name}/{m.name}": float(m.value) for s in scores for m in s.metrics.values()}


def usage(header: EvalLog) -> dict[str, int]:
    """Tokens of all models of a log."""
    used = (header.stats.model_usage or {}).values()
    return {"input_tokens": sum(u.input_tokens for u in used), "output_tokens": sum(u.output_tokens for u in used)}


def require_same_protocol(runs: Sequence[Run]) -> None:
    """Check that runs may stand in one comparison.

    Raises:
        LogError: naming the first thing that differs.
    """
    for run in runs[1:]:
        for item in fields(Protocol):
            first, other = getattr(runs[0].protocol, item.name), getattr(run.protocol, item.name)
            if item.name == "origin" and "fixture" not in (first, other):
                continue  # the hub's copy and a stand-in are the same prompts if their content hash is
            if first != other:
                raise LogError(
                    f"{runs[0].log} and {run.log} differ in {item.name}: {first!r} and {other!r}. Score both alike."
                )


def system_name(run: Run) -> str:
    """The system's name in tables: its model and, if it is not `direct`, its solver."""
    name = str((run.metadata.get("system") or {}).get("model") or run.model)
    return name if run.solver in ("direct", name) else f"{name} + {run.solver}"


def arm(run: Run) -> dict[str, str]:
    """What should be the same for all arms of a comparison besides the protocol: engine, dtype and decoding."""
    system = run.metadata.get("system") or {}
    decoding = system.get("decoding", run.decoding)
    return {
        "engine": str(system.get("engine", run.model.split("/")[0])),
        "dtype": str(system.get("dtype", "")),
        "decoding": " ".join(f"{k}={v}" for k, v in sorted(decoding.items()) if v is not None),
    }


def differing_arms(runs: Sequence[Run]) -> list[str]:
    """One line per thing in which the arms differ; constants have neither engine nor decoding and are left out."""
    arms = [(run, found) for run in runs if (found := arm(run))["engine"] != "none"]
    lines = []
    for item in ("engine", "dtype", "decoding"):
        values = {found[item]: run.model for run, found in arms}
        if len(values) > 1:
            lines.append(f"arms differ in {item}: " + "; ".join(f"{v or 'unknown'} ({m})" for v, m in values.items()))
    return lines


_VERDICTS = ("labels", "reasons", "members", "member_reasons")
_PLAIN = [f.name for f in fields(Row) if f.name not in _VERDICTS]


def to_csv(rows: Iterable[Row]) -> str:
    """The verdict table as CSV: ids, hashes and labels, never a prompt or a response."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(_PLAIN + [name for axis in AXES for name in (axis, f"{axis}_unscored")])
    for row in rows:
        plain = [inert_cell(getattr(row, name)) for name in _PLAIN]
        verdicts = [v for axis in AXES for v in (row.labels.get(axis), row.reasons.get(axis))]
        writer.writerow(plain + ["" if v is None else v for v in verdicts])
    return out.getvalue()


def from_csv(text: str, source: str) -> tuple[Row, ...]:
    """Read a verdict table back; labels, reasons and ids are checked.

    Args:
        text: what `to_csv` wrote.
        source: its name, for messages.

    Raises:
        LogError: naming the line, if it is no such table.
    """
    lines = csv.reader(io.StringIO(text, newline=""))
    header = next(lines, [])
    missing = [name for name in _PLAIN if name not in header]
    if missing:
        raise LogError(f"{source} is no verdict table: it has no column {missing[0]!r}.")
    judged = [axis for axis in AXES if axis in header]
    rows = []
    for number, cells in enumerate(lines, 2):
        try:
            rows.append(_csv_row(dict(zip(header, cells, strict=True)), judged))
        except ValueError as error:
            raise LogError(f"{source}:{number}: {error}. The table was edited or cut.") from error
    if len({(r.benchmark, r.id, r.prompt_sha, r.epoch) for r in rows}) != len(rows):
        raise LogError(f"{source} holds the same record twice in one epoch.")
    return tuple(sorted(rows, key=lambda r: (r.id, r.epoch)))


def _csv_row(cells: dict[str, str], judged: Sequence[Axis]) -> Row:
    labels: dict[Axis, int | None] = {}
    reasons: dict[Axis, str] = {}
    for axis in judged:
        label, reason = cells[axis], cells.get(f"{axis}_unscored", "")
        if not label and not reason:
            continue  # not judged on this record
        verdict = Verdict(axis, int(label) if label else None, reason or None)  # type: ignore[arg-type]
        labels[axis] = verdict.label
        if verdict.reason is not None:
            reasons[axis] = verdict.reason
    numbers = {
        "epoch": int(cells["epoch"]),
        "chars": int(cells["chars"]),
        "level": int(cells["level"]) if cells["level"] else None,
    }
    if int(cells["epoch"]) < 1:
        raise ValueError(f"epoch {cells['epoch'][:40]!r} is below 1")
    if not 0 <= int(cells["chars"]) <= MOST_CHARS:
        raise ValueError(f"chars {cells['chars'][:40]!r} is not from 0 to {MOST_CHARS}")
    text = {name: plain_cell(cells[name]) for name in _PLAIN if name not in numbers}
    return Row(**text, **numbers, labels=labels, reasons=reasons)  # type: ignore[arg-type]


def read_folder(folder: str | Path) -> Run:
    """Read a finished run from the small files it left (manifest.json, verdicts.csv), without its log.

    Raises:
        LogError: if they are missing, of an older version, damaged, or do not belong together.
    """
    place = str(folder).rstrip("/")
    manifest, text = _small_files(place)
    try:
        protocol = Protocol(
            **{**manifest["protocol"], "prompts": tuple((a, sha) for a, sha in manifest["protocol"]["prompts"])}
        )
        system, expected = manifest["system"], manifest["verdicts_sha256"]
        model, solver, decoding = system["model"], system["solver"], system["decoding"]
    except (KeyError, TypeError, ValueError) as error:
        raise LogError(
            f"{place}/manifest.json lacks what a run's identity needs ({error}). If an older version wrote it, repeat "
            "the command that made the folder: finished work is not done again."
        ) from error
    if sha256(text) != expected:
        raise LogError(f"{place}/verdicts.csv is not the file its manifest names: it was changed since it was written.")
    rows = from_csv(text, f"{place}/verdicts.csv")
    if not rows or any(row.benchmark != protocol.benchmark for row in rows):
        raise LogError(f"{place}/verdicts.csv holds no rows, or rows of another benchmark than {protocol.benchmark}.")
    return Run(
        log=place,
        model=str(model),
        solver=str(solver),
        decoding=dict(decoding),
        protocol=protocol,
        metadata={
            "system": system,
            "system_id": manifest.get("system_id", ""),
            "run": manifest.get("run", {}),
            **({"own_family": manifest["own_family"]} if manifest.get("own_family") else {}),
        },
        rows=rows,
        metrics={},
        usage=dict(manifest.get("usage", {})),
    )


def _small_files(place: str) -> tuple[dict[str, Any], str]:
    """A run's manifest and the text of its verdict table."""
    try:
        with fsspec.open(f"{place}/manifest.json", "r", encoding="utf-8") as file:
            manifest = json.load(file)
        with fsspec.open(f"{place}/verdicts.csv", "r", encoding="utf-8", newline="") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        raise LogError(
            f"{place} is no folder of a finished run: manifest.json and verdicts.csv cannot be read ({error})."
        ) from error
    if not isinstance(manifest, dict):
        raise LogError(f"{place}/manifest.json is no manifest.")
    return manifest, str(text)


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain_cell(text: str) -> str:
    """The text that `inert_cell` made inert."""
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text


def inert_cell(value: object) -> object:
    """Keep a spreadsheet from taking text for a formula."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value
