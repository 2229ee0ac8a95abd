"""Foot lines of a board's table on how its corrected rates were corrected, and whether the labels speak against it."""

from __future__ import annotations

from collections.abc import Sequence

from shard_eval.judge_errors import Errors, differing_line, pooled_line
from shard_eval.leaderboard.scores import Scored
from shard_eval.leaderboard.spec import Spec
from shard_eval.stats.judge_error import MIN_OWN, RATES


def lines(scored: Sequence[Scored], spec: Spec) -> list[str]:
    """What the correction of each system rests on, where the judge errs differently from the baseline, and how boldly.

    Args:
        scored: the table's systems, the baseline first.
        spec: with the level, which holds for all systems of the table at once.
    """
    there = [(line.system.name, line.errors) for line in scored if line.errors is not None]
    if not there:
        return []
    found = _own(there)
    base = scored[0].system.name
    tested = [(name, e) for name, e in there if name != base and e.candidate.labelled and e.baseline.labelled]
    found += [line for name, e in tested if (line := differing_line(e, name, base, spec.level, len(tested)))]
    pooled = next((e for _, e in there if len(e.candidate.own) < len(RATES)), None)
    return [*found, *([line] if pooled is not None and (line := pooled_line(pooled)) else [])]


def _own(there: Sequence[tuple[str, Errors]]) -> list[str]:
    """Which systems are corrected with labels of their own replies."""
    own = [(name, e.candidate.own) for name, e in there if e.candidate.own]
    if not own:
        return []
    named = ", ".join(f"{name}{'' if len(rates) == len(RATES) else f' ({rates[0]} only)'}" for name, rates in own)
    rest = "" if all(len(rates) == len(RATES) for _, rates in own) else f" (else pooled, for want of {MIN_OWN} labels)"
    return [f"Corrected with the judge's errors on the system's own labelled replies{rest}: {named}."]
