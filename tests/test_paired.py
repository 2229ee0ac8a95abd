"""Paired tests and intervals: published worked examples, second implementations, exact sums, what must always hold."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import contingency_tables  # type: ignore[import-untyped]

from shard_eval.errors import UsageError
from shard_eval.stats.comparison import Alternative, Comparison
from shard_eval.stats.intervals import clopper_pearson, wilson
from shard_eval.stats.paired import (
    difference,
    hall_p,
    inferiority,
    noninferiority,
    paired,
    permutation,
    superiority,
    tost,
    wilcoxon,
)
from shard_eval.stats.tables import exact_p, newcombe, score, sign_test, tango, tango_p

SIDES: tuple[Alternative, ...] = ("two-sided", "greater", "less")
thirds = st.integers(-3, 3).map(lambda k: k / 3)
signs = st.lists(st.integers(-1, 1).map(float), min_size=2, max_size=40)
clustered = st.lists(st.tuples(thirds, st.integers(0, 12)), min_size=1, max_size=40)
tables = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60)).filter(lambda t: sum(t) > 0)
TESTS: dict[str, Callable[[Sequence[float], Sequence[int]], Comparison]] = {
    "difference": difference,
    "permutation": lambda d, c: permutation(d, c, "two-sided", resamples=500),
    "wilcoxon": wilcoxon,
    "superiority": superiority,
    "noninferiority": lambda d, c: noninferiority(d, c, 0.1),
    "inferiority": lambda d, c: inferiority(d, c, 0.1),
    "tost": lambda d, c: tost(d, c, 0.1),
}
every_test = pytest.mark.parametrize("name", TESTS)


def ends(found: Comparison) -> tuple[float, float]:
    return found.low, found.high


def rows(wins: int, losses: int, ties: int) -> tuple[list[float], list[int]]:
    d = [1.0] * wins + [-1.0] * losses + [0.0] * ties
    return d, list(range(len(d)))


# --- published examples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "losses", "n", "level", "low", "high"),
    [
        # Fagerland, Lydersen and Laake 2014, Stat. Med. 33:2850: airway hyper-responsiveness (1, 1, 7, 12) and complete
        # response (59, 6, 16, 80); figures as printed by the R package contingencytables of the same authors.
        (1, 7, 21, 0.95, -0.517, -0.026),
        (6, 16, 161, 0.95, -0.1240, -0.0054),
        # R package PropCIs, scoreci.mp(25, 28, 618, 0.9), whose estimate is its second count less its first.
        (28, 25, 618, 0.90, -0.0148, 0.0247),
    ],
)
def test_tango_reproduces_published_intervals(
    wins: int, losses: int, n: int, level: float, low: float, high: float
) -> None:
    digits = len(str(high).split(".")[1])
    assert tuple(round(x, digits) for x in tango(wins, losses, n, level)) == (low, high)


def test_tango_reproduces_the_published_non_inferiority_test() -> None:
    # Tango 1998: two disinfections of contact lenses, 44 pairs of which one lost, margin 0.1: Z 1.709, p 0.044.
    assert round(score(0, 1, 44, -0.1), 3) == 1.709
    assert round(tango_p(0, 1, 44, -0.1, "greater"), 3) == 0.044


@pytest.mark.parametrize(
    ("table", "low", "high"), [((59, 6, 16, 80), -0.1186, -0.0046), ((1, 1, 7, 12), -0.507, -0.026)]
)
def test_newcombe_reproduces_published_intervals(table: tuple[int, int, int, int], low: float, high: float) -> None:
    digits = len(str(low).split(".")[1])
    assert tuple(round(x, digits) for x in newcombe(*table)) == (low, high)


def test_mcnemar_reproduces_published_p_values() -> None:
    assert sign_test(6, 16, 139).p == pytest.approx(0.052479, abs=5e-7)
    assert tango_p(6, 16, 161, 0, "two-sided") == pytest.approx(0.033006, abs=5e-7)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Ligaarden 2010 in contingencytables, and the two ends
    [(13, 16, 0.5435, 0.9595), (10, 10, 0.6915, 1.0), (0, 10, 0.0, 0.3085)],
)
def test_clopper_pearson_reproduces_published_intervals(k: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(k, n) == pytest.approx((low, high), abs=5e-5)


# --- second implementations -------------------------------------------------------------------------------------------


def nuisance_by_search(wins: float, losses: float, n: float, null: float) -> float:
    """Share of losses that maximises the likelihood at a difference of `null`: on grids that close in on it."""
    low, high = max(0.0, -null), (1 - null) / 2
    for _ in range(12):
        q = np.linspace(low, high, 201)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [(wins, q + null), (losses, q), (n - wins - losses, 1 - null - 2 * q)]
            fit = sum(np.where(k == 0, 0, k * np.log(np.maximum(p, 0))) for k, p in parts)
        best = int(np.argmax(fit))
        low, high = q[max(0, best - 1)], q[min(200, best + 1)]
    return float((low + high) / 2)


@given(tables, st.floats(-0.95, 0.95))
def test_the_score_has_the_variance_of_the_constrained_maximum_likelihood(
    table: tuple[int, int, int], null: float
) -> None:
    wins, losses, n = table[0], table[1], sum(table)
    q = nuisance_by_search(wins, losses, n, null)
    variance = n * (2 * q + null - null * null)
    if variance > 1e-6 * n:
        assert score(wins, losses, n, null) == pytest.approx((wins - losses - n * null) / math.sqrt(variance), rel=1e-3)


@given(tables, st.sampled_from([0.8, 0.95, 0.99]))
def test_tango_is_the_set_of_differences_that_are_not_rejected(table: tuple[int, int, int], level: float) -> None:
    wins, losses, n = table[0], table[1], sum(table)
    low, high = tango(wins, losses, n, level)
    z = float(stats.norm.ppf((1 + level) / 2))
    kept = [d for d in np.linspace(-1, 1, 401) if abs(score(wins, losses, n, float(d))) <= z]
    inside = [d for d in np.linspace(-1, 1, 401) if low <= d <= high]
    assert kept == inside


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from(SIDES))
def test_the_sign_test_agrees_with_scipy_and_statsmodels(wins: int, losses: int, side: Alternative) -> None:
    found = sign_test(wins, losses, 5, side).p
    if wins + losses:
        assert found == pytest.approx(stats.binomtest(wins, wins + losses, alternative=side).pvalue)
    if side == "two-sided":
        reference = contingency_tables.mcnemar([[0, wins], [losses, 0]], exact=True).pvalue
        assert found == pytest.approx(reference if wins + losses else 1)


@given(st.integers(1, 60), st.integers(0, 60).filter(bool))
def test_at_zero_the_score_test_is_mcnemars(wins: int, losses: int) -> None:
    reference = contingency_tables.mcnemar([[0, wins], [losses, 0]], exact=False, correction=False).pvalue
    assert tango_p(wins, losses, 200, 0, "two-sided") == pytest.approx(reference)


@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([0.9, 0.95]))
def test_clopper_pearson_agrees_with_scipy(k: int, more: int, level: float) -> None:
    if k + more:
        reference = stats.binomtest(k, k + more).proportion_ci(level, method="exact")
        assert clopper_pearson(k, k + more, level) == pytest.approx((reference.low, reference.high))


def test_newcombe_without_correlation_is_the_two_wilson_intervals_combined() -> None:
    # both * neither < wins * losses + n / 2, so the corrected correlation is 0
    (l1, u1), (l2, u2) = wilson(0.5, 40), wilson(0.35, 40)
    half = math.hypot(0.5 - l1, u2 - 0.35), math.hypot(u1 - 0.5, 0.35 - l2)
    assert newcombe(7, 13, 7, 13) == pytest.approx((0.15 - half[0], 0.15 + half[1]))


def by_enumeration(wins: int, losses: int, n: int, null: float) -> float:
    """The exact p by summing trinomial probabilities over all tables, at 1,500 shares of wins."""
    seen = score(wins, losses, n, null) - 1e-9
    worse = [(w, x) for w in range(n + 1) for x in range(n + 1 - w) if score(w, x, n, null) >= seen]
    w, x = np.array(worse).T
    rarer = np.linspace(0, math.sqrt((1 - abs(null)) / 2), 1500) ** 2
    best = 0.0
    for win, loss in zip(rarer + max(null, 0), rarer + max(-null, 0), strict=True):
        shares = [win, loss, max(0.0, 1 - win - loss)]
        best = max(best, float(stats.multinomial.pmf(np.stack([w, x, n - w - x], axis=1), n, shares).sum()))
    return best


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wins", "losses", "n", "null"),
    [(0, 0, 50, -0.05), (1, 4, 60, -0.1), (12, 8, 30, -0.2), (3, 2, 30, 0.05), (5, 0, 40, 0.0), (20, 18, 60, -0.1)],
)
def test_the_exact_test_agrees_with_full_enumeration(wins: int, losses: int, n: int, null: float) -> None:
    assert exact_p(wins, losses, n, null) == pytest.approx(by_enumeration(wins, losses, n, null), rel=1e-5)


def test_the_exact_test_of_nothing_seen_is_the_chance_of_seeing_nothing() -> None:
    assert exact_p(0, 0, 50, -0.05) == pytest.approx(0.95**50)
    found = noninferiority(*rows(0, 0, 50), 0.05)
    assert found.p == pytest.approx(0.95**50) and found.p > tango_p(0, 0, 50, -0.05, "greater")


def test_the_score_orders_tables_as_the_exact_test_needs() -> None:
    # It rises with wins and falls with losses, so that the largest probability lies on the edge of the null hypothesis.
    n = 25
    for null, losses in itertools.product([-0.3, -0.1, -0.02, 0.02, 0.1], range(n)):
        along = [score(w, losses, n, null) for w in range(n + 1 - losses)]
        assert along == sorted(along)
        assert all(score(w, losses + 1, n, null) <= along[w] for w in range(n - losses))


# --- what counts are worth --------------------------------------------------------------------------------------------


@given(signs)
def test_independent_signs_get_exactly_tangos_interval_and_test(d: list[float]) -> None:
    wins, losses, n = d.count(1), d.count(-1), len(d)
    found = difference(d, range(n))
    assert ends(found) == tango(wins, losses, n)
    assert found.p == tango_p(wins, losses, n, 0, "two-sided")
    assert (found.method, found.interval_method, found.n, found.clusters) == ("score test", "Tango score", n, n)


def test_a_clustered_difference_by_hand() -> None:
    # Four clusters of two; mean 1/4, mean gain 3/8, mean loss 1/8; sums of deviations 3/2, -1/2, -3/2, 1/2, of squares
    # 5; variance 4/3 * 5 / 64 = 5/48, of one -1/0/1 value 1/2 - 1/16 = 7/16: worth 21/5 pairs.
    d, c = [1, 1, 0, 0, -1, 0, 1, 0], [0, 0, 1, 1, 2, 2, 3, 3]
    found = difference(d, c, null=0.1, alternative="greater")
    assert (found.estimate, found.n, found.clusters) == (0.25, 8, 4)
    assert ends(found) == pytest.approx(tango(3 / 8 * 4.2, 1 / 8 * 4.2, 4.2, df=3))
    assert found.p == pytest.approx(tango_p(3 / 8 * 4.2, 1 / 8 * 4.2, 4.2, 0.1, "greater", df=3))


def test_where_few_clusters_differ_each_counts_at_most_once() -> None:
    # One prompt of three in one cluster of fifty: the variance alone would call that 150 pairs.
    found = difference([-1.0] + [0.0] * 149, [i // 3 for i in range(150)])
    assert ends(found) == pytest.approx(tango(0, 1 / 3, 50, df=49))
    assert "few differ" in found.interval_method


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1 / 3])
def test_where_nothing_varies_each_cluster_counts_once(value: float) -> None:
    found = difference([value] * 60, [i // 2 for i in range(60)])
    assert ends(found) == pytest.approx(tango(30 * max(value, 0), 30 * max(-value, 0), 30, df=29))
    assert found.high - found.low > 0.1


@every_test
def test_one_cluster_says_nothing(name: str) -> None:
    found = TESTS[name]([1.0, 0.5, 1.0], [7, 7, 7])
    assert (ends(found), found.clusters) == ((-1.0, 1.0), 1)
    assert found.p == 1 or name in ("permutation", "wilcoxon")
    assert found.p > 0.4


@every_test
def test_no_data_is_no_evidence(name: str) -> None:
    found = TESTS[name]([], [])
    assert (found.estimate, found.low, found.high, found.p, found.n) == (None, -1.0, 1.0, 1.0, 0)
    assert sign_test(0, 0, 0).estimate is None


@every_test
def test_ties_alone_prove_neither_gain_nor_loss(name: str) -> None:
    found = TESTS[name]([0.0] * 40, [*range(40)])
    assert found.estimate == 0 and found.low < 0 < found.high
    if name in ("noninferiority", "tost"):
        assert 0.9**40 < found.p < 0.02  # forty ties do say something about a loss of 10 points
    else:
        assert found.p == 1 or (name == "inferiority" and found.p > 0.9)


# --- what must always hold --------------------------------------------------------------------------------------------


@given(clustered)
def test_the_interval_contains_the_estimate(pairs: list[tuple[float, int]]) -> None:
    found = difference([d for d, _ in pairs], [c for _, c in pairs])
    assert found.estimate == pytest.approx(sum(d for d, _ in pairs) / len(pairs))
    assert found.estimate is not None
    assert -1 <= found.low <= found.estimate + 1e-9 and found.estimate - 1e-9 <= found.high <= 1
    assert found.low < found.high


@every_test
@settings(max_examples=40, deadline=None)
@given(clustered)
def test_exchanging_candidate_and_baseline_turns_everything_around(name: str, pairs: list[tuple[float, int]]) -> None:
    d, c = [x for x, _ in pairs], [k for _, k in pairs]
    one, other = TESTS[name](d, c), TESTS[name]([-x for x in d], c)
    assert one.estimate == pytest.approx(-(other.estimate or 0.0))
    assert ends(one) == pytest.approx((-other.high, -other.low), abs=1e-6)
    if one.alternative == "two-sided":
        assert one.p == pytest.approx(other.p, abs=1e-6)


@every_test
@settings(max_examples=40, deadline=None)
@given(clustered, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(name: str, pairs: list[tuple[float, int]], rng: random.Random) -> None:
    other = pairs.copy()
    rng.shuffle(other)
    a, b = (TESTS[name]([d for d, _ in x], [c for _, c in x]) for x in (pairs, other))
    assert (*ends(a), a.p) == pytest.approx((*ends(b), b.p), abs=1e-6)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 50), st.sampled_from(SIDES))
def test_another_tie_never_changes_the_sign_test(wins: int, losses: int, ties: int, side: Alternative) -> None:
    assert sign_test(wins, losses, ties, side).p == sign_test(wins, losses, ties + 1, side).p
    assert f"{ties} of {wins + losses + ties} pairs tied" in sign_test(wins, losses, ties, side).method


@given(clustered, st.integers(2, 4))
def test_repeating_rows_inside_their_cluster_never_narrows_the_interval(
    pairs: list[tuple[float, int]], times: int
) -> None:
    d, c = [x for x, _ in pairs], [k for _, k in pairs]
    once, repeated = difference(d, c), difference(d * times, c * times)
    assert repeated.low <= once.low + 1e-9 and once.high - 1e-9 <= repeated.high
    assert repeated.p >= once.p - 1e-9


@given(signs)
def test_epochs_that_say_the_same_count_as_one(d: list[float]) -> None:
    once, repeated = difference(d, range(len(d))), difference(d * 5, [*range(len(d))] * 5)
    assert repeated.low <= once.low and once.high <= repeated.high


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1.0, 1.0, 1 / 3, 0.0, -1 / 3]), st.integers(0, 25)), min_size=8))
def test_a_superiority_that_is_shown_leaves_zero_outside_the_interval(pairs: list[tuple[float, int]]) -> None:
    found = superiority([d for d, _ in pairs], [c for _, c in pairs])
    assert found.p > 0.025 or found.low > -1e-9


@settings(max_examples=50, deadline=None)
@given(clustered, st.sampled_from([0.05, 0.2, 0.5]), st.sampled_from([0.8, 0.95]))
def test_decisions_at_a_margin_agree_with_the_interval(
    pairs: list[tuple[float, int]], margin: float, level: float
) -> None:
    d, c, alpha = [x for x, _ in pairs], [k for _, k in pairs], (1 - level) / 2 - 1e-9
    safe, worse, same = (f(d, c, margin, level) for f in (noninferiority, inferiority, tost))
    assert safe.p > alpha or safe.low >= -margin - 1e-9
    assert worse.p > alpha or worse.high <= -margin + 1e-9
    assert same.p > alpha or (same.low >= -margin - 1e-9 and same.high <= margin + 1e-9)
    assert same.p >= safe.p and not (safe.p <= alpha and worse.p <= alpha)


@given(clustered)
def test_the_score_test_is_easier_to_pass_at_a_wider_margin(pairs: list[tuple[float, int]]) -> None:
    d, c = [x for x, _ in pairs], [k for _, k in pairs]
    p = [difference(d, c, null=-m, alternative="greater").p for m in (0.01, 0.05, 0.1, 0.3, 0.6, 0.9)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(p))


@pytest.mark.slow
def test_noninferiority_is_easier_to_show_at_a_wider_margin() -> None:
    # All tables of 12 pairs. The exact part may rise a little as tables without a difference join (Roehmel 2005).
    for wins, losses in ((w, x) for w in range(13) for x in range(13 - w)):
        p = [noninferiority(*rows(wins, losses, 12 - wins - losses), m).p for m in np.linspace(0.02, 0.8, 30)]
        for i, first in enumerate(p):
            assert max(p[i:]) <= first + 0.003 or first > 0.05


@given(st.integers(0, 60), st.integers(0, 8), st.integers(0, 60))
def test_noninferiority_never_says_more_than_the_score_test(wins: int, losses: int, ties: int) -> None:
    if (n := wins + losses + ties) > 1:
        assert noninferiority(*rows(wins, losses, ties), 0.1).p >= tango_p(wins, losses, n, -0.1, "greater")


# --- the tests one by one ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("n", "margin"), [(20, 0.1), (30, 0.05), (40, 0.02), (40, 0.2)])
def test_the_size_of_noninferiority_is_at_most_the_level(n: int, margin: float) -> None:
    # Exact, over all tables and a fine grid of the share of wins. Tango's test alone: 0.026, 0.027, 0.028, 0.028.
    every = [(w, x) for w in range(n + 1) for x in range(n + 1 - w)]
    reject = np.array([max(exact_p(w, x, n, -margin), tango_p(w, x, n, -margin, "greater")) for w, x in every]) <= 0.025
    w, x = np.array(every)[reject].T
    cells = np.stack([w, x, n - w - x], axis=1)
    for truth in (-margin, -margin * 1.5):
        for rarer in np.linspace(0, math.sqrt((1 + truth) / 2), 200) ** 2:
            shares = [rarer, rarer - truth, max(0.0, 1 - 2 * rarer + truth)]
            assert stats.multinomial.pmf(cells, n, shares).sum() <= 0.025 + 1e-6


def test_noninferiority_of_clusters_rounds_against_the_claim() -> None:
    d, c = [1.0, 1.0, 0.0, -1.0, 0.0, 0.0] * 15, [i // 2 for i in range(90)]
    data = paired(d, c)
    assert data.wins != int(data.wins) and data.losses != int(data.losses)
    found = noninferiority(d, c, 0.1)
    exact = exact_p(math.floor(data.wins), math.ceil(data.losses), math.floor(data.size), -0.1)
    assert found.p == max(exact, difference(d, c, null=-0.1, alternative="greater").p)
    assert "rounded against the claim" in found.method


def test_with_very_many_pairs_the_score_test_stands_alone_and_says_so() -> None:
    found = noninferiority(*rows(500, 600, 19_000), 0.02)
    assert found.p == tango_p(500, 600, 20_100, -0.02, "greater")
    assert "more than 10000 pairs" in found.method


def test_inferiority_is_shown_where_noninferiority_is_not() -> None:
    d, c = rows(5, 60, 135)
    assert inferiority(d, c, 0.05).p < 0.001 and noninferiority(d, c, 0.05).p > 0.99
    found = inferiority(d, c, 0.05)
    assert (found.estimate, found.null, found.alternative) == (-0.275, -0.05, "less")
    assert ends(found) == pytest.approx(tango(5, 60, 200), abs=1e-9)


def test_equivalence_needs_both_sides() -> None:
    d, c = rows(3, 3, 294)
    found = tost(d, c, 0.05)
    assert (found.null, found.alternative) == (0.05, "two-sided") and found.p < 0.001
    assert tost(*rows(30, 3, 267), 0.05).p > 0.5


def test_superiority_of_signs_is_the_sign_test() -> None:
    d, c = rows(15, 5, 30)
    found = superiority(d, c)
    assert found.p == pytest.approx(sign_test(15, 5, 30, "greater").p) == pytest.approx(0.0207, abs=1e-4)
    assert "sign test" in found.method and "score test" in found.method and found.seed is None


def test_sign_flips_are_listed_where_they_are_few() -> None:
    sums = [1.0, 2 / 3, 1 / 3, 1.0, -1 / 3, 0.0]
    found = permutation(sums, range(6), "greater")
    flips = [sum(s * abs(x) for s, x in zip(f, sums, strict=True)) for f in itertools.product((1, -1), repeat=6)]
    assert found.p == sum(f >= sum(sums) - 1e-9 for f in flips) / 64
    assert found.method == "exact sign flips of 5 clusters" and found.seed is None


@pytest.mark.parametrize("side", SIDES)
def test_sign_flips_of_signs_are_the_sign_test(side: Alternative) -> None:
    assert permutation(*rows(9, 3, 20), side).p == pytest.approx(sign_test(9, 3, 20, side).p)
    drawn = permutation(*rows(40, 25, 20), side, resamples=40_000)
    exact = sign_test(40, 25, 20, side).p
    assert drawn.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000) + 1e-4)
    assert (drawn.method, drawn.seed) == ("40000 random sign flips of 65 clusters", 0)


def test_drawn_sign_flips_depend_on_the_seed_alone_and_are_never_zero() -> None:
    d, c = [1.0] * 40, range(40)
    assert permutation(d, c, resamples=99).p == 0.01
    graded = [*([1 / 3, -2 / 3, 1.0] * 20), 1.0]
    assert permutation(graded, range(61), seed=3) == permutation(graded, range(61), seed=3)
    assert permutation(graded, range(61), seed=3).p != permutation(graded, range(61), seed=4).p


def test_wilcoxon_is_scipys_on_cluster_means() -> None:
    means = [0.5, 1.0, 0.0, -0.25, 0.75, 0.25, 0.0, 1.0]
    d, c = [*[m for m in means], *[m for m in means]], [*range(8), *range(8)]
    reference = stats.wilcoxon(means, zero_method="pratt", correction=True, method="approx")
    assert wilcoxon(d, c).p == pytest.approx(reference.pvalue)
    assert "Pratt" in wilcoxon(d, c).method


# --- bad input --------------------------------------------------------------------------------------------------------


@every_test
@pytest.mark.parametrize(
    ("d", "clusters"), [([0.5], []), ([0.5, 1.01], [0, 1]), ([math.nan, 0], [0, 1]), ([-math.inf, 0], [0, 1])]
)
def test_bad_differences_are_refused(name: str, d: list[float], clusters: list[int]) -> None:
    with pytest.raises(UsageError):
        TESTS[name](d, clusters)


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0), (math.nan, 0, 5), (0, 0, math.inf)])
def test_impossible_counts_are_refused(counts: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError):
        tango(*counts)
    with pytest.raises(UsageError):
        tango_p(*counts, 0, "greater")


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (0, 0, -1), (1.5, 0, 2)])
def test_the_sign_test_refuses_what_is_no_count(counts: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError):
        sign_test(*counts)


@pytest.mark.parametrize("level", [0, 1, -0.1, 95, math.nan])
def test_a_level_outside_0_and_1_is_refused(level: float) -> None:
    d, c = rows(3, 1, 4)
    for ask in (
        lambda: tango(1, 2, 10, level),
        lambda: newcombe(1, 2, 3, 4, level),
        lambda: sign_test(1, 2, 3, level=level),
        lambda: clopper_pearson(1, 2, level),
        lambda: difference(d, c, level),
        lambda: permutation(d, c, level=level),
        lambda: wilcoxon(d, c, level=level),
        lambda: superiority(d, c, level),
        lambda: noninferiority(d, c, 0.1, level),
        lambda: tost(d, c, 0.1, level),
    ):
        with pytest.raises(UsageError, match="level"):
            ask()


def test_an_unknown_alternative_is_refused_and_the_nearest_named() -> None:
    d, c = rows(3, 1, 4)
    for ask in (
        lambda: tango_p(1, 2, 10, 0, "greator"),  # type: ignore[arg-type]
        lambda: sign_test(1, 2, 3, "greator"),  # type: ignore[arg-type]
        lambda: difference(d, c, alternative="greator"),  # type: ignore[arg-type]
        lambda: permutation(d, c, "greator"),  # type: ignore[arg-type]
        lambda: wilcoxon(d, c, "greator"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match="Did you mean 'greater'"):
            ask()


@pytest.mark.parametrize("margin", [0, -0.1, 1, 2, math.nan])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    for ask in (noninferiority, inferiority, tost):
        with pytest.raises(UsageError, match="margin"):
            ask(*rows(3, 1, 4), margin)


def test_other_nonsense_is_refused() -> None:
    with pytest.raises(UsageError):
        difference(*rows(3, 1, 4), null=1.5)
    with pytest.raises(UsageError):
        permutation(*rows(3, 1, 4), resamples=0)
    for table in ((-1, 1, 1, 1), (0, 0, 0, 0)):
        with pytest.raises(UsageError):
            newcombe(*table)
    for k, n in ((3, 2), (-1, 2), (0, 0), (0.5, 2), (math.nan, 2)):
        with pytest.raises(UsageError):
            clopper_pearson(k, n)  # type: ignore[arg-type]


def test_halls_t_is_students_without_skewness_and_stricter_with_a_long_tail_of_losses() -> None:
    even = np.array([1.0, -1.0] * 30 + [1 / 3, -1 / 3] * 20) + 0.1
    t, df = even.mean() / (even.std(ddof=1) / math.sqrt(len(even))), len(even) - 1
    assert hall_p(even) == pytest.approx(stats.t.sf(t, df), rel=1e-9)
    lopsided = np.array([1 / 3] * 100 + [-1.0] * 26 + [0.0] * 174)
    assert hall_p(lopsided) > stats.ttest_1samp(lopsided, 0, alternative="greater").pvalue
    assert superiority(list(lopsided), range(300)).p >= hall_p(lopsided)
    assert hall_p(np.zeros(5)) == hall_p(-np.ones(5)) == hall_p(np.ones(1)) == 1.0


def test_the_same_gain_on_every_prompt_is_a_gain() -> None:
    assert superiority([1 / 3] * 60, range(60)).p < 0.001 < 0.9 < superiority([-1 / 3] * 60, range(60)).p
