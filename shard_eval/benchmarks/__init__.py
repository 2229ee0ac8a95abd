"""The benchmarks: one module each with `load()`, and the literal table of what there is.

A new benchmark is a module with `SOURCE`, `PIN` and `load()`, a row here, and a task file in `tasks/`. Wherever a
benchmark is named, a path that ends in .jsonl names a file of your own prompts (see `own.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from shard_eval.benchmarks import dna, linguasafe, mini, or_bench, own, xstest
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


def describe(name: str) -> Benchmark:
    """The row of a benchmark, or one made for a file of your own; its `name` is safe in a path.

    Args:
        name: a built-in benchmark, or the path of a .jsonl file (which is not opened).

    Raises:
        UsageError: if there is no such benchmark.
    """
    if own.is_path(name):
        return Benchmark(
            own.name_of(name),
            f"{Path(name).name}: prompts of your own",
            "own_prompts",
            ("harm", "refusal", "helpfulness"),
            "your own",
            partial(own.load, name),
            task_args=("path", "judge", "axes", "solver", "split"),
        )
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, [*BENCHMARKS, "FILE.jsonl"])
    return BENCHMARKS[name]


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


def load(name: str) -> Loaded:
    """Load a benchmark, verified and split; again only if it is a file of your own whose content has changed.

    Args:
        name: a built-in benchmark, or the path of a .jsonl file.

    Raises:
        UsageError: if there is no such benchmark or file, or a line of the file is wrong.
        DataError: if it cannot be had or is not the pinned one.
    """
    return _load_own(name, own.read(name)) if own.is_path(name) else _load(name)


@cache
def _load(name: str) -> Loaded:
    records, origin = describe(name).load()
    return Loaded(name, tuple(assign_splits(records)), origin, content_sha(records))


@cache
def _load_own(path: str, text: str) -> Loaded:
    records = own.parse(path, text)
    return Loaded(own.name_of(path), tuple(assign_splits(records)), own.ORIGIN, own.content_sha(records))


load.cache_clear = _load.cache_clear  # type: ignore[attr-defined]  # as of any cached function
