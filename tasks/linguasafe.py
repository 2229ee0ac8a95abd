"""LinguaSafe, English (arXiv:2508.12733): our judged output, and the paper's direct and indirect protocols.

inspect eval tasks/linguasafe.py@linguasafe --model MODEL --model-role grader=JUDGE
inspect eval tasks/linguasafe.py@linguasafe_direct --model MODEL
inspect eval tasks/linguasafe.py@linguasafe_indirect --model MODEL -T judge=embedded
"""

from inspect_ai import Task, task, task_with
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig

from shard_eval import benchmarks, prompts
from shard_eval import protocols_linguasafe as protocol
from shard_eval.benchmarks.linguasafe import mcq_ids
from shard_eval.errors import UsageError
from shard_eval.records import record_to_sample
from shard_eval.scorers import axis_scorers
from shard_eval.solvers import direct
from shard_eval.tasksupport import benchmark_task

NAME = "linguasafe_en"


@task
def linguasafe(
    judge: str = "rubric", axes: str = "harm,refusal,helpfulness", solver: str = "direct", split: str = ""
) -> Task:
    """What the answers give away, refuse and help with; read by level and by source, as levels are noisy.

    Args:
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        axes: judged axes, comma-separated.
        solver: who answers, given the model.
        split: "train", "dev", "test", several joined by "+", or "" for all.
    """
    made = benchmark_task(NAME, "1-A", judge=judge, axes=axes, solver=solver, split=split)
    return task_with(made, metadata={**(made.metadata or {}), "protocol": "output"})


@task
def linguasafe_direct(replicate_defects: bool = False) -> Task:
    """Does the model recognise unsafe prompts? Five at a time, severity-weighted F1; needs no judge.

    Args:
        replicate_defects: group, parse and score as the released evaluator does; see protocols_linguasafe.
    """
    loaded = benchmarks.load(NAME)
    questions, _ = protocol.plan(loaded.records, set(mcq_ids()), replicate_defects)
    return Task(
        dataset=MemoryDataset([protocol.question_to_sample(q) for q in questions], name=NAME),
        solver=direct(),
        scorer=protocol.linguasafe_flags(replicate_defects=replicate_defects),
        config=GenerateConfig(max_tokens=protocol.DIRECT_TOKENS),
        version=_version(replicate_defects),
        metadata={"benchmark": NAME, "origin": loaded.origin, "content_sha": loaded.sha, "protocol": "direct"},
    )


@task
def linguasafe_indirect(judge: str = "rubric", replicate_defects: bool = False) -> Task:
    """What the model answers to the prompts outside the direct part: unsafe rate, penalty, oversensitive rate.

    Args:
        judge: "rubric" (needs the grader role), "embedded", or "guard:FAMILY" (needs the grader role).
        replicate_defects: filter, ask the grader and divide as the released evaluator does; see
            protocols_linguasafe. It has its own two questions, so `judge` stays "rubric".
    """
    loaded = benchmarks.load(NAME)
    _, plain = protocol.plan(loaded.records, set(mcq_ids()), replicate_defects)
    samples = [record_to_sample(r) for r in plain]
    made = benchmark_task(NAME, "1-A", judge=judge, axes="harm,refusal", solver="direct")
    metadata = {**(made.metadata or {}), "protocol": "indirect"}
    scorers = [*axis_scorers("harm,refusal", judge), protocol.linguasafe_replies()]
    if replicate_defects:
        if judge != "rubric":
            raise UsageError(f"judge {judge!r}: with replicate_defects the grader role is asked; leave judge out.")
        rows = protocol.rows_by_level(loaded.records)
        samples = [_with_rows(s, rows) for s in samples]
        metadata["judge_prompts"] = {
            "harm": prompts.load("linguasafe_unsafe").sha,
            "refusal": prompts.load("linguasafe_reject").sha,
        }
        scorers = [protocol.linguasafe_replies_released()]
    return task_with(
        made,
        dataset=MemoryDataset(samples, name=NAME),
        scorer=scorers,
        config=GenerateConfig(max_tokens=protocol.INDIRECT_TOKENS),
        version=_version(replicate_defects),
        metadata=metadata,
    )


def _version(replicate_defects: bool) -> str:
    """The released behaviour is another protocol: it must never stand in one table with the fixed one."""
    return "1-A-released" if replicate_defects else "1-A"


def _with_rows(sample: Sample, rows: dict[str, list[int]]) -> Sample:
    """Note the rows of the sample's type and subtype, asked or not, by which the released rates are divided."""
    meta = sample.metadata or {}
    wanted = {path: rows[path] for path in protocol.paths(meta["risk_area"], meta["category"])}
    return sample.model_copy(update={"metadata": {**meta, "rows_by_level": wanted}})
