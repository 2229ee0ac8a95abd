"""House style of all pictures, their drawing to SVG and PNG, and the curves of a training run, in Vega-Lite.

    draw("svg", curves([{"step": 1, "loss": 2.1}], points, base))

A picture is a Vega-Lite spec (https://vega.github.io/vega-lite), a plain dictionary: a page draws it as it is, with
`config(dark)`; files are drawn here. Specs name styles and ranges of the config and hold no colours. On a screen
narrower than `WIDTH`, lay `spec["usermeta"]["narrow"]` over the spec, recursively: one panel per row, smaller.
vl-convert is an extra (`plots`) and is imported only when something is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from shard_eval.errors import UsageError
from shard_eval.report import inert

WIDTH, NARROW = 640, 340  # a paper's column, and a phone's screen without margins, in pixels
BASE = "base, its interval as a band"
VEGA_LITE = "6.4"
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"  # of equal widths, so that the layout is the same everywhere
# Okabe and Ito, Color Universal Design (https://jfly.uni-koeln.de/color), ordered by contrast with the background.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
RING = "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0ZM-.62,0A.62,.62,0,1,0,.62,0A.62,.62,0,1,0,-.62,0Z"
TICK = "M-.25,-1L.25,-1L.25,1L-.25,1Z"
X = "M-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0L-1,-.6Z"  # a control


def config(dark: bool = False) -> dict[str, Any]:
    """The house style as Vega-Lite config.

    Args:
        dark: for a dark background.

    Returns:
        Colours of text, axes and marks; styles (`config.style`) and ranges (`config.range`) that specs name. The
        background is transparent.
    """
    text, muted, grid = ("#E8EAED", "#A3A8AE", "#33373C") if dark else ("#202124", "#5F6368", "#E6E6E6")
    first, *_ = palette = DARK if dark else LIGHT
    words = {"labelColor": text, "labelFontSize": 10, "titleColor": text, "titleFontSize": 10, "labelLimit": 170}
    lines = {"domainColor": muted, "tickColor": muted, "gridColor": grid, "tickSize": 4, "labelPadding": 3}
    return {
        "background": "transparent",
        "font": FONT,
        "aria": False,  # a picture is described by its caption; its numbers stand in the table
        "view": {"stroke": None},
        "mark": {"invalid": "break-paths-show-domains"},  # a row without a number keeps its place
        "concat": {"spacing": 18},
        "axis": words | lines | {"titleFontWeight": "normal", "titlePadding": 6},
        "axisY": {"maxExtent": 400},
        "axisX": {"labelFlush": False, "tickCount": 5},
        "legend": words | {"orient": "bottom", "columns": 3, "title": None, "columnPadding": 16, "symbolSize": 60},
        "title": {"anchor": "start", "frame": "group", "offset": 8},
        "point": {"filled": True, "opacity": 1, "size": 46},
        "rule": {"color": muted},
        "text": {"color": text, "fontSize": 10},
        "line": {"strokeWidth": 1.4},
        "style": {
            "reference": {"color": text, "strokeWidth": 1},
            "margin": {"color": muted, "strokeWidth": 1, "strokeDash": [5, 3]},
            "bound": {"strokeWidth": 1, "strokeDash": [1, 3]},
            "interval": {"strokeWidth": 1.3},
            "plain": {"color": first, "strokeWidth": 1.4},
            "leader": {"color": muted, "strokeWidth": 0.6},
            "bar": {"color": text, "strokeWidth": 4, "strokeCap": "round"},
            "gap": {"color": text, "strokeWidth": 1, "strokeDash": [1, 2]},
            "loss": {"color": text, "strokeWidth": 1.2},
            "band": {"color": muted, "stroke": None},
            "series0": {"color": palette[0]},
            "series1": {"color": palette[1]},
            "quiet": {"color": muted, "fontSize": 9},
            "label": {"limit": 130},
            "heading": {"fontSize": 11, "fontWeight": "bold"},
            "note": {"font": FONT, "fontSize": 10, "fill": muted},
            "follows": {"labels": False},  # an axis whose labels stand at the panel to its left
        },
        "range": {
            "category": list(palette),
            "symbol": list(SHAPES),
            "role": [first, text, muted],
            "shown": [first, first, muted, muted],
            "systems": [text, *palette],
        },
    }


def sized(spec: dict[str, Any], width: float, narrow: float, labels: float = 170) -> dict[str, Any]:
    """Give a picture its sizes.

    Args:
        spec: one view, or panels as `concat`; none states a width.
        width: of a panel, without labels, in a picture `WIDTH` wide.
        narrow: of a panel in a picture `NARROW` wide, where each panel has a row of its own.
        labels: pixels after which labels of the axes are cut in the wide picture.

    Returns:
        The spec with its `config`, and `usermeta.narrow`: what to lay over it, recursively, on a narrow screen.
    """
    small = {
        "view": {"continuousWidth": round(narrow)},
        "axis": {"labelLimit": 120},
        "legend": {"columns": 1},
        "style": {"follows": {"labels": True}, "label": {"limit": 80}},
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        **spec,
        "config": {"view": {"continuousWidth": round(width)}, "axis": {"labelLimit": round(labels)}},
        "usermeta": {"narrow": {"config": small} | ({"columns": 1} if "concat" in spec else {})},
    }


def headed(lines: Sequence[str], layers: Sequence[Mapping[str, Any]], limit: float = 0) -> dict[str, Any]:
    """A panel under a heading; one that Vega lays out itself stands higher where an axis label is at the top.

    Args:
        lines: of the heading.
        layers: of the panel.
        limit: pixels after which the heading is cut; 0 for none.
    """
    words: dict[str, Any] = {"type": "text", "style": "heading", "text": list(lines), "align": "left"}
    words |= {"dy": 2 - 14 * len(lines), "limit": round(limit)}
    at = {"x": {"value": 0}, "y": {"value": 0}}
    return {"layer": [*layers, {"data": {"values": [{}]}, "mark": words, "encoding": at}]}


def draw(kind: str, spec: Mapping[str, Any]) -> bytes:
    """Draw a spec as the content of a file, on white.

    Args:
        kind: "svg", or "png" at two pixels per point.
        spec: as made here.

    Raises:
        UsageError: if vl-convert is missing, or the kind is another one.
    """
    if kind not in ("svg", "png"):
        raise UsageError(f"a picture is written as .svg or .png, not {kind!r}.")
    try:
        import vl_convert
    except ImportError as error:
        raise UsageError("drawing needs vl-convert-python: install shard-eval[plots].") from error
    style = config() | {"background": "white"}
    given = dict(spec)
    if kind == "svg":
        return vl_convert.vegalite_to_svg(given, VEGA_LITE, config=style, allowed_base_urls=[]).encode()
    return vl_convert.vegalite_to_png(given, VEGA_LITE, scale=2, config=style, allowed_base_urls=[])


class Point(TypedDict):
    """A score with its interval: of a checkpoint, or, without a step, of the base.

    `split` names its series; a base without one is the base of all series.
    """

    step: int | None
    split: str
    benchmark: str
    metric: str
    value: float | None
    low: float
    high: float


def curves(
    training: Sequence[Mapping[str, float]],
    points: Sequence[Point],
    base: Sequence[Point] = (),
    title: str = "",
    level: float = 0.95,
) -> dict[str, Any]:
    """A training run: the loss over the steps, and beside it each checkpoint's scores with the base's.

    Args:
        training: "step" and "loss" of each logged step; none for no panel.
        points: scores of the checkpoints; one panel per benchmark and metric.
        base: scores of the base: a line with its interval as a band.
        title: above all panels.
        level: of the scores' intervals.

    Raises:
        UsageError: if there is nothing to draw.
    """
    panels = list(dict.fromkeys((p["benchmark"], p["metric"]) for p in points))
    if not panels and not training:
        raise UsageError("there is nothing to draw: no training log and no scores.")
    series = list(dict.fromkeys(inert(p["split"]) for p in points))
    columns = 2 if len(panels) + bool(training) in (2, 4) else min(3, len(panels) + bool(training))
    width = (WIDTH - 65 * columns) / columns
    views = [_loss(training)] if training else []
    for panel in panels:
        mine, its = ([p for p in all_ if (p["benchmark"], p["metric"]) == panel] for all_ in (points, base))
        layers = _scores(mine, its, series, level)
        views.append({"height": 150} | headed([inert(p) for p in panel if p], layers, width))
    spec = {"title": {"text": inert(title), "style": "note"}} if title else {}
    return sized({**spec, "columns": columns, "concat": views}, width, NARROW - 60)


def _steps(steps: Sequence[float]) -> dict[str, Any]:
    """The x axis of training steps; few are all named."""
    few = {"values": sorted(set(steps))} if len(set(steps)) <= 8 else {}
    axis = {"grid": False, "format": "d", "tickMinStep": 1, "labelOverlap": True, **few}
    return {"field": "step", "type": "quantitative", "title": "step", "axis": axis} | {
        "scale": {"zero": False, "nice": False, "padding": 12}
    }


def _loss(training: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    values = [{"step": t["step"], "loss": round(t["loss"], 5)} for t in training]
    loss = {"field": "loss", "type": "quantitative", "title": None, "scale": {"zero": False}}
    x = _steps([v["step"] for v in values])
    line = {"data": {"values": values}, "mark": {"type": "line", "style": "loss"}, "encoding": {"x": x, "y": loss}}
    return {"height": 150} | headed(["training loss"], [line])


def _scores(
    points: Sequence[Point], base: Sequence[Point], series: Sequence[str], level: float
) -> list[dict[str, Any]]:
    """Layers of one panel: the series side by side with their intervals, and the base's as lines with bands."""
    x = _steps([float(p["step"] or 0) for p in points])
    y: dict[str, Any] = {"field": "value", "type": "quantitative", "title": f"mean, {100 * level:g} % interval"}
    y["scale"] = {"zero": False}
    colour = {"field": "split", "type": "nominal", "scale": {"domain": list(series)}}
    layers = [layer for b in base if b["value"] is not None for layer in _base(b, series)]
    for i, name in enumerate(series):
        mine = [_datum(p) for p in points if inert(p["split"]) == name and p["value"] is not None]
        beside = {"xOffset": 6 * (i - (len(series) - 1) / 2)}
        ends = {"y": y | {"field": "low"}, "y2": {"field": "high"}, "color": colour}
        marks = [
            {"mark": {"type": "rule", "style": "interval", **beside}, "encoding": ends},
            {"mark": {"type": "line", **beside}, "encoding": {"y": y, "color": colour}},
            {"mark": {"type": "point", **beside}, "encoding": {"y": y, "color": colour, "shape": colour}},
        ]
        layers.append({"data": {"values": mine}, "encoding": {"x": x}, "layer": marks})
    return layers


def _datum(p: Point) -> dict[str, Any]:
    score = {
        k: round(v, 5) for k, v in (("value", p["value"]), ("low", p["low"]), ("high", p["high"])) if v is not None
    }
    return {"step": p["step"] or 0, "split": inert(p["split"]), **score}


def _base(base: Point, series: Sequence[str]) -> list[dict[str, Any]]:
    """The base's score and interval: a band for the series that is reported, else two dotted lines."""
    name = inert(base["split"])
    colour = [f"series{series.index(name) % 2}"] if name in series else []
    data = {"data": {"values": [_datum(base) | {"what": BASE}]}}
    value, low, high = ({"y": {"field": end, "type": "quantitative"}} for end in ("value", "low", "high"))
    dash: dict[str, Any] = {"field": "what", "type": "nominal", "legend": {"symbolSize": 150}}
    dash["scale"] = {"domain": [BASE], "range": [[3, 2]]}
    line = data | {"mark": {"type": "rule", "style": ["interval", *colour]}, "encoding": value | {"strokeDash": dash}}
    if not name or name == series[-1]:
        band = {"type": "rect", "style": ["band", *colour], "opacity": 0.15}
        return [data | {"mark": band, "encoding": low | {"y2": {"field": "high"}}}, line]
    bound = {"type": "rule", "style": ["bound", *colour]}
    return [*(data | {"mark": bound, "encoding": end} for end in (low, high)), line]
