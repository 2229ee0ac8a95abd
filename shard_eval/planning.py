"""Power before anything is generated: how likely each part of the claim can be shown, and how many prompts it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from shard_eval import benchmarks, judges, passports
from shard_eval.compare import Matched, Terms, evidence
from shard_eval.errors import UsageError, unknown
from shard_eval.logs import Protocol
from shard_eval.records import Axis
from shard_eval.report import Grid
from shard_eval.stats.claims import Evidence
from shard_eval.stats.power import (
    joint_power,
    judge_noise,
    noninferiority_mde,
    noninferiority_n,
    noninferiority_power,
    superiority_mde,
    superiority_n,
    superiority_power,
    zero_flip_floor,
)
from shard_eval.tasksupport import choose_split

POWER = 0.8


@dataclass(frozen=True)
class Assumed:
    """What is assumed about two systems nobody has compared yet; all are shares of prompts.

    Attributes:
        win: the candidate is more helpful.
        loss: the baseline is more helpful.
        harm: exactly one of them does harm, equally often either one.
        harm_rate: either of them does harm.
        refusal: exactly one of them refuses a benign prompt, equally often either one.
        refusal_rate: either of them refuses a benign prompt.
    """

    win: float = 0.35
    loss: float = 0.25
    harm: float = 0.05
    harm_rate: float = 0.03
    refusal: float = 0.05
    refusal_rate: float = 0.05

    @classmethod
    def read(cls, text: str) -> Assumed:
        """Read "win=0.4,harm=0.02".

        Raises:
            UsageError: for an unknown name or something that is no share.
        """
        known = {f.name for f in fields(cls)}
        values: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition("=")
            if name not in known:
                raise unknown("assumption", name, known)
            try:
                values[name] = float(value)
            except ValueError as error:
                raise UsageError(f"--assume {item!r}: give a share, e.g. {name}=0.05.") from error
            if not 0 <= values[name] <= 1:
                raise UsageError(f"--assume {item!r}: a share lies between 0 and 1.")
        return cls(**values)


@dataclass(frozen=True)
class Line:
    """One part of the claim on one benchmark.

    Attributes:
        n: independent prompts (clusters) it would be tested on.
        assumed: in words.
        power: probability to show it, if what is assumed holds.
        detectable: smallest net advantage (helpfulness) or margin that is shown with 80 %; None if none is.
        needed: prompts to show it with 80 %; None if no number suffices.
        floor: prompts without which the margin cannot be shown even if nothing differs.
    """

    part: str
    benchmark: str
    n: int
    assumed: str
    power: float
    detectable: float | None
    needed: int | None
    floor: int | None


def _superior(benchmark: str, n: int, win: float, loss: float, alpha: float) -> Line:
    power = superiority_power(n, win, loss, alpha=alpha).power
    needed = superiority_n(win, loss, POWER, alpha=alpha).n if win > loss else None
    detectable = superiority_mde(n, min(1.0, win + loss), POWER, alpha=alpha).effect
    return Line("helpfulness", benchmark, n, f"wins {win:.1%}, losses {loss:.1%}", power, detectable, needed, None)


def _inferior(
    part: str, benchmark: str, n: int, flips: float, margin: float, alpha: float, error: Mapping[str, float]
) -> Line:
    known: dict[str, Any] = {"alpha": alpha, **error}
    power = noninferiority_power(n, margin, flips, **known).power
    detectable = noninferiority_mde(n, flips, 0.0, POWER, **known).effect
    needed = noninferiority_n(margin, flips, 0.0, POWER, **known).n
    words = f"differ on {flips:.1%}" + (f", judge's J {error['youden']:.2f}" if error else "")
    return Line(part, benchmark, n, words, power, detectable, needed, zero_flip_floor(margin, alpha).score)


def _judge_error(judge: str, axis: Axis, rate: float) -> dict[str, float]:
    """What a judge's known errors do to a difference of rates; empty if they are not known."""
    try:
        prompts: dict[str, str] = {axis: judges.resolve(judge).fingerprint(axis)}
    except UsageError:
        return {}
    known = [a for a in passports.agreements(judge, prompts) if a.found["n"] >= passports.MIN_LABELS]
    for found in sorted(known, key=lambda a: (-a.found["n"], a.on)):
        if found.axis == axis and "detection" in found.found:
            se, sp = (found.found["detection"][k]["value"] for k in ("sensitivity", "specificity"))
            if se is not None and sp is not None and se + sp > 1:
                return {"youden": se + sp - 1, "noise": judge_noise(se, sp, rate)}
    return {}


def plan(names: Sequence[str], terms: Terms, assumed: Assumed, judge: str = "", split: str = "") -> list[Line]:
    """Power of every part on every benchmark, from what is assumed.

    Args:
        names: benchmarks.
        terms: margins and level.
        assumed: how often the two systems differ.
        judge: a judge whose known errors are to be counted in ("embedded"); "" for one without errors.
        split: of the benchmarks; "" for all records.

    Raises:
        UsageError, DataError: for an unknown benchmark, or one that is not here.
    """
    alpha, lines = (1 - terms.level) / 2, []
    for name in names:
        axes = benchmarks.describe(name).axes
        records = choose_split(benchmarks.load(name).records, split)
        n = len({r.cluster or r.prompt_sha for r in records})
        benign = len({r.cluster or r.prompt_sha for r in records if r.intent == "benign"})
        if "helpfulness" in axes:
            lines.append(_superior(name, n, assumed.win, assumed.loss, alpha))
        if "harm" in axes:
            error = _judge_error(judge, "harm", assumed.harm_rate)
            lines.append(_inferior("harm", name, n, assumed.harm, terms.margin, alpha, error))
        if "refusal" in axes and benign:
            error = _judge_error(judge, "refusal", assumed.refusal_rate)
            lines.append(_inferior("over-refusal", name, benign, assumed.refusal, terms.refusal_margin, alpha, error))
    return lines


def pilot(matched: Sequence[Matched], terms: Terms) -> list[Line]:
    """The same from two Systems' runs: how often they differed, taken as what will be."""
    alpha, lines = (1 - terms.level) / 2, []
    parts: dict[tuple[Protocol, str, str], list[Evidence]] = {}
    for m in matched:  # several, where its splits were scored one by one
        for e in evidence(m, terms):
            parts.setdefault((m.candidate.protocol, e.part, e.source), []).append(e)
    for (_, part, source), found in parts.items():
        scored = [a for e in found for a, b in zip(e.low, e.high, strict=True) if a == b]
        if not scored:
            continue
        n, margin = len({cluster for e in found for cluster in e.clusters}), found[0].margin
        win, loss = (sum(v > 0 for v in scored) / len(scored), sum(v < 0 for v in scored) / len(scored))
        if margin is None:
            lines.append(_superior(source, n, win, loss, alpha))
        else:
            lines.append(_inferior(part, source, n, win + loss, margin, alpha, {}))
    return lines


def grid(lines: Sequence[Line], terms: Terms) -> Grid:
    """The plan as a table."""
    rows = tuple(
        (
            f"{x.part} ({x.benchmark})",
            str(x.n),
            x.assumed,
            f"{100 * x.power:.0f} %",
            "–" if x.detectable is None else f"{100 * x.detectable:.1f}",
            "–" if x.needed is None else f"{x.needed:,}",
            "" if x.floor is None else f"{x.floor:,}",
        )
        for x in lines
    )
    header = ("part", "prompts", "assumed", "power", "detectable", "prompts for 80 %", "at least")
    joint = joint_power([x.power for x in lines])
    foot = (
        f"Margins: harm {100 * terms.margin:g} points, over-refusal {100 * terms.refusal_margin:g}; one-sided "
        f"{(1 - terms.level) / 2:g} each; true difference 0 for harm and over-refusal.",
        "Prompts are independent ones: those that share a cluster count once. Detectable: in points, with 80 % power. "
        "At least: what the margin needs even if nothing ever differs.",
        f"All parts together: {100 * joint.bonferroni:.0f} % to {100 * joint.weakest:.0f} % whatever their dependence, "
        f"{100 * joint.independent:.0f} % if independent.",
    )
    return Grid("What a comparison can show", header, rows, foot)


def to_json(lines: Sequence[Line], terms: Terms) -> dict[str, Any]:
    """The plan, ready for a file."""
    return {
        "terms": asdict(terms),
        "lines": [asdict(line) for line in lines],
        "joint": asdict(joint_power([line.power for line in lines])),
    }
