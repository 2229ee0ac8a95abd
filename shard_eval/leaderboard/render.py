"""A board as Markdown, CSV, JSON and LaTeX: pure functions of a `table.Board`.

    for name, draw in FORMATS.items():
        (folder / name).write_bytes(draw(board).encode())

Names, notes and foot lines were written by somebody else: in each format they come out as text and nothing more.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shard_eval import report
from shard_eval.leaderboard.table import Board, Cell, Column, Row, Table, Trace
from shard_eval.leaderboard.verdicts import WORDS
from shard_eval.logs import inert_cell
from shard_eval.stats.intervals import Estimate

SCHEMA = "shard-eval/board/1"
FITS = ("rank", "joint", "win", "harm", "delta_harm", "over_refusal", "verdict")
"""Columns that fit a terminal and a page of a paper."""

_INTERVAL = re.compile(r"\\\[(-?\d[\d.]*), (-?\d[\d.]*)\\\](?![\[(:])")


def grid(table: Table) -> report.Grid:
    """A table for the terminal: the columns that fit."""
    columns = _fitting(table)
    rows = tuple((_name(row), *(_text(row.cells.get(c.name)) for c in columns)) for row in table.rows)
    foot = tuple(f"{_raised(number)} {line}" for number, line in enumerate(table.foot, 1))
    head = ("system", *(c.title for c in columns))
    return report.Grid(table.title, head, rows, (table.passport, *foot) if table.passport else foot)


def _fitting(table: Table) -> list[Column]:
    return [c for c in table.columns if c.name in FITS]


def _name(row: Row) -> str:
    return row.system if row.kind == "system" else f"{row.system} ({row.kind})"


def _text(cell: Cell | None) -> str:
    return "" if cell is None else cell.text + ",".join(map(_raised, cell.notes))


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _numeric(table: Table, column: Column) -> bool:
    return any((cell := row.cells.get(column.name)) and cell.value is not None for row in table.rows)


# --- Markdown


def markdown(board: Board) -> str:
    """The board as a page for GitHub: readable as it stands, too; the long parts fold."""
    about = [_md(paragraph) for paragraph in re.split(r"\n\s*\n", board.about) if paragraph.strip()]
    parts = [f"# {_md(board.title)}", *about, *_legend(board)]
    for table in board.tables:
        parts += _page_table(table)
    parts += [*_page_verdicts(board), *_page_systems(board)]
    terms = [f"{key.replace('_', ' ')}: {value}" for key, value in board.terms.items()]
    for title, lines in (("Stated before", terms), ("Checks", board.checks), ("Notes", board.footnotes)):
        parts += [f"## {title}", "\n".join(f"- {_md(line)}" for line in lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    # The brackets of an interval cannot start a link, as nothing that makes one follows; its space does not break.
    return _INTERVAL.sub("[\\1,\u00a0\\2]", report.markdown(text))


def _legend(board: Board) -> list[str]:
    said = {s.verdict.words for s in board.systems.values() if s.verdict}
    lines = "; ".join(f"**{word}**: {meaning}" for word, meaning in WORDS.items() if word in said)
    return [f"Verdicts, compared with {_md(board.baseline)}: {lines}."] if lines else []


def _pipes(head: Sequence[str], right: Sequence[bool], rows: Iterable[Sequence[str]]) -> str:
    """A table from cells that are escaped already."""
    rule = ["---:" if r else "---" for r in right]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _folded(summary: str, *parts: str) -> list[str]:
    return [f"<details>\n<summary>{summary}</summary>", *parts, "</details>"]


def _page_table(table: Table) -> list[str]:
    right = [_numeric(table, c) for c in table.columns]
    rows = ([_md(_name(row)), *(_page_cell(row.cells.get(c.name)) for c in table.columns)] for row in table.rows)
    body = _pipes(["system", *(_md(c.title) for c in table.columns)], [False, *right], rows)
    foot = "\n".join(f"{number}. {_md(line)}" for number, line in enumerate(table.foot, 1))
    passport = [_md(table.passport)] if table.passport else []
    shown = [part for part in (f"## {_md(table.title)}", *passport, body, foot) if part]
    helps = "\n".join(f"- **{_md(c.title)}**: {_md(c.help)}" for c in table.columns)
    folders = _pipes(["system", "result folder"], [False, False], ([_md(r.system), _md(r.folder)] for r in table.rows))
    content = f"SHA-256 of the prompts: {_md(table.content)}"
    return shown + _folded("How every number was made", helps, _page_traces(table), folders, content)


def _page_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = _md(cell.text)
    marks = f"<sup>{','.join(map(str, cell.notes))}</sup>" if cell.notes else ""
    return (f"**{text}**" if cell.bold and text else text) + marks


def _page_traces(table: Table) -> str:
    """Per column one line for each way its numbers were made."""
    head = ["column", "method", "compared with", "n", "prompts", "level", "resampling", "unscored", "rows"]
    lines = []
    for column in table.columns:
        ways: dict[tuple[object, ...], list[Trace]] = {}
        for row in table.rows:
            if (cell := row.cells.get(column.name)) and (t := cell.trace):
                ways.setdefault((t.method, t.against, t.level, t.seed, t.resamples), []).append(t)
        lines += [[_md(column.title), *_way(same)] for same in ways.values()]
    return _pipes(head, [False] * 3 + [True] * 3 + [False, True, True], lines)


def _way(traces: Sequence[Trace]) -> list[str]:
    first = traces[0]
    level = "" if first.level is None else f"{100 * first.level:g} %"
    drawn = [] if first.resamples is None else [f"{first.resamples:,} resamples"]
    drawn += [] if first.seed is None else [f"seed {first.seed}"]
    numbers = [_range(t.n for t in traces), _range(t.clusters for t in traces if t.clusters is not None)]
    rest = [level, ", ".join(drawn), _range(t.unscored for t in traces), str(len(traces))]
    return [_md(first.method), _md(first.against), *numbers, *rest]


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return "–".join(map(str, found if len(found) < 2 else (found[0], found[-1])))


def _page_verdicts(board: Board) -> list[str]:
    decided = [(name, s.verdict) for name, s in board.systems.items() if s.verdict]
    if not decided:
        return []
    lines = []
    for name, v in decided:
        reasons = "".join(f"; {_md(reason)}" for reason in v.reasons)
        lines.append(f"- **{_md(name)}** – {_md(v.words)} (claim {_md(v.status)}, p {_p(v.p)}){reasons}")
    head = ["system", "part", "status", "difference", "p", "margin", "n", "unscored", "method", "why not"]
    rows = []
    for name, part in ((name, part) for name, v in decided for part in v.parts):
        shown = "–" if part.estimate is None else f"{part.estimate:.3f} [{part.low:.3f}, {part.high:.3f}]"
        numbers = [_md(shown), _p(part.p), "" if part.margin is None else f"{part.margin:g}", f"{part.n}"]
        words = [_md(part.method), "; ".join(map(_md, part.reasons))]
        rows.append([_md(name), _md(part.name), _md(part.status), *numbers, f"{part.unscored}", *words])
    parts = _pipes(head, [False] * 3 + [True] * 5 + [False] * 2, rows)
    signs = "Differences to the baseline, 0.01 being a point, signed so that higher is better."
    return ["## Verdicts", "\n".join(lines), *_folded("The parts of each claim", signs, parts)]


def _p(value: float) -> str:
    return "&lt;0.001" if value < 0.001 else f"{value:.3f}"


def _page_systems(board: Board) -> list[str]:
    rows = [
        [_md(s.name), s.kind, _md(s.id), _md(", ".join(f"{k} {v}" for k, v in s.training.items())), _md(s.note)]
        for s in board.systems.values()
    ]
    return _folded("The systems", _pipes(["system", "kind", "id", "training", "note"], [False] * 5, rows))


# --- CSV

_TRACE = ("method", "against", "n", "clusters", "level", "p", "seed", "resamples", "unscored", "folders")
_HEAD = (
    *("board", "table", "benchmark", "judge", "system", "kind", "column"),
    *("text", "value", "low", "high", "unit", "bold", "notes"),
    *_TRACE,
)


def to_csv(board: Board) -> str:
    """The board in long form: a line per cell, nothing where there is no number or it is not finite."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_HEAD)
    for table in board.tables:
        for row in table.rows:
            left = (board.name, table.key, table.benchmark, table.judge, row.system, row.kind)
            shown = ((column, row.cells[column.name]) for column in table.columns if column.name in row.cells)
            for column, cell in shown:
                notes = " | ".join(table.foot[mark - 1] for mark in cell.notes)
                own = (column.name, cell.text, cell.value, cell.low, cell.high, column.unit, cell.bold, notes)
                trace = [] if cell.trace is None else [getattr(cell.trace, name) for name in _TRACE]
                writer.writerow(map(_field, (*left, *own, *trace, *[None] * (len(_TRACE) - len(trace)))))
    return out.getvalue()


def _field(value: Any) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return _field(" | ".join(value))
    if isinstance(value, str):
        text = report.inert(value).strip()
        # Some spreadsheets take the full-width forms for the signs that start a formula.
        return f"'{text}" if text[:1] in tuple("＝＋－＠") else inert_cell(text)
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    """To nine digits: further ones depend on the order in which a processor adds."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


# --- JSON


def to_json(board: Board) -> str:
    """Everything of the board, every trace with it; estimates as value, low, high and n; null where not finite."""
    return _lines({"schema": SCHEMA, **_tree(board)}, 6) + "\n"


def _tree(value: Any) -> Any:
    if isinstance(value, float):
        return _finite(value)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Estimate):
        return {"value": _tree(value.value), "low": _tree(value.low), "high": _tree(value.high), "n": value.n}
    if isinstance(value, Mapping):
        return {k: _tree(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value):
        return {k: _tree(v) for k, v in vars(value).items()}
    return [_tree(v) for v in value]


def _lines(tree: Any, depth: int) -> str:
    """JSON with line breaks down to a depth (a cell of a table), so that a changed number is one changed line."""
    if not depth or not tree or not isinstance(tree, (dict, list)):
        return json.dumps(tree, allow_nan=False)
    if isinstance(tree, list):
        return "[\n" + ",\n".join(_lines(v, depth - 1) for v in tree) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {_lines(v, depth - 1)}" for k, v in tree.items()) + "\n}"


# --- LaTeX


class _Tex(dict[int, str]):
    """Code point -> LaTeX; of others the closest plain form, or the number: pdflatex stops where it has no glyph."""

    def __missing__(self, code: int) -> str:
        plain = [ord(c) for c in unicodedata.normalize("NFKD", chr(code)) if not unicodedata.combining(c)]
        known = plain and all(c in self for c in plain)
        return "".join(self[c] for c in plain) if known else f"[U+{code:04X}]"


_PAIR = re.compile(r"(\S) (\S+)")
_TEXT = r"""\ backslash ^ asciicircum ~ asciitilde < less > greater | bar – endash — emdash ‘ quoteleft ’ quoteright
            “ quotedblleft ” quotedblright"""
_MATHS = r"""↑ \uparrow ↓ \downarrow → \rightarrow ← \leftarrow − - ∞ \infty × \times ± \pm ≤ \leq ≥ \geq ≠ \neq
             ≈ \approx · \cdot Δ \Delta α \alpha κ \kappa μ \mu ρ \rho τ \tau χ \chi"""
_TEX = _Tex({code: chr(code) for code in (*range(0x20, 0x7F), *range(0xC0, 0x100)) if chr(code) not in "Ð×Þðþ÷"})
_TEX |= {ord(c): f"\\{c}" for c in "{}$&#_%"} | {ord("`"): "{`}"}
_TEX |= {ord(c): f"\\text{name}{{}}" for c, name in _PAIR.findall(_TEXT)}
_TEX |= {ord(c): f"\\ensuremath{{{name}}}" for c, name in _PAIR.findall(_MATHS)}
_TEX[ord('"')] = "{\\char34}"  # \textquotedbl does not exist in LaTeX's default encoding


def latex(board: Board) -> str:
    """A `table*` per table for a paper, with the columns that fit; needs booktabs."""
    return "% Needs \\usepackage{booktabs}.\n\n" + "\n".join(_tex_table(board, table) for table in board.tables)


def _tex(text: str) -> str:
    plain = unicodedata.normalize("NFC", report.inert(text).strip())
    return re.sub(r"([-'])(?=\1)", r"\1{}", plain.translate(_TEX))  # two of them would become another sign


_FLOAT = r"""\begin{table*}[t]
\centering\footnotesize\setlength{\tabcolsep}{4pt}
\caption{%s}
\label{tab:%s}
\begin{tabular}{@{}%s@{}}
\toprule
%s
\bottomrule
\end{tabular}
\par\medskip
\begin{minipage}{\textwidth}\footnotesize\raggedright
%s
\end{minipage}
\end{table*}
"""


def _tex_table(board: Board, table: Table) -> str:
    columns = _fitting(table)
    name = "l" if all(len(_name(row)) <= 32 for row in table.rows) else "p{45mm}"
    signs = name + "".join("r" if _numeric(table, c) else "l" for c in columns)
    body = [" & ".join(["system", *(_tex(c.title) for c in columns)]) + r" \\", r"\midrule"]
    ranked = True
    for place, row in enumerate(table.rows):
        apart = ranked and row.kind in ("resampled", "control")
        ranked = ranked and not apart
        body += [r"\midrule" if apart else r"\addlinespace"][: min(place, 1)] + _tex_row(row, columns)
    notes = [_tex(table.passport)] if table.passport else []
    notes += [f"\\textsuperscript{{{number}}}\\,{_tex(line)}" for number, line in enumerate(table.foot, 1)]
    notes.append(" ".join(f"\\emph{{{_tex(c.title)}}}: {_tex(c.help)}" for c in columns))
    caption = f"{_tex(board.title)}: {_tex(table.title)}. Compared with {_tex(board.baseline)}."
    label = re.sub(r"[^A-Za-z0-9-]", "-", f"{board.name}-{table.key}")
    return _FLOAT % (caption, label, signs, "\n".join(body), "\\par\n".join(notes) + "\\par")


def _tex_row(row: Row, columns: Sequence[Column]) -> list[str]:
    """The numbers, and their intervals in a line of their own below: so the table is as narrow as a page."""
    cells = [_tex_cell(row.cells.get(c.name)) for c in columns]
    # Without a command before it, a bracket or star would be taken for an argument of the line's end above.
    lines = [" & ".join([rf"\raggedright {_tex(_name(row))}", *(number for number, _ in cells)]) + r" \\"]
    if any(interval for _, interval in cells):
        lines.append(" & ".join(["", *(interval for _, interval in cells)]) + r" \\")
    return lines


def _tex_cell(cell: Cell | None) -> tuple[str, str]:
    if cell is None:
        return "", ""
    number, bracket, interval = cell.text.partition(" [")
    text, below = _tex(number), _tex(bracket + interval)
    if cell.value is not None:
        text, below = (re.sub(r"(?<![\w)])-(?=[\d.])", r"\\ensuremath{-}", part) for part in (text, below))
    marks = f"\\textsuperscript{{{','.join(map(str, cell.notes))}}}" if cell.notes else ""
    text = f"\\textbf{{{text}}}" if cell.bold and text else text
    return text + marks, f"\\scriptsize {below}" if below else ""


FORMATS: dict[str, Callable[[Board], str]] = {
    "board.md": markdown,
    "board.csv": to_csv,
    "board.json": to_json,
    "board.tex": latex,
}
