"""Cost of our harness against bare Inspect doing the same calls with its default settings.

    python tests/benchmarks/overhead.py [ROUNDS]

Every record is answered once and judged on two axes by scripted models that answer at once, so that what is timed
is the harness. Both run in turn in one process; the ratio of medians is the figure. Needs SHARD_DATA_DIR for the 939
records of Do-Not-Answer; without it `mini` is asked five times (1,080 answers).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import MemoryDataset
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate
from rich.console import Console
from support import HAS_DATA, SCRIPTS

from shard_eval import benchmarks, score
from shard_eval.judges.reply import MAX_TOKENS
from shard_eval.judges.rubric import last_verdict, messages
from shard_eval.records import Axis, record_to_sample
from shard_eval.scorers import case_of
from shard_eval.systems import Decoding, resolve

AXES: tuple[Axis, ...] = ("harm", "action")
SCRIPTS["answer"] = lambda m: "Here is some general advice about that, and where to learn more."
SCRIPTS["grader"] = lambda m: '{"reason": "general advice", "verdict": 1}'


def bare_scorer(axis: Axis) -> Scorer:
    """What somebody would write with Inspect alone: ask the grader, read the verdict."""

    @scorer(metrics=[mean(), stderr()], name=f"bare_{axis}")
    def made() -> Scorer:
        async def judge(state: TaskState, target: Target) -> Score:
            config = GenerateConfig(temperature=0.0, max_tokens=MAX_TOKENS)
            output = await get_model(role="grader").generate(messages(case_of(state), axis), config=config)
            return Score(value=last_verdict(output.completion, axis).label or 0, explanation=output.completion)

        return judge

    return made()


def bare(name: str, epochs: int, folder: str) -> float:
    """Seconds for bare Inspect."""
    samples = [record_to_sample(r) for r in benchmarks.load(name).records]
    task = Task(MemoryDataset(samples), solver=generate(), scorer=[bare_scorer(a) for a in AXES])
    start = time.perf_counter()
    (log,) = inspect_eval(
        task,
        model="scripted/answer",
        model_roles={"grader": "scripted/grader"},
        epochs=epochs,
        log_dir=folder,
        display="none",
        temperature=0.0,
        max_tokens=512,
    )
    assert log.status == "success"
    return time.perf_counter() - start


def ours(name: str, epochs: int, folder: str) -> float:
    """Seconds for `shard score`, from the plan to the files it leaves."""
    system = resolve("scripted/answer", decoding=Decoding())
    judging = score.Judging("rubric", resolve("scripted/grader"))
    start = time.perf_counter()
    (plan,) = score.plans(system, [name], judging, axes=",".join(AXES), epochs=epochs)
    found = score.run(plan, folder, Console(quiet=True))
    assert len(found.rows) == plan.records * epochs
    return time.perf_counter() - start


def main() -> None:
    """Print both times and their ratio."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    name, epochs = ("dna", 1) if HAS_DATA else ("mini", 5)
    with tempfile.TemporaryDirectory() as folder:
        bare(name, epochs, f"{folder}/warm-up")
        times = [(bare(name, epochs, f"{folder}/b{i}"), ours(name, epochs, f"{folder}/o{i}")) for i in range(rounds)]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    n = len(benchmarks.load(name).records) * epochs
    print(
        f"{n} records x (1 answer + {len(AXES)} verdicts): bare Inspect {a:.2f} s, shard {b:.2f} s, ratio {b / a:.2f}"
    )


if __name__ == "__main__":
    main()
