"""The embedded judge: offline, deterministic, no model. Version 0 is lexical rules (`lexical.py`).

It says how far to trust it: `embedded_agreement.json` holds its measured agreement with human labels, and every
table it produced prints it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

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


class EmbeddedJudge:
    """Judge a response by rules; the same text always gets the same verdict."""

    name = "embedded"
    axes = AXES

    def fingerprint(self, axis: Axis) -> str:
        """Hash of the rules."""
        return lexical.fingerprint()[:12]

    async def verdict(self, case: Case, axis: Axis) -> Verdict:
        """Decide on one axis."""
        if not case.response.strip():
            return Verdict(axis, None, "empty_response")
        label: int = getattr(_decide(case), axis)
        return Verdict(axis, label, raw=f"embedded v{lexical.VERSION}")


def agreement() -> list[dict[str, Any]]:
    """Measured agreement with human labels; `make agreement` writes it."""
    text = (resources.files(__package__) / "embedded_agreement.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found
