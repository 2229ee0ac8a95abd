"""The cluster bootstrap: brute force and SciPy as second opinions, properties, and simulated error rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shard_eval.errors import UsageError
from shard_eval.stats import resampling
from shard_eval.stats.intervals import estimate
from shard_eval.stats.paired import difference
from shard_eval.stats.resampling import bootstrap_means, cluster_weights, differences, max_t, mean_intervals

Floats = npt.NDArray[np.float64]

FIELDS = ("estimates", "errors", "low", "high", "joint_low", "joint_high")


def checkpoints(rng: np.random.Generator, n: int, k: int, share: float, fresh: float = 0.3) -> Floats:
    """Yes/no values of k systems with the same true share, which agree on about 1 - fresh of the n prompts."""
    common = rng.random(n) < share
    own = rng.random((n, k)) < share
    return np.where(rng.random((n, k)) < fresh, own, common[:, None]).astype(float)


def within(observed: float, rate: float, trials: int) -> bool:
    """Whether a simulated error rate is at most `rate`, but for three Monte Carlo standard errors."""
    return observed <= rate + 3 * math.sqrt(rate * (1 - rate) / trials)


# --- weights -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 99))
def test_every_stratum_keeps_its_total_in_every_resample(sizes: list[int], rows: int, seed: int) -> None:
    clusters = [(s, c) for s, size in enumerate(sizes) for c in range(size) for _ in range(rows)]
    boot = cluster_weights(clusters, [s for s, _ in clusters], resamples=100, seed=seed)
    totals = np.stack([boot.weights[:, boot.stratum == s].sum(axis=1) for s in range(len(sizes))], axis=1)
    assert (totals == sizes).all()
    assert boot.clusters == sum(sizes) and boot.df == sum(sizes) - len(sizes)


def test_the_weights_are_multinomial_counts() -> None:
    boot = cluster_weights(range(20), resamples=40_000)
    covariance = np.cov(boot.weights.T.astype(float))
    assert boot.weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.02)
    assert np.diag(covariance) == pytest.approx(np.full(20, 0.95), abs=0.03)
    assert covariance[np.triu_indices(20, 1)] == pytest.approx(np.full(190, -0.05), abs=0.03)


def test_the_seed_makes_the_draws() -> None:
    same, again, other = (cluster_weights(range(30), resamples=100, seed=seed) for seed in (5, 5, 6))
    assert (same.weights == again.weights).all() and (same.weights != other.weights).any()


def test_the_order_of_the_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    values, clusters = checkpoints(rng, 60, 3, 0.4), rng.integers(0, 25, 60)
    strata, order = clusters % 3, rng.permutation(60)
    found = differences(values, cluster_weights(clusters.tolist(), strata.tolist(), 200))
    again = differences(values[order], cluster_weights(clusters[order].tolist(), strata[order].tolist(), 200))
    for field in (*FIELDS, "p"):
        assert getattr(again, field) == pytest.approx(getattr(found, field), abs=1e-6)


def test_the_names_of_the_clusters_do_not_matter_for_given_weights() -> None:
    values = checkpoints(np.random.default_rng(2), 40, 2, 0.4)
    boot = cluster_weights([i // 2 for i in range(40)], resamples=200)
    turned = np.random.default_rng(3).permutation(20)
    renamed = replace(boot, weights=boot.weights[:, np.argsort(turned)], cluster=turned[boot.cluster])
    assert bootstrap_means(values, renamed) == pytest.approx(bootstrap_means(values, boot), abs=1e-6)


@pytest.mark.parametrize(
    ("clusters", "strata", "resamples", "message"),
    [
        ([], None, 200, "no rows"),
        ([1, 2, 3], ["a", "b"], 200, "3 clusters but 2 strata"),
        ([1, 1, 2], ["a", "b", "a"], 200, "more than one stratum"),
        (["same"] * 5, None, 200, "only one cluster"),
        ([1, 2, 3], ["a", "a", "b"], 200, "stratum 'b' has only one cluster"),
        ([1, 2, 3], None, 99, "at least 100 resamples, got 99"),
    ],
)
def test_what_cannot_be_resampled_is_refused(clusters: Any, strata: Any, resamples: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cluster_weights(clusters, strata, resamples)


# --- means -------------------------------------------------------------------------------------------------------


def test_means_are_those_of_resampled_rows() -> None:
    """Drawing whole clusters row by row, with unequal sizes and two strata, gives the same means."""
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    values = rng.random((clusters.size, 3))
    boot = cluster_weights(clusters.tolist(), (clusters % 2).tolist(), 100)
    for weights, mean in zip(boot.weights, bootstrap_means(values, boot), strict=True):
        rows = np.repeat(np.arange(clusters.size), weights[boot.cluster].astype(int))
        assert mean == pytest.approx(values[rows].mean(axis=0), abs=1e-6)


def test_mean_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(5).beta(1, 4, (939, 1))
    ours = mean_intervals(values, cluster_weights(range(939)))
    theirs = stats.bootstrap((values[:, 0],), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert ours.errors[0] == pytest.approx(theirs.standard_error, rel=0.03)
    interval, tolerance = theirs.confidence_interval, 0.1 * float(theirs.standard_error)
    assert (ours.low[0], ours.high[0]) == pytest.approx((interval.low, interval.high), abs=tolerance)


def test_a_mean_of_equal_values_gets_wilsons_interval() -> None:
    found = mean_intervals(np.zeros((60, 1)), cluster_weights([i // 2 for i in range(60)], resamples=200))
    expected = estimate([0.0] * 60, [i // 2 for i in range(60)])
    assert found.constant.all() and (found.low[0], found.high[0]) == (expected.low, expected.high)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((10, 2), np.nan), "from -1 to 1, got nan in row 0"),
        (np.full((10, 2), 1.5), "got 1.5"),
        (np.zeros((9, 2)), "9 rows of values but 10 cluster labels"),
        (np.zeros(10), "table of rows × systems"),
        (np.zeros((10, 0)), "table of rows × systems"),
    ],
)
@pytest.mark.parametrize("function", [bootstrap_means, mean_intervals, differences])
def test_tables_with_gaps_or_of_the_wrong_shape_are_refused(
    function: Callable[..., Any], values: Floats, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        function(values, cluster_weights(range(10), resamples=200))


def test_means_of_signed_values_are_refused() -> None:
    with pytest.raises(UsageError, match=r"between 0 and 1, got -0\.5"):
        mean_intervals(np.full((10, 1), -0.5), cluster_weights(range(10), resamples=200))


@pytest.mark.parametrize("function", [mean_intervals, differences])
@pytest.mark.parametrize("level", [0.0, 1.0, -1, 2, math.nan, 0.999])
def test_levels_that_are_none_or_need_more_resamples_are_refused(function: Callable[..., Any], level: float) -> None:
    with pytest.raises(UsageError, match="level"):
        function(np.eye(10)[:, :2], cluster_weights(range(10), resamples=200), level=level)


# --- differences -------------------------------------------------------------------------------------------------


def test_percentile_intervals_of_differences_agree_with_scipy() -> None:
    values = checkpoints(np.random.default_rng(6), 939, 4, 0.3)
    found = differences(values, cluster_weights(range(939)))
    for pair in range(6):
        d = values[:, found.first[pair]] - values[:, found.second[pair]]
        theirs = stats.bootstrap((d,), np.mean, n_resamples=10_000, method="percentile", rng=pair)
        error = float(theirs.standard_error)
        interval = theirs.confidence_interval
        assert found.estimates[pair] == pytest.approx(d.mean())
        assert found.errors[pair] == pytest.approx(error, rel=0.03)
        # Yes/no values make a bound a multiple of 1/939; the Monte Carlo error of either is about a twentieth of s.e.
        tolerance = 0.15 * error + 1 / 939
        assert (found.low[pair], found.high[pair]) == pytest.approx((interval.low, interval.high), abs=tolerance)


def test_standard_errors_with_strata_are_those_of_the_textbook() -> None:
    """Unbiased even with three clusters to a stratum (Cochran 1977, Sampling Techniques, chapter 5)."""
    rng = np.random.default_rng(7)
    strata = np.repeat(np.arange(40), 3)
    values = np.clip(rng.random((120, 2)) * 0.5 + strata[:, None] / 80, 0, 1)
    found = differences(values, cluster_weights(range(120), strata.tolist()))
    d = (values[:, 0] - values[:, 1]).reshape(40, 3)
    assert found.errors[0] == pytest.approx(math.sqrt((d.var(axis=1, ddof=1) / 3).sum()) / 40, rel=0.03)


def test_repeating_every_row_inside_its_cluster_changes_nothing() -> None:
    values = checkpoints(np.random.default_rng(8), 80, 3, 0.3)
    once = differences(values, cluster_weights(range(80), resamples=500))
    twice = differences(np.repeat(values, 2, axis=0), cluster_weights(np.repeat(range(80), 2).tolist(), resamples=500))
    for field in (*FIELDS, "p"):
        assert getattr(twice, field) == pytest.approx(getattr(once, field), abs=1e-6)


def test_swapping_two_systems_flips_the_sign() -> None:
    values = checkpoints(np.random.default_rng(9), 150, 2, 0.3)
    boot = cluster_weights(range(150), resamples=500)
    one, other = differences(values, boot), differences(values[:, ::-1], boot)
    assert other.estimates == pytest.approx(-one.estimates)
    assert other.low == pytest.approx(-one.high) and other.joint_low == pytest.approx(-one.joint_high)
    assert other.errors == pytest.approx(one.errors) and other.p == pytest.approx(one.p)


def test_pairs_and_reference_name_the_same_differences() -> None:
    values = checkpoints(np.random.default_rng(10), 100, 4, 0.4)
    boot = cluster_weights(range(100), resamples=300)
    pairs, against = differences(values, boot), differences(values, boot, reference=2)
    assert against.first.tolist() == [0, 1, 3] and against.second.tolist() == [2, 2, 2]
    signs = {(i, j): s for i, j, s in zip(pairs.first, pairs.second, pairs.estimates, strict=True)}
    assert against.estimates == pytest.approx([signs[0, 2], signs[1, 2], -signs[2, 3]])
    # Fewer comparisons need a smaller critical value.
    assert (against.joint_high - against.joint_low)[0] < (pairs.joint_high - pairs.joint_low)[1]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from([0.05, 0.4]))
def test_joint_intervals_and_p_values_are_coherent(seed: int, k: int, share: float) -> None:
    values = checkpoints(np.random.default_rng(seed), 90, k, share)
    found = differences(values, cluster_weights(range(90), resamples=400, seed=seed))
    vary = ~found.constant
    half = stats.t.ppf(0.975, 89) * found.errors  # of one pair alone
    assert (found.joint_high - found.estimates >= half - 1e-9).all()
    assert (found.low <= found.estimates + 1e-6).all() and (found.estimates - 1e-6 <= found.high).all()
    excluded = (found.joint_low > 0) | (found.joint_high < 0)
    assert (found.p[excluded & vary] <= 0.05 + 1e-9).all()
    assert ((found.p > 0) & (found.p <= 1)).all()
    t = np.abs(found.estimates[vary]) / found.errors[vary]
    assert (np.diff(found.p[vary][np.argsort(-t)]) >= -1e-12).all()
    assert (found.p[vary] >= 2 * stats.t.sf(t, 89) - 1e-9).all()


def test_step_down_p_values_by_brute_force() -> None:
    values = checkpoints(np.random.default_rng(12), 200, 4, 0.3)
    values[:, 0] = np.maximum(values[:, 0], np.random.default_rng(13).random(200) < 0.12)
    boot = cluster_weights(range(200), resamples=1000)
    found = differences(values, boot)
    draws = bootstrap_means(values, boot)
    d = draws[:, found.first] - draws[:, found.second]
    t_star = np.abs(d - found.estimates) / d.std(axis=0, ddof=1)
    z = -stats.norm.ppf(stats.t.cdf(-np.abs(found.estimates) / found.errors, 199))
    expected, left, before = np.empty(6), list(np.argsort(-z)), 0.0
    while left:
        before = max(before, (1 + (t_star[:, left].max(axis=1) >= z[left[0]]).sum()) / 1001)
        expected[left.pop(0)] = before
    assert found.p == pytest.approx(expected, abs=0.002)
    critical = stats.t.ppf(stats.norm.cdf(np.sort(t_star.max(axis=1))[950]), 199)
    assert found.joint_high - found.estimates == pytest.approx(critical * found.errors, rel=1e-3)


def test_one_comparison_is_tested_like_a_t_test() -> None:
    values = np.random.default_rng(14).beta(2, 3, (400, 2))
    found = differences(values, cluster_weights(range(400)))
    theirs = stats.ttest_rel(values[:, 0], values[:, 1])
    assert found.p[0] == pytest.approx(theirs.pvalue, abs=0.02)
    interval = theirs.confidence_interval()
    assert (found.joint_low[0], found.joint_high[0]) == pytest.approx((interval.low, interval.high), abs=0.004)


def test_systems_that_never_differ_are_not_taken_as_surely_equal() -> None:
    values = np.repeat(checkpoints(np.random.default_rng(15), 100, 2, 0.4), [2, 1], axis=1)
    boot = cluster_weights(range(100), resamples=300)
    found = differences(values, boot)
    expected = difference([0.0] * 100, range(100))
    jointly = difference([0.0] * 100, range(100), level=1 - 0.05 / 3)
    assert found.constant.tolist() == [True, False, False]
    assert (found.estimates[0], found.errors[0], found.p[0]) == (0.0, 0.0, 1.0)
    assert (found.low[0], found.high[0]) == (expected.low, expected.high)
    assert (found.joint_low[0], found.joint_high[0]) == (jointly.low, jointly.high)
    assert found.joint_low[0] < found.low[0] < 0 < found.high[0] < found.joint_high[0]


def test_a_difference_on_every_prompt_is_no_p_of_zero() -> None:
    found = differences(np.tile([1.0, 0.0], (12, 1)), cluster_weights(range(12), resamples=300))
    assert found.constant.all() and found.estimates[0] == 1.0
    assert 0 < found.p[0] < 0.05 and 0 < found.low[0] < 1


def test_strata_that_differ_but_never_vary_count_as_constant() -> None:
    values = np.zeros((20, 2))
    values[:10, 0], values[10:, 1] = 1, 1
    found = differences(values, cluster_weights(range(20), [i // 10 for i in range(20)], resamples=300))
    assert found.constant.all() and found.p[0] == 1.0 and found.low[0] < 0 < found.high[0]


@pytest.mark.parametrize(
    ("columns", "reference", "message"), [(1, None, "two systems"), (3, 3, "no system 3"), (3, -1, "-1")]
)
def test_comparisons_that_do_not_exist_are_refused(columns: int, reference: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        differences(np.zeros((10, columns)), cluster_weights(range(10), resamples=200), reference)


def test_max_t_leaves_out_what_has_no_error() -> None:
    nothing = np.zeros((2, 200), dtype=np.float32)
    critical, p = max_t(nothing, np.array([0]), np.array([1]), np.zeros(1), np.zeros(1), math.inf, 0.95)
    assert critical == pytest.approx(1.96, abs=0.001) and p.tolist() == [1.0]


# --- simulations -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "k", "share", "fresh", "reference"),
    [
        (300, 11, 0.3, 0.3, 0),  # ten checkpoints and their base
        (300, 11, 0.02, 0.5, 0),  # rare: about six events for each
        (300, 2, 0.02, 0.5, 0),
        (300, 2, 0.5, 0.05, 0),  # seldom a flip
        (300, 6, 0.5, 0.06, None),  # all pairs
        (30, 11, 0.5, 0.3, 0),  # few clusters
    ],
)
def test_max_t_keeps_the_familywise_error_rate(
    n: int, k: int, share: float, fresh: float, reference: int | None
) -> None:
    rng = np.random.default_rng(n + k)
    trials, rejected, uncovered = 1000, 0, 0
    for trial in range(trials):
        boot = cluster_weights(range(n), resamples=999, seed=trial)
        found = differences(checkpoints(rng, n, k, share, fresh), boot, reference)
        rejected += bool((found.p <= 0.05).any())
        uncovered += bool(((found.joint_low > 0) | (found.joint_high < 0)).any())
    assert uncovered <= rejected
    assert within(rejected / trials, 0.05, trials)


@pytest.mark.slow
def test_max_t_keeps_the_familywise_error_rate_among_real_differences_and_repeats() -> None:
    """Two of five checkpoints are worse; prompts come in three orders that mostly agree; four strata."""
    rng = np.random.default_rng(21)
    trials, wrong, found_real = 600, 0, 0
    clusters, strata = np.repeat(np.arange(120), 3), np.repeat(np.arange(120) % 4, 3)
    for trial in range(trials):
        prompts = checkpoints(rng, 120, 6, 0.3)
        prompts[:, 4:] = np.maximum(prompts[:, 4:], rng.random((120, 2)) < 0.25)
        values = np.repeat(prompts, 3, axis=0)
        values = np.where(rng.random(values.shape) < 0.1, 1 - values, values)
        boot = cluster_weights(clusters.tolist(), strata.tolist(), 999, seed=trial)
        p = differences(values, boot, reference=0).p
        wrong += bool((p[:3] <= 0.05).any())
        found_real += bool((p[3:] <= 0.05).all())
    assert within(wrong / trials, 0.05, trials)
    assert found_real / trials > 0.5


@pytest.mark.slow
def test_percentile_intervals_cover_at_939_prompts() -> None:
    rng = np.random.default_rng(22)
    trials, outside = 500, 0
    for trial in range(trials):
        boot = cluster_weights(range(939), resamples=999, seed=trial)
        values = checkpoints(rng, 939, 2, 0.3)
        values[:, 0] = np.maximum(values[:, 0], rng.random(939) < 0.1)  # 0.07 more in truth
        found = differences(values, boot)
        outside += bool(found.low[0] > 0.07) + bool(found.high[0] < 0.07)
    assert within(outside / trials, 0.05, trials)
    assert outside / trials >= 0.05 - 3 * math.sqrt(0.05 * 0.95 / trials)  # nor wider than it needs to be


def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    """Pairs are held a block at a time: 40 systems need no more than the weights and a few blocks."""
    import tracemalloc

    boot = cluster_weights(range(50), resamples=5000)
    values = checkpoints(np.random.default_rng(23), 50, 40, 0.4)
    tracemalloc.start()
    differences(values, boot)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 4 * 5000 * resampling.PAIRS  # all 780 pairs at once would be three times as much
