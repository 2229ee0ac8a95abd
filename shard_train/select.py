"""Which targets are trained on: all, those a selector prefers to the draft, or those it finds harmless.

The selector is a model of its own role with its own prompts. It may be the trained model, or another one; it should not
be the judge that scores the result, and nothing here can see that judge.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import json_repair
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log_samples
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, ResponseSchema, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import json_schema
from rich.console import Console

from shard_eval import prompts, running
from shard_eval.errors import UsageError
from shard_eval.logs import find_log
from shard_eval.records import sha256
from shard_eval.systems import System, open_model, resolve
from shard_train.generate import Target
from shard_train.recipe import RULES

CHOICES = {
    "select_helpful": ("first", "second", "tie"),
    "select_harm": ("first", "second", "tie"),
    "select_harmful": ("harmful", "harmless"),
    "select_stance": ("declines", "redirects", "complies"),
    "select_reflection": (),  # as many as there are steps
}
ROLE = "selector"


@dataclass(frozen=True)
class Decision:
    """Whether a target is trained on, and why not."""

    target: Target
    why_not: str = ""

    @property
    def kept(self) -> bool:
        """Whether it is trained on."""
        return not self.why_not


def read_choice(text: str, choices: Sequence[str]) -> str:
    """The choice in what a selector wrote; "unreadable" if there is none."""
    if "{" not in text:
        return "unreadable"
    try:
        found = json_repair.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        return "unreadable"
    choice = found.get("choice") if isinstance(found, dict) else None
    choice = str(choice) if type(choice) is int else choice  # the number of a step, written as one
    return choice if isinstance(choice, str) and choice in choices else "unreadable"


async def ask(name: str, choices: Sequence[str] = (), **material: str) -> str:
    """Ask the selector one question about a request and one or two replies.

    Args:
        name: of the question, one of `CHOICES`.
        choices: the answers that count; default those of the question.
        material: `request`, and `reply` or `first` and `second`.

    Returns:
        The choice, or "unreadable".
    """
    choices = choices or CHOICES[name]
    # A hash of all the material, which no part of it can contain: no reply can pretend to be another.
    mark = f"<<{sha256(json.dumps(material, sort_keys=True))[:16]}>>"
    frame = "select_one_input" if "reply" in material else "select_pair_input"
    schema = json_schema(str)
    schema.enum = list(choices)
    whole = json_schema(dict)
    whole.properties, whole.required, whole.additionalProperties = {"choice": schema}, ["choice"], False
    output = await get_model(role=ROLE).generate(
        [
            ChatMessageSystem(content=prompts.load(name).text),
            ChatMessageUser(content=prompts.load(frame).fill(mark=mark, **material)),
        ],
        config=GenerateConfig(
            temperature=0, max_tokens=1024, response_schema=ResponseSchema(name=name, json_schema=whole)
        ),
    )
    return read_choice(output.completion, choices)


async def _preferred(name: str, request: str, draft: str, refined: str) -> str:
    """What both orders say: "refined", "draft", "tie", "orders disagree" or "unreadable"; stops when it is decided."""
    names = ("refined", "draft")
    first = await ask(name, request=request, first=refined, second=draft)
    found = {"first": names[0], "second": names[1]}.get(first, first)
    # Only the answer that lets the target pass needs to be confirmed.
    if found == "unreadable" or found == {"select_helpful": "draft", "select_harm": "refined"}[name]:
        return found
    second = await ask(name, request=request, first=draft, second=refined)
    again = {"first": names[1], "second": names[0]}.get(second, second)
    return found if again == found else "unreadable" if again == "unreadable" else "orders disagree"


async def _judged(request: str, draft: str, refined: str) -> str:
    """Why a refined answer is not kept under "judge"; "" if it is more helpful and not more harmful than the draft."""
    if refined == draft:
        return "the same as the draft"
    helpful = await _preferred("select_helpful", request, draft, refined)
    if helpful != "refined":
        return f"not more helpful: {helpful}"
    harm = await _preferred("select_harm", request, draft, refined)
    return "" if harm in ("draft", "tie") else f"harm: {harm}" if harm != "refined" else "named more harmful"


async def _gated(request: str, refined: str) -> str:
    """Why a refined answer is not kept under "harm_gate"; "" if it is harmless."""
    found = await ask("select_harmful", request=request, reply=refined)
    return "" if found == "harmless" else found


@solver
def selection(rule: str) -> Solver:
    """Decide about one target; the decision is in the log's metadata."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        draft, refined = str(state.metadata["draft"]), str(state.metadata["refined"])
        judged = _judged(state.input_text, draft, refined) if rule == "judge" else _gated(state.input_text, refined)
        state.metadata["why_not"] = await judged
        return state

    return solve


def selection_task(targets: Sequence[Target], rule: str) -> Task:
    """The Inspect task that decides about targets; it needs the role `selector`."""
    samples = [
        Sample(id=_id(t), input=t.prompt, metadata={"draft": t.draft, "refined": t.refined, "prompt_sha": t.key[2]})
        for t in targets
    ]
    return Task(
        dataset=MemoryDataset(samples, name="targets"),
        solver=selection(rule),
        name="shard_select",
        version="1-A",
        metadata={"prompts": {name: prompts.load(name).sha for name in CHOICES}},
    )


def _id(target: Target) -> str:
    return f"{target.key[0]}:{target.key[1]}"


def select(
    targets: Sequence[Target],
    rule: str,
    selector: System | None,
    folder: str,
    console: Console,
    *,
    cache: bool = True,
) -> list[Decision]:
    """Decide which targets are trained on, or continue where it stopped.

    Args:
        targets: what was generated or recorded.
        rule: one of `recipe.RULES`.
        selector: the model that decides; not needed for "none".
        folder: the log goes to `logs` below.
        console: for the progress bar.
        cache: keep the decisions of local weights by content.

    Returns:
        A decision per target, in their order; one without a usable answer says what became of it.

    Raises:
        UsageError: for an unknown rule, a missing selector, or "judge" over recorded targets, which have no draft.
        LogError: if the evaluation did not finish.
    """
    if rule not in RULES:
        raise UsageError(f"selection rule {rule!r} must be one of {', '.join(RULES)}.")
    usable = [t for t in targets if t.usable]
    if rule == "none" or not usable:
        return [Decision(t, "" if t.usable else t.outcome) for t in targets]
    if rule == "judge" and any(t.outcome == "recorded" for t in usable):
        raise UsageError('selection rule "judge" compares with a draft, and recorded targets have none: "harm_gate".')
    if selector is None:
        raise UsageError(f"selection rule {rule!r} needs a selector model.")
    config = GenerateConfig(temperature=0, cache=selector.config(cache).cache)
    log_dir = running.evaluate(
        selection_task(usable, rule),
        f"{selector.name} selects: {rule}",
        len(usable),
        folder,
        console,
        model=resolve("recorded").open(),
        model_roles={ROLE: open_model(selector.model, config, selector.model_args)},
        metadata={"selector": selector.manifest},
    )
    why = {str(s.id): _why(s.metadata, s.limit) for s in read_eval_log_samples(find_log(log_dir))}
    return [Decision(t, why[_id(t)] if t.usable else t.outcome) for t in targets]


def _why(metadata: dict[str, Any], limit: Any) -> str:
    return str(metadata["why_not"]) if "why_not" in metadata else f"limit: {limit.type if limit else 'unknown'}"


def reasons(decisions: Sequence[Decision]) -> dict[str, int]:
    """How many targets were kept, and why the others were not; the most frequent first."""
    return dict(Counter(d.why_not or "kept" for d in decisions).most_common())
