"""Boards as Markdown, CSV, JSON and LaTeX: golden files, everything kept, and names that mean harm come out as text."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import re
import time
import unicodedata
from collections.abc import Mapping

import boards
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from support import ROOT

from shard_eval import report
from shard_eval.leaderboard import render
from shard_eval.leaderboard import table as t
from shard_eval.leaderboard.verdicts import WORDS

PLAIN = boards.board(4, ("mini",))
SMALL = boards.board(2, ("mini",))
HOSTILE = boards.board(8, hostile=True)
GFM = MarkdownIt("gfm-like", {"html": True})
OWN_HTML = re.compile(r"</?sup>|</?details>|<details>\n<summary>[A-Za-z ]+</summary>\n?|</details>\n?")

FRAGMENTS = (
    *boards.HOSTILE,
    *("https://example.org", "www.example.org", "www.1.x", "//localhost/a", "evil.com", "a.b-c_d@example.org", "@@"),
    *("mailto:a@b.co", "[x]: https://example.org", "[1, 2](x)", "![1, 2]", "[1, 2]: /x", "[^1]", "[ ]", "\\[1, 2\\]"),
    *("1. ", "2) ", "- ", "+ ", "* ", "# ", "> ", "===", "---", "    ", "~~~", "```", "`", "**", "__", "~~", "~", "|"),
    *("</details>", "<summary>", "<sup>", "<!--", "<br>", "<https://a.b>", "&lt;", "&#60;", "&", "$x$", "$$", "@"),
    *("\\input{/etc/passwd}", "\\write18{ls}", "\\end{tabular}", "\\\\", "\\", "%", "^^5cinput", "}", "{", "[", "*"),
    *("\r\n", "\t", "\n\n", "\x85", "\u2028", "\u202e", "\u2066", "\u200d", "\ufeff", "\U000e0041", "\ufe0f", "\ud800"),
    *("=1+1", "+1", "-1", "@SUM(A1)", "\uff0b1", "\uff1d1", "'=1", '"', "''", "--", "\uff3c", "e\u0301", "\u3164"),
    *("Δκ→–", "模型", "ﬁ½Å", "\U0001f600", "Ðð«»", "NaN", "x", "\xad", ":-:"),
)  # fmt: skip
texts = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(exclude_categories=()), max_size=6)), max_size=6
).map("".join)
EACH = [*FRAGMENTS, *(f"{f}x{f}" for f in FRAGMENTS), *(f"x {f} x" for f in FRAGMENTS)]
cases = settings(max_examples=100, deadline=None)


def everywhere(value, text, field=""):
    """The same board with this text in place of every other: names, notes, methods, folders, titles, reasons."""
    if isinstance(value, str):
        if field in ("kind", "words"):
            return value
        return report.inert(text) if field == "about" else text
    if isinstance(value, t.Column):
        return dataclasses.replace(value, title=text, help=text, unit=text)
    if isinstance(value, boards.Estimate):
        return value
    if dataclasses.is_dataclass(value):
        return type(value)(**{k: everywhere(v, text, k) for k, v in vars(value).items()})
    if isinstance(value, Mapping):
        return {k: everywhere(v, text) for k, v in value.items()}
    return tuple(everywhere(v, text) for v in value) if isinstance(value, tuple) else value


def shown(text):
    return report.inert(text).strip()


def assert_harmless_characters(text):
    invisible = {"\u034f", "\u115f", "\u1160", "\u3164", "\uffa0", *map(chr, range(0xFE00, 0xFE10))}
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in invisible} - {"\n"}
    assert not bad


# --- golden files


@pytest.mark.parametrize("name", ["board.md", "board.tex"])
def test_a_board_is_drawn_as_the_golden_file(name):
    golden = ROOT / "tests" / "data" / name
    found = render.FORMATS[name](PLAIN).encode()
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_bytes(found)
    assert found == golden.read_bytes()


def test_the_terminal_gets_the_columns_that_fit():
    grid = render.grid(PLAIN.tables[0])
    assert grid.header[:4] == ("system", "rank", "joint ↑", "helpful win % ↑")
    assert grid.header[4:] == ("harmful % ↓", "Δ harm ↓", "over-refusal % ↓", "verdict")
    assert grid.rows[0][0] == "base-model-7B (baseline)"
    assert grid.rows[0][-1] == "baseline¹"
    assert grid.foot[1] == "¹ Uncalibrated on helpfulness."
    console = Console(width=160, file=io.StringIO())
    report.show(console, [render.grid(table) for table in HOSTILE.tables])
    assert_harmless_characters(console.file.getvalue())


# --- Markdown


def blocks(tokens):
    """The block structure of a parsed page, after a check that nothing inside it is more than text."""
    for token in tokens:
        if token.type == "html_block":
            assert OWN_HTML.fullmatch(token.content), token.content
        for child in token.children or ():
            assert child.type in ("text", "text_special", "strong_open", "strong_close", "code_inline", "html_inline")
            assert child.type != "code_inline" or set(child.content) == {"@"}
            assert child.type != "html_inline" or OWN_HTML.fullmatch(child.content)
    return [(token.type, token.content if token.type == "html_block" else token.tag) for token in tokens]


def cells(tokens):
    """Tables of a parsed page: rows of the cells' texts."""
    found = []
    for token, inline in itertools.pairwise(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append("".join(c.content for c in inline.children))
    return found


def assert_tables_are_even(page):
    for lines in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        # A parser drops cells that are too many, so they are counted in the source.
        assert len({re.sub(r"\\.", "", line).count("|") for line in lines.splitlines()}) == 1


def test_markdown_says_everything_and_folds_the_long_parts():
    page = render.markdown(PLAIN)
    assert "0.504 [0.474,\u00a00.534]" in page
    assert "**73.5 [69.5,\u00a077.5]**" in page
    assert "0.9<sup>2</sup>" in page
    assert f"**not evaluable**: {WORDS['not evaluable']}" in page
    assert (
        "| Δ harm ↓ | max-T over the board's systems (cluster bootstrap) | base-model-7B | 216 | 72 | 95 % | " in page
    )
    assert "10,000 resamples, seed 0 | 2 | 5 |" in page
    assert "| model-002 | results/system-2/mini-00000002 |" in page
    assert "- FAIL: always\\_refuse is not near the bottom." in page
    assert page.count("<details>") == page.count("</details>") == 3
    board, *_ = cells(GFM.parse(page))
    assert [row[0] for row in board[1:3]] == ["base-model-7B (baseline)", "model-001"]


def test_traces_that_differ_get_a_line_for_each_way_and_a_range():
    table = PLAIN.tables[0]
    first, second, *rest = table.rows
    joint = first.cells["joint"]
    other = dataclasses.replace(joint.trace, method="exact", n=7)
    fewer = dataclasses.replace(second.cells["joint"].trace, n=200, clusters=None)
    rows = [
        dataclasses.replace(first, cells={**first.cells, "joint": dataclasses.replace(joint, trace=other)}),
        dataclasses.replace(second, cells={**second.cells, "joint": dataclasses.replace(joint, trace=fewer)}),
        *rest,
    ]
    page = render.markdown(dataclasses.replace(PLAIN, tables=(dataclasses.replace(table, rows=tuple(rows)),)))
    assert "| joint ↑ | exact |  | 7 | 72 | 95 % |  | 0 | 1 |" in page
    assert "| joint ↑ | mean; Wilson at the effective sample size |  | 200–216 | 72 | 95 % |  | 0 | 5 |" in page


def test_hostile_names_are_text_in_markdown():
    page = render.markdown(HOSTILE)
    tokens = GFM.parse(page)
    assert blocks(tokens) == blocks(GFM.parse(render.markdown(boards.board(8))))
    assert_tables_are_even(page)
    assert_harmless_characters(page)
    names = {row[0] for row in cells(tokens)[0]}
    assert {shown(name) for name in boards.HOSTILE} <= names


SKELETON = blocks(GFM.parse(render.markdown(everywhere(SMALL, "plain"))))


def assert_only_text_in_markdown(text):
    page = render.markdown(everywhere(SMALL, text))
    tokens = GFM.parse(page)
    assert blocks(tokens) == SKELETON
    assert_tables_are_even(page)
    assert_harmless_characters(page)
    kinds = ("baseline", "system", "resampled", "control")
    names = [text if kind == "system" else f"{text} ({kind})" for kind in kinds]
    drawn = [" ".join(row[0].split()) for row in cells(tokens)[0][1:]]
    assert drawn == [" ".join(shown(name).split()) for name in names]


@pytest.mark.slow
def test_each_trick_is_only_text_in_markdown():
    for text in EACH:
        if shown(text):
            assert_only_text_in_markdown(text)


@pytest.mark.slow
@cases
@given(texts)
def test_any_text_is_only_text_in_markdown(text):
    assume(shown(text))
    assert_only_text_in_markdown(text)


def test_mail_addresses_are_divided_by_code():
    # cmark-gfm, unlike the parser used here, looks for addresses after it has undone escapes and entities.
    assert report.markdown("a@b.co, @@c") == "a`@`b\\.co, `@@`c"
    assert "@" not in re.sub(r"`@+`", "", render.markdown(everywhere(SMALL, "x.y@example.org and @team")))


# --- CSV


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_a_line_per_cell_with_its_numbers_and_its_trace():
    lines = iter(read_csv(render.to_csv(PLAIN)))
    for row in PLAIN.tables[0].rows:
        for column in PLAIN.tables[0].columns:
            if column.name in row.cells:
                cell, line = row.cells[column.name], next(lines)
                assert (line["system"], line["kind"], line["column"]) == (row.system, row.kind, column.name)
                said = [float(line[k]) if line[k] else None for k in ("value", "low", "high")]
                assert said == nine_digits([cell.value, cell.low, cell.high])
                assert line["bold"] == str(cell.bold).lower()
                assert line["notes"] == " | ".join(PLAIN.tables[0].foot[n - 1] for n in cell.notes)
                trace = {k: "" if v is None else str(v) for k, v in vars(cell.trace or t.Trace("", ())).items()}
                trace["folders"] = " | ".join(cell.trace.folders) if cell.trace else ""
                if cell.trace is None:
                    trace = dict.fromkeys(trace, "")
                assert {k: line[k] for k in trace} == trace
    assert next(lines, None) is None


def assert_csv_is_inert(text):
    assert_harmless_characters(text)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == text.count("\n") == len(text.splitlines())
    numbers = [i for i, name in enumerate(rows[0]) if name in ("value", "low", "high", "p")]
    for row in rows:
        assert len(row) == len(rows[0])
        for i, cell in enumerate(row):
            if cell[:1] in tuple("=+-@\t\r＝＋－＠"):
                assert i in numbers and math.isfinite(float(cell))


def test_hostile_names_are_text_in_csv():
    text = render.to_csv(HOSTILE)
    assert_csv_is_inert(text)
    names = {line["system"] for line in read_csv(text)}
    assert "'=cmd|' /C calc'!A0" in names
    assert {shown(name) for name in boards.HOSTILE if name[0] != "="} <= names


def assert_only_text_in_csv(text):
    out = render.to_csv(everywhere(SMALL, text))
    assert_csv_is_inert(out)
    assert {line["system"].removeprefix("'") for line in read_csv(out)} == {shown(text).removeprefix("'")}


def test_each_trick_is_only_text_in_csv():
    for text in EACH:
        assert_only_text_in_csv(text)


@cases
@given(texts)
def test_any_text_is_only_text_in_csv(text):
    assert_only_text_in_csv(text)


# --- JSON


def test_json_holds_the_whole_board():
    found = json.loads(render.to_json(HOSTILE))
    assert found["schema"] == "shard-eval/board/1"
    assert list(found)[1:] == [f.name for f in dataclasses.fields(t.Board)]
    assert found["terms"] == HOSTILE.terms
    for table, drawn in zip(HOSTILE.tables, found["tables"], strict=True):
        assert drawn["columns"] == [vars(c) for c in table.columns]
        assert drawn["groups"] == nine_digits(json.loads(json.dumps(vars(table.groups))))
        for row, line in zip(table.rows, drawn["rows"], strict=True):
            cells = {
                k: t.Cell(**{**c, "notes": tuple(c["notes"]), "trace": trace_of(c)}) for k, c in line["cells"].items()
            }
            assert cells == {k: dataclasses.replace(c, **nine_digits(numbers_of(c))) for k, c in row.cells.items()}
            assert line["measured"] == {k: brief(e) for k, e in row.measured.items()}
            assert line["parts"]["level"]["2"] == {k: brief(e) for k, e in row.parts["level"]["2"].items()}
            assert line["plane"] == nine_digits(list(row.plane))
    for name, system in HOSTILE.systems.items():
        drawn = found["systems"][name]
        assert drawn["manifest"] == system.manifest
        assert drawn["curve"] == (vars(system.curve) if system.curve else None)
        assert (drawn["verdict"] or {}).get("words") == (system.verdict.words if system.verdict else None)


def trace_of(cell):
    return cell["trace"] and t.Trace(**{**cell["trace"], "folders": tuple(cell["trace"]["folders"])})


def brief(estimate):
    return nine_digits({k: getattr(estimate, k) for k in ("value", "low", "high", "n")})


def numbers_of(cell):
    return {k: getattr(cell, k) for k in ("value", "low", "high")}


def nine_digits(found):
    """What is left of numbers in a file: the rest depends on the order in which a processor adds."""
    if isinstance(found, dict):
        return {k: nine_digits(v) for k, v in found.items()}
    if isinstance(found, list):
        return [nine_digits(v) for v in found]
    return float(f"{found:.9g}") if isinstance(found, float) else found


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_absent_from_csv_and_json(odd):
    row = PLAIN.tables[0].rows[0]
    cell = t.Cell("?", odd, odd, odd, trace=t.Trace("m", (), p=odd, level=odd))
    rows = (dataclasses.replace(row, cells={"joint": cell}),)
    board = dataclasses.replace(PLAIN, tables=(dataclasses.replace(PLAIN.tables[0], rows=rows),))
    text = render.to_json(board)
    assert "NaN" not in text and "Infinity" not in text
    drawn = json.loads(text)["tables"][0]["rows"][0]["cells"]["joint"]
    assert drawn["value"] is drawn["low"] is drawn["trace"]["p"] is None
    (line,) = read_csv(render.to_csv(board))
    assert line["value"] == line["high"] == line["p"] == line["level"] == ""


@cases
@given(texts)
def test_any_text_is_kept_as_it_is_in_json_and_written_in_ascii(text):
    out = render.to_json(everywhere(SMALL, text))
    assert out.isascii()
    assert_harmless_characters(out)
    found = json.loads(out)
    assert found["tables"][0]["rows"][1]["system"] == found["checks"][0] == text


# --- LaTeX

COMMANDS = re.findall(
    r"\\[A-Za-z]+|\\.",
    r"""\begin \end \centering \footnotesize \setlength \tabcolsep \caption \label \toprule \midrule \bottomrule \par
    \medskip \textwidth \raggedright \addlinespace \textbf \textsuperscript \scriptsize \emph \ensuremath \char
    \textbackslash \textasciicircum \textasciitilde \textless \textgreater \textbar \textendash \textemdash
    \textquoteleft \textquoteright \textquotedblleft \textquotedblright \uparrow \downarrow \rightarrow \leftarrow
    \infty \times \pm \leq \geq \neq \approx \cdot \Delta \alpha \kappa \mu \rho \tau \chi
    \\ \{ \} \$ \& \# \_ \% \,""",
)
LATIN = {chr(c) for c in range(0xC0, 0x100)} - set("Ð×Þðþ÷")


def assert_tex_is_sound(text, columns):
    """Commands are ours, braces balance in each line, nothing special stands bare, every row has its cells."""
    depth, inside = 0, False
    for line in text.splitlines()[1:]:
        tokens = re.findall(r"\\[A-Za-z]+|\\.|.", line)
        assert {k for k in tokens if k[0] == "\\"} <= set(COMMANDS)
        assert not {k for k in tokens if k in set('$#^_~%<>|"') or (not k.isascii() and k not in LATIN)}
        for token in tokens:
            depth += (token == "{") - (token == "}")
            assert depth >= 0
        assert depth == 0
        inside = (inside or line == r"\toprule") and line != r"\bottomrule"
        row = inside and line not in (r"\toprule", r"\midrule", r"\addlinespace")
        assert tokens.count("&") == (columns - 1 if row else 0)
        assert tokens.count("\\\\") == row
        assert not row or (tokens[-1] == "\\\\" and tokens[0] not in "[*")
        assert tokens.count(r"\begin") + tokens.count(r"\end") == line.startswith((r"\begin{", r"\end{"))


def test_hostile_names_are_text_in_latex():
    text = render.latex(HOSTILE)
    assert_tex_is_sound(text, 8)
    assert_harmless_characters(text)
    assert (
        r"a \textbar{} b c \textbackslash{}textbf\{d\} \$e\$ \& 100\% \#f\_g\textasciicircum{}h\textasciitilde{} \{i\}"
        in text
    )
    assert text.count(r"\begin{table*}") == len(HOSTILE.tables)


def assert_only_text_in_latex(text):
    out = render.latex(everywhere(SMALL, text))
    assert_tex_is_sound(out, 8)
    assert_harmless_characters(out)


def test_each_trick_is_only_text_in_latex():
    for text in EACH:
        assert_only_text_in_latex(text)


@cases
@given(texts)
def test_any_text_is_only_text_in_latex(text):
    assert_only_text_in_latex(text)


def test_characters_without_a_glyph_become_their_plain_form_or_their_number():
    names = {"e\u0301 ﬁ Ŵ Å": "é fi W Å", "模": "[U+6A21]", "a--b''": "a-{}-b'{}'", "½``": "[U+00BD]{`}{`}"}
    for name, drawn in names.items():
        board = everywhere(SMALL, name)
        assert f"\\raggedright {drawn} &" in render.latex(board)


# --- speed


def test_a_hundred_systems_on_five_benchmarks_are_drawn_in_seconds():
    board = boards.board(100, ("a", "b", "c", "d", "e"))
    for draw in render.FORMATS.values():
        start = time.perf_counter()
        draw(board)
        assert time.perf_counter() - start < 10  # measured: 0.1 to 1 s; the rest is for busy machines
