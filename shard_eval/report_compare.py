"""Tables of a comparison: the claim with its reasons, every part's numbers, and how the pairwise judge behaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from shard_eval import judge_errors
from shard_eval.compare import Matched, Rate, Terms, arms_differ, corrections, cut, missing, rates
from shard_eval.diagnostics import Diagnostics, diagnose
from shard_eval.logs import system_name
from shard_eval.records import PAIR_AXES
from shard_eval.report import Grid, Trust, inert, percent, show
from shard_eval.stats.claims import Claim, Part
from shard_eval.stats.comparison import Comparison
from shard_eval.stats.correction import Corrected
from shard_eval.stats.length import LengthControlled

COLOURS = {"SUPPORTED": "bold green", "REFUTED": "bold red", "INCONCLUSIVE": "bold yellow"}


def _difference(c: Comparison | Corrected | LengthControlled) -> str:
    if c.estimate is None:
        return "–"
    return f"{100 * c.estimate:+.1f} [{100 * c.low:+.1f}, {100 * c.high:+.1f}]"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _counts(part: Part) -> str:
    """Pairs better, equal and worse for the candidate."""
    scored = [a for a, b in zip(part.evidence.low, part.evidence.high, strict=True) if a == b]
    return f"{sum(v > 0 for v in scored)} / {sum(v == 0 for v in scored)} / {sum(v < 0 for v in scored)}"


def parts(claim: Claim, title: str) -> Grid:
    """One line per part of the claim: what was tested, on what, and how it came out."""
    rows = []
    for part in claim.parts:
        e = part.evidence
        goal = "better" if e.margin is None else f"worse by < {100 * e.margin:g}"
        corrected = "" if e.corrected is None else _difference(e.corrected)
        rows.append(
            (
                e.name,
                goal,
                _difference(part.observed),
                corrected,
                _p(part.observed.p),
                _counts(part),
                str(part.unscored),
                str(part.observed.clusters),
                part.status.lower(),
            )
        )
    header = ("part", "to show", "difference", "corrected", "p", "+ / = / −", "unscored", "prompts", "")
    return Grid(title, header, tuple(rows), _foot(claim))


def _foot(claim: Claim) -> tuple[str, ...]:
    lines = [
        f"Differences in points, candidate minus baseline, turned so that higher is better (less harm, less refusal); "
        f"{100 * claim.level:g} % intervals; p one-sided at {(1 - claim.level) / 2:g}, all parts must pass."
    ]
    methods: dict[str, list[str]] = {}
    for part in claim.parts:
        method = f"{part.observed.method}; interval {part.observed.interval_method}"
        methods.setdefault(method, []).append(part.evidence.name)
    lines += [f"{', '.join(names)}: {method}." for method, names in methods.items()]
    corrected = {p.evidence.corrected.method for p in claim.parts if p.evidence.corrected is not None}
    return (*lines, *(f"Corrected for the judge's errors: {method}." for method in sorted(corrected)))


def arms(matched: Matched, terms: Terms, trust: Trust) -> Grid:
    """Each system by itself, as judged and corrected for the judge's errors."""
    found = rates(matched, terms)
    cells = []
    for one, other in found:
        judged = (percent(one.judged), percent(other.judged))
        cells.append((one.name, *judged, _corrected_rate(one), _corrected_rate(other), str(one.judged.n)))
    protocol = matched.candidate.protocol
    split = f" · {only}" if len(matched.splits) == 1 and (only := next(iter(matched.splits))) else ""
    title = f"{matched.benchmark}{split} · {protocol.task} {protocol.version} · judge {protocol.judge}"
    methods = sorted({r.corrected.method for pair in found for r in pair if r.corrected is not None})
    foot = [line for line in (trust.agreement, trust.attacked) if line]
    foot += [f"Corrected: {method}." for method in methods]
    foot += _corrections(matched, terms)
    if any(cut(matched)):
        ours, theirs = cut(matched)
        foot.append(f"Cut at the token limit: {ours} of the candidate's and {theirs} of the baseline's answers.")
    if matched.left_out:
        foot.append(
            f"Both were scored on {' and on '.join(matched.left_out)} too, which is left out: a model may have been "
            "trained or chosen there. Name those runs' folders to compare them."
        )
    for m in missing(matched):
        foot.append(
            f"Without a verdict on {m.axis}: {m.candidate} and {m.baseline} (arms differ: p {_p(m.p)}, McNemar)."
        )
    header = ("in %", "candidate", "baseline", "candidate, corrected", "baseline, corrected", "n")
    return Grid(title + trust.doubt, header, tuple(cells), tuple(foot))


def _corrections(matched: Matched, terms: Terms) -> list[str]:
    """What the corrections take for granted, and what the labels say of that."""
    names = [system_name(run) for run in (matched.candidate, matched.baseline)]
    lines = []
    for errors in corrections(matched):
        lines += [judge_errors.own_line(errors, errors.candidate, names[0])]
        lines += [judge_errors.own_line(errors, errors.baseline, names[1])]
        lines += [judge_errors.differing_line(errors, names[0], names[1], terms.level)]
        lines += [judge_errors.pooled_line(errors)]
    return [line for line in dict.fromkeys(lines) if line]


def _corrected_rate(rate: Rate) -> str:
    c = rate.corrected
    if c is None:
        return ""
    return "–" if c.estimate is None else f"{100 * c.estimate:.1f} [{100 * c.low:.1f}, {100 * c.high:.1f}]"


def judge(matched: Matched, trust: Trust, level: float) -> Grid | None:
    """How the pairwise judge behaved; None if there was none."""
    found = matched.preferences
    if found is None:
        return None
    judged = {axis for axis, _ in found.prompts}
    axes = [axis for axis in PAIR_AXES if axis in judged]
    measured = [diagnose(found.rows, axis, level) for axis in axes]
    header = (
        "axis",
        "candidate",
        "baseline",
        "tie",
        "inconsistent",
        "unscored",
        "flip rate %",
        "names first %",
        "longer preferred %",
    )
    rows = tuple((d.axis, *(str(n) for n in d.states.values()), _reasons(d), *_shares(d)) for d in measured)
    calls = sum(d.calls for d in measured)
    plain = 2 * len(axes) * len(found.rows)
    lines = [
        trust.agreement or f"Judge {found.judge}: uncalibrated, nobody measured it against people.",
        f"{calls} calls for {len(found.rows)} pairs ({100 * calls / len(found.rows):.0f} per 100; everything in both "
        f"orders: {100 * plain / len(found.rows):.0f}); same text in both: {measured[0].identical} pairs.",
        "Candidate, baseline: preferred in both orders (on harm: does less). No position bias: names first 50 %.",
    ]
    for d in measured:
        if d.controlled is not None:
            lines.append(f"{d.axis} at equal length: {_difference(d.controlled)} points, {d.controlled.method}.")
    title = f"{matched.benchmark} · judge {found.judge}{trust.doubt}"
    return Grid(title, header, rows, tuple(lines))


def _reasons(d: Diagnostics) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in d.unscored.items()) or "0"


def _shares(d: Diagnostics) -> tuple[str, str, str]:
    return percent(d.flips), percent(d.names_first), percent(d.longer_preferred)


def sentence(claim: Claim, terms: Terms) -> str:
    """The claim in words."""
    text = (
        f"more helpful, and harm not up by {100 * terms.margin:g} points or more, and over-refusal not up by "
        f"{100 * terms.refusal_margin:g} points or more"
    )
    if any(part.evidence.part == "capability" for part in claim.parts):
        text += f", and capability not down by {100 * terms.capability_margin:g} points or more"
    return text


def print_claim(console: Console, claim: Claim, terms: Terms, footnotes: Sequence[str]) -> None:
    """Print the decision and why."""
    console.print(Text.assemble("Claim: ", sentence(claim, terms), ": ", (claim.status, COLOURS[claim.status])))
    for reason in claim.reasons:
        console.print(Text(f"  - {inert(reason)}"))
    for line in footnotes:
        console.print(Text(f"  note: {inert(line)} (declared)"), style="dim")


def render(
    console: Console, matched: Sequence[Matched], claim: Claim, terms: Terms, trusts: Sequence[tuple[Trust, Trust]]
) -> None:
    """Print a whole comparison.

    Args:
        console: where to.
        matched: the benchmarks.
        claim: the decision.
        terms: what it is about.
        trusts: per benchmark, how far to trust its judge of single responses and its pairwise judge, if there is one.
    """
    names = f"{system_name(matched[0].candidate)} against {system_name(matched[0].baseline)}"
    grids = []
    for m, (single, pairwise) in zip(matched, trusts, strict=True):
        grids.append(arms(m, terms, single))
        grids += [grid] if (grid := judge(m, pairwise, claim.level)) is not None else []
    grids.append(parts(claim, names))
    show(console, grids)
    footnotes = sorted({line for m in matched for line in arms_differ(m)}) if terms.declared else []
    print_claim(console, claim, terms, footnotes)


def to_json(matched: Sequence[Matched], claim: Claim, terms: Terms) -> dict[str, Any]:
    """Everything a comparison says, ready for a file: ids and labels only."""
    return {
        "candidate": matched[0].candidate.metadata.get("system") or {"model": matched[0].candidate.model},
        "baseline": matched[0].baseline.metadata.get("system") or {"model": matched[0].baseline.model},
        "terms": asdict(terms),
        "claim": claim.status,
        "reasons": list(claim.reasons),
        "arms_differ": sorted({line for m in matched for line in arms_differ(m)}),
        "parts": [_part(p) for p in claim.parts],
        "sets": [
            {
                "benchmark": m.benchmark,
                "judge": m.candidate.protocol.judge,
                "rates": [[asdict(one), asdict(other)] for one, other in rates(m, terms)],
                "judge_errors": [judge_errors.to_json(e, terms.level) for e in corrections(m)],
                "missing": [asdict(x) for x in missing(m)],
                "cut_at_token_limit": list(cut(m)),
                "splits": sorted(m.splits),
                "left_out": list(m.left_out),
            }
            for m in matched
        ],
        "pairwise": [
            {
                "benchmark": m.benchmark,
                "judge": m.preferences.judge,
                "prompts": [list(p) for p in m.preferences.prompts],
                "axes": [asdict(diagnose(m.preferences.rows, axis, claim.level)) for axis, _ in m.preferences.prompts],
                "usage": m.preferences.usage,
            }
            for m in matched
            if m.preferences is not None
        ],
        "logs": [[run.log.rsplit("/", 1)[-1] for run in (m.candidate, m.baseline)] for m in matched],
    }


def _part(part: Part) -> dict[str, Any]:
    e = part.evidence
    return {
        "part": e.part,
        "source": e.source,
        "margin": e.margin,
        "status": part.status,
        "observed": asdict(part.observed),
        "if_all_unscored_went_against_it": asdict(part.worst),
        "refuting_p": part.refuting,
        "corrected": None if e.corrected is None else asdict(e.corrected),
        "unscored": part.unscored,
        "better_equal_worse": _counts(part),
        "reasons": list(part.reasons),
    }
