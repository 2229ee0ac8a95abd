"""The board's pictures: their numbers are the tables', every spec draws, and names are only ever text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import boards
import numpy as np
import pytest
import vl_convert

from shard_eval import plots
from shard_eval.leaderboard import pictures
from shard_eval.leaderboard import table as t
from shard_eval.report import inert

KINDS = {"forest", "plane", "breakdown-intent", "breakdown-risk_area", "breakdown-category", "breakdown-level"}
SVG = "{http://www.w3.org/2000/svg}"


def parsed(spec: dict) -> ElementTree.Element:
    return ElementTree.fromstring(plots.draw("svg", spec))


def texts(svg: ElementTree.Element) -> set[str]:
    return {"".join(node.itertext()) for node in svg.iter(f"{SVG}text")}


def all_specs(board: t.Board) -> list[dict]:
    return [spec for found in pictures.pictures(board).values() for _, spec in found]


def laid(over: dict, under: dict) -> dict:
    """As the page does it on a narrow screen."""
    both = {k: laid(v, under[k]) for k, v in over.items() if isinstance(v, dict) and isinstance(under.get(k), dict)}
    return under | over | both


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def groups(*values: float, bars=((0, 1),), skips=((),), better="higher", critical: float | None = 0.05) -> t.Groups:
    n = len(values)
    return t.Groups(
        "joint", "joint", tuple(f"s{i}" for i in range(n)), values, bars, skips, tuple(range(1, n + 1)),
        (n,) * n, ("a",) * n, critical, "a test", better,
    )  # fmt: skip


def test_a_board_has_each_picture_of_each_table_and_the_same_ones_every_time():
    found = pictures.pictures(boards.board(4))
    assert [(key, len(some)) for key, some in found.items()] == [("mini-embedded", 7), ("dna-embedded", 7), ("", 1)]
    assert all(caption.endswith(".") for some in found.values() for caption, _ in some)
    assert compact(found) == compact(pictures.pictures(boards.board(4)))


@pytest.mark.parametrize("systems", [3, 30, 100])
def test_every_picture_draws_and_fits_a_column_and_a_phone(systems):
    for spec in all_specs(boards.board(systems, ("mini",))):
        for width, limit in ((plots.WIDTH, 60), (plots.NARROW, 40)):
            shown = spec if width == plots.WIDTH else laid(spec["usermeta"]["narrow"], spec)
            svg = parsed(shown)
            assert width / 2 < float(svg.attrib["width"]) < width + limit, (spec.get("title"), svg.attrib["width"])


def test_files_are_svg_and_png_and_the_same_every_time():
    board = boards.board(3, ("mini",))
    found = pictures.files(board)
    stems = {*(f"mini-embedded-{kind}" for kind in KINDS), "mini-embedded-critical-difference", "checkpoints"}
    assert set(found) == {f"pictures/{stem}.{ending}" for stem in stems for ending in ("svg", "png")}
    assert all(ElementTree.fromstring(data).tag == f"{SVG}svg" for name, data in found.items() if name.endswith("svg"))
    assert all(data[:8] == b"\x89PNG\r\n\x1a\n" for name, data in found.items() if name.endswith("png"))
    name = "pictures/mini-embedded-plane.svg"
    assert plots.draw("svg", pictures.plane(board.tables[0])) == found[name]


def test_a_hundred_systems_on_five_benchmarks_are_less_than_450_kB():
    board = boards.board(100, tuple("abcde"))
    assert len(compact(pictures.pictures(board)).encode()) < 450_000


# --- names ---------------------------------------------------------------------------------------------------------


def test_hostile_names_come_out_as_text():
    board = boards.board(8, ("mini",), hostile=True)
    for spec in all_specs(board):
        svg = parsed(spec)
        assert {node.tag.removeprefix(SVG) for node in svg.iter()} <= {
            "svg",
            "g",
            "path",
            "rect",
            "text",
            "tspan",
            "line",
            "clipPath",
            "defs",
        }
        assert not [a for node in svg.iter() for a in node.attrib if "href" in a or a.startswith("on")]
    shown = texts(parsed(pictures.forest(board.tables[0], board)))
    for name in boards.HOSTILE:
        assert any(text == inert(name) or inert(name).startswith(text.removesuffix("…")) for text in shown), name


def expressions(node: object) -> list[str]:
    """What Vega would evaluate in a compiled spec."""
    if isinstance(node, dict):
        own = [v for k, v in node.items() if k in ("expr", "signal", "test") and isinstance(v, str)]
        return own + [e for v in node.values() for e in expressions(v)]
    return [e for v in node for e in expressions(v)] if isinstance(node, list) else []


def test_names_never_reach_an_expression():
    name = 'datum["x"] \' + alert(1) \\ toString()'

    def renamed(text: str) -> str:
        return name if text == "model-001" else text

    board = boards.board(3, ("mini",))
    table = board.tables[0]
    ranked = replace(table.groups, systems=tuple(map(renamed, table.groups.systems)), title=name)
    rows = tuple(replace(r, system=renamed(r.system)) for r in table.rows)
    columns = tuple(replace(c, title=f"{name} ↓" if c.name == "win" else c.title) for c in table.columns)
    systems = {renamed(k): replace(s, curve=s.curve and t.Curve(name, s.curve.step)) for k, s in board.systems.items()}
    table = replace(table, rows=rows, groups=ranked, columns=columns)
    for spec in all_specs(replace(board, tables=(table,), systems=systems)):
        assert json.dumps(name)[1:-1] in compact(spec)
        found = expressions(vl_convert.vegalite_to_vega(spec, plots.VEGA_LITE, config=plots.config()))
        assert found and not [e for e in found if "alert" in e]
        assert any(name.startswith(text.removesuffix("…")) for text in texts(parsed(spec)) if len(text) > 9)


# --- numbers -------------------------------------------------------------------------------------------------------


def test_the_forest_holds_the_tables_numbers():
    board = boards.board(8)
    table = board.tables[0]
    spec = pictures.forest(table, board)
    rows = {r.system: r for r in table.rows if r.kind != "baseline"}
    assert [d["s"] for d in spec["data"]["values"]] == list(rows)
    for d in spec["data"]["values"]:
        for i, column in enumerate(("win", "win_equal_length", "delta_harm")):
            cell = rows[d["s"]].cells[column]
            assert (d[f"v{i}"], d[f"l{i}"], d[f"h{i}"]) == pytest.approx((cell.value, cell.low, cell.high), rel=1e-4)
            otherwise = "not tested" if column == "win_equal_length" else "not shown to be better"
            expected = "significantly better" if cell.bold else otherwise
            assert pictures.SHOWN[d[f"k{i}"]] == (
                "control" if rows[d["s"]].kind in ("control", "resampled") else expected
            )
    win, _, harm = (panel["layer"] for panel in spec["concat"])
    assert win[0]["encoding"]["x"] == {"datum": 50}
    assert harm[0]["encoding"]["x"] == {"datum": 2.0} and harm[1]["encoding"]["x"] == {"datum": 0}
    assert harm[2]["encoding"]["x"]["scale"]["reverse"] and not win[1]["encoding"]["x"]["scale"]["reverse"]
    assert {"margin 2", "Δ harm ↓", "points · better →", "significantly better", "control"} <= texts(parsed(spec))


def test_a_table_without_comparisons_or_parts_has_no_such_picture():
    board = boards.board(3)
    bare = tuple(replace(r, cells={}, parts={}, plane=None) for r in board.tables[0].rows)
    table = replace(board.tables[0], rows=bare, groups=None)
    assert pictures.forest(table, board) is None and pictures.plane(table) is None
    assert pictures.breakdown(table, "intent") is None
    assert "mini-embedded" not in pictures.pictures(replace(board, tables=(table, board.tables[1])))


def test_a_missing_cell_leaves_the_others_in_place():
    board = boards.board(3)
    first, second, *others = board.tables[0].rows
    less = replace(second, cells={k: v for k, v in second.cells.items() if k != "win"})
    spec = pictures.forest(replace(board.tables[0], rows=(first, less, *others)), board)
    assert "v0" not in spec["data"]["values"][0] and "v1" in spec["data"]["values"][0]
    assert second.system in texts(parsed(spec))


def test_the_planes_region_holds_95_percent_of_draws():
    moments = (0.8, 0.5, 0.03**2, 0.02**2, 0.6 * 0.03 * 0.02)
    row = replace(boards.board(3).tables[0].rows[1], plane=moments)
    d = pictures.plane(replace(boards.board(3).tables[0], rows=(row,)))["data"]["values"][0]
    assert (d["x"], d["y"], d["r"]) == (0.8, 0.5, "system")
    draws = np.random.default_rng(0).multivariate_normal(
        moments[:2], [[moments[2], moments[4]], [moments[4], moments[3]]], 40_000
    )
    p = (draws[:, 0] - d["x"]) / d["a"]
    q = (draws[:, 1] - d["y"] - d["b"] * p) / d["c"]
    assert np.mean(p**2 + q**2 <= 1) == pytest.approx(0.95, abs=0.004)


def test_the_ellipse_that_is_drawn_is_the_region():
    board = boards.board(3, ("mini",))
    spec = pictures.plane(board.tables[0])
    d = spec["data"]["values"][1]
    paths = [n.attrib["d"] for n in parsed(spec).iter(f"{SVG}path") if n.attrib.get("d", "").count("L") >= 38]
    assert len(paths) == len(spec["data"]["values"])
    points = np.array([[float(v) for v in pair.split(",")] for pair in re.findall(r"[-\d.]+,[-\d.]+", paths[1])])
    (left, right), (low, high) = (spec["layer"][0]["encoding"][axis]["scale"]["domain"] for axis in "xy")
    x = left + points[:, 0] / (plots.WIDTH - 60) * (right - left)
    y = high - points[:, 1] / 400 * (high - low)
    p, q = (x - d["x"]) / d["a"], (y - d["y"] - d["b"] / d["a"] * (x - d["x"])) / d["c"]
    assert np.allclose(p**2 + q**2, 1, atol=0.02)


def test_names_in_the_plane_do_not_cover_each_other():
    table = boards.board(12).tables[0]
    spec = pictures.plane(table)
    (left, right), (low, high) = (spec["layer"][0]["encoding"][axis]["scale"]["domain"] for axis in "xy")
    boxes = []
    for layer in spec["layer"][2:]:
        if (mark := layer["mark"])["type"] == "text":
            d = layer["data"]["values"][0]
            spot = (d["x"] - left) / (right - left) * 580, (high - d["y"]) / (high - low) * 400
            boxes.append(pictures._box(spot, d["s"], (mark["dx"], mark["dy"], mark["align"], 1)))
    assert len(boxes) == len(table.rows)
    assert sum(pictures._overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]) == 0


def test_of_many_systems_the_plane_names_the_baseline_and_those_that_none_surpasses():
    table = boards.board(30).tables[0]
    named = {d["s"] for layer in pictures.plane(table)["layer"][2:] for d in layer["data"]["values"]}
    plain = [r for r in table.rows if r.kind in ("baseline", "system")]
    front = {r.system for r in plain if not any(o.plane[0] > r.plane[0] and o.plane[1] > r.plane[1] for o in plain)}
    assert named == front | {"base-model-7B"}


def test_the_breakdown_shows_the_baseline_and_the_best_and_says_how_many_it_leaves_out():
    table = boards.board(9).tables[0]
    spec = pictures.breakdown(table, "category")
    shown = [r for r in table.rows if r.kind in ("baseline", "system")][:6]
    assert len(spec["data"]["values"]) == 4 * 6
    for d in spec["data"]["values"]:
        row = next(r for r in shown if r.system == d["s"])
        for i, metric in enumerate(pictures.METRICS):
            e = row.parts["category"][d["p"]][metric]
            assert (d[f"v{i}"], d[f"l{i}"], d[f"h{i}"]) == pytest.approx((e.value, e.low, e.high), rel=1e-4)
    assert "The baseline and the 5 best systems; 3 more are not shown." in texts(parsed(spec))
    assert "title" not in pictures.breakdown(boards.board(6).tables[0], "category")


# --- critical difference -------------------------------------------------------------------------------------------


def test_bars_join_what_cannot_be_told_apart_and_leave_gaps_for_others():
    spec = pictures.critical_difference(groups(0.8, 0.7, 0.6, 0.5, bars=((0, 1), (1, 3)), skips=((), (2,))))
    pieces = {layer["mark"]["style"]: layer["data"]["values"] for layer in spec["layer"][2:4]}
    assert [(p["f"], p["t"]) for p in pieces["bar"]] == [(0.8, 0.7), (0.7, 0.7), (0.5, 0.5)]
    assert [(p["f"], p["t"]) for p in pieces["gap"]] == [(0.7, 0.5)]
    levels = {p["y"] for p in pieces["bar"]}
    assert len(levels) == 2  # bars that share an end do not run into each other


def test_the_ruler_is_as_long_as_the_critical_difference_and_the_better_end_is_right():
    for better, reverse in (("higher", False), ("lower", True)):
        spec = pictures.critical_difference(groups(0.8, 0.6, better=better))
        ruler = spec["layer"][-1]["data"]["values"][0]
        assert abs(ruler["t"] - ruler["f"]) == pytest.approx(0.05)
        assert spec["layer"][-1]["encoding"]["x"]["scale"]["reverse"] is reverse
        assert "critical difference 0.050" in texts(parsed(spec))
    assert not any(
        "critical" in text for text in texts(parsed(pictures.critical_difference(groups(0.8, 0.6, critical=None))))
    )


@pytest.mark.parametrize("systems", [3, 30, 31])
def test_every_ranked_system_is_named_with_letters_and_ranks(systems):
    found = boards.board(systems).tables[0].groups
    shown = texts(parsed(pictures.critical_difference(found)))
    assert set(found.systems) <= shown
    if systems <= 30:
        assert f"{found.letters[0]} · rank {found.best[0]}–{found.worst[0]}" in shown


def test_systems_that_all_score_the_same_draw():
    spec = pictures.critical_difference(groups(0.5, 0.5, 0.5, bars=((0, 2),), skips=((),)))
    assert {"s0", "s1", "s2"} <= texts(parsed(spec))


# --- over training -------------------------------------------------------------------------------------------------


def test_the_checkpoint_curve_holds_the_runs_scores_and_the_baseline_as_band():
    board = boards.board(4, ("mini",))
    spec = pictures.checkpoint_curve(board)
    assert len(spec["concat"]) == 3
    joint = spec["concat"][0]["layer"]
    rows = {board.systems[r.system].curve.step: r for r in board.tables[0].rows if board.systems[r.system].curve}
    base = rows.pop(0).measured["joint"]
    band = joint[0]["data"]["values"][0]
    assert (band["value"], band["low"], band["high"]) == pytest.approx((base.value, base.low, base.high), rel=1e-4)
    drawn = {v["step"]: v["value"] for v in joint[2]["data"]["values"]}
    assert drawn == pytest.approx({step: r.measured["joint"].value for step, r in rows.items()}, rel=1e-4)
    assert list(drawn) == [10, 20, 30]
    alone = {n: replace(s, curve=None) if n == "model-001" else s for n, s in boards.board(3).systems.items()}
    assert pictures.checkpoint_curve(replace(boards.board(3), systems=alone)) is None


def test_the_config_holds_all_colours_and_dark_differs_from_light():
    for spec in all_specs(boards.board(8)):
        assert not re.search(r'"#[0-9A-Fa-f]{3,6}"', compact(spec))
    light, dark = plots.config(), plots.config(dark=True)
    assert light["text"] != dark["text"] and set(light["style"]) == set(dark["style"])
    assert light["background"] == dark["background"] == "transparent"


def test_the_quantile_of_the_region_is_that_of_two_degrees_of_freedom():
    assert -2 * math.log(0.05) == pytest.approx(pictures.JOINT_95)
