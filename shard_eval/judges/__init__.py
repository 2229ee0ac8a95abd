"""The judges: one module per kind. `resolve()` makes one from its name.

A new judge is a class with `name`, `fingerprint` and `verdict` (see `case.Judge`) and a line in `resolve`.
"""

from __future__ import annotations

from collections.abc import Sequence

from shard_eval.errors import UsageError, unknown
from shard_eval.judges.case import Case, Judge
from shard_eval.judges.embedded import EmbeddedJudge
from shard_eval.judges.guard import CHAT_TEMPLATE, GuardJudge
from shard_eval.judges.rubric import RubricJudge
from shard_eval.records import Axis

KINDS = ("embedded", "rubric", *(f"guard:{family}" for family in CHAT_TEMPLATE))

__all__ = ["KINDS", "Case", "Judge", "require_axes", "resolve"]


def require_axes(judge: Judge, axes: Sequence[Axis]) -> None:
    """Check that a judge can judge these axes.

    Raises:
        UsageError: naming those it cannot.
    """
    unable = [axis for axis in axes if axis not in judge.axes]
    if unable:
        raise UsageError(f"judge {judge.name!r} cannot judge {', '.join(unable)}; it judges {', '.join(judge.axes)}.")


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
