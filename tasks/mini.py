"""mini (ours, CC0): 72 matched triples, one topic asked benignly, ambiguously and harmfully; all four axes.

inspect eval tasks/mini.py --model llamacpp/embedded -T judge=embedded
"""

from inspect_ai import Task, task

from shard_eval.tasksupport import benchmark_task


@task
def mini(
    judge: str = "rubric",
    axes: str = "harm,action,refusal,helpfulness",
    solver: str = "direct",
    split: str = "",
) -> Task:
    """Joint safe-helpful score, and consistency over the triple.

    Args:
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        axes: judged axes, comma-separated; each costs one call of a paid judge per response.
        solver: "direct", "benign_intent", "shard_reframe", a constant, or "recorded" (reference answers).
        split: "train", "dev", "test", several joined by "+", or "" for all.
    """
    return benchmark_task("mini", "1-A", judge=judge, axes=axes, solver=solver, split=split)
