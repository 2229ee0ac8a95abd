"""The recipe of a run: split, generate, select, train, score base and every checkpoint, compare with controls, table.

Every stage leaves what it did in the run's folder and is not repeated: the same command again continues anywhere.

    ROOT/experiments/METHOD-MODEL-ID/{manifest.json, targets.csv, data.jsonl, generate/, select/, train/, …}
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from shard_eval import benchmarks, leaks, solvers
from shard_eval import prompts as prompt_files
from shard_eval.errors import UsageError
from shard_eval.logs import inert_cell
from shard_eval.packaged import file_sha
from shard_eval.records import Record, identity, sha256
from shard_eval.splits import Leak, choose_split
from shard_eval.systems import Decoding, System, resolve_checkpoint
from shard_train import generate, select, training
from shard_train.methods import METHODS
from shard_train.recipe import Recipe
from shard_train.saro.readings import QUESTIONS
from shard_train.sft import Job
from shard_train.star.calibration import Cut, Labelled
from shard_train.star.guards import Guard

SAMPLE = "shard-eval sample 1"  # decides which prompts a limit takes
ATTEMPTS = 6  # prompts on which a model is tried that then learns from recorded targets


@dataclass(frozen=True)
class Leg:
    """One training run of an experiment and the prompts that judge it; cross-fitting has one per fold.

    Attributes:
        train: expression for the training prompts, as `--split` takes it.
        dev: for the prompts by which a checkpoint is chosen.
        test: for the prompts that are reported.
    """

    name: str
    train: str
    dev: str
    test: str


def legs(folds: int) -> list[Leg]:
    """The legs: one on train / dev / test, or one per fold, trained on the other folds.

    Raises:
        UsageError: if the number of folds is neither 0 nor 2 to 10.
    """
    if folds == 0:
        return [Leg("", "train", "dev", "test")]
    if not 2 <= folds <= 10:
        raise UsageError(f"--folds {folds}: give 2 to 10, or 0 for none.")
    found = []
    for k in range(1, folds + 1):
        others = [f"fold{j}of{folds}" for j in range(1, folds + 1) if j != k]
        parts = {split: "+".join(f"{split}&{fold}" for fold in others) for split in ("train", "dev", "test")}
        found.append(Leg(f"fold{k}", f"{parts['train']}+{parts['test']}", parts["dev"], f"fold{k}of{folds}"))
    return found


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what comes out.

    Attributes:
        model: the model that is trained, as `systems.resolve` takes it.
        student: the same, as it is served; its decoding is that of every arm.
        model_args: what the user wants of its provider, and so of every checkpoint's.
        names: of the benchmarks whose training prompts are learned from, and whose others are scored.
        chain: the solver that makes the targets; an ablation leaves one step out.
        recorded: learn from targets recorded with the prompts; the model only attempts the chain on a few.
        limit: at most so many training prompts of each benchmark.
        scored_limit: at most so many dev and test prompts of each.
        limits: Inspect's limits per training prompt; one that is met changes the targets.
        data: a file with the answers to learn, in the place of the benchmarks' training prompts.
        guards: who says how safe an answer is so far, by their names; several are averaged.
        probe: file of labelled replies that a guard is tried on; "" for Do-Not-Answer's human labels.
        insist: train even if the guard cannot tell safe from unsafe prefixes.
    """

    method: str
    model: str
    student: System
    names: tuple[str, ...]
    recipe: Recipe
    model_args: dict[str, Any] = field(default_factory=dict)
    chain: str = "shard_reframe"
    teacher: System | None = None
    selector: System | None = None
    recorded: bool = False
    limit: int | None = None
    scored_limit: int | None = None
    folds: int = 0
    limits: dict[str, float] = field(default_factory=dict)
    data: str = ""
    guards: tuple[str, ...] = ()
    probe: str = ""
    insist: bool = False
    root: str = "results"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the folder's name stands for."""
        return {
            "method": self.method,
            "student": self.student.manifest,
            "prompts": {(b := benchmarks.load(name)).name: b.sha for name in self.names},
            "recipe": self.recipe.manifest,
            "chain": {"solver": solvers.split_name(self.chain)[0], "sha256": solvers.fingerprint(self.chain)},
            "teacher": self.teacher.manifest if self.teacher else None,
            "selector": self.selector.manifest if self.selector else None,
            "targets": "recorded" if self.recorded else "generated",
            "limit": self.limit,
            "folds": self.folds,
            **self.limits,
            **({"data": file_sha(Path(self.data))} if self.data else {}),
            **({"guards": list(self.guards), "probe": self.probe} if self.guards else {}),
            **({"saro": self._saro} if METHODS[self.method].reasoning else {}),
        }

    @property
    def _saro(self) -> dict[str, Any]:
        """What reasoning is written and read by."""
        policy = prompt_files.load("safety_policy")
        own = solvers.split_name(self.chain)[1]
        return {
            "policy": {"sha256": sha256(solvers.policy_text(own)), **({} if own else {"version": policy.version})},
            "reasoning": asdict(self.recipe.reasoning),
            "preference": asdict(self.recipe.preference),
            "prompts": {name: prompt_files.load(name).sha for name in ("reason_continue", *QUESTIONS)},
        }

    @property
    def id(self) -> str:
        """Short hash of the manifest."""
        return identity(self.manifest)

    @property
    def folder(self) -> Path:
        """Where the run leaves everything but the scored answers."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.title}-{self.student.label}").strip("-.")
        return Path(self.root) / "experiments" / f"{name}-{self.id}"

    @property
    def title(self) -> str:
        """The method's name, with how its targets are learned where that is not said by it."""
        name, rule = METHODS[self.method].label or self.method, self.recipe.shaping.rule
        return name if rule in ("sft", self.method) else f"{name} {rule}"

    @cached_property
    def scored(self) -> tuple[str, ...]:
        """The benchmarks that have prompts to choose by and to report; a file may hold training prompts only.

        Raises:
            UsageError: if there are none.
        """
        (leg, *_) = legs(self.folds)
        loaded = {name: benchmarks.load(name).records for name in self.names}
        found = tuple(
            n for n, r in loaded.items() if choose_split(r, leg.test) and (choose_split(r, leg.dev) or self.folds)
        )
        if not found:
            raise UsageError(
                f"--prompts {', '.join(self.names)}: no prompts to choose a checkpoint by (dev) and to report (test). "
                "Name a benchmark as well, e.g. mini."
            )
        return found

    @property
    def generator(self) -> System:
        """The System that writes the targets."""
        method = METHODS[self.method]
        return method.system(self.student, self.teacher, self.chain, self.recipe.generation)

    def place(self, leg: Leg) -> Path:
        """A leg's folder."""
        return self.folder / leg.name if leg.name else self.folder


@dataclass(frozen=True)
class Prompts:
    """A leg's training prompts and what the leak gate found.

    Attributes:
        dropped: training prompts left out because they are (nearly) evaluation prompts of another benchmark.
        gate: what was compared.
        sizes: number of dev and test prompts by benchmark.
    """

    train: tuple[Record, ...]
    dropped: tuple[Leak, ...]
    gate: leaks.Gate
    sizes: dict[str, tuple[int, int]]


def gather(experiment: Experiment, leg: Leg) -> Prompts:
    """Fix the prompts before anything is generated, and let none be trained on that is evaluated.

    Raises:
        UsageError: if a prompt of the user's own file leaks, or nothing is left to train on.
        DataError: if a benchmark is not available.
    """
    train: list[Record] = []
    own: list[Record] = []
    sizes = {}
    for name in (*experiment.names, *([experiment.data] if experiment.data else [])):
        records = benchmarks.load(name).records
        if experiment.data:  # all of the file, and nothing else
            found = list(records) if name == experiment.data else []
        else:
            found = choose_split(records, leg.train)
        if experiment.recorded:
            found = [r for r in found if r.response]
        found = sorted(found, key=lambda r: sha256(SAMPLE + r.prompt_sha))[: experiment.limit]
        held = [] if name == experiment.data else records
        sizes[name] = (len(choose_split(held, leg.dev)), len(choose_split(held, leg.test)))
        train += found
        own += found if name.endswith(".jsonl") else []
    gate = leaks.gate(train, {name: f"{leg.dev}+{leg.test}" for name in experiment.names})
    gate.require_clean(own)
    kept = gate.without(train)
    if not kept:
        hint = " with recorded targets" if experiment.recorded else ""
        raise UsageError(
            f"{', '.join(experiment.names)}: no training prompts{hint} are left. Give --prompts with some."
        )
    return Prompts(tuple(kept), gate.leaks, gate, sizes)


def attempted(experiment: Experiment, prompts: Prompts) -> tuple[Record, ...]:
    """The prompts that the chain is run on: all, or a few if the targets are recorded."""
    if METHODS[experiment.method].given:
        return ()
    return prompts.train[:ATTEMPTS] if experiment.recorded else prompts.train


@dataclass(frozen=True)
class Trained:
    """What a leg's training left.

    Attributes:
        generated: by the model itself.
        decisions: about every target.
        summary: the trainer's own, with the checkpoints.
        star: what was seen of the guard that weighed or read the answers, and what it said of them; empty without one.
    """

    leg: Leg
    prompts: Prompts
    generated: generate.Generated
    decisions: tuple[select.Decision, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    star: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> list[generate.Target]:
        """The targets that are learned from."""
        return [d.target for d in self.decisions if d.kept]


def make_targets(experiment: Experiment, leg: Leg, prompts: Prompts, console: Console, cache: bool = True) -> Trained:
    """Generate and select a leg's targets, and write the data file and the table of what became of each prompt.

    Args:
        experiment: what to do.
        leg: which part of it.
        prompts: of the leg.
        console: for the progress bars.
        cache: keep generations of local weights by content.

    Raises:
        UsageError: if no target is left to learn from.
        LogError, KeyboardInterrupt: as `generate.generate`.
    """
    place = experiment.place(leg)
    tried = attempted(experiment, prompts)
    made = generate.Generated((), {}, "")
    if tried:
        folder = str(place / "generate")
        made = generate.generate(tried, experiment.generator, folder, console, cache=cache, **experiment.limits)
    targets = generate.recorded(prompts.train).targets if experiment.recorded else made.targets
    rule = experiment.recipe.selection.rule
    decisions = select.select(targets, rule, experiment.selector, str(place / "select"), console, cache=cache)
    found = Trained(leg, prompts, made, tuple(decisions))
    why = (
        "Rewriting needs a model of some 1.5B parameters or more; --select none keeps all that is usable, "
        "--targets recorded takes those of mini."
    )
    attempts = made.targets if experiment.recorded else ()
    write_data(experiment, found, [*(select.Decision(t, "attempt only") for t in attempts), *decisions], why)
    return found


def write_data(experiment: Experiment, found: Trained, table: Sequence[select.Decision], hint: str) -> None:
    """Write a leg's data file, and the table of what became of each prompt.

    Args:
        experiment: what is done.
        found: the leg.
        table: all that was tried.
        hint: what to do if nothing is left.

    Raises:
        UsageError: if nothing is left to learn from.
    """
    place = experiment.place(found.leg)
    _write(place / "targets.csv", _table(table))
    if not found.rows:
        why = ", ".join(f"{reason} {n}" for reason, n in select.reasons(found.decisions).items())
        raise UsageError(f"no target is left to train on ({why}; {place / 'targets.csv'}). {hint}")
    _write(place / "data.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in map(_row, found.rows)))


def _row(target: generate.Target) -> dict[str, Any]:
    """A training row: the original request, no system prompt, and the answer to learn, as it will be served."""
    return {
        "id": f"{target.key[0]}:{target.key[1]}",
        "prompt": [{"role": "user", "content": target.prompt}],
        "completion": [{"role": "assistant", "content": target.refined}],
    }


def _table(decisions: Sequence[select.Decision]) -> str:
    """What became of every training prompt: ids and states, no text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["benchmark", "id", "prompt_sha", "type", "outcome", "mode", "failed_attempts", "kept", "why_not"])
    for d in decisions:
        t = d.target
        cells = [*t.key, t.type, t.outcome, t.mode, " ".join(t.failures), int(d.kept), d.why_not]
        writer.writerow([inert_cell(cell) for cell in cells])
    return out.getvalue()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def weights(experiment: Experiment, console: Console) -> Path:
    """The checkpoint folder that is trained: the model's own, or its GGUF file converted once.

    Raises:
        UsageError: if all weights of a GGUF were to be trained: the result could not be served beside its base.
    """
    student = experiment.student
    if student.engine == "vllm":
        return Path(experiment.model.removeprefix("vllm/")).expanduser()
    if student.engine != "llamacpp":
        return Path(str(student.model_args.get("model_path", experiment.model)))
    if experiment.recipe.training.kind == "full":
        raise UsageError(
            'training.kind = "full" needs a checkpoint folder as --model: a GGUF base can be served with adapters only.'
        )
    from shard_eval.engine import gguf_path
    from shard_train.convert import kept

    console.print(f"{student.label} is trained on its GGUF file's weights, converted once.", highlight=False)
    return kept(gguf_path(student.model.removeprefix("llamacpp/")))


def job(experiment: Experiment, trained: Trained, base: Path) -> Job:
    """The trainer's job for a leg."""
    place = experiment.place(trained.leg)
    recipe = experiment.recipe
    return Job(str(base), str(place / "data.jsonl"), str(place / "train"), recipe.training, recipe.shaping)


def weigh(
    experiment: Experiment,
    trained: Trained,
    guard: Guard,
    probe: Callable[[Cut], Sequence[Labelled]],
    base: Path,
    console: Console,
) -> Trained:
    """Write a guard's scores into a leg's data file (`shard_train.star`).

    Args:
        experiment: what is done.
        trained: the leg, with its data file.
        guard: who scores.
        probe: from how replies are cut to the labelled replies it is tried on.
        base: the checkpoint that is trained, for its tokenizer.
        console: for the progress bar.

    Raises:
        UsageError: if the guard is not good enough.
    """
    from rich.progress import track

    from shard_train.sft import load_tokenizer, read_rows
    from shard_train.star import rows as rows_of
    from shard_train.star import scoring

    place, s = experiment.place(trained.leg), experiment.recipe.shaping
    given = rows_of.read(Path(experiment.data)) if experiment.data else []
    spans = {_said(row): row["unsafe"] for row in given if row.get("unsafe")}
    rows = [
        row | ({"unsafe": spans[_said(row)]} if _said(row) in spans else {}) for row in read_rows(place / "data.jsonl")
    ]
    scored = scoring.score(
        rows,
        guard,
        scoring.Chunking(s.chunk if s.rule == "star_dss" else 0, s.unit),  # rejection is of whole answers
        probe=probe,
        insist=experiment.insist,
        tokenizer=load_tokenizer(str(base)) if s.unit == "tokens" else None,
        cache=place / "star.jsonl",
        track=lambda found: track(found, "guard", console=console, transient=True, disable=not console.is_terminal),
    )
    scoring.write(scored, place / "data.jsonl")
    return replace(trained, star=scored.to_json())


def _said(row: dict[str, Any]) -> tuple[str, str]:
    return row["prompt"][-1]["content"], row["completion"][0]["content"]


def checkpoint(experiment: Experiment, folder: Path, name: str, decoding: Decoding | None = None) -> System:
    """A checkpoint as it is served: the same engine, dtype and, unless another is given, decoding as its base."""
    student = experiment.student
    return resolve_checkpoint(
        experiment.model,
        folder,
        decoding=decoding or student.decoding,
        dtype=student.dtype,
        label=name,
        model_args=experiment.model_args,
    )


def arm_decoding(recipe: Recipe) -> Decoding:
    """How every arm answers when it is scored."""
    s = recipe.scoring
    return Decoding(s.temperature, s.max_tokens, None if s.top_p == 1 else s.top_p, s.seed)


def merged(experiment: Experiment, trained: Trained, folder: Path, base: Path) -> Path:
    """Write a checkpoint's weights merged into its base, beside the adapters."""
    target = experiment.place(trained.leg) / "merged"
    if not (target / "config.json").is_file():
        shutil.rmtree(target, ignore_errors=True)
        training.merge(base, folder, target)
    return target
