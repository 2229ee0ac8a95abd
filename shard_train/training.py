"""Run the trainer as a process of its own and show how far it is. Nothing here imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shard_eval.errors import LogError
from shard_train.sft import RESULT, Job, command, complete, events, run

POLL = 0.5  # seconds


def gpus() -> list[str]:
    """The machine's NVIDIA GPUs, by index."""
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU ")]


def devices(score_beside: str, processes: int = 1) -> tuple[dict[str, str], bool]:
    """Who gets which GPU.

    Args:
        score_beside: "yes", "no", or "auto": score while training goes on where there is a GPU to spare.
        processes: of the trainer, each of which takes a GPU; it refuses to spread itself over several.

    Returns:
        Environment of the trainer, and whether checkpoints are scored meanwhile. With two GPUs or more the last one is
        left to the scoring; this process is told so through its own environment.
    """
    found = gpus()
    beside = score_beside == "yes" or (score_beside == "auto" and len(found) > 1)
    if len(found) < 2:
        return {}, beside
    if beside:
        os.environ["CUDA_VISIBLE_DEVICES"] = found.pop()
    return {"CUDA_VISIBLE_DEVICES": ",".join(found[:processes])}, beside


def train(
    job: Job,
    console: Console,
    *,
    processes: int = 1,
    env: dict[str, str] | None = None,
    meanwhile: Callable[[list[Path]], None] | None = None,
) -> dict[str, Any]:
    """Train, or continue, or find that it is done.

    Args:
        job: what to train.
        console: for the progress bar.
        processes: through `accelerate launch` if more than one.
        env: further environment of the trainer.
        meanwhile: called with the complete checkpoints whenever there is a new one; it may take long.

    Returns:
        The trainer's summary.

    Raises:
        UsageError: if the folder holds what came of another job, other data say.
        LogError: if the trainer failed; its last words are in the message.
        KeyboardInterrupt: if the user stopped it; the newest complete checkpoint is kept.
    """
    out = Path(job.out)
    if (out / RESULT).is_file():
        run(job)  # does nothing but refuse a folder in which another job was finished
    else:
        out.mkdir(parents=True, exist_ok=True)
        file = job.write(out.parent / "job.json")
        with (out / "trainer.log").open("w", encoding="utf-8") as log, _process(file, processes, env, log) as process:
            _follow(process, out, console, meanwhile)
        if process.returncode != 0:
            said = [line for line in (out / "trainer.log").read_text(encoding="utf-8").splitlines() if line.strip()]
            raise LogError(f"training stopped: {' '.join(said[-3:])[-1500:]}\nAll it said is in {out / 'trainer.log'}.")
    summary: dict[str, Any] = json.loads((out / RESULT).read_text(encoding="utf-8"))
    return summary


@contextmanager
def _process(job_file: Path, processes: int, env: dict[str, str] | None, log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The trainer, which ends with this block however it is left."""
    process = subprocess.Popen(
        command(job_file, processes), stdout=log, stderr=subprocess.STDOUT, env=os.environ | (env or {})
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _follow(
    process: subprocess.Popen[bytes], out: Path, console: Console, meanwhile: Callable[[list[Path]], None] | None
) -> None:
    """Draw the trainer's steps until it ends, and hand on its checkpoints."""
    seen = 0
    with _bar(console) as show:
        while process.poll() is None:
            show(events(out))
            found = complete(out)
            if meanwhile is not None and len(found) > seen:
                seen = len(found)
                meanwhile(found)
            time.sleep(POLL)
        show(events(out))


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """A bar of steps with the loss and the rate; without a terminal nothing is drawn."""
    if not console.is_terminal:
        yield lambda steps: None
        return
    columns = (TextColumn("training"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        task = progress.add_task("training", total=None, note="loading")

        def show(steps: list[dict[str, Any]]) -> None:
            if steps:
                last = steps[-1]
                rate = last["tokens"] / last["seconds"] if last["seconds"] else 0
                note = f"loss {last['loss']:.3f}, {rate:,.0f} tokens/s"
                progress.update(task, completed=last["step"], total=last["steps"], note=note)

        yield show


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write an adapter merged into its base, in a process of its own.

    Raises:
        LogError: if that failed.
    """
    line = [sys.executable, "-m", "shard_train.sft", "--merge", str(base), str(adapter), str(out)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LogError(f"merging {adapter} into {base} failed: {done.stderr.strip()[-1500:]}")
