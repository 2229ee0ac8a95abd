"""Do-Not-Answer (arXiv:2308.13387): 939 risky requests; harm and action judged apart.

inspect eval tasks/do_not_answer.py --model MODEL --model-role grader=JUDGE
inspect eval tasks/do_not_answer.py --model MODEL -T judge=embedded
"""

from inspect_ai import Task, task

from shard_eval.tasksupport import benchmark_task


@task
def do_not_answer(
    judge: str = "rubric", axes: str = "harm,action,helpfulness", solver: str = "direct", split: str = ""
) -> Task:
    """Harmless rate, action mix, safe-and-engaged, per risk area.

    Args:
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        axes: judged axes, comma-separated; each costs one call of a paid judge per response.
        solver: "direct", "benign_intent", "shard_reframe", "always_refuse", "always_comply".
        split: "train", "dev", "test", several joined by "+", or "" for all.
    """
    return benchmark_task("dna", "1-A", judge=judge, axes=axes, solver=solver, split=split)
