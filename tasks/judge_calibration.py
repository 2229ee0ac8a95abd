"""Recorded replies with human labels, judged by any judge: the data behind a judge's passport.

inspect eval tasks/judge_calibration.py --model none/none --model-role grader=JUDGE -T on=dna
"""

from inspect_ai import Task, task

from shard_eval.calibrate import calibration_task


@task
def judge_calibration(on: str = "dna", judge: str = "rubric", axes: str = "") -> Task:
    """Judge human-labelled replies; `shard judge calibrate` turns the log into agreement.

    Args:
        on: "dna" (harm and action of four models' replies) or "xstest" (refusal of three models' completions).
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        axes: of those that have human labels; "" for all of them.
    """
    return calibration_task(on, judge, axes, version="1-A")
