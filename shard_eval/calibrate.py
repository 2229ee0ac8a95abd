"""How far to trust a judge: its agreement with human labels, stored as a passport that tables print."""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target
from inspect_ai.solver import TaskState

from shard_eval import judges, solvers
from shard_eval.benchmarks import labelled
from shard_eval.benchmarks.labelled import Labelled, LabelledPair
from shard_eval.errors import UsageError
from shard_eval.judges.pairwise import PairwiseJudge
from shard_eval.logs import Row
from shard_eval.pairs import PairRow, already_answered, pair_sample, responses_sha
from shard_eval.records import CHOICES, LOWEST, SCALES, Axis, Record, record_to_sample, sha256
from shard_eval.scorers import PREFERENCES, axis_scorers, parse_axes, parse_pair_axes
from shard_eval.stats import confusion
from shard_eval.stats.agreement import detection, kappa
from shard_eval.stats.confusion import Counts, Part, Statistic

DETECTED: tuple[Axis, ...] = ("harm", "refusal")
"""Axes on which something is there or not, so that a judge can miss it or raise a false alarm."""


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


def _sample(reply: Labelled) -> Sample:
    sample = record_to_sample(reply.record)
    return sample.model_copy(update={"metadata": {**(sample.metadata or {}), "labelled": sorted(reply.labels)}})


def _where_labelled(scorer: Scorer, axis: Axis) -> Scorer:
    """The scorer, asked for nothing where people gave no label: those verdicts would cost and tell nothing."""

    @functools.wraps(scorer)  # keeps its registered name
    async def score(state: TaskState, target: Target) -> Score | None:
        return await scorer(state, target) if axis in state.metadata["labelled"] else None

    return score


def chosen_axes(on: str, judge: str, axes: str = "") -> tuple[Axis, ...]:
    """The axes a judge is measured on: those that people labelled and it judges, or the ones that are named.

    Raises:
        UsageError: for an unknown set, judge or axis, or an axis without human labels there.
        DataError: if the labels are not available.
    """
    decider, known = judges.resolve(judge), labelled.axes(on)
    chosen = parse_axes(axes) if axes else tuple(a for a in known if a in decider.axes)
    if not set(chosen) <= set(known):
        raise UsageError(f"{on!r} has human labels for {known}, not for {chosen}")
    if not chosen:
        raise UsageError(
            f"people labelled {', '.join(known)} in {on!r}, judge {judge!r} judges {', '.join(decider.axes)}. "
            "Calibrate it on labels of what it judges."
        )
    judges.require_axes(decider, chosen)
    return chosen


def rows(truth: Sequence[Labelled], verdicts: Sequence[Mapping[Axis, int] | None], axes: Sequence[Axis]) -> list[Row]:
    """Verdicts on labelled replies as a run would have them.

    Args:
        truth: the replies.
        verdicts: labels per axis of each; a reply with None is left out.
        axes: the axes that count.
    """
    return [
        Row(
            benchmark=reply.record.benchmark,
            id=reply.record.id,
            prompt_sha=reply.record.prompt_sha,
            epoch=1,
            cluster=reply.record.cluster,
            split="",
            risk_area=reply.record.risk_area,
            category=reply.record.category,
            type=reply.record.type,
            level=reply.record.level,
            intent=reply.record.intent,
            source=reply.record.source,
            stop_reason="stop",
            chars=len(reply.record.response or ""),
            labels={axis: label[axis] for axis in axes},
        )
        for reply, label in zip(truth, verdicts, strict=True)
        if label is not None
    ]


def calibration_task(on: str, judge: str, axes: str = "", version: str = "", limit: int | None = None) -> Task:
    """The Inspect task that replays labelled replies and lets a judge decide on them.

    Raises:
        UsageError: for an unknown set or judge, or an axis without human labels there.
        DataError: if the labels are not available.
    """
    replies = sample(labelled.load(on), limit)
    chosen = chosen_axes(on, judge, axes)
    decider = judges.resolve(judge)
    return Task(
        dataset=MemoryDataset([_sample(r) for r in replies], name=f"{label(on)}-labelled"),
        solver=solvers.recorded(),
        scorer=[_where_labelled(s, axis) for s, axis in zip(axis_scorers(chosen, judge), chosen, strict=True)],
        version=version,
        metadata={
            "benchmark": f"{label(on)}-labelled",
            "origin": "stand-in" if on in labelled.SETS else "own file",
            "content_sha": sha256("".join(sorted(_identity(r.record, on) for r in replies))),
            "judge_prompts": {axis: decider.fingerprint(axis) for axis in chosen},
        },
    )


def agree(
    rows: Sequence[Row], truth: Sequence[Labelled], held_out: Mapping[Axis, Sequence[str]] = MappingProxyType({})
) -> dict[str, Any]:
    """Agreement per axis, over all source models and per model; missing verdicts are counted, not guessed.

    Args:
        rows: verdicts read from a calibration log.
        truth: the labelled set they were made from; an axis is measured on the replies that have a label on it.
        held_out: per axis the source models that what decides there was not developed on; reported together as
            "held out".

    Returns:
        A JSON-ready dictionary axis -> {"all": {...}, model: {...}}, each with
            n, unscored, unscored_share: replies with a verdict, and those without by reason;
            labels: how often people gave each label;
            kappa: the coefficient that tables print and test: of helpfulness with linear weights, of harm on harm or
                none, else plain; None where people gave one label only: agreement cannot be told from chance then;
            accuracy; detection (harm, refusal): sensitivity and specificity for any harm, any refusal;
            measures: kappa, and where they apply weighted_kappa, alpha, precision, f1, macro_f1, each with an interval
                that resamples prompts (`stats.confusion`).

    Raises:
        UsageError: if a verdict belongs to no labelled reply.
    """
    known = _by_id(rows, truth)
    models = sorted({known[r.id].record.source for r in rows})
    found: dict[str, Any] = {}
    for axis in _judged_axes(rows):
        unseen = list(held_out.get(axis, ()))
        groups = {"all": models} | ({"held out": unseen} if unseen else {}) | {m: [m] for m in models}
        beside = _Beside(rows, known, axis)
        found[axis] = {name: beside.agreement("source", groups[name]) for name in groups}
    return found


def by_category(rows: Sequence[Row], truth: Sequence[Labelled]) -> dict[str, Any]:
    """The same per category of the labelled replies; empty if they have none.

    Returns:
        axis -> category -> as the groups of `agree`.
    """
    known = _by_id(rows, truth)
    names = sorted({known[r.id].record.category for r in rows} - {""})
    found: dict[str, Any] = {}
    for axis in _judged_axes(rows) if names else []:
        beside = _Beside(rows, known, axis)
        found[axis] = {name: beside.agreement("category", [name]) for name in names}
    return found


def _by_id(rows: Sequence[Row], truth: Sequence[Labelled]) -> dict[str, Labelled]:
    known = {r.record.id: r for r in truth}
    strangers = [r.id for r in rows if r.id not in known]
    if strangers:
        raise UsageError(f"{len(strangers)} verdicts belong to no labelled reply (first: {strangers[0]!r})")
    return known


def _judged_axes(rows: Sequence[Row]) -> list[Axis]:
    return sorted({axis for r in rows for axis in r.labels})


class _Beside:
    """A judge's verdicts on one axis beside people's labels."""

    def __init__(self, rows: Sequence[Row], known: Mapping[str, Labelled], axis: Axis) -> None:
        self.axis = axis
        labelled_here = [(r, known[r.id]) for r in rows if axis in known[r.id].labels]
        self.judged = [(r, reply, label) for r, reply in labelled_here if (label := r.labels.get(axis)) is not None]
        self.failed = [(r, reply) for r, reply in labelled_here if r.labels.get(axis) is None]
        self.counts: Counts | None = None
        if self.judged:
            pairs = [(reply.labels[axis] - LOWEST[axis], label - LOWEST[axis]) for _, reply, label in self.judged]
            people, judge = zip(*pairs, strict=True)
            self.counts = Counts(people, judge, [r.cluster for r, _, _ in self.judged], len(SCALES[axis]))

    def agreement(self, by: Literal["source", "category"], values: Sequence[str]) -> dict[str, Any]:
        """What is known of the replies whose record has one of these values."""
        failed = [row for row, reply in self.failed if getattr(reply.record, by) in values]
        reasons = Counter(row.reasons.get(self.axis, "missing") for row in failed)
        index = [i for i, (_, reply, _) in enumerate(self.judged) if getattr(reply.record, by) in values]
        missing = sum(reasons.values())
        share = missing / (missing + len(index)) if missing or index else None
        found: dict[str, Any] = {"n": len(index), "unscored": dict(reasons), "unscored_share": share}
        if index and self.counts is not None:
            rows = [self.judged[i] for i in index]
            labels = [(reply.labels[self.axis], label, row.cluster) for row, reply, label in rows]
            found |= _agreement(self.axis, labels) | {"measures": _measures(self.axis, self.counts.part(index))}
        return dict(_rounded(found))


def _agreement(axis: Axis, pairs: Sequence[tuple[int, int, str]]) -> dict[str, Any]:
    """Of people's label, the judge's and the cluster of each reply."""
    truth, judged = [t for t, _, _ in pairs], [j for _, j, _ in pairs]
    found: dict[str, Any] = {"labels": {str(label): n for label, n in sorted(Counter(truth).items())}}
    flagged, flags = [t >= 1 for t in truth], [j >= 1 for j in judged]
    if axis == "harm":  # people often label harm or no harm, the judge a severity
        truth, judged = [int(t) for t in flagged], [int(j) for j in flags]
    # Helpfulness is a scale: being one step off is less wrong than three (Cohen 1968).
    weights: Literal["none", "linear"] = "linear" if axis == "helpfulness" else "none"
    found["kappa"] = kappa(truth, judged, weights) if len(set(truth)) > 1 else None
    found["accuracy"] = sum(t == j for t, j in zip(truth, judged, strict=True)) / len(pairs)
    if axis in DETECTED:
        found["detection"] = asdict(detection(flagged, flags, [cluster for _, _, cluster in pairs]))
        found["detection"]["kappa"] = found["detection"]["kappa"] if len(set(flagged)) > 1 else None
    return found


def _measures(axis: Axis, part: Part) -> dict[str, Any]:
    two = part.collapsed()
    graded = axis in ("refusal", "helpfulness") or (axis == "harm" and bool(part.table[2:].any()))
    chosen: dict[str, tuple[Part, Statistic]] = {"kappa": (two if axis == "harm" else part, confusion.kappa)}
    if graded:
        chosen |= {"weighted_kappa": (part, confusion.linear_kappa), "alpha": (part, confusion.ordinal_alpha)}
    if axis in DETECTED:
        chosen |= {"precision": (two, confusion.precision), "f1": (two, confusion.f1)}
    if axis == "action":
        chosen["macro_f1"] = (part, confusion.macro_f1)
    return {name: asdict(table.measure(statistic)) for name, (table, statistic) in chosen.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


BOOTSTRAP = {"level": 0.95, "resampled": "prompts", "resamples": confusion.RESAMPLES, "seed": 0}
"""How the intervals of `measures` were made."""


def passport(on: str, judge: str, prompts: dict[str, str], agreement: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The stored form: who judged, with which prompts, on what, and how well; and more, where there is any.

    Args:
        on: the labelled set.
        judge: name of the judge, with its grader's identity.
        prompts: fingerprint per axis.
        agreement: from `agree` or `agree_pairs`.
        more: "categories" (from `by_category`), "raters", "cost", "system_ids", "unlabelled", "held_out".
    """
    found = {"judge": judge, "prompts": prompts, "on": on, "agreement": agreement}
    if any("measures" in group for groups in agreement.values() for group in groups.values()):
        found["bootstrap"] = BOOTSTRAP
    return found | {name: value for name, value in more.items() if value}


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
        missing = sum(reasons.values())
        found: dict[str, Any] = {
            "n": len(decided),
            "unscored": dict(reasons),
            "unscored_share": round(missing / max(1, missing + len(decided)), 4),
            "labels": dict(sorted(Counter(t for t, _ in decided).items())),
        }
        if decided:
            people, judged = ([states.index(pair[i]) for pair in decided] for i in (0, 1))
            # Where people chose alike, agreement cannot be told from chance (as in files of chosen and rejected).
            found["kappa"] = round(kappa(people, judged), 4) if len(set(people)) > 1 else None
            found["accuracy"] = round(sum(t == s for t, s in decided) / len(decided), 4)
        agreement[axis] = {"all": found}
    return agreement
