"""Several methods on one model, scored on the same prompts in one table.

Each method is trained as by itself, and its checkpoint chosen on dev; then base, controls and the chosen checkpoints
are one family on test, with intervals that hold for all methods at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from shard_eval import checkpoints
from shard_eval.checkpoints import Arm, Result
from shard_eval.errors import UsageError
from shard_train import reasoning_cost, run
from shard_train.experiment import Experiment, Prompts, legs, weights
from shard_train.methods import METHODS
from shard_train.reasoning_cost import Cost
from shard_train.run import Settings


@dataclass(frozen=True)
class Compared:
    """Finished methods.

    Attributes:
        experiments: what each did.
        result: all of them against the base; the claim is about the best on dev.
        notes: what a reader must know, by method.
        reasoning: what it costs by arm; empty where no method reasons.
    """

    experiments: tuple[Experiment, ...]
    result: Result
    notes: tuple[str, ...]
    reasoning: tuple[Cost, ...] = ()


def compare(
    experiments: Sequence[Experiment], settings: Settings, err: Console, prompts: Sequence[Sequence[Prompts]]
) -> Compared:
    """Train every method, or continue; score them beside each other.

    Args:
        experiments: of one model, one per method, scored on the same prompts with the same decoding.
        settings: how.
        err: for progress and remarks.
        prompts: of each experiment's legs, from `experiment.gather`.

    Raises:
        UsageError: if there are fewer than two, or they differ in what they are scored on.
        LogError, JudgeError: if a stage failed; what is finished is kept.
        KeyboardInterrupt: if the user stopped it; what is finished is kept.
    """
    require_comparable(experiments)
    notes: list[str] = []
    trained = []
    for experiment, of_each in zip(experiments, prompts, strict=True):
        err.rule(experiment.title, align="left")
        done = run.train(experiment, settings, err, of_each)
        trained.append([(path, step) for leg in done for path, step in run.found(experiment, leg.leg)])
        notes += [f"{experiment.title}: {note}" for note in run.notes(experiment, settings, done)]
    err.rule("scoring", align="left")
    families = [run.arms(e, settings, folders) for e, folders in zip(experiments, trained, strict=True)]
    others = [arm for arm in families[0] if arm.kind != "checkpoint"]
    chosen = [_chosen(e, settings, family, err) for e, family in zip(experiments, families, strict=True)]
    (leg,) = legs(0)
    result = run.evaluate(experiments[0], settings, [*others, *chosen], leg, err)
    reasoning = next((e for e in experiments if METHODS[e.method].reasoning), None)
    costs = reasoning_cost.measure(result, weights(reasoning, err)) if reasoning else []
    return Compared(tuple(experiments), result, tuple(notes), tuple(costs))


def _chosen(experiment: Experiment, settings: Settings, family: Sequence[Arm], err: Console) -> Arm:
    """A method's checkpoint: the best on dev, or the only one."""
    several = checkpoints.wanted_dev(family)
    candidates = [arm for arm in family if arm.kind == "checkpoint"]
    if not several:
        return candidates[0]
    on_dev = run.on_split(experiment, settings, several, legs(0)[0].dev, err)
    choice = checkpoints.choose(on_dev, several)
    err.print(f"{experiment.title}: {choice.arm}, {choice.reason}", markup=False, highlight=False)
    found = next(arm for arm in candidates if arm.name == choice.arm)
    note = f"{found.note}; " if found.note else ""
    return replace(found, note=f"{note}chosen of {len(candidates)} on dev")


def require_comparable(experiments: Sequence[Experiment]) -> None:
    """Refuse methods that would not be compared like with like.

    Raises:
        UsageError: naming the first difference.
    """
    if len(experiments) < 2:
        raise UsageError("a comparison takes at least two methods, e.g. --methods sft,star_dss.")
    titles = [e.title for e in experiments]
    if twice := next((t for t in titles if titles.count(t) > 1), ""):
        raise UsageError(f"method {twice!r} is named twice.")
    first = experiments[0]
    for e in experiments[1:]:
        for name in ("student", "names", "scored_limit", "folds", "root"):
            if getattr(e, name) != getattr(first, name):
                raise UsageError(
                    f"{e.title} and {first.title} differ in {name}: give one --config, so that all are scored alike."
                )
