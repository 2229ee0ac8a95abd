"""Run an experiment from split to table. Here, and in what prints it, training meets scoring; nowhere else.

The trainer is a process of its own, so this one scores: after the training, or beside it where a GPU is to spare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from shard_eval import benchmarks, capability, checkpoint_files, checkpoints, engine, score, solvers
from shard_eval.checkpoints import Arm, Result
from shard_eval.compare import Terms
from shard_eval.errors import DataError
from shard_eval.logs import Run
from shard_eval.records import sha256
from shard_eval.score import LOCAL_ENGINES, Judging
from shard_train import experiment as recipe_of
from shard_train import generate, lint, reasoning_cost, select, star_sources, training
from shard_train.experiment import Experiment, Leg, Prompts, Trained, legs
from shard_train.methods import METHODS
from shard_train.saro import readings, stages
from shard_train.saro.readings import QUESTIONS
from shard_train.sft import PROBE, read_rows
from shard_train.star import scoring

UNTRAINED = "the base with this chain, not trained."
REQUEST = 60  # tokens of a request with its chat template, about


@dataclass(frozen=True)
class Settings:
    """How the arms are scored, and how the run goes about it; nothing of this changes the trained weights.

    Attributes:
        controls: solvers that are scored beside the base: inference-time systems.
        beside: score while training goes on: "auto", "yes" or "no".
        tasks: of capability, that no checkpoint may be worse in.
        task_limit: only the first documents of each.
    """

    judging: Judging
    axes: str | None = None
    controls: tuple[str, ...] = ("shard_reframe",)
    terms: Terms = field(default_factory=Terms)
    processes: int = 1
    beside: str = "auto"
    cache: bool = True
    tasks: tuple[str, ...] = ()
    task_limit: int | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished run; `reasoning` is what it costs by arm, empty where nothing reasons."""

    experiment: Experiment
    trained: tuple[Trained, ...]
    result: Result
    notes: tuple[str, ...]
    reasoning: tuple[reasoning_cost.Cost, ...] = ()


@dataclass(frozen=True)
class Bill:
    """What a run will ask of models, at most or about.

    Attributes:
        selections: calls of the selector.
        answers: of all arms; the chain of a control counts for its three calls.
        paid: the roles that cost money.
    """

    generation: generate.Cost
    selections: int
    answers: int
    judge_calls: int
    paid: tuple[str, ...]


def bill(experiment: Experiment, settings: Settings, prompts: Sequence[Prompts]) -> Bill:
    """Count what is to be done, and check all that scoring needs; finished parts are not asked again.

    Raises:
        UsageError: for axes, a judge or a limit with which the scoring would fail after the training.
    """
    capability.require(settings.tasks)
    recipe, reasons = experiment.recipe, METHODS[experiment.method].reasoning
    tried = [recipe_of.attempted(experiment, p) for p in prompts]
    costs = [
        stages.estimate(t, experiment)
        if reasons
        else generate.estimate(t, experiment.chain, recipe.generation.max_tokens)
        for t in tried
    ]
    total = generate.Cost(*(sum(getattr(c, k) for c in costs) for k in ("calls", "input_tokens", "output_tokens")))
    per_row = {"none": 0, "judge": 4, "harm_gate": 1}[recipe.selection.rule]
    if reasons and per_row:
        per_row = len(QUESTIONS) * (2 + recipe.reasoning.samples)  # of what is written, drawn and continued
    kept = recipe.training.epochs * recipe.training.checkpoints
    if reasons:
        kept = 1 + recipe.preference.epochs * recipe.training.checkpoints
    plain = 3 + kept  # base, drawn again, benign_intent; every checkpoint
    controls = len(settings.controls)
    steps = sum(3 if solvers.split_name(name)[0] in solvers.CHAINS else 1 for name in settings.controls)
    answers = calls = 0
    for leg in legs(experiment.folds):
        parts = [(leg.test, plain, controls)] + ([] if experiment.folds else [(leg.dev, 1 + kept, 0)])
        for split, alone, chains in parts:
            for plan in score.plans(
                experiment.student,
                experiment.scored,
                settings.judging,
                axes=settings.axes,
                split=split,
                limit=experiment.scored_limit,
            ):
                answers += plan.records * (alone + (steps if chains else 0))
                calls += plan.judge_calls * (alone + chains)
    rows = sum(len(p.train) for p in prompts)
    return Bill(total, rows * per_row, answers, calls, _paid(experiment, settings))


def _paid(experiment: Experiment, settings: Settings) -> tuple[str, ...]:
    roles = [
        ("targets", experiment.generator),
        ("selector", experiment.selector if experiment.recipe.selection.rule != "none" else None),
        *(("judge", grader) for grader in settings.judging.graders.values()),
        ("model", experiment.student),
    ]
    return tuple(f"{role} ({s.name})" for role, s in roles if s and s.engine not in LOCAL_ENGINES)


def announce(experiment: Experiment, settings: Settings, prompts: Sequence[Prompts], err: Console) -> Bill:
    """Say what will be done and what it costs, before it starts."""
    due = bill(experiment, settings, prompts)
    for p in prompts:
        for name, sizes in p.sizes.items():
            dev, test = (min(size, experiment.scored_limit or size) for size in sizes)
            n = sum(r.benchmark == benchmarks.load(name).name for r in p.train)
            held = f"{dev} to choose by, {test} to report" if name in experiment.scored else "not scored"
            err.print(f"  {name}: {n} prompts to train on, {held}", highlight=False)
        checked = sum(p.gate.checked.values())
        dropped = f", {len(p.dropped)} near-duplicates left out of training" if p.dropped else ", no leak"
        err.print(f"  leak gate: compared with {checked:,} evaluation prompts{dropped}", highlight=False)
        for why in dict.fromkeys(p.gate.unchecked.values()):
            names = ", ".join(name for name, reason in p.gate.unchecked.items() if reason == why)
            err.print(f"  leak gate: {names} not compared: {why}", style="yellow", markup=False, highlight=False)
    cost, generator = due.generation, experiment.generator
    err.print(
        f"  targets: about {cost.calls:,} calls, {cost.input_tokens:,} tokens in, {cost.output_tokens:,} out; "
        f"selection: up to {due.selections:,} calls; scoring: about {due.answers:,} answers, "
        f"{due.judge_calls:,} judge calls",
        highlight=False,
    )
    if generator.engine == "llamacpp" and not experiment.folder.is_dir():
        options = {k: int(v) for k, v in generator.model_args.items() if k in ("slots", "context", "threads")}
        rate = engine.measure_rate(generator.model.removeprefix("llamacpp/"), **options)
        targets = (cost.input_tokens + cost.output_tokens) / rate / 60
        scoring = due.answers * (REQUEST + experiment.recipe.scoring.max_tokens) / rate / 60
        same = generator.weights == experiment.student.weights
        err.print(
            f"  {generator.label} reads and writes {rate:,.0f} tokens/s here: up to {targets:,.0f} min for the targets"
            + (f", {scoring:,.0f} min for the answers that are scored" if same else "")
            + "; training says its time after the first steps",
            highlight=False,
        )
    return due


def run(experiment: Experiment, settings: Settings, err: Console, prompts: Sequence[Prompts]) -> Outcome:
    """Make targets, train, score, conclude; or continue where an earlier call of the same stopped.

    Args:
        experiment: what to do.
        settings: how.
        err: for progress and remarks.
        prompts: of each leg, from `experiment.gather`.

    Raises:
        UsageError: if no target is left to train on.
        LogError, JudgeError: if a stage failed; what is finished is kept.
        KeyboardInterrupt: if the user stopped it; what is finished is kept.
    """
    trained = train(experiment, settings, err, prompts)
    err.rule("scoring", align="left")
    result = _score(experiment, settings, trained, err)
    costs: list[reasoning_cost.Cost] = []
    if METHODS[experiment.method].reasoning:
        costs = reasoning_cost.measure(result, recipe_of.weights(experiment, err))
    return Outcome(experiment, tuple(trained), result, tuple(notes(experiment, settings, trained)), tuple(costs))


def train(experiment: Experiment, settings: Settings, err: Console, prompts: Sequence[Prompts]) -> list[Trained]:
    """The part of `run` before the scoring: targets and training of every leg, or what is left of them."""
    trained = []
    for leg, of_leg in zip(legs(experiment.folds), prompts, strict=True):
        name = f" ({leg.name})" if leg.name else ""
        err.rule(f"targets{name}", align="left")
        if METHODS[experiment.method].reasoning:
            made = stages.make_targets(
                experiment, leg, of_leg, _readers(experiment, settings, leg, err), err, settings.cache
            )
        else:
            made = recipe_of.make_targets(experiment, leg, of_leg, err, settings.cache)
        _tell(made, experiment, err)
        for line in lint_of(experiment, made):
            err.print(f"look at the data: {line}", style="yellow", markup=False, highlight=False)
        err.rule(f"training{name}", align="left")
        trained.append(_train(experiment, settings, made, err))
    return trained


def _readers(experiment: Experiment, settings: Settings, leg: Leg, err: Console) -> stages.Readers:
    """Who reads replies with reasoning: the selector, the guard, or both."""
    place = experiment.place(leg)

    @contextmanager
    def open_reader() -> Iterator[tuple[readings.Reader, dict[str, Any]]]:
        held: dict[str, Any] = {}
        seen: dict[str, Any] = {}

        def read(items: Sequence[readings.Item], name: str) -> list[readings.Reading]:
            found: list[readings.Reading] = held["reader"](items, name)
            return found

        if experiment.guards:
            held["guard"] = guard = scoring.trusted(
                star_sources.guard(experiment.guards, experiment.recipe.shaping.sharpness),
                lambda reply: [len(reply)],
                probe=star_sources.probe(experiment.probe, experiment.guards),
                insist=experiment.insist,
                cache=place / "star.jsonl",
            )
            seen = {"guard": guard.name, "trust": asdict(guard.trust) if guard.trust else None}
            held["reader"] = readings.by_guard(guard)
            del guard
        if experiment.selector is not None:
            selector = readings.by_selector(experiment.selector, str(place / "read"), err, settings.cache)
            held["reader"] = readings.agreed(selector, held["guard"]) if experiment.guards else selector
        try:
            yield read, seen
        finally:
            held.clear()  # whoever still has `read` holds no weights by it; the trainer needs their memory
            star_sources.release()

    return open_reader


def _tell(made: Trained, experiment: Experiment, err: Console) -> None:
    """Say what the chain and the selection gave."""
    if METHODS[experiment.method].given:
        err.print(f"{len(made.rows)} given answers", highlight=False)
        return
    outcomes = ", ".join(f"{k} {n}" for k, n in generate.outcomes(made.generated.targets).items())
    err.print(f"{len(made.generated.targets)} prompts: {outcomes}", markup=False, highlight=False)
    failed = ", ".join(f"{k} {n}" for k, n in generate.attempts(made.generated.targets).items())
    if failed:
        err.print(f"attempts at a rewrite that were not valid: {failed}", markup=False, highlight=False)
    kept = ", ".join(f"{k} {n}" for k, n in select.reasons(made.decisions).items())
    err.print(f"selection {experiment.recipe.selection.rule}: {kept}", markup=False, highlight=False)
    if experiment.recorded:
        err.print(
            f"Trained on the {len(made.rows)} targets recorded with the prompts, not on what this model wrote.",
            style="bold",
        )


def _train(experiment: Experiment, settings: Settings, made: Trained, err: Console) -> Trained:
    """Train a leg; its checkpoints are scored on dev meanwhile if there is room."""
    base = recipe_of.weights(experiment, err)
    if experiment.recipe.shaping.scored:
        guard = star_sources.guard(experiment.guards, experiment.recipe.shaping.sharpness)
        tried_on = star_sources.probe(experiment.probe, experiment.guards)
        made = recipe_of.weigh(experiment, made, guard, tried_on, base, err)
        del guard
        star_sources.release()
        err.print(star_sources.weighed(made.star), markup=False, highlight=False)
    job = recipe_of.job(experiment, made, base)
    if METHODS[experiment.method].reasoning:
        env, _ = training.devices(
            "no", settings.processes
        )  # what is scored is made of both stages, so nothing is scored before the end
        readers = _readers(experiment, settings, made.leg, err)
        made = stages.train(experiment, made, readers, base, err, settings.cache, processes=settings.processes, env=env)
        _require_same_rendering(experiment, made.summary)
        _told(made.summary["warmup"], "warm-up: ", experiment, err)
        _told(made.summary, "preferences: ", experiment, err)
        return made
    env, beside = training.devices(settings.beside, settings.processes)

    def meanwhile(complete: list[Path]) -> None:
        steps = [(path, int(path.name.rpartition("-")[2])) for path in complete]
        wanted = [a for a in arms(experiment, settings, steps) if a.kind in ("base", "checkpoint")]
        on_split(experiment, settings, wanted, made.leg.dev, err)

    summary = training.train(
        job,
        err,
        processes=settings.processes,
        env=env,
        meanwhile=meanwhile if beside and not experiment.folds else None,
    )
    _require_same_rendering(experiment, summary)
    _told(summary, "", experiment, err)
    return replace(made, summary=summary)


def _told(summary: dict[str, Any], what: str, experiment: Experiment, err: Console) -> None:
    """Say what a trainer did."""
    losses = [loss for _, loss in summary["losses"]]
    err.print(
        f"{what}{summary['rows']} rows, {summary['steps']} steps in {summary['seconds']:.0f} s "
        f"({summary['tokens_per_second']:,.0f} tokens/s), loss {losses[0]:.3f} to {losses[-1]:.3f}, "
        f"{summary['truncated']} rows cut at {experiment.recipe.training.max_length} tokens",
        highlight=False,
    )


def _require_same_rendering(experiment: Experiment, summary: dict[str, Any]) -> None:
    """Check that the server shows the model a conversation as the trainer did.

    Raises:
        DataError: if not; such a model answers another format than it learned.
    """
    student = experiment.student
    if student.engine != "llamacpp":
        return  # the checkpoint's own tokenizer serves it, with the template it was trained with
    if sha256(engine.render(student.model.removeprefix("llamacpp/"), PROBE)) != summary["probe_sha256"]:
        raise DataError(
            f"{student.label}: the chat template renders otherwise in training than on llama.cpp, so that its scores "
            "would mean nothing. Train from a GGUF whose template llama.cpp and transformers read alike."
        )


def arms(experiment: Experiment, settings: Settings, folders: Sequence[tuple[Path, int]]) -> list[Arm]:
    """The base, its controls, and the checkpoints, in one engine, dtype and decoding."""
    given = METHODS[experiment.method].given
    remarks = ["trained on targets recorded with the prompts"] if experiment.recorded and not given else []
    remarks += ["each prompt answered by the model that was trained without its fold"] if experiment.folds else []
    systems = []
    for number, (path, step) in enumerate(folders, start=1):
        # Steps differ between the folds' runs, and the same checkpoint of all of them is one arm.
        name = f"checkpoint {number}" if experiment.folds else f"step {step}"
        systems.append((recipe_of.checkpoint(experiment, path, f"{experiment.title} {name}"), step))
    family = checkpoints.family(experiment.student, systems)
    family = [replace(a, note="; ".join(remarks)) if a.kind == "checkpoint" else a for a in family]
    first = next(i for i, a in enumerate(family) if a.kind == "checkpoint")
    extra = [
        Arm(solvers.split_name(name)[0], replace(experiment.student, solver=name), "control", note=UNTRAINED)
        for name in settings.controls
    ]
    return [*family[:first], *extra, *family[first:]]


def on_split(
    experiment: Experiment, settings: Settings, family: Sequence[Arm], split: str, err: Console
) -> dict[str, list[Run]]:
    """Score arms on a split of the experiment's benchmarks; a run per benchmark, by the arm's name."""
    return checkpoints.score_arms(
        family,
        experiment.scored,
        split,
        settings.judging,
        experiment.root,
        err,
        axes=settings.axes,
        limit=experiment.scored_limit,
        cache=settings.cache,
    )


def found(experiment: Experiment, leg: Leg) -> list[tuple[Path, int]]:
    """The complete checkpoints of a leg, each with its step."""
    return [(f.path, f.step or 0) for f in checkpoint_files.find(experiment.place(leg) / "train")]


def evaluate(experiment: Experiment, settings: Settings, family: Sequence[Arm], leg: Leg, err: Console) -> Result:
    """Choose among a family's checkpoints on dev, and report test."""
    return checkpoints.evaluate_family(
        family,
        experiment.scored,
        settings.judging,
        experiment.root,
        err,
        dev=leg.dev,
        test=leg.test,
        axes=settings.axes,
        limit=experiment.scored_limit,
        terms=settings.terms,
        cache=settings.cache,
        tasks=settings.tasks,
        task_limit=settings.task_limit,
    )


def _of_reasoning(experiment: Experiment, trained: Sequence[Trained]) -> list[str]:
    """What a reader must know of a SaRO-style run."""
    own = solvers.split_name(experiment.chain)[1]
    policy = "a policy of the user's" if own else "the packaged policy"
    found_out = [
        f"Reasoning written by {experiment.generator.label} with {policy}; the paper's data and settings are not known."
    ]
    for t in trained:
        found_out.append(f"The warm-up ends at step {t.summary['warmup']['steps']}; later ones learn preferences.")
        saro = t.summary["saro"]
        made = ", ".join(f"{kind} {n}" for kind, n in saro["pairs"].items())
        few = ", ".join(f"{reason} {n}" for reason, n in saro["no_pair"].items())
        said = ", ".join(f"{what} {n}" for what, n in saro["replies"].items())
        found_out.append(f"Replies of the warmed-up model: {said}. Pairs: {made}. No pair: {few or 'none'}.")
        dropped = t.summary["dropped"]
        found_out += [f"{dropped} pairs were longer than the trainer's limit and left out."] if dropped else []
        if t.star:
            found_out.append(f"Guard {star_sources.tried(t.star)}.")
        if any(name.startswith((star_sources.NAME, star_sources.WITHOUT)) for name in experiment.guards):
            found_out.append(
                "The guard is the embedded judge or akin to it; where that scores, it scores its own choice."
            )
    return found_out


def _score(experiment: Experiment, settings: Settings, trained: Sequence[Trained], err: Console) -> Result:
    """Score all arms: choose on dev and report test, or report every fold by the model that did not see it."""
    if not experiment.folds:
        (only,) = trained
        return evaluate(experiment, settings, arms(experiment, settings, found(experiment, only.leg)), only.leg, err)
    parts: dict[str, list[list[Run]]] = {}
    family: list[Arm] = []
    for t in trained:
        family = arms(experiment, settings, found(experiment, t.leg))
        checkpoints.check(family, settings.terms.declared)
        for name, runs in on_split(experiment, settings, family, t.leg.test, err).items():
            parts.setdefault(name, []).append(runs)
    joined = {name: [checkpoints.merge(same) for same in zip(*runs, strict=True)] for name, runs in parts.items()}
    return checkpoints.conclude_family(family, {}, joined, ("none", f"{experiment.folds} folds"), settings.terms)


def lint_of(experiment: Experiment, trained: Trained) -> list[str]:
    """What looks hidden or encoded in a leg's training data, by kind, with its rows' number."""
    found = lint.lint(read_rows(experiment.place(trained.leg) / "data.jsonl"))
    kinds = {(f.what, f.where): 0 for f in found}
    for f in found:
        kinds[f.what, f.where] += 1
    return [f"{what} in the {where} of {n} rows" for (what, where), n in kinds.items()]


def notes(experiment: Experiment, settings: Settings, trained: Sequence[Trained]) -> list[str]:
    """What a reader must know besides the table."""
    found_out = []
    if experiment.recorded and not METHODS[experiment.method].given:
        tried = [t for leg in trained for t in leg.generated.targets]
        valid = sum(t.usable for t in tried)
        found_out.append(
            f"Targets: recorded with the prompts. Of {len(tried)} prompts that {experiment.generator.label} tried "
            f"itself, {valid} came to a usable answer of its own."
        )
    chosen_by = experiment.selector if experiment.recipe.selection.rule != "none" else None
    if chosen_by is not None:
        graders = {(grader.model, grader.weights) for grader in settings.judging.graders.values()}
        if (chosen_by.model, chosen_by.weights) in graders:
            who = "A judge of the panel that scores" if settings.judging.members else "The judge that scores"
            found_out.append(f"{who} these arms also selected the training data.")
    if METHODS[experiment.method].reasoning:
        found_out += _of_reasoning(experiment, trained)
    for star in (t.star for t in trained if "chunks" in t.star):
        found_out.append(f"Answers weighed by {star_sources.weighed(star)}.")
        if said := star_sources.flattered(
            experiment.guards, [j.name for j in settings.judging.members or (settings.judging,)]
        ):
            found_out.append(said)
    for leg in trained:
        found_out += [f"Training data: {line}." for line in lint_of(experiment, leg)]
    cut = sum(int(s.get("truncated", 0)) for t in trained for s in (t.summary, t.summary.get("warmup", {})))
    if cut:
        found_out.append(f"{cut} training rows were cut at {experiment.recipe.training.max_length} tokens.")
    return found_out
