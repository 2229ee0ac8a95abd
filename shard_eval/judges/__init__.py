"""The judges: one module per kind. `resolve()` makes one from its name.

A new judge is a class with `name`, `fingerprint` and `verdict` (see `case.Judge`) and a line in `resolve`.
"""

from __future__ import annotations

from shard_eval.errors import unknown
from shard_eval.judges.case import Case, Judge
from shard_eval.judges.embedded import EmbeddedJudge
from shard_eval.judges.guard import CHAT_TEMPLATE, GuardJudge
from shard_eval.judges.rubric import RubricJudge

KINDS = ("embedded", "rubric", *(f"guard:{family}" for family in CHAT_TEMPLATE))

__all__ = ["KINDS", "Case", "Judge", "resolve"]


def resolve(kind: str) -> Judge:
    """Make a judge by its kind.

    Args:
        kind: "embedded"; "rubric" (an LLM in the grader role); or "guard:FAMILY" (a guard in the grader role).

    Raises:
        UsageError: if there is no such judge.
    """
    if kind == "embedded":
        return EmbeddedJudge()
    if kind == "rubric":
        return RubricJudge()
    if kind.startswith("guard:"):
        return GuardJudge(kind.removeprefix("guard:"))
    raise unknown("judge", kind, KINDS)
