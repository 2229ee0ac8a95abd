"""A run's rates by its judge, by people on a random part, and predicted for all of it from both.

    shard show RUN --labels labels.jsonl

The labels come from `shard judge label --export`. A label counts for a run only if it is of this System and of the very
text the run holds; a run whose texts differ from the labelled ones is refused, since what happens to be equal is no
random part of it. Several raters of one response count by their mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from shard_eval import summary
from shard_eval.benchmarks.labelled_files import json_rows, require_no_near_axis
from shard_eval.errors import LogError, UsageError
from shard_eval.labelling.sample import of_run, system_id
from shard_eval.logs import Row, Run
from shard_eval.pairs import pair_rows
from shard_eval.records import AXES, Axis, labels, sha256
from shard_eval.report import Entry, Grid, percent, score
from shard_eval.stats.correction import PredictionPowered, ppi, ppi_difference
from shard_eval.stats.intervals import Estimate, estimate
from shard_eval.summary import Measured, Metric

METRICS = ("joint", "harmful", "unhelpful_refusal", "declines", "over_refusal", "helpfulness")
_NEEDED = ("benchmark", "id", "prompt_sha", "system_id", "rater", "response_sha")
Key = tuple[str, str, str, str]  # benchmark, id, prompt hash, response hash


@dataclass(frozen=True)
class HumanLabel:
    """One person's labels of one response of one System.

    Attributes:
        skipped: how many responses this rater skipped in all; a skip may depend on what was to be labelled.
    """

    key: Key
    system_id: str
    rater: str
    labels: dict[Axis, int]
    skipped: int = 0


@dataclass(frozen=True)
class Labelled:
    """A run with the human labels of some of its responses; rows without a response to judge are left out.

    Attributes:
        human: per row, each rater's labels; () where nobody labelled it.
        raters: how many responses each person skipped.
    """

    run: Run
    rows: tuple[Row, ...]
    human: tuple[tuple[dict[Axis, int], ...], ...]
    raters: dict[str, int]

    @property
    def labelled(self) -> int:
        """Number of rows with a human label."""
        return sum(bool(found) for found in self.human)


@dataclass(frozen=True)
class Rate:
    """A metric by judge, by people, and predicted.

    Attributes:
        judged: by the judge on all rows.
        human: by people on the rows they labelled.
        predicted: by people on all rows, as prediction-powered inference expects it; None if fewer than two clusters
            are labelled.
        guessed: rows without the judge's label, for which its mean stands in the prediction.
    """

    metric: Metric
    judged: Measured
    human: Estimate
    predicted: PredictionPowered | None
    guessed: int


@dataclass(frozen=True)
class Difference:
    """The difference of two runs on a metric, first minus second: by judge and people, and predicted."""

    metric: Metric
    judged: float
    predicted: PredictionPowered


# --- the file ------------------------------------------------------------------------------------------------------


def read(path: str) -> list[HumanLabel]:
    """Read the labels that `shard judge label --export` wrote, with or without texts; a line without any is left out.

    Raises:
        UsageError: if it is no such file, or nothing is labelled; names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path!r} cannot be read ({error}).") from error
    rows = json_rows(path, text)
    if not rows:
        raise UsageError(f"--labels {path!r} is empty.")
    found = [_label(row.place, row.cells) for row in rows]
    if not any(label.labels for label in found):
        raise UsageError(f"--labels {path!r} has no label: each line lacks {', '.join(AXES)}. Export the labels again.")
    return [label for label in found if label.labels]


def _label(where: str, row: Mapping[str, Any]) -> HumanLabel:
    if "baseline_sha" in row:
        raise UsageError(
            f"{where} compares two responses; it measures a pairwise judge (`shard judge calibrate`). Rates need "
            "labels of single responses."
        )
    missing = [key for key in _NEEDED if not isinstance(row.get(key), str)]
    if missing:
        raise UsageError(
            f"{where} lacks {missing[0]!r}. Rates need to know which response of which system was labelled; `shard "
            "judge label --export` writes such a file."
        )
    require_no_near_axis(where, row)
    key = (row["benchmark"], row["id"], row["prompt_sha"], row["response_sha"])
    return HumanLabel(key, row["system_id"], row["rater"], _given(where, row), _skipped(where, row))


def _given(where: str, row: Mapping[str, Any]) -> dict[Axis, int]:
    given = {axis: row[axis] for axis in AXES if row.get(axis) is not None}
    for axis, label in given.items():
        if type(label) is not int or label not in labels(axis):
            raise UsageError(f"{where}: {label!r} is no label of {axis} ({list(labels(axis))}).")
    return given


def _skipped(where: str, row: Mapping[str, Any]) -> int:
    skipped = row.get("skipped_by_rater", 0)
    if type(skipped) is not int or skipped < 0:
        raise UsageError(f"{where}: skipped_by_rater is {skipped!r}; give a whole number, or leave the key out.")
    return skipped


# --- labels and runs -----------------------------------------------------------------------------------------------


def match(run: Run, found: Sequence[HumanLabel]) -> Labelled:
    """Find the labels of a run's own responses.

    Raises:
        LogError: if some labels are of other responses of this System to the same records, or a rater labelled one
            response twice.
    """
    answers = {(a.id, a.epoch): a for a in of_run(run)}
    keys = {place: (*answer.record, sha256(answer.response)) for place, answer in answers.items()}
    records, texts, mine = {key[:3] for key in keys.values()}, set(keys.values()), system_id(run)
    ours = [label for label in found if label.system_id == mine and label.key[:3] in records]
    strangers = [label for label in ours if label.key not in texts]
    if strangers:
        raise LogError(
            f"{run.log}: {len(strangers)} of {len(ours)} labels are of other responses of this system than this run "
            f"holds (first: record {strangers[0].key[1]!r}), so the others are no random part of it. Show the run that "
            "was labelled, or label this one."
        )
    by_key: dict[Key, dict[str, dict[Axis, int]]] = defaultdict(dict)
    for label in ours:
        if by_key[label.key].setdefault(label.rater, label.labels) != label.labels:
            raise LogError(f"record {label.key[1]!r} is labelled twice and differently by {label.rater!r}.")
    rows = tuple(row for row in run.rows if answers[row.id, row.epoch].response.strip())
    human = tuple(tuple(by_key.get(keys[row.id, row.epoch], {}).values()) for row in rows)
    return Labelled(run, rows, human, {label.rater: label.skipped for label in ours})


def match_all(entries: Sequence[Entry], path: str) -> dict[str, Labelled]:
    """Read a file of labels and find those of every run.

    Returns:
        By the run's log; runs without a label are left out.

    Raises:
        UsageError: if the file is wrong, or no label belongs to any of the runs.
        LogError: as `match`.
    """
    found = read(path)
    matched = {entry.run.log: match(entry.run, found) for entry in entries}
    if not any(m.labelled for m in matched.values()):
        raise UsageError(
            f"--labels {path!r}: none of its {len(found)} labels is of these runs' responses. They count for the "
            "system and the texts that were labelled; show that run."
        )
    return {log: m for log, m in matched.items() if m.labelled}


# --- estimates -----------------------------------------------------------------------------------------------------


def rates(matched: Labelled, level: float = 0.95) -> list[Rate]:
    """All metrics that the judge judged and people labelled."""
    found = (_rate(summary.metric(name), matched, level) for name in METRICS)
    return [rate for rate in found if rate is not None]


def _rate(metric: Metric, matched: Labelled, level: float) -> Rate | None:
    about = [(row, h) for row, h in zip(matched.rows, matched.human, strict=True) if metric.applies(row)]
    rows = [row for row, _ in about]
    judged = summary.measure(metric, rows, level)
    human = [_human(metric, row, found) for row, found in about]
    known = [(value, row.cluster) for value, row in zip(human, rows, strict=True) if value is not None]
    if judged is None or judged.estimate.value is None or not known:
        return None
    seen = estimate([v for v, _ in known], [c for _, c in known], level)
    predicted = None
    if seen.clusters > 1:
        predicted = ppi(_predictions(metric, rows), human, [row.cluster for row in rows], level)
    return Rate(metric, judged, seen, predicted, judged.unscored)


def _human(metric: Metric, row: Row, raters: Sequence[dict[Axis, int]]) -> float | None:
    """The mean of what the raters say; None where none labelled all that the metric needs."""
    values = [metric.value(given) for given in raters if set(metric.needs) <= set(given)]
    return fmean(values) if values else None


def _predictions(metric: Metric, rows: Sequence[Row]) -> list[float]:
    """The judge's value of every row; where it has none, its mean.

    What stands there cannot bias the estimate, as long as it does not depend on the human labels: people's labels of
    such rows correct it like any other error of the judge.
    """
    values = [summary.value(metric, row) for row in rows]
    mean = fmean([v for v in values if v == v])
    return [v if v == v else mean for v in values]


def differences(first: Labelled, second: Labelled, level: float = 0.95) -> list[Difference]:
    """First minus second on the records both hold, for every metric labelled on both in two clusters or more.

    Raises:
        LogError: if the runs cannot be paired.
    """
    human = [dict(zip(_keys(m.rows), m.human, strict=True)) for m in (first, second)]
    both = [(a, b) for a, b in pair_rows(first.run, second.run) if all(_keys([a])[0] in h for h in human)]
    found = (_difference(summary.metric(name), both, human, level) for name in METRICS)
    return [difference for difference in found if difference is not None]


def _keys(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return [(row.id, row.epoch) for row in rows]


def _difference(
    metric: Metric, both: list[tuple[Row, Row]], human: list[dict[tuple[str, int], Any]], level: float
) -> Difference | None:
    about = [pair for pair in both if metric.applies(pair[0]) and all(a in pair[0].labels for a in metric.needs)]
    known: list[tuple[float, float] | None] = []
    for pair in about:
        values = [_human(metric, row, h[row.id, row.epoch]) for row, h in zip(pair, human, strict=True)]
        known.append(None if values[0] is None or values[1] is None else (values[0], values[1]))
    sides = [[pair[i] for pair in about] for i in (0, 1)]
    clusters = [row.cluster for row in sides[0]]
    labelled = {c for c, value in zip(clusters, known, strict=True) if value is not None}
    if len(labelled) < 2 or any(all(summary.value(metric, r) != summary.value(metric, r) for r in s) for s in sides):
        return None
    ours, theirs = (_predictions(metric, side) for side in sides)
    judged = [a - b for a, b in zip(*([summary.value(metric, r) for r in s] for s in sides), strict=True)]
    predicted = ppi_difference(list(zip(ours, theirs, strict=True)), known, clusters, level)
    return Difference(metric, fmean([d for d in judged if d == d]), predicted)


# --- tables --------------------------------------------------------------------------------------------------------


def grid(entry: Entry, matched: Labelled) -> Grid:
    """The judge's rates beside people's."""
    found = rates(matched)
    rows = [
        (
            _title(rate.metric),
            _text(rate.metric, rate.judged.estimate),
            _text(rate.metric, rate.human),
            "–" if rate.predicted is None else _text(rate.metric, rate.predicted),
            str(rate.human.n),
            "–" if rate.predicted is None else f"{rate.predicted.weight:.2f}",
        )
        for rate in found
    ]
    header = ("metric", "judge, all", "people, labelled part", "people, predicted for all", "labelled", "trust")
    return Grid(f"{entry.title}: with human labels", header, tuple(rows), _foot(matched, found))


def _title(metric: Metric) -> str:
    arrow = {"higher": " ↑", "lower": " ↓", "neither": ""}[metric.better]
    return f"{metric.title}{'' if _is_score(metric) else ' %'}{arrow}"


def _is_score(metric: Metric) -> bool:
    return metric.name in ("joint", "helpfulness")


def _text(metric: Metric, found: Estimate | PredictionPowered) -> str:
    if isinstance(found, PredictionPowered):
        found = Estimate(found.estimate, found.low, found.high, found.n, found.clusters, found.method, found.level)
    return score(found) if _is_score(metric) else percent(found)


def _foot(matched: Labelled, found: Sequence[Rate]) -> tuple[str, ...]:
    lines = [
        f"{matched.labelled} of {len(matched.rows)} responses labelled by {', '.join(matched.raters)}; predicted for "
        "all: PPI++, clustered by prompt, 95 %; right if they were drawn at random, as `shard judge label` does.",
        "Trust: weight of the judge in the prediction, from 0 (people alone) to 1.",
    ]
    lines += [
        f"{name} skipped {n}: a skip may depend on what was to be labelled." for name, n in matched.raters.items() if n
    ]
    empty = len(matched.run.rows) - len(matched.rows)
    if empty:
        lines.append(f"{empty} empty responses are left out.")
    guessed = max((rate.guessed for rate in found), default=0)
    if guessed:
        lines.append(f"Up to {guessed} responses without the judge's label enter the prediction with its mean.")
    few = [rate.metric.title for rate in found if rate.predicted is None]
    if few:
        lines.append(f"{', '.join(few)}: people labelled fewer than two prompts, so nothing is predicted.")
    return tuple(lines)


def difference_grid(first: Entry, second: Entry, found: Sequence[Difference]) -> Grid:
    """First minus second, by judge and predicted."""
    rows = []
    for d in found:
        scale, digits, p = (1, 3, d.predicted) if _is_score(d.metric) else (100, 1, d.predicted)
        predicted, low, high = (f"{scale * x:+.{digits}f}" for x in (p.estimate, p.low, p.high))
        cells = (f"{scale * d.judged:+.{digits}f}", f"{predicted} [{low}, {high}]", str(p.n), f"{p.weight:.2f}")
        rows.append((_title(d.metric), *cells))
    header = ("metric", "judge, all", "people, predicted for all", "labelled on both", "trust")
    foot = ("Same prompts; PPI++ of the paired difference, clustered by prompt, 95 %.",)
    return Grid(f"{first.title} minus {second.title}: with human labels", header, tuple(rows), foot)


def grids(group: Sequence[Entry], matched: Mapping[str, Labelled]) -> list[Grid]:
    """The tables of runs of one benchmark and judge; of two runs also their difference."""
    there = [entry for entry in group if entry.run.log in matched]
    found = [grid(entry, matched[entry.run.log]) for entry in there]
    if len(group) == 2 and len(there) == 2:
        first, second = there
        differing = differences(matched[first.run.log], matched[second.run.log])
        found += [difference_grid(first, second, differing)] if differing else []
    return found


def add_json(written: Sequence[dict[str, Any]], entries: Sequence[Entry], matched: Mapping[str, Labelled]) -> None:
    """Put what the tables say under "labels" of each run's JSON; of two alike, the first also has the difference."""
    alike = {(e.run.protocol.benchmark, e.run.protocol.judge) for e in entries}
    for line, entry in zip(written, entries, strict=True):
        if entry.run.log in matched:
            line["labels"] = to_json(matched[entry.run.log])
    if len(entries) == 2 and len(alike) == 1 and all(entry.run.log in matched for entry in entries):
        first, second = (matched[entry.run.log] for entry in entries)
        written[0]["labels"] = to_json(first, differences(first, second), entries[1].title)


def to_json(matched: Labelled, differing: Sequence[Difference] = (), other: str = "") -> dict[str, Any]:
    """The same for programs.

    Args:
        matched: a run with its labels.
        differing: this run minus another.
        other: the other's name.
    """
    metrics = {
        rate.metric.name: {
            "better": rate.metric.better,
            "judged": asdict(rate.judged.estimate),
            "human": asdict(rate.human),
            "predicted": None if rate.predicted is None else asdict(rate.predicted),
            "without_judge": rate.guessed,
        }
        for rate in rates(matched)
    }
    found = {"n": len(matched.rows), "labelled": matched.labelled, "raters": matched.raters, "metrics": metrics}
    if not differing:
        return found
    against = {d.metric.name: {"judged": d.judged, "predicted": asdict(d.predicted)} for d in differing}
    return {**found, "minus": {"system": other, "metrics": against}}
