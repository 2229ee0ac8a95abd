"""OR-Bench Hard-1K (arXiv:2405.20947): full and partial refusal on 1,319 prompts that only look toxic.

inspect eval tasks/or_bench.py --model MODEL --model-role grader=JUDGE
"""

from inspect_ai import Task, task

from shard_eval.tasksupport import benchmark_task


@task
def or_bench(judge: str = "rubric", axes: str = "refusal", solver: str = "direct", split: str = "") -> Task:
    """Over-refusal. Plot it beside a harm rate: a model that refuses nothing is best here.

    Args:
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        axes: judged axes, comma-separated.
        solver: who answers, given the model.
        split: "train", "dev", "test", several joined by "+", or "" for all.
    """
    return benchmark_task("or_bench_hard", "1-A", judge=judge, axes=axes, solver=solver, split=split)
