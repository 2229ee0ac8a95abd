"""Ratings as a file of labels, one JSON object a line, and how far the raters agree.

With texts it is what `shard judge calibrate JUDGE --on labels.jsonl` reads, and must stay private; by ids and hashes
alone it may be published. `shard show RUN --labels labels.jsonl` reads both. Only complete ratings are exported.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from shard_eval.errors import UsageError
from shard_eval.labelling.sample import Item, Sample, load
from shard_eval.labelling.store import Rating, Ratings, known_labels, raters
from shard_eval.records import Axis, sha256
from shard_eval.report import Grid
from shard_eval.stats.agreement import krippendorff_alpha

TEXTS = ("prompt", "need", "withhold", "response", "candidate", "baseline", "note")


@dataclass(frozen=True)
class Rater:
    """How much one person did.

    Attributes:
        seconds: median time per rated item; None if none is.
    """

    name: str
    rated: int
    skipped: int
    seconds: float | None


@dataclass(frozen=True)
class Exported:
    """What a folder of ratings says.

    Attributes:
        lines: one per complete rating and system that wrote the response, with texts.
        given: per axis how often each label was given.
        alpha: per axis Krippendorff's alpha (nominal for `action`, else ordinal), or why there is none; empty with a
            single rater.
        both: number of items with at least two complete ratings.
    """

    sample: Sample
    raters: tuple[Rater, ...]
    lines: tuple[dict[str, Any], ...]
    given: dict[Axis, Counter[int | str]]
    alpha: dict[Axis, float | str]
    both: int


def export(folder: Path) -> Exported:
    """Read a folder's ratings.

    Raises:
        UsageError: if it is no such folder, or holds no complete rating.
        DataError: if a file in it was edited.
    """
    sample = load(folder)
    stores = [Ratings(folder, name, sample) for name in raters(folder)]
    kept = {store.rater: store.all() for store in stores}
    complete = {s.rater: {k: r for k, r in kept[s.rater].items() if s.complete(r)} for s in stores}
    skipped = {name: sum(r.skipped for r in found.values()) for name, found in kept.items()}
    names = _source_names(sample)
    lines = [
        line | {"skipped_by_rater": skipped[rater]}
        for item in sample.items
        for rater, found in complete.items()
        if item.key in found
        for line in _rows(sample, item, rater, found[item.key], names)
    ]
    if not lines:
        raise UsageError(f"{folder} holds no complete rating yet. Rate with: shard judge label --to {folder}")
    people = tuple(Rater(n, len(f), skipped[n], _median(list(f.values()))) for n, f in complete.items())
    times = Counter(key for found in complete.values() for key in found)
    both = sum(n >= 2 for n in times.values())
    alpha = {axis: _alpha(sample, axis, list(complete.values())) for axis in sample.axes} if len(stores) > 1 else {}
    given = {a: Counter(r.labels[a] for found in complete.values() for r in found.values()) for a in sample.axes}
    return Exported(sample, people, tuple(lines), given, alpha, both)


def _median(found: list[Rating]) -> float | None:
    return round(median(r.seconds for r in found), 1) if found else None


def _source_names(sample: Sample) -> dict[tuple[str, str], str]:
    """A name for each system, with its id where two systems bear the same."""
    systems = {system for item in sample.items for system in item.systems}
    bearers = Counter(name for _, name in systems)
    return {(id, name): name if bearers[name] == 1 else f"{name} ({id})" for id, name in systems}


def _rows(
    sample: Sample, item: Item, rater: str, rating: Rating, names: dict[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """A rating as a line per system that wrote the response; of a pair, one line."""
    who = [{"source": names[system], "system_id": system[0]} for system in item.systems]
    if not sample.pairs:
        return [_row(sample, item, rater, rating, ("response",), system) for system in who]
    sides = ("candidate", "baseline")
    both = {f"{side}_{key}": value for side, one in zip(sides, who, strict=True) for key, value in one.items()}
    return [_row(sample, item, rater, rating, sides, both)]


def _row(
    sample: Sample, item: Item, rater: str, rating: Rating, sides: tuple[str, ...], systems: dict[str, str]
) -> dict[str, Any]:
    texts = dict(zip(sides, item.responses, strict=True))
    return {
        "benchmark": item.benchmark,
        "id": item.id,
        "prompt_sha": item.prompt_sha,
        **{f"{side}_sha": sha256(text) for side, text in texts.items()},
        "cluster": item.cluster,
        "intent": item.intent,
        **systems,
        "prompt": item.prompt,
        "need": item.need,
        "withhold": item.withhold,
        **texts,
        "rater": rater,
        **{axis: rating.labels[axis] for axis in sample.axes},
        "note": rating.note,
        "seconds": round(rating.seconds, 1),
        "sample": sample.id,
    }


def without_texts(line: dict[str, Any]) -> dict[str, Any]:
    """A line by ids and hashes: no prompt, response or note."""
    return {key: value for key, value in line.items() if key not in TEXTS}


def _alpha(sample: Sample, axis: Axis, found: list[dict[str, Rating]]) -> float | str:
    values = known_labels(axis, sample.pairs)
    in_order = ("baseline", "tie", "candidate") if sample.pairs else values
    ranks: dict[int | str, int] = {value: i for i, value in enumerate(in_order)}
    table = [[ranks[r[i.key].labels[axis]] if i.key in r else math.nan for i in sample.items] for r in found]
    try:
        return round(krippendorff_alpha(table, "nominal" if axis == "action" else "ordinal"), 4)
    except UsageError as error:
        return str(error)


def grid(found: Exported) -> Grid:
    """Who rated what, per axis: how often each label was given, and the raters' agreement."""
    several = len(found.raters) > 1
    rows = []
    for axis in found.sample.axes:
        text = ", ".join(f"{label}: {found.given[axis][label]}" for label in known_labels(axis, found.sample.pairs))
        alpha = found.alpha.get(axis, "")
        rows.append((axis, text, *((f"{alpha:.2f}" if isinstance(alpha, float) else "–",) if several else ())))
    foot = [
        f"{r.name}: {r.rated} of {len(found.sample.items)} rated, {r.skipped} skipped"
        + (f", {r.seconds:g} s each (median)." if r.seconds is not None else ".")
        for r in found.raters
    ]
    if several:
        foot.append(f"Krippendorff's alpha over {found.both} items that two or more rated (1 agreement, 0 chance).")
        foot += [f"{axis}: {why}." for axis, why in found.alpha.items() if isinstance(why, str)]
    header = ("axis", "labels given", *(("alpha",) if several else ()))
    ratings = sum(r.rated for r in found.raters)
    return Grid(f"{ratings} ratings by {len(found.raters)} rater(s)", header, tuple(rows), tuple(foot))


def to_json(found: Exported) -> dict[str, Any]:
    """The same for programs, without texts or single ratings."""
    return {
        "sample": found.sample.id,
        **found.sample.design,
        "items": len(found.sample.items),
        "records": found.sample.records,
        "left_out": found.sample.left_out,
        "lines": len(found.lines),
        "labels": {axis: {str(label): n for label, n in c.items()} for axis, c in found.given.items()},
        "raters": [vars(r) for r in found.raters],
        "rated_twice": found.both,
        "alpha": found.alpha,
    }
