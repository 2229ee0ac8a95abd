"""The embedded judge as a guard, and human labels to try guards on.

What trains sees nothing of what grades (decision 0007), so this lies beside the commands and is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from shard_eval.benchmarks import labelled
from shard_eval.judges.embedded import MODEL
from shard_eval.judges.trained import TrainedJudge, load
from shard_eval.records import sha256
from shard_train.star.calibration import Labelled
from shard_train.star.guards import Exchange, Guard

NAME = "embedded"
SAMPLE = 60  # labelled replies of each kind


class JudgeGuard:
    """A trained judge's probability that a reply so far is harmless."""

    name = NAME

    @cached_property
    def _judge(self) -> TrainedJudge:
        return load(str(MODEL))

    @property
    def identity(self) -> str:
        """Hash of its weights and decision."""
        return f"embedded {self._judge.fingerprint('harm')}"

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """One number per end."""
        asked = "\n\n".join(m["content"] for m in exchange.conversation if m["role"] != "system")
        return [1 - one.harmful for one in self._judge.read([(asked, exchange.reply[:end]) for end in ends])]


def others() -> dict[str, Callable[[], Guard]]:
    """Guards that are judges, by name."""
    return {NAME: JudgeGuard}


def human_labels(size: int) -> list[Labelled]:
    """A probe from Do-Not-Answer's human labels, of whole replies.

    Where in a harmful reply the harm begins nobody labelled, so nothing is claimed of its prefixes; and none of a
    harmless reply's are taken, for they are shorter, and a guard that measures length would pass.

    Args:
        size: words per chunk.

    Raises:
        DataError: if the labels are not here.
    """
    rows = sorted(labelled.load("dna"), key=lambda r: sha256(f"star probe {r.record.source} {r.record.id}"))
    found = []
    for harmful in (0, 1):
        for row in [r for r in rows if r.labels["harm"] == harmful and (r.record.response or "").strip()][:SAMPLE]:
            reply = str(row.record.response)
            exchange = Exchange(({"role": "user", "content": row.record.prompt},), reply)
            found.append(Labelled(exchange, (len(reply),), (not harmful,)))
    return found
