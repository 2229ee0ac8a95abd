"""Score a System on benchmarks with a judge: one Inspect eval set per benchmark, in a folder that is its identity.

    results/SYSTEM-ID/BENCHMARK-ID/{manifest.json, summary.json, verdicts.csv, logs/*.eval}

A panel also leaves its members' verdicts (panel.csv) and what they say by themselves (panel.json).
The same call again finds the same folder and goes on where it stopped.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fsspec
from inspect_ai.model import CachePolicy, GenerateConfig, Model
from rich.console import Console

from shard_eval import benchmarks, engine, families, judges, report, report_panel, running, solvers
from shard_eval.benchmarks import Benchmark, Loaded
from shard_eval.errors import LogError, UsageError
from shard_eval.judges.panel import PanelJudge, Spec
from shard_eval.logs import Run, panel_name, read_run, to_csv
from shard_eval.records import Axis, identity, sha256
from shard_eval.scorers import parse_axes
from shard_eval.systems import System, open_model
from shard_eval.tasksupport import choose_split

LOCAL_ENGINES = (
    "llamacpp",
    "transformers",
    "none",
    "mockllm",
    "vllm",
    "sglang",
    "ollama",
    "llama-cpp-python",
)


@dataclass(frozen=True)
class Judging:
    """Who judges: a kind of judge, and the System behind its `grader` role if it needs one; or several of them.

    Attributes:
        members: of a panel, made by `panel`; the kind then names their roles.
        allow_own_family: a judge of the tested model's family is meant; tables name it in a footnote.
    """

    kind: str
    grader: System | None = None
    members: tuple[Judging, ...] = ()
    allow_own_family: bool = False

    @property
    def name(self) -> str:
        """Name in tables."""
        if self.members:
            return panel_name(self.kind, {role: grader.name for role, grader in self.graders.items()})
        return self.kind if self.grader is None else f"{self.kind}:{self.grader.name}"

    @property
    def identified(self) -> str:
        """Name with the identity of what is behind it, as logs have it."""
        if self.members:
            return panel_name(self.kind, self.metadata["graders"], self.metadata["grader"])
        return self.kind if self.grader is None else f"{self.kind}:{self.metadata['grader']}"

    @property
    def graders(self) -> dict[str, System]:
        """The Systems by their model roles."""
        if not self.members:
            return {} if self.grader is None else {"grader": self.grader}
        asked = [m.grader for m in self.members if m.grader is not None]
        return {_role(number): grader for number, grader in enumerate(asked, 1)}

    @property
    def judges(self) -> list[tuple[str, str, System]]:
        """Name in tables, kind and System of every judge that has a model."""
        return [(j.name, j.kind, j.grader) for j in self.members or (self,) if j.grader is not None]

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The grader's manifest; a panel's by their roles; None if no model is asked."""
        if self.members:
            return {role: grader.manifest for role, grader in self.graders.items()}
        return self.grader.manifest if self.grader else None

    @property
    def metadata(self) -> dict[str, Any]:
        """What a log says of the graders; the judge's name is read back from it."""
        if self.members:
            names = {role: grader.name for role, grader in self.graders.items()}
            return {"graders": names, "grader": identity(self.manifest)}
        return {"grader": f"{self.grader.name} {self.grader.id}" if self.grader else None}

    def roles(self, cache: bool) -> dict[str, str | Model | Sequence[str | Model]] | None:
        """The open graders by their roles; None if no model is asked."""
        return {role: open_grader(grader, cache) for role, grader in self.graders.items()} or None

    @property
    def paid(self) -> bool:
        """Whether every verdict may cost money."""
        return any(grader.engine not in LOCAL_ENGINES for grader in self.graders.values())


def panel(rule: str, members: Sequence[Judging], weights: Sequence[Fraction] = ()) -> Judging:
    """Several judges as one.

    Args:
        rule: one of `judges.panel.RULES`.
        members: the judges, none of them a panel.
        weights: one per member for "weighted"; else none.

    Raises:
        UsageError: for fewer than two, one that is there twice, an unknown rule or a wrong number of weights.
    """
    names, ids = [m.name for m in members], [m.grader.id if m.grader else m.kind for m in members]
    twice = [name for name, id in zip(names, ids, strict=True) if names.count(name) > 1 or ids.count(id) > 1]
    if twice:
        raise UsageError(f"judge {twice[0]!r} is twice in the panel {', '.join(names)}. Name every judge once.")
    numbers = iter(range(1, len(members) + 1))
    kinds = tuple(f"{m.kind}@{_role(next(numbers))}" if m.grader else m.kind for m in members)
    spec = Spec(rule, kinds, tuple(weights) or (Fraction(1),) * len(kinds))
    judges.resolve(spec.text)  # says which axes cannot be judged before a model is opened
    return Judging(spec.text, members=tuple(members), allow_own_family=any(m.allow_own_family for m in members))


def _role(number: int) -> str:
    return "grader" if number == 1 else f"grader{number}"


@dataclass(frozen=True)
class Plan:
    """One benchmark to be scored: everything that decides what comes out.

    Attributes:
        benchmark: a built-in one, or the path of a file of your own prompts.
    """

    system: System
    judging: Judging
    benchmark: str
    axes: tuple[Axis, ...]
    split: str = ""
    limit: int | None = None
    epochs: int = 1

    @property
    def row(self) -> Benchmark:
        """What there is to know about the benchmark without loading it."""
        return benchmarks.describe(self.benchmark)

    @cached_property
    def loaded(self) -> Loaded:
        """The benchmark as it was when this was first asked: a file of your own may change while it is scored."""
        return benchmarks.load(self.benchmark)

    @property
    def records(self) -> int:
        """Number of prompts."""
        n = len(choose_split(self.loaded.records, self.split))
        return n if self.limit is None else min(n, self.limit)

    @property
    def identity(self) -> dict[str, Any]:
        """What the folder's name stands for, besides the system."""
        judge = judges.resolve(self.judging.kind)
        return {
            "benchmark": self.row.name,
            "content_sha": self.loaded.sha,
            "judge": self.judging.kind,
            "judge_prompts": {axis: judge.fingerprint(axis) for axis in self.axes},
            "grader": self.judging.manifest,
            "axes": list(self.axes),
            "split": self.split,
            "limit": self.limit,
            "epochs": self.epochs,
        }

    @property
    def fixed(self) -> bool:
        """Whether the benchmark is a published protocol, with its own prompts, token limit and axes."""
        return "solver" not in self.row.task_args

    @property
    def task_args(self) -> dict[str, str]:
        """Arguments for the task, of which it takes those in its row."""
        return {
            "path": os.path.relpath(Path(self.benchmark).expanduser()),
            "judge": self.judging.kind,
            "axes": ",".join(self.axes),
            "solver": self.system.solver,
            "split": self.split,
        }

    @property
    def folder(self) -> str:
        """Path below the results folder."""
        key = identity(self.identity)
        part = f".{self.split.replace('&', '_')[:80]}" if self.split else ""  # the key tells the rest apart
        part += f".first{self.limit}" if self.limit is not None else ""
        part += ".FIXTURE" if self.loaded.fixture else ""
        return f"{self.system.slug}/{self.row.name}{part}-{key}"

    @property
    def judge_calls(self) -> int:
        """Calls of the graders this costs at most (finished ones are not repeated)."""
        return self.records * self.epochs * self.calls_per_response

    @property
    def calls_per_response(self) -> int:
        """How often a grader is asked about one response."""
        judge = judges.resolve(self.judging.kind)
        if not isinstance(judge, PanelJudge):
            return len(self.axes) if self.judging.grader else 0
        return sum(not judges.offline(m.name) for axis in self.axes for m in judge.able(axis))


def plans(
    system: System,
    names: Sequence[str],
    judging: Judging,
    *,
    axes: str | None = None,
    split: str = "",
    limit: int | None = None,
    epochs: int = 1,
) -> list[Plan]:
    """Plan the benchmarks, checking everything that can be checked before anything is generated.

    Raises:
        UsageError: for an unknown benchmark, axis, split or limit, or a judge of the system's own family.
        DataError: if a benchmark is not available.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit}: give a number of at least 1, or leave it out for all records.")
    if epochs < 1:
        raise UsageError(f"epochs {epochs}: give a number of at least 1.")
    judge = judges.resolve(judging.kind)
    if not judging.allow_own_family:
        families.require_other_family(system.name, families.own_family(system, judging.judges))
    found = []
    for name in dict.fromkeys(names):
        row = benchmarks.describe(name)
        chosen = parse_axes(axes) if axes else tuple(a for a in row.axes if a in judge.axes)
        judges.require_axes(judge, chosen)
        wanted = split
        if system.solver == "recorded" and not split and any(r.response is None for r in benchmarks.load(name).records):
            wanted = "train+dev"  # mini's test records carry no reference on purpose
        fixed = {"--axes": axes, "--split": split, "--solver": system.solver if system.solver != "direct" else ""}
        for option, value in fixed.items():
            if value and option[2:] not in row.task_args:
                raise UsageError(f"benchmark {name!r} is a fixed protocol and takes no {option} ({value!r} given).")
        plan = Plan(system, judging, name, chosen, wanted, limit, epochs)
        if plan.records == 0:
            raise UsageError(f"benchmark {name!r} has no records in split {split!r}.")
        found.append(plan)
    return found


@dataclass(frozen=True)
class Cost:
    """What a judge will be asked, roughly."""

    calls: int
    input_tokens: int
    output_tokens: int

    def dollars(self, price_in: float, price_out: float) -> float:
        """Cost at prices per million tokens."""
        return (self.input_tokens * price_in + self.output_tokens * price_out) / 1e6


def estimate_cost(chosen: Sequence[Plan]) -> Cost:
    """Estimate the grader's calls and tokens: prompts counted at four characters a token, replies at their limit."""
    calls = tokens = 0
    for plan in chosen:
        records = choose_split(plan.loaded.records, plan.split)[: plan.limit]
        request = sum(len(r.prompt) + len(r.need) + len(r.withhold) for r in records) / 4
        each = 600 + (plan.system.decoding.max_tokens if plan.system.solver not in solvers.CONSTANTS else 60)
        calls += plan.judge_calls
        tokens += int(plan.judge_calls * each + request * plan.epochs * plan.calls_per_response)
    return Cost(calls, tokens, 120 * calls)


def run(plan: Plan, root: str, console: Console, *, cache: bool = True, model: Model | None = None) -> Run:
    """Score one benchmark, or continue where it stopped, and write what a run leaves.

    Args:
        plan: what to do.
        root: results folder; any place fsspec knows.
        console: for the progress bar.
        cache: keep generations of local weights by content, so that another judge need not generate again.
        model: an open model for the system, to share between benchmarks; default: open it.

    Raises:
        JudgeError: if the judge does not work at all.
        LogError: if the evaluation did not finish.
        KeyboardInterrupt: if the user stopped it; Inspect has saved what was finished.
    """
    folder = f"{root.rstrip('/')}/{plan.folder}"
    config = plan.system.config(cache)
    title = f"{plan.system.name} · {plan.row.name} · judge {plan.judging.name}"
    # What is None must stay away: it would override the task's own setting.
    names = ["temperature", "top_p", "seed", "cache"] + ([] if plan.fixed else ["max_tokens"])
    log_dir = running.evaluate(
        f"shard_eval/{plan.row.task}",
        title,
        None if plan.fixed else plan.records * plan.epochs,
        folder,
        console,
        task_args={k: v for k, v in plan.task_args.items() if k in plan.row.task_args},
        model=model or plan.system.open(cache),
        model_roles=plan.judging.roles(cache),
        metadata={
            "system": plan.system.manifest,
            **plan.judging.metadata,
            **kinship(plan),
            "shard_eval": version("shard-eval"),
        },
        limit=plan.limit,
        epochs=plan.epochs,
        **{k: v for k in names if (v := getattr(config, k)) is not None},
    )
    found = read_run(log_dir)
    if found.protocol.content != plan.loaded.sha:
        raise LogError(f"{plan.benchmark} was changed while it was being scored. Delete {folder} and score it again.")
    _write(folder, plan, found)
    return found


def finished(plan: Plan, root: str) -> Run | None:
    """A plan's run if it is complete already, so that no weights need be loaded to find that nothing is to be done.

    Args:
        plan: what was to be done.
        root: results folder.
    """
    folder = f"{root.rstrip('/')}/{plan.folder}"
    filesystem, path = fsspec.core.url_to_fs(folder)
    if not filesystem.exists(f"{path}/manifest.json"):
        return None
    try:
        run = read_run(f"{folder}/logs")
    except LogError:
        return None  # `run` sets damaged logs aside and goes on
    same = run.metadata.get("shard_eval") == version("shard-eval")
    return run if same and len(run.rows) == plan.records * plan.epochs else None


def announce_adapters(systems: Sequence[System]) -> None:
    """Let llama.cpp start one server with the adapters of all systems; vLLM was told when they were resolved."""
    for system in systems:
        if system.engine == "llamacpp" and (adapter := system.model_args.get("adapter")):
            engine.announce(system.model.removeprefix("llamacpp/"), [adapter])


def open_grader(grader: System, cache: bool) -> Model:
    """Open a grader; it decodes greedily whatever the system does, and local ones are cached by content."""
    policy = None
    if cache and grader.weights:
        policy = CachePolicy(expiry=None, per_epoch=False, scopes={"weights": grader.weights + grader.base})
    return open_model(grader.model, GenerateConfig(cache=policy), grader.model_args)


def kinship(plan: Plan) -> dict[str, Any]:
    """What the log says of families: local weights' where their name does not tell, and judges of the system's own."""
    told = families.of_system(plan.system)
    hidden = told - families.families(plan.system.manifest["model"])
    own = families.own_family(plan.system, plan.judging.judges)
    return ({"families": sorted(told)} if hidden else {}) | ({"own_family": own} if own else {})


def entry(plan: Plan, found: Run) -> report.Entry:
    """The table line of a finished plan."""
    split = f"on {plan.split} only" if plan.split else ""
    limit = f"first {plan.limit} records only" if plan.limit is not None else ""
    return report.Entry(plan.system.name, found, ", ".join(part for part in (split, limit) if part))


def _write(folder: str, plan: Plan, found: Run) -> None:
    name = found.log.rsplit("/", 1)[-1]
    verdicts = to_csv(found.rows)
    manifest = {
        "system": plan.system.manifest,
        "system_id": plan.system.id,
        "run": plan.identity,
        "protocol": asdict(found.protocol),
        "verdicts_sha256": sha256(verdicts),
        "usage": found.usage,
        "versions": versions(),
        "log": name,
        **({"own_family": own} if (own := found.metadata.get("own_family")) else {}),
    }
    line = replace(entry(plan, found), run=replace(found, log=name))
    for name, text in (
        ("manifest.json", report.dumps(manifest)),
        ("summary.json", report.dumps(report_panel.to_json(line))),
        ("verdicts.csv", verdicts),
        *report_panel.files(found).items(),
    ):
        with fsspec.open(f"{folder}/{name}", "w", encoding="utf-8", newline="") as file:
            file.write(text)


def versions() -> dict[str, str]:
    """Versions of what can change a number."""
    found = {"python": platform.python_version()}
    for name in ("shard-eval", "inspect-ai", "xllamacpp", "openai", "torch", "transformers", "vllm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
