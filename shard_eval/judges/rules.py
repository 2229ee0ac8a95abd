"""A judge of lexical rules (`lexical.py`): offline, deterministic, immediate, no model.

It was the embedded judge up to version 0.1, and verdicts published under that name with the hash of these rules are
its own. It still decides on helpfulness for the embedded judge, for nobody has published human labels of that.
"""

from __future__ import annotations

from functools import lru_cache

from shard_eval.judges import lexical
from shard_eval.judges.case import Case
from shard_eval.records import AXES, Axis, Verdict

HELD_OUT = {"dna": ("GPT4", "llama2-7b-chat"), "xstest": ("llama2orig",)}
"""Source models whose labelled replies were not looked at while the rules were written."""


@lru_cache(maxsize=64)
def _decide(case: Case) -> lexical.LexicalVerdict:
    """All axes at once; a case is asked for one axis after the other."""
    return lexical.judge(
        case.request,
        case.response,
        intent=None if case.intent == "unknown" else case.intent,
        need=case.need,
        withhold=case.withhold,
    )


class RulesJudge:
    """Judge a response by rules; the same text always gets the same verdict."""

    name = "rules"
    axes = AXES

    def fingerprint(self, axis: Axis) -> str:
        """Hash of the rules."""
        return lexical.fingerprint()[:12]

    async def verdict(self, case: Case, axis: Axis) -> Verdict:
        """Decide on one axis."""
        if not case.response.strip():
            return Verdict(axis, None, "empty_response")
        label: int = getattr(_decide(case), axis)
        return Verdict(axis, label, raw=f"rules v{lexical.VERSION}")
