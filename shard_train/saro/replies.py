"""Replies with reasoning, as Inspect evals: written with the policy, drawn from the trained model, continued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.log import EvalSample, read_eval_log_samples
from inspect_ai.model import ContentReasoning, GenerateConfig, ModelOutput
from inspect_ai.solver import Generate, Solver, TaskState, solver
from rich.console import Console

from shard_eval import prompts
from shard_eval.errors import LogError
from shard_eval.logs import find_log, read_header, usage
from shard_eval.reasoning import Trace, trace
from shard_eval.records import Record, record_to_sample, sha256
from shard_eval.solvers import ask, policy_text, reasoned, split_name
from shard_eval.systems import System
from shard_train import generate

Reply = Trace | str
"""A reply with reasoning, or why it is none."""


def of_output(output: ModelOutput) -> Reply:
    """The reply that a model's output holds, whoever took the reasoning apart."""
    if output.stop_reason == "max_tokens":
        return "cut"
    content = output.choices[0].message.content if output.choices else ""
    if isinstance(content, str):
        return "empty" if not content.strip() else "no reasoning"
    thought = "\n\n".join(part.reasoning for part in content if isinstance(part, ContentReasoning))
    return trace(thought, output.choices[0].message.text) if thought.strip() else "no reasoning"


def write(
    records: Sequence[Record], system: System, folder: str, console: Console, *, cache: bool = True, **limits: Any
) -> tuple[list[Reply], dict[str, int]]:
    """Let a System with the solver `policy_reasoning` write a reply to every request.

    Returns:
        The replies in the requests' order, and the tokens they cost.

    Raises:
        LogError, KeyboardInterrupt: as `generate.generate`.
    """
    task = generate.generation_task(records, system.solver)
    title = f"{system.name} · reasoning to learn"
    log_dir = generate.evaluate(task, title, system, folder, console, cache=cache, **limits)
    samples = _samples(log_dir)
    found: list[Reply] = []
    for record in records:
        found.append(_written(_of(samples, record, 1, log_dir)))
    return found, usage(read_header(find_log(log_dir)))


def _written(sample: EvalSample) -> Reply:
    """A reply that was asked for as JSON, or why there is none."""
    why = str(sample.metadata.get("reasoning", f"limit: {sample.limit.type if sample.limit else 'unknown'}"))
    return of_output(sample.output) if why == "written" else why


def draw(
    records: Sequence[Record],
    system: System,
    number: int,
    folder: str,
    console: Console,
    *,
    cache: bool = True,
    **limits: Any,
) -> tuple[list[list[Reply]], dict[str, int]]:
    """Draw several replies to every request from the trained model.

    Args:
        records: the requests.
        system: the model after the warm-up, with the decoding of the samples.
        number: of replies per request.
        folder: the log goes to `logs` below.
        console: for the progress bar.
        cache: keep generations of local weights by content.
        limits: Inspect's, per reply.

    Returns:
        The replies to each request, and the tokens they cost.

    Raises:
        LogError, KeyboardInterrupt: as `generate.generate`.
    """
    task = _task(records, drawn(system.decoding.seed or 0), "shard_draw", epochs=number)
    log_dir = generate.evaluate(task, f"{system.name} · samples", system, folder, console, cache=cache, **limits)
    samples = _samples(log_dir)
    found = [[of_output(_of(samples, r, n, log_dir).output) for n in range(1, number + 1)] for r in records]
    return found, usage(read_header(find_log(log_dir)))


def go_on(
    begun: Mapping[Record, Sequence[str]],
    system: System,
    folder: str,
    console: Console,
    *,
    cache: bool = True,
    **limits: Any,
) -> tuple[dict[Record, Reply], dict[str, int]]:
    """Let a System continue reasoning that was begun, with a reflection first.

    Args:
        begun: the steps so far, by request.
        system: who writes; its solver names the policy.
        folder: the log goes below, to a folder of this content.
        console: for the progress bar.
        cache: keep generations of local weights by content.
        limits: Inspect's, per reply.

    Returns:
        The whole reply by request, with the steps it began with; and the tokens they cost.

    Raises:
        LogError, KeyboardInterrupt: as `generate.generate`.
    """
    records = list(begun)
    if not records:
        return {}, {}
    content = sha256(json.dumps([[r.key, list(steps)] for r, steps in begun.items()]))[:8]
    task = _task(records, continued(split_name(system.solver)[1]), "shard_continue")
    for sample, steps in zip(task.dataset, begun.values(), strict=True):
        sample.metadata = (sample.metadata or {}) | {"begun": "\n\n".join(steps)}
    title = f"{system.name} · continuations"
    log_dir = generate.evaluate(task, title, system, f"{folder}-{content}", console, cache=cache, **limits)
    samples = _samples(log_dir)
    found: dict[Record, Reply] = {}
    for record in records:
        reply = _written(_of(samples, record, 1, log_dir))
        found[record] = Trace((*begun[record], *reply.steps), reply.answer) if isinstance(reply, Trace) else reply
    return found, usage(read_header(find_log(log_dir)))


@solver
def drawn(seed: int) -> Solver:
    """Ask once, each epoch with a seed of its own."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = await ask(state.messages, seed=seed + state.epoch)
        return state

    return solve


@solver
def continued(policy: str = "") -> Solver:
    """Go on from the steps in the sample's metadata."""
    rules = prompts.load("reason_continue").fill(policy=policy_text(policy))

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        steps = str(state.metadata["begun"])
        # A hash of all the material, which no part of it can contain: no step can pretend to be the request.
        mark = f"<<{sha256(state.input_text + steps)[:16]}>>"
        inputs = prompts.load("reason_continue_input").fill(mark=mark, request=state.input_text, steps=steps)
        state.output, found = await reasoned(rules, inputs)
        state.metadata["reasoning"] = "written" if isinstance(found, Trace) else found
        return state

    return solve


def _key(record: Record) -> str:
    return f"{record.benchmark}:{record.id}"  # ids of two benchmarks may be the same


def _task(records: Sequence[Record], solver: Solver, name: str, epochs: int = 1) -> Task:
    samples = [record_to_sample(r) for r in records]
    for sample, record in zip(samples, records, strict=True):
        sample.id = _key(record)
    return Task(
        dataset=MemoryDataset(samples, name="train"),
        solver=solver,
        config=GenerateConfig(max_tokens=512),
        epochs=epochs,
        name=name,
        version="1-A",
    )


def _samples(log_dir: str) -> dict[tuple[str, int], EvalSample]:
    found = read_eval_log_samples(find_log(log_dir), all_samples_required=True)
    return {(str(s.id), s.epoch): s for s in found}


def _of(samples: Mapping[tuple[str, int], EvalSample], record: Record, epoch: int, log_dir: str) -> EvalSample:
    """A request's sample.

    Raises:
        LogError: if there is none, or it is of another request.
    """
    sample = samples.get((_key(record), epoch))
    if sample is None or sample.metadata.get("prompt_sha") != record.prompt_sha:
        raise LogError(f"log {log_dir} has no reply to {_key(record)}. Move it away and run again.")
    return sample
