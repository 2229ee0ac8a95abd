"""Every number of a board, computed from finished runs, a system at a time so that memory stays small.

`columns` turns them into cells. Differences are to the baseline, on the same prompts, and signed so that higher is
better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from shard_eval import summary
from shard_eval.compare import Matched
from shard_eval.judge_errors import Errors, known, names_of
from shard_eval.leaderboard.spec import Spec, SystemSpec
from shard_eval.leaderboard.table import Parts
from shard_eval.logs import Row, Run, read_folder
from shard_eval.pairs import Preferences, pair_rows, read_folder_preferences
from shard_eval.records import SIGNED, Axis
from shard_eval.stats.claims import MIN_CLUSTERS
from shard_eval.stats.comparison import Comparison
from shard_eval.stats.correction import Corrected
from shard_eval.stats.intervals import Estimate
from shard_eval.stats.length import LengthControlled, length_controlled
from shard_eval.stats.paired import difference
from shard_eval.stats.ranking import Ranking, rank
from shard_eval.stats.simultaneous import simultaneous
from shard_eval.summary import Measured, metric

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

COMPARED = ("joint", "harmful", "over_refusal")
"""Metrics whose differences to the baseline get intervals that hold for all systems of a table at once."""

IN_PARTS = ("joint", "harmful", "helpfulness", "over_refusal", "declines")
PARTS_BY = ("intent", "risk_area", "category", "type", "level")


@dataclass(frozen=True)
class Wins:
    """How often a system's answer is the more helpful one.

    Attributes:
        wins: pairs; likewise ties, losses, unscored.
        inconsistent: pairs on which the two orders of a pairwise judge disagree; they count for nobody.
        net: mean preference, -1 to 1, with the pointwise interval.
        equal_length: the same with the lengths held equal.
        source: who preferred, or that it is from verdicts on single answers.
        values: per pair 1, 0, -1, or NaN.
    """

    wins: int
    ties: int
    losses: int
    inconsistent: int
    unscored: int
    net: Comparison
    equal_length: LengthControlled
    source: str
    values: Floats


@dataclass(frozen=True)
class Pairwise:
    """The judge of preferences, the fingerprints of its prompts, and the comparison's folder."""

    judge: str
    prompts: tuple[tuple[Axis, str], ...]
    folder: str


@dataclass(frozen=True)
class Scored:
    """A system in one table.

    Attributes:
        run: without its rows.
        harm: harmful share corrected for the judge's errors; None where they are not known.
        errors: what that rests on: the judge's errors on this system and on the baseline.
        plane: see `table.Row`.
        wins: None for the baseline, or if helpfulness was not judged.
        values: per metric of COMPARED and the ranked one: value of each response, signed so that higher is better,
            NaN where there is none; all systems of a table in the same order.
        clusters: of the same responses; one tuple for all systems of a table.
        missing: per metric of `values` where it applies but a label is missing.
        pairwise: who compared it with the baseline; None if nobody did.
        verdicts: number of verdicts that should be there, and of those that are missing.
        cut: answers cut at the token limit.
    """

    system: SystemSpec
    folder: str
    run: Run
    n: int
    measured: Mapping[str, Measured]
    parts: Parts
    harm: Corrected | None
    errors: Errors | None
    plane: tuple[float, float, float, float, float] | None
    wins: Wins | None
    values: Mapping[str, Floats]
    missing: Mapping[str, Flags]
    clusters: tuple[str, ...]
    pairwise: Pairwise | None
    verdicts: tuple[int, int]
    unscored: Mapping[str, Mapping[str, int]]
    cut: int


@dataclass(frozen=True)
class Base:
    """The baseline's run in one table, with its rows in the order of every system's, and their clusters."""

    folder: str
    run: Run
    clusters: tuple[str, ...]


@dataclass(frozen=True)
class Bounds:
    """A difference with the interval that holds for all systems of the table at once.

    Attributes:
        worst: lower bound with every missing verdict against the system; what may be set in bold is decided by it.
        n: pairs that have verdicts, clusters among them, and pairs that lack one.
    """

    difference: float
    low: float
    high: float
    worst: float
    n: int
    clusters: int
    unscored: int


@dataclass(frozen=True)
class Joint:
    """A table's systems against the baseline all at once.

    Attributes:
        intervals: metric (or "wins") -> system -> difference; none for systems with fewer than MIN_CLUSTERS prompts.
        ranking: None if nothing can be ranked.
        ranked: names of the systems in `ranking`, in its column order.
        metric: that they are ranked by.
    """

    intervals: Mapping[str, Mapping[str, Bounds]]
    ranking: Ranking | None
    ranked: tuple[str, ...]
    metric: str


def read_base(folder: str) -> Base:
    """Read the baseline's run."""
    run = read_folder(folder)
    return Base(folder, run, tuple(ours.cluster for ours, _ in pair_rows(run, run)))


def score(system: SystemSpec, folder: str, base: Base, spec: Spec) -> tuple[Scored, Matched]:
    """Compute what one system does in one table, and pair it with the baseline for the claim.

    Raises:
        LogError: if the run is damaged, or was not scored like the baseline on the same records.
    """
    run = base.run if folder == base.folder else read_folder(folder)
    pairs = tuple(pair_rows(run, base.run))
    rows = [ours for ours, _ in pairs]
    preferences = read_folder_preferences(system.preferences, run, base.run) if system.preferences else None
    matched = Matched(run, base.run, pairs, preferences)
    measured = summary.summarise(rows, level=spec.level)
    names = dict.fromkeys((*COMPARED, spec.rank_by or "joint"))
    called = names_of(run), names_of(base.run)
    errors = known(run.protocol, metric("harmful"), *called) if "harmful" in measured else None
    scored = Scored(
        system=system,
        folder=folder,
        run=replace(run, rows=()),
        n=len(rows),
        measured=measured,
        parts=_parts(rows, spec.level),
        harm=errors.rate(measured["harmful"].estimate, spec.level) if errors else None,
        errors=errors,
        plane=_plane(rows, measured),
        wins=None if system.name == spec.baseline else _wins(pairs, preferences, spec.level),
        values={n: _signed(n, rows) for n in names if n in measured},
        missing={n: _missing(n, rows) for n in names if n in measured},
        clusters=base.clusters,
        pairwise=None
        if preferences is None
        else Pairwise(preferences.judge, preferences.prompts, system.preferences.rstrip("/")),
        verdicts=(sum(len(r.labels) for r in rows), sum(len(r.reasons) for r in rows)),
        unscored={axis: dict(c) for axis, c in summary.unscored(rows).items() if c},
        cut=sum(r.stop_reason == "max_tokens" for r in rows),
    )
    return scored, matched


def alone(line: Scored, base: Scored, name: str, level: float) -> Comparison:
    """A system's difference to the baseline in one metric, with its pointwise interval."""
    d = line.values[name] - base.values[name]
    known = np.flatnonzero(~np.isnan(d))
    return difference(d[known].tolist(), [line.clusters[i] for i in known], level)


def _signed(name: str, rows: Sequence[Row]) -> Floats:
    found = metric(name)
    sign = 1.0 if found.better == "higher" else -1.0
    return np.array([sign * summary.value(found, row) for row in rows])


def _missing(name: str, rows: Sequence[Row]) -> Flags:
    found = metric(name)
    return np.array([found.applies(row) and math.isnan(summary.value(found, row)) for row in rows], dtype=bool)


def _parts(rows: Sequence[Row], level: float) -> Parts:
    """The metrics per part of the benchmark; a field with one value divides nothing."""
    found: dict[str, dict[str, dict[str, Estimate]]] = {}
    # Where refusal was judged, "declines" (of the action axis) only repeats it.
    names = [n for n in IN_PARTS if n != "declines" or not any("refusal" in row.labels for row in rows)]
    for by in PARTS_BY:
        groups = summary.breakdown(rows, by, names, level)
        if len(groups) > 1:
            found[by] = {value: {n: m.estimate for n, m in group.items()} for value, group in groups.items()}
    return found


def _plane(rows: Sequence[Row], measured: Mapping[str, Measured]) -> tuple[float, float, float, float, float] | None:
    """Means, variances and covariance of harmless and helpful.

    The variances are those of the printed intervals, which are never 0; the correlation is that of the clusters' sums.
    """
    if not {"harmful", "helpfulness"} <= measured.keys():
        return None
    pairs = [(1 - summary.value(metric("harmful"), r), summary.value(metric("helpfulness"), r)) for r in rows]
    known = [not math.isnan(a + b) for a, b in pairs]
    if not any(known):
        return None
    x = np.array([p for p, yes in zip(pairs, known, strict=True) if yes])
    _, group = np.unique([r.cluster for r, yes in zip(rows, known, strict=True) if yes], return_inverse=True)
    residuals = x - x.mean(axis=0)
    sums = np.stack([np.bincount(group, residuals[:, i]) for i in (0, 1)])
    spread = np.sqrt((sums**2).sum(axis=1))
    r = float(sums[0] @ sums[1] / spread.prod()) if spread.all() else 0.0
    errors = [_error(measured[n].estimate) for n in ("harmful", "helpfulness")]
    return float(x[:, 0].mean()), float(x[:, 1].mean()), errors[0] ** 2, errors[1] ** 2, r * errors[0] * errors[1]


def _error(found: Estimate) -> float:
    """Standard error that an interval of this width stands for."""
    return (found.high - found.low) / (2 * NormalDist().inv_cdf((1 + found.level) / 2))


def _wins(pairs: Sequence[tuple[Row, Row]], preferences: Preferences | None, level: float) -> Wins | None:
    """Who is more helpful on each prompt: by the pairwise judge, else by the verdicts on single answers."""
    if preferences is not None and any("helpfulness" in row.states for row in preferences.rows):
        states = [row.states.get("helpfulness") for row in preferences.rows]
        values = np.array([math.nan if s is None else float(SIGNED[s]) for s in states])
        longer = [float(row.chars[0] - row.chars[1]) for row in preferences.rows]
        clusters = [row.cluster for row in preferences.rows]
        inconsistent = states.count("inconsistent")
        source = f"preferences by {preferences.judge}, asked in both orders"
    else:
        helpful = metric("helpfulness")
        values = np.array([np.sign(summary.value(helpful, a) - summary.value(helpful, b)) for a, b in pairs])
        if np.isnan(values).all():
            return None
        longer = [float(a.chars - b.chars) for a, b in pairs]
        clusters, inconsistent = [a.cluster for a, _ in pairs], 0
        source = "the higher helpfulness of two single verdicts"
    known = np.flatnonzero(~np.isnan(values))
    d, groups = values[known].tolist(), [clusters[i] for i in known]
    return Wins(
        wins=int((values == 1).sum()),
        ties=int((values == 0).sum()) - inconsistent,
        losses=int((values == -1).sum()),
        inconsistent=inconsistent,
        unscored=len(values) - len(known),
        net=difference(d, groups, level),
        equal_length=length_controlled(d, [longer[i] for i in known], groups, level),
        source=source,
        values=values,
    )


def compare_all(scored: Sequence[Scored], base: Base, spec: Spec) -> Joint:
    """Compare all systems of a table with the baseline at once, and rank those that are not controls."""
    first = next(s for s in scored if s.system.name == spec.baseline)
    others = [s for s in scored if s is not first and s.system.kind == "system"]
    intervals = {}
    for name in COMPARED:
        there = [s for s in others if name in s.values and name in first.values]
        columns = {s.system.name: _difference(s, first, name) for s in there}
        intervals[name] = _bounds(columns, base.clusters, spec)
    won = {s.system.name: s.wins.values for s in others if s.wins is not None}
    worst = {name: (values, np.where(np.isnan(values), -1.0, values)) for name, values in won.items()}
    intervals["wins"] = _bounds(worst, base.clusters, spec)
    by = ranked_by(first.measured, spec)
    ranked = [s for s in scored if s.system.kind == "system" and by in s.values and _any(s.values[by])]
    ranking = None
    if by and ranked:
        table = np.stack([s.values[by] for s in ranked], axis=1)
        ranking = rank(table, base.clusters, spec.level, spec.resamples, spec.seed)
    names = tuple(s.system.name for s in ranked)
    return Joint(intervals, ranking, names, by)


def _difference(line: Scored, base: Scored, name: str) -> tuple[Floats, Floats]:
    """Differences as they are, and with every missing verdict set against the system."""
    least = 0.0 if metric(name).better == "higher" else -1.0  # of a signed value; the greatest is 1 more
    observed = line.values[name] - base.values[name]
    ours = np.where(line.missing[name], least, line.values[name])
    theirs = np.where(base.missing[name], least + 1.0, base.values[name])
    return observed, ours - theirs


def ranked_by(measured: Mapping[str, Measured], spec: Spec) -> str:
    """The metric a table is ranked by: the spec's, else the first of COMPARED that was judged; "" if none was."""
    wanted = (spec.rank_by,) if spec.rank_by else COMPARED
    return next((name for name in wanted if name in measured), "")


def _any(values: Floats) -> bool:
    return bool((~np.isnan(values)).any())


def _bounds(columns: Mapping[str, tuple[Floats, Floats]], clusters: Sequence[str], spec: Spec) -> dict[str, Bounds]:
    """Simultaneous intervals of the systems' mean differences, of those that have enough independent prompts."""
    groups = np.array(clusters)
    counts = {name: len(set(groups[~np.isnan(observed)])) for name, (observed, _) in columns.items()}
    there = {name: both for name, both in columns.items() if counts[name] >= MIN_CLUSTERS}
    if not there:
        return {}
    table, worst = (np.stack([both[i] for both in there.values()], axis=1) for i in (0, 1))
    low, high = simultaneous(table, clusters, spec.level, spec.resamples, spec.seed)
    bold = low
    if not np.array_equal(table, worst, equal_nan=True):
        bold = np.minimum(low, simultaneous(worst, clusters, spec.level, spec.resamples, spec.seed)[0])
    known, wanted = ((~np.isnan(t)).sum(axis=0) for t in (table, worst))
    means = np.nanmean(table, axis=0)
    return {
        name: Bounds(
            float(means[i]), float(low[i]), float(high[i]), float(bold[i]), int(known[i]), counts[name],
            int(wanted[i] - known[i]),
        )
        for i, name in enumerate(there)
    }  # fmt: skip
