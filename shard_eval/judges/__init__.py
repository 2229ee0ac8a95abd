"""The judges: one module per kind. `resolve()` makes one from its name.

A new judge is a class with `name`, `fingerprint` and `verdict` (see `case.Judge`) and a line in `single`.
"""

from __future__ import annotations

from collections.abc import Sequence

from shard_eval.errors import UsageError, unknown
from shard_eval.judges.case import Case, Judge
from shard_eval.judges.embedded import EmbeddedJudge
from shard_eval.judges.grader import Grader
from shard_eval.judges.guard import GuardJudge
from shard_eval.judges.guards import GUARDS
from shard_eval.judges.panel import PanelJudge, PanelMember, Spec
from shard_eval.judges.phrases import PhrasesJudge
from shard_eval.judges.rubric import RubricJudge
from shard_eval.judges.rules import RulesJudge
from shard_eval.judges.trained import TrainedJudge
from shard_eval.judges.trained import load as load_trained
from shard_eval.packaged import MPNET, MPNET_TOKENIZER, obtain
from shard_eval.records import Axis, offline

_GUARDS = tuple(f"guard:{family}" for family in GUARDS)
KINDS = ("embedded", "rules", "phrases", "trained:FOLDER", "rubric", *_GUARDS, "panel:RULE:KIND@ROLE,KIND@ROLE")

__all__ = ["KINDS", "Case", "Judge", "fetch", "kind_of", "offline", "require_axes", "resolve", "trained"]


def require_axes(judge: Judge, axes: Sequence[Axis]) -> None:
    """Check that a judge can judge these axes.

    Raises:
        UsageError: naming those it cannot.
    """
    unable = [axis for axis in axes if axis not in judge.axes]
    if unable:
        why = f" ({judge.why_not(unable[0])})" if isinstance(judge, PanelJudge) else ""
        raise UsageError(
            f"judge {judge.name!r} cannot judge {', '.join(unable)}{why}; it judges {', '.join(judge.axes)}."
        )


def kind_of(judge: str | Sequence[str]) -> str:
    """A judge's kind as one text: `inspect eval -T judge=…` makes a list of what has commas."""
    return judge if isinstance(judge, str) else ",".join(judge)


def trained(kind: str | Sequence[str]) -> EmbeddedJudge | TrainedJudge | None:
    """A judge that decides by what it learned from labelled replies: on its axes `learned`, from its `folder`.

    Returns:
        None for any other judge, a panel too.

    Raises:
        UsageError: if there is no such judge.
    """
    judge = resolve(kind)
    return judge if isinstance(judge, EmbeddedJudge | TrainedJudge) else None


def fetch(kind: str | Sequence[str], axes: Sequence[Axis]) -> None:
    """Have what a trained judge is built on, so that nobody waits for it, or learns that it is missing, half-way.

    Raises:
        UsageError: if there is no such judge.
        DataError: if it cannot be fetched.
    """
    judge = resolve(kind)
    members = [m.judge for m in judge.members] if isinstance(judge, PanelJudge) else [judge]
    learned = {a for m in members if isinstance(m, EmbeddedJudge | TrainedJudge) for a in m.learned}
    if learned & set(axes):
        obtain(MPNET, MPNET_TOKENIZER)


def resolve(kind: str | Sequence[str]) -> Judge:
    """Make a judge by its kind.

    Args:
        kind: "embedded"; "rules"; "phrases"; "trained:FOLDER"; "rubric" (an LLM in the grader role); "guard:FAMILY"
            (a guard there); or "panel:RULE:MEMBER,MEMBER,…" of such kinds, each with the role of its model, e.g.
            "panel:majority:rubric@grader,guard:qwen3guard@grader2,embedded" (see `panel.Spec`).

    Raises:
        UsageError: if there is no such judge.
    """
    text = kind_of(kind)
    if not text.startswith("panel:"):
        return single(text)
    spec = Spec.read(text)
    members = []
    for name, weight in zip(spec.members, spec.weights, strict=True):
        member, at, role = name.partition("@")
        members.append(PanelMember(name, single(member, Grader(role) if at else Grader()), weight))
    return PanelJudge(spec, tuple(members))


def single(kind: str, grader: Grader | None = None) -> Judge:
    """Make a judge that is no panel.

    Args:
        kind: as for `resolve`.
        grader: the model it asks, if it asks one; default the one in the `grader` role.

    Raises:
        UsageError: if there is no such judge.
    """
    if kind == "embedded":
        return EmbeddedJudge()
    if kind == "rules":
        return RulesJudge()
    if kind == "phrases":
        return PhrasesJudge()
    if kind.startswith("trained:"):
        return load_trained(kind.removeprefix("trained:"))
    if kind == "rubric":
        return RubricJudge(grader=grader or Grader())
    if kind.startswith("guard:"):
        return GuardJudge(kind.removeprefix("guard:"), grader=grader or Grader())
    raise unknown("judge", kind, KINDS)
