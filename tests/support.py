"""Scripted models and the places of test data, shared by the tests and by the processes they start.

The scripted provider gives every output a usage: Inspect's mock would otherwise download a tokenizer to count.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, ModelUsage, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo

ROOT = Path(__file__).parent.parent
_beside = ROOT.parent / "shared" / "data"
DATA = Path(os.environ.get("SHARD_DATA_DIR") or _beside)
HAS_DATA = (DATA / "do-not-answer").is_dir()

needs_data = pytest.mark.skipif(not HAS_DATA, reason="needs SHARD_DATA_DIR with the stand-in benchmark files")

Reply = Callable[[list[ChatMessage]], str | ModelOutput | Exception]
SCRIPTS: dict[str, Reply] = {}
CALLS: dict[str, int] = {}


class ScriptedAPI(ModelAPI):
    """A model that answers by a function of the messages; `scripted/NAME` looks NAME up in SCRIPTS."""

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        CALLS[self.model_name] = CALLS.get(self.model_name, 0) + 1
        reply = SCRIPTS[self.model_name](input)
        if isinstance(reply, Exception):
            raise reply
        plain = isinstance(reply, str)
        output = ModelOutput.from_content(model=self.model_name, content=reply) if plain else reply
        output.usage = ModelUsage(input_tokens=10, output_tokens=5, total_tokens=15)
        return output

    def should_retry(self, ex: BaseException) -> bool:
        return False


@modelapi(name="scripted")
def scripted() -> type[ModelAPI]:
    return ScriptedAPI
