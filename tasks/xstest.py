"""XSTest v2 (arXiv:2308.01263): full and partial refusal on 250 safe prompts and 200 unsafe contrasts.

inspect eval tasks/xstest.py --model MODEL --model-role grader=JUDGE
"""

from inspect_ai import Task, task

from shard_eval.tasksupport import benchmark_task


@task
def xstest(judge: str = "rubric", axes: str = "refusal", solver: str = "direct", split: str = "") -> Task:
    """Over-refusal on the safe half, refusal on the unsafe half.

    Args:
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        axes: judged axes, comma-separated.
        solver: who answers, given the model.
        split: "train", "dev", "test", several joined by "+", or "" for all.
    """
    return benchmark_task("xstest", "1-A", judge=judge, axes=axes, solver=solver, split=split)
