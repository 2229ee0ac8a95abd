"""Score every checkpoint of a training run by itself: base, controls and checkpoints as one family on the same prompts.

    found = checkpoint_files.find(Path("run"))                 # complete checkpoints, made by any trainer
    arms = family(base, [(system, f.step) for f in found])     # and the controls that ride along
    result = evaluate_family(arms, ["mini"], judging, "results", console)

The checkpoint is chosen on dev; only then is test scored, and the claim is about the chosen one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console

from shard_eval import benchmarks, capability, score, summary, vllm_engine
from shard_eval.capability import Scores
from shard_eval.compare import Matched, Terms, conclude
from shard_eval.errors import LogError, UsageError
from shard_eval.logs import Row, Run, differing_arms, require_same_protocol
from shard_eval.pairs import pair_rows
from shard_eval.records import identity
from shard_eval.score import Judging, Plan
from shard_eval.splits import SPLITS, choose_split
from shard_eval.stats.claims import Claim
from shard_eval.stats.comparison import Comparison
from shard_eval.stats.intervals import Estimate
from shard_eval.stats.paired import difference
from shard_eval.stats.simultaneous import RESAMPLES, simultaneous
from shard_eval.summary import Metric, measure
from shard_eval.systems import System

Kind = Literal["base", "resampled", "control", "checkpoint"]
PARTS = ("joint", "helpfulness", "harmful", "over_refusal")


# --- the family --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One line of the family: the base, what the base does in another draw or with another solver, or a checkpoint."""

    name: str
    system: System
    kind: Kind
    step: int | None = None
    note: str = ""


def family(base: System, checkpoints: Sequence[tuple[System, int | None]], controls: bool = True) -> list[Arm]:
    """The arms of a family: the base, its controls, and the checkpoints in the order of training.

    Args:
        base: what was trained.
        checkpoints: each with its step.
        controls: also a second draw of the base, and the base with the solver `benign_intent`.
    """
    arms = [Arm("base", base, "base")]
    d = base.decoding
    if controls and d.temperature > 0:
        seed = 1 if d.seed is None else d.seed + 1
        note = f"the base drawn again (seed {seed} instead of {d.seed}): what sampling alone changes."
        arms.append(Arm("base resampled", replace(base, decoding=replace(d, seed=seed)), "resampled", note=note))
    elif controls:
        note = (
            f"the base asked again: what {base.engine} alone changes, whose answers depend on what it answers beside."
        )
        arms.append(Arm("base again", replace(base, again=True), "resampled", note=note))
    if controls:
        prompted = replace(base, solver="benign_intent")
        arms.append(Arm("benign_intent", prompted, "control", note="the base with a system prompt, not trained."))
    return [*arms, *(Arm(system.label, system, "checkpoint", step) for system, step in checkpoints)]


def check(arms: Sequence[Arm], declared: bool = False) -> None:
    """Refuse a family whose arms differ in more than what is compared.

    Args:
        arms: of one family.
        declared: differences in engine, dtype and decoding are meant.

    Raises:
        UsageError: naming what is wrong.
    """
    names = Counter(arm.name for arm in arms)
    if (twice := names.most_common(1)) and twice[0][1] > 1:
        raise UsageError(f"two arms of the family are called {twice[0][0]!r}; every arm needs its own name.")
    if sum(arm.kind == "base" for arm in arms) != 1 or not _checkpoints(arms):
        raise UsageError("a family needs one base and at least one checkpoint.")
    base = _base(arms).system
    for arm in arms:
        system = arm.system
        decoding = replace(system.decoding, seed=base.decoding.seed) if arm.kind == "resampled" else system.decoding
        ours = (system.engine, system.dtype, decoding)
        if ours != (base.engine, base.dtype, base.decoding) and system.engine != "none" and not declared:
            raise UsageError(
                f"{arm.name} would run on {system.engine} {system.dtype} with {decoding}, the base on {base.engine} "
                f"{base.dtype} with {base.decoding}: the same weights answer differently there. Use one for all."
            )


def _base(arms: Sequence[Arm]) -> Arm:
    return next(arm for arm in arms if arm.kind == "base")


def _checkpoints(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.kind == "checkpoint"]


# --- scoring -----------------------------------------------------------------------------------------------------


def plans(
    arms: Sequence[Arm],
    names: Sequence[str],
    split: str,
    judging: Judging,
    *,
    axes: str | None = None,
    limit: int | None = None,
) -> dict[str, list[Plan]]:
    """What scoring the arms takes, by arm: a plan per benchmark.

    Raises:
        UsageError, DataError: as `score.plans`.
    """
    return {arm.name: score.plans(arm.system, names, judging, axes=axes, split=split, limit=limit) for arm in arms}


def score_arms(
    arms: Sequence[Arm],
    names: Sequence[str],
    split: str,
    judging: Judging,
    root: str,
    console: Console,
    *,
    axes: str | None = None,
    limit: int | None = None,
    cache: bool = True,
    keep: bool = False,
) -> dict[str, list[Run]]:
    """Score arms on benchmarks; what is finished is read back, and a system is opened once and then closed.

    Args:
        arms: of one family.
        names: of the benchmarks.
        split: of the benchmarks.
        judging: who judges all arms.
        root: results folder.
        console: for the progress bars.
        axes: judged axes; default per benchmark.
        limit: only the first records.
        cache: keep generations of local weights by content.
        keep: leave a server that vLLM has for the last arm running, for what comes next.

    Returns:
        A run per benchmark, by the arm's name.

    Raises:
        UsageError, DataError: as `score.plans`, before anything is generated.
        JudgeError, LogError: as `score.run`.
    """
    planned = plans(arms, names, split, judging, axes=axes, limit=limit)
    score.announce_adapters([arm.system for arm in arms])
    done = {}
    for number, arm in enumerate(arms, 1):
        kept = [score.finished(plan, root) for plan in planned[arm.name]]
        if any(run is None for run in kept):
            later = [other.system for other in arms[number:]]
            with arm.system.opened(cache, any(map(arm.system.shares_engine, later)) or (keep and not later)) as model:
                kept = [
                    run or score.run(plan, root, console, cache=cache, model=model)
                    for plan, run in zip(planned[arm.name], kept, strict=True)
                ]
        done[arm.name] = [run for run in kept if run is not None]
    return done


def merge(runs: Sequence[Run]) -> Run:
    """Join runs of disjoint records into one: cross-fitting, each model on the fold it was not trained on.

    The result can be summarised and paired with another run; its responses stay in the logs of its parts.

    Args:
        runs: of one method, scored alike.

    Raises:
        UsageError: if there are none, or a record is in two of them.
        LogError: if they differ in protocol, solver, engine, dtype or decoding.
    """
    if not runs:
        raise UsageError("there is nothing to merge: no runs.")
    require_same_protocol(runs)
    if lines := [*differing_arms(runs), *(["solvers differ"] if len({run.solver for run in runs}) > 1 else [])]:
        raise LogError(f"{' and '.join(run.log for run in runs)} cannot be merged: {'; '.join(lines)}.")
    rows = [row for run in runs for row in run.rows]
    ((key, times),) = Counter(_key(row) for row in rows).most_common(1)
    if times > 1:
        raise UsageError(f"record {key[1]!r} of {key[0]} is in {times} of the runs to merge; they must be disjoint.")
    systems = [run.metadata.get("system") or {} for run in runs]
    weights = "+".join(str(system.get("weights_sha256", "")) for system in systems)
    merged = {"system": systems[0] | {"weights_sha256": weights}, "merged": systems}
    return replace(
        runs[0],
        log=" + ".join(run.log for run in runs),
        metadata=runs[0].metadata | merged,
        rows=tuple(sorted(rows, key=lambda r: (r.id, r.epoch))),
        metrics={},
        usage=dict(sum((Counter(run.usage) for run in runs), Counter())),
    )


def _key(row: Row) -> tuple[str, str, str, int]:
    return (row.benchmark, row.id, row.prompt_sha, row.epoch)


# --- choosing on dev ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DevScore:
    """A checkpoint on the split it may be chosen by.

    Attributes:
        value: mean over benchmarks of the joint score; None if no answer has its verdicts.
        low: lower bound of the interval (MOVER over the benchmarks' intervals); likewise high.
        floor: the same mean with every missing verdict counted as 0, which decides: whoever gives no answer that can
            be judged must not win by it.
        unscored: answers without the verdicts it needs.
        parts: joint score per benchmark.
    """

    arm: str
    step: int | None
    value: float | None
    low: float
    high: float
    floor: float
    unscored: int
    parts: tuple[tuple[str, Estimate], ...]


@dataclass(frozen=True)
class Choice:
    """Which checkpoint the claim is about, and why.

    Attributes:
        arm: its name.
        reason: in words.
        scores: every checkpoint on dev; none if there was nothing to choose from.
        absent: benchmarks without a joint score, which had no say.
    """

    arm: str
    reason: str
    scores: tuple[DevScore, ...] = ()
    absent: tuple[str, ...] = ()


def choose(dev: Mapping[str, Sequence[Run]], arms: Sequence[Arm], split: str = "dev") -> Choice:
    """Choose the checkpoint with the highest mean joint score on records that the claim will not be about.

    A tie goes to the earliest one.

    Args:
        dev: runs per arm; those of checkpoints are looked at.
        arms: of the family.
        split: what was declared for choosing, such as "dev" or "train&fold1of2+dev".

    Raises:
        UsageError: if there is no checkpoint, or a record is of the test split or of another one than declared.
        LogError: if the checkpoints were not scored alike.
    """
    candidates = _checkpoints(arms)
    if not candidates:
        raise UsageError("there is no checkpoint to choose.")
    runs = [(arm, run) for arm in candidates for run in dev[arm.name]]
    _require_split([run for _, run in runs], split)
    for i, first in enumerate(dev[candidates[0].name]):
        for arm in candidates:
            pair_rows(dev[arm.name][i], first)
    scores = tuple(found for arm in candidates if (found := _dev_score(arm, dev[arm.name])) is not None)
    judged = {name for s in scores for name, _ in s.parts}
    absent = tuple(sorted({run.protocol.benchmark for _, run in runs} - judged))
    if not scores:
        return Choice(candidates[-1].name, "the last one: no benchmark here measures the joint score", (), absent)
    best = max(scores, key=lambda s: round(s.floor, 12))  # max takes the first of equals
    equal = sum(round(s.floor, 12) == round(best.floor, 12) for s in scores)
    tie = f", the earliest of {equal} with it" if equal > 1 else ""
    reason = f"highest mean joint score on {split} ({best.floor:.3f}) of {len(scores)}{tie}"
    return Choice(best.arm, reason, scores, absent)


def _require_split(runs: Sequence[Run], split: str) -> None:
    """Refuse rows that must not be chosen by."""
    declared = set(re.split("[+&]", split)) & set(SPLITS)
    if "test" in declared:
        raise UsageError(f"a checkpoint must not be chosen on test records (split {split!r}). Choose on dev.")
    for run in runs:
        for row in run.rows:
            if row.split not in declared:
                raise UsageError(
                    f"a checkpoint must not be chosen on record {row.id!r} of {row.benchmark}: it is of the "
                    f"{row.split or 'unknown'} split, and {split!r} was declared for choosing."
                )


def _dev_score(arm: Arm, runs: Sequence[Run]) -> DevScore | None:
    """A checkpoint's mean joint score; None if no benchmark has one."""
    metric = summary.metric("joint")
    found = [(run.protocol.benchmark, m) for run in runs if (m := measure(metric, run.rows)) is not None]
    if not found:
        return None
    n = len(found)
    estimates = [m.estimate for _, m in found]
    values = [0.0 if e.value is None else e.value for e in estimates]
    mean = sum(values) / n
    down, up = (
        math.sqrt(sum((v - b) ** 2 for v, b in zip(values, bounds, strict=True))) / n
        for bounds in ([e.low for e in estimates], [e.high for e in estimates])
    )
    return DevScore(
        arm=arm.name,
        step=arm.step,
        value=None if any(e.value is None for e in estimates) else mean,
        low=mean - down,
        high=mean + up,
        floor=sum(m.low_bound for _, m in found) / n,
        unscored=sum(m.unscored for _, m in found),
        parts=tuple((name, m.estimate) for name, m in found),
    )


# --- against the base --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """An arm against the base in one metric of one benchmark; signed so that higher is better.

    Attributes:
        alone: difference with its pointwise interval, over the pairs that have verdicts.
        low: lower bound of the simultaneous interval, for checkpoints; likewise high.
        unscored: pairs left out because one of the two lacks a verdict.
    """

    arm: str
    kind: Kind
    benchmark: str
    metric: str
    alone: Comparison
    low: float | None
    high: float | None
    unscored: int


@dataclass(frozen=True)
class Family:
    """All arms against the base.

    Attributes:
        sizes: benchmark -> number of differences whose simultaneous intervals hold at once.
        level: confidence level of every pointwise interval, and of each benchmark's simultaneous ones together.
    """

    differences: tuple[Difference, ...]
    sizes: dict[str, int]
    level: float
    resamples: int
    seed: int


ITSELF = "base against itself"


def against_base(
    test: Mapping[str, Sequence[Run]],
    arms: Sequence[Arm],
    metrics: Sequence[str] = PARTS,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Family:
    """Compare every arm with the base on the same prompts, the base itself included as a control.

    Args:
        test: a run per benchmark, by the arm's name.
        arms: of the family.
        metrics: names of `summary.METRICS`; those that were not judged are left out.
        level: confidence level.
        resamples: of the bootstrap behind the simultaneous intervals.
        seed: of the same.

    Raises:
        LogError: if an arm was not scored like the base, or on other records.
    """
    base = _base(arms)
    controls = [arm for arm in arms if arm.kind in ("resampled", "control")]
    others = [Arm(ITSELF, base.system, "control"), *controls, *_checkpoints(arms)]
    found: list[Difference] = []
    sizes = {}
    for i, baseline in enumerate(test[base.name]):
        runs = {arm.name: test[base.name if arm.name == ITSELF else arm.name][i] for arm in others}
        pairs = {name: pair_rows(run, baseline) for name, run in runs.items()}
        lines = [line for m in metrics for arm in others if (line := _compare(arm, pairs[arm.name], m, level))]
        joint = _simultaneous_of(lines, level, resamples, seed)
        sizes[baseline.protocol.benchmark] = sum(line.difference.low is not None for line in joint)
        found += [line.difference for line in joint]
    return Family(tuple(found), sizes, level, resamples, seed)


@dataclass(frozen=True)
class _Line:
    """A difference with what it was made from: per pair its value, NaN where there is none, and its cluster."""

    difference: Difference
    values: npt.NDArray[np.float64]
    clusters: tuple[str, ...]


def _compare(arm: Arm, pairs: Sequence[tuple[Row, Row]], name: str, level: float) -> _Line | None:
    """An arm's differences to the base in one metric; None where it was not judged."""
    metric = summary.metric(name)
    about = [metric.applies(row) and all(axis in row.labels for axis in metric.needs) for row, _ in pairs]
    if not any(about):
        return None
    values = [_signed(metric, a, b) if yes else math.nan for yes, (a, b) in zip(about, pairs, strict=True)]
    clusters = tuple(row.cluster for row, _ in pairs)
    scored = [(v, c) for v, c in zip(values, clusters, strict=True) if not math.isnan(v)]
    alone = difference([v for v, _ in scored], [c for _, c in scored], level)
    benchmark = pairs[0][0].benchmark
    line = Difference(arm.name, arm.kind, benchmark, name, alone, None, None, sum(about) - len(scored))
    return _Line(line, np.array(values), clusters)


def _signed(metric: Metric, row: Row, other: Row) -> float:
    """How much better the first response is; NaN if one of the two lacks a verdict."""
    one, two = (summary.value(metric, r) for r in (row, other))
    return one - two if metric.better == "higher" else two - one


def _simultaneous_of(lines: Sequence[_Line], level: float, resamples: int, seed: int) -> list[_Line]:
    """The same lines, those of checkpoints with simultaneous intervals over all of them."""
    joined = [line for line in lines if line.difference.kind == "checkpoint" and line.difference.alone.n]
    if not joined or len(set(joined[0].clusters)) < 2:
        return list(lines)
    table = np.stack([line.values for line in joined], axis=1)
    low, high = simultaneous(table, joined[0].clusters, level, resamples, seed)
    bounds = {id(line): (float(a), float(b)) for line, a, b in zip(joined, low, high, strict=True)}
    return [
        replace(line, difference=replace(line.difference, low=bounds[id(line)][0], high=bounds[id(line)][1]))
        if id(line) in bounds
        else line
        for line in lines
    ]


# --- all together ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a family's evaluation says.

    Attributes:
        dev: runs per arm on the split that the checkpoint was chosen by; empty if there was nothing to choose.
        test: runs per arm on the split that is reported.
        splits: names of the two.
        matched: the chosen checkpoint's and the base's responses, per benchmark.
        claim: about the chosen checkpoint; chosen without the test split, so it is one comparison, not one of many.
        capable: results on capability tasks by the arm's name, of the base and the checkpoints; empty without tasks.
    """

    arms: tuple[Arm, ...]
    dev: dict[str, list[Run]]
    test: dict[str, list[Run]]
    splits: tuple[str, str]
    choice: Choice
    family: Family
    matched: tuple[Matched, ...]
    claim: Claim
    terms: Terms
    capable: dict[str, list[Scores]] = field(default_factory=dict)

    @property
    def chosen(self) -> Arm:
        """The checkpoint that the claim is about."""
        return next(arm for arm in self.arms if arm.name == self.choice.arm)

    @property
    def base(self) -> Arm:
        """What the others are compared with."""
        return _base(self.arms)

    @property
    def id(self) -> str:
        """Short hash of what was compared, on what and by whom; the same on every machine."""
        arms = [(arm.name, arm.system.manifest) for arm in self.arms]
        runs = [(repr(m.candidate.protocol), len(m.rows)) for m in self.matched]
        return identity([arms, runs, self.splits])


def wanted_dev(arms: Sequence[Arm]) -> list[Arm]:
    """Arms to be scored on dev: the base and the checkpoints, if there are several to choose from."""
    return [_base(arms), *_checkpoints(arms)] if len(_checkpoints(arms)) > 1 else []


def evaluate_family(
    arms: Sequence[Arm],
    names: Sequence[str],
    judging: Judging,
    root: str,
    console: Console,
    *,
    dev: str = "dev",
    test: str = "test",
    axes: str | None = None,
    limit: int | None = None,
    terms: Terms | None = None,
    cache: bool = True,
    tasks: Sequence[str] = (),
    task_limit: int | None = None,
) -> Result:
    """Score the checkpoints on dev, choose one, score all arms on test, and draw the claim about the chosen one.

    Args:
        arms: of the family.
        names: of the benchmarks.
        judging: who judges all arms.
        root: results folder.
        console: for the progress bars.
        dev: what the checkpoint is chosen by.
        test: what is reported.
        axes: judged axes; default per benchmark.
        limit: only the first records of each.
        terms: what the claim is about.
        cache: keep generations of local weights by content.
        tasks: of capability, that must not get worse (`capability.measure`).
        task_limit: only the first documents of each.

    Raises:
        UsageError: if the arms differ in more than they should, or dev and test share a record.
        DataError, JudgeError, LogError: as `score.plans` and `score.run`.
    """
    terms = terms or Terms()
    check(arms, terms.declared)
    capability.require(tasks)
    for name in names:
        _require_disjoint(name, dev, test)
    plans(arms, names, test, judging, axes=axes, limit=limit)  # what is wrong with test is said before dev is paid for
    options = {"axes": axes, "limit": limit, "cache": cache}
    try:
        on_dev = score_arms(wanted_dev(arms), names, dev, judging, root, console, keep=True, **options)  # type: ignore[arg-type]
        if on_dev:
            choose(on_dev, arms, dev)  # refuses before test is touched
        on_test = score_arms(arms, names, test, judging, root, console, keep=True, **options)  # type: ignore[arg-type]
        capable = {
            arm.name: capability.measure(arm.system, tasks, root, console, task_limit)
            for arm in ([_base(arms), *_checkpoints(arms)] if tasks else [])  # greedy: another draw is the same
        }
    finally:
        vllm_engine.stop_all()
    return conclude_family(arms, on_dev, on_test, (dev, test), terms, capable)


def _require_disjoint(name: str, dev: str, test: str) -> None:
    records = benchmarks.load(name).records
    both = {r.key for r in choose_split(records, dev)} & {r.key for r in choose_split(records, test)}
    if both:
        raise UsageError(f"{len(both)} records of {name} are in {dev!r} and in {test!r}: choose and report on others.")


def conclude_family(
    arms: Sequence[Arm],
    dev: Mapping[str, Sequence[Run]],
    test: Mapping[str, Sequence[Run]],
    splits: tuple[str, str] = ("dev", "test"),
    terms: Terms | None = None,
    capable: Mapping[str, Sequence[Scores]] | None = None,
) -> Result:
    """Draw from finished runs what `evaluate_family` draws; for runs that were scored or merged elsewhere.

    Args:
        arms: of the family.
        dev: runs per checkpoint to choose by; empty to take the last one.
        test: runs per arm.
        splits: names of the two.
        terms: what the claim is about.
        capable: results on capability tasks, by arm: of the base and the checkpoints, or of nobody.

    Raises:
        UsageError: if the checkpoint would be chosen on test records.
        LogError: if the arms were not scored alike, on the same records.
    """
    terms = terms or Terms()
    last = _checkpoints(arms)[-1]
    only = "the only one" if len(_checkpoints(arms)) == 1 else "the last one: none was scored on dev"
    choice = choose(dev, arms, splits[0]) if dev else Choice(last.name, only)
    found = against_base(test, arms, level=terms.level)
    sides = zip(test[choice.arm], test[_base(arms).name], strict=True)
    matched = tuple(Matched(ours, theirs, tuple(pair_rows(ours, theirs))) for ours, theirs in sides)
    plain_dev, plain_test = ({k: list(v) for k, v in runs.items()} for runs in (dev, test))
    able = {name: list(scores) for name, scores in (capable or {}).items()}
    both = list(zip(able[choice.arm], able[_base(arms).name], strict=True)) if able else []
    claim = conclude(matched, terms, both)
    return Result(tuple(arms), plain_dev, plain_test, splits, choice, found, matched, claim, terms, able)
