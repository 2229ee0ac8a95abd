"""Look at training data for what no guard reads: hidden characters and encoded text (cf. arXiv:2603.08104).

Data that teach a model an encoding, with the harm written in it, look harmless to every guard. What is found here is
reported, never removed: joiners belong to many scripts and to emoji, and code holds long numbers.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ZERO_WIDTH = frozenset("\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u180e\u00ad")
JOINERS = frozenset("\u200c\u200d")
VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
TAGS = re.compile("[\U000e0000-\U000e007f]")
BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
RUN = re.compile(r"[A-Za-z0-9+/_=-]{40,}")
BINARY = re.compile(r"(?:[01]{8}[\s,]*){5,}")
CODES = re.compile(r"(?:\\x[0-9a-fA-F]{2}|%[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|&#\d+;){8,}")
HIGH_ENTROPY = 3.5  # bits a character, above long words and below base 64


@dataclass(frozen=True)
class Finding:
    """Something odd in a row.

    Attributes:
        row: the row's id.
        where: "prompt" or "answer".
        what: in words, without the text.
        count: how often.
    """

    row: str
    where: str
    what: str
    count: int


def lint(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Look at training rows (`sft.read_rows`).

    Args:
        rows: with id, prompt and completion.

    Returns:
        What was found, in the rows' order; no text of theirs.
    """
    found = []
    for row in rows:
        parts = [("prompt", m["content"]) for m in row["prompt"]] + [("answer", row["completion"][0]["content"])]
        for where, text in parts:
            found += [Finding(str(row["id"]), where, what, n) for what, n in oddities(text).items()]
    return found


def oddities(text: str) -> dict[str, int]:
    """Kinds of hidden or encoded content in a text, with how often each is there."""
    counts = {
        "zero-width characters": sum(c in ZERO_WIDTH for c in text),
        "joiners where nothing is to be joined": _idle_joiners(text),
        "variation selectors in a row": len(re.findall(f"(?:{VARIATION.pattern}){{2,}}", text)),
        "tag characters": _idle_tags(text),
        "characters that turn the direction": len(BIDI.findall(text)),
        "other format or private characters": sum(_hidden(c) for c in text),
        "long runs like base N": sum(_encoded(m.group()) for m in RUN.finditer(text)),
        "runs of binary digits": len(BINARY.findall(text)),
        "runs of escaped characters": len(CODES.findall(text)),
    }
    return {what: n for what, n in counts.items() if n}


def _idle_joiners(text: str) -> int:
    """Joiners between characters that no script and no emoji joins."""
    return sum(
        1
        for i, c in enumerate(text)
        if c in JOINERS and not (0 < i < len(text) - 1 and _joins(text[i - 1]) and _joins(text[i + 1]))
    )


def _joins(c: str) -> bool:
    """Whether a joiner makes sense beside a character: a letter or mark of a joining script, or part of an emoji."""
    if c in JOINERS or c.isascii():
        return False
    kind = unicodedata.category(c)
    return kind in ("So", "Sk", "Mn", "Mc") or bool(VARIATION.match(c)) or (kind == "Lo" and not _latin(c))


def _latin(c: str) -> bool:
    return unicodedata.name(c, "").startswith(("LATIN", "GREEK", "CYRILLIC", "CJK", "HANGUL", "HIRAGANA", "KATAKANA"))


def _idle_tags(text: str) -> int:
    """Tag characters outside flags, which begin with a black flag and end with a cancel tag."""
    flags = re.sub("\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f", "", text)
    return len(TAGS.findall(flags))


def _hidden(c: str) -> bool:
    known = c in ZERO_WIDTH or c in JOINERS or bool(TAGS.match(c)) or bool(BIDI.match(c))
    return not known and unicodedata.category(c) in ("Cf", "Co", "Cn")


def _encoded(run: str) -> bool:
    """Whether a long run without a blank looks encoded: mixed, and of high entropy; identifiers and paths do not."""
    pieces = [p for p in re.split(r"[-_/=+]", run) if p]
    if max(map(len, pieces), default=0) < 24:
        return False
    n = len(run)
    bits = -sum(k / n * math.log2(k / n) for k in Counter(run).values())
    upper, digits = sum(map(str.isupper, run)) / n, sum(map(str.isdigit, run)) / n
    mixed = digits >= 0.05 or 0.2 < upper < 0.8  # a long word, or names run together, have fewer capitals
    return (mixed and bits > HIGH_ENTROPY) or set(run) <= set("0123456789abcdefABCDEF")
