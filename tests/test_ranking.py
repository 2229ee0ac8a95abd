"""Ratings, ranks and letters: second implementations, published examples, properties, and simulated coverage."""

from __future__ import annotations

import itertools
import math
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import evalica
import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from shard_eval.errors import UsageError
from shard_eval.stats import ranking
from shard_eval.stats.ranking import (
    Ranking,
    bradley_terry,
    davidson,
    group_letters,
    rank,
    rank_intervals,
    significantly_better,
)
from shard_eval.stats.resampling import cluster_weights, differences
from shard_eval.stats.simultaneous import simultaneous
from shard_eval.stats.tables import sign_test

Floats = npt.NDArray[np.float64]


def preferences(
    rng: np.random.Generator, ratings: Floats, nu: float, prompts: int, common: float = 0.0
) -> tuple[list[str], list[str], list[int], list[int]]:
    """One comparison of every pair on every prompt, by Davidson's model: both systems, outcomes and prompts.

    A share `common` of the prompts gives all its pairs the same random number, which makes them dependent but leaves
    the model right for each.
    """
    first, second = np.triu_indices(len(ratings), 1)
    win, loss = np.exp(ratings[first]), np.exp(ratings[second])
    total = win + loss + nu * np.sqrt(win * loss)
    u = rng.random((prompts, first.size))
    u = np.where(rng.random((prompts, 1)) < common, u[:, :1], u)
    outcomes = np.where(u < win / total, 1, np.where(u > 1 - loss / total, -1, 0))
    names = np.array([f"s{i}" for i in range(len(ratings))])
    labels = np.repeat(np.arange(prompts), first.size).tolist()
    return (
        np.tile(names[first], prompts).tolist(),
        np.tile(names[second], prompts).tolist(),
        outcomes.ravel().tolist(),
        labels,
    )


def tables(first: list[str], second: list[str], outcomes: list[int]) -> tuple[Floats, Floats]:
    """Wins of row over column, and ties."""
    names = sorted({*first, *second})
    wins, ties = np.zeros((2, len(names), len(names)))
    for a, b, outcome in zip(map(names.index, first), map(names.index, second), outcomes, strict=True):
        if outcome:
            wins[(a, b) if outcome > 0 else (b, a)] += 1
        else:
            ties[a, b] += 1
            ties[b, a] += 1
    return wins, ties


STRENGTHS = np.array([0.9, 0.2, -0.3, -0.8])


# --- ratings -----------------------------------------------------------------------------------------------------


def test_without_ties_the_ratings_are_evalicas() -> None:
    first, second, outcomes, prompts = preferences(np.random.default_rng(1), STRENGTHS, 0.0, 60)
    found = bradley_terry(first, second, outcomes, cluster_weights(prompts, resamples=200))
    winners = [evalica.Winner.X if o > 0 else evalica.Winner.Y for o in outcomes]
    theirs = evalica.bradley_terry(first, second, winners, tolerance=1e-12, limit=10_000)
    # evalica gives strengths whose product is 1, ours are their logarithms.
    assert found.nu == 0
    assert found.ratings == pytest.approx([math.log(theirs.scores[name]) for name in found.systems], abs=1e-6)


def test_with_ties_the_ratings_are_those_of_a_log_linear_model() -> None:
    """Davidson's model is a Poisson regression of the counts (Fienberg and Larntz 1976, Biometrika 63:245)."""
    wins, ties = tables(*preferences(np.random.default_rng(2), STRENGTHS, 0.7, 50)[:3])
    pairs = list(itertools.combinations(range(4), 2))
    rows, counts = [], []
    for number, (i, j) in enumerate(pairs):
        for count, share, tied in ((wins[i, j], 1.0, 0), (wins[j, i], 0.0, 0), (ties[i, j], 0.5, 1)):
            row = np.zeros(len(pairs) + 5)
            row[number], row[len(pairs) + i], row[len(pairs) + j], row[-1] = 1, share, 1 - share, tied
            rows.append(np.delete(row, len(pairs)))  # the first system's rating is 0
            counts.append(count)
    fit = sm.GLM(np.array(counts), np.array(rows), family=sm.families.Poisson()).fit(tol=1e-12)
    expected = np.append(0.0, fit.params[len(pairs) : -1])
    ratings, nu = davidson(wins, ties, "abcd")
    assert ratings == pytest.approx(expected - expected.mean(), abs=1e-6)
    assert nu == pytest.approx(math.exp(fit.params[-1]), abs=1e-6)


def test_with_ties_the_ratings_maximise_the_likelihood() -> None:
    """Unequal numbers of comparisons, some pairs never met; the likelihood written down anew."""
    rng = np.random.default_rng(3)
    wins = rng.poisson(4, (5, 5)) * (rng.random((5, 5)) < 0.7) * (1 - np.eye(5))
    ties = np.triu(rng.poisson(3, (5, 5)), 1)

    def loss(parameters: Floats) -> float:
        r, log_nu = np.append(0, parameters[:4]), parameters[4]
        total = 0.0
        for i, j in itertools.combinations(range(5), 2):
            logits = np.array([r[i], r[j], log_nu + (r[i] + r[j]) / 2])
            total -= float(np.dot([wins[i, j], wins[j, i], ties[i, j]], logits - special.logsumexp(logits)))
        return total

    expected = optimize.minimize(loss, np.zeros(5), tol=1e-12).x
    ratings, nu = davidson(wins, (ties + ties.T).astype(float), "abcde")
    assert ratings == pytest.approx(np.append(0, expected[:4]) - expected[:4].sum() / 5, abs=1e-4)
    assert nu == pytest.approx(math.exp(expected[4]), abs=1e-4)


def test_two_systems_have_the_odds_of_their_wins() -> None:
    ratings, nu = davidson(np.array([[0, 12.0], [3, 0]]), np.array([[0, 6.0], [6, 0]]), "ab")
    assert ratings[0] - ratings[1] == pytest.approx(math.log(12 / 3))
    assert nu == pytest.approx(6 / math.sqrt(12 * 3))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_swapping_sides_or_reordering_rows_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second, outcomes, prompts = preferences(rng, STRENGTHS, 0.6, 30)
    found = bradley_terry(first, second, outcomes, cluster_weights(prompts, resamples=200))
    order = rng.permutation(len(prompts))
    swap = rng.random(len(prompts)) < 0.5
    sides = [(b, a, -o) if s else (a, b, o) for a, b, o, s in zip(first, second, outcomes, swap, strict=True)]
    a, b, o = zip(*(sides[i] for i in order), strict=True)
    again = bradley_terry(a, b, o, cluster_weights([prompts[i] for i in order], resamples=200))
    assert found.ratings.sum() == pytest.approx(0, abs=1e-9)
    assert again.systems == found.systems and again.nu == pytest.approx(found.nu)
    assert again.ratings == pytest.approx(found.ratings) and again.errors == pytest.approx(found.errors, rel=1e-4)
    assert again.low == pytest.approx(found.low, abs=1e-4)


def test_errors_agree_with_refitting_every_resample() -> None:
    first, second, outcomes, prompts = preferences(np.random.default_rng(4), STRENGTHS, 0.6, 150, common=0.5)
    boot = cluster_weights(prompts, resamples=400)
    found = bradley_terry(first, second, outcomes, boot)
    triples = np.array([first, second]).reshape(2, 150, 6), np.array(outcomes).reshape(150, 6)
    refits = []
    for weights in boot.weights:
        rows = np.repeat(np.arange(150), weights.astype(int))
        a, b = triples[0][:, rows].reshape(2, -1).tolist()
        refits.append(davidson(*tables(a, b, triples[1][rows].ravel().tolist()), found.systems)[0])
    assert found.errors == pytest.approx(np.std(refits, axis=0, ddof=1), rel=0.1)


def test_dependent_judgements_on_a_prompt_widen_the_intervals() -> None:
    first, second, outcomes, prompts = preferences(np.random.default_rng(5), STRENGTHS, 0.6, 100)
    one = bradley_terry(first, second, outcomes, cluster_weights(prompts, resamples=500))
    four, apart = (
        bradley_terry(first * 4, second * 4, outcomes * 4, cluster_weights(clusters, resamples=500))
        for clusters in (prompts * 4, range(2400))
    )
    assert four.ratings == pytest.approx(one.ratings) and four.errors == pytest.approx(one.errors, rel=1e-4)
    assert (apart.errors < 0.7 * four.errors).all()


@pytest.mark.slow
def test_simultaneous_intervals_cover_all_ratings() -> None:
    rng = np.random.default_rng(6)
    trials, missed = 500, 0
    for trial in range(trials):
        first, second, outcomes, prompts = preferences(rng, STRENGTHS, 0.8, 150, common=0.5)
        found = bradley_terry(first, second, outcomes, cluster_weights(prompts, resamples=999, seed=trial))
        missed += bool(((found.low > STRENGTHS) | (found.high < STRENGTHS)).any())
    margin = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert 0.05 - margin <= missed / trials <= 0.05 + margin


@pytest.mark.parametrize(
    ("wins", "ties", "message"),
    [
        ([[0, 5], [0, 0]], 0, "no comparison of b with a"),  # always the same one
        ([[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 3, 0]], 0, "no comparison of a, b with c, d"),  # never met
        ([[0, 2, 1], [1, 0, 4], [0, 0, 0]], 0, "no comparison of c with a, b"),  # the third never won
        ([[0, 0], [0, 0]], 3, "no finite estimate"),  # nothing but ties
        ([[0, 4], [0, 0]], 3, "no finite estimate"),  # one never won: ties do not bound the other's lead
    ],
)
def test_ratings_without_a_finite_estimate_are_refused(wins: list[list[int]], ties: int, message: str) -> None:
    tied = np.array(ties * (1 - np.eye(len(wins))))
    with pytest.raises(UsageError, match=message):
        davidson(np.array(wins, dtype=float), tied, "abcd"[: len(wins)])


def test_ties_can_close_a_cycle_of_wins() -> None:
    """a beats b, b beats c, c ties with a: one tie cannot be as wide as two wins, so there is a maximum."""
    wins, ties = np.zeros((2, 3, 3))
    wins[0, 1] = wins[1, 2] = ties[0, 2] = ties[2, 0] = 1
    ratings, nu = davidson(wins, ties, "abc")
    first, tie = ranking._chances(np.subtract.outer(ratings, ratings), nu)
    # At the maximum every system has the points expected of it, and there are as many ties as expected.
    points = (np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * (first + tie / 2)).sum(axis=1)
    assert points == pytest.approx([1.5, 1.0, 0.5]) and tie[np.triu_indices(3, 1)].sum() == pytest.approx(1)


def test_a_fit_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "STEPS", 1)
    with pytest.raises(UsageError, match="did not converge in 1 steps"):
        davidson(np.array([[0, 9.0], [2, 0]]), np.zeros((2, 2)), "ab")


def test_a_lopsided_comparison_still_converges() -> None:
    ratings, nu = davidson(np.array([[0, 1e6], [1, 0]]), np.array([[0, 2.0], [2, 0]]), "ab")
    assert ratings[0] - ratings[1] == pytest.approx(math.log(1e6)) and nu == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("first", "second", "outcomes", "message"),
    [
        (["a", "b"], ["b", "a"], [1, 2], "unknown outcome 2"),
        (["a", "b"], ["b", "a"], [1, math.nan], "unknown outcome nan"),
        (["a", "b"], ["b", "a"], [1, "tie"], "unknown outcome 'tie'"),
        (["a", "b"], ["b", "b"], [1, 1], "b is compared with itself"),
        (["a", "b"], ["b"], [1, 1], "1 second systems"),
        (["a"], ["b"], [1], "2 cluster labels"),
        ([], [], [], "0 outcomes"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(first: Any, second: Any, outcomes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bradley_terry(first, second, outcomes, cluster_weights(range(2), resamples=100))


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="level"):
        bradley_terry(["a", "b"], ["b", "a"], [1, 1], cluster_weights(range(2), resamples=100), level=1.0)


# --- ranks -------------------------------------------------------------------------------------------------------


def systems(shares: list[float], seed: int, n: int = 300, resamples: int = 500) -> Floats:
    return (np.random.default_rng(seed).random((n, len(shares))) < shares).astype(float)


def test_clear_differences_settle_the_ranks() -> None:
    found = differences(systems([0.5, 0.9, 0.1], 1), cluster_weights(range(300), resamples=500))
    best, worst = rank_intervals(found)
    assert best.tolist() == worst.tolist() == [2, 1, 3]


def test_systems_that_cannot_be_told_apart_share_their_ranks() -> None:
    found = differences(systems([0.5, 0.5, 0.05], 2), cluster_weights(range(300), resamples=500))
    best, worst = rank_intervals(found)
    assert best.tolist() == [1, 1, 3] and worst.tolist() == [2, 2, 3]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.4, 0.8]), min_size=2, max_size=7), st.integers(0, 999))
def test_ranks_contain_the_observed_one_and_letters_agree_with_them(shares: list[float], seed: int) -> None:
    values = systems(shares, seed, n=80)
    found = differences(values, cluster_weights(range(80), resamples=200))
    best, worst = rank_intervals(found)
    means = values.mean(axis=0)
    assert (best <= 1 + (means[:, None] < means).sum(axis=1)).all()
    assert (worst >= len(shares) - (means[:, None] > means).sum(axis=1)).all()
    better = significantly_better(found)
    letters = group_letters(better | better.T)
    for i, j in itertools.permutations(range(len(shares)), 2):
        if better[i, j]:
            assert means[i] > means[j] and not set(letters[i]) & set(letters[j])


@pytest.mark.slow
def test_all_true_ranks_are_covered_together() -> None:
    """Two pairs of equal systems: ranks 1-2 and 3-4 are both right."""
    rng = np.random.default_rng(7)
    trials, missed = 400, 0
    for trial in range(trials):
        values = (rng.random((200, 4)) < [0.5, 0.5, 0.35, 0.35]).astype(float)
        best, worst = rank_intervals(differences(values, cluster_weights(range(200), resamples=999, seed=trial)))
        missed += bool((best > [1, 1, 3, 3]).any() or (worst < [2, 2, 4, 4]).any())
    assert missed / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_ranking_needs_all_pairs() -> None:
    found = differences(systems([0.5, 0.4, 0.1], 3), cluster_weights(range(300), resamples=200), reference=0)
    with pytest.raises(UsageError, match="needs all pairs"):
        rank_intervals(found)


# --- letters -----------------------------------------------------------------------------------------------------


def different(k: int, pairs: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    table = np.zeros((k, k), dtype=bool)
    for i, j in pairs:
        table[i, j] = table[j, i] = True
    return table


@pytest.mark.parametrize(
    ("k", "pairs", "letters"),
    # Manual of the R package multcompView 0.1-11 (Graves, Piepho, Selzer), multcompLetters, examples 1 and 2, and
    # plot.multcompLetters.
    [
        (3, [(1, 2)], ("ab", "a", "b")),
        (4, [(0, 1), (0, 2), (1, 3)], ("a", "b", "bc", "ac")),
        (4, [(0, 2), (1, 2)], ("a", "a", "b", "ab")),
    ],
)
def test_letters_of_published_examples(k: int, pairs: list[tuple[int, int]], letters: tuple[str, ...]) -> None:
    assert group_letters(different(k, pairs)) == letters


@given(st.integers(1, 12).flatmap(lambda k: st.tuples(st.just(k), st.sets(st.integers(0, k * (k - 1) // 2)))))
def test_two_systems_share_a_letter_if_and_only_if_they_do_not_differ(drawn: tuple[int, set[int]]) -> None:
    k, chosen = drawn
    table = different(k, [pair for n, pair in enumerate(itertools.combinations(range(k), 2)) if n in chosen])
    letters = group_letters(table)
    for i, j in itertools.combinations(range(k), 2):
        assert bool(set(letters[i]) & set(letters[j])) != table[i, j]
    # No letter is contained in another: each marks a largest group.
    groups = [{i for i in range(k) if letter in letters[i]} for letter in set("".join(letters))]
    assert not any(a < b for a in groups for b in groups)


def test_letters_go_on_after_z() -> None:
    letters = group_letters(~np.eye(54, dtype=bool))
    assert letters[:2] == ("a", "b") and letters[51:] == ("Z", ".a", ".b")


@pytest.mark.parametrize(
    "table",
    [np.eye(2, dtype=bool), np.array([[False, True], [False, False]]), np.zeros((2, 3), bool), np.zeros((2, 2))],
)
def test_letters_need_a_symmetric_table_of_flags(table: Any) -> None:
    with pytest.raises(UsageError, match="symmetric"):
        group_letters(table)


# --- a board -----------------------------------------------------------------------------------------------------


def labels(n: int, size: int = 1) -> list[str]:
    return [f"c{i // size}" for i in range(n)]


def members(found: Ranking) -> list[set[int]]:
    """Columns of each bar."""
    return [
        {found.order[p] for p in range(first, last + 1) if p not in skips}
        for (first, last), skips in zip(found.bars, found.skips, strict=True)
    ]


def apart(found: Ranking, i: int, j: int) -> bool:
    """No group holds both."""
    return not any({i, j} <= group for group in members(found))


BOTH = pytest.mark.parametrize("pairwise", [40, 1], ids=["pairs", "range"])


@BOTH
def test_a_board_with_clear_differences_is_in_order(pairwise: int) -> None:
    found = rank(systems([0.5, 0.9, 0.1], 1), labels(300), resamples=500, pairwise=pairwise)
    assert found.order == (1, 0, 2) and found.letters == ("b", "a", "c")
    assert found.best == found.worst == (2, 1, 3)
    assert found.bars == ((0, 0), (1, 1), (2, 2)) and found.skips == ((), (), ())
    assert (found.critical is None) == (pairwise == 40)
    assert (found.clusters, found.level, found.resamples, found.seed) == (300, 0.95, 500, 0)


@BOTH
def test_systems_of_a_board_that_cannot_be_told_apart_share_ranks_and_a_letter(pairwise: int) -> None:
    found = rank(systems([0.5, 0.05, 0.5], 2), labels(300), resamples=500, pairwise=pairwise)
    assert found.letters == ("a", "b", "a") and found.best == (1, 3, 1) and found.worst == (2, 3, 2)
    assert found.bars == ((0, 1), (2, 2))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9), st.sampled_from([40, 1]), st.sampled_from([0.0, 0.2]), st.integers(0, 999))
def test_ranks_letters_and_bars_of_a_board_say_the_same(k: int, pairwise: int, gaps: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = systems(rng.random(k).tolist(), seed, n=120)
    values[rng.random(values.shape) < gaps] = math.nan
    found = rank(values, labels(120), resamples=200, pairwise=pairwise)
    means = np.round(np.nanmean(values, axis=0), 12)
    assert found.order == tuple(sorted(range(k), key=lambda i: (-means[i], i)))
    for i in range(k):
        others = [j for j in range(k) if apart(found, i, j)]
        assert (found.best[i] - 1) + (k - found.worst[i]) == len(others)
        if not gaps:
            assert found.best[i] == 1 + sum(means[j] > means[i] for j in others)
        for j in range(k):
            assert bool(set(found.letters[i]) & set(found.letters[j])) != apart(found, i, j)
            if found.critical is not None:
                assert apart(found, i, j) == (abs(means[i] - means[j]) > found.critical)


def test_pairs_of_a_board_are_those_of_the_joint_intervals() -> None:
    values = systems([0.3, 0.42, 0.45, 0.6], 3)
    values[np.random.default_rng(3).random(values.shape) < 0.1] = math.nan
    found = rank(values, labels(300), resamples=500, seed=7)
    ranked = values[:, list(found.order)]  # the sign of a pair does not matter, but its rounding does
    pairs = list(itertools.combinations(range(4), 2))
    d = np.stack([ranked[:, i] - ranked[:, j] for i, j in pairs], axis=1)
    low, high = simultaneous(d, labels(300), resamples=500, seed=7, cautious=True)
    for (i, j), a, b in zip(pairs, low, high, strict=True):
        assert apart(found, found.order[i], found.order[j]) == (a > 0 or b < 0)


@BOTH
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_order_of_rows_and_columns_changes_no_board(pairwise: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, clusters = systems([0.1, 0.3, 0.5, 0.7, 0.8], seed, n=150), labels(150, 2)
    values[rng.random(values.shape) < 0.1] = math.nan
    found = rank(values, clusters, resamples=200, pairwise=pairwise)
    rows, columns = rng.permutation(150), rng.permutation(5)
    again = rank(values[rows][:, columns], [clusters[i] for i in rows], resamples=200, pairwise=pairwise)
    assert again.best == tuple(found.best[i] for i in columns)
    assert again.worst == tuple(found.worst[i] for i in columns)
    if len(set(np.nanmean(values, axis=0).round(12))) == 5:  # a tie is broken by the number of the column
        assert tuple(columns[i] for i in again.order) == found.order
        assert again.letters == tuple(found.letters[i] for i in columns)
    if found.critical is not None:
        assert again.critical == pytest.approx(found.critical, rel=1e-5)


@BOTH
def test_changing_the_sign_turns_the_ranks_around(pairwise: int) -> None:
    values = systems([0.3, 0.45, 0.5, 0.7], 5)
    found = rank(values, labels(300), resamples=500, pairwise=pairwise)
    turned = rank(-values, labels(300), resamples=500, pairwise=pairwise)
    assert turned.order == found.order[::-1]
    # The noise of the range is drawn for other columns then, which moves the critical difference in its third digit.
    assert turned.best == tuple(5 - w for w in found.worst) and turned.worst == tuple(5 - b for b in found.best)


@BOTH
def test_identical_and_constant_columns_of_a_board(pairwise: int) -> None:
    one = systems([0.5], 6)
    values = np.hstack([one, one, np.ones((300, 1)), np.zeros((300, 2))])
    found = rank(values, labels(300), resamples=500, pairwise=pairwise)
    assert found.order == (2, 0, 1, 3, 4) and found.letters == ("b", "b", "a", "c", "c")
    assert found.best == (2, 2, 1, 4, 4) and found.worst == (3, 3, 1, 5, 5)


@BOTH
def test_a_board_where_nothing_happens_divides_nothing(pairwise: int) -> None:
    found = rank(np.ones((939, 4)), labels(939), resamples=500, pairwise=pairwise)
    assert found.letters == ("a",) * 4 and found.best == (1,) * 4 and found.worst == (4,) * 4
    assert found.critical is None or found.critical > 2 / 939


@BOTH
@pytest.mark.parametrize("wins", range(3, 9))
def test_rare_events_divide_a_board_where_the_exact_sign_test_does(pairwise: int, wins: int) -> None:
    values = np.ones((939, 2))
    values[:wins, 1] = 0
    found = rank(values, labels(939), pairwise=pairwise)
    assert apart(found, 0, 1) == (sign_test(wins, 0, 939 - wins).p < 0.05) == (wins > 5)


@BOTH
def test_with_few_clusters_nothing_is_told_apart(pairwise: int) -> None:
    values = np.repeat([[1.0, 0.0, 0.5]], 87, axis=0)
    found = rank(values, labels(87, 3), pairwise=pairwise)
    assert found.order == (0, 2, 1) and found.letters == ("a",) * 3 and found.clusters == 29
    assert found.best == (1,) * 3 and found.worst == (3,) * 3 and found.bars == ((0, 2),)
    assert "30 independent prompts" in found.method and found.critical is None
    assert rank(np.vstack([values, values[:3]]), labels(90, 3), pairwise=pairwise).letters == ("a", "c", "b")


@BOTH
def test_a_system_with_few_values_is_told_apart_from_none_and_costs_the_others_nothing(pairwise: int) -> None:
    values = systems([0.1, 0.5, 0.9], 8)
    few = np.where(np.arange(300) < 20, 1.0, math.nan)[:, None]
    found = rank(np.hstack([values, few]), labels(300), resamples=500, pairwise=pairwise)
    without = rank(values, labels(300), resamples=500, pairwise=pairwise)
    assert found.order == (3, 2, 1, 0) and found.letters == ("c", "b", "a", "abc")
    assert found.best == (3, 2, 1, 1) and found.worst == (4, 3, 2, 4)
    assert found.bars == ((0, 1), (0, 2), (0, 3)) and found.skips == ((), (1,), (1, 2))
    assert found.critical == without.critical and "fewer than 30" in found.method


def test_systems_that_share_no_prompt_are_not_told_apart_pair_by_pair() -> None:
    values = np.array([[1.0, math.nan]] * 50 + [[math.nan, 0.0]] * 50)
    assert rank(values, labels(100)).letters == ("a", "a")


@BOTH
def test_one_system_has_the_first_rank_and_no_letter(pairwise: int) -> None:
    found = rank(systems([0.5], 9), labels(300), pairwise=pairwise)
    assert (found.order, found.best, found.worst, found.letters) == ((0,), (1,), (1,), ("",))
    assert found.bars == found.skips == () and found.critical is None


def empty_column() -> Floats:
    values = systems([0.5, 0.5, 0.5], 10)
    values[:, 1] = math.nan
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (empty_column(), "column 1 has no value at all"),
        (np.full((300, 2), 1.5), "got 1.5 to 1.5"),
        (np.repeat([[-1.0, 1.0]], 300, axis=0), "between 0 and 1, or -1 and 0"),
        (np.full((300, 2), math.inf), "got inf"),
        (np.zeros((200, 2)), "300 labels"),
        (np.zeros(300), "shape"),
        (np.zeros((300, 0)), "shape"),
    ],
)
def test_tables_that_cannot_be_ranked_are_refused(values: Floats, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rank(values, labels(300), resamples=200)


@BOTH
@pytest.mark.parametrize(("level", "resamples"), [(1.0, 500), (0.9999, 200), (0.95, 50)])
def test_levels_that_the_resamples_do_not_reach_are_refused(pairwise: int, level: float, resamples: int) -> None:
    with pytest.raises(UsageError, match=r"level|resamples"):
        rank(systems([0.2, 0.5], 1), labels(300), level=level, resamples=resamples, pairwise=pairwise)


def test_letters_of_a_long_board_are_ranges_that_overlap_where_systems_do_not_differ() -> None:
    values = (np.random.default_rng(11).random((939, 300)) < np.linspace(0.05, 0.95, 300)).astype(float)
    found = rank(values, labels(939), resamples=500)
    assert len(found.bars) > 52 and found.critical is not None

    def number(letter: str) -> int:
        return 52 * letter.count(".") + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".index(letter[-1])

    spans = [[number(x) for x in re.findall(r"\.*[a-zA-Z]", letters)] for letters in found.letters]
    means = values.mean(axis=0).round(12)
    for i, j in itertools.combinations(range(300), 2):
        overlap = spans[i][0] <= spans[j][-1] and spans[j][0] <= spans[i][-1]
        assert overlap == (abs(means[i] - means[j]) <= found.critical)
    assert max(map(len, found.letters)) < 20


# --- error and speed of a board ----------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, int], Floats]


def independent(n: int, share: float) -> Draw:
    return lambda rng, k: (rng.random((n, k)) < share).astype(float)


def correlated(n: int, share: float) -> Draw:
    """Six of ten prompts do the same to every system that listens to them."""

    def draw(rng: np.random.Generator, k: int) -> Floats:
        common = rng.random((n, k)) < 0.6
        return (np.where(common, rng.random((n, 1)), rng.random((n, k))) < share).astype(float)

    return draw


def scores(n: int) -> Draw:
    return lambda rng, k: rng.beta(0.5 + 2 * rng.random((n, 1)), 1, (n, k))


def in_triples(n: int, share: float) -> Draw:
    def draw(rng: np.random.Generator, k: int) -> Floats:
        shares = rng.beta(2 * share, 2 * (1 - share), (n // 3, 1)).repeat(3, axis=0)
        return (rng.random((n, k)) < shares).astype(float)

    return draw


def with_gaps(n: int, share: float) -> Draw:
    """The later the column, the more is missing, and more on some prompts than on others."""

    def draw(rng: np.random.Generator, k: int) -> Floats:
        values = (rng.random((n, k)) < share).astype(float)
        missing = np.linspace(0, 0.5, k) * np.where(rng.random((n, 1)) < 0.5, 1.5, 0.5)
        values[rng.random((n, k)) < missing] = math.nan
        return values

    return draw


NULLS = {
    "rare, 200": (independent(200, 0.01), labels(200)),
    "rare, 939": (independent(939, 0.01), labels(939)),
    "rare and correlated, 939": (correlated(939, 0.01), labels(939)),
    "common, 36": (independent(36, 0.3), labels(36)),
    "common, 200": (independent(200, 0.3), labels(200)),
    "correlated, 200": (correlated(200, 0.3), labels(200)),
    "scores, 200": (scores(200), labels(200)),
    "triples, 216": (in_triples(216, 0.2), labels(216, 3)),
    "gaps, 200": (with_gaps(200, 0.3), labels(200)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("k", "pairwise"), [(3, 40), (8, 40), (8, 1), (60, 40)])
@pytest.mark.parametrize("null", NULLS)
def test_equal_systems_are_divided_on_at_most_five_percent_of_boards(null: str, k: int, pairwise: int) -> None:
    """Measured with 1,000 boards in docs/decisions/0008-ranks.md; here enough to notice when it breaks."""
    draw, clusters = NULLS[null]
    rng, trials, divided = np.random.default_rng(k), 60 if k == 60 else 150, 0
    for trial in range(trials):
        found = rank(draw(rng, k), clusters, resamples=400, seed=trial, pairwise=pairwise)
        divided += len(found.bars) > 1
    assert divided / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.slow
def test_the_range_finds_what_the_pairs_find_where_all_vary_alike() -> None:
    rng, found = np.random.default_rng(12), []
    for trial in range(40):
        values = (rng.random((939, 8)) < np.linspace(0.30, 0.44, 8)).astype(float)
        found.append([sum(rank(values, labels(939), resamples=400, seed=trial, pairwise=p).best) - 8 for p in (40, 1)])
    pairs, spans = np.mean(found, axis=0) / 28
    assert 0.3 < pairs < 0.5 and spans == pytest.approx(pairs, abs=0.04)


@pytest.mark.slow
def test_a_thousand_systems_are_ranked_in_little_memory() -> None:
    values = (np.random.default_rng(0).random((939, 1000)) < np.linspace(0.05, 0.95, 1000)).astype(float)
    tracemalloc.start()
    rank(values, labels(939))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 180e6, peak
