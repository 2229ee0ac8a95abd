"""Corrected rates: worked examples, second implementations, what must hold always, and coverage."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shard_eval.errors import UsageError
from shard_eval.stats.agreement import detection
from shard_eval.stats.correction import (
    Corrected,
    PredictionPowered,
    corrected_difference,
    corrected_difference_per_arm,
    ppi,
    ppi_difference,
    rogan_gladen,
    youden,
)
from shard_eval.stats.intervals import estimate, wilson
from shard_eval.stats.paired import difference, tango

Bools = npt.NDArray[np.bool_]
Counts = tuple[int, int]
PERFECT = (10**12, 10**12)
NOMINAL = 0.94  # a 95 % interval must cover this often, less three Monte-Carlo standard errors


def floor(draws: int) -> float:
    return NOMINAL - 3 * math.sqrt(0.95 * 0.05 / draws)


def covers(found: Corrected | PredictionPowered, truth: float) -> bool:
    return found.low - 1e-12 <= truth <= found.high + 1e-12


counts = st.integers(2, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
good = st.integers(30, 400).flatmap(lambda n: st.tuples(st.integers(math.ceil(0.75 * n), n), st.just(n)))
differences = st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.0, 1.0]), min_size=5, max_size=80)


# --- a rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "se", "sp", "percent"),
    [
        # The examples of epi.prev in the manual of R's epiR: brucellosis, and Moujaber et al. 2008 (helicobacter).
        (23, 150, 0.96, 0.89, 5.1),
        (6, 151, 0.964, 0.927, 0.0),
    ],
)
def test_rogan_gladen_of_published_examples(k: int, n: int, se: float, sp: float, percent: float) -> None:
    found = rogan_gladen((k, n), (se * 10**6, 10**6), (sp * 10**6, 10**6))
    assert found.estimate is not None and round(100 * found.estimate, 1) == percent


def test_lang_and_reiczigels_interval_by_hand() -> None:
    # p' = 21.921 / 103.841 = .21110, se' = 46 / 52, sp' = 91 / 102, J' = .77677, theta' = (p' + sp' - 1) / J' = .13293
    # var se' = .0019629, var sp' = .00094326, shift 2 z^2 (.13293 * .0019629 - .86707 * .00094326) = -.0042788
    # s.e. = sqrt(.0016037 + .0000347 + .0007091) / J' = .062375
    found = rogan_gladen((20, 100), (45, 50), (90, 100))
    assert found.estimate == pytest.approx(0.1 / 0.8)
    assert (found.low, found.high) == pytest.approx((0.0064, 0.2509), abs=1e-4)
    assert found.youden == pytest.approx(0.8) and found.judged == 0.2 and found.n == 100


@given(counts, st.sampled_from([0.8, 0.95]))
@settings(deadline=None)
def test_a_perfect_judge_changes_nothing(judged: Counts, level: float) -> None:
    from statsmodels.stats.proportion import proportion_confint

    found = rogan_gladen(judged, PERFECT, PERFECT, level)
    assert found.estimate == pytest.approx(judged[0] / judged[1])
    # Lang and Reiczigel's interval is then Agresti and Coull's.
    reference = proportion_confint(*judged, alpha=1 - level, method="agresti_coull")
    assert (found.low, found.high) == pytest.approx(reference, abs=1e-6)


@given(counts, good, good)
def test_the_corrected_rate_lies_in_its_interval_and_both_between_0_and_1(j: Counts, se: Counts, sp: Counts) -> None:
    found = rogan_gladen(j, se, sp)
    assert 0 <= found.low <= found.high <= 1
    assert found.estimate is None or found.low <= found.estimate <= found.high


@given(st.integers(60, 300), st.sampled_from([0.8, 0.9]), st.sampled_from([0.9, 0.95]))
def test_more_calibration_data_narrows_the_interval(k: int, se: float, sp: float) -> None:
    def width(n: int) -> float:
        found = rogan_gladen((k, 500), (round(se * n), n), (round(sp * n), n))
        return found.high - found.low

    assert width(400) < width(100) < width(60)


def test_a_judge_near_chance_identifies_nothing() -> None:
    for se, sp in (((5, 10), (5, 10)), ((3, 10), (60, 100)), ((0, 0), (99, 100)), ((9, 10), (0, 0))):
        found = rogan_gladen((30, 100), se, sp)
        assert found.estimate is None and (found.low, found.high) == (0, 1)
        assert "no better than chance" in found.method and found.judged == 0.3


def test_fewer_alarms_than_false_alarms_are_no_certain_zero() -> None:
    found = rogan_gladen((0, 1000), (95, 100), (800, 1000))
    assert found.estimate is None and (found.low, found.high) == (0, 1) and "does not fit" in found.method


def test_no_data_has_no_rate() -> None:
    found = rogan_gladen((0, 0), (9, 10), (90, 100))
    assert found.estimate is None and found.judged is None and found.method == "no data"


def test_estimates_enter_like_counts_and_clusters_widen() -> None:
    truth, seen = [True] * 40 + [False] * 200, [True] * 36 + [False] * 4 + [True] * 10 + [False] * 190
    judge = detection(truth, seen, [str(i) for i in range(240)])
    values = [1.0] * 30 + [0.0] * 120
    free = rogan_gladen(estimate(values, range(150)), judge.sensitivity, judge.specificity)
    assert free.estimate == pytest.approx(rogan_gladen((30, 150), (36, 40), (190, 200)).estimate)
    plain = rogan_gladen((30, 150), (36, 40), (190, 200))
    assert (free.low, free.high) == pytest.approx((plain.low, plain.high))
    triples = rogan_gladen(estimate(values, [i // 3 for i in range(150)]), judge.sensitivity, judge.specificity)
    assert triples.low < free.low and triples.high > free.high and triples.n < 60
    assert rogan_gladen(estimate([1, 0], ["same"] * 2), (9, 10), (90, 100)).estimate is None  # one cluster: no data


def test_youden_by_hand() -> None:
    index, low, high = youden((8, 10), (90, 100))
    (a, b), (c, d) = wilson(0.8, 10), wilson(0.9, 100)
    assert index == pytest.approx(0.7)
    assert (low, high) == pytest.approx((0.7 - math.hypot(0.8 - a, 0.9 - c), 0.7 + math.hypot(b - 0.8, d - 0.9)))


RARE = [(0.01, 0.7, 0.99), (0.02, 0.8, 0.99), (0.03, 0.9, 0.99), (0.03, 0.9, 0.9), (0.3, 0.8, 0.9)]


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "se", "sp"), RARE)
@pytest.mark.parametrize(("n", "n_se", "n_sp"), [(939, 40, 400), (313, 20, 100), (3000, 50, 50)])
def test_coverage_of_a_corrected_rate(rate: float, se: float, sp: float, n: int, n_se: int, n_sp: int) -> None:
    rng, draws, hit = np.random.default_rng(11), 2000, 0
    for _ in range(draws):
        judged = (rng.binomial(n, rate * se + (1 - rate) * (1 - sp)), n)
        hit += covers(rogan_gladen(judged, (rng.binomial(n_se, se), n_se), (rng.binomial(n_sp, sp), n_sp)), rate)
    assert hit / draws >= floor(draws)


# --- a difference ----------------------------------------------------------------------------------------------


@given(differences)
def test_a_perfect_judge_leaves_a_difference_as_it_is(d: list[float]) -> None:
    found, plain = corrected_difference(d, range(len(d)), PERFECT, PERFECT), difference(d, range(len(d)))
    assert found.estimate == pytest.approx(plain.estimate, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=1e-5)


@given(differences, good, good)
def test_a_corrected_difference_is_never_surer_than_the_judged_one(d: list[float], se: Counts, sp: Counts) -> None:
    found, plain = corrected_difference(d, range(len(d)), se, sp), difference(d, range(len(d)))
    assert found.youden is not None and plain.estimate is not None
    if found.estimate is not None:
        assert found.low <= max(-1, plain.low / found.youden) + 1e-9
        assert found.high >= min(1, plain.high / found.youden) - 1e-9
        assert found.low <= found.estimate <= found.high


@given(differences, good, good)
def test_swapping_the_arms_swaps_the_corrected_difference(d: list[float], se: Counts, sp: Counts) -> None:
    a = corrected_difference(d, range(len(d)), se, sp)
    b = corrected_difference([-x for x in d], range(len(d)), se, sp)
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low), abs=1e-9)
    assert (a.estimate is None) == (b.estimate is None)


def test_the_ratio_interval_is_fiellers_where_both_intervals_are_symmetric() -> None:
    # Fieller 1954: the ratios r with (d - r j)^2 = z^2 (v + r^2 w); many prompts make Tango's interval symmetric.
    d = [1.0] * 30_000 + [-1.0] * 10_000 + [0.0] * 60_000
    found = corrected_difference(d, range(len(d)), (4_000, 5_000), (45_000, 50_000))
    z2, top, bottom = stats.norm.ppf(0.975) ** 2, 0.2, 0.7
    v, w = (0.4 - 0.04) / 1e5, 0.16 / 5_000 + 0.09 / 50_000
    a, b, c = bottom**2 - z2 * w, top * bottom, top**2 - z2 * v
    root = math.sqrt(b * b - a * c)
    assert (found.low, found.high) == pytest.approx(((b - root) / a, (b + root) / a), abs=2e-4)
    assert found.estimate == pytest.approx(0.2 / 0.7)


def test_nothing_seen_is_not_certainty() -> None:
    found = corrected_difference([0.0] * 100, range(100), (40, 50), (198, 200))
    low, high = tango(0, 0, 100)
    assert found.estimate == 0 and found.low < low / 0.79 and found.high > high / 0.79


def test_more_calibration_data_narrows_a_difference() -> None:
    d = [1.0] * 30 + [-1.0] * 5 + [0.0] * 165
    widths = []
    for n in (50, 200, 2000):
        found = corrected_difference(d, range(200), (round(0.8 * n), n), (round(0.95 * n), n))
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] > widths[2]


def test_clusters_widen_a_corrected_difference() -> None:
    d = [1.0] * 30 + [0.0] * 120
    free, tied = (corrected_difference(d, c, (40, 50), (198, 200)) for c in (range(150), [i // 3 for i in range(150)]))
    assert tied.low < free.low and tied.high > free.high


def test_equal_judges_per_arm_give_the_shared_estimate_and_a_wider_interval() -> None:
    rng = np.random.default_rng(4)
    c, b = (rng.random(400) < 0.2).astype(float), (rng.random(400) < 0.1).astype(float)
    judge = ((40, 50), (380, 400))
    apart = corrected_difference_per_arm(list(c), list(b), range(400), judge, judge)
    shared = corrected_difference(list(c - b), range(400), *judge)
    assert apart.estimate == pytest.approx(shared.estimate) and apart.judged == pytest.approx(shared.judged)
    assert apart.low < shared.low and apart.high > shared.high


def test_judges_of_unlike_strictness_are_told_apart() -> None:
    # True rates 0.2 and 0.2; the judge finds 90 % of the one and 60 % of the other.
    c, b = [1.0] * 180 + [0.0] * 820, [1.0] * 120 + [0.0] * 880
    found = corrected_difference_per_arm(c, b, range(1000), ((900, 1000), PERFECT), ((600, 1000), PERFECT))
    assert found.estimate == pytest.approx(0, abs=1e-9) and found.judged == pytest.approx(0.06)
    assert found.low < 0 < found.high


def test_a_difference_by_a_judge_near_chance_is_not_identified() -> None:
    weak, fine = ((6, 10), (5, 10)), ((45, 50), (190, 200))
    for found in (
        corrected_difference([1.0, 0.0, 0.0], range(3), *weak),
        corrected_difference_per_arm([1.0, 0.0], [0.0, 0.0], range(2), fine, weak),
    ):
        assert found.estimate is None and (found.low, found.high) == (-1, 1) and "chance" in found.method
    assert corrected_difference([], [], *fine).method == "no data"
    assert corrected_difference_per_arm([], [], [], fine, fine).method == "no data"


def truths(rng: np.random.Generator, n: int, both: float, worse: float, better: float) -> tuple[Bools, Bools]:
    """True labels of candidate and baseline."""
    kind = rng.choice(4, n, p=[both, worse, better, 1 - both - worse - better])
    return np.isin(kind, (0, 1)), np.isin(kind, (0, 2))


def verdicts(rng: np.random.Generator, truth: Bools, se: float, sp: float) -> npt.NDArray[np.float64]:
    return np.where(truth, rng.random(truth.shape) < se, rng.random(truth.shape) >= sp).astype(float)


ARMS = [(0.01, 0.01, 0.01), (0.02, 0.005, 0.02), (0.02, 0.0, 0.0), (0.2, 0.1, 0.05), (0.1, 0.4, 0.05)]


@pytest.mark.slow
@pytest.mark.parametrize(("both", "worse", "better"), ARMS)
@pytest.mark.parametrize(("se", "sp", "n", "n_se", "n_sp"), [(0.7, 0.99, 939, 40, 400), (0.9, 0.95, 313, 20, 100)])
def test_coverage_of_corrected_differences(
    both: float, worse: float, better: float, se: float, sp: float, n: int, n_se: int, n_sp: int
) -> None:
    rng, draws, shared, apart = np.random.default_rng(21), 1000, 0, 0

    def calibrated(shift: float) -> tuple[Counts, Counts]:
        return (int(rng.binomial(n_se, se - shift)), n_se), (int(rng.binomial(n_sp, sp)), n_sp)

    for _ in range(draws):
        c, b = truths(rng, n, both, worse, better)
        seen_c, seen_b, seen_other = verdicts(rng, c, se, sp), verdicts(rng, b, se, sp), verdicts(rng, b, se - 0.1, sp)
        found = corrected_difference(list(seen_c - seen_b), range(n), *calibrated(0))
        shared += covers(found, worse - better)
        judges = calibrated(0), calibrated(0.1)
        apart += covers(corrected_difference_per_arm(list(seen_c), list(seen_other), range(n), *judges), worse - better)
    assert min(shared, apart) / draws >= floor(draws)


# --- human labels on some answers ------------------------------------------------------------------------------


def labelled(rng: np.random.Generator, n: int, known: int, rate: float, se: float, sp: float):  # type: ignore[no-untyped-def]
    truth = rng.random(n) < rate
    judged = verdicts(rng, truth, se, sp)
    return list(judged), [float(t) if i < known else None for i, t in enumerate(truth)]


@pytest.mark.parametrize("seed", range(3))
def test_ppi_agrees_with_ppi_py(seed: int) -> None:
    import ppi_py

    judged, human = labelled(np.random.default_rng(seed), 12_000, 2_000, 0.3, 0.8, 0.9)
    y = np.array(human[:2000], dtype=float)
    f, g = np.array(judged[:2000]), np.array(judged[2000:])
    found = ppi(judged, human, range(12_000))
    assert found.estimate == pytest.approx(float(np.squeeze(ppi_py.ppi_mean_pointestimate(y, f, g))), abs=1e-12)
    low, high = (float(np.squeeze(x)) for x in ppi_py.ppi_mean_ci(y, f, g, alpha=0.05))
    assert (found.low, found.high) == pytest.approx((low, high), abs=3e-4)  # a width of 0.034
    assert found.high - found.low >= 0.995 * (high - low)
    assert (found.n, found.judged, found.clusters) == (2000, 10_000, 2000)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([None, 0.0, 0.5, 1.0])), min_size=4))
@settings(deadline=None)
def test_ppi_stays_between_0_and_1(rows: list[tuple[float, float | None]]) -> None:
    rows = [*rows, (0.0, 0.0), (1.0, 1.0)]
    found = ppi([f for f, _ in rows], [y for _, y in rows], range(len(rows)))
    assert 0 <= found.low <= found.estimate <= found.high <= 1 and 0 <= found.weight <= 1
    assert found.high > found.low


def test_a_judge_that_knows_nothing_is_not_trusted() -> None:
    rng = np.random.default_rng(1)
    human = [float(x) if i < 300 else None for i, x in enumerate(rng.random(2000) < 0.3)]
    found = ppi([1.0] * 2000, human, range(2000))
    assert found.weight == 0
    known = [x for x in human if x is not None]
    assert found.estimate == pytest.approx(np.mean(known))
    low, high = wilson(float(np.mean(known)), 300)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-3)


def test_a_good_judge_narrows_and_a_biased_one_does_not_mislead() -> None:
    rng = np.random.default_rng(2)
    judged, human = labelled(rng, 3000, 300, 0.3, 0.95, 0.8)  # judged rate about 0.43
    found = ppi(judged, human, range(3000))
    low, high = wilson(float(np.mean([x for x in human if x is not None])), 300)
    assert found.low < 0.3 < found.high and found.high - found.low < 0.8 * (high - low)
    more = ppi(*labelled(rng, 3000, 1200, 0.3, 0.95, 0.8), range(3000))
    assert more.high - more.low < found.high - found.low


def test_labels_on_everything_are_the_human_mean() -> None:
    human = [0.0, 1.0, 1.0, 0.0, 1.0]
    found = ppi([0.0, 1.0, 0.0, 0.0, 1.0], human, range(5))
    assert found.weight == 0 and found.estimate == pytest.approx(0.6) and found.judged == 0
    assert ppi_difference([(0, 1)] * 5, [(h, 0.0) for h in human], range(5)).estimate == pytest.approx(0.6)


def test_no_harm_among_few_labels_is_not_certainty() -> None:
    found = ppi([0.0] * 939, [0.0] * 50 + [None] * 889, range(939))
    assert found.estimate == 0 and found.high == pytest.approx(wilson(0, 50)[1])
    pair = ppi_difference([(0, 0)] * 939, [(0, 0)] * 50 + [None] * 889, range(939))
    assert (pair.low, pair.high) == pytest.approx(tango(0, 0, 50))


def test_nan_is_a_missing_label_and_clusters_widen() -> None:
    rng = np.random.default_rng(3)
    judged, human = labelled(rng, 300, 150, 0.3, 0.9, 0.9)
    gaps = [math.nan if h is None else h for h in human]
    assert ppi(judged, gaps, range(300)) == ppi(judged, human, range(300))
    thrice = [i // 3 for i in range(900)]
    tied = ppi(list(np.repeat(judged, 3)), list(np.repeat(np.array(gaps), 3)), thrice)
    free = ppi(judged, human, range(300))
    assert tied.low < free.low and tied.high > free.high and tied.clusters == 150


@pytest.mark.parametrize("seed", range(3))
def test_swapping_the_arms_swaps_the_ppi_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, b = truths(rng, 400, 0.1, 0.1, 0.05)
    judged = list(zip(verdicts(rng, c, 0.9, 0.9), verdicts(rng, b, 0.9, 0.9), strict=True))
    human = [(float(x), float(y)) if i < 120 else None for i, (x, y) in enumerate(zip(c, b, strict=True))]
    one = ppi_difference(judged, human, range(400))
    other = ppi_difference([(y, x) for x, y in judged], [h and (h[1], h[0]) for h in human], range(400))
    assert (one.estimate, one.low, one.high) == pytest.approx((-other.estimate, -other.high, -other.low), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "se", "sp"), [*RARE, (0.02, 0.97, 0.999)])
@pytest.mark.parametrize(("known", "n"), [(100, 939), (300, 939), (300, 3300)])
def test_coverage_of_ppi(rate: float, se: float, sp: float, known: int, n: int) -> None:
    rng, draws = np.random.default_rng(31), 1000
    hit = sum(covers(ppi(*labelled(rng, n, known, rate, se, sp), range(n)), rate) for _ in range(draws))
    assert hit / draws >= floor(draws)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "se", "sp"), [(0.03, 0.8, 0.99), (0.3, 0.9, 0.9)])
def test_coverage_of_ppi_with_clusters(rate: float, se: float, sp: float) -> None:
    # 300 prompts of three answers each, 100 of them labelled; two of three answers share their truth.
    rng, draws, hit, clusters = np.random.default_rng(41), 1000, 0, [i // 3 for i in range(900)]
    for _ in range(draws):
        own, common = rng.random((300, 3)) < rate, rng.random((300, 1)) < rate
        truth = np.where([True, True, False], common, own).ravel()
        human = [float(t) if i < 300 else None for i, t in enumerate(truth)]
        hit += covers(ppi(list(verdicts(rng, truth, se, sp)), human, clusters), rate)
    assert hit / draws >= floor(draws)


@pytest.mark.slow
@pytest.mark.parametrize(("both", "worse", "better"), ARMS)
@pytest.mark.parametrize(("se", "sp", "known"), [(0.8, 0.99, 300), (0.9, 0.9, 100)])
def test_coverage_of_the_ppi_difference(
    both: float, worse: float, better: float, se: float, sp: float, known: int
) -> None:
    rng, draws, hit = np.random.default_rng(51), 1000, 0
    for _ in range(draws):
        c, b = truths(rng, 939, both, worse, better)
        judged = list(zip(verdicts(rng, c, se, sp), verdicts(rng, b, se, sp), strict=True))
        human = [(float(x), float(y)) if i < known else None for i, (x, y) in enumerate(zip(c, b, strict=True))]
        hit += covers(ppi_difference(judged, human, range(939)), worse - better)
    assert hit / draws >= floor(draws)


# --- bad input -------------------------------------------------------------------------------------------------

JUDGE = ((9, 10), (90, 100))


@pytest.mark.parametrize(
    "call",
    [
        lambda: rogan_gladen((5, 4), *JUDGE),
        lambda: rogan_gladen((-1, 4), *JUDGE),
        lambda: rogan_gladen((1, 4), (math.nan, 10), (90, 100)),
        lambda: rogan_gladen((1, 4), *JUDGE, level=95),
        lambda: corrected_difference([2.0], [0], *JUDGE),
        lambda: corrected_difference([1.0], [0, 1], *JUDGE),
        lambda: corrected_difference_per_arm([1.0], [0.0, 1.0], [0, 1], JUDGE, JUDGE),
        lambda: corrected_difference_per_arm([1.0, -1.0], [0.0, 1.0], [0, 1], JUDGE, JUDGE),
        lambda: ppi([0.0, 1.0], [1.0, None], [0, 1]),
        lambda: ppi([0.0, 1.0], [1.0], [0, 1]),
        lambda: ppi([0.0, 1.0, 0.0], [1.0, 0.0], [0, 1]),
        lambda: ppi([0.0, 2.0], [1.0, 0.0], [0, 1]),
        lambda: ppi([0.0, 1.0], [1.0, 3.0], [0, 1]),
        lambda: ppi([0.0, 1.0], [1.0, 0.0], [0, 0]),
        lambda: ppi([0.0, 1.0], [1.0, 0.0], [0, 1], level=1),
    ],
)
def test_bad_input_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        call()
