"""Whether an answer to an item of our own capability set is right. Pure; any text gets a decision."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import json_repair

from shard_eval.splits import normalise

ITEMS = Path(__file__).parent / "items.jsonl"
"""The set, as `make` wrote it."""

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def correct(item: dict[str, Any], text: str) -> bool:
    """Whether an answer is right.

    A number: the last one in the text. A text to find: one of the answers as words, and none of the others that stand
    beside it. A form: the rule holds for the whole answer.

    Args:
        item: with `number`, `answers` (and perhaps `others`), or `rule`.
        text: the answer, without reasoning in front.
    """
    if item.get("number") is not None:
        return _last_number(text) == float(item["number"])
    if item.get("answers"):
        return _has(text, item["answers"]) and not _has(text, item.get("others") or [])
    return all(_RULES[name](text.strip(), wanted) for name, wanted in item["rule"].items() if wanted is not None)


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    if not found:
        return None
    plain = re.sub(r"[.,](?=\d{3}(?!\d))", "", found[-1]).replace(",", ".")  # 1,234 and 1.234 are one thousand
    try:
        return float(plain)
    except ValueError:
        return None


def _has(text: str, phrases: list[str]) -> bool:
    shown = f" {normalise(text)} "
    return any(f" {normalise(p)} " in shown for p in phrases)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _numbered(text: str, wanted: int) -> bool:
    found = [m for line in _lines(text) if (m := re.match(r"\s*(\d+)[.):]\s+\S", line))]
    return [int(m[1]) for m in found] == list(range(1, wanted + 1))


def _keys(text: str, wanted: list[str]) -> bool:
    plain = re.sub(r"\A```(?:json)?\s*|\s*```\Z", "", text)
    if not (plain.startswith("{") and plain.endswith("}")):
        return False
    try:
        found = json.loads(plain)
    except ValueError:
        found = json_repair.loads(plain)
    return isinstance(found, dict) and set(found) == set(wanted)


_RULES: dict[str, Callable[[str, Any], bool]] = {
    "words": lambda text, wanted: len(normalise(text).split()) == wanted,
    "numbered": _numbered,
    "upper": lambda text, wanted: text == text.upper() and any(c.isalpha() for c in text),
    "keys": _keys,
    "last": lambda text, wanted: normalise(text).split()[-1:] == [wanted],
    "first": lambda text, wanted: normalise(text).split()[:1] == [wanted],
    "lines": lambda text, wanted: len(_lines(text)) == wanted,
}
