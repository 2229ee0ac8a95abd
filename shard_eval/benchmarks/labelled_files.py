"""Files of your own with human labels: a .csv, or a .jsonl with one JSON object a line, by one or several raters.

Each row has "prompt", "response", a label on one or more axes (blank: not labelled there) and if you like "source" (who
wrote the response), "system_id", "intent", "need", "withhold" and "category". With "rater" in every row the same
response may be there once per rater; their labels become one, by majority or median. Pairs for a pairwise judge are
.jsonl only: "prompt", "candidate", "baseline", and who is preferred on "helpfulness" or "harm" (there: who does less).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """A row as it is in the file; blank cells are left out.

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


def _rows(path: Path, needed: Sequence[str]) -> list[_Row]:
    text = _text(path)
    found = _csv_rows(path, text, needed) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    if not found:
        raise UsageError(f"{path} is empty. Give one response a {'row' if path.suffix == '.csv' else 'line'}.")
    for row in found:
        missing = [name for name in needed if not isinstance(row.cells.get(name), str)]
        if missing:
            raise row.error(f"it lacks the text {missing[0]!r}; each needs {', '.join(needed)}.")
    return found


def _json_rows(path: Path, text: str) -> list[_Row]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON may hold other line separators
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number} is not JSON: {error}. Write one JSON object a line.") from error
        cells = {k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else {}
        found.append(_Row(f"{path}:{number}", f"line-{number}", cells))
    return found


def _csv_rows(path: Path, text: str, needed: Sequence[str]) -> list[_Row]:
    """Rows of a CSV file; those are numbered as a spreadsheet does, whatever line breaks the cells hold."""
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise UsageError(f"{path} is no CSV file: {error}. Save it as comma-separated values again.") from error
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
        if len(line) > len(header):
            raise UsageError(f"{path}: row {number} has {len(line)} cells for {len(header)} columns. Quote its commas.")
        cells = {name: cell for name, cell in zip(header, line, strict=False) if cell.strip()}
        found.append(_Row(f"{path}: row {number}", f"line-{number}", {k: _number(k, v) for k, v in cells.items()}))
    return found


def _number(column: str, cell: str) -> Any:
    """A label as a number; a spreadsheet may write 2 as 2.0 where a column has blanks."""
    if column not in LABELS_OF:
        return cell
    try:
        return float(cell) if "." in cell else int(cell)
    except ValueError:
        return cell


def _labels(row: _Row, known: Mapping[Axis, Sequence[Any]]) -> dict[Axis, Any]:
    found = {axis: row.cells[axis] for axis in known if row.cells.get(axis, "") != ""}
    for axis, label in found.items():
        if isinstance(label, bool) or label not in known[axis]:
            names = known[axis]
            if isinstance(names[0], int):
                names = [f"{LOWEST[axis] + i} ({name})" for i, name in enumerate(SCALES[axis])]
            raise row.error(f"{label!r} is no label of {axis}; give {', '.join(names)}, or leave it blank.")
    return {axis: int(label) if isinstance(label, float) else label for axis, label in found.items()}


def _record(row: _Row, benchmark: str, response: str) -> Record:
    cells = row.cells
    intent, source = cells.get("intent") or "unknown", str(cells.get("source") or "unnamed")
    if intent not in get_args(Intent):
        raise row.error(f"intent {intent!r}; give one of {', '.join(get_args(Intent))}, or leave it blank.")
    if source in RESERVED:
        raise row.error(f"source {source!r} is a name that tables use; give the model another one.")
    if not cells["prompt"].strip():
        raise row.error("'prompt' is empty; give what was asked.")
    return Record(
        benchmark,
        row.name,
        cells["prompt"],
        category=str(cells.get("category") or ""),
        intent=intent,  # type: ignore[arg-type]  # checked above
        cluster=sha256(cells["prompt"])[:16],
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


def read_pairs(path: Path) -> list[LabelledPair]:
    """Read a file of labelled pairs.

    Raises:
        UsageError: if it is no such file; names the line and what to do.
    """
    found = []
    for row in _rows(path, ("prompt", "candidate", "baseline")):
        labels = _labels(row, PREFERENCES_OF)
        if not labels:
            raise row.error(f"it has no label; give one or more of {', '.join(PAIR_AXES)}.")
        found.append(LabelledPair(_record(row, path.stem, row.cells["candidate"]), row.cells["baseline"], labels))
    if len({tuple(sorted(pair.labels)) for pair in found}) > 1:
        raise UsageError(f"{path}: every line must be labelled on the same axes; make one file per set of axes.")
    return found
