"""Intervals and agreement: published worked examples, a second implementation, and coverage."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support import DATA, needs_data

from shard_eval.benchmarks import labelled
from shard_eval.benchmarks.labelled import DNA_MODELS, Labelled
from shard_eval.calibrate import agree
from shard_eval.errors import UsageError
from shard_eval.logs import Row
from shard_eval.records import Axis
from shard_eval.stats.agreement import detection, kappa
from shard_eval.stats.intervals import Estimate, estimate, wilson
from shard_eval.summary import METRICS, measure

shares = st.floats(0, 1, allow_nan=False)
clustered = st.lists(st.tuples(shares, st.integers(0, 5)), min_size=1, max_size=30)


def ends(found: Estimate) -> tuple[float, float]:
    return found.low, found.high


# --- Wilson ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, Table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilson_reproduces_newcombes_table(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k / n, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_wilson_agrees_with_scipy(counts: tuple[int, int], level: float) -> None:
    k, n = counts
    reference = stats.binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    assert wilson(k / n, n, level) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_fewer_degrees_of_freedom_widen_the_interval() -> None:
    normal, t = wilson(0.3, 50), wilson(0.3, 50, df=4)
    assert t[0] < normal[0] < 0.3 < normal[1] < t[1]


@pytest.mark.parametrize(("mean", "n"), [(-0.1, 10), (1.1, 10), (math.nan, 10), (0.5, 0), (0.5, -1)])
def test_wilson_refuses_what_is_no_share(mean: float, n: float) -> None:
    with pytest.raises(UsageError):
        wilson(mean, n)


# --- estimate --------------------------------------------------------------------------------------------------


@given(clustered)
def test_the_interval_contains_the_mean_and_stays_between_0_and_1(rows: list[tuple[float, int]]) -> None:
    found = estimate([v for v, _ in rows], [c for _, c in rows])
    assert found.value == pytest.approx(sum(v for v, _ in rows) / len(rows))
    assert found.value is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.n, found.clusters) == (len(rows), len({c for _, c in rows}))


@given(clustered, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[float, int]], rng: random.Random) -> None:
    other = rows.copy()
    rng.shuffle(other)
    a, b = (estimate([v for v, _ in x], [c for _, c in x]) for x in (rows, other))
    assert ends(a) == pytest.approx(ends(b), abs=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_independent_yes_no_values_get_exactly_wilsons_interval(values: list[bool]) -> None:
    found = estimate([float(v) for v in values], range(len(values)))
    assert ends(found) == wilson(sum(values) / len(values), len(values))
    assert found.method == "Wilson"


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("per_cluster", [1, 3])
def test_nothing_seen_is_not_certainty(value: float, per_cluster: int) -> None:
    found = estimate([value] * 30, [i // per_cluster for i in range(30)])
    assert found.value == value
    assert found.high - found.low > 0.1
    assert value in ends(found)


def test_at_a_mean_of_zero_each_cluster_counts_once() -> None:
    assert estimate([0.0] * 30, [i // 3 for i in range(30)]).high > wilson(0, 10)[1] > wilson(0, 30)[1]


def test_one_cluster_says_nothing() -> None:
    assert ends(estimate([0.2, 0.4, 0.9], ["same"] * 3)) == (0.0, 1.0)


def test_no_values_give_no_mean_and_the_widest_interval() -> None:
    found = estimate([], [])
    assert found.value is None and ends(found) == (0.0, 1.0) and found.n == 0


def twice(values: list[float]) -> tuple[Estimate, Estimate]:
    """The values as clusters of their own, and every row twice inside its cluster."""
    n = len(values)
    return estimate(values, range(n)), estimate(values * 2, [*range(n), *range(n)])


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_repeating_yes_no_rows_inside_their_cluster_never_narrows_the_interval(values: list[bool]) -> None:
    once, repeated = twice([float(v) for v in values])
    assert repeated.low <= once.low + 1e-9 and once.high - 1e-9 <= repeated.high


@given(st.lists(st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0]), min_size=2, max_size=40).filter(lambda v: np.std(v) > 0.25))
def test_repeating_graded_rows_inside_their_cluster_never_narrows_the_interval(values: list[float]) -> None:
    once, repeated = twice(values)
    assert repeated.low <= once.low + 1e-9 and once.high - 1e-9 <= repeated.high


def test_repeating_rows_that_hardly_vary_never_narrows_the_interval() -> None:
    once, repeated = twice([0.5] * 20)
    assert repeated.low <= once.low + 1e-9 and once.high - 1e-9 <= repeated.high


def test_a_clustered_interval_by_hand() -> None:
    # Four clusters of two, mean 5/8; sums of deviations -5/4, 3/4, -1/4, 3/4, of squares 11/4.
    # Variance 4/3 * 11/4 / 64 = 11/192, of independent values 15/64 / 8: effective n = 15/64 / (11/192) = 45/11.
    found = estimate([0, 0, 1, 1, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3])
    assert ends(found) == pytest.approx(wilson(5 / 8, 45 / 11, df=3))


def test_where_few_clusters_differ_each_counts_once() -> None:
    # Twenty clusters of two, of which one is 1, 1 and one 0, 1: effective n by the variance is 20.9.
    found = estimate([1, 1, 0, 1] + [0] * 36, [i // 2 for i in range(40)])
    assert ends(found) == pytest.approx(wilson(3 / 40, 20, df=19))
    assert "few differ" in found.method


def test_few_differing_clusters_of_unequal_size_count_as_fewer() -> None:
    # Clusters of 10, 1, 1, ... of which one single differs: 20^2 / (10^2 + 10).
    found = estimate([0] * 19 + [1], [0] * 10 + list(range(1, 11)))
    assert ends(found) == pytest.approx(wilson(1 / 20, 400 / 110, df=10))


def test_values_that_move_together_widen_the_interval_and_opposed_ones_narrow_it() -> None:
    pairs = [i // 2 for i in range(80)]
    together, opposed = [0.0] * 40 + [1.0] * 40, [0.0, 0.0, 1.0, 1.0] * 6 + [0.0, 1.0] * 28
    free = wilson(0.5, 80)
    assert estimate(together, pairs).low < free[0] < estimate(opposed, pairs).low


def test_equal_cluster_labels_of_any_type_are_one_cluster() -> None:
    found = estimate([0, 1, 0, 1], [("a", 1), ("a", 1), "b", "b"])
    assert found.clusters == 2


@pytest.mark.parametrize(
    ("values", "clusters"),
    [([0.5], []), ([0.5, 1.01], [0, 1]), ([-0.01], [0]), ([math.nan], [0]), ([math.inf, 0], [0, 1])],
)
def test_bad_values_are_refused(values: list[float], clusters: list[int]) -> None:
    with pytest.raises(UsageError):
        estimate(values, clusters)


# --- coverage --------------------------------------------------------------------------------------------------

NOMINAL = 0.935  # what a 95 % interval must reach
Draw = Callable[[np.random.Generator], npt.NDArray[np.float64]]


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.01, 0.03, 0.2, 0.5])
def test_coverage_for_independent_yes_no_values(p: float, n: int = 150) -> None:
    # Exact: the interval depends on the count alone, so the coverage is a sum over 151 counts, without Monte-Carlo
    # error. Found: 0.9353, 0.9518, 0.9483, 0.9592.
    hit = 0.0
    for k in range(n + 1):
        found = estimate([1.0] * k + [0.0] * (n - k), range(n))
        hit += float(stats.binom.pmf(k, n, p)) * (found.low <= p <= found.high)
    assert hit >= NOMINAL


def correlated(p: float, icc: float) -> Draw:
    """50 clusters of 3 yes/no values; with probability sqrt(icc) a value is its cluster's common one."""

    def draw(rng: np.random.Generator) -> npt.NDArray[np.float64]:
        common, own = rng.random((50, 1)) < p, rng.random((50, 3)) < p
        return np.where(rng.random((50, 3)) < math.sqrt(icc), common, own).astype(float)

    return draw


def graded(a: float, b: float) -> Draw:
    """50 clusters of 3 scores; each cluster's mean is Beta(a, b), its scores scatter around it."""

    def draw(rng: np.random.Generator) -> npt.NDArray[np.float64]:
        mean = rng.beta(a, b, (50, 1))
        return rng.beta(5 * mean + 1e-9, 5 * (1 - mean) + 1e-9, (50, 3))

    return draw


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        pytest.param(correlated(0.03, 0.8), 0.03, id="yes/no, p 0.03, icc 0.8"),
        pytest.param(correlated(0.2, 0.8), 0.2, id="yes/no, p 0.2, icc 0.8"),
        pytest.param(graded(2, 2), 0.5, id="score, mean 0.5"),
        pytest.param(graded(0.5, 0.5), 0.5, id="score, mean 0.5, mostly near 0 and 1"),
        pytest.param(graded(0.1, 4.9), 0.02, id="score, mean 0.02"),
    ],
)
def test_coverage_with_clusters(draw: Draw, truth: float) -> None:
    # 4,000 draws: the standard error of a coverage of 0.95 is 0.0034.
    # Found: 0.9598, 0.9665, 0.9510, 0.9515, 0.9985. The last is conservative by the rule for few differing clusters;
    # without it it was 0.8948, because the rare high scores were often not drawn at all.
    rng, clusters, hit = np.random.default_rng(20260101), [i // 3 for i in range(150)], 0
    for _ in range(4000):
        found = estimate(draw(rng).ravel().tolist(), clusters)
        hit += found.low <= truth <= found.high
    assert hit / 4000 >= NOMINAL


# --- kappa -----------------------------------------------------------------------------------------------------


def raters(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """The two label lists behind a table of counts (rows: first rater)."""
    cells = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return [i for i, _ in cells], [j for _, j in cells]


@pytest.mark.parametrize(
    ("table", "published"),
    [
        # Cohen 1960, Educ. Psychol. Meas. 20:37 (the table is used again in Cohen 1968, Psychol. Bull. 70:213)
        ([[88, 14, 18], [10, 40, 10], [2, 6, 12]], 0.492),
        # https://en.wikipedia.org/wiki/Cohen%27s_kappa: the simple example, and same agreement but other kappas
        ([[20, 5], [10, 15]], 0.40),
        ([[45, 15], [25, 15]], 0.1304),
        ([[25, 35], [5, 35]], 0.2593),
        # Altman 1991: two radiologists' readings of 85 xeromammograms; figures as in Stata's manual, [R] kappa
        ([[21, 12, 0, 0], [4, 17, 1, 0], [3, 9, 15, 2], [0, 0, 0, 1]], 0.4728),
    ],
)
def test_kappa_of_published_tables(table: list[list[int]], published: float) -> None:
    digits = len(str(published).split(".")[1])
    assert round(kappa(*raters(table)), digits) == published


def test_weighted_kappa_of_a_published_table() -> None:
    # Altman's radiologists again: 0.5684 with Stata's wgt(w), weights 1 - |i - j| / (k - 1).
    table = [[21, 12, 0, 0], [4, 17, 1, 0], [3, 9, 15, 2], [0, 0, 0, 1]]
    assert kappa(*raters(table), weights="linear") == pytest.approx(0.5684, abs=5e-5)


def test_weighted_kappas_by_hand() -> None:
    # Labels 0, 0, 2, 2 against 0, 1, 2, 2. Observed cost: 1/4 either way.
    # Chance: rows (.5, 0, .5), columns (.25, .25, .5):
    #   linear .5(.25 + 2 * .5) + .5(2 * .25 + .25) = 1; quadratic .5(.25 + 4 * .5) + .5(4 * .25 + .25) = 1.75.
    a, b = [0, 0, 2, 2], [0, 1, 2, 2]
    assert kappa(a, b, "linear") == pytest.approx(1 - 0.25 / 1)
    assert kappa(a, b, "quadratic") == pytest.approx(1 - 0.25 / 1.75)
    # unweighted: chance cost 1 - (.125 + .25) = .625
    assert kappa(a, b) == pytest.approx(1 - 0.25 / 0.625)


def test_distance_is_between_labels_and_not_between_ranks() -> None:
    # Nobody used label 1: it still lies between 0 and 2, and 5 is far from both.
    near, far = kappa([0, 0, 2, 5], [0, 2, 2, 5], "linear"), kappa([0, 0, 2, 5], [0, 5, 2, 5], "linear")
    assert far < near < 1


pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


@given(pairs, st.sampled_from(["none", "linear", "quadratic"]))
def test_kappa_does_not_care_which_rater_comes_first(rows: list[tuple[int, int]], weights: str) -> None:
    a, b = [x for x, _ in rows], [y for _, y in rows]
    assert kappa(a, b, weights) == pytest.approx(kappa(b, a, weights))  # type: ignore[arg-type]
    assert kappa(a, b, weights) <= 1 + 1e-12  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 5), min_size=1), st.sampled_from(["none", "linear", "quadratic"]))
def test_kappa_of_a_rater_with_themselves_is_one(a: list[int], weights: str) -> None:
    assert kappa(a, a, weights) == 1  # type: ignore[arg-type]


def test_kappa_of_a_judge_that_always_says_the_same_is_zero() -> None:
    assert kappa([0, 1, 0, 1, 0], [0, 0, 0, 0, 0]) == 0


@pytest.mark.parametrize(("a", "b"), [([], []), ([0], [0, 1])])
def test_kappa_refuses_unequal_or_empty_lists(a: list[int], b: list[int]) -> None:
    with pytest.raises(UsageError):
        kappa(a, b)


def test_detection_by_hand() -> None:
    # 10 positive of which 8 are found, 30 negative of which 27 are left alone.
    truth = [True] * 10 + [False] * 30
    judged = [True] * 8 + [False] * 2 + [True] * 3 + [False] * 27
    found = detection(truth, judged, [str(i) for i in range(40)])
    assert (found.sensitivity.value, found.specificity.value) == (0.8, 0.9)
    assert (found.sensitivity.n, found.specificity.n, found.n) == (10, 30, 40)
    assert found.prevalence == 0.25
    assert ends(found.sensitivity) == wilson(0.8, 10)
    # agreement 35/40, chance (10 * 11 + 30 * 29) / 1600
    assert found.kappa == pytest.approx((35 / 40 - 980 / 1600) / (1 - 980 / 1600))


def test_detection_without_a_single_positive_has_no_sensitivity() -> None:
    found = detection([False, False], [False, True], ["a", "b"])
    assert found.sensitivity.value is None and found.specificity.value == 0.5


def test_detection_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError):
        detection([], [], [])


def test_detection_refuses_unequal_lists_as_a_usage_error() -> None:
    with pytest.raises(UsageError):
        detection([True], [True, False], ["a"])


# --- Do-Not-Answer's published agreement -----------------------------------------------------------------------

FROM_GPT4 = {5: 4, 6: 5}  # its rubric splits "does not know" in two


def row(reply: Labelled, labels: dict[Axis, int | None]) -> Row:
    record = reply.record
    return Row(
        benchmark="dna",
        id=record.id,
        prompt_sha=record.prompt_sha,
        epoch=1,
        cluster=record.cluster,
        split="",
        risk_area="",
        category="",
        type="",
        level=None,
        intent="unknown",
        source=record.source,
        stop_reason="stop",
        chars=0,
        labels=labels,
        reasons={axis: "unparseable" for axis, label in labels.items() if label is None},
    )


def review(judge: str) -> list[tuple[Labelled, int, int]]:
    """Human-labelled replies with a published judge's action (-1: unparsed) and its harm.

    Paired by position: GPT-4's files call row 433 (the same text as 434) 434.
    """
    human = {m: [r for r in labelled.load("dna") if r.record.source == m] for m in DNA_MODELS}
    found = []
    for model in DNA_MODELS:
        with (DATA / f"do-not-answer/review/{judge}/{model}.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for reply, judged in zip(human[model], rows, strict=True):
            same = reply.record.prompt == judged["question"] and reply.record.response == judged["response"]
            assert same, f"row {reply.record.id} is not the same reply"
            action = int(float(judged["action"]))
            if judge == "gpt4":
                action = FROM_GPT4.get(action, action)
            harm = int(float(judged["harmful"])) if "harmful" in judged else int(action == 5)
            found.append((reply, action, harm))
    return found


@needs_data
@pytest.mark.parametrize(("judge", "action", "harm"), [("gpt4", 0.894, 0.742), ("longformer", 0.846, 0.734)])
def test_dna_published_judges_with_unparsed_replies_as_harmless(judge: str, action: float, harm: float) -> None:
    rows = review(judge)
    assert len(rows) == 3756
    assert round(kappa([r.labels["action"] for r, _, _ in rows], [a for _, a, _ in rows]), 3) == action
    assert round(kappa([r.labels["harm"] for r, _, _ in rows], [h for _, _, h in rows]), 3) == harm


@needs_data
def test_dna_gpt4_with_its_unparsed_replies_counted_apart() -> None:
    rows = [
        row(r, {"action": a, "harm": h} if a >= 0 else {"action": None, "harm": None}) for r, a, h in review("gpt4")
    ]
    found = agree(rows, labelled.load("dna"))
    assert (round(found["action"]["all"]["kappa"], 3), round(found["harm"]["all"]["kappa"], 3)) == (0.896, 0.745)
    assert found["action"]["all"]["unscored"] == {"unparseable": 7}
    assert found["action"]["all"]["n"] == 3749
    # benchmarks.md: per model the action kappa is 0.84-0.94 and the harmful kappa 0.67-0.85
    assert {m: round(found["action"][m]["kappa"], 2) for m in ("ChatGLM2", "GPT4")} == {"ChatGLM2": 0.84, "GPT4": 0.94}
    assert round(found["harm"]["llama2-7b-chat"]["kappa"], 2) == 0.67


@needs_data
@pytest.mark.parametrize(
    ("model", "harmless", "bounds", "harmful"),
    [
        ("llama2-7b-chat", 99.7, (99.1, 99.9), 3),
        ("ChatGPT", 98.5, (97.5, 99.1), 14),
        ("GPT4", 97.6, (96.4, 98.4), 23),
        ("ChatGLM2", 90.9, (88.9, 92.6), 85),
    ],
)
def test_dna_published_harmless_rates(model: str, harmless: float, bounds: tuple[float, float], harmful: int) -> None:
    replies = [r for r in labelled.load("dna") if r.record.source == model]
    metric = next(m for m in METRICS if m.name == "harmful")
    found = measure(metric, [row(r, dict(r.labels)) for r in replies])
    assert found is not None and found.estimate.value is not None
    assert found.estimate.value * found.estimate.n == pytest.approx(harmful)
    assert round(100 * (1 - found.estimate.value), 1) == harmless
    low, high = wilson(found.estimate.value, found.estimate.n)
    assert (round(100 * (1 - high), 1), round(100 * (1 - low), 1)) == bounds
    # ids 433 and 434 are one prompt: 938 clusters, and an interval that is wider by less than 0.03 points
    assert found.estimate.clusters == 938
    assert found.estimate.low <= low and high <= found.estimate.high
    assert ends(found.estimate) == pytest.approx((low, high), abs=3e-4)


@needs_data
def test_dna_published_action_mix() -> None:
    rows = [row(r, dict(r.labels)) for r in labelled.load("dna") if r.record.source == "GPT4"]
    mix = [measure(m, rows) for m in METRICS if m.name in {f"action_{k}" for k in range(6)}]
    shares_found = [round(100 * (m.estimate.value or 0), 1) for m in mix if m is not None]
    assert shares_found == [39.2, 16.0, 3.5, 11.7, 27.4, 2.2]
