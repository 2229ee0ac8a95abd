"""What graders are shown and write, whatever they are asked: fences around material, schemas, the last verdict."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from inspect_ai.model import ResponseSchema
from inspect_ai.util import json_schema

from shard_eval.records import Reason, sha256

MAX_TOKENS = 2048  # room for graders that reason before they answer

# Providers of Inspect that enforce a JSON schema; elsewhere the schema is left out and the text is parsed.
STRUCTURED = {
    "openai",
    "azureai",
    "google",
    "mistral",
    "grok",
    "vllm",
    "vllm_served",
    "sglang",
    "openai-api",
    "llamacpp",
}
# Of these, those that also enforce a string's length. Small models else write reasons until the token limit.
LENGTH_LIMITED = {"llamacpp"}
REASON_CHARS = 240

_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_REFUSALS = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|sorry,|i can(?:'t|not)|i won't|i must decline|as an ai)",
    re.IGNORECASE,
)


def fence(kind: str, *material: str) -> str:
    """The marker line around a text: a hash of all the material shown, which no part of it can therefore contain.

    Args:
        kind: what stands between the markers, e.g. "reply".
        material: every text of the same message that somebody else wrote, in a fixed order.
    """
    return f"<<{kind}-{sha256(json.dumps(material))[:16]}>>"


def verdict_schema(name: str, type_: type, choices: list[Any], reason_chars: int | None) -> ResponseSchema:
    """JSON schema of a verdict, reason first so that the model thinks before it decides.

    Args:
        name: of the schema.
        type_: type of the verdict.
        choices: its allowed values.
        reason_chars: longest reason; None where the provider knows no such limit.
    """
    verdict, reason, whole = json_schema(type_), json_schema(str), json_schema(dict)
    verdict.enum, reason.maxLength = choices, reason_chars
    whole.properties = {"reason": reason, "verdict": verdict}
    whole.required = ["reason", "verdict"]
    whole.additionalProperties = False
    return ResponseSchema(name=name, json_schema=whole)


def last_value(text: str) -> Any:
    """The value of "verdict" in the last JSON object that has one; None if there is none or another one was begun."""
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
    return None if '"verdict"' in text[end:] else final


def why_none(text: str) -> Reason:
    """Why a text holds no verdict: the grader refused, or what it wrote cannot be read."""
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).replace("\u2019", "'")
    return "judge_refused" if _REFUSALS.match(plain) else "unparseable"
