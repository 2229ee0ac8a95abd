"""Make training targets: SHARD's chain over the training prompts, as one Inspect eval.

Whole-set concurrency, retries, caching by content, resume and a log with every intermediate are Inspect's; the chain is
the solver that also serves as the inference-time system, so that what is distilled is what can be served.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.log import read_eval_log_samples
from inspect_ai.model import GenerateConfig
from rich.console import Console

from shard_eval import prompts, running, solvers
from shard_eval.errors import LogError
from shard_eval.logs import find_log, read_header, usage
from shard_eval.records import Record, record_to_sample, sha256
from shard_eval.systems import System


@dataclass(frozen=True)
class Target:
    """What came out for one training prompt (P1).

    Attributes:
        key: the record's benchmark, id and prompt hash.
        draft: the ordinary answer (O1).
        refined: the answer to learn (O2); "" if there is none.
        outcome: "refined", "unchanged", "rewrite: REASON", "refined: REASON", or "recorded"; of a reply with reasoning
            "written" or "reasoning: REASON".
        reframed: the rewritten request (P2); "" if there is none.
        mode: its response mode.
        failures: why earlier attempts at a rewrite were not taken.
    """

    key: tuple[str, str, str]
    prompt: str
    type: str
    draft: str
    refined: str
    outcome: str
    reframed: str = ""
    mode: str = ""
    failures: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether there is an answer to learn."""
        return self.outcome in ("refined", "recorded", "written")


@dataclass(frozen=True)
class Generated:
    """All targets of a run and what they cost."""

    targets: tuple[Target, ...]
    usage: dict[str, int]
    log: str


def generation_task(records: Sequence[Record], solver: str) -> Task:
    """The Inspect task that runs a chain over records; nothing is scored.

    Args:
        records: the training prompts, of any benchmarks.
        solver: one of `solvers.CHAINS`, perhaps with a folder of guidelines.
    """
    samples = [record_to_sample(r) for r in records]
    for sample, record in zip(samples, records, strict=True):
        sample.id = f"{record.benchmark}:{record.id}"  # ids of two benchmarks may be the same
    return Task(
        dataset=MemoryDataset(samples, name="train"),
        solver=solvers.make(solver),
        config=GenerateConfig(max_tokens=512),
        name="shard_generate",
        version="1-A",
        metadata={"content_sha": sha256(json.dumps(sorted(r.key for r in records)))},
    )


def generate(
    records: Sequence[Record], system: System, folder: str, console: Console, *, cache: bool = True, **limits: Any
) -> Generated:
    """Run a System's chain over the training prompts, or continue where it stopped.

    Args:
        records: the training prompts.
        system: the model with a chain as its solver and the decoding of the recipe.
        folder: its logs go to `logs` below.
        console: for the progress bar.
        cache: keep generations of local weights by content.
        limits: Inspect's `token_limit`, `cost_limit`, `time_limit` … per prompt.

    Raises:
        LogError: if the evaluation did not finish.
        KeyboardInterrupt: if the user stopped it; what was finished is kept.
    """
    task = generation_task(records, system.solver)
    log_dir = evaluate(task, f"{system.name} · training targets", system, folder, console, cache=cache, **limits)
    return read(log_dir, records)


def evaluate(
    task: Task, title: str, system: System, folder: str, console: Console, *, cache: bool = True, **limits: Any
) -> str:
    """Run a task with a System and its decoding, or continue where it stopped.

    Returns:
        The folder of its logs.

    Raises:
        LogError, KeyboardInterrupt: as `generate`.
    """
    config = system.config(cache)
    names = ("temperature", "top_p", "seed", "cache", "max_tokens")
    with system.opened(cache) as model:
        return running.evaluate(
            task,
            title,
            len(task.dataset) * (task.epochs or 1),
            folder,
            console,
            model=model,
            metadata={"system": system.manifest, "solver_sha": solvers.fingerprint(system.solver)},
            **{k: v for k in names if (v := getattr(config, k)) is not None},
            **limits,
        )


def read(log_dir: str, records: Sequence[Record]) -> Generated:
    """Read the targets of a finished generation, in the records' order.

    Raises:
        LogError: if a record has none, or a log's prompt is not the record's.
    """
    log = find_log(log_dir)
    found = {str(s.id): s for s in read_eval_log_samples(log, all_samples_required=True)}
    targets = []
    for record in records:
        sample = found.get(f"{record.benchmark}:{record.id}")
        if sample is None or sample.metadata.get("prompt_sha") != record.prompt_sha:
            raise LogError(f"log {log} has no answer to {record.benchmark}:{record.id}. Move it away and run again.")
        trace = sample.metadata.get("shard")
        if trace is None:
            targets.append(_unfinished(record, sample.output.completion, str(sample.limit and sample.limit.type)))
        else:
            targets.append(_target(record, trace))
    return Generated(tuple(targets), usage(read_header(log)), log)


def _target(record: Record, trace: dict[str, Any]) -> Target:
    return Target(
        record.key,
        record.prompt,
        record.type,
        str(trace["draft_response"]),
        str(trace.get("refined_response", "")),
        str(trace["outcome"]),
        str(trace.get("reframed_prompt", "")),
        str(trace.get("response_mode", "")),
        tuple(trace.get("rewrite_failures", ())),
    )


def _unfinished(record: Record, draft: str, limit: str) -> Target:
    """A prompt whose chain met one of Inspect's limits before its end."""
    return Target(record.key, record.prompt, record.type, draft, "", f"limit: {limit}")


def recorded(records: Sequence[Record]) -> Generated:
    """Targets recorded with the prompts (mini's references, or the user's own), instead of generated ones."""
    targets = [Target(r.key, r.prompt, r.type, "", r.response, "recorded") for r in records if r.response]
    return Generated(tuple(targets), {}, "")


def outcomes(targets: Sequence[Target]) -> dict[str, int]:
    """How many targets ended how, the most frequent first."""
    return dict(Counter(t.outcome for t in targets).most_common())


def attempts(targets: Sequence[Target]) -> dict[str, int]:
    """How often an attempt at a rewrite failed, by reason; a later attempt may have succeeded."""
    return dict(Counter(reason for t in targets for reason in t.failures).most_common())


@dataclass(frozen=True)
class Cost:
    """Calls and tokens, at most or about."""

    calls: int
    input_tokens: int
    output_tokens: int


def estimate(records: Sequence[Record], solver: str, max_tokens: int) -> Cost:
    """What a generation costs about: one attempt at each rewrite, answers at two thirds of their limit.

    Characters are counted as a quarter of a token.
    """
    steps = solvers.CHAINS[solvers.split_name(solver)[0]]
    answer, n = 2 * max_tokens // 3, len(records)
    request = sum(len(r.prompt) for r in records) // 4
    calls, tokens_in, tokens_out = n, request, n * answer
    if steps.rewrite:
        rules = len(prompts.load("shard_rewrite").text) + 2 * len(prompts.load("guidelines_universal").text)
        calls, tokens_in, tokens_out = calls + n, tokens_in + request + n * rules // 4, tokens_out + 120 * n
    rules = len(prompts.load("shard_refine").text)
    return Cost(calls + n, tokens_in + 2 * request + n * (rules // 4 + answer), tokens_out + n * answer)
