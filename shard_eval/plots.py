"""Pictures of a training run: the loss over the steps, and beside it each checkpoint's scores with the base's.

    curves("curves.svg", [{"step": 1, "loss": 2.1}], points, base)

matplotlib is an extra (`plots`) and is imported only when something is drawn.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from shard_eval.errors import UsageError

# Okabe and Ito, Color Universal Design (https://jfly.uni-koeln.de/color): told apart with any colour vision.
SKY, VERMILION, GREY, BLACK = "#0072B2", "#D55E00", "#8A8A8A", "#222222"
STYLES = ((SKY, "o"), (VERMILION, "s"))
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.edgecolor": "#666666",
    "svg.hashsalt": "shard",  # without it every file differs
    "legend.frameon": False,
}


class Point(TypedDict):
    """A score with its interval: of a checkpoint, or, without a step, of the base."""

    step: int | None
    split: str
    benchmark: str
    metric: str
    value: float | None
    low: float
    high: float


def curves(
    path: str | Path,
    training: Sequence[Mapping[str, float]],
    points: Sequence[Point],
    base: Sequence[Point] = (),
    title: str = "",
) -> None:
    """Draw a training run to a file.

    Args:
        path: ends in .svg or .png; the folder exists.
        training: "step" and "loss" of each logged step; none for no panel.
        points: scores of the checkpoints; one panel per benchmark and metric.
        base: scores of the base: a line with its interval as a band.
        title: above all panels.

    Raises:
        UsageError: if matplotlib is missing, there is nothing to draw, or the ending is another one.
    """
    kind = Path(path).suffix.removeprefix(".")
    Path(path).write_bytes(drawn(kind, training, points, base, title))


def drawn(
    kind: str,
    training: Sequence[Mapping[str, float]],
    points: Sequence[Point],
    base: Sequence[Point] = (),
    title: str = "",
) -> bytes:
    """The same as the content of a file; `kind` is "svg" or "png"."""
    if kind not in ("svg", "png"):
        raise UsageError(f"a picture is written as .svg or .png, not {kind!r}.")
    try:
        import matplotlib
        from matplotlib.figure import Figure  # without pyplot there is no window and no global state
    except ImportError as error:
        raise UsageError("drawing needs matplotlib: install shard-eval[plots].") from error
    panels = list(dict.fromkeys((p["benchmark"], p["metric"]) for p in points))
    if not panels and not training:
        raise UsageError("there is nothing to draw: no training log and no scores.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_size(panels, training), layout="constrained")
        _draw(figure, panels, training, points, base)
        if title:
            figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        out = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(out, format=kind, dpi=160, metadata=metadata)
    return out.getvalue()


def _grid(panels: Sequence[tuple[str, str]], training: Sequence[Mapping[str, float]]) -> tuple[int, int]:
    """Rows (one per benchmark) and columns of panels."""
    per_row = max((sum(b == name for b, _ in panels) for name, _ in panels), default=0)
    return max(1, len({b for b, _ in panels})), per_row + bool(training)


def _size(panels: Sequence[tuple[str, str]], training: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    rows, columns = _grid(panels, training)
    return 3.1 * columns + 0.3, 2.7 * rows + 0.7


def _draw(
    figure: Any,
    panels: Sequence[tuple[str, str]],
    training: Sequence[Mapping[str, float]],
    points: Sequence[Point],
    base: Sequence[Point],
) -> None:
    rows, columns = _grid(panels, training)
    axes = figure.subplots(rows, columns, squeeze=False)
    free = {(i, j) for i in range(rows) for j in range(columns)}
    if training:
        _loss(axes[0][0], training)
        free.discard((0, 0))
    splits = list(dict.fromkeys(p["split"] for p in points))
    for i, benchmark in enumerate(dict.fromkeys(b for b, _ in panels)):
        for j, panel in enumerate([p for p in panels if p[0] == benchmark], start=bool(training)):
            mine, its = ([p for p in all_ if (p["benchmark"], p["metric"]) == panel] for all_ in (points, base))
            _scores(axes[i][j], panel, mine, its, splits)
            if j == bool(training):
                axes[i][j].set_ylabel("mean with 95 % interval")
            free.discard((i, j))
    for i, j in free:
        axes[i][j].set_visible(False)
    marks = {
        label: mark for row in axes for a in row for mark, label in zip(*a.get_legend_handles_labels(), strict=True)
    }
    if marks:
        figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks))


def _loss(axis: Any, training: Sequence[Mapping[str, float]]) -> None:
    axis.plot([t["step"] for t in training], [t["loss"] for t in training], color=BLACK, linewidth=1.2)
    axis.set_title("training loss", loc="left")
    axis.set_xlabel("step")
    axis.margins(x=0.03)


def _scores(
    axis: Any, panel: tuple[str, str], points: Sequence[Point], base: Sequence[Point], splits: Sequence[str]
) -> None:
    """One panel: the splits side by side with their intervals, and the base's as lines with bands."""
    steps = sorted({p["step"] for p in points if p["step"] is not None})
    near = min((b - a for a, b in itertools.pairwise(steps)), default=1)
    apart = min(0.09 * near, 0.02 * (steps[-1] - steps[0] or 1)) if steps else 0.0
    for i, split in enumerate(splits):
        colour, marker = STYLES[i % len(STYLES)]
        for p in (p for p in base if p["split"] == split):
            _band(axis, p, colour, filled=i == len(splits) - 1)
        mine = sorted((p for p in points if p["split"] == split), key=lambda p: p["step"] or 0)
        if not mine:
            continue
        x = [(p["step"] or 0) + apart * (i - (len(splits) - 1) / 2) for p in mine]
        y = [p["value"] or 0.0 for p in mine]
        reach = [
            [v - p["low"] for v, p in zip(y, mine, strict=True)],
            [p["high"] - v for v, p in zip(y, mine, strict=True)],
        ]
        axis.errorbar(
            x,
            y,
            reach,
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.3,
            elinewidth=1,
            label=f"checkpoint, {split}",
        )
    axis.set_title(": ".join(panel), loc="left")
    axis.set_xlabel("step")
    low, high = min(p["low"] for p in [*points, *base]), max(p["high"] for p in [*points, *base])
    pad = 0.06 * (high - low) or 0.05
    axis.set_ylim(low - pad, high + pad)
    axis.margins(x=0.08)
    if len(steps) <= 8:
        axis.set_xticks(steps)


def _band(axis: Any, base: Point, colour: str, filled: bool) -> None:
    """The base's score and interval: a band for the split that is reported, else two dotted lines."""
    if base["value"] is None:
        return
    axis.axhline(base["value"], color=colour, linewidth=1, linestyle=(0, (4, 3)), label=f"base, {base['split']}")
    if filled:
        axis.axhspan(base["low"], base["high"], color=colour, alpha=0.12, linewidth=0)
        return
    for bound in (base["low"], base["high"]):
        axis.axhline(bound, color=colour, linewidth=0.8, linestyle=(0, (1, 3)))
