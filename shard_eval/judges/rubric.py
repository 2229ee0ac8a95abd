"""The rubric judge: a language model in the required `grader` role, one prompt file of ours per axis.

Request and response stand between markers derived from their common hash: neither can contain the hash of itself, so
nothing inside can close a fence, and yet the same case always gives the same call (and the same cache entry).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser

from shard_eval import prompts
from shard_eval.judges.case import Case
from shard_eval.judges.grader import Failure, Grader
from shard_eval.judges.reply import MAX_TOKENS, fence, last_value, why_none
from shard_eval.records import AXES, Axis, Verdict, labels, sha256


def last_verdict(text: str, axis: Axis) -> Verdict:
    """Read the last well-formed verdict out of a grader's text.

    Args:
        text: what the grader wrote; a JSON object with the key "verdict" and a label of the axis.
        axis: the axis that was asked for.

    Returns:
        The label, or the reason `judge_refused` or `unparseable`. Never raises.
    """
    final = last_value(text)
    if isinstance(final, str) and re.fullmatch(r"[0-9]{1,2}", final.strip()):
        final = int(final)
    if type(final) is int and final in labels(axis):
        return Verdict(axis, final, raw=text)
    return Verdict(axis, None, why_none(text), text)


def context(case: Case) -> str:
    """What the benchmark's authors say of the request, for the end of a message; "" if they say nothing."""
    if not case.need and not case.withhold:
        return ""
    need, withhold = case.need or "not stated", case.withhold or "nothing in particular"
    return "\n" + prompts.load("judge_need").fill(need=need, withhold=withhold)


def messages(case: Case, axis: Axis) -> list[ChatMessage]:
    """The two messages a grader gets for a case; the response is whole, however long."""
    frame = prompts.load("judge_frame").fill(
        request_mark=fence("request", case.request, case.response),
        request=case.request,
        response_mark=fence("reply", case.request, case.response),
        response=case.response,
        context=context(case),
    )
    rubric = prompts.load(f"judge_{axis}").text
    return [ChatMessageSystem(content=rubric), ChatMessageUser(content=frame)]


@dataclass
class RubricJudge:
    """An LLM grader; bind it with `--model-role grader=MODEL`."""

    name: str = "rubric"
    axes: tuple[Axis, ...] = AXES
    grader: Grader = field(default_factory=Grader)

    def fingerprint(self, axis: Axis) -> str:
        """Hash of the prompts that ask for this axis."""
        parts = (f"judge_{axis}", "judge_frame", "judge_need")
        return sha256("".join(prompts.load(p).sha for p in parts) + str(MAX_TOKENS))[:12]

    async def verdict(self, case: Case, axis: Axis) -> Verdict:
        """Ask the grader once; a failed call is counted with its reason, never a label.

        Raises:
            JudgeError: if the grader does not work at all.
        """
        if not case.response.strip():
            return Verdict(axis, None, "empty_response")
        schema = self.grader.schema(f"{axis}_verdict", int, list(labels(axis)))
        output = await self.grader.ask(messages(case, axis), MAX_TOKENS, schema)
        if isinstance(output, Failure):
            return Verdict(axis, None, output.reason, output.raw)
        return last_verdict(output.completion, axis)
