"""How often the tests and intervals of paired differences are wrong, against how often they claim to be.

Type I error at one-sided 2.5 % and coverage of 95 % intervals, for data as they come out of evaluations: mostly ties,
rare harm, graded labels, prompts asked several times, a judge that contradicts itself. Exact sums where the data are
independent, seeded simulation with its Monte-Carlo error elsewhere. The figures found stand beside each case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from shard_eval.stats.intervals import clopper_pearson, wilson
from shard_eval.stats.paired import (
    difference,
    inferiority,
    noninferiority,
    permutation,
    superiority,
    tost,
    wilcoxon,
)
from shard_eval.stats.tables import exact_p, newcombe, sign_test, tango, tango_p

ALPHA = 0.025
LOW, HIGH = 0.94, 0.965  # coverage that a nominal 95 % is to have
LATTICE = 0.935  # and what score intervals dip to between counts (Brown, Cai and DasGupta 2001, Stat. Sci. 16:101)
Floats = npt.NDArray[np.float64]


# --- independent pairs: exact sums ------------------------------------------------------------------------------------


def likely(n: int, win: float, loss: float) -> Iterator[tuple[int, int, float]]:
    """Wins, losses and probability of all tables but those that have less than 1e-9 together."""
    most = [int(stats.binom.isf(1e-10, n, p)) if p else 0 for p in (win, loss)]
    w, x = (a.ravel() for a in np.meshgrid(np.arange(most[0] + 1), np.arange(most[1] + 1)))
    keep = w + x <= n
    w, x = w[keep], x[keep]
    mass = stats.multinomial.pmf(np.stack([w, x, n - w - x], axis=1), n, [win, loss, 1 - win - loss])
    yield from ((int(a), int(b), float(m)) for a, b, m in zip(w, x, mass, strict=True) if m > 1e-13)


@pytest.mark.parametrize(
    ("n", "win", "loss", "found"),
    [
        pytest.param(150, 0.05, 0.05, 0.9527, id="90 % ties"),
        pytest.param(150, 0.07, 0.03, 0.9492, id="90 % ties, better"),
        pytest.param(100, 0.5, 0.2, 0.9502, id="30 % ties, better"),
        pytest.param(300, 0.0, 0.01, 0.9672, id="harm 1 % of 300"),
        pytest.param(300, 0.0, 0.02, 0.9424, id="harm 2 % of 300"),
        pytest.param(939, 0.0, 0.005, 0.9414, id="harm 0.5 % of 939"),
        pytest.param(939, 0.0, 0.01, 0.9543, id="harm 1 % of 939"),
        pytest.param(300, 0.01, 0.02, 0.9398, id="harm 2 % of 300, 1 % the other way"),
        # conservative: with 1.5 losses expected in all, one loss too few cannot be told from none
        pytest.param(300, 0.0, 0.005, 0.9957, id="harm 0.5 % of 300"),
    ],
)
def test_coverage_of_tango(n: int, win: float, loss: float, found: float) -> None:
    covered = 0.0
    for w, x, mass in likely(n, win, loss):
        low, high = tango(w, x, n)
        covered += mass * (low <= win - loss <= high)
    assert covered == pytest.approx(found, abs=5e-5)
    assert covered >= LATTICE


@pytest.mark.parametrize(
    ("shares", "found"),
    [((0.6, 0.15, 0.05, 0.2), 0.9539), ((0.3, 0.2, 0.2, 0.3), 0.9512), ((0.9, 0.02, 0.04, 0.04), 0.9956)],
)
def test_coverage_of_newcombe(shares: tuple[float, float, float, float], found: float, n: int = 40) -> None:
    truth, covered = shares[1] - shares[2], 0.0
    for both in range(n + 1):
        mass_both = float(stats.binom.pmf(both, n, shares[0]))
        for w, x, mass in likely(n - both, shares[1] / (1 - shares[0]), shares[2] / (1 - shares[0])):
            if mass * mass_both > 1e-9:
                low, high = newcombe(both, w, x, n - both - w - x)
                covered += mass * mass_both * (low <= truth <= high)
    assert covered == pytest.approx(found, abs=5e-5)
    assert covered >= LATTICE


@pytest.mark.parametrize(
    ("interval", "p", "found"),
    [
        pytest.param(lambda k, n: wilson(k / n, n), 0.01, 0.9353, id="wilson 1 %"),
        pytest.param(lambda k, n: wilson(k / n, n), 0.2, 0.9483, id="wilson 20 %"),
        # conservative by construction: never below 95 %, whatever the share
        pytest.param(clopper_pearson, 0.01, 0.9820, id="clopper-pearson 1 %"),
        pytest.param(clopper_pearson, 0.2, 0.9589, id="clopper-pearson 20 %"),
    ],
)
def test_coverage_of_a_share(
    interval: Callable[[int, int], tuple[float, float]], p: float, found: float, n: int = 150
) -> None:
    covered = 0.0
    for k in range(n + 1):
        low, high = interval(k, n)
        covered += float(stats.binom.pmf(k, n, p)) * (low <= p <= high)
    assert covered == pytest.approx(found, abs=5e-5)
    assert covered >= (0.95 if interval is clopper_pearson else LATTICE)


@pytest.mark.parametrize(
    ("n", "decided", "found", "by_score"),
    [(150, 0.1, 0.01364, 0.02367), (60, 0.7, 0.01777, 0.02461), (939, 0.02, 0.01455, 0.02557)],
)
def test_error_of_the_sign_test_and_superiority(n: int, decided: float, found: float, by_score: float) -> None:
    error = alone = 0.0
    for w, x, mass in likely(n, decided / 2, decided / 2):
        exact, mcnemar = sign_test(w, x, n - w - x, "greater").p, tango_p(w, x, n, 0, "greater")
        alone += mass * (mcnemar <= ALPHA)
        error += mass * (exact <= ALPHA)
        if mass > 1e-3:
            assert superiority([1.0] * w + [-1.0] * x + [0.0] * (n - w - x), range(n)).p == max(exact, mcnemar)
    assert (error, alone) == pytest.approx((found, by_score), abs=5e-5)
    assert error <= ALPHA


def rejects(w: int, x: int, n: int, null: float) -> bool:
    """What `noninferiority` decides; the exact test only where the score test has not decided already."""
    return tango_p(w, x, n, null, "greater") <= ALPHA and exact_p(w, x, n, null) <= ALPHA


@pytest.mark.parametrize(
    ("n", "win", "margin", "found", "by_score"),
    [
        pytest.param(939, 0.0, 0.005, 0.00903, 0.00903, id="harm 0.5 % of 939"),
        pytest.param(939, 0.0, 0.01, 0.01571, 0.01571, id="harm 1 % of 939"),
        pytest.param(939, 0.0, 0.02, 0.01960, 0.01960, id="harm 2 % of 939"),
        pytest.param(300, 0.0, 0.02, 0.01661, 0.01661, id="harm 2 % of 300"),
        pytest.param(150, 0.01, 0.02, 0.02007, 0.02007, id="harm 3 % of 150, 1 % the other way"),
        pytest.param(60, 0.1, 0.1, 0.01875, 0.02324, id="harm 20 % of 60, 10 % the other way"),
    ],
)
def test_error_of_noninferiority_on_the_margin(
    n: int, win: float, margin: float, found: float, by_score: float
) -> None:
    error = alone = 0.0
    for w, x, mass in likely(n, win, win + margin):
        if mass > 1e-7:
            alone += mass * (tango_p(w, x, n, -margin, "greater") <= ALPHA)
            error += mass * rejects(w, x, n, -margin)
    assert (error, alone) == pytest.approx((found, by_score), abs=5e-5)
    assert error <= ALPHA


@pytest.mark.parametrize(
    ("n", "loss", "found", "by_score"),
    [(939, 0.005, 0.02177, 0.04954), (939, 0.02, 0.01612, 0.02635), (300, 0.02, 0.01897, 0.04096)],
)
def test_error_of_inferiority_on_the_margin(n: int, loss: float, found: float, by_score: float) -> None:
    # The score test alone is too quick to call rare harm worse than it is.
    error = alone = 0.0
    for w, x, mass in likely(n, 0.0, loss):
        alone += mass * (tango_p(w, x, n, -loss, "less") <= ALPHA)
        error += mass * rejects(x, w, n, loss)
    assert (error, alone) == pytest.approx((found, by_score), abs=5e-5)
    assert error <= ALPHA


# --- clusters and grades: simulation ----------------------------------------------------------------------------------

DRAWS = 3000


@dataclass(frozen=True)
class Scenario:
    """Data of one kind.

    Attributes:
        draw: differences of one evaluation, cluster by cluster.
        truth: their mean in truth.
        each: prompts per cluster.
        found: coverage found.
        conservative: why the coverage may be above the nominal; empty if it may not.
    """

    draw: Callable[[np.random.Generator], Floats]
    truth: float
    each: int
    found: float
    conservative: str = ""


def signs(clusters: int, each: int, win: float, loss: float, same: float) -> Callable[[np.random.Generator], Floats]:
    """-1/0/1 values; with probability `same` a value is its cluster's common one (correlation same^2)."""

    def value(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        u = rng.random(shape)
        return (u < win).astype(float) - (u > 1 - loss)

    def draw(rng: np.random.Generator) -> Floats:
        common = np.repeat(value(rng, (clusters, 1)), each, axis=1)
        return np.where(rng.random((clusters, each)) < same, common, value(rng, (clusters, each))).ravel()

    return draw


def grades(
    clusters: int, each: int, ties: float, better: float, same: float = 0.0
) -> Callable[[np.random.Generator], Floats]:
    """Thirds: 0 with probability `ties`, else 1/3, 2/3 or 1, of which a share `better` is positive."""

    def value(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        size = rng.integers(1, 4, shape) / 3 * np.where(rng.random(shape) < better, 1, -1)
        return np.where(rng.random(shape) < ties, 0.0, size)

    def draw(rng: np.random.Generator) -> Floats:
        common = np.repeat(value(rng, (clusters, 1)), each, axis=1)
        return np.where(rng.random((clusters, each)) < same, common, value(rng, (clusters, each))).ravel()

    return draw


def skewed(clusters: int, each: int) -> Callable[[np.random.Generator], Floats]:
    """Many small gains and few large losses that make up for them: the mean is 0, the median is not."""

    def draw(rng: np.random.Generator) -> Floats:
        kind = rng.choice([0.0, 1 / 3, -1.0], size=(clusters, 1), p=[0.6, 0.3, 0.1])
        return np.repeat(kind, each, axis=1).ravel()

    return draw


FEW = "few clusters differ, so each counts at most once"
NO_DIFFERENCE = {
    "90 % ties": Scenario(signs(150, 1, 0.05, 0.05, 0), 0, 1, 0.957),
    "thirds": Scenario(grades(120, 1, 0.6, 0.5), 0, 1, 0.954),
    "triples, correlated": Scenario(signs(60, 3, 0.15, 0.15, 0.9), 0, 3, 0.954),
    "triples of thirds, correlated": Scenario(grades(60, 3, 0.3, 0.5, 0.9), 0, 3, 0.959),
    "two epochs, mostly the same": Scenario(signs(100, 2, 0.15, 0.15, 0.95), 0, 2, 0.950),
    "two orders, inconsistent judge": Scenario(signs(80, 2, 0.35, 0.35, 0), 0, 2, 0.949),
    "triples, rare": Scenario(signs(100, 3, 0.01, 0.01, 0.8), 0, 3, 0.996, FEW),
    "small gains, large losses": Scenario(skewed(150, 2), 0, 2, 0.948),
}
DIFFERENCE = {
    "thirds, worse": Scenario(grades(120, 1, 0.6, 0.35), 0.4 * -0.3 * 2 / 3, 1, 0.953),
    "thirds, rarely worse": Scenario(grades(300, 1, 0.98, 0.0), -0.02 * 2 / 3, 1, 0.978, FEW),
    "triples, harm 0.5 %": Scenario(signs(300, 3, 0, 0.005, 0.8), -0.005, 3, 0.999, FEW),
    "triples, harm 1 %": Scenario(signs(100, 3, 0, 0.01, 0.8), -0.01, 3, 0.999, FEW),
    "triples, harm 2 %": Scenario(signs(100, 3, 0, 0.02, 0.8), -0.02, 3, 0.996, FEW),
    "four epochs, harm 2 %, half of them agreeing": Scenario(signs(100, 4, 0, 0.02, 0.6), -0.02, 4, 0.9998, FEW),
    "triples, harm 12 %, 7 % the other way": Scenario(signs(100, 3, 0.07, 0.12, 0.8), -0.05, 3, 0.954),
    "two orders, inconsistent judge, worse": Scenario(signs(80, 2, 0.3, 0.4, 0), -0.1, 2, 0.949),
}
ALL = NO_DIFFERENCE | DIFFERENCE


def drawn(scenario: Scenario, draws: int) -> Iterator[tuple[list[float], list[int]]]:
    rng = np.random.default_rng(20261101)
    for _ in range(draws):
        d = scenario.draw(rng).tolist()
        yield d, [i // scenario.each for i in range(len(d))]


def noise(p: float, draws: int = DRAWS) -> float:
    """Three Monte-Carlo standard errors of a share p."""
    return 3 * math.sqrt(p * (1 - p) / draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_coverage_and_errors_at_the_truth(name: str) -> None:
    # Tests at a margin include the score test: where the interval holds the truth they need not be asked.
    scenario = ALL[name]
    truth = scenario.truth
    missed = {"noninferiority": 0, "inferiority": 0, "tost": 0}
    covered = 0
    for d, clusters in drawn(scenario, DRAWS):
        found = difference(d, clusters)
        covered += found.low <= truth <= found.high
        if truth and found.low > truth:
            missed["noninferiority"] += noninferiority(d, clusters, -truth).p <= ALPHA
            missed["tost"] += tost(d, clusters, -truth).p <= ALPHA
        elif truth and found.high < truth:
            missed["inferiority"] += inferiority(d, clusters, -truth).p <= ALPHA
    assert covered / DRAWS == pytest.approx(scenario.found, abs=noise(0.95))
    assert covered / DRAWS >= LOW - noise(0.95)
    assert scenario.conservative or covered / DRAWS <= HIGH + noise(0.95)
    assert max(missed.values()) / DRAWS <= ALPHA + noise(ALPHA)


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_DIFFERENCE)
def test_errors_of_the_tests_against_no_difference(name: str, draws: int = 1500) -> None:
    false = {"permutation": 0, "wilcoxon": 0, "superiority": 0}
    for d, clusters in drawn(NO_DIFFERENCE[name], draws):
        false["permutation"] += permutation(d, clusters, resamples=999).p <= ALPHA
        false["wilcoxon"] += wilcoxon(d, clusters, "greater").p <= ALPHA
        if difference(d, clusters, alternative="greater").p <= ALPHA:
            false["superiority"] += superiority(d, clusters).p <= ALPHA
    if name == "small gains, large losses":
        # Wilcoxon's null hypothesis is symmetry: of these it says "better" in 89 %, though the mean is 0.
        assert false.pop("wilcoxon") / draws > 0.8
    assert max(false.values()) / draws <= ALPHA + noise(ALPHA, draws)
