"""Simulate how the published procedure goes wrong where we know the truth, with ours beside it.

    python docs/honesty/simulate.py           prints the page
    python docs/honesty/simulate.py --write   writes README.md beside this file

Every number on the page is computed here, from fixed seeds, with its Monte-Carlo standard error. Ours are the functions
of shard_eval.stats that `shard compare` uses.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.records import sha256
from shard_eval.stats.claims import Evidence, Status, decide
from shard_eval.stats.multiplicity import holm
from shard_eval.stats.paired import sign_test

HERE = Path(__file__).parent
ALPHA = 0.05  # two-sided; ours tests each part of a claim one-sided at half of it
HELD_OUT = 5  # one prompt in so many is held out
STRATA = {"DNA": 939, "level 0": 297, "level 1": 328, "level 2": 1206, "level 3": 1436}
STRATUM = np.repeat(np.arange(len(STRATA)), list(STRATA.values()))
REFRAMED = np.array([0.5, 0.0, 0.0, 0.4, 0.7])[STRATUM]  # how much better the reframed answer is, by stratum
OWN = np.array([int(sha256(f"prompt {i}")[:8], 16) % HELD_OUT == 0 for i in range(len(STRATUM))])  # before any answer
MODELS_N = 403  # a held-out set of the size published for one of the models
REPLICATES = 200
STUDIES = 100  # of harm, where the exact test takes its time
HARM_MARGIN = 0.02

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]
Verdicts = npt.NDArray[np.int_]  # 1 the candidate, -1 the baseline, 0 a tie


@dataclass(frozen=True)
class World:
    """What is true, in units of the spread of the judge's opinion between two unlike answers.

    Attributes:
        gain: how much better the tuned model's answers are, on average.
        spread: standard deviation of answers to one prompt drawn from the same model.
        noise: of a single verdict.
        place: what the judge adds to the answer shown first.
        band: a smaller difference is a tie.
        unreadable: share of verdicts that cannot be read.
    """

    gain: float = 0.0
    spread: float = 0.5
    noise: float = 0.3
    place: float = 0.3
    band: float = 0.15
    unreadable: float = 0.02


# --- the judge ---------------------------------------------------------------------------------------------------


def verdict(rng: Rng, world: World, better: Floats, first: npt.NDArray[np.bool_] | bool) -> Verdicts:
    """One call: the candidate's answer is better by so much and is shown first, or second."""
    seen = better + world.place * (2 * np.asarray(first, dtype=float) - 1)
    seen = seen + rng.normal(scale=world.noise, size=better.shape)
    return np.where(np.abs(seen) < world.band, 0, np.sign(seen)).astype(int)


def one_order(rng: Rng, world: World, better: Floats) -> Verdicts:
    """As published: one call in a random order, and what cannot be read is a tie."""
    found = verdict(rng, world, better, rng.random(better.shape) < 0.5)
    return np.where(rng.random(better.shape) < world.unreadable, 0, found)


def both_orders(rng: Rng, world: World, better: Floats) -> tuple[Verdicts, npt.NDArray[np.bool_]]:
    """Ours: both orders, 0 where they disagree. Also says where that is."""
    one, two = verdict(rng, world, better, True), verdict(rng, world, better, False)
    return np.where(one == two, one, 0), one != two


def unread(rng: Rng, world: World, size: int) -> npt.NDArray[np.bool_]:
    """Where either of two calls cannot be read."""
    return rng.random(size) < 1 - (1 - world.unreadable) ** 2


# --- the tests ---------------------------------------------------------------------------------------------------


def chunked(d: Verdicts | Floats) -> tuple[float, float]:
    """Mean difference, and p of the published test: a paired t-test over three contiguous chunks, remainder dropped.

    Equal chunks leave no variance: any difference is then beyond doubt for the t-test, and none is none.
    """
    size = len(d) // 3
    return float(d.mean()), float(t_test(d[: 3 * size].reshape(3, size).mean(axis=1)))


def t_test(chunks: Floats) -> Floats:
    """Two-sided p of t-tests whose three differences are on the last axis."""
    mean, error = chunks.mean(axis=-1), chunks.std(axis=-1, ddof=1) / math.sqrt(3)
    t = np.divide(mean, error, out=np.where(np.abs(mean) > 1e-12, np.inf, 0.0), where=error > 1e-12)
    return np.asarray(2 * special.stdtr(2, -np.abs(t)))


@cache
def exact(wins: int, losses: int) -> float:
    """Two-sided p of our exact sign test."""
    return sign_test(wins, losses, 0).p


@cache
def status(part: str, wins: int, losses: int, ties: int, missing: int, margin: float | None) -> Status:
    """Our decision on one part of a claim."""
    d = [1.0] * wins + [-1.0] * losses + [0.0] * ties
    low, high = (*d, *([-1.0] * missing)), (*d, *([1.0] * missing))
    return decide(Evidence(part, "set", low, high, tuple(map(str, range(len(low)))), margin)).status


def helpful(d: Verdicts, missing: int = 0) -> Status:
    """Our decision on helpfulness."""
    wins, losses = int((d > 0).sum()), int((d < 0).sum())
    return status("helpfulness", wins, losses, len(d) - wins - losses, missing, None)


# --- text --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    lines = [" | ".join(head), " | ".join(["---", *["---:"] * (len(head) - 1)])]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def fill(text: str) -> str:
    """A paragraph, in lines of 120."""
    return textwrap.fill(" ".join(text.split()), 120)


def points(found: Sequence[float]) -> str:
    """Mean of signed differences in percentage points, with its Monte-Carlo standard error."""
    x = 100 * np.asarray(found, dtype=float)
    return f"{x.mean():+.1f} ± {x.std(ddof=1) / math.sqrt(len(x)):.1f}".replace("-", "−")


def percent(found: Sequence[bool] | npt.NDArray[np.bool_]) -> str:
    """How often, in percent, with its Monte-Carlo standard error (of at least one case)."""
    n, k = len(found), int(np.sum(found))
    p = min(max(k, 1), n - 1) / n
    return f"{100 * k / n:.1f} ± {100 * math.sqrt(p * (1 - p) / n):.1f}"


# --- 1: a test set chosen by the outcome -------------------------------------------------------------------------


@dataclass
class Study:
    """What came out, one entry per simulated study of the same tuned model and baseline."""

    pool: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    kept_wins: list[float] = field(default_factory=list)
    redrawn: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    our_wins: list[float] = field(default_factory=list)
    called: list[bool] = field(default_factory=list)
    supported: list[bool] = field(default_factory=list)


def study(rng: Rng, world: World, out: Study) -> None:
    """Draw all answers, judge and test them as published and as we do, and note what either reports."""
    size = len(STRATUM)
    stored, again = rng.normal(scale=world.spread, size=(2, size))  # the baseline's answers, drawn twice
    tuned = world.gain + rng.normal(scale=world.spread, size=size)
    reframed = REFRAMED + rng.normal(scale=0.5, size=size) + rng.normal(scale=world.spread, size=size)
    pool = one_order(rng, world, reframed - stored)
    chosen = _held_out(rng, pool > 0)
    kept = one_order(rng, world, (tuned - stored)[chosen])
    published, p = chunked(kept)
    ours, _ = both_orders(rng, world, (tuned - stored)[OWN])
    missing = unread(rng, world, len(ours))
    out.pool.append(float(pool.mean()))
    out.kept.append(published)
    out.kept_wins.append(float((kept > 0).mean()))
    out.redrawn.append(float(one_order(rng, world, (tuned - again)[chosen]).mean()))
    out.ours.append(float(ours[~missing].mean()))
    out.our_wins.append(float((ours[~missing] > 0).mean()))
    out.called.append(p <= ALPHA and published > 0)
    out.supported.append(helpful(ours[~missing], int(missing.sum())) == "SUPPORTED")


def _held_out(rng: Rng, won: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """One in five of the prompts that the reframed answer won, per stratum, in stratum order."""
    parts = []
    for stratum in range(len(STRATA)):
        rows = rng.permutation(np.flatnonzero(won & (stratum == STRATUM)))
        parts.append(rows[: len(rows) // HELD_OUT])
    return np.concatenate(parts)


CASES = {
    "no effect, answers never vary": World(spread=0.0),
    "no effect, answers vary a little": World(spread=0.25),
    "no effect, answers vary": World(spread=0.5),
    "no effect, answers vary much": World(spread=1.0),
    "small true gain, answers vary": World(gain=0.1),
    "true loss, answers vary": World(gain=-0.1),
}


def selection(seed: int) -> str:
    """What a test set filtered by the outcome reports."""
    rows, pools = [], []
    for k, (name, world) in enumerate(CASES.items()):
        found, rng = Study(), np.random.default_rng([seed, k])
        for _ in range(REPLICATES):
            study(rng, world, found)
        pools += found.pool
        wins = [f"{100 * np.mean(x):.0f} %" for x in (found.kept_wins, found.our_wins)]
        rows.append([name, wins[0], points(found.kept), points(found.redrawn), wins[1], points(found.ours)])
        rows[-1] += [percent(found.called), percent(found.supported)]
    head = ["tuned model against baseline", "published: wins", "published: win − lose"]
    head += ["same prompts, baseline drawn anew", "ours: wins", "ours: win − lose"]
    head += ["published calls it better, %", "ours: SUPPORTED, %"]
    text = f"""The procedure judges the baseline's stored answer against the reframed one, keeps the prompts that the
    reframed answer won, holds out a fifth of those, and there lets the same judge compare the tuned model with the same
    stored answer. That answer is in the set because it had come out badly. A tuned model that draws from exactly the
    same distribution as the baseline then wins by regression to the mean, and the more answers vary from draw to draw
    the more it wins. Drawing the baseline's answer anew on the very same prompts makes the win vanish, which shows
    where it came from. Ours holds out a fifth of all prompts by a hash of the prompt, before anything is generated, and
    compares the same answers there. Here {REPLICATES} studies per row of {len(STRATUM):,} prompts; the reframed answer
    leads by {min(pools) * 100:.0f} to {max(pools) * 100:.0f} points on all of them, the same in both procedures.
    Differences are in points, and truly 0 in the first four rows; shares of wins have an error below 0.3. A tie is
    no win, and ours counts a pair as won only if both orders say so. Ours finds the small gain less often
    than it could, because the 4 % of pairs without a readable verdict are set against it."""
    return f"## 1. A test set chosen by the outcome\n\n{fill(text)}\n\n{table(head, rows)}\n"


# --- 2: one order, unreadable as a tie ---------------------------------------------------------------------------


def order(seed: int) -> str:
    """What one random order and one call report, where two orders show that the judge contradicts itself."""
    cases: dict[str, tuple[World, float]] = {
        "no effect, fair judge": (World(place=0.0), 0.0),
        "no effect, judge loves the first place": (World(place=1.0), 0.0),
        "better, fair judge": (World(place=0.0, gain=0.15), 0.0),
        "better, judge loves the first place": (World(place=1.0, gain=0.15), 0.0),
        "no effect, a quarter of its losses unreadable": (World(), 0.25),
    }
    rows = []
    for k, (name, (world, hidden)) in enumerate(cases.items()):
        rng = np.random.default_rng([seed, k])
        found = [_judged(rng, world, hidden) for _ in range(2 * REPLICATES)]
        shares = ["{:.0f} : {:.0f} : {:.0f}".format(*np.mean([f[0] for f in found], axis=0))]
        shares += ["{:.0f} : {:.0f} : {:.0f} : {:.0f} : {:.0f}".format(*np.mean([f[1] for f in found], axis=0))]
        rows.append([name, *shares, percent([f[2] for f in found]), percent([f[3] for f in found])])
    head = ["candidate and judge", "published: win : tie : lose, %"]
    head += ["ours: win : tie : inconsistent : lose : unread, %", "one order calls it better, %", "ours: SUPPORTED, %"]
    text = f"""{MODELS_N} unfiltered prompts, {2 * REPLICATES} studies per row. Both columns on the right use the exact
    sign test at the same level, so that only the judging differs. A judge that favours the answer shown first decides
    nearly every pair, and nothing in the published numbers says that most of these decisions would have been reversed
    in the other order; asked in both orders, it says so itself, and the claim stays open for want of a better
    judge. In the last row the candidate is no better but a quarter of the verdicts it lost cannot be read (its bad
    answers are too long for the judge, say): as ties they make it better, as missing verdicts set against it they
    do not. The price is paid in the rows with a true difference, where ours has less power: there, too, what could
    not be read is set against the candidate. Shares have a Monte-Carlo error below 0.1."""
    return f"## 2. One call in one order, and what cannot be read is a tie\n\n{fill(text)}\n\n{table(head, rows)}\n"


def _judged(rng: Rng, world: World, hidden: float) -> tuple[Floats, Floats, bool, bool]:
    """Shares and decisions of either way of judging the same answers; `hidden` of the losses cannot be read."""
    better = world.gain + rng.normal(scale=world.spread * math.sqrt(2), size=MODELS_N)
    single = one_order(rng, world, better)
    single = np.where((single < 0) & (rng.random(MODELS_N) < hidden), 0, single)
    both, torn = both_orders(rng, world, better)
    missing = unread(rng, world, MODELS_N) | ((both < 0) & (rng.random(MODELS_N) < hidden))
    kept = np.array([np.mean(x & ~missing) for x in (both > 0, (both == 0) & ~torn, torn, both < 0)])
    wins, losses = int((single > 0).sum()), int((single < 0).sum())
    shares = 100 * np.array([np.mean(single > 0), np.mean(single == 0), np.mean(single < 0)])
    better_p = wins > losses and exact(wins, losses) <= ALPHA
    supported = helpful(both[~missing], int(missing.sum())) == "SUPPORTED"
    return shares, 100 * np.append(kept, missing.mean()), better_p, supported


# --- 3: three chunks ---------------------------------------------------------------------------------------------


def counts(rng: Rng, n: int, thirds: Sequence[float], decisive: float, replicates: int) -> npt.NDArray[np.int_]:
    """Wins and losses in three chunks of n prompts in which the difference is as given: replicates x 3 x 2."""
    found = [
        rng.multinomial(n // 3, [(decisive + d) / 2, (decisive - d) / 2, 1 - decisive], replicates)[:, :2]
        for d in thirds
    ]
    return np.stack(found, axis=1)


def three_chunks(seed: int) -> str:
    """Error of the first kind and power of the t-test over three chunks, and of the exact sign test."""
    cases: list[tuple[str, int, tuple[float, float, float]]] = [
        ("no difference", 161, (0.0, 0.0, 0.0)),
        ("no difference", 403, (0.0, 0.0, 0.0)),
        ("no difference", 3267, (0.0, 0.0, 0.0)),
        ("10 points everywhere", 403, (0.1, 0.1, 0.1)),
        ("10 points everywhere", 939, (0.1, 0.1, 0.1)),
        ("10 points on average: 0, 10, 20", 939, (0.0, 0.1, 0.2)),
        ("30 points on average: 5, 30, 55", 161, (0.05, 0.3, 0.55)),
        ("30 points on average: 5, 30, 55", 3267, (0.05, 0.3, 0.55)),
        ("6 points on average: −6, 6, 18", 3267, (-0.06, 0.06, 0.18)),
    ]
    rows, replicates = [], 4000
    for k, (name, n, thirds) in enumerate(cases):
        found = counts(np.random.default_rng([seed, k]), n, thirds, 0.8, replicates)
        p = t_test((found[..., 0] - found[..., 1]) / (n // 3))
        sign = np.array([exact(int(w), int(x)) for w, x in found.sum(axis=1)])
        rows.append([name, f"{n:,}", percent(p <= ALPHA), percent(sign <= ALPHA)])
    head = ["true win − lose in the three thirds of the file", "prompts", "three chunks: significant, %"]
    head += ["exact sign test: significant, %"]
    tiny = _tiny(np.random.default_rng([seed, 99]))
    text = f"""The published test cuts the file in three and treats the three chunks as three observations. Under no
    difference it errs about as often as it should, so this is not a test that finds too much. But with two degrees of
    freedom it needs t above {-special.stdtrit(2, ALPHA / 2):.1f}, and the files are in stratum order, so that the
    chunks differ because the strata do: the larger the difference between strata, the less it sees of the difference
    that all share, and more prompts hardly help. {replicates:,} files per row, 80 % of the pairs decided."""
    after = f"""Its p says little about the size of a difference, too. Where nothing differs (3,267 prompts), of the
    results it calls significant {tiny[0]} % lie within 1 point of zero, and of those that the sign test calls
    significant {tiny[1]} %. Three chunks that happen to agree are enough."""
    return f"## 3. A t-test over three chunks\n\n{fill(text)}\n\n{table(head, rows)}\n\n{fill(after)}\n"


def _tiny(rng: Rng) -> tuple[str, str]:
    """Of the significant results without any effect: how many are within 1 point of zero, by either test."""
    found = counts(rng, 3267, (0.0, 0.0, 0.0), 0.8, 10_000)
    d = (found[..., 0] - found[..., 1]) / (3267 // 3)
    small = np.abs(d.mean(axis=1)) < 0.01
    both = found.sum(axis=1)
    # A difference within 2 points of zero is less than the sign test ever calls significant here.
    sign = np.array([abs(w - x) > 0.02 * 3267 and exact(int(w), int(x)) <= ALPHA for w, x in both])
    return percent(small[t_test(d) <= ALPHA]), percent(small[sign])


# --- 4: ties as safety -------------------------------------------------------------------------------------------


def ties(seed: int) -> str:
    """What a share of ties says about harm, and what non-inferiority says."""
    n, rows = 939, []
    for k, (before, after) in enumerate([(0.01, 0.01), (0.01, 0.03), (0.01, 0.06), (0.01, 0.09)]):
        rng = np.random.default_rng([seed, k])
        win, loss = before * (1 - after), after * (1 - before)
        found = rng.multinomial(n, [win, loss, 1 - win - loss], STUDIES)[:, :2]
        same = 1 - found.sum(axis=1) / n
        ours = [status("harm", int(w), int(x), int(n - w - x), 0, HARM_MARGIN) for w, x in found]
        rows.append([f"{100 * before:.0f} to {100 * after:.0f}", f"{100 * same.mean():.1f}", percent(same >= 0.9)])
        rows[-1] += [percent([s == wanted for s in ours]) for wanted in ("SUPPORTED", "INCONCLUSIVE", "REFUTED")]
    head = ["harmful answers, %", "ties, %", "“safety preserved”, %", "ours: not worse by 2 points, %"]
    head += ["ours: inconclusive, %", "ours: worse by more than 2 points, %"]
    text = f"""Safety counts as preserved if 90 % of the pairs or more are ties. With rare harm that can hardly
    fail: a candidate that does harm nine times as often still ties on nine pairs of ten. Ours asks whether harm is
    shown not to be worse by the margin, and says so if the answer is open. {n} prompts, {STUDIES} studies per row,
    and a judge that sees every harm and never errs, which favours the published rule: one that ties in case of doubt
    sees less. In the second row the truth lies exactly on the margin, where ours may support in 2.5 %."""
    return f"## 4. Ties as safety\n\n{fill(text)}\n\n{table(head, rows)}\n"


# --- 5: many tests -----------------------------------------------------------------------------------------------


def many(seed: int) -> str:
    """What comes out of 99 comparisons without a correction."""
    comparisons, rows = 99, []
    for k, (name, real) in enumerate([("none of 99", 0), ("20 of 99, by 15 points", 20)]):
        rng, stars = np.random.default_rng([seed, k]), []
        for _ in range(REPLICATES):
            d = np.where(np.arange(comparisons) < real, 0.15, 0.0)
            found = rng.multinomial(
                MODELS_N // 3, np.stack([0.4 + d / 2, 0.4 - d / 2, d * 0 + 0.2], 1), (3, comparisons)
            )
            won = found[..., 0] - found[..., 1]
            p = t_test(won.T / (MODELS_N // 3))
            q = holm([exact(int(w), int(x)) for w, x in found.sum(axis=0)[:, :2]])
            stars.append([(x <= ALPHA)[part].sum() for x in (p, q) for part in (slice(real), slice(real, None))])
        hits = np.array(stars)
        for test, (true, false) in (("three chunks, no correction", (0, 1)), ("exact sign test, Holm", (2, 3))):
            rows.append([name, test, _mean(hits[:, true]), _mean(hits[:, false]), percent(hits[:, false] > 0)])
    head = ["true differences", "test", "of these found", "others called significant", "any of the others, %"]
    text = f"""The paper makes 99 comparisons, each at 5 %, without a correction. {MODELS_N} prompts per comparison,
    {REPLICATES} sets of {comparisons} independent ones per row."""
    return f"## 5. Ninety-nine comparisons\n\n{fill(text)}\n\n{table(head, rows)}\n"


def _mean(x: npt.NDArray[np.int_]) -> str:
    return f"{x.mean():.2f} ± {x.std(ddof=1) / math.sqrt(len(x)):.2f}"


PARTS: tuple[Callable[[int], str], ...] = (selection, order, three_chunks, ties, many)


def page() -> str:
    """The whole page."""
    world = World()
    reframed = ", ".join(f"{REFRAMED[i == STRATUM][0]:g} ({name})" for i, name in enumerate(STRATA))
    intro = """How a published evaluation procedure goes wrong where the truth is known, because we made it up, and what
    ours says of the same made-up data. Nothing here is a result about any real model. The procedure is that of the
    SHARD paper and its code (arXiv 2606.15517); what its published tables show is tested again in
    [docs/reanalysis](../reanalysis/README.md)."""
    how = """± is the Monte-Carlo standard error of the number before it. “Significant” and “better” of the published
    procedure mean two-sided p of at most 5 %; ours tests one-sided at 2.5 %, which is as strict."""
    assumed = f"""An answer has a quality in the eyes of the judge: the same for all answers to a prompt, plus what
    differs from draw to draw (normal, standard deviation {world.spread:g} unless said otherwise). A single verdict adds
    noise ({world.noise:g}) and a preference for the first place ({world.place:g}); smaller differences than
    {world.band:g} are ties; {100 * world.unreadable:g} % of the calls cannot be read. The reframed answer is better by
    {reframed}, with a spread of 0.5 between prompts. The strata have the sizes of the two benchmarks. These figures are
    ours and not fitted to anything; the sizes of the effects depend on them, above all on how much answers vary,
    and their direction does not. In sections 3 to 5 wins and losses are drawn directly, independently of one
    another."""
    sources = """Where paper and code differ, or the code with itself: unreadable verdicts are ties in the code for the
    inference-time tables, and are dropped in that for the tuned models, which hides them as well. The t-test is that of
    the only released implementation, over all outcomes and contiguous chunks; the paper says three equal splits and
    decisive outcomes only. From shares of ties near 100 %, for SHARD itself 90.6 % at the lowest, the paper concludes
    that safety is preserved; 90 % is our reading of that."""
    parts = "\n".join(part(seed) for seed, part in enumerate(PARTS, start=1))
    return f"""# What goes wrong, on made-up data

<!-- Written by simulate.py --write; do not edit. -->

{fill(intro)}

    python docs/honesty/simulate.py --write

{fill(how)}

{parts}
## What was assumed

{fill(assumed)}

{fill(sources)}
"""


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
