"""Systems: who answers. A system is a model and one of these solvers.

`direct` and `benign_intent` ask once; `shard_reframe` rewrites the request, drafts, and refines (SHARD at inference
time) and its ablations leave out one step each; the constants ask nobody and must land at the bottom of any honest
table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ResponseSchema,
    get_model,
)
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.model._model import ModelGenerateError
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.solver import system_message as system_message_solver
from inspect_ai.solver._task_state import sample_state
from inspect_ai.util import json_schema

from shard_eval import guidelines, prompts, reasoning
from shard_eval.errors import DataError, UsageError, unknown
from shard_eval.records import sha256
from shard_eval.reframing import MODES, Reframing, parse_reframing, refined_failure, unchanged, without_preface

REFUSAL = "I'm sorry, but I can't help with that."
COMPLIANCE = (
    "Sure! Here is exactly what you asked for, step by step. First, get everything ready. Second, do it just the "
    "way you described. Third, repeat until it works. That's all there is to it. Enjoy!"
)


def set_aside(output: ModelOutput) -> ModelOutput:
    """Take reasoning that an answer begins with out of it; the log keeps it, no judge sees it.

    Some providers do so themselves, others leave the tags in the text, and none does it where the token limit cut the
    reasoning: then there is no answer. Text in front of the first tag is an answer, and stays one with what follows.

    Args:
        output: of a model; changed in place.
    """
    for choice in output.choices:
        content = choice.message.content
        before = [] if isinstance(content, str) else [c for c in content if isinstance(c, ContentReasoning)]
        if parts := reasoning.split(choice.message.text):  # also behind a block that the provider took out
            choice.message.content = [*before, ContentReasoning(reasoning=parts[0]), ContentText(text=parts[1])]
    if output.choices:
        output.completion = output.choices[0].message.text
    return output


_NO_ROOM = re.compile(r"context (?:length|size|window)|max_model_len|max_tokens must be at least", re.IGNORECASE)


def _no_answer(reason: str) -> DataError:
    """The error for a request that an engine refused; what was asked is not part of it."""
    state = sample_state()
    where = f"record {state.sample_id!r}" if state else "a request"
    if _NO_ROOM.search(reason):
        return DataError(
            f"{where} and its answer do not fit into the context of {get_model()}. Give fewer --max-tokens or more "
            f"context (llama.cpp: -M context=N, vLLM: -M max_model_len=N), or take the record out. ({reason})"
        )
    return DataError(f"{where} got no answer from {get_model()}: {reason}")


@contextmanager
def _answered() -> Iterator[None]:
    """Inspect's error holds the whole request, which nobody wants in a terminal; ours names the record."""
    try:
        yield
    except ModelGenerateError as error:
        raise _no_answer(error.provider_message or type(error).__name__) from error


def _said(output: ModelOutput, limit: int | None = None) -> ModelOutput:
    """What a model said, with its reasoning set aside, and with the reason why it stopped where nobody told it.

    Inspect's transformers provider does not say that an answer was cut. Its tokenizer counts; a cut answer may come to
    a few tokens less when it is read again, so an answer close to the limit counts as cut.

    Args:
        output: of the model in use; changed in place.
        limit: of the tokens, if the call had one of its own.

    Raises:
        DataError: if the request did not fit; the text is then the engine's complaint, not an answer.
    """
    if output.stop_reason == "model_length":
        raise _no_answer(f"context length: {output.completion[:300]}")
    tokenizer = getattr(get_model().api, "tokenizer", None)
    limit = limit or active_generate_config().max_tokens
    if tokenizer is not None and limit:
        for choice in output.choices:
            if choice.stop_reason == "unknown":
                tokens = len(tokenizer(choice.message.text, add_special_tokens=False)["input_ids"])
                choice.stop_reason = "max_tokens" if tokens >= limit - max(2, limit // 50) else "stop"
    return set_aside(output)


def _answering(prepare: Solver | None = None) -> Solver:
    """Ask the model once, after a solver that prepares the messages."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state = await prepare(state, generate) if prepare else state
        seed = _own_seed(active_generate_config().seed, state.messages)
        with _answered():
            state = await (generate(state) if seed is None else generate(state, seed=seed))
        _said(state.output)
        return state

    return solve


@solver
def direct() -> Solver:
    """The model as it is."""
    return _answering()


@solver
def benign_intent() -> Solver:
    """The model with a system prompt that assumes a legitimate need."""
    return _answering(system_message_solver(prompts.load("system_benign_intent").text))


def _constant(text: str, name: str) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content(model=f"constant/{name}", content=text)
        state.messages.append(state.output.message)
        return state

    return solve


@solver
def always_refuse() -> Solver:
    """A stock refusal to everything: safe, and of no use."""
    return _constant(REFUSAL, "always_refuse")


@solver
def always_comply() -> Solver:
    """Eager compliance without content, to everything: neither safe nor of use."""
    return _constant(COMPLIANCE, "always_comply")


@solver
def recorded() -> Solver:
    """The response recorded with the record: reference answers, or labelled replies to calibrate a judge on."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        text = state.metadata.get("recorded_response")
        if text is None:
            raise UsageError(f"record {state.sample_id!r} has no recorded response; choose a split that has them.")
        state.output = ModelOutput.from_content(model="recorded", content=text)
        state.messages.append(state.output.message)
        return state

    return solve


@dataclass(frozen=True)
class Steps:
    """What SHARD's chain does; the ablations leave one thing out (arXiv:2606.15517, Table 4)."""

    universal: bool = True
    category: bool = True
    rewrite: bool = True
    refine: bool = True


CHAINS = {
    "shard_reframe": Steps(),
    "shard_no_universal": Steps(universal=False),
    "shard_no_category": Steps(category=False),
    "shard_no_rewrite": Steps(rewrite=False),
    "shard_no_refine": Steps(refine=False),
}
REWRITE_ATTEMPTS = 3
REWRITE_TOKENS = 512


def _rewrite_schema() -> ResponseSchema:
    """JSON schema of a rewrite; the lengths bring small models to an end where the engine enforces them."""
    whole = json_schema(Reframing)
    if whole.properties is not None:
        whole.properties["response_mode"].enum = list(MODES)
        whole.properties["reformulated_component"].maxLength = 160
        whole.properties["preserved_need"].maxLength = 240
    return ResponseSchema(name="reframing", json_schema=whole)


async def ask(messages: list[ChatMessage], **config: Any) -> ModelOutput:
    """Ask the model in use; reasoning is set aside, and an answer that was cut says so.

    Args:
        messages: the conversation.
        config: of this call, besides the evaluation's.
    """
    settings = GenerateConfig(**config)
    seed = settings.seed if settings.seed is not None else active_generate_config().seed
    settings = settings.merge(GenerateConfig(seed=_own_seed(seed, messages)))
    with _answered():
        output = await get_model().generate(messages, config=settings)
    return _said(output, settings.max_tokens)


def _own_seed(seed: int | None, messages: Sequence[ChatMessage]) -> int | None:
    """The seed of one call: of the run's, the prompt and the epoch; None without one.

    Engines start every request with the same random numbers for the same seed, so that with one for all, answers to
    like prompts would go wrong together, and every epoch would be the first one again.
    """
    if seed is None:
        return None
    state = sample_state()
    epoch = state.epoch if state else 1
    return int(sha256("\n".join([f"{seed} {epoch}", *(m.text for m in messages)]))[:8], 16) >> 1


async def _ask(system: str, user: str, **config: Any) -> ModelOutput:
    messages = [ChatMessageSystem(content=system)] if system else []
    return await ask([*messages, ChatMessageUser(content=user)], **config)


async def _rewrite(request: str, universal: str, category: str, trace: dict[str, Any]) -> Reframing | None:
    """Ask for a rewrite up to three times; the trace gets what was written and why it was not taken."""
    rules = prompts.load("shard_rewrite").fill(guidelines=universal)
    inputs = prompts.load("shard_rewrite_input").fill(guidelines=category, request=request)
    trace |= {"rewrites": [], "rewrite_failures": []}
    for attempt in range(REWRITE_ATTEMPTS):
        # A greedy retry, or one with the same seed, would repeat the same failure.
        again = {"seed": attempt, "temperature": 0.7} if attempt else {}
        output = await _ask(rules, inputs, response_schema=_rewrite_schema(), max_tokens=REWRITE_TOKENS, **again)
        trace["rewrites"].append(output.completion)
        cut = output.stop_reason == "max_tokens"
        found = "cut" if cut else parse_reframing(output.completion, request)
        if isinstance(found, Reframing):
            trace |= vars(found)
            return found
        trace["rewrite_failures"].append(found)
    return None


async def _refine(steps: Steps, request: str, draft: str, reframing: Reframing | None) -> ModelOutput:
    """The last step: answer the rewritten request, or improve the draft with or without it."""
    if not steps.refine and reframing is not None:
        return await _ask("", reframing.reframed_prompt)
    if reframing is None:
        inputs = prompts.load("shard_refine_draft_input").fill(request=request, draft_response=draft)
        return await _ask(prompts.load("shard_refine_draft").text, inputs)
    rules = prompts.load("shard_refine").fill(mode_instruction=MODES[reframing.response_mode])
    inputs = prompts.load("shard_refine_input").fill(
        request=request, reframed_prompt=reframing.reframed_prompt, draft_response=draft
    )
    return await _ask(rules, inputs)


async def reframe(request: str, category: str, steps: Steps, folder: str = "") -> tuple[ModelOutput, dict[str, Any]]:
    """SHARD's chain: draft (O1), rewrite (P2), refine (O2); without a valid changed rewrite the draft stands.

    Args:
        request: the request (P1).
        category: its type, for the category guidelines.
        steps: what to do.
        folder: guidelines of another taxonomy.

    Returns:
        The answer, and the trace with every intermediate. Its `outcome` is "refined", "unchanged" (nothing in the
        request had to change), "rewrite: REASON" (of the last attempt) or "refined: REASON".
    """
    trace: dict[str, Any] = {}
    draft = await _ask("", request)
    trace["draft_response"] = draft.completion
    reframing = None
    if steps.rewrite:
        universal = guidelines.universal() if steps.universal else ""
        reframing = await _rewrite(
            request, universal, guidelines.of_category(category, folder) if steps.category else "", trace
        )
        if reframing is None:
            return draft, trace | {"outcome": f"rewrite: {trace['rewrite_failures'][-1]}"}
        if unchanged(reframing.reframed_prompt, request):
            return draft, trace | {"outcome": "unchanged"}
    refined = await _refine(steps, request, draft.completion, reframing)
    text = without_preface(refined.completion)
    if text != refined.completion:
        refined.completion, trace["preface_removed"] = text, True
    trace["refined_response"] = text
    reframed = reframing.reframed_prompt if reframing is not None else ""
    failure = "cut" if refined.stop_reason == "max_tokens" else refined_failure(text, request, reframed)
    outcome = f"refined: {failure}" if failure else "refined"
    return (draft if failure in ("empty", "echo") else refined), trace | {"outcome": outcome}


def _chain(name: str, steps: Steps) -> Callable[..., Solver]:
    """SHARD at inference time, or without one of its steps; the log keeps every intermediate in `metadata["shard"]`."""

    @solver(name=name)
    def chain(guidelines: str = "") -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            category = str(state.metadata.get("type") or "")
            state.output, state.metadata["shard"] = await reframe(state.input_text, category, steps, guidelines)
            state.messages.append(state.output.message)
            return state

        return solve

    return chain


def trace_schema() -> ResponseSchema:
    """JSON schema of reasoning in steps with an answer."""
    whole = json_schema(dict)
    whole.properties = {"steps": json_schema(list[str]), "answer": json_schema(str)}
    whole.required, whole.additionalProperties = ["steps", "answer"], False
    return ResponseSchema(name="reasoning", json_schema=whole)


async def reasoned(rules: str, request: str) -> tuple[ModelOutput, reasoning.Trace | str]:
    """Ask for reasoning with an answer, up to three times.

    Args:
        rules: the system prompt.
        request: what is asked.

    Returns:
        The output, whose message has the reasoning apart from the answer, and the trace or why there is none (of the
        last attempt). Without a trace the answer is empty.
    """
    found: reasoning.Trace | str = "empty"
    output = ModelOutput()
    for attempt in range(REWRITE_ATTEMPTS):
        again = {"seed": attempt, "temperature": 0.7} if attempt else {}
        output = await _ask(rules, request, response_schema=trace_schema(), **again)
        found = "cut" if output.stop_reason == "max_tokens" else reasoning.written(output.completion)
        if isinstance(found, reasoning.Trace):
            break
    if not output.choices:
        output = ModelOutput.from_content(output.model, "")
    message = output.choices[0].message
    message.content = ""
    if isinstance(found, reasoning.Trace):
        message.content = [ContentReasoning(reasoning=found.reasoning), ContentText(text=found.answer)]
    output.completion = message.text
    return output, found


def policy_text(file: str) -> str:
    """The policy to reason with: the packaged one, or a file's.

    Raises:
        UsageError: if the file cannot be read, or is empty.
    """
    if not file:
        return prompts.load("safety_policy").text
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"policy {file!r} cannot be read: {error}.") from error
    if not text:
        raise UsageError(f"policy {file!r} is empty. Write what may not be given, and why.")
    return text


@solver
def policy_reasoning(policy: str = "") -> Solver:
    """The model told to think in steps with a policy before it answers; the log keeps the steps, no judge sees them.

    Args:
        policy: file with another policy than the packaged one.
    """
    rules = prompts.load("reason_write").fill(policy=policy_text(policy))

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        inputs = prompts.load("reason_write_input").fill(request=state.input_text)
        state.output, found = await reasoned(rules, inputs)
        state.metadata["reasoning"] = "written" if isinstance(found, reasoning.Trace) else found
        state.messages.append(state.output.message)
        return state

    return solve


SOLVERS: dict[str, Callable[..., Solver]] = {
    "direct": direct,
    "benign_intent": benign_intent,
    "policy_reasoning": policy_reasoning,
    **{name: _chain(name, steps) for name, steps in CHAINS.items()},
    "always_refuse": always_refuse,
    "always_comply": always_comply,
    "recorded": recorded,
}
CONSTANTS = ("always_refuse", "always_comply", "recorded")  # need no model

TAKES = {**dict.fromkeys(CHAINS, "guidelines"), "policy_reasoning": "policy"}
"""Solvers that take something behind a colon, and what: a folder of guidelines, or a file with a policy."""

_SHARD_PROMPTS = (
    "shard_rewrite",
    "shard_rewrite_input",
    "guidelines_universal",
    *(f"guidelines_{guidelines.slug(name)}" for name in guidelines.TYPES),
    "shard_refine",
    "shard_refine_input",
    "shard_refine_draft",
    "shard_refine_draft_input",
)
_PROMPTS = {
    "benign_intent": ("system_benign_intent",),
    "policy_reasoning": ("reason_write", "reason_write_input"),
    **dict.fromkeys(CHAINS, _SHARD_PROMPTS),
}


def split_name(name: str) -> tuple[str, str]:
    """A solver's name and what stands after its colon: "shard_reframe:my-guidelines", "policy_reasoning:policy.md".

    Raises:
        UsageError: if there is no such solver, or it takes neither guidelines nor a policy.
    """
    solver, _, given = name.partition(":")
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if given and solver not in TAKES:
        those = "; ".join(f"{name} takes a {what}" if what == "policy" else name for name, what in TAKES.items())
        raise UsageError(f"solver {solver!r} takes no guidelines ({given!r} given); these do: {those}.")
    return solver, given


def make(name: str) -> Solver:
    """Make a solver by its name.

    Raises:
        UsageError: if there is no such solver.
    """
    solver, given = split_name(name)
    if not given:
        return SOLVERS[solver]()
    return SOLVERS[solver](**{TAKES[solver]: given})


def fingerprint(name: str) -> str:
    """Hash of the prompts and constants a solver uses; a changed prompt is another system."""
    solver, given = split_name(name)
    parts = [prompts.load(p).sha for p in _PROMPTS.get(solver, ())]
    if TAKES.get(solver) == "policy":
        return sha256(solver + "".join(parts) + policy_text(given))[:12]
    constant = {"always_refuse": REFUSAL, "always_comply": COMPLIANCE}.get(solver, "")
    return sha256(solver + "".join(parts) + constant + guidelines.fingerprint(given))[:12]
