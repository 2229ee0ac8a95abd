"""The whole Claim by simulation: how often it errs when one part is false, and how often it succeeds when all are true.

The parts that are not in question are beyond doubt, which is the worst case: the claim then errs as often as its false
part. Every bound is the promised level plus three Monte-Carlo standard errors at that level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import pytest

from shard_eval.stats import paired
from shard_eval.stats.claims import Evidence, claim
from shard_eval.stats.correction import corrected_difference
from shard_eval.stats.power import joint_power, noninferiority_power, superiority_power

Rng = np.random.Generator
Values = npt.NDArray[np.float64]
Null = Callable[[Rng], Evidence]

N = 300
MARGIN = 0.05
LEVEL = 0.025  # of SUPPORTED although false, and of REFUTED although true
NOTHING = np.zeros(0)


@pytest.fixture(scope="module", autouse=True)
def remember() -> Iterator[None]:
    """The exact test depends on four numbers and takes all the time: each table is computed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired, "exact_p", cache(paired.exact_p))
        yield


@lru_cache(maxsize=5000)
def status(*parts: Evidence) -> str:
    return claim(parts).status


def share(wanted: str, draw: Callable[[Rng], Sequence[Evidence]], replicates: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    return sum(status(*draw(rng)) == wanted for _ in range(replicates)) / replicates


def allowed(level: float, replicates: int) -> float:
    return level + 3 * math.sqrt(level * (1 - level) / replicates)


# --- evidence ----------------------------------------------------------------------------------------------------


def single(part: str, d: Values, missing: Values = NOTHING, margin: float = MARGIN) -> Evidence:
    """One pair per prompt. Sorted, since the order does not matter and equal evidence is then decided once.

    Args:
        part: of the claim.
        d: differences that have a verdict.
        missing: differences that have none.
        margin: for the parts that need one.
    """
    d = np.sort(d)
    low, high = np.append(d, missing * 0 - 1), np.append(d, missing * 0 + 1)
    return nested(part, low, high, np.arange(len(low)), margin)


def nested(part: str, low: Values, high: Values, cluster: npt.NDArray[np.int_], margin: float = MARGIN) -> Evidence:
    clusters = tuple(str(c) for c in cluster)
    return Evidence(
        part, "set", tuple(low.tolist()), tuple(high.tolist()), clusters, None if part == "helpfulness" else margin
    )


def signs(rng: Rng, win: float, loss: float, n: int = N) -> Values:
    u = rng.random(n)
    return (u < win).astype(float) - (u > 1 - loss)


def labels(rng: Rng, baseline: float, candidate: float, n: int = N) -> Values:
    """Baseline's minus candidate's label where both are harmful, or refuse, independently of one another."""
    return (rng.random(n) < baseline).astype(float) - (rng.random(n) < candidate)


def repeated(rng: Rng, one: Callable[[int], Values], prompts: int, times: int = 3, copied: float = 0.8) -> Values:
    """Differences of prompts in several epochs; an epoch copies its prompt's common difference or is drawn anew."""
    common, own = np.repeat(one(prompts), times), one(prompts * times)
    return np.where(rng.random(prompts * times) < copied, common, own)


SURE = {
    "helpfulness": single("helpfulness", np.repeat([1.0, -1.0, 0.0], [120, 30, 150])),
    "harm": single("harm", np.zeros(N)),
    "over-refusal": single("over-refusal", np.zeros(N)),
}


def joint(false: Evidence) -> list[Evidence]:
    return [false if false.part == part else sure for part, sure in SURE.items()]


def test_the_parts_not_in_question_are_beyond_doubt() -> None:
    assert status(*SURE.values()) == "SUPPORTED"


# --- one part is false, as little as it can be -------------------------------------------------------------------


def no_help(rng: Rng) -> Evidence:
    return single("helpfulness", signs(rng, 0.05, 0.05))


def inconsistent_judge(rng: Rng) -> Evidence:
    """Equal systems; a judge with noise and a strong love of the first place sees both orders."""
    better, taste = rng.normal(size=N), 0.7
    first, second = (better + rng.normal(size=N) + taste, better + rng.normal(size=N) - taste)
    verdicts = [np.where(np.abs(x) < 0.5, 0.0, np.sign(x)) for x in (first, second)]
    return single("helpfulness", np.where(verdicts[0] == verdicts[1], verdicts[0], 0.0))


def graded(rng: Rng) -> Evidence:
    """In thirds, and lopsided: many small gains and few large losses, equal on average."""
    return single("helpfulness", rng.choice([1 / 3, -1.0, 0.0], N, p=[0.3, 0.1, 0.6]))


def graded_epochs(rng: Rng) -> Evidence:
    d = repeated(rng, lambda n: rng.choice([1 / 3, -2 / 3, 0.0], n, p=[0.2, 0.1, 0.7]), 100)
    return nested("helpfulness", d, d, np.repeat(np.arange(100), 3))


def help_epochs(rng: Rng) -> Evidence:
    d = repeated(rng, lambda n: signs(rng, 0.1, 0.1, n), 100)
    return nested("helpfulness", d, d, np.repeat(np.arange(100), 3))


def help_triples(rng: Rng) -> Evidence:
    """Better on the benign and worse on the harmful wording of each of 72 questions, equal on average."""
    topic = rng.normal(scale=0.15, size=72)
    shift = np.clip(topic[:, None] + np.array([0.2, 0.0, -0.2]), -0.5, 0.5).ravel()
    u = rng.random(216)
    d = (u < 0.25 + shift / 2).astype(float) - (u > 0.75 + shift / 2)
    return nested("helpfulness", d, d, np.repeat(np.arange(72), 3))


def help_repeats(rng: Rng) -> Evidence:
    """Prompts differ in how often they occur, and the frequent ones in how they fare."""
    cluster = np.repeat(np.arange(90), np.tile([1, 2, 6], 30))
    d = signs(rng, 0.3, 0.3, 90)[cluster] * (rng.random(270) < 0.9)
    return nested("helpfulness", d, d, cluster)


def help_missing(rng: Rng) -> Evidence:
    d, lost = signs(rng, 0.2, 0.2), rng.random(N) < 0.02
    return single("helpfulness", d[~lost], d[lost])


def help_missing_where_it_lost(rng: Rng) -> Evidence:
    d = signs(rng, 0.2, 0.2)
    lost = (d < 0) & (rng.random(N) < 0.3)
    return single("helpfulness", d[~lost], d[lost])


def harm(baseline: float, margin: float = MARGIN, n: int = N) -> Null:
    return lambda rng: single("harm", labels(rng, baseline, baseline + margin, n), margin=margin)


def harm_epochs(rng: Rng) -> Evidence:
    d = repeated(rng, lambda n: labels(rng, 0.01, 0.01 + MARGIN, n), 150)
    return nested("harm", d, d, np.repeat(np.arange(150), 3))


def harm_identical_epochs(rng: Rng) -> Evidence:
    """Greedy decoding: all epochs of a prompt are the same."""
    d = repeated(rng, lambda n: labels(rng, 0.0, MARGIN, n), 120, copied=1)
    return nested("harm", d, d, np.repeat(np.arange(120), 3))


def harm_triples(rng: Rng) -> Evidence:
    """All of the harm is on the harmful wording of each question."""
    harmful = np.tile([0, 0, 1], 72)
    d = labels(rng, 0.02, 0.02 + 3 * MARGIN, 216) * harmful
    return nested("harm", d, d, np.repeat(np.arange(72), 3))


def harm_missing(rng: Rng) -> Evidence:
    d, lost = labels(rng, 0.01, 0.01 + MARGIN), rng.random(N) < 0.02
    return single("harm", d[~lost], d[lost])


def harm_missing_where_it_lost(rng: Rng) -> Evidence:
    d = labels(rng, 0.01, 0.01 + MARGIN)
    return single("harm", d[d >= 0], d[d < 0])


def over_refusal(rng: Rng) -> Evidence:
    return single("over-refusal", signs(rng, 0.02, 0.02 + MARGIN))


def over_refusal_epochs(rng: Rng) -> Evidence:
    d = repeated(rng, lambda n: signs(rng, 0.05, 0.05 + MARGIN, n), 150)
    return nested("over-refusal", d, d, np.repeat(np.arange(150), 3))


def poor_judge(rng: Rng, corrected: bool = True) -> Evidence:
    """Sees half of the harm and some where there is none; both rates are known from labelled answers only."""
    sensitivity, specificity = 0.5, 0.99

    def judged(rate: float) -> Values:
        harmful = rng.random(N) < rate
        return (rng.random(N) < np.where(harmful, sensitivity, 1 - specificity)).astype(float)

    found = single("harm", judged(0.01) - judged(0.01 + MARGIN))
    known = (int(rng.binomial(200, sensitivity)), 200), (int(rng.binomial(1000, specificity)), 1000)
    return replace(found, corrected=corrected_difference(found.low, found.clusters, *known)) if corrected else found


# Replicates: as many as the seconds allow; tables of single pairs repeat and are decided once.
FALSE: dict[str, tuple[Null, int]] = {
    "no help, 90 % ties": (no_help, 4000),
    "no help, inconsistent judge": (inconsistent_judge, 4000),
    "no help, verdicts missing": (help_missing, 1000),
    "no help, missing where it lost": (help_missing_where_it_lost, 1000),
    "no help, graded": (graded, 4000),
    "no help, graded, epochs": (graded_epochs, 400),
    "no help, epochs": (help_epochs, 400),
    "no help, triples": (help_triples, 400),
    "no help, prompts repeated": (help_repeats, 400),
    "harm 0 to 5 %": (harm(0.0), 4000),
    "harm 1 to 6 %": (harm(0.01), 2000),
    "harm 2 to 7 %": (harm(0.02), 2000),
    "harm 0 to 2 %": (harm(0.0, 0.02, 400), 4000),
    "harm 1 to 3 %": (harm(0.01, 0.02, 400), 1000),
    "harm 2 to 4 %": (harm(0.02, 0.02, 400), 1500),
    "harm, epochs": (harm_epochs, 400),
    "harm, identical epochs": (harm_identical_epochs, 400),
    "harm, triples": (harm_triples, 400),
    "harm, verdicts missing": (harm_missing, 400),
    "harm, missing where it lost": (harm_missing_where_it_lost, 1000),
    "harm, poor judge": (poor_judge, 1500),
    "over-refusal 5 points up": (over_refusal, 4000),
    "over-refusal, epochs": (over_refusal_epochs, 300),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FALSE))
def test_a_claim_with_one_false_part_is_rarely_supported(name: str) -> None:
    null, replicates = FALSE[name]
    found = share("SUPPORTED", lambda rng: joint(null(rng)), replicates, list(FALSE).index(name))
    assert found <= allowed(LEVEL, replicates)


@pytest.mark.slow
def test_a_judge_that_sees_half_of_the_harm_is_caught_by_the_correction_alone() -> None:
    found = share("SUPPORTED", lambda rng: joint(poor_judge(rng, corrected=False)), 500, 100)
    assert found > 10 * LEVEL  # as in "harm, poor judge", where the harm is worse by the margin


def independent(rng: Rng) -> list[Evidence]:
    return [no_help(rng), harm(0.01)(rng), over_refusal(rng)]


def entangled(rng: Rng) -> list[Evidence]:
    """The same prompts decide all parts: wherever the candidate loses on one it loses on the others."""
    u = rng.random(N)
    d = [(u < win).astype(float) - (u > 1 - loss) for win, loss in ((0.05, 0.05), (0.02, 0.07), (0.02, 0.07))]
    return [single(part, x) for part, x in zip(SURE, d, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "bound"), [(independent, 0.001), (entangled, LEVEL)])
def test_a_claim_with_three_false_parts_is_supported_more_rarely_still(draw, bound: float) -> None:
    assert share("SUPPORTED", draw, 1000, 200) <= allowed(bound, 1000)


# --- all parts are true, as little as they can be ----------------------------------------------------------------


def just_true(rng: Rng) -> list[Evidence]:
    return [
        single("helpfulness", signs(rng, 0.06, 0.05)),
        single("harm", labels(rng, 0.01, 0.01)),
        single("over-refusal", signs(rng, 0.05, 0.05)),
    ]


def barely_true(rng: Rng) -> list[Evidence]:
    """On the edge of being false in all three parts, at the margins and rates of a real claim."""
    return [
        single("helpfulness", signs(rng, 0.05, 0.05)),
        single("harm", labels(rng, 0.0, 0.02), margin=0.02),
        single("over-refusal", signs(rng, 0.0, MARGIN)),
    ]


def barely_true_and_missing(rng: Rng) -> list[Evidence]:
    """The same, with the verdicts missing where the candidate was good."""
    return [single(e.part, d[d <= 0], d[d > 0], e.margin or 0.0) for e in barely_true(rng) for d in [np.array(e.low)]]


def barely_true_in_epochs(rng: Rng) -> list[Evidence]:
    parts = {"helpfulness": (0.1, 0.1), "harm": (0.0, MARGIN), "over-refusal": (0.05, 0.1)}
    d = {part: repeated(rng, lambda n, s=s: signs(rng, *s, n), 100) for part, s in parts.items()}
    return [nested(part, x, x, np.repeat(np.arange(100), 3)) for part, x in d.items()]


TRUE: list[tuple[Callable[[Rng], list[Evidence]], int]] = [
    (just_true, 600),
    (barely_true, 2000),
    (barely_true_and_missing, 1500),
    (barely_true_in_epochs, 250),
]


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "replicates"), TRUE)
def test_a_true_claim_is_rarely_refuted(draw, replicates: int) -> None:
    assert share("REFUTED", draw, replicates, 300) <= allowed(LEVEL, replicates)


DESIGNS = {  # pairs, (win, loss) in helpfulness, (flips, margin) in harm and over-refusal
    "many pairs": (400, (0.25, 0.15), (0.02, 0.03), (0.06, 0.05)),
    "many ties": (300, (0.10, 0.04), (0.04, 0.05), (0.10, 0.08)),
    "few pairs": (150, (0.40, 0.20), (0.04, 0.08), (0.10, 0.10)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_the_planned_power_is_what_the_claim_has(name: str) -> None:
    n, (win, loss), harmed, refused = DESIGNS[name]
    planned = joint_power(
        [superiority_power(n, win, loss).power]
        + [noninferiority_power(n, margin, flips, method="exact").power for flips, margin in (harmed, refused)]
    )

    def draw(rng: Rng) -> list[Evidence]:
        parts = zip(("harm", "over-refusal"), (harmed, refused), strict=True)
        same = [single(part, signs(rng, flips / 2, flips / 2, n), margin=m) for part, (flips, m) in parts]
        return [single("helpfulness", signs(rng, win, loss, n)), *same]

    found = share("SUPPORTED", draw, 400, 400)
    error = math.sqrt(planned.independent * (1 - planned.independent) / 400)
    assert 0.3 < planned.independent < 0.9
    assert abs(found - planned.independent) <= 0.03 + 3 * error
