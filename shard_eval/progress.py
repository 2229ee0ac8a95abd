"""A rich progress bar for an evaluation, fed by Inspect's hooks: done, rate, time left, unscored so far."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from inspect_ai.hooks import Hooks, SampleEnd, hooks
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
    """The bar of the evaluation that runs now, if one does."""

    progress: Progress | None = None
    task: int = 0
    unscored: int = 0


_bar = _Bar()


@hooks(name="shard_progress", description="Progress bar of `shard score`.")
class ShardProgress(Hooks):
    """Advance the bar when a sample ends; idle unless `bar()` is open."""

    def enabled(self) -> bool:
        """Only while a bar is shown."""
        return _bar.progress is not None

    async def on_sample_end(self, data: SampleEnd) -> None:
        """Count the sample and the verdicts it lacks."""
        if _bar.progress is None or data.sample.error is not None:
            return  # a stopped or failed sample will be asked again
        scores = (data.sample.scores or {}).values()
        _bar.unscored += sum(isinstance(s.value, float) and math.isnan(s.value) for s in scores)
        note = f"[yellow]{_bar.unscored} unscored[/yellow]" if _bar.unscored else ""
        _bar.progress.update(_bar.task, advance=1, note=note)  # type: ignore[arg-type]


@contextmanager
def bar(console: Console, title: str, total: int | None) -> Iterator[None]:
    """Show a bar while an evaluation runs.

    Args:
        console: where to; nothing is drawn if it is not a terminal, only a line at the start.
        title: what runs.
        total: number of responses; None if only the task knows.
    """
    if not console.is_terminal:
        console.print(title if total is None else f"{title}: {total} responses", markup=False, highlight=False)
        with redirect_stdout(io.StringIO()):
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
        _bar.progress, _bar.unscored = progress, 0
        _bar.task = progress.add_task(title, total=total, note="")
        try:
            with redirect_stdout(io.StringIO()):  # Inspect announces hooks there; stdout is for results
                yield
        finally:
            _bar.progress = None
