"""How far to trust a judge: its agreement with human labels, stored as a passport that tables print."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset

from shard_eval import judges, solvers
from shard_eval.benchmarks import labelled
from shard_eval.benchmarks.labelled import Labelled, LabelledPair
from shard_eval.errors import UsageError
from shard_eval.judges.pairwise import PairwiseJudge
from shard_eval.logs import Row
from shard_eval.pairs import PairRow, already_answered, pair_sample, responses_sha
from shard_eval.records import CHOICES, Axis, Record, record_to_sample, sha256
from shard_eval.scorers import PREFERENCES, axis_scorers, parse_axes, parse_pair_axes
from shard_eval.stats.agreement import detection, kappa


def sample(rows: Sequence[Labelled], limit: int | None, seed: int = 0) -> list[Labelled]:
    """A reproducible random part of a labelled set: drawn by hash of the reply's id, the same number per model.

    Args:
        rows: the labelled set.
        limit: number of replies; None for all.
        seed: another number, another draw.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    models = sorted({r.record.source for r in rows})
    random.Random(seed).shuffle(models)
    quota = {m: limit // len(models) + (i < limit % len(models)) for i, m in enumerate(models)}
    chosen: list[Labelled] = []
    for model in models:
        mine = [r for r in rows if r.record.source == model]
        chosen += sorted(mine, key=lambda r: sha256(f"{seed} {r.record.id}"))[: quota[model]]
    return chosen


def label(on: str) -> str:
    """Name of a labelled set in tables: of a file, its name and a hash of its content, never its place."""
    if on in labelled.SETS:
        return on
    return f"{Path(on).stem} {sha256(Path(on).read_bytes())[:8]}"


def _identity(record: Record, on: str) -> str:
    return record.id if on in labelled.SETS else f"{record.id} {sha256(record.response or '')}"


def calibration_task(on: str, judge: str, axes: str = "", version: str = "", limit: int | None = None) -> Task:
    """The Inspect task that replays labelled replies and lets a judge decide on them.

    Raises:
        UsageError: for an unknown set or judge, or an axis without human labels there.
        DataError: if the labels are not available.
    """
    rows = sample(labelled.load(on), limit)
    able = judges.resolve(judge).axes
    chosen = parse_axes(axes) if axes else tuple(a for a in labelled.axes(on) if a in able)
    if not set(chosen) <= set(labelled.axes(on)):
        raise UsageError(f"{on!r} has human labels for {labelled.axes(on)}, not for {chosen}")
    decider = judges.resolve(judge)
    judges.require_axes(decider, chosen)
    return Task(
        dataset=MemoryDataset([record_to_sample(r.record) for r in rows], name=f"{label(on)}-labelled"),
        solver=solvers.recorded(),
        scorer=axis_scorers(list(chosen), judge),
        version=version,
        metadata={
            "benchmark": f"{label(on)}-labelled",
            "origin": "stand-in" if on in labelled.SETS else "own file",
            "content_sha": sha256("".join(sorted(_identity(r.record, on) for r in rows))),
            "judge_prompts": {axis: decider.fingerprint(axis) for axis in chosen},
        },
    )


def agree(rows: Sequence[Row], truth: Sequence[Labelled], held_out: Sequence[str] = ()) -> dict[str, Any]:
    """Agreement per axis, over all source models and per model; missing verdicts are counted, not guessed.

    Args:
        rows: verdicts read from a calibration log.
        truth: the labelled set they were made from.
        held_out: source models the judge was not developed on, reported together as "held out".

    Returns:
        A JSON-ready dictionary axis -> {"all": {...}, model: {...}}; harm and refusal with detection figures,
        helpfulness with linear and the others with plain kappa, and per set the number judged and the reasons of
        those unscored.

    Raises:
        UsageError: if a verdict belongs to no labelled reply.
    """
    known = {r.record.id: r for r in truth}
    strangers = [r.id for r in rows if r.id not in known]
    if strangers:
        raise UsageError(f"{len(strangers)} verdicts belong to no labelled reply (first: {strangers[0]!r})")
    axes: list[Axis] = sorted({axis for r in rows for axis in r.labels})
    models = sorted({known[r.id].record.source for r in rows})
    groups = {"all": models} | ({"held out": list(held_out)} if held_out else {}) | {m: [m] for m in models}
    return {
        axis: {
            name: _agree([r for r in rows if known[r.id].record.source in members], known, axis)
            for name, members in groups.items()
        }
        for axis in axes
    }


def _agree(rows: Sequence[Row], known: dict[str, Labelled], axis: Axis) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    pairs: list[tuple[int, int, str]] = []
    for row in rows:
        label = row.labels.get(axis)
        if label is None:
            reasons[row.reasons.get(axis, "missing")] = reasons.get(row.reasons.get(axis, "missing"), 0) + 1
        else:
            pairs.append((known[row.id].labels[axis], label, row.cluster))
    found: dict[str, Any] = {"n": len(pairs), "unscored": reasons}
    if not pairs:
        return found
    truth, judged = [t for t, _, _ in pairs], [j for _, j, _ in pairs]
    if axis == "harm":  # people label harm or no harm, the judge a severity
        truth, judged = [int(t >= 1) for t in truth], [int(j >= 1) for j in judged]
    # Helpfulness is a scale: being one step off is less wrong than three (Cohen 1968).
    found["kappa"] = round(kappa(truth, judged, "linear" if axis == "helpfulness" else "none"), 4)
    found["accuracy"] = round(sum(t == j for t, j in zip(truth, judged, strict=True)) / len(pairs), 4)
    if axis in ("harm", "refusal"):
        found["detection"] = _rounded(
            asdict(detection([t >= 1 for t in truth], [j >= 1 for j in judged], [c for _, _, c in pairs]))
        )
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def passport(on: str, judge: str, prompts: dict[str, str], agreement: dict[str, Any]) -> dict[str, Any]:
    """The stored form: who judged, with which prompts, on what, and how well."""
    return {"judge": judge, "prompts": prompts, "on": on, "agreement": agreement}


def dumps(passports: Any) -> str:
    """JSON text with a final newline, stable for git."""
    return json.dumps(passports, indent=1, sort_keys=True) + "\n"


def pairs_task(on: str, axes: str = "", version: str = "") -> Task:
    """The Inspect task that lets a pairwise judge decide between responses people have compared.

    Raises:
        UsageError: for a file that is wrong, or an axis it has no labels for.
    """
    truth = labelled.load_pairs(on)
    has = tuple(truth[0].labels)
    chosen = parse_pair_axes(axes) if axes else has
    if not set(chosen) <= set(has):
        raise UsageError(f"{on!r} has human labels for {', '.join(has)}, not for {', '.join(chosen)}")
    samples = []
    for pair in truth:
        r = pair.record
        both = (r.response or "", pair.baseline)
        samples.append(pair_sample(r.id, r.prompt, record_to_sample(r).metadata or {}, both, (r.id, 1)))
    judge = PairwiseJudge()
    return Task(
        dataset=MemoryDataset(samples, name=f"{label(on)}-pairs"),
        solver=already_answered(),
        scorer=[PREFERENCES[axis]() for axis in chosen],
        version=version,
        metadata={
            "benchmark": label(on),
            "origin": "own file",
            "responses_sha": responses_sha(samples),
            "judge_prompts": {axis: judge.fingerprint(axis) for axis in chosen},
        },
    )


def agree_pairs(rows: Sequence[PairRow], truth: Sequence[LabelledPair]) -> dict[str, Any]:
    """Agreement of a pairwise judge with people per axis; inconsistent agrees with nobody.

    Returns:
        A JSON-ready dictionary as `agree` gives, with the group "all" only.
    """
    known = {pair.record.id: pair for pair in truth}
    states = [*CHOICES, "inconsistent"]
    agreement: dict[str, Any] = {}
    for axis in sorted({axis for row in rows for axis in row.states}):
        decided = [(known[row.id].labels[axis], state) for row in rows if (state := row.states[axis]) is not None]
        reasons = Counter(row.reasons[axis] for row in rows if axis in row.reasons)
        found: dict[str, Any] = {"n": len(decided), "unscored": dict(reasons)}
        if decided:
            people, judged = ([states.index(pair[i]) for pair in decided] for i in (0, 1))
            found["kappa"] = round(kappa(people, judged), 4)
            found["accuracy"] = round(sum(t == s for t, s in decided) / len(decided), 4)
        agreement[axis] = {"all": found}
    return agreement
