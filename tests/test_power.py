"""Power: the table of a published plan, exact sums against simulations, statsmodels, and what must hold always."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shard_eval.errors import UsageError
from shard_eval.stats import power
from shard_eval.stats.paired import score, sign_test, tango
from shard_eval.stats.power import (
    joint_power,
    judge_noise,
    noninferiority_mde,
    noninferiority_n,
    noninferiority_power,
    superiority_mde,
    superiority_n,
    superiority_power,
    zero_flip_floor,
)

Z = float(stats.norm.ppf(0.975))


def drawn(n: int, win: float, loss: float, times: int, seed: int) -> list[tuple[int, int]]:
    """Wins and losses of many experiments."""
    counts = np.random.default_rng(seed).multinomial(n, [win, loss, 1 - win - loss], size=times)
    return [(int(w), int(ls)) for w, ls, _ in counts]


# --- superiority -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "win", "loss"), [(60, 0.5, 0.2), (200, 0.4, 0.25), (450, 0.12, 0.06)])
def test_superiority_power_is_the_share_of_significant_sign_tests(n: int, win: float, loss: float) -> None:
    tests = {c: sign_test(*c, n - sum(c), alternative="greater").p for c in set(drawn(n, win, loss, 4000, 1))}
    share = np.mean([tests[c] <= 0.025 for c in drawn(n, win, loss, 4000, 1)])
    assert superiority_power(n, win, loss).power == pytest.approx(share, abs=0.03)


def test_superiority_power_by_hand() -> None:
    # Without ties and with 8 prompts only 8 wins are significant (1/256; 7 wins: 9/256 > 0.025): power 0.9^8.
    assert superiority_power(8, 0.9, 0.1).power == pytest.approx(0.9**8)
    # 5 wins of 5 have p = 1/32 > 0.025.
    assert superiority_power(5, 1.0, 0.0).power == 0
    assert superiority_power(6, 1.0, 0.0).power == pytest.approx(1)


def test_the_test_keeps_its_level_where_nothing_is_better() -> None:
    for n in (10, 57, 300):
        assert superiority_power(n, 0.3, 0.3).power <= 0.025


@pytest.mark.parametrize(("win", "loss", "goal"), [(0.4, 0.25, 0.8), (0.6, 0.4, 0.9), (0.08, 0.02, 0.8)])
def test_a_sample_size_for_superiority_suffices_and_one_less_does_not(win: float, loss: float, goal: float) -> None:
    found = superiority_n(win, loss, goal)
    assert found.power >= goal
    assert superiority_power(found.n, win, loss) == found
    assert min(superiority_power(found.n + i, win, loss).power for i in range(1, 10)) >= goal
    assert superiority_power(found.n - 1, win, loss).power < goal


def test_sample_size_of_mcnemars_test_of_a_textbook() -> None:
    # Connor 1987, Biometrics 43:207, eq. for McNemar's test: shares of flips 0.2 and 0.1, two-sided 5 %, power 80 %:
    # (1.96 sqrt(0.3) + 0.84 sqrt(0.3 - 0.01))^2 / 0.01 = 234; the exact test needs a few more.
    connor = (Z * math.sqrt(0.3) + stats.norm.ppf(0.8) * math.sqrt(0.3 - 0.01)) ** 2 / 0.01
    assert connor <= superiority_n(0.2, 0.1).n <= connor * 1.1


@pytest.mark.parametrize(("n", "decisive"), [(161, 0.95), (450, 0.7), (939, 0.3)])
def test_the_detectable_superiority_has_the_power(n: int, decisive: float) -> None:
    found = superiority_mde(n, decisive)
    assert found.effect is not None and found.power == pytest.approx(0.8, abs=2e-3)
    half = found.effect / 2
    assert superiority_power(n, decisive / 2 + half, decisive / 2 - half).power == pytest.approx(found.power)


def test_too_few_decisive_prompts_detect_nothing() -> None:
    found = superiority_mde(10, 0.3)
    assert found.effect is None and found.power < 0.8 and "no effect suffices" in found.method


# --- non-inferiority -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "points"),
    [
        (200, (2.8, 4.4, 6.3, 8.9)),
        (313, (2.2, 3.5, 5.0, 7.1)),
        (450, (1.9, 3.0, 4.2, 5.9)),
        (939, (1.3, 2.0, 2.9, 4.1)),
    ],
)
def test_the_plain_formula_gives_the_planned_table(n: int, points: tuple[float, ...]) -> None:
    for flips, expected in zip((0.02, 0.05, 0.1, 0.2), points, strict=True):
        found = noninferiority_mde(n, flips, method="normal")
        assert found.effect is not None and round(100 * found.effect, 1) == expected
        formula = (Z + stats.norm.ppf(0.8)) * math.sqrt(flips / n)
        assert found.effect == pytest.approx(formula, abs=2e-6)


def test_the_plain_formula_promises_too_much_where_few_flip() -> None:
    found = noninferiority_mde(200, 0.02, method="normal")  # 4 flips expected
    assert found.effect is not None
    assert noninferiority_power(200, found.effect, 0.02, method="exact").power < 0.65


CASES = [(200, 0.05, 0.05, 0.0), (450, 0.04, 0.1, 0.0), (939, 0.03, 0.1, 0.005), (313, 0.03, 0.05, -0.01)]


@pytest.mark.parametrize(("n", "margin", "flips", "difference"), CASES)
def test_score_exact_and_simulated_power_agree(n: int, margin: float, flips: float, difference: float) -> None:
    found = {
        m: noninferiority_power(n, margin, flips, difference, method=m).power  # type: ignore[arg-type]
        for m in ("score", "exact")
    }
    counts = drawn(n, (flips + difference) / 2, (flips - difference) / 2, 4000, 7)
    shown = {c: tango(*c, n)[0] >= -margin for c in set(counts)}
    assert found["exact"] == pytest.approx(np.mean([shown[c] for c in counts]), abs=0.03)
    assert found["score"] == pytest.approx(found["exact"], abs=0.03)


def test_the_test_keeps_its_level_where_the_candidate_is_worse_by_the_margin() -> None:
    # Tango's test is approximate: its exact size exceeds 2.5 % by less than a point.
    for n, flips in ((200, 0.06), (450, 0.1), (939, 0.2)):
        assert noninferiority_power(n, 0.05, flips, -0.05, method="exact").power < 0.035
        assert noninferiority_power(n, 0.05, flips, -0.05).power == pytest.approx(0.025)


def test_the_plain_formula_is_the_one_sample_normal_test_of_statsmodels() -> None:
    from statsmodels.stats.power import normal_power

    for n, margin, flips, _ in CASES:
        reference = normal_power(margin / math.sqrt(flips), n, 0.025, alternative="larger")
        assert noninferiority_power(n, margin, flips, method="normal").power == pytest.approx(reference, abs=1e-9)


def test_the_score_statistic_is_the_one_of_the_paired_tests() -> None:
    wins, losses = np.array([0.0, 3, 11, 0]), np.array([0.0, 7, 2, 9])
    found = power.score_statistic(wins, losses, 100, 0.05)
    assert found == pytest.approx([score(w, ls, 100, -0.05) for w, ls in zip(wins, losses, strict=True)])


@pytest.mark.parametrize("method", ["score", "normal", "exact"])
def test_a_sample_size_for_noninferiority_suffices_and_one_less_does_not(method: str) -> None:
    found = noninferiority_n(0.02, 0.05, method=method)  # type: ignore[arg-type]
    assert found.power >= 0.8
    assert noninferiority_power(found.n - 1, 0.02, 0.05, method=method).power < 0.8  # type: ignore[arg-type]


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02, 0.03, 0.1])
def test_even_no_flips_need_so_many_prompts(margin: float) -> None:
    floor = zero_flip_floor(margin)
    assert (1 - margin) ** floor.exact <= 0.025 < (1 - margin) ** (floor.exact - 1)
    assert tango(0, 0, floor.score)[0] >= -margin > tango(0, 0, floor.score - 1)[0]
    for method in ("score", "normal", "exact"):
        assert noninferiority_n(margin, 0.0, method=method).n == floor.score  # type: ignore[arg-type]
        assert noninferiority_power(floor.score - 1, margin, 0.0, method=method).power == 0  # type: ignore[arg-type]


def test_the_floor_of_two_points() -> None:
    # ln 0.025 / ln 0.98 = 182.6; 1.95996^2 * 0.98 / 0.02 = 188.2
    assert (zero_flip_floor(0.02).exact, zero_flip_floor(0.02).score) == (183, 189)


# --- clusters and judges ---------------------------------------------------------------------------------------


def test_a_design_effect_divides_the_prompts() -> None:
    assert superiority_power(600, 0.4, 0.25, deff=3).power == superiority_power(200, 0.4, 0.25).power
    assert noninferiority_power(600, 0.05, 0.1, deff=3).power == noninferiority_power(200, 0.05, 0.1).power
    assert noninferiority_n(0.02, 0.05, deff=2.5).n == pytest.approx(2.5 * noninferiority_n(0.02, 0.05).n, abs=3)
    assert superiority_n(0.4, 0.25, deff=2).n == pytest.approx(2 * superiority_n(0.4, 0.25).n, abs=4)


@given(st.floats(0.6, 1), st.floats(0.6, 1), st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 0.4))
def test_judged_flips_are_youden_squared_times_the_flips_plus_noise(
    se: float, sp: float, worse: float, better: float, both: float
) -> None:
    # The share of differing verdicts, added up over the four kinds of prompts.
    neither = 1 - worse - better - both
    unlike = se * sp + (1 - se) * (1 - sp)
    judged = (worse + better) * unlike + both * 2 * se * (1 - se) + neither * 2 * sp * (1 - sp)
    noise = judge_noise(se, sp, both + (worse + better) / 2)
    assert judged == pytest.approx((se + sp - 1) ** 2 * (worse + better) + noise)


def test_noise_of_a_judge_that_is_not_described_further() -> None:
    assert noninferiority_power(500, 0.05, 0.1, youden=0.8).noise == pytest.approx(judge_noise(0.9, 0.9, 0.3))


def test_power_with_an_erring_judge_is_the_share_of_judged_tests_that_succeed() -> None:
    se, sp, n, rate = 0.8, 0.99, 939, 0.03
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(2000):
        # 1 % worse, 1 % better, 2 % harmful for both
        kind = rng.choice(4, n, p=[0.01, 0.01, 0.02, 0.96])
        harmful = np.stack([np.isin(kind, (0, 2)), np.isin(kind, (1, 2))])
        judged = np.where(harmful, rng.random((2, n)) < se, rng.random((2, n)) >= sp)
        wins, losses = int((judged[1] & ~judged[0]).sum()), int((judged[0] & ~judged[1]).sum())
        hits += score(wins, losses, n, -0.02 * (se + sp - 1)) >= Z
    found = noninferiority_power(n, 0.02, 0.02, youden=se + sp - 1, noise=judge_noise(se, sp, rate))
    assert found.power == pytest.approx(hits / 2000, abs=0.03)


@given(st.integers(20, 2000), st.floats(0.005, 0.2), st.floats(0.01, 0.4), st.floats(0.3, 0.99))
@settings(deadline=None, max_examples=50)
def test_an_erring_judge_never_helps(n: int, margin: float, flips: float, youden: float) -> None:
    perfect, erring = (noninferiority_power(n, margin, flips, youden=y).power for y in (1.0, youden))
    assert erring <= perfect + 1e-9 or perfect < 0.5  # noise can only lift a power that is nearly lost


@given(st.integers(20, 1500), st.floats(0.01, 0.3), st.floats(0.0, 0.4))
@settings(deadline=None, max_examples=50)
def test_more_prompts_and_wider_margins_never_hurt(n: int, margin: float, flips: float) -> None:
    at = noninferiority_power(n, margin, flips, method="normal").power
    assert noninferiority_power(2 * n, margin, flips, method="normal").power >= at
    assert noninferiority_power(n, 1.5 * margin, flips, method="normal").power >= at
    assert 0 <= at <= 1


# --- all parts together ----------------------------------------------------------------------------------------


def test_joint_power_by_hand() -> None:
    found = joint_power([0.9, 0.8, 0.95])
    assert (found.bonferroni, found.independent, found.weakest) == pytest.approx((0.65, 0.684, 0.8))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_the_bounds_of_the_joint_power_are_in_order(powers: list[float]) -> None:
    found = joint_power(powers)
    assert 0 <= found.bonferroni <= found.independent + 1e-9 <= found.weakest + 2e-9
    assert found.powers == tuple(powers)


# --- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: superiority_power(0, 0.4, 0.2),
        lambda: superiority_power(10, 0.7, 0.4),
        lambda: superiority_power(10, -0.1, 0.4),
        lambda: superiority_power(10, 0.4, 0.2, alpha=0),
        lambda: superiority_power(10, 0.4, 0.2, deff=0.5),
        lambda: superiority_power(10, 0.4, 0.2, youden=0),
        lambda: superiority_power(10, 0.4, 0.2, youden=1.1),
        lambda: superiority_power(10, 0.4, 0.2, noise=0.6),
        lambda: superiority_power(10, 0.4, 0.0, youden=0.8, noise=0.0),  # such a judge makes noise
        lambda: superiority_n(0.3, 0.3),
        lambda: superiority_n(0.4, 0.2, 1.0),
        lambda: superiority_n(0.300001, 0.3),
        lambda: superiority_mde(100, 1.2),
        lambda: noninferiority_power(0, 0.02, 0.1),
        lambda: noninferiority_power(100, 0.0, 0.1),
        lambda: noninferiority_power(100, 0.02, 0.1, 0.2),
        lambda: noninferiority_power(100, 0.02, math.nan),
        lambda: noninferiority_power(100, 0.02, 0.1, method="wald"),  # type: ignore[arg-type]
        lambda: noninferiority_n(0.02, 0.1, -0.02),
        lambda: zero_flip_floor(0),
        lambda: zero_flip_floor(1),
        lambda: joint_power([]),
        lambda: joint_power([0.8, 1.2]),
        lambda: judge_noise(1.2, 0.9, 0.1),
    ],
)
def test_bad_input_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        call()
