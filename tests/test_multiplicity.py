"""Adjusted p-values: a second implementation, properties, and simulated error rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from shard_eval.errors import UsageError
from shard_eval.stats.multiplicity import benjamini_hochberg, holm

Adjust = Callable[[Any], npt.NDArray[np.float64]]

families = st.lists(st.floats(0, 1), min_size=1, max_size=40)
adjustments = pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])


@settings(max_examples=8, deadline=None)  # statsmodels collects garbage at every call
@given(families)
def test_holm_agrees_with_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@given(families)
def test_benjamini_hochberg_agrees_with_statsmodels(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


@adjustments
@given(p=families)
def test_no_adjusted_p_is_below_its_own_or_above_one(adjust: Adjust, p: list[float]) -> None:
    assert (adjust(p) >= p).all() and (adjust(p) <= 1).all()


@adjustments
@given(p=families, data=st.data())
def test_the_order_of_the_tests_does_not_matter(adjust: Adjust, p: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(p))))
    assert adjust(np.array(p)[order]) == pytest.approx(adjust(p)[order])


@adjustments
def test_one_test_needs_no_adjustment(adjust: Adjust) -> None:
    assert adjust([0.03]).tolist() == [0.03]


@adjustments
@pytest.mark.parametrize("p", [[], [0.2, math.nan], [0.2, 1.2], [-0.1], [[0.1, 0.2]]])
def test_what_is_no_list_of_p_values_is_refused(adjust: Adjust, p: Any) -> None:
    with pytest.raises(UsageError, match="p-value"):
        adjust(p)


def z_tests(families: int, tests: int, false_nulls: int) -> npt.NDArray[np.float64]:
    """One-sided p-values of equally correlated (0.5) normal statistics; the first `false_nulls` are shifted by 3."""
    rng = np.random.default_rng(11)
    z = np.sqrt(0.5) * (rng.standard_normal((families, tests)) + rng.standard_normal((families, 1)))
    z[:, :false_nulls] += 3
    p: npt.NDArray[np.float64] = special.ndtr(-z)
    return p


@pytest.mark.parametrize("false_nulls", [0, 8])
def test_holm_keeps_the_familywise_error_rate(false_nulls: int) -> None:
    p = z_tests(4000, 20, false_nulls)
    wrong = np.mean([(holm(row)[false_nulls:] <= 0.05).any() for row in p])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(p))
    assert (p[:, false_nulls:] <= 0.05).any(axis=1).mean() > 0.2  # which the raw p-values do not


@pytest.mark.parametrize("false_nulls", [0, 8])
def test_benjamini_hochberg_keeps_the_false_discovery_rate(false_nulls: int) -> None:
    shares = []
    for row in z_tests(4000, 20, false_nulls):
        rejected = benjamini_hochberg(row) <= 0.05
        shares.append(rejected[false_nulls:].sum() / max(1, rejected.sum()))
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / math.sqrt(len(shares))
