"""What every task file shares: a benchmark's records, a solver and the judged axes make a Task."""

from __future__ import annotations

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.model import GenerateConfig

from shard_eval import benchmarks, judges, solvers
from shard_eval.records import record_to_sample
from shard_eval.scorers import axis_scorers, parse_axes
from shard_eval.splits import choose_split as choose_split

MAX_TOKENS = 512


def benchmark_task(
    name: str, version: str, *, judge: str | list[str], axes: str | list[str], solver: str, split: str = ""
) -> Task:
    """Make the Inspect task of a benchmark.

    Args:
        name: the benchmark, or the path of a file of your own prompts.
        version: comparability version of the task, "N-X": N changes when numbers stop being comparable.
        judge: kind of judge ("embedded", "rubric", "guard:FAMILY"; all but the first need the `grader` role), or a
            panel of them, each with a role of its own (see `judges.panel`).
        axes: what is judged, comma-separated.
        solver: who answers, given the model.
        split: an expression such as "train+dev" or "test&fold1of2" (see `splits.choose_split`); "" for all records.

    Raises:
        UsageError: for an unknown judge, axis, solver or split.
        DataError: if the benchmark is not available.
    """
    chosen, decider = parse_axes(axes), judges.resolve(judge)
    judges.require_axes(decider, chosen)
    answer = solvers.make(solver)
    loaded = benchmarks.load(name)
    records = choose_split(loaded.records, split)
    return Task(
        dataset=MemoryDataset([record_to_sample(r) for r in records], name=loaded.name),
        solver=answer,
        scorer=axis_scorers(list(chosen), judge),
        config=GenerateConfig(max_tokens=MAX_TOKENS),
        version=version,
        metadata={
            "benchmark": loaded.name,
            "origin": loaded.origin,
            "content_sha": loaded.sha,
            "judge_prompts": {axis: decider.fingerprint(axis) for axis in chosen},
            "solver_sha": solvers.fingerprint(solver),
        },
    )
