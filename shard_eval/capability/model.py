"""A System as lm-eval's model: whatever Inspect serves; checkpoint folders by lm-eval's own transformers backend."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig

from shard_eval.errors import DataError, UsageError
from shard_eval.solvers import set_aside
from shard_eval.systems import Decoding, System

TOKENS = 512  # where a task does not say how long an answer may be
BATCH = 8
_ROLES: dict[str, type[ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def make(system: System) -> Any:
    """A System as lm-eval takes it; answers are greedy whatever the System's decoding is.

    Args:
        system: a model, perhaps with an adapter; its solver has no part in this.

    Raises:
        UsageError: if it is no model.
    """
    if system.engine == "none":
        raise UsageError(f"{system.name} is no model: it has no capability to measure.")
    return _transformers(system) if system.engine == "transformers" else _inspect(system)


def _transformers(system: System) -> Any:
    """lm-eval's own backend, which also gives log-likelihoods; the same weights and dtype as Inspect's."""
    from lm_eval.models.huggingface import HFLM

    folder = system.model_args.get("model_path", system.model.removeprefix("hf/"))
    args: dict[str, Any] = {"pretrained": str(folder), "dtype": system.dtype, "batch_size": BATCH}
    args["device"] = "auto"  # no device of that name: lm-eval then takes what there is
    config = Path(str(folder)) / "adapter_config.json"
    if config.is_file():
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
        args |= {"pretrained": base, "peft": str(folder)}
    if "tokenizer_path" in system.model_args:
        args["tokenizer"] = str(system.model_args["tokenizer_path"])
    try:
        return HFLM(**args)
    except (OSError, ValueError) as error:
        raise UsageError(f"{system.name} cannot be loaded for lm-eval: {error}") from error


def _inspect(system: System) -> Any:
    """A model that Inspect serves: text only, for no provider gives log-likelihoods of given answers."""
    from lm_eval.api.model import LM

    class Served(LM):  # type: ignore[misc]  # lm-eval is not followed by the type checker
        tokenizer_name = system.id

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return json.dumps(chat_history)

        def loglikelihood(self, requests: Any) -> Any:
            raise UsageError(
                f"{system.name} on {system.engine}: this task needs log-likelihoods of given answers, which only a "
                "checkpoint folder has here (extra: hf). Take a task that generates, or score a folder."
            )

        loglikelihood_rolling = loglikelihood

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return asyncio.run(_answers(system, [request.args for request in requests]))

    return Served()


async def _answers(system: System, requests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The answers, asked together; what of them is reasoning is left out, and what nobody answered is an error."""
    # A server of vLLM stays for the arms that come next, unless it holds this one's merged weights.
    greedy = replace(system, decoding=Decoding(max_tokens=TOKENS))
    with greedy.opened(cache=False, keep=system.shares_engine(system)) as opened:
        async with opened as model:

            async def ask(context: str, settings: dict[str, Any]) -> str:
                stops = [s for s in settings.get("until", []) if s]
                tokens = settings.get("max_gen_toks", TOKENS)
                config = GenerateConfig(temperature=0, max_tokens=tokens, stop_seqs=stops or None)
                output = await model.generate(_messages(context), config=config)
                if output.error or output.stop_reason == "model_length":
                    raise DataError(f"{system.name} did not answer: {output.error or output.completion[:300]}")
                return set_aside(output).completion

            return list(await asyncio.gather(*(ask(*request) for request in requests)))


def _messages(context: str) -> list[ChatMessage]:
    try:
        found = json.loads(context)
        return [_ROLES[message["role"]](content=message["content"]) for message in found]
    except (ValueError, KeyError, TypeError):  # a task that shows plain text
        return [ChatMessageUser(content=context)]
