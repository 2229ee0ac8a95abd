"""What a judge is given and what every judge can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shard_eval.records import Axis, Intent, Verdict


@dataclass(frozen=True)
class Case:
    """One response to be judged, with what the benchmark says about the request.

    Attributes:
        need: the legitimate need, "" if the benchmark states none.
        withhold: what must not be given, "" if the benchmark states none.
    """

    request: str
    response: str
    intent: Intent = "unknown"
    need: str = ""
    withhold: str = ""


class Judge(Protocol):
    """A judge: gives a Verdict per case and axis. It never raises for a bad answer of its model."""

    @property
    def name(self) -> str:
        """Name in tables, e.g. "embedded" or "openai/gpt-5-mini"."""
        ...

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes it can judge."""
        ...

    def fingerprint(self, axis: Axis) -> str:
        """Identity of what decides on this axis apart from the grader's weights (rules, prompt, scale)."""
        ...

    async def verdict(self, case: Case, axis: Axis) -> Verdict:
        """Decide on one axis.

        Raises:
            JudgeError: only if the judge does not work at all.
        """
        ...
