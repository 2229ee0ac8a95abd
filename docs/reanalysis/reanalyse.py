"""Test again what the paper on SHARD reports, from its published percentages alone.

    python docs/reanalysis/reanalyse.py           prints the page
    python docs/reanalysis/reanalyse.py --write   writes README.md beside this file

The percentages are in shard_tables.csv. Every number on the page is computed here, with the functions of
shard_eval.stats.
"""

from __future__ import annotations

import argparse
import csv
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shard_eval.stats.comparison import Comparison
from shard_eval.stats.multiplicity import holm
from shard_eval.stats.paired import sign_test
from shard_eval.stats.power import noninferiority_mde, superiority_mde, zero_flip_floor

HERE = Path(__file__).parent
ALPHA = 0.05
MARGINS = (0.01, 0.02, 0.03)
FLIPS = (0.01, 0.05, 0.1)
DECISIVE = (0.5, 0.9)
# Figures whose halves the paper discusses together, as one family of tests each.
FAMILIES = {"Figure 3a": "Figure 3", "Figure 3b": "Figure 3", "Figure 4a": "Figure 4", "Figure 4b": "Figure 4"}
FAMILIES |= {"Figure 7": "Figures 7, 8", "Figure 8": "Figures 7, 8"}


@dataclass(frozen=True)
class Cell:
    """One published comparison; percentages as printed, `starred` None if not said."""

    table: str
    system: str
    model: str
    benchmark: str
    axis: str
    win: float
    lose: float
    starred: int | None
    n: int
    n_source: str
    models: int

    @property
    def family(self) -> str:
        """The tests that are corrected together."""
        return FAMILIES.get(self.table, self.table)

    @property
    def name(self) -> tuple[str, str, str, str]:
        """Where it is printed and what it compares."""
        return self.table, self.system, self.model, self.benchmark


@dataclass(frozen=True)
class Tested:
    """A comparison with the counts nearest to its percentages and the p-values that the rounding allows."""

    cell: Cell
    wins: int
    losses: int
    total: int
    test: Comparison
    least: float
    most: float

    @property
    def counts(self) -> str:
        """Wins, ties and losses."""
        return f"{self.wins} : {self.total - self.wins - self.losses} : {self.losses}"


def load() -> list[Cell]:
    """The published comparisons."""
    lines = (HERE / "shard_tables.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [
        Cell(
            *(r["table"], r["system"], r["model"], r["benchmark"], r["axis"], float(r["win"]), float(r["lose"])),
            *(int(r["starred"]) if r["starred"] else None, int(r["n"]), r["n_source"], int(r["models"])),
        )
        for r in rows
    ]


def possible(percent: float, total: int) -> tuple[int, int, int]:
    """Smallest, nearest and largest count that is printed as this percentage; the nearest alone if none is."""
    near = round(percent * total / 100)
    low = math.ceil((percent - 0.05) * total / 100 - 1e-9)
    high = math.floor((percent + 0.05) * total / 100 + 1e-9)
    return (max(0, low), near, min(total, high)) if low <= high else (near, near, near)


def fits(cell: Cell) -> bool:
    """Whether whole numbers of prompts give the printed percentages."""
    total = cell.n * cell.models
    return all(abs(100 * round(x * total / 100) / total - x) <= 0.05 + 1e-9 for x in (cell.win, cell.lose))


def tested(cell: Cell, each_model_votes: bool = False) -> Tested:
    """The exact two-sided sign test of a cell.

    Args:
        cell: the published comparison.
        each_model_votes: count an average over several models as that many independent answers per prompt, which
            they are not; otherwise every prompt votes once.
    """
    total = cell.n * (cell.models if each_model_votes else 1)
    (w0, wins, w1), (l0, losses, l1) = possible(cell.win, total), possible(cell.lose, total)
    corners = [_sign(w, min(ls, total - w), total) for w, ls in ((w0, l0), (w0, l1), (w1, l0), (w1, l1))]
    test, found = _sign(wins, min(losses, total - wins), total), [c.p for c in corners]
    signs = {(c.estimate or 0) > 0 for c in corners}
    most = 1.0 if len(signs) == 2 else max(*found, test.p)
    return Tested(cell, wins, min(losses, total - wins), total, test, min(*found, test.p), most)


def _sign(wins: int, losses: int, total: int) -> Comparison:
    return sign_test(wins, losses, total - wins - losses, alternative="two-sided")


def adjusted(tests: Sequence[Tested], by_family: bool, which: str = "near") -> list[float]:
    """Holm's p-values, over each family or over all, from the nearest counts or the ends of the rounding range."""
    raw = [{"near": t.test.p, "least": t.least, "most": t.most}[which] for t in tests]
    if not by_family:
        return [float(p) for p in holm(raw)]
    out = [0.0] * len(raw)
    for family in {t.cell.family for t in tests}:
        index = [i for i, t in enumerate(tests) if t.cell.family == family]
        for i, p in zip(index, holm([raw[i] for i in index]), strict=True):
            out[i] = float(p)
    return out


# --- text --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(x) for x in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def p_text(p: float) -> str:
    """A p-value to two digits."""
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def points(x: float) -> str:
    """A signed difference in percentage points."""
    return f"{100 * x:+.1f}".replace("-", "−")


def stars(cell: Cell) -> str:
    """The stars as printed; a question mark if it is not said whether there are any."""
    return "?" if cell.starred is None else r"\*" * cell.starred


def described(t: Tested) -> list[object]:
    """Name, size, counts and difference of a comparison, as the tables print them."""
    return [*t.cell.name, t.total, t.counts, points(t.test.estimate or 0)]


def robust(least: float, most: float) -> str:
    """Whether a verdict holds for all counts that are printed alike."""
    if (least <= ALPHA) == (most <= ALPHA):
        return "all counts"
    return f"depends on rounding ({p_text(least)} to {p_text(most)})"


def helpfulness(cells: Sequence[Cell]) -> tuple[str, dict[str, int]]:
    """The starred comparisons: which differences stand, and which were missed."""
    tests = [tested(c) for c in cells if c.starred is not None]
    family, overall = adjusted(tests, True), adjusted(tests, False)
    least, most = adjusted(tests, False, "least"), adjusted(tests, False, "most")
    starred = [bool(t.cell.starred) for t in tests]
    rows: list[list[object]] = []
    for name in dict.fromkeys(t.cell.family for t in tests):
        index = [i for i, t in enumerate(tests) if t.cell.family == name]
        parts = [[i for i in index if starred[i] is wanted] for wanted in (True, False)]
        kept = [[len(part), *(sum(p[i] <= ALPHA for i in part) for p in (family, overall))] for part in parts]
        rows.append([name, *kept[0], *kept[1]])
    rows.append(["all", *(sum(int(str(r[k])) for r in rows) for k in range(1, 7))])
    head = ["family", "starred", "stand in family", "stand among all", "not starred", "found in family", "found in all"]

    def exceptions(wanted: bool, significant: bool) -> str:
        chosen = [i for i in range(len(tests)) if starred[i] is wanted and (overall[i] <= ALPHA) is significant]
        return table(
            ["table", "system", "model", "set", "n", "win : tie : lose", "difference", "p", "Holm p", "holds for"],
            [
                [*described(tests[i]), p_text(tests[i].test.p), p_text(overall[i]), robust(least[i], most[i])]
                for i in sorted(chosen, key=lambda i: overall[i])
            ],
        )

    found = {
        "all": len(tests),
        "starred": sum(starred),
        "stand": sum(s and p <= ALPHA for s, p in zip(starred, overall, strict=True)),
        "stand_sure": sum(s and p <= ALPHA for s, p in zip(starred, most, strict=True)),
        "missed": sum(not s and p <= ALPHA for s, p in zip(starred, overall, strict=True)),
        "missed_sure": sum(not s and p <= ALPHA for s, p in zip(starred, most, strict=True)),
        "worse": sum(
            p <= ALPHA and s and (t.test.estimate or 0) < 0 for t, p, s in zip(tests, overall, starred, strict=True)
        ),
    }
    text = f"""## Helpfulness: the {len(tests)} starred and unstarred comparisons

Exact two-sided sign tests; "stand" and "found" mean a Holm-adjusted p of at most {ALPHA}, once within the family named
and once among all {len(tests)}. Averages over seven models (Table 3) count every prompt once.

{table(head, rows)}

Starred, but not significant among all {len(tests)}:

{exceptions(True, False)}

Not starred, but significant among all {len(tests)}:

{exceptions(False, True)}

"Holds for" says whether the verdict is the same for every pair of counts that would be printed as the same percentages.
"""
    return text, found


def pooled(cells: Sequence[Cell]) -> tuple[str, dict[str, int]]:
    """Table 3 under both readings of its averages."""
    tests = [(tested(c), tested(c, each_model_votes=True)) for c in cells if c.models > 1]
    pairs = [holm([t[k].test.p for t in tests]) for k in (0, 1)]
    rows = [
        [
            *(one.cell.benchmark.removeprefix("LinguaSafe, "), stars(one.cell), one.cell.n),
            *(points(one.test.estimate or 0), p_text(a), many.total, p_text(b)),
        ]
        for (one, many), a, b in zip(tests, *pairs, strict=True)
    ]
    head = ["level or category", "stars", "prompts", "difference", "Holm p, one vote per prompt"]
    head += ["answers", "Holm p, as if independent"]
    text = f"""## Severity and category (Table 3)

Seven models answered the same prompts, so the averages rest on fewer independent facts than answers. With one vote per
prompt the test errs on the safe side; with one vote per answer it takes the models for independent, which is too bold.

{table(head, rows)}
"""
    return text, {"one": int((pairs[0] <= ALPHA).sum()), "many": int((pairs[1] <= ALPHA).sum()), "all": len(tests)}


def harm(cells: Sequence[Cell]) -> tuple[str, dict[str, int]]:
    """The harm columns under both readings of their direction."""
    tests = [tested(c) for c in cells if c.axis == "harm"]
    p = holm([t.test.p for t in tests])
    rows = [
        [*described(t), f"{points(t.test.low)} to {points(t.test.high)}", p_text(a), _shown(t, 1), _shown(t, -1)]
        for t, a in zip(tests, p, strict=True)
    ]
    head = ["table", "system", "model", "set", "n", "win : tie : lose", "difference", "95 % interval", "Holm p"]
    head += ["as printed", "inverted"]
    own = [(t, a) for t, a in zip(tests, p, strict=True) if t.cell.system.startswith("SHARD")]
    blocks = {"inference (Table 16)": ("Table 16",), "fine-tuned (Table 11)": ("Table 11",)}
    summary, found = [], {"cells": len(tests), "own": len(own)}
    for sign, reading in ((1, "as printed"), (-1, "inverted")):
        for block, names in blocks.items():
            part = [(t, a) for t, a in own if t.cell.table in names]
            worse = sum(a <= ALPHA and sign * (t.test.estimate or 0) < 0 for t, a in part)
            better = sum(a <= ALPHA and sign * (t.test.estimate or 0) > 0 for t, a in part)
            noninferior = [sum(bound(t, sign) > -m for t, _ in part) for m in MARGINS]
            summary.append([reading, block, len(part), worse, better, *noninferior])
            found[f"{reading}, {names[0]}, worse"] = worse
            found[f"{reading}, {names[0]}, cells"] = len(part)
            found[f"{reading}, {names[0]}, noninferior"] = noninferior[1]
    margin_list = ", ".join(f"{100 * m:.0f}" for m in MARGINS)
    margins = [f"not worse by {100 * m:.0f}" for m in MARGINS]
    text = f"""## Harm: both readings of the columns

The public code asks which answer is *more* harmful and files the reply under *harmless*, so the printed columns may be
right or swapped. Differences are win minus lose as printed, in points, with Tango's interval; Holm over all
{len(tests)} harm comparisons. Non-inferiority at a margin is shown if the interval's bound lies inside it.

SHARD only (self-distilled, taught and at inference time), number of comparisons:

{table(["reading", "setting", "comparisons", "significantly worse", "significantly better", *margins], summary)}

All harm comparisons. The last two columns give the margins in points, of {margin_list}, at which "not more harmful" is
shown under each reading:

{table(head, rows)}
"""
    return text, found


def bound(t: Tested, sign: int) -> float:
    """Lower bound of the harm difference if the columns are as printed (1) or inverted (-1)."""
    return t.test.low if sign == 1 else -t.test.high


def _shown(t: Tested, sign: int) -> str:
    return ", ".join(f"{100 * m:.0f}" for m in MARGINS if bound(t, sign) > -m) or "none"


def detectable(cells: Sequence[Cell]) -> str:
    """What each number of prompts can show with 80 % power."""
    rows = []
    for n in sorted({c.n for c in cells}):
        wins = [superiority_mde(n, d).effect for d in DECISIVE]
        margins = [noninferiority_mde(n, f, method="exact").effect for f in FLIPS]
        rows.append([n, *(f"{100 * x:.1f}" if x is not None else "none" for x in (*wins, *margins))])
    head = ["prompts", *(f"win − lose, {100 * d:.0f} % decided" for d in DECISIVE)]
    head += [f"margin, {100 * f:.0f} % flips" for f in FLIPS]
    floors = ", ".join(f"{zero_flip_floor(m).score} for {100 * m:.0f}" for m in MARGINS)
    return f"""## What these numbers of prompts can show

Smallest difference in points that the sign test finds, and smallest margin at which Tango's test shows non-inferiority
of equal systems, each with 80 % power at one-sided 2.5 %. Even if no prompt flips, non-inferiority needs so many
prompts (by margin in points): {floors}.

{table(head, rows)}
"""


def everything(cells: Sequence[Cell]) -> str:
    """All helpfulness comparisons, with the raw p."""
    tests = [tested(c) for c in cells if c.axis == "helpfulness"]
    rows = [[*described(t), p_text(t.test.p), stars(t.cell)] for t in tests]
    head = ["table", "system", "model", "set", "n", "win : tie : lose", "difference", "p", "stars"]
    return f"## All helpfulness comparisons\n\n{table(head, rows)}\n"


def page() -> str:
    """The whole page."""
    cells = load()
    (help_text, h), (pooled_text, s), (harm_text, d) = helpfulness(cells), pooled(cells), harm(cells)
    misfit = [c for c in cells if not fits(c)]
    guessed = sum(c.n_source in ("expected", "assumed") for c in misfit)
    worse = {r: d[f"{r}, Table 16, worse"] + d[f"{r}, Table 11, worse"] for r in ("as printed", "inverted")}
    of16, of11 = d["as printed, Table 16, cells"], d["as printed, Table 11, cells"]
    shown = {(r, t): d[f"{r}, {t}, noninferior"] for r in worse for t in ("Table 16", "Table 11")}
    mixed = d["inverted, Table 16, worse"] + d["as printed, Table 11, worse"]
    findings = f"""Of {h["starred"]} starred differences in helpfulness (among {h["all"]} comparisons), {h["stand"]}
stand under an exact sign test with Holm's correction over all {h["all"]} ({h["stand_sure"]} whatever the rounding
hides); in {h["worse"]} of them the system named loses. {h["missed"]} differences without a star are significant
({h["missed_sure"]} whatever the rounding). Of the {s["all"]} averages over seven models, all starred, {s["one"]} are
significant with one vote per prompt and {s["many"]} if the models are taken for independent. On harm, SHARD is
significantly worse than the original in {worse["as printed"]} of {of16 + of11} comparisons if the columns mean what
they say ({d["as printed, Table 16, worse"]} of {of16} at inference time,
{d["as printed, Table 11, worse"]} of {of11} after training),
and in {worse["inverted"]} if they are inverted ({d["inverted, Table 16, worse"]} and
{d["inverted, Table 11, worse"]}); it is in {mixed} if the first table is inverted and the second is not. "Not more
harmful by 2 points" is shown in {shown["as printed", "Table 16"]} of {of16} and {shown["as printed", "Table 11"]} of
{of11} as printed, in {shown["inverted", "Table 16"]} and {shown["inverted", "Table 11"]} if inverted."""
    return f"""# The published SHARD tables, tested again

<!-- Written by reanalyse.py --write; do not edit. -->

{textwrap.fill(" ".join(findings.split()), 120)}

Source: arXiv 2606.15517v1; percentages, prompts and their provenance in [shard_tables.csv](shard_tables.csv). Counts
are the whole numbers nearest to the percentages.

{help_text}
{pooled_text}
{harm_text}
{detectable(cells)}
## What the counts cannot tell

* The held-out sets (Figures 3, 4, 7, 8; Tables 11, 13) hold only prompts on which the same judge had preferred the
  reframed answer to the same stored original. A win there is conditional on that; a small p does not undo it. The
  sets differ from model to model, and the teacher's differ from the student's.
* One judge gave all verdicts, in one random order, on one draw per system. Its errors and its preference for a place
  are in every count, and the p-values are about drawing other prompts, not other judges or other draws.
* In the inference-time tables an unreadable verdict became a tie; in the fine-tuned ones it was dropped. So a tie is no
  sign of equality, and some denominators are smaller than the n used here: {len(misfit)} of {len(cells)} comparisons
  cannot be whole counts of their n, {guessed} of them with an n that is expected or assumed.
* The harm prompt asks for a tie in case of doubt, which keeps every difference small and every margin easy to meet; no
  rate of harmful answers is published.
* No verdict is published per prompt, so helpfulness and harm cannot be joined, and systems on the same prompts cannot
  be paired.

{everything(cells)}"""


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write README.md beside this file")
    if parser.parse_args().write:
        (HERE / "README.md").write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
