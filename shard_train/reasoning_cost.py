"""What reasoning in front of the answers costs: tokens by arm, from the logs of the scored answers.

No judge saw the reasoning; the user of a model pays for it all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from inspect_ai.log import read_eval_log_samples
from inspect_ai.model import ContentReasoning, ModelOutput

from shard_eval.checkpoints import Result
from shard_eval.report import Grid
from shard_train.saro.readings import first_words


@dataclass(frozen=True)
class Cost:
    """One arm's answers to the test prompts.

    Attributes:
        arm: its name.
        answers: how many.
        reasoned: share of them with reasoning in front.
        reasoning: mean tokens of reasoning, over all answers.
        answer: mean tokens of what is left.
        reflected: share of those with reasoning that have words of a safety reflection; words prove no reflection.
        first: mean step of the first such words, where there are some; None if nowhere.
    """

    arm: str
    answers: int
    reasoned: float
    reasoning: float
    answer: float
    reflected: float
    first: float | None


def measure(result: Result, base: Path) -> list[Cost]:
    """Count the tokens of every arm with the base's tokenizer.

    Args:
        result: of an experiment.
        base: checkpoint folder with the tokenizer.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    found = []
    for arm in result.arms:
        logs = [log for run in result.test[arm.name] for log in run.log.split(" + ")]
        outputs = [s.output for log in logs for s in read_eval_log_samples(log, all_samples_required=False)]
        found.append(_cost(arm.name, outputs, tokens))
    return found


def _cost(name: str, outputs: Sequence[ModelOutput], tokens: Callable[[str], int]) -> Cost:
    thoughts, answers = [], []
    for output in outputs:
        content = output.choices[0].message.content if output.choices else ""
        parts = [] if isinstance(content, str) else content
        thoughts.append("\n\n".join(p.reasoning for p in parts if isinstance(p, ContentReasoning)).strip())
        answers.append(output.completion)
    some = [t for t in thoughts if t]
    places = [place for t in some if (place := first_words(t))]
    return Cost(
        name,
        len(outputs),
        len(some) / max(1, len(outputs)),
        fmean(tokens(t) for t in thoughts) if thoughts else 0.0,
        fmean(tokens(a) for a in answers) if answers else 0.0,
        len(places) / max(1, len(some)),
        fmean(places) if places else None,
    )


def grid(costs: Sequence[Cost]) -> Grid:
    """The table."""
    rows = tuple(
        (
            c.arm,
            f"{c.answers}",
            f"{c.reasoned:.0%}",
            f"{c.reasoning:.1f}",
            f"{c.answer:.1f}",
            f"{c.reflected:.0%}" if c.reasoned else "",
            f"{c.first:.1f}" if c.first is not None else "",
        )
        for c in costs
    )
    head = (
        "arm",
        "answers",
        "reasoned",
        "tokens of reasoning",
        "tokens of answer",
        "with words of reflection",
        "at step",
    )
    foot = (
        "Test prompts. Tokens are means over all answers, by the base's tokenizer; reasoning is shown to no judge. "
        "Words of reflection are words: they prove none.",
    )
    return Grid("what reasoning costs", head, rows, foot)


def to_json(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """The same for a program."""
    return [asdict(c) for c in costs]
