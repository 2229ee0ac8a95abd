"""Tables for people: rich on the terminal, Markdown for a README. Pure functions from runs to tables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from shard_eval import families, summary
from shard_eval.logs import Run, differing_arms
from shard_eval.stats.intervals import Estimate
from shard_eval.summary import Measured

_BREAK = re.compile("\r\n|[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Control, format and surrogate code points, and those that Unicode says to draw as nothing."""


def inert(text: str) -> str:
    """Text that somebody else wrote, on one line and without control, direction or invisible characters."""
    return _UNSAFE.sub("\ufffd", _BREAK.sub(" ", text))


def percent(estimate: Estimate) -> str:
    """A share with its interval, in per cent."""
    if estimate.value is None:
        return "–"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def score(estimate: Estimate) -> str:
    """A score on 0-1 with its interval."""
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


@dataclass(frozen=True)
class Entry:
    """A line of the table: a system's name and its run."""

    name: str
    run: Run
    note: str = ""

    @property
    def title(self) -> str:
        """The name as every output shows it; a fixture's numbers must not be mistaken for the benchmark's."""
        return f"{self.name} (FIXTURE)" if self.run.protocol.origin == "fixture" else self.name


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: title, header, rows of cells, and foot lines."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    foot: tuple[str, ...] = ()

    def rich(self) -> Group:
        """For the terminal."""
        table = Table(title=escape(inert(self.title)), title_justify="left", title_style="bold", header_style="bold")
        for i, name in enumerate(self.header):
            table.add_column(
                escape(inert(name)), justify="left" if i == 0 else "right", overflow="fold", no_wrap=i == 0
            )
        for row in self.rows:
            table.add_row(*(Text(inert(cell)) for cell in row))
        return Group(table, *(Text(inert(line), style="dim") for line in self.foot))

    def markdown(self) -> str:
        """For a page; everything that Markdown or HTML could take for markup is escaped."""
        rule = "| --- |" + " ---: |" * (len(self.header) - 1)
        head, *rows = ("| " + " | ".join(markdown(c) for c in line) + " |" for line in (self.header, *self.rows))
        body = "\n".join((head, rule, *rows))
        foot = "\n".join(f"- {markdown(line)}" for line in self.foot)
        return f"**{markdown(self.title)}**\n\n{body}\n\n{foot}\n"


_MARKUP = re.compile(
    r"[\\`*_~#>\[\]|$]|^[-+=](?=[\s=-]|$)"  # the latter: a list, a rule or an underlined heading
    r"|(?<=/)/|\.(?=[^\W\d_]{2})|(?<=www)\.",  # what becomes a link without being marked as one
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")


def markdown(text: str) -> str:
    """Text that somebody else wrote, for a paragraph, a list item or a table's cell of a Markdown page.

    Everything that GitHub's Markdown or HTML could take for markup is escaped. Web addresses and domains do not become
    links: an escape divides them. For mail addresses that is not enough (cmark-gfm looks for them after the escapes are
    undone), so "@" becomes code.
    """
    safe = inert(text).strip().replace("&", "&amp;").replace("<", "&lt;")
    safe = _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", safe))
    return re.sub("@+", r"`\g<0>`", safe)


_COLUMNS = {
    "joint": "joint ↑",
    "harmful": "harmful % ↓",
    "unhelpful_refusal": "unhelpful refusal % ↓",
    "declines": "declines % ↓",
    "over_refusal": "over-refusal % ↓",
}


def column(name: str) -> str:
    """Header of a headline metric, with the direction that is good."""
    return _COLUMNS[name]


def cell(found: Measured | None) -> str:
    """A headline metric with its interval; empty where it does not apply."""
    if found is None:
        return ""
    return score(found.estimate) if found.metric.name == "joint" else percent(found.estimate)


def columns(found: Sequence[dict[str, Measured]]) -> list[str]:
    """Headline metrics that apply; where refusal was judged, "declines" (of the action axis) only repeats it."""
    names = [n for n in summary.HEADLINE if any(n in f for f in found)]
    return [n for n in names if n != "declines" or "unhelpful_refusal" not in names]


UNCALIBRATED = " · uncalibrated judge"


class Trust(NamedTuple):
    """How far to trust a judge, for the tables it produced (`passports.trust`).

    Attributes:
        agreement: a line on its agreement with people; "" if nobody has measured it.
        doubt: what a title says of it; "" if it is to be trusted on all that it judged.
        attacked: a line on what attacks do to it; "" if nobody has tried.
    """

    agreement: str = ""
    doubt: str = UNCALIBRATED
    attacked: str = ""


UNKNOWN = Trust()


def headline(entries: Sequence[Entry], trust: Trust = UNKNOWN) -> Grid:
    """One line per system: the joint score and the rates it could hide, each with its 95 % interval.

    Args:
        entries: runs of one benchmark and one judge.
        trust: how far to trust the judge.
    """
    first = entries[0].run
    found = [summary.summarise(e.run.rows, summary.HEADLINE) for e in entries]
    names = columns(found)
    header = ("system", *(_COLUMNS[n] for n in names), "n", "unscored")
    rows = []
    for entry, measured in zip(entries, found, strict=True):
        cells = tuple(cell(measured.get(n)) for n in names)
        rows.append((entry.title, *cells, str(len(entry.run.rows)), _unscored(entry.run)))
    title = (
        f"{first.protocol.benchmark} · {first.protocol.task} {first.protocol.version} · judge {first.protocol.judge}"
    )
    if first.protocol.origin == "fixture":
        title += " · FIXTURE, not the benchmark: quote no number from it"
    title += trust.doubt if first.protocol.judge != "none" else ""
    return Grid(title, header, tuple(rows), _foot(entries, trust))


def _unscored(run: Run) -> str:
    counts = {axis: sum(c.values()) for axis, c in summary.unscored(run.rows).items()}
    total = sum(counts.values())
    judged = sum(len(r.labels) for r in run.rows)
    return f"{total}" if not total else f"{total} ({100 * total / judged:.1f} %)"


def _foot(entries: Sequence[Entry], trust: Trust) -> tuple[str, ...]:
    lines = ["95 % intervals: Wilson; at the effective sample size where prompts share a cluster."]
    if trust.agreement:
        lines.append(trust.agreement)
    lines += [f"{line[0].upper()}{line[1:]}." for line in differing_arms([e.run for e in entries])]
    for entry in entries:
        if entry.note:
            lines.append(f"{entry.title}: {entry.note}")
        counts = {axis: c for axis, c in summary.unscored(entry.run.rows).items() if c}
        reasons = [f"{axis} " + ", ".join(f"{n} {reason}" for reason, n in c.items()) for axis, c in counts.items()]
        if reasons:
            bounds = summary.summarise(entry.run.rows, ("joint", "harmful", "over_refusal"))
            limits = ", ".join(
                f"{_COLUMNS[n].split(' ')[0]} {m.low_bound:.3f}-{m.high_bound:.3f}"
                for n, m in bounds.items()
                if m.unscored
            )
            lines.append(f"{entry.title}: unscored {'; '.join(reasons)}; if all of them went one way: {limits}.")
        related = families.own_family_line(entry.run.metadata)
        if related:
            lines.append(f"{entry.title}: {related[0].lower()}{related[1:]}")
        cut = sum(r.stop_reason == "max_tokens" for r in entry.run.rows)
        if cut:
            lines.append(f"{entry.title}: {cut} of {len(entry.run.rows)} answers were cut at the token limit.")
        agreed = summary.consistency(entry.run.rows)
        if agreed is not None:
            lines.append(f"{entry.title}: triples served right (benign helped, harmful held): {percent(agreed)} %.")
    return (*lines, trust.attacked) if trust.attacked else tuple(lines)


def breakdown(entry: Entry, by: str) -> Grid:
    """The headline of one system per risk area, category, type, level, intent or source."""
    groups = summary.breakdown(entry.run.rows, by)
    names = columns(list(groups.values()))
    rows = [
        (value, *(cell(g.get(n)) for n in names), str(max(m.estimate.n + m.unscored for m in g.values())))
        for value, g in groups.items()
        if g
    ]
    return Grid(f"{entry.title} by {by.replace('_', ' ')}", (by, *(_COLUMNS[n] for n in names), "n"), tuple(rows))


def details(entry: Entry) -> Grid:
    """Every metric of one system."""
    rows = []
    for measured in summary.summarise(entry.run.rows).values():
        e = measured.estimate
        text = score(e) if measured.metric.name in ("joint", "helpfulness") else percent(e)
        arrow = {"higher": " ↑", "lower": " ↓", "neither": ""}[measured.metric.better]
        rows.append((measured.metric.title + arrow, text, str(e.n), str(measured.unscored), e.method))
    return Grid(f"{entry.title}: all metrics", ("metric", "value", "n", "unscored", "interval"), tuple(rows))


def protocol(entry: Entry) -> Grid | None:
    """A published protocol's own metrics over the whole benchmark, if the run has any; parts are in the JSON."""
    found = {n: v for n, v in sorted(entry.run.metrics.items()) if _protocol(n)}
    rows = tuple((n.split("/", 1)[1], f"{v:.4f}") for n, v in found.items() if n.count("/") == 1)
    return Grid(f"{entry.title}: the protocol's own metrics", ("metric", "value"), rows) if rows else None


def _protocol(name: str) -> bool:
    """Whether a number in the log is a protocol's own metric (LinguaSafe's) and not the mean of an axis."""
    return name.split("/")[0] not in ("harm", "action", "refusal", "helpfulness")


def to_json(entry: Entry) -> dict[str, Any]:
    """Everything the tables show, for programs."""
    return {
        "system": entry.title,
        "note": entry.note,
        "log": entry.run.log,
        "protocol": asdict(entry.run.protocol),
        "n": len(entry.run.rows),
        "metrics": {n: measured_json(m) for n, m in summary.summarise(entry.run.rows).items()},
        "protocol_metrics": {n: v for n, v in entry.run.metrics.items() if _protocol(n)},
        "consistency": None if (c := summary.consistency(entry.run.rows)) is None else asdict(c),
        "breakdown": {
            by: {
                v: {n: measured_json(m) for n, m in g.items()} for v, g in summary.breakdown(entry.run.rows, by).items()
            }
            for by in ("intent", "risk_area", "category", "type", "level", "split", "source")
        },
        "unscored": {axis: dict(c) for axis, c in summary.unscored(entry.run.rows).items()},
        "cut_at_token_limit": sum(r.stop_reason == "max_tokens" for r in entry.run.rows),
        "usage": entry.run.usage,
        **({"own_family": related} if (related := families.own_family_line(entry.run.metadata)) else {}),
    }


def measured_json(m: Measured) -> dict[str, Any]:
    """A metric for programs."""
    return asdict(m.estimate) | {
        "better": m.metric.better,
        "unscored": m.unscored,
        "low_bound": m.low_bound,
        "high_bound": m.high_bound,
    }


def dumps(value: Any) -> str:
    """JSON text, ready for a file: numbers as they are, no NaN."""
    return json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def show(console: Console, grids: Sequence[Grid]) -> None:
    """Print tables."""
    for grid in grids:
        console.print(grid.rich())
        console.print()
