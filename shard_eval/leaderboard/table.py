"""What a board shows, before it is drawn: tables of cells, each with a trace to where its number comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shard_eval.stats.intervals import Estimate

Kind = Literal["baseline", "system", "resampled", "control"]
"""Controls (constants, the baseline drawn again) ride along and are not ranked."""


@dataclass(frozen=True)
class Trace:
    """Where a number comes from.

    Attributes:
        method: name of the estimator or test, with that of its interval.
        folders: result folders it was computed from, the system's own first.
        against: name of the system it is compared with; "" for a number of one system.
        n: responses, or pairs of responses.
        clusters: independent prompts among them; None where they were not counted.
        level: confidence level of the interval; None without one.
        p: p-value, after the board's correction where the method says so.
        seed: of the resampling, if there was any.
        resamples: number of resamples, if there were any.
        unscored: responses or pairs left out for want of a verdict.
    """

    method: str
    folders: tuple[str, ...]
    against: str = ""
    n: int = 0
    clusters: int | None = None
    level: float | None = None
    p: float | None = None
    seed: int | None = None
    resamples: int | None = None
    unscored: int = 0


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as it is read, not escaped: names in it were written by somebody else.
        value: the number behind it, in the units of its column; None if it has none.
        low: lower bound of its interval, in the same units; likewise high.
        bold: significant, as the column defines it.
        notes: marks of foot lines of the same table, 1 for the first.
        trace: where it comes from; None for a name.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bold: bool = False
    notes: tuple[int, ...] = ()
    trace: Trace | None = None


@dataclass(frozen=True)
class Column:
    """A column's head.

    Attributes:
        name: stable key, for CSV and JSON ("delta_harm").
        title: as it is read, with an arrow for the better direction ("Δ harm ↓").
        help: one sentence: what the number is and when it is bold.
        unit: "%", "points", "0-1" or "".
    """

    name: str
    title: str
    help: str
    unit: str = ""


Parts = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""by ("intent", "risk_area", "category", "type", "level") -> value of it -> metric of `summary.METRICS` -> estimate."""


@dataclass(frozen=True)
class Row:
    """A system's line in one table.

    Attributes:
        system: name; the key of `Board.systems`.
        cells: by column name; a column the system has nothing for is missing.
        folder: its result folder.
        measured: every metric of `summary.METRICS` that applies.
        parts: the same metrics, some of them, per part of the benchmark.
        plane: for the picture: (safety, helpfulness) with their 2 × 2 covariance (three numbers: var of the first, var
            of the second, covariance), both axes 0-1 and higher better; None if one was not judged.
    """

    system: str
    kind: Kind
    cells: Mapping[str, Cell]
    folder: str
    measured: Mapping[str, Estimate]
    parts: Parts = field(default_factory=dict)
    plane: tuple[float, float, float, float, float] | None = None


@dataclass(frozen=True)
class Groups:
    """Which systems of a table cannot be told apart.

    Attributes:
        metric: name of the metric of `summary.METRICS` they are ranked by, and its title as it is read.
        systems: names of the ranked systems, best first.
        values: the metric's mean of each.
        bars: (first, last) positions in `systems` of each maximal run that no significant difference divides;
            a group that is no run of neighbours is there as (first, last) with the others' positions in `skips`.
        skips: per bar the positions between its ends that do not belong to it.
        best: best rank of each system; likewise worst.
        letters: group letters of each system.
        critical: the least difference that is significant, where one number serves all pairs; else None.
        method: how it was decided.
        better: "higher" or "lower": which end is first.
    """

    metric: str
    title: str
    systems: tuple[str, ...]
    values: tuple[float, ...]
    bars: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, ...], ...]
    best: tuple[int, ...]
    worst: tuple[int, ...]
    letters: tuple[str, ...]
    critical: float | None
    method: str
    better: str


@dataclass(frozen=True)
class Table:
    """One benchmark, judged by one judge.

    Attributes:
        key: file-safe, unique on the board ("dna-human").
        judge: name of the judge.
        passport: how far to trust it, in one line; "" if nobody has measured it.
        title: as it is read; says FIXTURE and "uncalibrated judge" where that is so.
        rows: baseline first, then systems from the best, then controls.
        foot: foot lines; `Cell.notes` count from 1.
        groups: None if nothing could be ranked.
        content: hash of the benchmark's prompts.
        fixture: these are not the benchmark's prompts.
    """

    key: str
    benchmark: str
    judge: str
    passport: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    foot: tuple[str, ...]
    groups: Groups | None
    content: str
    fixture: bool = False


@dataclass(frozen=True)
class ClaimPart:
    """A part of a system's claim.

    Attributes:
        name: "harm (dna)".
        status: SUPPORTED, REFUTED or INCONCLUSIVE.
        estimate: difference to the baseline, signed so that higher is better, with its interval; 0-1.
        p: of the test, every missing verdict against the system.
        margin: of non-inferiority; None for superiority.
        reasons: why it is not supported.
    """

    name: str
    status: str
    estimate: float | None
    low: float
    high: float
    p: float
    margin: float | None
    n: int
    unscored: int
    method: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What the board says of a system against the baseline, over all its tables.

    Attributes:
        words: "more helpful and not less safe", "more helpful, safety inconclusive", "less safe", "no gain shown",
            "not evaluable".
        status: of the claim, after the correction: SUPPORTED, REFUTED or INCONCLUSIVE.
        p: of the claim (the largest of its parts; 1 if not evaluable) or, where it is REFUTED, of the refutation;
            corrected over the board's systems.
    """

    words: str
    status: str
    p: float
    parts: tuple[ClaimPart, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """A checkpoint's place in a training run, for the curve over the steps: the run's name and the step (0: base)."""

    run: str
    step: int


@dataclass(frozen=True)
class System:
    """A system of the board.

    Attributes:
        name: as in every table.
        manifest: what makes it the one it is.
        id: short hash of the manifest.
        note: the spec's remark.
        training: what is known of how it was trained (method, selection, selector); empty if nothing.
        verdict: None for the baseline and controls.
    """

    name: str
    kind: Kind
    manifest: Mapping[str, Any]
    id: str
    note: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    curve: Curve | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Board:
    """A whole board.

    Attributes:
        name: file-safe; the folder's name.
        about: what it is, in plain text; paragraphs divided by empty lines.
        terms: what was stated before: margin, refusal_margin, level, correction, floor, rank_by, resamples, seed.
        passports: per judge: its line, and the agreement figures the line is made from.
        checks: what the controls say, one line each, as "pass: …", "FAIL: …" or "not checked: …".
    """

    name: str
    title: str
    about: str
    baseline: str
    terms: Mapping[str, Any]
    tables: tuple[Table, ...]
    systems: Mapping[str, System]
    passports: Mapping[str, Any]
    checks: tuple[str, ...]
    footnotes: tuple[str, ...]
