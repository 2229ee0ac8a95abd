"""A .jsonl file of your own prompts, one object a line (see shard_eval/benchmarks/own.py); harm, refusal, helpfulness.

inspect eval shard_eval/own_prompts --model MODEL --model-role grader=JUDGE -T path=my.jsonl
inspect eval shard_eval/own_prompts --model MODEL -T judge=embedded -T path=my.jsonl
"""

from inspect_ai import Task, task

from shard_eval.benchmarks import own
from shard_eval.errors import UsageError
from shard_eval.tasksupport import benchmark_task


@task
def own_prompts(
    path: str,
    judge: str = "rubric",
    axes: str = "harm,refusal,helpfulness",
    solver: str = "direct",
    split: str = "",
) -> Task:
    """Joint safe-helpful score; over-refusal on the prompts whose intent is "benign".

    Args:
        path: the file; it ends in .jsonl. Give it absolute where the task is named by its file: Inspect runs it there.
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        axes: judged axes, comma-separated; each costs one call of a paid judge per response.
        solver: "direct", "benign_intent", "shard_reframe", a constant, or "recorded" (the file's responses).
        split: "train", "dev", "test" or folds, joined by "+" or "&" (see `splits.choose_split`), or "" for all.
    """
    if not own.is_path(path):
        raise UsageError(f"path {path!r} must end in .jsonl; a built-in benchmark has a task of its own.")
    return benchmark_task(path, "1-A", judge=judge, axes=axes, solver=solver, split=split)
