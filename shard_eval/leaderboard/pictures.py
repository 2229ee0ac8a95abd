"""A board's pictures as Vega-Lite specs: pure functions from table data to a dictionary.

    pictures(board)   # for the page: captions and specs, per table
    files(board)      # for papers: SVG and PNG, by path

Names and titles on a board were written by others: they stand in specs as data or plain text, never in an expression.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shard_eval import plots, summary
from shard_eval.leaderboard.table import Board, Cell, Column, Groups, Row, Table
from shard_eval.report import inert

Spec = dict[str, Any]
Box = tuple[float, float, float, float]  # left, top, right, bottom
NARROW = 280  # a picture on the narrowest screen, without the page's margins, in pixels
JOINT_95 = 5.991464547107979  # 95 % quantile of chi-square with two degrees of freedom
FEW = 14  # systems that are all named in the plane, controls included
CLASSIC = 30  # systems that the classic critical-difference layout holds
METRICS = ("joint", "harmful", "over_refusal")
PARTS = {"intent": "intent", "risk_area": "risk area", "category": "category", "type": "type", "level": "level"}
TITLES = {m.name: f"{m.title} {'↑' if m.better == 'higher' else '↓'}" for m in summary.METRICS}
NUMBER: Spec = {"type": "quantitative"}
NAMES: Spec = {"title": None, "grid": True, "domain": False, "ticks": False, "labelPadding": 8}
SHOWN = ("significantly better", "not shown to be better", "not tested", "control")


def pictures(board: Board) -> dict[str, list[tuple[str, Spec]]]:
    """All pictures of a board.

    Returns:
        Per table's key, captions and specs; under "" those of the whole board. On a narrow screen lay
        `spec["usermeta"]["narrow"]` over the spec.
    """
    found: dict[str, list[tuple[str, Spec]]] = {}
    for key, _, caption, spec in _all(board):
        found.setdefault(key, []).append((caption, spec))
    return found


def files(board: Board) -> dict[str, bytes]:
    """The same as files: "pictures/<table key>-<kind>.svg" and ".png".

    Raises:
        UsageError: if vl-convert is missing.
    """
    return {name: plots.draw(Path(name).suffix[1:], spec) for name, spec in named(board).items()}


def named(board: Board) -> dict[str, Spec]:
    """Names of the files and what each of them draws."""
    return {
        f"pictures/{f'{key}-' if key else ''}{kind}.{ending}": spec
        for key, kind, _, spec in _all(board)
        for ending in ("svg", "png")
    }


def _all(board: Board) -> Iterator[tuple[str, str, str, Spec]]:
    """Table's key, kind, caption and spec of every picture there is something to draw for."""
    base, level = inert(board.baseline), f"{100 * board.terms.get('level', 0.95):g} % intervals"
    for table in board.tables:
        compared = f"Differences to {base}, with {level}. Right of the line is better."
        both = "Safety against helpfulness, with joint 95 % confidence regions. Up and right is better."
        kinds = [("forest", compared, forest(table, board)), ("plane", both, plane(table))]
        for by, words in PARTS.items():
            kinds.append((f"breakdown-{by}", f"Scores per {words}, with {level}.", breakdown(table, by)))
        if table.groups is not None:
            together = "Systems that a bar joins, or that share a letter, cannot be told apart: "
            method = inert(table.groups.method)
            kinds.append(("critical-difference", f"{together}{method}.", critical_difference(table.groups)))
        yield from ((table.key, kind, caption, spec) for kind, caption, spec in kinds if spec is not None)
    if (curve := checkpoint_curve(board)) is not None:
        yield "", "checkpoints", f"Scores over the training steps, with {level}; the band is {base}.", curve


def _layer(mark: str, encoding: Spec, rows: Iterable[Mapping[str, Any]] | None = None, **look: Any) -> Spec:
    own = {} if rows is None else {"data": {"values": list(rows)}}
    return own | {"mark": {"type": mark, **look}, "encoding": encoding}


def _panels(rows: Sequence[Spec], views: Sequence[Spec], labels: float, width: float, **more: Any) -> Spec:
    """Views side by side that share their rows and the labels on the left."""
    spec = more | {"data": {"values": rows}, "columns": len(views), "concat": list(views)}
    narrow = NARROW - min(labels, 125) - 30
    return _narrowed(plots.sized(spec, width, narrow, labels), legend={"labelLimit": round(narrow) - 15})


def _narrowed(spec: Spec, **config: Spec) -> Spec:
    """The spec with more config for a narrow screen."""
    for name, more in config.items():
        spec["usermeta"]["narrow"]["config"][name] |= more
    return spec


def _towards(reverse: bool) -> Spec:
    """Where the title of an axis stands so that it ends at the right."""
    return {"titleAnchor": "start", "titleAlign": "right"} if reverse else {"titleAnchor": "end"}


def _room(names: Iterable[str], panels: int = 3) -> float:
    """Pixels for the labels left of some panels: those of the longest, within limits."""
    return min(300 - 45.0 * (panels - 1), max(5.6 * len(n) for n in names) + 12)


def _short(value: float) -> float:
    """A number with no more digits than can be seen."""
    return float(f"{value:.5g}")


# --- paired differences ------------------------------------------------------------------------------------------


def forest(table: Table, board: Board) -> Spec | None:
    """Differences of every system to the baseline: a panel per measure, side by side.

    Args:
        table: columns "win…" are drawn against 50 %, "delta_…" against 0.
        board: its terms hold the margins.

    Returns:
        The spec; None if no row has such a cell.
    """
    columns = [c for c in table.columns if c.name.startswith(("win", "delta_"))]
    columns = [c for c in columns if any(_valued(r, c) for r in table.rows)]
    rows = [r for r in table.rows if any(_valued(r, c) for c in columns)]
    if not rows:
        return None
    data: list[Spec] = [{"s": inert(r.system)} for r in rows]
    for i, column in enumerate(columns):
        tested = "Bold" in column.help or any(r.cells[column.name].bold for r in rows if column.name in r.cells)
        for datum, row in zip(data, rows, strict=True):
            datum |= _difference(row, column, i, tested)
    kinds = sorted({v for d in data for k, v in d.items() if k.startswith("k")})
    legend = {"title": None, "values": [SHOWN[k] for k in kinds]}
    margins = {"delta_harm": board.terms.get("margin"), "delta_over_refusal": board.terms.get("refusal_margin")}
    step = 18 if len(rows) <= 12 else 15 if len(rows) <= 40 else 12
    labels = _room((d["s"] for d in data), len(columns))
    width = (plots.WIDTH - labels) / len(columns) - 22
    views = [
        _measure(c, i, margins.get(c.name), width, legend) | {"height": {"step": step}} for i, c in enumerate(columns)
    ]
    spec = _panels(data, views, labels, width)
    spec["config"]["legend"] = {"columns": len(kinds)}
    return spec


def _valued(row: Row, column: Column) -> Cell | None:
    cell = row.cells.get(column.name)
    return None if cell is None or cell.value is None else cell


def _difference(row: Row, column: Column, i: int, tested: bool) -> Spec:
    """A cell's numbers and its place in `SHOWN`, in the fields of panel i; nothing where there is no number."""
    cell = _valued(row, column)
    if cell is None:
        return {}
    kind = 3 if row.kind in ("control", "resampled") else 0 if cell.bold else 1 if tested else 2
    numbers = {"v": cell.value, "l": cell.low, "h": cell.high}
    shown = {f"{k}{i}": _short(v) for k, v in numbers.items() if v is not None}
    return shown | {f"k{i}": kind}


def _measure(column: Column, i: int, margin: float | None, width: float, legend: Spec) -> Spec:
    lower = "↓" in column.title
    x = NUMBER | {"title": f"{inert(column.unit)} · better →".lstrip(" ·")}
    x |= {"scale": {"zero": False, "reverse": lower}, "axis": {"grid": False} | _towards(lower)}
    y: Spec = {"field": "s", "type": "nominal", "sort": None, "scale": {"padding": 0.9}}
    y["axis"] = NAMES | ({"style": "follows"} if i else {})
    kind: Spec = {"field": "k", "type": "nominal", "legend": legend}
    known: Spec = {"domain": list(SHOWN)}
    look = {
        "color": kind | {"scale": known | {"range": "shown"}},
        "shape": kind | {"scale": known | {"range": ["circle", plots.RING, plots.TICK, plots.X]}},
    }
    ends = {"x": x | {"field": f"l{i}"}, "x2": {"field": f"h{i}"}, "y": y}
    zero = {"x": {"datum": 0 if column.name.startswith("delta") else 50}}
    layers = [
        _layer("rule", zero, style="reference"),
        _layer("rule", ends, style="interval"),
        _layer("point", {"x": x | {"field": f"v{i}"}, "y": y, **look}, size=52),
    ]
    if margin is not None:
        at = {"x": {"datum": _short(margin * (1 if column.unit == "0-1" else 100))}}
        beside = {"align": "right", "dx": -4} if lower else {"align": "left", "dx": 4}
        text = f"margin {at['x']['datum']:g}"
        layers.insert(0, _layer("rule", at, style="margin"))
        layers.append(_layer("text", at | {"y": {"value": 0}}, [{}], style="quiet", dy=7, text=text, **beside))
    one = [{"calculate": f"{list(SHOWN)}[datum.k{i}]", "as": "k"}]  # legends of panels are one where their fields are
    return {"transform": one} | plots.headed([inert(column.title)], layers, width)


# --- the plane of safety and helpfulness -------------------------------------------------------------------------


def plane(table: Table) -> Spec | None:
    """Safety against helpfulness, both 0-1 and higher better, with the joint 95 % region of each system's two means.

    The region is the ellipse in which the squared Mahalanobis distance is at most 5.991, cut at 0 and 1. It is computed
    where it is drawn, from the rows of a Cholesky factor: x + a·cos t, y + b·cos t + c·sin t.
    """
    data = [_region(r, r.plane) for r in table.rows if r.plane is not None]
    if not data:
        return None
    few = len(data) <= FEW
    named = data if few else [d for d in data if d["r"] == "baseline" or _ahead(d, data)][:FEW]
    spans = [_span([(d["x"], d["a"]) for d in data]), _span([(d["y"], math.hypot(d["b"], d["c"])) for d in data])]
    x, y = (NUMBER | {"scale": {"domain": span, "nice": False, "zero": False}} for span in spans)
    x |= {"title": "safety, 0-1 · better →", "axis": {"titleAnchor": "end"}}
    y |= {"title": "helpfulness, 0-1 · better →", "axis": {"titleAnchor": "end"}}
    roles = ("system", "baseline", "control")
    legend = {"title": None, "values": [r for r in roles if any(d["r"] == r for d in data)]}
    role = {"field": "r", "type": "nominal", "legend": legend}
    known: Spec = {"domain": list(roles)}
    colour = {"color": role | {"scale": known | {"range": "role"}}}
    shape = {"shape": role | {"scale": known | {"range": ["circle", "diamond", plots.X]}}}
    told = {"s": "system", "x": "safety", "y": "helpfulness"}
    point: Spec = {"x": x | {"field": "x"}, "y": y | {"field": "y"}, **colour, **shape}
    point["tooltip"] = [{"field": field, "title": title} for field, title in told.items()]
    path = {"x": x | {"field": "ex"}, "y": y | {"field": "ey"}, "detail": {"field": "s"}, "order": {"field": "t"}}
    outline: Spec = {
        "interpolate": "linear-closed",
        "strokeWidth": 1,
        "strokeOpacity": 0.8 if few else 0.25 if len(data) <= 50 else 0.15,
    }
    up = "datum.y + datum.b * cos(datum.t * PI / 20) + datum.c * sin(datum.t * PI / 20)"
    turn = [
        {"calculate": "sequence(0, 40)", "as": "t"},
        {"flatten": ["t"]},
        {"calculate": "min(1, max(0, datum.x + datum.a * cos(datum.t * PI / 20)))", "as": "ex"},
        {"calculate": f"min(1, max(0, {up}))", "as": "ey"},
    ]
    layers: list[Spec] = [
        {"transform": turn} | _layer("line", path | colour, **outline),
        _layer("point", point, size=70 if few else 30),
        *_labels(named, data, spans),
    ]
    return plots.sized({"height": 400, "data": {"values": data}, "layer": layers}, *WIDTHS)


WIDTHS, HEIGHT = (plots.WIDTH - 60, NARROW - 60), 400  # of the plane


def _region(row: Row, moments: tuple[float, float, float, float, float]) -> Spec:
    """A row's means and the Cholesky factor of its region."""
    safety, helpfulness, first, second, between = moments
    a = math.sqrt(first)
    b = between / a if a else 0.0
    c = math.sqrt(max(0.0, second - b * b))
    numbers = {"x": safety, "y": helpfulness} | {
        k: math.sqrt(JOINT_95) * v for k, v in zip("abc", (a, b, c), strict=True)
    }
    role = row.kind if row.kind in ("baseline", "system") else "control"
    return {"s": inert(row.system), "r": role} | {k: _short(v) for k, v in numbers.items()}


def _ahead(one: Spec, data: Sequence[Spec]) -> bool:
    """Whether no other system is at least as good on both axes and better on one."""
    rivals = [d for d in data if d["r"] != "control" and d["x"] >= one["x"] and d["y"] >= one["y"]]
    return one["r"] != "control" and all((d["x"], d["y"]) == (one["x"], one["y"]) for d in rivals)


def _span(reaches: Sequence[tuple[float, float]]) -> list[float]:
    """What an axis shows: all regions, cut where no mean can be, and a little more."""
    low, high = min(m - r for m, r in reaches), max(m + r for m, r in reaches)
    low, high = max(0.0, low), min(1.0, high)
    pad = 0.03 * (high - low) or 0.05
    return [_short(low - pad), _short(high + pad)]


SIDES = [(9, 0, "left"), (-9, 0, "right"), (0, -12, "center"), (0, 12, "center")]
SIDES += [(dx, dy, align) for dx, align in ((7, "left"), (-7, "right")) for dy in (-9, 9)]
PLACES = [(_short(ring * dx), _short(ring * dy), align, ring) for ring in (1, 2.6) for dx, dy, align in SIDES]


def _labels(named: Sequence[Spec], data: Sequence[Spec], spans: Sequence[Sequence[float]]) -> list[Spec]:
    """Names beside their points, each where it covers least, in the wide and the narrow picture together."""
    (left, right), (low, high) = spans
    turns = [t * math.pi / 6 for t in range(12 if len(data) <= FEW else 0)]

    def pixels(x: float, y: float, width: float) -> tuple[float, float]:
        return (x - left) / (right - left) * width, (high - y) / (high - low) * HEIGHT

    taken: dict[float, list[Box]] = {}
    for width in WIDTHS:
        spots = [(*pixels(d["x"], d["y"], width), 6.0) for d in data]
        edges = [
            (d["x"] + d["a"] * math.cos(t), d["y"] + d["b"] * math.cos(t) + d["c"] * math.sin(t))
            for d in data
            for t in turns
        ]
        spots += [(*pixels(*edge, width), 3.0) for edge in edges]
        taken[width] = [(x - r, y - r, x + r, y + r) for x, y, r in spots]
    layers: list[Spec] = []
    for d in named:
        tried = {p: {w: _box(pixels(d["x"], d["y"], w), d["s"], p) for w in WIDTHS} for p in PLACES}
        costs = {
            p: 60 * p[3] + sum(_covered(box, taken[w], w) for w, box in boxes.items()) for p, boxes in tried.items()
        }
        best = min(costs, key=costs.__getitem__)
        for w, box in tried[best].items():
            taken[w] += [box] * 5  # a name under a name is worse than a line under it
        layers += _label(d, best)
    return layers


def _box(spot: tuple[float, float], name: str, place: tuple[float, float, str, float]) -> Box:
    width = min(130, 5.6 * len(name))
    left = spot[0] + place[0] - width * {"left": 0.0, "center": 0.5, "right": 1.0}[place[2]]
    return left, spot[1] + place[1] - 6, left + width, spot[1] + place[1] + 6


def _covered(box: Box, taken: Sequence[Box], width: float) -> float:
    """Pixels of a box that lie on others or, which is worse, outside the picture."""
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, (0, 0, width, HEIGHT))
    return 5 * outside + sum(_overlap(box, other) for other in taken)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _label(d: Spec, place: tuple[float, float, str, float]) -> list[Spec]:
    dx, dy, align, ring = place
    at = {"x": NUMBER | {"field": "x"}, "y": NUMBER | {"field": "y"}}
    row = [{k: d[k] for k in "sxy"}]
    name = _layer("text", at | {"text": {"field": "s"}}, row, style="label", align=align, dx=dx, dy=dy)
    ends = at | {"x2": {"field": "x"}, "y2": {"field": "y"}}
    leader = _layer("rule", ends, row, style="leader", x2Offset=_short(0.9 * dx), y2Offset=_short(0.8 * dy))
    return [leader, name] if ring > 1 else [name]


# --- parts of the benchmark --------------------------------------------------------------------------------------


def breakdown(table: Table, by: str) -> Spec | None:
    """Scores per part of the benchmark: parts below each other, a panel per metric, systems by colour and shape.

    Args:
        table: its rows are sorted: baseline first, then from the best. Six are shown, three if parts are many.
        by: "intent", "risk_area", "category", "type" or "level".

    Returns:
        The spec; None if the rows have no such parts.
    """
    ranked = [r for r in table.rows if r.kind in ("baseline", "system") and r.parts.get(by)]
    parts = list(dict.fromkeys(part for r in ranked for part in r.parts[by]))
    rows = ranked[: 6 if len(parts) <= 20 else 3]
    metrics = [m for m in METRICS if any(m in found for r in rows for found in r.parts[by].values())]
    if not metrics:
        return None
    data: list[Spec] = [
        {"p": inert(part), "s": inert(r.system), "n": n} | _scores(r.parts[by][part], metrics)
        for part in parts
        for n, r in enumerate(rows)
        if part in r.parts[by]
    ]
    labels = _room((d["p"] for d in data), len(metrics)) + 16
    width = (plots.WIDTH - labels) / len(metrics) - 22
    views = [_scored(m, i, [inert(r.system) for r in rows], PARTS[by], width) for i, m in enumerate(metrics)]
    left = len(ranked) - len(rows)
    text = f"The baseline and the {len(rows) - 1} best systems; {left} more are not shown."
    note = {"title": {"text": text, "style": "note", "frame": "bounds"}} if left else {}
    spec = _panels(data, views, labels, width, **note)
    if left:
        spec["usermeta"]["narrow"]["title"] = {"text": text.replace("; ", ";\n").split("\n")}
    return spec


def _scores(found: Mapping[str, Any], metrics: Sequence[str]) -> Spec:
    known = ((i, found[m]) for i, m in enumerate(metrics) if m in found and found[m].value is not None)
    return {f"{k}{i}": _short(v) for i, e in known for k, v in (("v", e.value), ("l", e.low), ("h", e.high))}


def _scored(metric: str, i: int, names: Sequence[str], part: str, width: float) -> Spec:
    x = NUMBER | {"title": None, "scale": {"zero": False}, "axis": _share(metric)}
    system = {"field": "s", "type": "nominal", "scale": {"domain": names}}
    colour = {"color": system | {"scale": {"domain": names, "range": "systems"}, "legend": {"title": None}}}
    shape = {"shape": system | {"scale": {"domain": names, "range": list(SHAPES)}, "legend": {"title": None}}}
    y: Spec = {"field": "p", "type": "nominal", "sort": None, "title": None if i else part}
    y["axis"] = {"ticks": False, "grid": False, "labelPadding": 8} | ({"style": "follows"} if i else {})
    y["scale"] = {"paddingInner": 0.35, "paddingOuter": 0.2}
    shared = {"y": y, "yOffset": {"field": "n", "type": "ordinal", "sort": "ascending"}} | colour
    layers = [
        _layer("rule", shared | {"x": x | {"field": f"l{i}"}, "x2": {"field": f"h{i}"}}, style="interval"),
        _layer("point", shared | {"x": x | {"field": f"v{i}"}} | shape, size=36),
    ]
    return {"height": {"step": 8, "for": "offset"}} | plots.headed([TITLES[metric]], layers, width)


def _share(metric: str) -> Spec:
    """The axis of a share reads in per cent, as its column does; a score is on 0-1."""
    return {} if metric in ("joint", "helpfulness") else {"format": "~%"}


SHAPES = ("diamond", "circle", "square", "triangle-up", "cross", "triangle-down")  # the baseline's first, as in a plane


# --- which systems differ ----------------------------------------------------------------------------------------


def critical_difference(groups: Groups) -> Spec:
    """Systems on an axis by their score, with bars that join those that cannot be told apart.

    The layout is that of Demšar 2006 (JMLR 7:1-30), best on the right; more than thirty systems are a list.
    """
    ranks = [f"{b}" if b == w else f"{b}–{w}" for b, w in zip(groups.best, groups.worst, strict=True)]
    data: list[Spec] = [
        {"s": inert(name), "v": _short(groups.values[i]), "d": inert(groups.letters[i]), "k": ranks[i]}
        for i, name in enumerate(groups.systems)
    ]
    low, high = min(groups.values), max(groups.values)
    pad = 0.04 * (high - low) or 0.01
    x = NUMBER | {
        "field": "v",
        "title": f"{inert(groups.title)} {'↑' if groups.better == 'higher' else '↓'} · better →",
    }
    x["scale"] = {"domain": [_short(low - pad), _short(high + pad)], "nice": False, "reverse": groups.better == "lower"}
    return (_classic if len(data) <= CLASSIC else _list)(groups, data, x)


def _classic(groups: Groups, data: list[Spec], x: Spec) -> Spec:
    bars, levels = _stack(groups)
    top, step, right = 22 + 8 * levels, 25, (len(data) + 1) // 2
    height = top + step * right
    for i, d in enumerate(data):
        d["d"] = f"{d['d']} · rank {d.pop('k')}"
        d["y"] = top + step * (i if i < right else len(data) - 1 - i)
    x["axis"] = {"orient": "top", "grid": False} | _share(groups.metric) | _towards(x["scale"]["reverse"])
    y = NUMBER | {"field": "y", "axis": None, "scale": {"domain": [height, 0], "nice": False, "zero": False}}
    layers = [*_side("width", "left", 5, data[:right], x, y), *_side(0, "right", -5, data[right:], x, y)]
    for style in ("bar", "gap"):
        pieces = [{"f": f, "t": t, "y": at} for look, f, t, at in bars if look == style]
        layers.append(_layer("rule", {"x": x | {"field": "f"}, "x2": {"field": "t"}, "y": y}, pieces, style=style))
    if groups.critical is not None:
        layers += _ruler(groups.critical, x, groups.metric)
    labels = min(142, max(_room(d["s"] for d in data), 90))
    return plots.sized({"height": height, "layer": layers}, plots.WIDTH - 2 * labels, NARROW - 2 * min(labels, 90))


def _side(edge: str | int, align: str, dx: int, rows: Sequence[Spec], x: Spec, y: Spec) -> list[Spec]:
    """One side: from each system a line down from the axis and across to the edge, and its name there."""
    at = {"x": {"value": edge}, "y": y}
    marks = [
        _layer("rule", {"x": x, "y": y, "y2": {"value": 0}}, style="leader"),
        _layer("rule", {"x": x, "x2": {"value": edge}, "y": y}, style="leader"),
        _layer("text", at | {"text": {"field": "s"}}, style="label", align=align, dx=dx),
        _layer("text", at | {"text": {"field": "d"}}, style=["label", "quiet"], align=align, dx=dx, dy=11),
    ]
    return [{"data": {"values": rows}, "layer": marks}]


def _stack(groups: Groups) -> tuple[list[tuple[str, float, float, int]], int]:
    """Pieces of the bars of two or more systems (style, from, to, height), and how many bars lie below each other.

    Systems that a bar spans but that are not of its group are gaps in it.
    """
    values = [_short(v) for v in groups.values]
    ends: list[int] = []  # the last position of each level
    pieces: list[tuple[str, float, float, int]] = []
    for (first, last), skips in sorted(zip(groups.bars, groups.skips, strict=True)):
        if first == last:
            continue
        apart = 0.02 * abs(values[0] - values[-1])
        level = next((k for k, e in enumerate(ends) if e < first and abs(values[e] - values[first]) > apart), len(ends))
        ends[level : level + 1] = [last]
        members = [i for i in range(first, last + 1) if i not in skips]
        start = first
        for a, b in zip(members, [*members[1:], -1], strict=True):
            if b != a + 1:
                pieces.append(("bar", values[start], values[a], 14 + 8 * level))
                pieces += [("gap", values[a], values[b], 14 + 8 * level)] if b > 0 else []
                start = b
    return pieces, len(ends)


def _ruler(critical: float, x: Spec, metric: str) -> list[Spec]:
    """The critical difference to scale, above the axis."""
    low, high = x["scale"]["domain"]
    start, stop = (high, high - critical) if x["scale"]["reverse"] else (low, low + critical)
    row, y = [{"f": start, "t": _short(stop)}], {"y": {"value": -46}}
    size = f"{100 * critical:.1f} points" if _share(metric) else f"{critical:.3f}"
    words = {"align": "left", "dx": 6, "text": f"critical difference {size}"}
    return [
        _layer("rule", {"x": x | {"field": "f"}, "x2": {"field": "t"}} | y, row, style="bar"),
        _layer("text", {"x": x | {"field": "t"}} | y, row, style="quiet", **words),
    ]


def _list(groups: Groups, data: list[Spec], x: Spec) -> Spec:
    for i, d in enumerate(data):
        d |= {"b": groups.best[i], "w": groups.worst[i]}
    y = {"field": "s", "type": "nominal", "sort": None, "axis": NAMES}
    span = {"domain": [0.5, len(data) + 0.5], "nice": False, "zero": False, "reverse": True}
    rank = NUMBER | {"field": "b", "scale": span, "title": "rank, interval · better →"}
    places = {"x": rank, "x2": {"field": "w"}, "y": y | {"axis": NAMES | {"style": "follows"}}}
    letters = {"x": {"value": "width"}, "y": y, "text": {"field": "d"}}
    scores = [
        _layer("point", {"x": x, "y": y}, style="plain"),
        _layer("text", letters, style="quiet", align="left", dx=6),
    ]
    x["axis"] = _share(groups.metric)
    views: list[Spec] = [
        {"height": {"step": 12}, "layer": scores},
        {"height": {"step": 12}} | _layer("bar", places, height=4),
    ]
    labels = _room((d["s"] for d in data), 2)
    return _panels(data, views, labels, (plots.WIDTH - labels) / 2 - 40)


# --- over training -----------------------------------------------------------------------------------------------


def checkpoint_curve(board: Board) -> Spec | None:
    """Scores of the checkpoints over the training steps, a panel per table and metric, a series per run.

    Returns:
        The spec; None if no run has two checkpoints on the board.
    """
    steps = {name: s.curve for name, s in board.systems.items() if s.curve is not None and s.kind == "system"}
    runs = [c.run for c in steps.values()]
    points: list[plots.Point] = []
    base: list[plots.Point] = []
    for table in board.tables:
        for row in table.rows:
            curve = steps.get(row.system)
            if curve is not None and runs.count(curve.run) > 1:
                points += _points(table, row, curve.run, curve.step)
            elif row.kind == "baseline":
                base += _points(table, row, "", None)
    level = board.terms.get("level", 0.95)
    if not points:
        return None
    spec = plots.curves([], sorted(points, key=lambda p: p["step"] or 0), base, level=level)
    return _narrowed(spec, view={"continuousWidth": NARROW - 60})


def _points(table: Table, row: Row, run: str, step: int | None) -> list[plots.Point]:
    place = f"{table.benchmark} · {table.judge}"
    found = [(TITLES[m], row.measured[m]) for m in METRICS if m in row.measured]
    return [
        plots.Point(step=step, split=run, benchmark=place, metric=title, value=e.value, low=e.low, high=e.high)
        for title, e in found
        if e.value is not None
    ]
