"""Joint intervals with gaps: against the pointwise ones, properties, and the caution for small counts."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from shard_eval.errors import UsageError
from shard_eval.stats.paired import difference
from shard_eval.stats.simultaneous import simultaneous
from shard_eval.stats.tables import sign_test

Floats = npt.NDArray[np.float64]


def signed(seed: int, n: int = 90, k: int = 6, gaps: float = 0.2) -> Floats:
    rng = np.random.default_rng(seed)
    values = rng.choice([-1.0, 0.0, 1.0], (n, k), p=[0.2, 0.5, 0.3])
    values[rng.random((n, k)) < gaps] = math.nan
    return values


def labels(n: int, size: int = 1) -> list[str]:
    return [f"c{i // size}" for i in range(n)]


def counted(wins: int, losses: int, n: int) -> Floats:
    return np.repeat([1.0, -1.0, 0.0], [wins, losses, n - wins - losses])[:, None]


def alone(values: Floats, clusters: list[str], level: float = 0.95) -> Floats:
    """The pointwise bounds of each column, low and high."""
    found = []
    for column in values.T:
        there = ~np.isnan(column)
        group = [c for c, yes in zip(clusters, there, strict=True) if yes]
        one = difference(column[there].tolist(), group, level)
        found.append((one.low, one.high))
    return np.array(found).T


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("grades", [1.0, 0.5])
def test_one_column_has_at_least_its_pointwise_interval_and_hardly_more(size: int, grades: float) -> None:
    values, clusters = signed(1, n=300, k=1) * grades, labels(300, size)
    low, high = simultaneous(values, clusters, resamples=4000)
    expected = alone(values, clusters)
    assert low[0] <= expected[0, 0] and high[0] >= expected[1, 0]
    assert (high - low)[0] == pytest.approx(expected[1, 0] - expected[0, 0], rel=0.08)


@pytest.mark.parametrize("size", [1, 3])
def test_no_interval_is_narrower_than_the_pointwise_one(size: int) -> None:
    """A handful of events: the bootstrap alone would be too sure, so the score interval is what is left."""
    rng = np.random.default_rng(2)
    values = rng.choice([-1.0, 0.0, 1.0], (120, 4), p=[0.01, 0.94, 0.05])
    values[rng.random((120, 4)) < 0.1] = math.nan
    low, high = simultaneous(values, labels(120, size), resamples=500)
    expected = alone(values, labels(120, size))
    assert (low <= expected[0] + 1e-12).all() and (high >= expected[1] - 1e-12).all()


def test_order_of_rows_and_columns_does_not_matter() -> None:
    values, clusters = signed(3), labels(90, 2)
    low, high = simultaneous(values, clusters, resamples=500)
    rows, columns = np.random.default_rng(4).permutation(90), np.array([3, 0, 5, 1, 4, 2])
    low2, high2 = simultaneous(values[rows][:, columns], [clusters[i] for i in rows], resamples=500)
    np.testing.assert_allclose(low2, low[columns], atol=1e-6)
    np.testing.assert_allclose(high2, high[columns], atol=1e-6)


def test_changing_all_signs_mirrors_the_intervals() -> None:
    values = signed(5)
    low, high = simultaneous(values, labels(90), resamples=500)
    mirrored = simultaneous(-values, labels(90), resamples=500)
    np.testing.assert_allclose(mirrored, [-high, -low], atol=1e-6)


def test_identical_columns_have_identical_intervals_and_widen_nothing() -> None:
    values = signed(6, k=2)
    once = simultaneous(values, labels(90), resamples=500)
    twice = simultaneous(np.hstack([values, values]), labels(90), resamples=500)
    np.testing.assert_allclose(twice, np.hstack([once, once]), atol=1e-6)


def test_a_column_where_nothing_varies_gets_bonferronis_interval() -> None:
    values = np.hstack([signed(7, k=2, gaps=0), np.ones((90, 1))])
    low, high = simultaneous(values, labels(90), resamples=500)
    expected = alone(values, labels(90), 1 - 0.05 / 3)
    assert (low[2], high[2]) == pytest.approx(tuple(expected[:, 2])) and 0.8 < low[2] < high[2] == 1


def test_a_column_without_values_is_refused_by_its_number() -> None:
    values = signed(8)
    values[:, 4] = math.nan
    with pytest.raises(UsageError, match="column 4 has no value at all"):
        simultaneous(values, labels(90), resamples=500)


def test_values_outside_the_range_are_refused() -> None:
    values = signed(9)
    values[3, 2] = 1.5
    with pytest.raises(UsageError, match="between -1 and 1"):
        simultaneous(values, labels(90), resamples=500)


def test_caution_makes_small_counts_agree_with_the_exact_sign_test() -> None:
    """Tango's score test calls 4 : 0 a difference (z = 2), the exact test none below 6 : 0 (p = 0.031)."""
    for wins in range(3, 9):
        low, _ = simultaneous(counted(wins, 0, 939), labels(939), cautious=True)
        assert (low[0] > 0) == (sign_test(wins, 0, 939 - wins).p < 0.05), wins
    assert simultaneous(counted(5, 0, 939), labels(939))[0][0] > 0


def test_caution_counts_a_cluster_that_wins_as_a_whole_as_one_win() -> None:
    """Whole triples won: three times the rows, the same evidence."""
    for wins in (5, 6):
        low, _ = simultaneous(counted(3 * wins, 0, 939), labels(939, 3), cautious=True)
        assert (low[0] > 0) == (wins == 6)


@pytest.mark.slow
def test_a_thousand_columns_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.random((939, 1000)) - rng.random((939, 1000)), labels(939)
    tracemalloc.start()
    simultaneous(values, clusters)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250e6, peak
