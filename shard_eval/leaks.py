"""The leak gate: no training prompt may be, or nearly be, a prompt that is scored.

    found = leaks.gate(records, ["dna", "my.jsonl"])
    found.require_clean(own)          # prompts of the user's own: stop
    records = found.without(records)  # built-in benchmarks that share prompts: drop these, and say how many

What counts as nearly the same is `splits.NEAR_DUPLICATE`. Nothing here shows a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shard_eval import benchmarks
from shard_eval.benchmarks import BENCHMARKS
from shard_eval.errors import DataError, UsageError
from shard_eval.records import Record
from shard_eval.splits import Key, Leak, choose_split, find_leaks

SCORED = "dev+test"
_SHOWN = 10


@dataclass(frozen=True)
class Gate:
    """What a comparison of training prompts with evaluation prompts found.

    Attributes:
        leaks: pairs that are the same or nearly so, most similar first.
        checked: number of prompts compared with, by benchmark.
        unchecked: why a benchmark was not compared with, or not all of it.
    """

    leaks: tuple[Leak, ...]
    checked: dict[str, int]
    unchecked: dict[str, str]

    def of(self, records: Sequence[Record]) -> tuple[Leak, ...]:
        """The leaks of some of the training records."""
        keys = {r.key for r in records}
        return tuple(leak for leak in self.leaks if leak.train in keys)

    def require_clean(self, records: Sequence[Record] | None = None) -> None:
        """Stop where training prompts leak.

        Args:
            records: the training records that must be clean; default all.

        Raises:
            UsageError: naming how many leak and the ids of the first ones; `leaks` holds all.
        """
        found = self.leaks if records is None else self.of(records)
        if not found:
            return
        shown = "; ".join(pair_of(leak) for leak in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UsageError(
            f"{len({leak.train for leak in found})} training prompt(s) are also evaluation prompts, or nearly so "
            f"(training ↔ evaluation): {shown}{more}. Take them out of the training data."
        )

    def without(self, records: Sequence[Record]) -> list[Record]:
        """The training records that do not leak, in their order."""
        leaking = {leak.train for leak in self.leaks}
        return [r for r in records if r.key not in leaking]


def pair_of(leak: Leak) -> str:
    """A leak by its ids alone: "benchmark:id ↔ benchmark:id"."""
    return " ↔ ".join(f"{benchmark}:{id}" for benchmark, id, _ in (leak.train, leak.test))


def gate(train: Sequence[Record], evaluated: Mapping[str, str] | Sequence[str]) -> Gate:
    """Compare training prompts with every evaluation prompt there is.

    Args:
        train: the records to be trained on.
        evaluated: benchmarks (or .jsonl files) that will be scored; a mapping gives the split of each that will be,
            otherwise it is dev and test. A protocol that takes no split is scored on all records.

    Returns:
        The leaks into what will be scored; into dev and test of the benchmarks that training records come from; and
        into all records of the other built-in benchmarks that can be loaded here.

    Raises:
        UsageError: for an unknown benchmark or split, or a file of your own with a wrong line.
        DataError: if a benchmark that will be scored cannot be had.
    """
    scored = dict(evaluated) if isinstance(evaluated, Mapping) else dict.fromkeys(evaluated, SCORED)
    checked: dict[str, dict[Key, Record]] = {}
    unchecked: dict[str, str] = {}
    for name, split in _wanted(scored, {r.benchmark for r in train}).items():
        data = _data_of(name)
        try:
            found = benchmarks.load(name)
        except DataError:
            if name in scored:
                raise
            unchecked[data] = "not available here; `shard data check` says why"
            continue
        if found.fixture:
            unchecked[data] = f"only a fixture of {len(found.records)} prompts is here"
        checked.setdefault(data, {}).update({r.key: r for r in choose_split(found.records, split)})
    pairs = find_leaks(train, [r for records in checked.values() for r in records.values()])
    return Gate(tuple(pairs), {data: len(records) for data, records in checked.items()}, unchecked)


def _data_of(name: str) -> str:
    """The benchmark whose records these are: LinguaSafe's two protocols ask the same prompts as its first row."""
    row = benchmarks.describe(name)
    return next((other for other, b in BENCHMARKS.items() if b.load is row.load), row.name)


def _wanted(scored: Mapping[str, str], sources: set[str]) -> dict[str, str]:
    """What to compare with: the benchmarks, each with the split that must not be trained on."""
    wanted = {name: split if "split" in benchmarks.describe(name).task_args else "" for name, split in scored.items()}
    there = {_data_of(name) for name in scored}
    others = [name for name in BENCHMARKS if _data_of(name) == name and name not in there]
    return wanted | {name: SCORED if name in sources else "" for name in others}
