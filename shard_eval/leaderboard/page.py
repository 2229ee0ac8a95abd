"""The board's page: one HTML file that holds its data, style, script and libraries, and asks the network for nothing.

    Path("board.html").write_text(page.html(board, pictures), encoding="utf-8")

What the page shows is decided in `assets/page.js`; here the board is only written down compactly and safely. Whatever
comes from a board is data: it stands in a JSON block that no parser takes for markup, and the script inserts it as
text. `assets/vendor.mjs` says how the libraries were bundled.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from shard_eval import plots, summary
from shard_eval.leaderboard.pictures import NARROW
from shard_eval.leaderboard.table import Board, Cell, ClaimPart, Row, System, Table, Trace, Verdict
from shard_eval.leaderboard.verdicts import WORDS
from shard_eval.report import inert
from shard_eval.stats.intervals import Estimate

Json = Any  # what json.dumps takes; a recursive type would help neither mypy nor the reader
Grouped = Mapping[str, Mapping[str, Estimate]]  # value of a part -> metric -> estimate

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_TWO = tuple(high + low for high in _DIGITS for low in _DIGITS)
_OWN = -1  # in a trace's folders: the row's own
_NONE = -1  # in a row's bases: no estimate
_SCORES = ("joint", "helpfulness")  # read on 0-1, as in the report; other metrics are shares, read in per cent
_IN_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}  # json.dumps escapes what is not ASCII


class _Pool(dict[Hashable, int]):
    """Values that occur many times, written once and named by their position."""

    def __missing__(self, value: Hashable) -> int:
        self[value] = place = len(self)
        return place


@dataclass(frozen=True)
class _Pools:
    """What the tables of a board share; bases are what estimates rest on, vectors of them the same row by row."""

    strings: _Pool = field(default_factory=_Pool)
    traces: _Pool = field(default_factory=_Pool)
    bases: _Pool = field(default_factory=_Pool)
    vectors: _Pool = field(default_factory=_Pool)


def html(board: Board, pictures: Mapping[str, Sequence[tuple[str, dict[str, Any]]]]) -> str:
    """The page of a board; the same board and pictures give the same bytes.

    Args:
        board: what is shown.
        pictures: as `pictures.pictures` makes them.

    Returns:
        The text of one self-contained HTML file.
    """
    vendor, script = _asset("vendor.js"), _asset("page.js")
    themes = {"light": plots.config(), "dark": plots.config(dark=True)}
    style = {**themes, "width": plots.WIDTH, "narrow": NARROW}
    paragraphs = re.split(r"\n\s*\n", board.about.strip())
    parts = {
        "policy": _policy(vendor, script),
        "title": markup.escape(inert(board.title)),
        "style": _asset("page.css"),
        "about": "\n".join(f"<p>{markup.escape(inert(p))}</p>" for p in paragraphs),
        "vendor": vendor,
        "script": script,
        "board": _block(data(board)),
        "pictures": _block({"pictures": _clean(pictures), "style": style}),
    }
    # One pass, so that a placeholder's name within a board stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def data(board: Board) -> dict[str, Json]:
    """What the page's script reads: the board without repetition, every string inert.

    Shares are per-mille integers in base 36, two digits each; strings, traces, and the sizes that estimates rest on are
    written once and named by position.

    Args:
        board: what is shown.

    Returns:
        A value for `json.dumps`, of a size linear in systems times tables.
    """
    pools = _Pools()
    names = {name: i for i, name in enumerate(board.systems)}
    tables = [_table(table, names, pools) for table in board.tables]
    written = {
        "name": board.name,
        "baseline": names[board.baseline],
        "verdicts": WORDS,
        "terms": _terms(board.terms),
        "metrics": {m.name: _metric(m) for m in summary.METRICS},
        "systems": [_system(system, pools) for system in board.systems.values()],
        "passports": board.passports,
        "checks": board.checks,
        "footnotes": board.footnotes,
        "tables": tables,
        **{name: list(pool) for name, pool in vars(pools).items()},
    }
    cleaned: dict[str, Json] = _clean(written)
    return cleaned


def _terms(terms: Mapping[str, Json]) -> dict[str, Json]:
    """As they are read: a ranking by no metric in particular has a name too."""
    return {**terms, **({"rank_by": "joint, or what was judged"} if terms.get("rank_by") == "" else {})}


def _metric(metric: summary.Metric) -> tuple[str, str]:
    unit = "0-1" if metric.name in _SCORES else "%"
    arrow = {"higher": " ↑", "lower": " ↓", "neither": ""}[metric.better]
    return f"{metric.title.replace('  of', '… of')}{' %' * (unit == '%')}{arrow}", unit


def _table(table: Table, names: Mapping[str, int], pools: _Pools) -> dict[str, Json]:
    parts = [{"": {"": row.measured}, **row.parts} for row in table.rows]
    by = {
        kind: (_union(p.get(kind, {}) for p in parts), _union(m for p in parts for m in p.get(kind, {}).values()))
        for kind in _union(parts)
    }
    groups, same = table.groups, ("key", "benchmark", "judge", "passport", "title", "foot", "content")
    return {
        **{name: getattr(table, name) for name in same},
        "columns": [(c.name, c.title, c.help, c.unit) for c in table.columns],
        "groups": groups and (groups.title, groups.method, _number(groups.critical)),
        "parts": [(kind, values, metrics) for kind, (values, metrics) in by.items()],
        "rows": [
            (
                names[row.system],
                pools.strings[row.folder],
                [_cell(row.cells.get(column.name), row, pools) for column in table.columns],
                [_estimates(p.get(kind, {}), *by[kind], pools) for kind in by],
            )
            for row, p in zip(table.rows, parts, strict=True)
        ],
    }


def _cell(cell: Cell | None, row: Row, pools: _Pools) -> Json:
    """[text, trace, value, bold, notes] without the empty end; the bounds are in the text."""
    if cell is None:
        return 0
    trace = None if cell.trace is None else pools.traces[_trace(cell.trace, row, pools.strings)]
    written = [cell.text, trace, _number(cell.value), cell.bold or None, cell.notes or None]
    while written[-1] is None:
        written.pop()
    return written


def _trace(trace: Trace, row: Row, strings: _Pool) -> tuple[Hashable, ...]:
    folders = tuple(_OWN if folder == row.folder else strings[folder] for folder in trace.folders)
    sizes = (trace.n, trace.clusters, _number(trace.level), _number(trace.p))
    drawn = (trace.seed, trace.resamples, trace.unscored)
    return (strings[trace.method], folders, strings[trace.against], *sizes, *drawn)


def _estimates(found: Grouped, values: Sequence[str], metrics: Sequence[str], pools: _Pools) -> tuple[str, int]:
    """Value, low and high of every metric of every value, packed; and the position of what they rest on."""
    estimates = [found.get(value, {}).get(metric) for value in values for metric in metrics]
    packed = "".join("-" * 6 if e is None else _two(e.value) + _two(e.low) + _two(e.high) for e in estimates)
    return packed, pools.vectors[tuple(_NONE if e is None else _basis(e, pools) for e in estimates)]


def _basis(e: Estimate, pools: _Pools) -> int:
    return pools.bases[e.n, e.clusters, pools.strings[e.method], _number(e.level)]


def _two(share: float | None) -> str:
    return "--" if share is None else _TWO[round(1000 * share)]


def _system(system: System, pools: _Pools) -> dict[str, Json]:
    curve = system.curve and vars(system.curve)
    return {**vars(system), "curve": curve, "verdict": system.verdict and _verdict(system.verdict, pools)}


def _verdict(verdict: Verdict, pools: _Pools) -> dict[str, Json]:
    """Each reason once: with its part, or, where it is about the whole, in the list."""
    told = {reason for part in verdict.parts for reason in part.reasons}
    return {
        **vars(verdict),
        "p": _number(verdict.p),
        "parts": [_claim_part(part, pools) for part in verdict.parts],
        "reasons": [reason for reason in verdict.reasons if reason not in told],
    }


def _claim_part(part: ClaimPart, pools: _Pools) -> tuple[Json, ...]:
    numbers = (_number(x) for x in (part.estimate, part.low, part.high, part.p, part.margin))
    reasons = [reason.removeprefix(f"{part.name}: ") for reason in part.reasons]
    named = (pools.strings[x] for x in (part.name, part.status, part.method))
    return (*named, *numbers, part.n, part.unscored, reasons)


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _number(value: float | None) -> float | None:
    """To five digits: more than is printed, enough to sort by."""
    return None if value is None or math.isnan(value) else float(f"{value:.5g}")


def _clean(value: Json) -> Json:
    """Plain lists, dicts and numbers, with every string inert; JSON knows no infinity, so it becomes a word."""
    if isinstance(value, str):
        return inert(value)
    if isinstance(value, Mapping):
        return {inert(str(k)): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value if math.isfinite(value) else str(value)
    return value


def _block(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_IN_SCRIPT)


def _policy(*scripts: str) -> str:
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{d}'" for d in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files("shard_eval.leaderboard").joinpath("assets", name).read_text(encoding="utf-8")
