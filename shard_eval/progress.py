"""A rich progress bar for an evaluation, fed by Inspect's hooks: done, rate, time left, unscored so far."""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType

from inspect_ai.hooks import Hooks, SampleEnd, TaskStart, hooks
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Responses per second, or per minute where they are slow."""

    def render(self, task: Task) -> Text:
        """Render the rate."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("", style="progress.data.speed")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{speed * 60:.0f}/min", style="progress.data.speed")


class _Bar:
    """The evaluation that runs now, if one does, and its bar, if the console is a terminal."""

    running: bool = False
    progress: Progress | None = None
    task: int = 0
    unscored: int = 0


_bar = _Bar()


def _stop_at_second_interrupt() -> None:
    """Let the first Ctrl-C stop in good order and the second one at once.

    Inspect's clean-up, interrupted itself, waits for ever; what it has written by then resumes like after a kill.
    """
    first = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(first):
        return
    presses = 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
            os.write(2, f"{show_cursor}\nError: stopped at once. Run the same command again to continue.\n".encode())
            os._exit(130)
        first(number, frame)

    signal.signal(signal.SIGINT, handler)


@hooks(name="shard_progress", description="Progress bar of `shard score`.")
class ShardProgress(Hooks):
    """Advance the bar when a sample ends; idle unless `bar()` is open."""

    def enabled(self) -> bool:
        """Only while `shard` runs an evaluation."""
        return _bar.running

    async def on_task_start(self, data: TaskStart) -> None:
        """Take the second Ctrl-C, now that the event loop has taken the first."""
        _stop_at_second_interrupt()

    async def on_sample_end(self, data: SampleEnd) -> None:
        """Count the sample and the verdicts it lacks."""
        if _bar.progress is None or data.sample.error is not None:
            return  # a stopped or failed sample will be asked again
        scores = (data.sample.scores or {}).values()
        _bar.unscored += sum(isinstance(s.value, float) and math.isnan(s.value) for s in scores)
        note = f"[yellow]{_bar.unscored} unscored[/yellow]" if _bar.unscored else ""
        _bar.progress.update(_bar.task, advance=1, note=note)  # type: ignore[arg-type]


@contextmanager
def bar(console: Console, title: str, total: int | None, done: int = 0) -> Iterator[None]:
    """Show a bar while an evaluation runs.

    Args:
        console: where to; nothing is drawn if it is not a terminal, only a line at the start.
        title: what runs.
        total: number of responses; None if only the task knows.
        done: number of those that an earlier run has finished.
    """
    before = signal.getsignal(signal.SIGINT)
    _bar.running, _bar.unscored = True, 0
    try:
        with _shown(console, title, total, done), redirect_stdout(io.StringIO()):
            yield  # Inspect announces its hooks on stdout, which is for results
    finally:
        _bar.running, _bar.progress = False, None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def _shown(console: Console, title: str, total: int | None, done: int) -> Iterator[None]:
    if not console.is_terminal:
        before = f", {done} of them finished before" if done else ""
        console.print(title if total is None else f"{title}: {total} responses{before}", markup=False, highlight=False)
        yield
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        _bar.progress = progress
        _bar.task = progress.add_task(title, total=total, completed=done, note="")
        yield
