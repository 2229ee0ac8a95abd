"""Does a judge err alike on two systems: published examples, another implementation, and error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from shard_eval.errors import UsageError
from shard_eval.stats.intervals import estimate
from shard_eval.stats.judge_error import (
    MIN_OWN,
    ErrorRates,
    differences,
    homogeneity,
    independent_difference,
    spread,
)


def rates(found: tuple[int, int], alone: tuple[int, int]) -> ErrorRates:
    """Sensitivity (k, n) and specificity (k, n) of independent labels."""
    made = [estimate([1.0] * k + [0.0] * (n - k), range(n)) for k, n in (found, alone)]
    return ErrorRates(made[0], made[1])


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [  # Newcombe 1998, Stat. Med. 17:873, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 10), -0.2775, 0.2775),
    ],
)
def test_newcombes_examples(one: tuple[int, int], other: tuple[int, int], low: float, high: float) -> None:
    assert independent_difference(one, other)[1:] == pytest.approx((low, high), abs=5e-5)


def test_without_labels_nothing_is_known_of_a_difference() -> None:
    assert independent_difference((5, 10), (0, 0))[1:] == (-1, 1)
    with pytest.raises(UsageError):
        independent_difference((11, 10), (1, 2))


def test_a_clear_difference_is_shown_and_few_labels_are_not_compared() -> None:
    found = differences(rates((18, 20), (199, 200)), rates((17, 20), (160, 200)))
    assert {d.rate: d.shown for d in found} == {"sensitivity": False, "specificity": True}
    (only,) = differences(rates((3, MIN_OWN - 1), (199, 200)), rates((17, 20), (160, 200)))
    assert only.rate == "specificity" and only.level == pytest.approx(0.975)
    assert only.estimate == pytest.approx(0.195) and only.low < 0.195 < only.high


def test_more_systems_make_a_difference_harder_to_show() -> None:
    one, other = rates((18, 20), (190, 200)), rates((17, 20), (175, 200))
    assert any(d.shown for d in differences(one, other)) and not any(d.shown for d in differences(one, other, 0.95, 50))


def test_the_spread_counts_only_systems_with_enough_labels() -> None:
    known = {"a": rates((8, 10), (90, 100)), "b": rates((12, 20), (99, 100)), "c": rates((0, 3), (100, 100))}
    found = spread(known, "sensitivity")
    assert found is not None and (found.low, found.high, found.systems) == (0.6, 0.8, 2)
    wide = spread(known, "specificity")
    assert wide is not None and wide.systems == 3 and wide.p < 0.01
    assert spread({"a": known["a"]}, "sensitivity") is None


def test_homogeneity_is_pearsons_test_and_fishers_where_counts_are_small() -> None:
    counts = [(50, 100), (60, 100), (75, 110)]
    table = [[k for k, _ in counts], [n - k for k, n in counts]]
    assert homogeneity(counts) == (pytest.approx(stats.chi2_contingency(table, correction=False).pvalue), "chi-square")
    p, method = homogeneity([(1, 12), (7, 10)])
    exact = stats.fisher_exact([[1, 7], [11, 3]]).pvalue  # two samples: the same tables are at least as extreme
    assert method == "exact" and p == pytest.approx(exact, abs=0.004)
    assert homogeneity([(0, 10), (0, 20)])[0] == 1 == homogeneity([(10, 10), (20, 20)])[0]
    for bad in ([(1, 2)], [(1, 2), (3, 2)], [(0, 0), (1, 2)]):
        with pytest.raises(UsageError):
            homogeneity(bad)


@pytest.mark.parametrize(("n_se", "n_sp", "se", "sp"), [(20, 100, 0.9, 0.95), (40, 400, 0.7, 0.99), (50, 50, 0.5, 0.8)])
def test_a_judge_that_errs_alike_is_rarely_called_different(n_se: int, n_sp: int, se: float, sp: float) -> None:
    rng, draws = np.random.default_rng(3), 600

    def drawn() -> ErrorRates:
        return rates((int(rng.binomial(n_se, se)), n_se), (int(rng.binomial(n_sp, sp)), n_sp))

    called = sum(any(d.shown for d in differences(drawn(), drawn())) for _ in range(draws))
    assert called / draws <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(("sizes", "rate"), [((10, 20, 80), 0.5), ((900, 900, 900), 0.992), ((50, 60, 70), 0.6)])
def test_homogeneous_shares_are_rarely_called_different(sizes: tuple[int, ...], rate: float) -> None:
    rng, draws = np.random.default_rng(4), 400
    p = [homogeneity([(int(rng.binomial(n, rate)), n) for n in sizes])[0] for _ in range(draws)]
    assert sum(x <= 0.05 for x in p) / draws <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
