"""Which of two systems' answers helps more and which does less harm: a grader compares two finished logs, both orders.

inspect eval tasks/pairwise.py --model none/none --model-role grader=JUDGE -T candidate=LOG -T baseline=LOG
"""

from inspect_ai import Task, task

from shard_eval.pairs import task_of_logs


@task
def pairwise(candidate: str, baseline: str, axes: str = "helpfulness,harm") -> Task:
    """Preferences between two logs' responses; `shard compare` runs this and draws the conclusions.

    Args:
        candidate: log (or folder with one) of the system the claim is about.
        baseline: log of the system it is compared with, on the same records.
        axes: of helpfulness and harm; each costs two calls per pair that is not identical.
    """
    return task_of_logs(candidate, baseline, axes, "1-A")
