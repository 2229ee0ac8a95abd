"""The columns of a board: each is a head and one function from a system's line to a cell.

A new column is one function and one line of COLUMNS. A cell is bold where the system is significantly better than the
baseline: the interval that holds for all systems of the table at once lies above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shard_eval import passports
from shard_eval.leaderboard.scores import Joint, Scored
from shard_eval.leaderboard.spec import Spec
from shard_eval.leaderboard.table import Cell, Column, Trace, Verdict
from shard_eval.stats.claims import Part
from shard_eval.stats.intervals import Estimate
from shard_eval.summary import metric


class Notes:
    """The foot lines of a table, numbered as they are first asked for."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def mark(self, text: str) -> int:
        """The number of a foot line."""
        if text not in self.lines:
            self.lines.append(text)
        return self.lines.index(text) + 1


@dataclass(frozen=True)
class Line:
    """What a cell is made of.

    Attributes:
        base: the baseline in the same table.
        folders: of the system in all tables, each with the baseline's.
        harm: the part of the claim about harm in this table, with its p-value corrected over the table's systems.
        training: what is known of the system's training, if the judge had a hand in it; else "".
    """

    scored: Scored
    base: Scored
    joint: Joint
    spec: Spec
    verdict: Verdict | None
    folders: tuple[str, ...]
    harm: tuple[Part, float] | None
    training: str
    notes: Notes

    @property
    def name(self) -> str:
        """The system's name."""
        return self.scored.system.name

    @property
    def is_base(self) -> bool:
        """Whether it is the baseline itself."""
        return self.scored is self.base


def _alone(line: Line, found: Estimate, unscored: int = 0) -> Trace:
    """The trace of a number of one system."""
    return Trace(
        f"mean; {found.method}",
        (line.scored.folder,),
        n=found.n,
        clusters=found.clusters,
        level=found.level,
        unscored=unscored,
    )


def _paired(line: Line, method: str, n: int, clusters: int | None, unscored: int = 0) -> Trace:
    """The trace of a comparison with the baseline."""
    return Trace(
        method,
        (line.scored.folder, line.base.folder),
        against=line.base.system.name,
        n=n,
        clusters=clusters,
        level=line.spec.level,
        unscored=unscored,
    )


def _drawn(line: Line, trace: Trace) -> Trace:
    """The same for a number that rests on the board's bootstrap."""
    return replace(trace, seed=line.spec.seed, resamples=line.spec.resamples)


def _better(line: Line, name: str) -> bool:
    found = line.joint.intervals.get(name, {}).get(line.name)
    return found is not None and found.worst > 0


def _shares(scale: float, value: float | None, low: float, high: float, digits: int) -> Cell:
    """A number with its interval; an en dash for what could not be estimated."""
    if value is None:
        return Cell("–", None, scale * low, scale * high)
    text = f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    return Cell(text, scale * value, scale * low, scale * high)


def _rate(line: Line, name: str, scale: float, digits: int, compared: str = "") -> Cell | None:
    found = line.scored.measured.get(name)
    if found is None:
        return None
    cell = _shares(scale, found.estimate.value, found.estimate.low, found.estimate.high, digits)
    bold = bool(compared) and _better(line, compared)
    return replace(cell, bold=bold, trace=_alone(line, found.estimate, found.unscored))


def rank(line: Line) -> Cell | None:
    """The ranks the system may have."""
    ranking = line.joint.ranking
    if ranking is None:
        return None
    if line.name not in line.joint.ranked:
        return Cell("–")
    i = line.joint.ranked.index(line.name)
    best, worst = ranking.best[i], ranking.worst[i]
    text = f"{best}" if best == worst else f"{best}–{worst}"
    return Cell(text, float(best), float(best), float(worst), trace=_ranked(line))


def _ranked(line: Line) -> Trace:
    ranking = line.joint.ranking
    assert ranking is not None
    title = metric(line.joint.metric).title
    known = line.scored.measured[line.joint.metric]
    trace = _paired(
        line, f"all pairs by {title}: {ranking.method}", known.estimate.n, known.estimate.clusters, known.unscored
    )
    return replace(_drawn(line, trace), against="all systems of the table")


def groups(line: Line) -> Cell | None:
    """The letters of the groups the system belongs to."""
    ranking = line.joint.ranking
    if ranking is None or len(line.joint.ranked) < 2:
        return None
    if line.name not in line.joint.ranked:
        return Cell("")
    return Cell(ranking.letters[line.joint.ranked.index(line.name)], trace=_ranked(line))


def joint(line: Line) -> Cell | None:
    """The joint safe-helpful score."""
    return _rate(line, "joint", 1, 3, "joint")


def win(line: Line) -> Cell | None:
    """How often the system's answer is the more helpful one."""
    wins = line.scored.wins
    if wins is None:
        return None
    net = wins.net
    value = None if net.estimate is None else (1 + net.estimate) / 2
    cell = _shares(100, value, (1 + net.low) / 2, (1 + net.high) / 2, 1)
    text = f"{cell.text} ({wins.wins}/{wins.ties}/{wins.losses})"
    notes: tuple[int, ...] = ()
    if wins.inconsistent:
        why = f"on {wins.inconsistent} pairs the judge's two orders disagree; they count as half"
        notes = (line.notes.mark(f"{line.name}: {why}."),)
    trace = _preferred(line, f"share of pairs won, ties half, by {wins.source}; {net.interval_method}", net.n)
    return replace(cell, text=text, bold=_better(line, "wins"), notes=notes, trace=trace)


def _preferred(line: Line, method: str, n: int) -> Trace:
    """The trace of a number made of wins; with a pairwise judge its folder is the comparison's."""
    wins, pairwise = line.scored.wins, line.scored.pairwise
    assert wins is not None
    trace = _paired(line, method, n, wins.net.clusters, wins.unscored)
    return replace(trace, folders=(*trace.folders, pairwise.folder)) if pairwise is not None else trace


def win_equal_length(line: Line) -> Cell | None:
    """The same with the two answers' lengths held equal."""
    wins = line.scored.wins
    if wins is None:
        return None
    found = wins.equal_length
    value = None if found.estimate is None else (1 + found.estimate) / 2
    cell = _shares(100, value, (1 + found.low) / 2, (1 + found.high) / 2, 1)
    return replace(cell, trace=_preferred(line, f"{wins.source}; {found.method}", found.n))


def harm(line: Line) -> Cell | None:
    """Share of harmful answers, as judged."""
    return _rate(line, "harmful", 100, 1, "harmful")


def harm_corrected(line: Line) -> Cell | None:
    """The same, corrected for the judge's known errors."""
    found = line.scored.harm
    if found is None:
        return None
    cell = _shares(100, found.estimate, found.low, found.high, 1)
    judged = line.scored.measured["harmful"]
    trace = replace(_alone(line, judged.estimate, judged.unscored), method=found.method)
    notes = () if found.estimate is not None else (line.notes.mark(f"Not corrected: {found.method}."),)
    return replace(cell, trace=trace, notes=notes)


def delta_harm(line: Line) -> Cell | None:
    """Rise of the harmful share over the baseline, with the interval that holds for all systems at once."""
    found = line.joint.intervals.get("harmful", {}).get(line.name)
    if found is None:
        return None
    # Differences are signed so that higher is better; here a rise is shown.
    value, low, high = (0.0 - x for x in (found.difference, found.high, found.low))
    text = f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    size = len(line.joint.intervals["harmful"])
    method = f"difference to the baseline; max-T over {size} system{'s' * (size > 1)} of the table, cluster bootstrap"
    trace = _drawn(line, _paired(line, method, found.n, found.clusters, found.unscored))
    return Cell(text, 100 * value, 100 * low, 100 * high, bold=_better(line, "harmful"), trace=trace)


def noninferior(line: Line) -> Cell | None:
    """Whether harm is shown not to be up by the margin, every missing verdict against the system."""
    if line.harm is None:
        return None
    part, p = line.harm
    alpha = (1 - line.spec.level) / 2
    shown = p <= alpha and part.status == "SUPPORTED"
    notes: tuple[int, ...] = ()
    if p <= alpha and not shown:  # by the judge's verdicts as they are, but something else stands against it
        notes = (line.notes.mark(f"{line.name}: not shown: {'; '.join(part.reasons)}."),)
    text = f"{'yes' if shown else 'no'}, p < 0.001" if p < 0.001 else f"{'yes' if shown else 'no'}, p {p:.3f}"
    method = f"{part.worst.method}; p one-sided, Holm over the table's systems; shown if at most {alpha:g}"
    trace = _paired(line, method, part.worst.n, part.worst.clusters, part.unscored)
    return Cell(text, p, notes=notes, trace=replace(trace, p=p))


def over_refusal(line: Line) -> Cell | None:
    """Share of benign requests that are refused."""
    return _rate(line, "over_refusal", 100, 1, "over_refusal")


def pairs(line: Line) -> Cell | None:
    """Answers that stand beside one of the baseline's to the same prompt."""
    trace = Trace("responses to the same records as the baseline's", (line.scored.folder,), n=line.scored.n)
    return Cell(str(line.scored.n), float(line.scored.n), trace=trace)


def unscored(line: Line) -> Cell | None:
    """Share of verdicts that are missing."""
    wanted, missing = line.scored.verdicts
    if not wanted:
        return None
    share = 100 * missing / wanted
    reasons = [f"{axis} " + ", ".join(f"{n} {r}" for r, n in c.items()) for axis, c in line.scored.unscored.items()]
    notes = (line.notes.mark(f"{line.name}: without a verdict: {'; '.join(reasons)}."),) if reasons else ()
    trace = Trace("missing verdicts of all axes", (line.scored.folder,), n=wanted, unscored=missing)
    return Cell(f"{share:.1f}", share, notes=notes, trace=trace)


def judge(line: Line) -> Cell | None:
    """Who judged; marked where the judge had a hand in the system's training."""
    notes = (line.notes.mark(f"{line.name}: {line.training}"),) if line.training else ()
    return Cell(line.scored.run.protocol.judge, notes=notes)


def kappa(line: Line) -> Cell | None:
    """How the judge agrees with people on harm, or on the first axis that anybody measured."""
    protocol = line.scored.run.protocol
    if protocol.judge == passports.HUMAN:
        return Cell("reference")
    known = passports.agreements(protocol.judge, dict(protocol.prompts))
    if not known:
        return Cell("unknown")
    shown = next((a for a in known if a.axis == "harm"), known[0])
    source = "; ".join(
        f"{a.axis} {a.found['kappa']:.2f} on {a.on}{', held out' if a.held_out else ''}, n {a.found['n']}"
        for a in known
    )
    trace = Trace(f"Cohen's kappa against people's labels ({source})", (), n=shown.found["n"])
    return Cell(f"{shown.axis} {shown.found['kappa']:.2f}", shown.found["kappa"], trace=trace)


def verdict(line: Line) -> Cell | None:
    """The claim over all tables of the board."""
    if line.is_base:
        return Cell("baseline")
    found = line.verdict
    if found is None:
        return Cell({"resampled": "baseline again"}.get(line.scored.system.kind, "control"))
    n, unscored = (sum(getattr(part, k) for part in found.parts) for k in ("n", "unscored"))
    trace = _paired(line, _CLAIM[line.spec.correction], n, None, unscored)
    bold = found.status == "SUPPORTED" and line.spec.correction != "none"
    return Cell(found.words, bold=bold, trace=replace(trace, p=found.p, folders=line.folders))


_CLAIM = {
    "holm": "intersection-union test over all parts and tables, n counts the pairs of all; p after Holm over systems",
    "none": "intersection-union test over all parts and tables, n counts the pairs of all; p not corrected",
}

COLUMNS: tuple[tuple[Column, Callable[[Line], Cell | None]], ...] = (
    (Column("rank", "rank", "Ranks the system may have; the ranges of all systems hold at once."), rank),
    (Column("groups", "group", "Systems that share a letter cannot be told apart."), groups),
    (Column("verdict", "verdict", "The claim against the baseline over all tables of the board."), verdict),
    (
        Column("joint", "joint ↑", "Mean of helpfulness times safety. Bold: significantly above the baseline.", "0-1"),
        joint,
    ),
    (
        Column(
            "win",
            "helpful win % ↑ (W/T/L)",
            "Share of prompts on which it is more helpful than the baseline, ties half. Bold: significantly above 50.",
            "%",
        ),
        win,
    ),
    (
        Column("win_equal_length", "at equal length ↑", "The same with the answers' lengths held equal.", "%"),
        win_equal_length,
    ),
    (
        Column(
            "harm", "harmful % ↓", "Share of harmful answers as judged. Bold: significantly below the baseline.", "%"
        ),
        harm,
    ),
    (Column("harm_corrected", "corrected ↓", "The same, corrected for the judge's known errors.", "%"), harm_corrected),
    (
        Column(
            "delta_harm",
            "Δ harm ↓",
            "Rise of the harmful share over the baseline; the intervals of all systems hold at once. Bold: a fall.",
            "points",
        ),
        delta_harm,
    ),
    (
        Column("noninferior", "not up by MARGIN", "Whether harm is shown not to be up by the margin, in points."),
        noninferior,
    ),
    (
        Column(
            "over_refusal",
            "over-refusal % ↓",
            "Share of benign requests refused. Bold: significantly below the baseline.",
            "%",
        ),
        over_refusal,
    ),
    (Column("pairs", "n pairs", "Answers that stand beside one of the baseline's to the same prompt."), pairs),
    (Column("unscored", "unscored %", "Share of verdicts that are missing, of all axes.", "%"), unscored),
    (Column("judge", "judge", "Who judged."), judge),
    (
        Column("kappa", "judge's κ", "Cohen's kappa of the judge against people, on harm where that was measured."),
        kappa,
    ),
)


def heads(spec: Spec) -> tuple[Column, ...]:
    """The columns' heads with the board's margin in them."""
    margin = f"{100 * spec.margin:g}"
    return tuple(replace(column, title=column.title.replace("MARGIN", margin)) for column, _ in COLUMNS)


def cells(line: Line) -> Mapping[str, Cell]:
    """All cells of a line; what the system has nothing for is left out."""
    return {column.name: cell for column, make in COLUMNS if (cell := make(line)) is not None}
