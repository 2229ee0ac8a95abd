"""What a judge's verdicts took: calls and tokens of its graders, and seconds per verdict, from an Inspect log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from inspect_ai.event import Event, ModelEvent, SpanBeginEvent, SpanEndEvent
from inspect_ai.log import EvalSample, read_eval_log_sample, read_eval_log_samples

from shard_eval.logs import find_log, read_header, read_summaries, usage

TIMED = 200
"""Responses whose verdicts are timed where no grader is asked; their calls need no counting."""

_NOT_NEEDED = {"attachments", "messages", "output", "store"}


def cost(log: str) -> dict[str, Any]:
    """What the verdicts of a log took.

    Args:
        log: a log, or a folder with one.

    Returns:
        A JSON-ready dictionary: calls of graders, how many of them a cache answered, their tokens, and seconds per
        verdict (median, 90th percentile, and of how many): the time graders took to answer, without waiting for a free
        connection, or of a judge without one the time it took. Seconds are None if no verdict was timed.

    Raises:
        LogError: if the log is damaged or unfinished.
    """
    name = find_log(log)
    header = read_header(name)
    asked = bool(header.eval.model_roles)
    calls = cached = 0
    seconds: list[float] = []
    for sample in read_eval_log_samples(name, exclude_fields=_NOT_NEEDED) if asked else _some(name):
        for events in _verdicts(sample.events):
            models = [e for e in events if isinstance(e, ModelEvent)]
            calls, cached = calls + len(models), cached + sum(e.cache == "read" for e in models)
            times = [e.working_time for e in models if e.cache != "read" and e.working_time is not None]
            if times:
                seconds.append(sum(times))
            elif not asked:
                seconds.append((events[-1].timestamp - events[0].timestamp).total_seconds())
    return {"calls": calls, "from_cache": cached, **usage(header), "seconds": _summary(seconds)}


def _some(name: str) -> Iterator[EvalSample]:
    """Samples spread evenly over a log."""
    summaries = read_summaries(name, read_header(name))
    for summary in summaries[:: -(-len(summaries) // TIMED)]:
        yield read_eval_log_sample(name, summary.id, summary.epoch, exclude_fields=_NOT_NEEDED)


def _verdicts(events: Iterable[Event]) -> Iterator[list[Event]]:
    """The events of each scorer's span, begin and end among them; scorers run one after the other."""
    span = ""
    inside: list[Event] = []
    for event in events:
        if isinstance(event, SpanBeginEvent) and event.type == "scorer":
            span, inside = event.id, []
        if span:
            inside.append(event)
        if isinstance(event, SpanEndEvent) and event.id == span:
            yield inside
            span = ""


def _summary(seconds: list[float]) -> dict[str, float | int] | None:
    if not seconds:
        return None
    median, p90 = (round(float(x), 5) for x in np.quantile(seconds, [0.5, 0.9]))
    return {"median": median, "p90": p90, "verdicts": len(seconds)}
