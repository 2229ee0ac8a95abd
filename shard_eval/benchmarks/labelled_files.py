"""Files of your own with human labels: a .csv, or a .jsonl with one JSON object a line, by one or several raters.

Each row has "prompt", "response", a label on one or more axes (blank: not labelled there) and if you like "source" (who
wrote the response), "system_id", "intent", "need", "withhold", "category" and "cluster" (which rows that are not
independent share; else those of one prompt do). Other columns are ignored, unless their name is nearly an axis. With
"rater" in every row the same response may be there once per rater; their labels become one, by majority or median.
Pairs for a pairwise judge are .jsonl only: "prompt", "candidate", "baseline", and who is preferred on "helpfulness" or
"harm" (there: who does less).
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import median_low
from typing import Any, get_args

import numpy as np

from shard_eval.errors import UsageError
from shard_eval.records import AXES, CHOICES, LOWEST, PAIR_AXES, SCALES, Axis, Choice, Intent, Record, labels, sha256
from shard_eval.stats.agreement import krippendorff_alpha

NOMINAL: tuple[Axis, ...] = ("action",)
"""Axes whose labels are classes without an order."""

RESERVED = ("all", "held out")
"""Names of groups in passports; no source may be called so."""

LONGEST_CELL = 16 * 2**20
"""Characters of a CSV cell. Python's own limit, 131,072, is less than some models write; a forgotten quote makes one
cell of all the rest, which this still finds."""

LABELS_OF: dict[Axis, list[Any]] = {axis: list(labels(axis)) for axis in AXES}
PREFERENCES_OF: dict[Axis, list[Any]] = {axis: list(CHOICES) for axis in PAIR_AXES}


@dataclass(frozen=True)
class Labelled:
    """A recorded reply with its human labels; `record.source` is the model that wrote it."""

    record: Record
    labels: dict[Axis, int]


@dataclass(frozen=True)
class LabelledPair:
    """Two responses to one prompt and which one people prefer; `record.response` is the candidate's."""

    record: Record
    baseline: str
    labels: dict[Axis, Choice]


@dataclass(frozen=True)
class Raters:
    """How the people who labelled agree with each other: no judge can be expected to agree better with them.

    Attributes:
        n_raters: people who labelled on the axis.
        alpha: Krippendorff's, ordinal or for classes nominal; None where it is not defined.
        units: responses with two labels or more.
        undecided: responses without a label because no class has the most votes.
    """

    n_raters: int
    alpha: float | None
    units: int
    undecided: int


@dataclass(frozen=True)
class LabelledSet:
    """A labelled set, and what else is known of it.

    Attributes:
        raters: per axis, where several people labelled.
        unlabelled: rows left out because they have no label at all.
        system_ids: per source the id of the System that wrote its responses, where the file says so.
    """

    rows: tuple[Labelled, ...]
    raters: dict[Axis, Raters] = field(default_factory=dict)
    unlabelled: int = 0
    system_ids: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    """A row of a file.

    Attributes:
        place: file and line, for messages.
        name: of the record.
    """

    place: str
    name: str
    cells: Mapping[str, Any]

    def error(self, text: str) -> UsageError:
        return UsageError(f"{self.place}: {text}")


# --- rows --------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is no file. Give a labelled set (dna, xstest), or a .csv or .jsonl file.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8 (in a spreadsheet: "
            '"CSV UTF-8").'
        ) from error


def table(path: Path | str, text: str, needed: Sequence[str]) -> list[_Row]:
    """The rows of a .csv or .jsonl file as they are.

    Raises:
        UsageError: if it is no such file, or a CSV file without a column that is needed; says where and what to do.
    """
    found = _csv_rows(path, text, needed) if _is_csv(path) else json_rows(path, text)
    if not found:
        raise UsageError(f"{path} is empty. Give one response a {'row' if _is_csv(path) else 'line'}.")
    return found


def require_texts(rows: Iterable[_Row], needed: Sequence[str]) -> None:
    """Every row has every text that is needed.

    Raises:
        UsageError: if not; names the row.
    """
    for row in rows:
        missing = [name for name in needed if not isinstance(row.cells.get(name), str)]
        if missing:
            raise row.error(f"it lacks the text {missing[0]!r}; each needs {', '.join(needed)}.")


def json_rows(path: Path | str, text: str) -> list[_Row]:
    """The objects of a .jsonl file; a line that is none has no cells.

    Raises:
        UsageError: if a line is not JSON, or has a key twice.
    """
    # Not splitlines(): JSON allows U+2028 and others inside a text.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_Row(f"{path}:{n}", f"line-{n}", _object(f"{path}:{n}", line)) for n, line in lines]


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not JSON: {error}. Write one JSON object a line, with each key once.") from error
    return row if isinstance(row, dict) else {}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def _is_csv(path: Path | str) -> bool:
    return str(path).lower().endswith(".csv")


def _csv_rows(path: Path | str, text: str, needed: Sequence[str]) -> list[_Row]:
    """Rows of a CSV file; those are numbered as a spreadsheet does, whatever line breaks the cells hold."""
    lines = _cells(path, text)
    header = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in needed if name not in header]
    twice = [name for name, n in Counter(header).items() if n > 1 and name]
    if lines and (missing or twice):
        wrong = f"no column {missing[0]!r}" if missing else f"two columns {twice[0]!r}"
        raise UsageError(f"{path} has {wrong}; its columns are {header}. The first row must name them, by commas.")
    found = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):  # one that was cut short must not be read as one that nobody labelled
            todo = "Quote its commas." if len(line) > len(header) else "Give every column a cell, if a blank one."
            raise UsageError(f"{path}: row {number} has {len(line)} cells for {len(header)} columns. {todo}")
        found.append(_Row(f"{path}: row {number}", f"line-{number}", dict(zip(header, line, strict=True))))
    return found


def _cells(path: Path | str, text: str) -> list[list[str]]:
    found: list[list[str]] = []
    with _long_cells():
        try:
            found.extend(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise UsageError(
                f"{path} is no CSV file: row {len(found) + 1}: {error}. Is a quote missing there or above? Save it as "
                "comma-separated values again."
            ) from error
    return found


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def require_no_near_axis(place: str, columns: Iterable[str]) -> None:
    """A column that is nearly an axis is a slip, and its labels would be dropped without a word.

    Raises:
        UsageError: if there is one; names the axis.
    """
    for column in columns:
        near = _near_axis(column)
        if near not in (None, column):
            raise UsageError(
                f"{place}: {column[:60]!r} is no axis, but nearly {near!r}. Write it so if it holds labels, else give "
                "it another name."
            )


@lru_cache
def _near_axis(column: str) -> str | None:
    return next(iter(difflib.get_close_matches(column.strip().lower(), AXES, n=1, cutoff=0.8)), None)


def _rows(path: Path, needed: Sequence[str]) -> list[_Row]:
    """The rows of a labelled set without blank cells."""
    filled = _csv_filled if _is_csv(path) else _json_filled
    rows = [replace(row, cells=filled(row.cells)) for row in table(path, _text(path), needed)]
    for row in rows:
        require_no_near_axis(row.place, row.cells)
    require_texts(rows, needed)
    return rows


def _csv_filled(cells: Mapping[str, str]) -> dict[str, Any]:
    return {column: _number(column, cell) for column, cell in cells.items() if cell.strip()}


def _json_filled(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cells.items() if value is not None}


def _number(column: str, cell: str) -> Any:
    """A label as a number; a spreadsheet may write 2 as 2.0 where a column has blanks."""
    # Python would take 0_1, and digits of any script, for a number.
    if column not in LABELS_OF or not re.fullmatch(r"\s*-?[0-9]{1,9}(\.[0-9]*)?\s*", cell):
        return cell
    return float(cell) if "." in cell else int(cell)


def _labels(row: _Row, known: Mapping[Axis, Sequence[Any]]) -> dict[Axis, Any]:
    found = {axis: row.cells[axis] for axis in known if row.cells.get(axis, "") != ""}
    for axis, label in found.items():
        if isinstance(label, bool) or label not in known[axis]:
            names = known[axis]
            if isinstance(names[0], int):
                names = [f"{LOWEST[axis] + i} ({name})" for i, name in enumerate(SCALES[axis])]
            raise row.error(f"{label!r} is no label of {axis}; give {', '.join(names)}, or leave it blank.")
    return {axis: int(label) if isinstance(label, float) else label for axis, label in found.items()}


def checked(place: str, cells: Mapping[str, Any]) -> tuple[str, str]:
    """A row's intent and source; its prompt is checked too.

    Raises:
        UsageError: if one of the three is wrong; says so before anybody's work is spent on the row.
    """
    intent, source = cells.get("intent") or "unknown", str(cells.get("source") or "unnamed")
    if intent not in get_args(Intent):
        raise UsageError(f"{place}: intent {intent!r}; give one of {', '.join(get_args(Intent))}, or leave it blank.")
    if source in RESERVED:
        raise UsageError(f"{place}: source {source!r} is a name that tables use; give the model another one.")
    if not cells["prompt"].strip():
        raise UsageError(f"{place}: 'prompt' is empty; give what was asked.")
    return intent, source


def _record(row: _Row, benchmark: str, response: str) -> Record:
    cells = row.cells
    intent, source = checked(row.place, cells)
    return Record(
        benchmark,
        row.name,
        cells["prompt"],
        category=str(cells.get("category") or ""),
        intent=intent,  # type: ignore[arg-type]  # checked above
        cluster=str(cells.get("cluster") or sha256(cells["prompt"])[:16]),
        response=response,
        source=source,
        need=str(cells.get("need") or ""),
        withhold=str(cells.get("withhold") or ""),
    )


# --- responses ---------------------------------------------------------------------------------------------------

Key = tuple[str, str, str]


def read(path: Path) -> LabelledSet:
    """Read a file of labelled responses; of several raters' labels one is made.

    Raises:
        UsageError: if it is no such file; names the line and what to do.
    """
    rows, system_ids = _apart(_rows(path, ("prompt", "response")))
    given = [(row, _record(row, path.stem, row.cells["response"]), _labels(row, LABELS_OF)) for row in rows]
    if not any(found for _, _, found in given):
        raise UsageError(f"{path} has no labelled row: each has no label. Give one or more of {', '.join(AXES)}.")
    if any("rater" in row.cells for row in rows):
        together, raters = _merged(given)
    else:
        _require_different(given)
        together, raters = [Labelled(record, found) for _, record, found in given], {}
    kept = tuple(reply for reply in together if reply.labels)
    return LabelledSet(kept, raters, len(together) - len(kept), system_ids)


def _key(record: Record) -> Key:
    return record.prompt, record.response or "", record.source


def _require_different(given: Sequence[tuple[_Row, Record, dict[Axis, int]]]) -> None:
    first: dict[Key, _Row] = {}
    for row, record, _ in given:
        other = first.setdefault(_key(record), row)
        if other is not row:
            raise row.error(
                f"the same prompt, response and source as {other.place.rsplit('/', 1)[-1]}. Delete one of them, or "
                "name the 'rater' of every row if several people labelled it."
            )


def _apart(rows: Sequence[_Row]) -> tuple[list[_Row], dict[str, str]]:
    """Rows with a source per system, and the systems' ids: two of one name get their id in it."""
    named = [(str(row.cells.get("source") or "unnamed"), str(row.cells.get("system_id") or "")) for row in rows]
    ids: dict[str, set[str]] = {}
    for source, id in named:
        ids.setdefault(source, set()).add(id)
    apart = [source if len(ids[source]) == 1 else f"{source} {id}".strip() for source, id in named]
    found = [replace(row, cells={**row.cells, "source": source}) for row, source in zip(rows, apart, strict=True)]
    return found, {source: id for source, (_, id) in zip(apart, named, strict=True) if id}


def _merged(
    given: Sequence[tuple[_Row, Record, dict[Axis, int]]],
) -> tuple[list[Labelled], dict[Axis, Raters]]:
    """One reply per response: people's majority on classes, their median (the lower of two) on scales."""
    records: dict[Key, Record] = {}
    votes: dict[Key, dict[Axis, dict[str, int]]] = {}
    for row, record, found in given:
        rater = str(row.cells.get("rater", "")).strip()
        if not rater:
            raise row.error("it lacks the 'rater', which other rows have. Name the rater in every row, or in none.")
        records.setdefault(_key(record), record)
        mine = votes.setdefault(_key(record), {})
        for axis, label in found.items():
            if mine.setdefault(axis, {}).setdefault(rater, label) != label:
                raise row.error(f"rater {rater!r} labelled this response twice on {axis}, as two things. Delete one.")
    together = [Labelled(record, _decided(votes[key])) for key, record in records.items()]
    axes = [axis for axis in AXES if any(axis in found for found in votes.values())]
    return together, {axis: _raters(axis, [found[axis] for found in votes.values() if axis in found]) for axis in axes}


def _decided(votes: Mapping[Axis, Mapping[str, int]]) -> dict[Axis, int]:
    return {axis: label for axis, found in votes.items() if (label := _one(axis, found)) is not None}


def _one(axis: Axis, votes: Mapping[str, int]) -> int | None:
    """People's label of one response; None if two classes have the most votes."""
    if axis not in NOMINAL:
        return median_low(votes.values())
    (label, most), *others = Counter(votes.values()).most_common(2)
    return label if not others or others[0][1] < most else None


def _raters(axis: Axis, units: Sequence[Mapping[str, int]]) -> Raters:
    names = sorted({rater for votes in units for rater in votes})
    row = {rater: i for i, rater in enumerate(names)}
    table = np.full((len(names), len(units)), math.nan)
    for column, votes in enumerate(units):
        for rater, label in votes.items():
            table[row[rater], column] = label
    paired = sum(len(votes) > 1 for votes in units)
    try:
        alpha: float | None = krippendorff_alpha(table, "nominal" if axis in NOMINAL else "ordinal")
    except UsageError:  # no response has two labels, or all labels are the same
        alpha = None
    return Raters(len(names), alpha, paired, sum(_one(axis, votes) is None for votes in units))


# --- pairs -------------------------------------------------------------------------------------------------------


def holds_pairs(path: Path) -> bool:
    """Whether a .jsonl file's first row is a pair of responses."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        first = json.loads(next((line for line in lines if line.strip()), "null"))
    except (ValueError, RecursionError):
        return False  # who reads the file names the line
    return isinstance(first, dict) and "baseline" in first


def read_pairs(path: Path) -> list[LabelledPair]:
    """Read a file of labelled pairs.

    Raises:
        UsageError: if it is no such file; names the line and what to do.
    """
    found = []
    first: dict[tuple[str, frozenset[str]], _Row] = {}
    for row in _rows(path, ("prompt", "candidate", "baseline")):
        texts = frozenset(str(row.cells[name]) for name in ("candidate", "baseline"))
        other = first.setdefault((str(row.cells["prompt"]), texts), row)
        if other is not row:
            raise row.error(
                f"the same prompt and responses as {other.place.rsplit('/', 1)[-1]}. Keep one line per pair, with the "
                "label that most raters gave."
            )
        labels = _labels(row, PREFERENCES_OF)
        if not labels:
            raise row.error(f"it has no label; give one or more of {', '.join(PAIR_AXES)}.")
        found.append(LabelledPair(_record(row, path.stem, row.cells["candidate"]), row.cells["baseline"], labels))
    if len({tuple(sorted(pair.labels)) for pair in found}) > 1:
        raise UsageError(f"{path}: every line must be labelled on the same axes; make one file per set of axes.")
    return found
