"""Agreement from tables of counts: the statistics against other implementations, and intervals that are honest."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_eval.errors import UsageError
from shard_eval.stats import agreement, confusion
from shard_eval.stats.confusion import Counts, Statistic

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60)


def part(pairs: list[tuple[int, int]], k: int = 4, clusters: list[int] | None = None):  # type: ignore[no-untyped-def]
    people, judge = zip(*pairs, strict=True)
    return Counts(people, judge, clusters or list(range(len(pairs))), k, resamples=200).part()


@given(labels)
@settings(deadline=None)
def test_kappas_and_alpha_are_those_of_the_lists(pairs: list[tuple[int, int]]) -> None:
    people, judge = ([p[i] for p in pairs] for i in (0, 1))
    table = part(pairs).table
    if len(set(people)) == 1:
        assert math.isnan(float(confusion.kappa(table))) and math.isnan(float(confusion.ordinal_alpha(table)))
        return
    assert float(confusion.kappa(table)) == pytest.approx(agreement.kappa(people, judge))
    assert float(confusion.linear_kappa(table)) == pytest.approx(agreement.kappa(people, judge, "linear"))
    assert float(confusion.ordinal_alpha(table)) == pytest.approx(
        agreement.krippendorff_alpha([people, judge], "ordinal")
    )


def test_precision_f1_and_macro_f1_of_a_worked_example() -> None:
    # 8 of 10 found, 4 false alarms among 90: precision 8/12, F1 16/22.
    two = part([(1, 1)] * 8 + [(1, 0)] * 2 + [(0, 1)] * 4 + [(0, 0)] * 86, 2).table
    assert float(confusion.precision(two)) == pytest.approx(8 / 12)
    assert float(confusion.f1(two)) == pytest.approx(16 / 22)
    # F1 of three used classes: 2/2, 2/3, 0; the class that nobody used does not count.
    assert float(confusion.macro_f1(part([(0, 0), (1, 1), (2, 1)]).table)) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_where_people_flagged_nothing_there_is_neither_precision_nor_f1() -> None:
    none = part([(0, 0)] * 5 + [(0, 1)] * 5, 2)
    for statistic in (confusion.precision, confusion.f1, confusion.kappa):
        found = none.measure(statistic)
        assert (found.value, found.low, found.high, found.undefined) == (None, None, None, 200)


def test_perfect_agreement_on_a_few_replies_is_not_certainty() -> None:
    few, many = (part([(0, 0), (1, 1)] * n, 2) for n in (10, 200))
    for statistic in (confusion.kappa, confusion.f1, confusion.precision):
        assert few.measure(statistic).value == many.measure(statistic).value == 1
        low = few.measure(statistic).low
        assert low is not None and low < 0.9
        assert (many.measure(statistic).low or 0) > 0.97


def test_a_constant_judge_has_kappa_zero_with_a_width() -> None:
    found = part([(0, 0)] * 20 + [(1, 0)] * 10, 2).measure(confusion.kappa)
    assert found.value == pytest.approx(0) and found.low is not None and found.high is not None
    assert found.low < 0 < found.high


def test_resamples_without_a_value_are_counted_and_most_of_them_leave_no_interval() -> None:
    rare = part([(1, 1)] + [(0, 0)] * 99, 2).measure(confusion.kappa)
    assert rare.undefined == pytest.approx(200 * math.exp(-1), abs=25)  # the chance to draw the one reply never
    cluster = [0] * 2 + [1] * 98  # two clusters: half of all resamples hold one of them only
    alone = part([(1, 1), (0, 0), *[(0, 0)] * 98], 2, cluster).measure(confusion.kappa)
    assert alone.undefined < 100 and alone.low is not None
    tied = Counts([1, 0, 0], [1, 0, 0], [0, 1, 1], 2, resamples=200).part([0, 1])
    gone = tied.measure(confusion.kappa)
    assert gone.value == 1 and gone.undefined > 80


def test_replies_to_the_same_prompt_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, 100)
    judge = np.where(rng.random(100) < 0.85, truth, 1 - truth)
    free = Counts(list(truth), list(judge), range(100), 2).part().measure(confusion.kappa)
    four = Counts(list(truth) * 4, list(judge) * 4, list(range(100)) * 4, 2).part().measure(confusion.kappa)
    assert four.value == pytest.approx(free.value)
    assert (four.low, four.high) == pytest.approx((free.low, free.high), abs=0.02)  # as sure as of 100, not of 400


def test_the_same_seed_gives_the_same_interval_and_a_part_is_that_part_alone() -> None:
    people, judge = [0, 1] * 30, [0, 1, 1] * 20
    one, again = (Counts(people, judge, range(60), 2).part().measure(confusion.kappa) for _ in range(2))
    assert one == again
    table = Counts(people, judge, range(60), 2).part(range(0, 60, 2)).table
    assert table.sum() == 30 and table[1].sum() == 0


def test_3756_replies_in_twenty_groups_take_seconds() -> None:
    rng = np.random.default_rng(0)
    people, judge, clusters = rng.integers(0, 6, 3756), rng.integers(0, 6, 3756), np.arange(3756) % 938
    start = time.process_time()
    counts = Counts(people.tolist(), judge.tolist(), clusters.tolist(), 6)
    for group in range(20):
        chosen = counts.part(np.flatnonzero(clusters % 20 == group).tolist())
        for statistic in (confusion.kappa, confusion.linear_kappa, confusion.ordinal_alpha, confusion.macro_f1):
            chosen.measure(statistic)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("lengths", [(2, 3, 2), (2, 2, 3), (0, 0, 0)])
def test_lists_of_other_lengths_or_none_are_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError):
        Counts(*([0] * n for n in lengths), 2)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "answers", "rate", "se", "sp"),
    [(60, 1, 0.3, 0.9, 0.9), (200, 1, 0.05, 0.8, 0.98), (900, 1, 0.03, 0.75, 0.99), (100, 3, 0.4, 0.9, 0.9)],
)
def test_coverage(prompts: int, answers: int, rate: float, se: float, sp: float) -> None:
    rng, draws = np.random.default_rng(7), 500
    truth_table = np.array([[(1 - rate) * sp, (1 - rate) * (1 - sp)], [rate * (1 - se), rate * se]])
    statistics: list[Statistic] = [confusion.kappa, confusion.f1, confusion.precision]
    hits = np.zeros(len(statistics))
    clusters = np.repeat(np.arange(prompts), answers)
    for seed in range(draws):
        people = np.repeat(rng.random(prompts) < rate, answers)
        judge = np.where(people, rng.random(people.size) < se, rng.random(people.size) >= sp)
        whole = Counts(people.astype(int).tolist(), judge.astype(int).tolist(), clusters.tolist(), 2, 500, seed).part()
        for i, statistic in enumerate(statistics):
            found = whole.measure(statistic)
            low, high = (found.low, found.high) if found.low is not None else (-1.0, 1.0)
            hits[i] += low - 1e-9 <= float(statistic(truth_table)) <= (high or 0) + 1e-9
    assert hits.min() / draws >= 0.91 - 3 * math.sqrt(0.91 * 0.09 / draws)
