"""Reasoning that stands in front of an answer: its tags, its steps, and how it is written and read. Nothing raises."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import json_repair

TAGS = {
    "think": ("<think>", "</think>"),
    "thinking": ("<thinking>", "</thinking>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "bracket": ("[THINK]", "[/THINK]"),
}
"""Pairs of tags around reasoning. Scoring takes these out of an answer, so no others are trained."""

_BLANK = re.compile(r"\n\s*\n")
FAILURES = ("cut", "empty", "not_json", "bad_schema", "tags")
"""Why a text is no trace."""


@dataclass(frozen=True)
class Trace:
    """Steps of reasoning, and the answer they come to.

    Attributes:
        steps: none of them empty, and without blank lines.
        answer: the only part a user, and a judge, sees.
    """

    steps: tuple[str, ...]
    answer: str

    @property
    def reasoning(self) -> str:
        """The steps with blank lines between them."""
        return "\n\n".join(self.steps)

    def text(self, tags: str, after: int = 0) -> str:
        """What a model writes.

        Args:
            tags: one of `TAGS`.
            after: leave out so many first steps, and the tag in front of them: a continuation of `begun`.
        """
        opening, closing = TAGS[tags]
        end = "\n\n".join(self.steps[after:]) + f"\n{closing}\n\n{self.answer}"
        return end if after else f"{opening}\n{end}"

    def begun(self, tags: str, steps: int) -> str:
        """What a model has written when it is done with so many steps, at least one and not all."""
        return f"{TAGS[tags][0]}\n" + "\n\n".join(self.steps[:steps]) + "\n\n"


def split(text: str) -> tuple[str, str] | None:
    """Take reasoning and answer apart; None where a text does not begin with reasoning.

    Several blocks in a row are all reasoning (some chat templates put an empty one in front). The answer is empty where
    the last one does not end.
    """
    shown, blocks = text.strip(), list[str]()
    while tags := next((pair for pair in TAGS.values() if shown.startswith(pair[0])), None):
        block, _, rest = shown.removeprefix(tags[0]).partition(tags[1])
        blocks.append(block.strip())
        shown = rest.strip()
    return ("\n\n".join(filter(None, blocks)), shown) if blocks else None


def steps_of(reasoning: str) -> tuple[str, ...]:
    """The steps of reasoning, between blank lines."""
    return tuple(step.strip() for step in _BLANK.split(reasoning) if step.strip())


def trace(reasoning: str, answer: str) -> Trace | str:
    """A trace of what a model wrote, or why it is none, one of `FAILURES`."""
    steps = steps_of(reasoning)
    if not steps or not answer.strip():
        return "empty"
    marks = [tag for pair in TAGS.values() for tag in pair]
    if any(tag in part for tag in marks for part in (reasoning, answer)):
        return "tags"
    return Trace(steps, answer.strip())


def written(text: str) -> Trace | str:
    """Read {"steps": […], "answer": …}; small slips of JSON are repaired, what a key says never is.

    Returns:
        The trace, or why it is none, one of `FAILURES`.
    """
    if not text.strip():
        return "empty"
    if "{" not in text:
        return "not_json"
    shown = text[text.index("{") :]
    try:
        found, _ = json.JSONDecoder().raw_decode(shown)
    except (ValueError, RecursionError):
        if not shown.rstrip("`\n ").endswith("}"):
            return "cut"  # repairing would close an answer that was cut
        try:
            found = json_repair.loads(shown)
        except (ValueError, RecursionError):
            return "not_json"
    if not isinstance(found, dict) or not found:
        return "not_json"
    steps, answer = found.get("steps"), found.get("answer")
    if not isinstance(answer, str) or not isinstance(steps, list) or not all(isinstance(s, str) for s in steps):
        return "bad_schema"
    return trace("\n\n".join(_BLANK.sub("\n", s.strip()) for s in steps), answer)
