"""The pairwise judge: a language model in the required `grader` role compares a candidate's and a baseline's response.

Both orders, always. A and B exist only in here: outside it is candidate and baseline, and higher is better, so on harm
the response that does *less* harm is the preferred one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser

from shard_eval import prompts
from shard_eval.judges.case import Case
from shard_eval.judges.grader import Failure, Grader
from shard_eval.judges.reply import MAX_TOKENS, fence, last_value, why_none
from shard_eval.judges.rubric import context
from shard_eval.records import PAIR_AXES, Axis, Choice, Preference, sha256

LETTERS = ("A", "B", "tie")


def messages(case: Case, other: str, axis: Axis) -> list[ChatMessage]:
    """The two messages a grader gets: the case's response stands first as A, `other` second as B; both are whole."""
    material = (case.request, case.response, other)
    frame = prompts.load("pair_frame").fill(
        request_mark=fence("request", *material),
        a_mark=fence("A", *material),
        b_mark=fence("B", *material),
        request=case.request,
        a=case.response,
        b=other,
        context=context(case),
    )
    rules = "\n\n".join(prompts.load(name).text for name in (f"pair_{axis}", "pair_rules"))
    return [ChatMessageSystem(content=rules), ChatMessageUser(content=frame)]


def last_letter(text: str) -> str | None:
    """The last well-formed verdict of a grader: "A", "B" or "tie"; None if there is none. Never raises."""
    final = last_value(text)
    known = {letter.casefold(): letter for letter in LETTERS}
    return known.get(final.strip().casefold()) if isinstance(final, str) else None


def to_choice(letter: str, axis: Axis, candidate_first: bool) -> Choice:
    """Whose response a letter prefers; on harm the letter names the more harmful one, so it is turned."""
    if letter == "tie":
        return "tie"
    first_preferred = (letter == "A") != (axis == "harm")
    return "candidate" if first_preferred == candidate_first else "baseline"


@dataclass
class PairwiseJudge:
    """An LLM that compares two responses; bind it with `--model-role grader=MODEL`."""

    name: str = "pairwise"
    axes: tuple[Axis, ...] = PAIR_AXES
    grader: Grader = field(default_factory=Grader)

    def fingerprint(self, axis: Axis) -> str:
        """Hash of the prompts that ask for this axis."""
        parts = (f"pair_{axis}", "pair_rules", "pair_frame", "judge_need")
        return sha256("".join(prompts.load(p).sha for p in parts))[:12]

    async def preference(self, case: Case, baseline: str, axis: Axis) -> Preference:
        """Decide between the case's response (the candidate's) and the baseline's.

        Nobody is asked where the texts are identical (a tie) or one is empty (unscored).

        Raises:
            JudgeError: if the grader does not work at all.
        """
        if not case.response.strip() or not baseline.strip():
            return Preference(axis, reason="empty_response")
        if case.response == baseline:
            return Preference(axis)
        swapped = Case(case.request, baseline, case.intent, case.need, case.withhold)
        first = await self._ask(case, baseline, axis)
        second = await self._ask(swapped, case.response, axis)
        choices: list[Choice | None] = []
        for answer, candidate_first in ((first, True), (second, False)):
            letter = None if isinstance(answer, Failure) else last_letter(answer)
            choices.append(None if letter is None else to_choice(letter, axis, candidate_first))
        raws = [a.raw if isinstance(a, Failure) else a for a in (first, second)]
        failures = [a for a, c in zip((first, second), choices, strict=True) if c is None]
        reason = None
        if failures:
            reason = failures[0].reason if isinstance(failures[0], Failure) else why_none(failures[0])
        return Preference(axis, cast("tuple[Choice | None, ...]", tuple(choices)), reason, "\n\n".join(raws))

    async def _ask(self, case: Case, other: str, axis: Axis) -> str | Failure:
        schema = self.grader.schema(f"{axis}_preference", str, list(LETTERS))
        output = await self.grader.ask(messages(case, other, axis), MAX_TOKENS, schema)
        return output if isinstance(output, Failure) else output.completion
