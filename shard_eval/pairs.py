"""Two Systems' answers to the same prompts: paired strictly, judged pairwise as an Inspect task, read back as rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalSample, EvalSampleSummary, read_eval_log_samples
from inspect_ai.solver import Generate, Solver, TaskState, solver

from shard_eval.errors import LogError
from shard_eval.judges.pairwise import PairwiseJudge
from shard_eval.logs import (
    Row,
    Run,
    find_log,
    inert_cell,
    judge_name,
    plain_cell,
    read_header,
    read_run,
    read_summaries,
    require_same_protocol,
)
from shard_eval.logs import usage as tokens_used
from shard_eval.records import PAIR_AXES, SIGNED, Axis, Choice, score_to_preference, sha256
from shard_eval.scorers import PREFERENCES, parse_pair_axes


@dataclass(frozen=True)
class PairRow:
    """One pair of responses and what was decided about it.

    Attributes:
        identical: the two responses are the same text, so nobody was asked.
        chars: lengths of the candidate's and the baseline's response.
        states: per judged axis candidate, baseline, tie or inconsistent; None where the judge failed.
        orders: per axis the choice with the candidate first and with the candidate second; empty if nobody was asked.
        reasons: per axis without a state, why.
    """

    benchmark: str
    id: str
    prompt_sha: str
    epoch: int
    cluster: str
    category: str
    intent: str
    identical: bool
    chars: tuple[int, int]
    states: dict[Axis, str | None] = field(default_factory=dict)
    orders: dict[Axis, tuple[Choice | None, ...]] = field(default_factory=dict)
    reasons: dict[Axis, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Preferences:
    """A finished pairwise judging of two Systems on one benchmark."""

    log: str
    judge: str
    prompts: tuple[tuple[Axis, str], ...]
    metadata: dict[str, Any]
    rows: tuple[PairRow, ...]
    usage: dict[str, int]


def pair_rows(candidate: Run, baseline: Run) -> list[tuple[Row, Row]]:
    """Pair two runs by record and epoch; nothing may be left over.

    Raises:
        LogError: if the runs differ in task, prompts, judge or benchmark, or hold different records.
    """
    require_same_protocol([candidate, baseline])
    ours, theirs = ({(r.benchmark, r.id, r.prompt_sha, r.epoch): r for r in run.rows} for run in (candidate, baseline))
    strangers = sorted(ours.keys() ^ theirs.keys())
    if strangers:
        only = len(ours.keys() - theirs.keys())
        raise LogError(
            f"{candidate.log} and {baseline.log} hold different records: {only} only in the first, "
            f"{len(strangers) - only} only in the second (e.g. {strangers[0][1]!r}, epoch {strangers[0][3]}). "
            "Score both with the same --split, --limit and --epochs."
        )
    for key in ours:
        _require_same_record(candidate.log, ours[key], theirs[key])
    return [(ours[key], theirs[key]) for key in sorted(ours)]


_STATED = ("cluster", "intent", "level", "split")  # what the benchmark says of a record, and numbers depend on


def _require_same_record(log: str, ours: Row, theirs: Row) -> None:
    """Refuse rows that say different things of one record: a label that is gone must be missing with a reason."""
    odd = [name for name in _STATED if getattr(ours, name) != getattr(theirs, name)]
    if ours.labels.keys() != theirs.labels.keys():
        odd.append("the judged axes")
    if odd:
        raise LogError(
            f"{log}: record {ours.id!r} differs from the baseline's in {', '.join(odd)}. One of the tables was edited "
            "or is of another version; score both again."
        )


@solver
def already_answered() -> Solver:
    """Both responses are in the sample; nothing is generated."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return state

    return solve


def _texts(log: str) -> dict[tuple[str, int], EvalSample]:
    samples = read_eval_log_samples(log, resolve_attachments="core", exclude_fields={"events", "store"})
    return {(str(s.id), s.epoch): s for s in samples}


def pair_sample(
    id: str, request: str, metadata: dict[str, Any], responses: tuple[str, str], record: tuple[str, int]
) -> Sample:
    """The Inspect sample of one pair of responses.

    Args:
        id: of the sample.
        request: the prompt.
        metadata: of the benchmark's record (`record_to_sample`).
        responses: the candidate's and the baseline's.
        record: id of the record and the epoch.
    """
    candidate, baseline = responses
    pair = {
        "record": record[0],
        "record_epoch": record[1],
        "chars_candidate": len(candidate),
        "chars_baseline": len(baseline),
        "identical": candidate == baseline,
        "candidate_response": candidate,
        "baseline_response": baseline,
    }
    kept = {k: v for k, v in metadata.items() if k not in ("shard", "recorded_response")}
    return Sample(id=id, input=request, metadata=kept | pair)


def _sample(candidate: EvalSample, baseline: EvalSample) -> Sample:
    id = str(candidate.id)
    return pair_sample(
        id if candidate.epoch == 1 else f"{id}#{candidate.epoch}",
        candidate.input if isinstance(candidate.input, str) else candidate.input[-1].text,
        candidate.metadata,
        (candidate.output.completion, baseline.output.completion),
        (id, candidate.epoch),
    )


def responses_sha(samples: Sequence[Sample]) -> str:
    """Hash of all responses of a pairwise task, in order."""
    texts = [(s.metadata or {})[f"{arm}_response"] for s in samples for arm in ("candidate", "baseline")]
    return sha256("\0".join(sha256(text) for text in texts))


def pairwise_task(candidate: Run, baseline: Run, axes: str, version: str = "") -> Task:
    """The Inspect task that lets a grader compare two runs' responses; it generates nothing.

    Args:
        candidate: a finished run.
        baseline: a finished run on the same records.
        axes: of helpfulness and harm, comma-separated.
        version: comparability version.

    Raises:
        UsageError: for another axis.
        LogError: if the runs cannot be paired.
    """
    chosen, judge = parse_pair_axes(axes), PairwiseJudge()
    pairs = pair_rows(candidate, baseline)
    ours, theirs = _texts(candidate.log), _texts(baseline.log)
    samples = [_sample(ours[c.id, c.epoch], theirs[b.id, b.epoch]) for c, b in pairs]
    protocol = candidate.protocol
    return Task(
        dataset=MemoryDataset(samples, name=f"{protocol.benchmark}-pairs"),
        solver=already_answered(),
        scorer=[PREFERENCES[axis]() for axis in chosen],
        version=version,
        metadata={
            "benchmark": protocol.benchmark,
            "origin": protocol.origin,
            "content_sha": protocol.content,
            "responses_sha": responses_sha(samples),
            "candidate": candidate.metadata.get("system") or {"model": candidate.model, "solver": candidate.solver},
            "baseline": baseline.metadata.get("system") or {"model": baseline.model, "solver": baseline.solver},
            "judge_prompts": {axis: judge.fingerprint(axis) for axis in chosen},
        },
    )


def task_of_logs(candidate: str, baseline: str, axes: str, version: str) -> Task:
    """The same from two logs, or folders with one."""
    return pairwise_task(read_run(candidate), read_run(baseline), axes, version)


def _row(summary: EvalSampleSummary, log: str) -> PairRow:
    meta, scores = summary.metadata, summary.scores or {}
    found = {}
    for axis in PAIR_AXES:
        if f"{axis}_preference" in scores:
            try:
                found[axis] = score_to_preference(axis, scores[f"{axis}_preference"])
            except ValueError as error:
                raise LogError(
                    f"{log}: pair {summary.id!r}: {error}. The log was edited or is of another version."
                ) from error
    return PairRow(
        benchmark=str(meta["benchmark"]),
        id=str(meta["record"]),
        prompt_sha=str(meta["prompt_sha"]),
        epoch=int(meta["record_epoch"]),
        cluster=str(meta["cluster"]),
        category=str(meta.get("category") or ""),
        intent=str(meta.get("intent") or "unknown"),
        identical=bool(meta["identical"]),
        chars=(int(meta["chars_candidate"]), int(meta["chars_baseline"])),
        states={axis: p.state for axis, p in found.items()},
        orders={axis: p.orders for axis, p in found.items()},
        reasons={axis: p.reason for axis, p in found.items() if p.reason is not None},
    )


def read_preferences(log: str | Path) -> Preferences:
    """Read a pairwise log into rows, from its summaries alone.

    Raises:
        LogError: if it is damaged, unfinished, empty, or no pairwise log.
    """
    name = find_log(log)
    header = read_header(name)
    meta = header.eval.metadata or {}
    if "responses_sha" not in meta:
        raise LogError(f"log {name} is no log of pairwise judging ({header.eval.task}).")
    rows = tuple(_row(s, name) for s in read_summaries(name, header))
    if not rows:
        raise LogError(f"log {name} is empty: it holds no pair.")
    return Preferences(
        log=name,
        judge=judge_name(header, "pairwise"),
        prompts=tuple(sorted(meta.get("judge_prompts", {}).items())),
        metadata=meta,
        rows=tuple(sorted(rows, key=lambda r: (r.id, r.epoch))),
        usage=tokens_used(header),
    )


def to_csv(rows: Sequence[PairRow]) -> str:
    """Preferences as CSV: ids, hashes and states, never a prompt or a response."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    plain = ["benchmark", "id", "prompt_sha", "epoch", "cluster", "category", "intent", "identical"]
    judged = [axis for axis in PAIR_AXES if any(axis in row.states for row in rows)]
    parts = ("", "_candidate_first", "_candidate_second", "_unscored")
    writer.writerow([*plain, "chars_candidate", "chars_baseline", *(f"{a}{part}" for a in judged for part in parts)])
    for row in rows:
        cells: list[object] = [inert_cell(getattr(row, name)) for name in plain]
        cells += row.chars
        for axis in judged:
            first, second = row.orders[axis] or ("", "")
            cells += [row.states[axis] or "", first or "", second or "", row.reasons.get(axis, "")]
        writer.writerow(cells)
    return out.getvalue()


def from_csv(text: str, source: str) -> tuple[PairRow, ...]:
    """Read a table of preferences back.

    Raises:
        LogError: naming the line, if it is no such table.
    """
    rows = []
    reader = csv.DictReader(io.StringIO(text, newline=""))
    judged = [axis for axis in PAIR_AXES if axis in (reader.fieldnames or [])]
    for number, cells in enumerate(reader, 2):
        try:
            rows.append(_csv_row(cells, judged))
        except (KeyError, ValueError, TypeError) as error:
            raise LogError(f"{source}:{number} is no row of preferences ({error}). It was edited or cut.") from error
    if not rows or not judged:
        raise LogError(f"{source} holds no preferences.")
    if len({(r.benchmark, r.id, r.prompt_sha, r.epoch) for r in rows}) != len(rows):
        raise LogError(f"{source} holds the same pair twice.")
    return tuple(sorted(rows, key=lambda r: (r.id, r.epoch)))


def _csv_row(cells: dict[str, str], judged: Sequence[Axis]) -> PairRow:
    states: dict[Axis, str | None] = {}
    for axis in judged:
        states[axis] = cells[axis] or None
        if cells[axis] not in ("", *SIGNED):
            raise ValueError(f"{cells[axis]!r} is no state of a preference")
    text = {
        name: plain_cell(cells[name]) for name in ("benchmark", "id", "prompt_sha", "cluster", "category", "intent")
    }
    return PairRow(
        **text,
        epoch=int(cells["epoch"]),
        identical=(identical := cells["identical"] == "True"),
        chars=(int(cells["chars_candidate"]), int(cells["chars_baseline"])),
        states=states,
        orders={
            axis: () if identical else tuple(cells[f"{axis}_candidate_{o}"] or None for o in ("first", "second"))  # type: ignore[misc]
            for axis in judged
        },
        reasons={axis: reason for axis in judged if (reason := cells[f"{axis}_unscored"])},
    )


def judges_of(folder: str) -> dict[str, dict[str, str]]:
    """The pairwise judges of a comparison's folder, each with the fingerprints of its prompts.

    Raises:
        LogError: if the folder holds no comparison.
    """
    found = _comparison(folder.rstrip("/"))
    judges: dict[str, dict[str, str]] = {}
    for entry in found["pairwise"]:
        judges.setdefault(str(entry["judge"]), {}).update(entry.get("prompts", []))
    return judges


def _comparison(place: str) -> dict[str, Any]:
    try:
        with fsspec.open(f"{place}/comparison.json", "r", encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found.get("pairwise"), list):
            raise ValueError("it has no list of pairwise judgings")
    except (OSError, ValueError, AttributeError) as error:
        raise LogError(
            f"{place}/comparison.json is none of `shard compare` ({error!r}). Compare the two again."
        ) from error
    return dict(found)


def read_folder_preferences(folder: str, candidate: Run, baseline: Run) -> Preferences | None:
    """Read what `shard compare --judge` left in a comparison's folder, without its logs.

    Args:
        folder: results/comparisons/CANDIDATE-ID--BASELINE-ID.
        candidate: the run it must be about.
        baseline: what it was compared with.

    Returns:
        The preferences; None if this benchmark was not judged pairwise there.

    Raises:
        LogError: if the folder is damaged, or about other systems or other records.
    """
    place = folder.rstrip("/")
    benchmark = candidate.protocol.benchmark
    found = _comparison(place)
    entry = next((e for e in found["pairwise"] if e.get("benchmark") == benchmark), None)
    if entry is None:
        return None
    try:
        with fsspec.open(f"{place}/preferences-{benchmark}.csv", "r", encoding="utf-8", newline="") as file:
            rows = from_csv(file.read(), f"{place}/preferences-{benchmark}.csv")
        judge, prompts = str(entry["judge"]), tuple((axis, sha) for axis, sha in entry["prompts"])
        systems = [found["candidate"], found["baseline"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LogError(
            f"{place} holds no preferences on {benchmark} ({error!r}). Compare the two with `shard compare --judge`."
        ) from error
    if systems != [candidate.metadata.get("system"), baseline.metadata.get("system")]:
        raise LogError(f"{place} compares other systems than {candidate.log} and {baseline.log}.")
    if {(r.id, r.prompt_sha, r.epoch) for r in rows} != {(r.id, r.prompt_sha, r.epoch) for r in candidate.rows}:
        raise LogError(f"{place} compares responses to other records than {candidate.log} holds.")
    return Preferences(place, judge, prompts, {}, rows, dict(entry.get("usage", {})))
