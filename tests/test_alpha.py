"""Krippendorff's alpha: his worked example, two other implementations, and what must hold always."""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shard_eval.errors import UsageError
from shard_eval.stats.agreement import krippendorff_alpha

Metric = Literal["nominal", "ordinal", "interval"]
METRICS: tuple[Metric, ...] = ("nominal", "ordinal", "interval")
_ = math.nan
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
ratings = st.integers(2, 5).flatmap(
    lambda raters: st.lists(
        st.lists(st.sampled_from([_, 0.0, 1.0, 2.0, 5.0]), min_size=raters, max_size=raters), min_size=2, max_size=15
    )
)


def table(rows: list[list[float]]) -> npt.NDArray[np.float64]:
    """Raters x units with at least two different ratings that can be paired."""
    found = np.array(rows).T
    paired = found[:, (~np.isnan(found)).sum(0) >= 2]
    assume(len(np.unique(paired[~np.isnan(paired)])) > 1)
    return cast("npt.NDArray[np.float64]", found)


@pytest.mark.parametrize(("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_example(metric: Metric, published: float) -> None:
    assert round(krippendorff_alpha(EXAMPLE, metric), 3) == published


@given(ratings, st.sampled_from(METRICS))
@settings(deadline=None)
def test_alpha_agrees_with_the_krippendorff_package(rows: list[list[float]], metric: Metric) -> None:
    import krippendorff

    found = table(rows)
    reference = krippendorff.alpha(reliability_data=found, level_of_measurement=metric)
    assert krippendorff_alpha(found, metric) == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_alpha_agrees_with_evalica(metric: Metric) -> None:
    import evalica
    import pandas as pd

    rng = np.random.default_rng(1)
    for _round in range(10):
        found = rng.integers(0, 4, (3, 30)).astype(float)
        found[rng.random(found.shape) < 0.2] = math.nan
        reference = evalica.alpha(pd.DataFrame(found), distance=metric).alpha
        assert krippendorff_alpha(found, metric) == pytest.approx(reference, abs=1e-9)


@given(ratings, st.sampled_from(METRICS), st.randoms(use_true_random=False))
def test_neither_the_order_of_raters_nor_of_units_matters(rows, metric: Metric, rng) -> None:  # type: ignore[no-untyped-def]
    found = table(rows)
    units = rng.sample(range(found.shape[1]), found.shape[1])
    alpha = krippendorff_alpha(found, metric)
    assert krippendorff_alpha(found[::-1][:, units], metric) == pytest.approx(alpha, abs=1e-9)
    assert alpha <= 1 + 1e-12


@pytest.mark.parametrize("metric", METRICS)
def test_agreement_is_one_and_a_unit_with_one_rating_changes_nothing(metric: Metric) -> None:
    assert krippendorff_alpha([[0, 1, 2, _], [0, 1, 2, 7]], metric) == 1
    more = np.column_stack([EXAMPLE, [_, _, 9, _], [_, _, _, _]])
    assert krippendorff_alpha(more, metric) == pytest.approx(krippendorff_alpha(EXAMPLE, metric))


def test_ranks_ignore_distances_and_intervals_do_not() -> None:
    near, far = [[0, 1, 2, 2, 1], [0, 2, 2, 1, 1]], [[0, 1, 9, 9, 1], [0, 9, 9, 1, 1]]
    assert krippendorff_alpha(near, "ordinal") == pytest.approx(krippendorff_alpha(far, "ordinal"))
    assert krippendorff_alpha(near, "interval") != pytest.approx(krippendorff_alpha(far, "interval"))


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[1.0, _], [_, 2.0]], [[1.0, 1.0], [1.0, 1.0]], [[], []]])
def test_alpha_refuses_what_has_no_answer(bad: list[object]) -> None:
    with pytest.raises(UsageError):
        krippendorff_alpha(bad)  # type: ignore[arg-type]


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(UsageError, match="ratio"):
        krippendorff_alpha(EXAMPLE, "ratio")  # type: ignore[arg-type]
