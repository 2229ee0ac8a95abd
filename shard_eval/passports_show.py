"""A judge's passport for people: one table per axis, and in words what it means for tables of this judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from shard_eval.passports import FLOOR, MIN_LABELS, MOST_UNSCORED, headline
from shard_eval.report import inert

FEW_CATEGORIES = 8
"""Categories that are printed without being asked for."""

_COLUMNS = (  # key in `measures`, title
    ("kappa", "κ"),
    ("weighted_kappa", "weighted κ"),
    ("alpha", "α"),
    ("f1", "F1"),
    ("macro_f1", "macro-F1"),
)


def show(console: Console, passport: Mapping[str, Any], by_category: bool = False) -> None:
    """Print a passport.

    Args:
        console: where to.
        passport: as stored; one of an older version lacks intervals and more, and is printed without.
        by_category: all categories, however many there are.
    """

    def say(text: str) -> None:  # models, files and raters are named by others
        console.print(inert(text), markup=False, highlight=False)

    say(f"Judge {passport['judge']} against people on {passport['on']}")
    categories = passport.get("categories", {})
    for axis, groups in passport["agreement"].items():
        console.print(_table(axis, "source model", groups))
        named = categories.get(axis, {})
        if named and (by_category or len(named) <= FEW_CATEGORIES):
            console.print(_table(axis, "category", named))
        elif named:
            say(f"{axis}: {len(named)} categories; --by-category prints them.")
    for text in (*_raters(passport), _failures(passport), _cost(passport)):
        if text:
            say(text)
    for axis, groups in passport["agreement"].items():
        say(verdict(axis, groups))
    if "bootstrap" in passport:
        say(_intervals(passport))


def has_verdicts(passport: Mapping[str, Any]) -> bool:
    """Whether the judge gave any verdict at all."""
    return any(groups["all"]["n"] for groups in passport["agreement"].values())


def verdict(axis: str, groups: Mapping[str, Any]) -> str:
    """What the agreement on an axis means for tables of this judge."""
    group = headline(groups)
    found = groups[group]
    uncalibrated = "tables will say uncalibrated"
    if not found["n"]:
        return f"{axis}: no verdict at all; {uncalibrated}."
    value = found.get("kappa")
    if value is None:
        return (
            f"{axis}: people labelled all {found['n']} replies alike ({', '.join(found['labels'])}), so agreement "
            f"cannot be measured; {uncalibrated}. Add replies with other labels."
        )
    name = "weighted κ" if "weighted_kappa" in found.get("measures", {}) and axis == "helpfulness" else "κ"
    what = f"{axis}: {name} {value:.2f}{f' {group}' if group != 'all' else ''}"
    if (share := found.get("unscored_share", 0.0)) > MOST_UNSCORED:
        return f"{what}, but no verdict on {100 * share:.0f} % of the replies: {uncalibrated}."
    if found["n"] < MIN_LABELS:
        return f"{what} on {found['n']} replies, fewer than {MIN_LABELS}: {uncalibrated}."
    if value < FLOOR:
        return f"{what} is below the floor {FLOOR:g}: {uncalibrated}."
    return f"{what} meets the floor {FLOOR:g}."


def _table(axis: str, by: str, groups: Mapping[str, Any]) -> Table:
    """Figures per group; columns that no group has are left out."""
    rows = {name: _cells(found) for name, found in _in_order(groups).items()}
    titles = [title for _, title in _COLUMNS] + ["accuracy", "sensitivity", "specificity"]
    shown = [t for t in titles if any(t in cells for cells in rows.values())]
    table = Table(by, "n", *shown, "unscored", title=axis, title_justify="left")
    for name, cells in rows.items():
        found = groups[name]
        table.add_row(
            inert(name), str(found["n"]), *(cells.get(t, "–") for t in shown), str(sum(found["unscored"].values()))
        )
    return table


def _in_order(groups: Mapping[str, Any]) -> dict[str, Any]:
    """All and held out first, then the rest by name."""
    return dict(sorted(groups.items(), key=lambda item: (item[0] != "all", item[0] != "held out", item[0])))


def _cells(found: Mapping[str, Any]) -> dict[str, str]:
    measures = found.get("measures", {"kappa": {"value": found.get("kappa")}})
    cells = {title: _measure(measures[key]) for key, title in _COLUMNS if key in measures}
    if "measures" not in found and found.get("accuracy") is not None:  # of pairs, or of an older version
        cells["accuracy"] = f"{found['accuracy']:.3f}"
    detected = found.get("detection", {})
    return cells | {k: _rate(detected[k]) for k in ("sensitivity", "specificity") if k in detected}


def _measure(found: Mapping[str, Any]) -> str:
    if found.get("value") is None:
        return "–"
    if found.get("low") is None:
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]{'*' if found['undefined'] else ''}"


def _rate(found: Mapping[str, Any]) -> str:
    if found.get("value") is None:
        return "–"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _intervals(passport: Mapping[str, Any]) -> str:
    made, tables = passport["bootstrap"], [passport["agreement"], *([c] if (c := passport.get("categories")) else [])]
    groups = [found for table in tables for axis in table.values() for found in axis.values()]
    undefined = max(m["undefined"] for found in groups for m in found.get("measures", {}).values())
    text = f"{100 * made['level']:g} % intervals: {made['resamples']} resamples of {made['resampled']}"
    if undefined:
        text += f" (* up to {undefined} of them have no value, as when people's labels in them are all one; left out)"
    return f"{text}; of sensitivity and specificity Wilson's, with {made['resampled']} as clusters."


def _raters(passport: Mapping[str, Any]) -> list[str]:
    lines = []
    for axis, found in passport.get("raters", {}).items():
        alpha = "not defined" if found["alpha"] is None else f"{found['alpha']:.2f}"
        undecided = f"; {found['undecided']} without a majority are left out" if found["undecided"] else ""
        lines.append(
            f"{axis}: {found['n_raters']} raters among themselves: Krippendorff's α {alpha} on {found['units']} "
            f"replies with two labels or more{undecided}. No judge can be expected to agree better with them."
        )
    if passport.get("unlabelled"):
        lines.append(f"Rows without any label, left out: {passport['unlabelled']}.")
    return lines


def _failures(passport: Mapping[str, Any]) -> str:
    parts = []
    for axis, groups in passport["agreement"].items():
        reasons, n = groups["all"]["unscored"], groups["all"]["n"]
        missing = sum(reasons.values())
        if missing:
            listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            parts.append(f"{axis} {missing} of {missing + n} ({100 * missing / (missing + n):.1f} %: {listed})")
    return f"Without a verdict: {'; '.join(parts) or 'none'}."


def _cost(passport: Mapping[str, Any]) -> str:
    found = passport.get("cost")
    if not found:
        return ""
    cached = f" ({found['from_cache']} from the cache)" if found["from_cache"] else ""
    text = f"Cost: {found['calls']:,} calls{cached}"
    if found["calls"]:
        text += f", {found['input_tokens']:,} tokens in and {found['output_tokens']:,} out"
    if found["seconds"] is not None:
        seconds = found["seconds"]
        text += (
            f"; seconds per verdict: median {_seconds(seconds['median'])}, 90th percentile {_seconds(seconds['p90'])}"
        )
    return f"{text}."


def _seconds(value: float) -> str:
    if value < 0.001:
        return "below 0.001"
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"
