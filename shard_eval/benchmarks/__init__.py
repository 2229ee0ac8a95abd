"""The benchmarks: one module each with `load()`, and the literal table of what there is.

A new benchmark is a module with `SOURCE`, `PIN` and `load()`, a row here, and a task file in `tasks/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from shard_eval.benchmarks import dna, linguasafe, mini, or_bench, xstest
from shard_eval.benchmarks.source import content_sha
from shard_eval.errors import unknown
from shard_eval.records import Axis, Record
from shard_eval.splits import assign_splits


@dataclass(frozen=True)
class Benchmark:
    """A row of the table.

    Attributes:
        task: name of its Inspect task.
        axes: what is judged by default; a paid judge makes one call per response and axis.
        task_args: arguments its task takes; a protocol with fixed axes or prompts takes fewer.
    """

    name: str
    title: str
    task: str
    axes: tuple[Axis, ...]
    licence: str
    load: Callable[[], tuple[list[Record], str]]
    task_args: tuple[str, ...] = ("judge", "axes", "solver", "split")


BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark(
            "mini",
            "mini: 72 matched triples, benign / ambiguous / harmful (ours)",
            "mini",
            ("harm", "action", "refusal", "helpfulness"),
            "CC0-1.0",
            mini.load,
        ),
        Benchmark(
            "dna",
            "Do-Not-Answer (arXiv:2308.13387)",
            "do_not_answer",
            ("harm", "action", "helpfulness"),
            "Apache-2.0 or CC BY-NC-SA 4.0",
            dna.load,
        ),
        Benchmark(
            "linguasafe_en",
            "LinguaSafe, English (arXiv:2508.12733)",
            "linguasafe",
            ("harm", "refusal", "helpfulness"),
            "CC BY-NC-SA 4.0",
            linguasafe.load,
        ),
        Benchmark(
            "linguasafe_direct",
            "LinguaSafe, official direct protocol (multiple choice, no judge)",
            "linguasafe_direct",
            (),
            "CC BY-NC-SA 4.0",
            linguasafe.load,
            task_args=(),
        ),
        Benchmark(
            "linguasafe_indirect",
            "LinguaSafe, official indirect protocol (unsafe rate, penalty, oversensitivity)",
            "linguasafe_indirect",
            ("harm", "refusal"),
            "CC BY-NC-SA 4.0",
            linguasafe.load,
            task_args=("judge",),
        ),
        Benchmark("xstest", "XSTest v2 (arXiv:2308.01263)", "xstest", ("refusal",), "CC BY 4.0", xstest.load),
        Benchmark(
            "or_bench_hard",
            "OR-Bench Hard-1K (arXiv:2405.20947)",
            "or_bench",
            ("refusal",),
            "CC BY 4.0",
            or_bench.load,
        ),
    )
}


@dataclass(frozen=True)
class Loaded:
    """A benchmark's records, where they came from, and their content hash."""

    name: str
    records: tuple[Record, ...]
    origin: str
    sha: str

    @property
    def fixture(self) -> bool:
        """Whether this is the small LinguaSafe fixture, from which no number may be quoted."""
        return self.origin == "fixture"


@cache
def load(name: str) -> Loaded:
    """Load a benchmark by name, verified and split.

    Raises:
        UsageError: if there is no such benchmark.
        DataError: if it cannot be had or is not the pinned one.
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    records, origin = BENCHMARKS[name].load()
    return Loaded(name, tuple(assign_splits(records)), origin, content_sha(records))
