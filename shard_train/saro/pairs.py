"""Preference pairs of drawn replies: by what they come to (OP), and by how early they reflect (PP). Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shard_eval.reasoning import Trace
from shard_eval.records import Record
from shard_train.recipe import Reasoning
from shard_train.saro.readings import Reading, why_not


@dataclass(frozen=True)
class Sampled:
    """A reply and what was seen in it."""

    trace: Trace
    reading: Reading


@dataclass(frozen=True)
class Pair:
    """Two continuations of the same text, each to the end of the answer.

    Attributes:
        kind: "outcome": the answers differ in whether they may be given; "process": both may, and the chosen one
            reflects earlier; "beginning": the same with a common beginning.
        begun: what both have written before they part; "" for whole replies.
    """

    record: Record
    kind: str
    chosen: str
    rejected: str
    begun: str = ""

    def row(self) -> dict[str, Any]:
        """As the trainer reads it."""
        return {
            "id": f"{self.record.benchmark}:{self.record.id}:{self.kind}",
            "kind": self.kind,
            "prompt": [{"role": "user", "content": self.record.prompt}],
            "begun": self.begun,
            "chosen": self.chosen,
            "rejected": self.rejected,
        }


@dataclass
class Tally:
    """How many pairs of each kind there are, and why there are no more."""

    made: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def whole(record: Record, sampled: Sequence[Sampled], how: Reasoning, tally: Tally) -> list[Pair]:
    """The pairs of whole replies to one request: at most one of outcomes and one of processes.

    Args:
        record: the request.
        sampled: replies to it that were read.
        how: gap, lengths and tags.
        tally: gets what is made and left out.
    """
    good = [s for s in sampled if not why_not(record, s.reading)]
    bad = [s for s in sampled if not s.reading.unread and why_not(record, s.reading)]
    found = []
    if good and bad:
        # The shortest of several good ones: what reasoning costs is paid with every answer.
        chosen = min(good, key=lambda s: len(s.trace.text(how.tags)))
        found.append(Pair(record, "outcome", chosen.trace.text(how.tags), bad[0].trace.text(how.tags)))
    elif good or bad:
        tally.dropped["outcome: all replies may be given" if good else "outcome: no reply may be given"] += 1
    elif sampled:
        tally.dropped["outcome: no reply could be read"] += 1
    if process := _process(record, good, how, tally):
        found.append(process)
    tally.made.update(pair.kind for pair in found)
    return found


def _place(sampled: Sampled) -> float:
    """The step of the first reflection; later than any if there is none."""
    return sampled.reading.reflection or float("inf")


def _process(record: Record, good: Sequence[Sampled], how: Reasoning, tally: Tally) -> Pair | None:
    """The two good replies whose first reflections lie farthest apart."""
    if len(good) < 2:
        tally.dropped["process: fewer than two replies may be given"] += 1
        return None
    chosen = min(good, key=lambda s: (_place(s), len(s.trace.text(how.tags))))
    rejected = max(good, key=lambda s: (_place(s), len(s.trace.text(how.tags))))
    if not _place(rejected) - _place(chosen) >= how.gap:  # also where neither reflects: no number
        tally.dropped["process: no reply reflects earlier than another"] += 1
        return None
    pair = Pair(record, "process", chosen.trace.text(how.tags), rejected.trace.text(how.tags))
    return _short(pair, how, tally)


def _short(pair: Pair, how: Reasoning, tally: Tally) -> Pair | None:
    """A pair in which more reflection is not just more text; outcomes are exempt, for a refusal is always shorter."""
    if len(pair.chosen) > how.longer * len(pair.rejected):
        tally.dropped[f"{pair.kind}: the chosen reply is more than {how.longer:g} times as long"] += 1
        return None
    return pair


def to_continue(sampled: Sequence[Sampled], how: Reasoning) -> Sampled | None:
    """The first reply that goes on unreflected, or to an unsafe answer, behind its beginning; None if there is none."""
    for one in sampled:
        late = _place(one) - (how.begun + 1) >= how.gap or not one.reading.safe
        if not one.reading.unread and late and len(one.trace.steps) > how.begun and _place(one) > how.begun:
            return one
    return None


def beginning(record: Record, sampled: Sampled, better: Sampled, how: Reasoning, tally: Tally) -> Pair | None:
    """A pair with a common beginning: a reply, and a continuation that reflects at once.

    Args:
        record: the request.
        sampled: the reply.
        better: the continuation behind the reply's first `how.begun` steps: its own steps, its answer, and what was
            seen in the whole, whose steps are counted from the reply's first.
        how: gap, lengths and tags.
        tally: gets what is made and left out.
    """
    reason = why_not(record, better.reading)
    if not reason and better.reading.reflection != how.begun + 1:
        reason = "does not reflect at once"
    if reason:
        tally.dropped[f"beginning: the continuation {reason}"] += 1
        return None
    begun = sampled.trace.begun(how.tags, how.begun)
    chosen, rejected = better.trace.text(how.tags, how.begun), sampled.trace.text(how.tags, how.begun)
    pair = _short(Pair(record, "beginning", chosen, rejected, begun), how, tally)
    if pair:
        tally.made["beginning"] += 1
    return pair
