"""The rubric judge: a language model in the required `grader` role, one prompt file of ours per axis.

Request and response stand between markers derived from their own hash: no text can contain the hash of itself, so
nothing inside can close the fence, and yet the same case always gives the same call (and the same cache entry).
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, field

from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, ResponseSchema
from inspect_ai.util import json_schema

from shard_eval import prompts
from shard_eval.judges.case import Case
from shard_eval.judges.grader import Grader
from shard_eval.records import AXES, Axis, Verdict, labels, sha256

MAX_TOKENS = 512

# Providers of Inspect that enforce a JSON schema; elsewhere the schema is left out and the text is parsed.
STRUCTURED = {"openai", "azureai", "google", "mistral", "grok", "vllm", "sglang", "openai-api", "llamacpp"}

_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_REFUSALS = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|sorry,|i can(?:'t|not)|i won't|i must decline|as an ai)",
    re.IGNORECASE,
)


def last_verdict(text: str, axis: Axis) -> Verdict:
    """Read the last well-formed verdict out of a grader's text.

    Args:
        text: what the grader wrote; a JSON object with the key "verdict" and a label of the axis.
        axis: the axis that was asked for.

    Returns:
        The label, or the reason `judge_refused` or `unparseable`. Never raises.
    """
    decoder = json.JSONDecoder()
    final, end, start = None, 0, text.find("{")
    while start >= 0:
        try:
            found, stop = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            stop = start + 1
        else:
            if "verdict" in found:
                final, end = found["verdict"], stop
        start = text.find("{", stop)
    if isinstance(final, str) and re.fullmatch(r"[0-9]{1,2}", final.strip()):
        final = int(final)
    if type(final) is int and final in labels(axis) and '"verdict"' not in text[end:]:
        return Verdict(axis, final, raw=text)
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).replace("\u2019", "'")
    return Verdict(axis, None, "judge_refused" if _REFUSALS.match(plain) else "unparseable", text)


def fence(text: str, kind: str) -> str:
    """The marker line around a text: its own hash, which it therefore cannot contain."""
    return f"<<{kind}-{sha256(kind + text)[:24]}>>"


def messages(case: Case, axis: Axis) -> list[ChatMessage]:
    """The two messages a grader gets for a case; the response is whole, however long."""
    context = ""
    if case.need or case.withhold:
        context = prompts.load("judge_need").fill(
            need=case.need or "not stated", withhold=case.withhold or "nothing in particular"
        )
    frame = prompts.load("judge_frame").fill(
        request_mark=fence(case.request, "request"),
        request=case.request,
        response_mark=fence(case.response, "reply"),
        response=case.response,
        context="\n" + context if context else "",
    )
    rubric = prompts.load(f"judge_{axis}").text
    return [ChatMessageSystem(content=rubric), ChatMessageUser(content=frame)]


def schema(axis: Axis) -> ResponseSchema:
    """JSON schema of a verdict, reason first so that the model thinks before it decides."""
    verdict = json_schema(int)
    verdict.enum = list(labels(axis))
    whole = json_schema(dict)
    whole.properties = {"reason": json_schema(str), "verdict": verdict}
    whole.required = ["reason", "verdict"]
    whole.additionalProperties = False
    return ResponseSchema(name=f"{axis}_verdict", json_schema=whole)


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
        structured = self.grader.provider() in STRUCTURED
        output = await self.grader.ask(
            axis, messages(case, axis), MAX_TOKENS, response_schema=schema(axis) if structured else None
        )
        return output if isinstance(output, Verdict) else last_verdict(output.completion, axis)
