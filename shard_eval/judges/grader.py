"""Asking a grader model once, so that its failures are counted and never become labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Model,
    ModelOutput,
    ResponseSchema,
    get_model,
)
from inspect_ai.util import LimitExceededError

from shard_eval.errors import JudgeError
from shard_eval.judges.reply import LENGTH_LIMITED, REASON_CHARS, STRUCTURED, verdict_schema
from shard_eval.records import Reason

PROBE = "Reply with the word OK."


@dataclass(frozen=True)
class Failure:
    """A call that gave nothing to read, and why."""

    reason: Reason
    raw: str


@dataclass(frozen=True)
class Grader:
    """The model in a role, `grader` unless told otherwise; Inspect stops with a clear error if none is bound."""

    role: str = "grader"

    def model(self) -> Model:
        """The bound model.

        Raises:
            ValueError: if no model is bound to the role; the tested model never grades itself.
        """
        return get_model(role=self.role, required=True)

    def provider(self) -> str:
        """Name of its Inspect provider."""
        return str(self.model()).split("/")[0]

    def schema(self, name: str, type_: type, choices: list[Any]) -> ResponseSchema | None:
        """JSON schema for a verdict, as far as the provider enforces one; None if it does not."""
        provider = self.provider()
        if provider not in STRUCTURED:
            return None
        return verdict_schema(name, type_, choices, REASON_CHARS if provider in LENGTH_LIMITED else None)

    async def ask(
        self,
        messages: list[ChatMessage],
        max_tokens: int,
        response_schema: ResponseSchema | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> ModelOutput | Failure:
        """Ask once, greedily; Inspect has already retried what is worth retrying.

        Args:
            messages: the conversation.
            max_tokens: limit of the answer.
            response_schema: JSON schema of the answer, where the provider enforces one.
            extra_body: what an OpenAI-compatible server wants besides, such as arguments of a chat template.

        Returns:
            The output, or the failure: `judge_error` or `judge_refused`.

        Raises:
            JudgeError: if it does not even answer a trivial question: then no verdict is written, and running the
                same command again continues with this very response.
        """
        model = self.model()
        config = GenerateConfig(
            # The hf provider rejects temperature 0 and is made greedy when it is opened (systems.py).
            temperature=None if self.provider() == "hf" else 0.0,
            max_tokens=max_tokens,
            response_schema=response_schema,
            extra_body=extra_body,
        )
        try:
            output = await model.generate(messages, config=config)
        except LimitExceededError:
            raise
        except Exception as error:
            await self._probe(model, error, extra_body)
            return Failure("judge_error", f"{type(error).__name__}: {error}")
        if output.error:
            return Failure("judge_error", output.error)
        if output.stop_reason == "model_length":  # the text is the engine's complaint, not a reply
            return Failure("judge_error", f"request and response do not fit the judge's context: {output.completion}")
        if output.stop_reason == "content_filter":
            return Failure("judge_refused", output.completion)
        return output

    async def _probe(self, model: Model, error: Exception, extra_body: dict[str, Any] | None) -> None:
        """Tell one bad call from a grader that is down, misnamed or out of money."""
        try:
            await model.generate(PROBE, config=GenerateConfig(max_tokens=16, extra_body=extra_body))
        except LimitExceededError:
            raise
        except Exception as down:
            raise JudgeError(
                f"the grader {model} does not work: {type(down).__name__}: {str(down)[:300]}. Finished work is kept: "
                "mend the grader and run the same command again."
            ) from error
