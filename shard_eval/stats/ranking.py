"""Rankings that say how sure they are: ratings from preferences with ties, ranges of ranks, and letters."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.errors import UsageError
from shard_eval.stats.resampling import ClusterBootstrap, Differences, centred, max_t, unbiased

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

STEPS = 100  # Newton steps; a handful is enough if there is a maximum
LEAP = 5.0  # furthest that a parameter goes in one step: a factor of 150 in the odds
STEP_SIZE = 1e-9  # largest change of a parameter at which the maximum counts as found


# --- Bradley-Terry with ties -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ratings:
    """Strengths of k systems by Davidson's model; arrays of length k.

    P(i preferred) : P(j preferred) : P(tie) = exp(r_i) : exp(r_j) : nu · exp((r_i + r_j) / 2).

    Attributes:
        systems: names, sorted.
        ratings: r, natural logarithms, which add up to 0.
        errors: standard errors.
        low: lower bounds of the simultaneous intervals: all k hold at once at `level`; likewise high.
        nu: readiness to call a tie; 0 without ties.
        n: number of comparisons.
        clusters: number of independent clusters among them.
        level: confidence level of the intervals together.
        resamples: number of resamples.
        seed: seed of the resamples.
    """

    systems: tuple[str, ...]
    ratings: Floats
    errors: Floats
    low: Floats
    high: Floats
    nu: float
    n: int
    clusters: int
    level: float
    resamples: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Games:
    """Checked comparisons: names of the k systems, and for each of n comparisons both systems and the result."""

    names: tuple[str, ...]
    first: Indices
    second: Indices
    outcomes: Floats

    def table(self, outcome: int) -> Floats:
        """How often each row met each column with this outcome."""
        k = len(self.names)
        chosen = self.outcomes == outcome
        cells = self.first[chosen] * k + self.second[chosen]
        return np.bincount(cells, minlength=k * k).reshape(k, k).astype(float)


def bradley_terry(
    first: Sequence[str],
    second: Sequence[str],
    outcomes: Sequence[int],
    boot: ClusterBootstrap,
    level: float = 0.95,
) -> Ratings:
    """Rate systems by the preferences between them.

    The intervals resample clusters. A resample is not fitted anew but taken one Newton step from the fit: inverse
    information times the weighted sum of the scores (estimating function bootstrap). That agrees with refitting to
    first order, and exists even where the resample by itself could not be fitted.

    Args:
        first: n names, the one system of each comparison.
        second: n names, the other.
        outcomes: n results: 1 if the first is preferred, -1 if the second, 0 for a tie.
        boot: resamples of the clusters (prompts) that the n comparisons belong to.
        level: confidence level of the intervals together.

    Raises:
        UsageError: if lengths differ, an outcome is unknown, a system meets itself, there is no maximum likelihood
            estimate (see `davidson`), or level and number of resamples do not go together.

    Source: Hu and Kalbfleisch 2000, Can. J. Stat. 28:449-481; joint intervals by `shard_eval.stats.resampling.max_t`.
    """
    games = _games(first, second, outcomes, boot)
    k = len(games.names)
    reverse, ties = games.table(-1), games.table(0)
    wins, ties = games.table(1) + reverse.T, ties + ties.T
    ratings, nu = davidson(wins, ties, games.names)
    information = _information(wins + wins.T + ties, ratings, nu)
    scores = unbiased(centred(_cluster_scores(games, boot, ratings, nu), boot), boot)
    steps = np.linalg.solve(information, scores.T)[:k]
    draws = np.matmul(steps.astype(np.float32), boot.weights.T)
    draws = np.vstack([draws, np.zeros_like(draws[:1])])  # ratings are compared with 0, which has no error
    errors = draws[:k].std(axis=1, ddof=1, dtype=float)
    critical, _ = max_t(draws, np.arange(k), np.full(k, k), ratings, errors, boot.df, level)
    return Ratings(
        systems=games.names,
        ratings=ratings,
        errors=errors,
        low=ratings - critical * errors,
        high=ratings + critical * errors,
        nu=nu,
        n=len(outcomes),
        clusters=boot.clusters,
        level=level,
        resamples=boot.resamples,
        seed=boot.seed,
    )


def _games(first: Sequence[str], second: Sequence[str], outcomes: Sequence[int], boot: ClusterBootstrap) -> _Games:
    """Check and number the comparisons."""
    n = boot.cluster.size
    if not len(first) == len(second) == len(outcomes) == n:
        raise UsageError(
            f"{len(first)} first systems, {len(second)} second systems, {len(outcomes)} outcomes and {n} cluster "
            "labels; give one of each per comparison"
        )
    strange = [outcome for outcome in outcomes if outcome not in (-1, 0, 1)]
    if strange:
        raise UsageError(f"unknown outcome {strange[0]!r}; use 1 (first preferred), -1 (second) or 0 (tie)")
    names, number = np.unique([*first, *second], return_inverse=True)
    i, j = number[:n], number[n:]
    if (i == j).any():
        raise UsageError(f"{names[i[(i == j).argmax()]]} is compared with itself; leave that comparison out")
    return _Games(tuple(str(name) for name in names), i, j, np.asarray(outcomes, dtype=float))


def davidson(wins: Floats, ties: Floats, names: Sequence[str]) -> tuple[Floats, float]:
    """Fit Davidson's model by maximum likelihood, with Newton's method.

    Args:
        wins: k × k, how often the row was preferred to the column.
        ties: k × k, how often row and column tied; symmetric.
        names: the k systems, for messages.

    Returns:
        The k log ratings, which add up to 0, and nu. Without ties this is the Bradley-Terry model and nu is 0.

    Raises:
        UsageError: if there is no maximum: some systems were never preferred to the others or tied with them (Ford
            1957, Am. Math. Monthly 64:28), or nothing bounds nu; or if it is not found.

    Source: Davidson 1970, JASA 65:317-328.
    """
    _check_connected(wins + ties > 0, names)
    if ties.any():
        _check_tie_parameter(wins, ties)
    k = len(wins)
    met = wins + wins.T + ties
    parameters = np.zeros(k + 1)
    parameters[k] = 0.0 if ties.any() else -math.inf  # log nu
    for _ in range(STEPS):
        ratings, nu = parameters[:k], math.exp(parameters[k])
        step = np.linalg.solve(_information(met, ratings, nu), _gradient(wins, ties, ratings, nu))
        step *= LEAP / np.abs(step).max(initial=LEAP)
        if np.abs(step).max() < STEP_SIZE:
            return ratings - ratings.mean(), nu
        before = _log_likelihood(wins, ties, parameters)
        # Far from the maximum a full step can overshoot. The slack lets the last, tiny steps pass.
        while _log_likelihood(wins, ties, parameters + step) < before - 1e-12 * abs(before):
            step /= 2
        parameters = parameters + step
    raise UsageError(f"the ratings of {', '.join(names)} did not converge in {STEPS} steps; compare them more often")


def _chances(difference: Floats, nu: float) -> tuple[Floats, Floats]:
    """Chance that the first is preferred, and chance of a tie, for a difference of log ratings."""
    first = special.expit(difference)
    # Dividing by the sum of the strengths keeps every term finite.
    tie = nu * np.sqrt(first * special.expit(-difference))
    return first / (1 + tie), tie / (1 + tie)


def _log_likelihood(wins: Floats, ties: Floats, parameters: Floats) -> float:
    """Log likelihood, less a constant; `ties` holds every tie twice."""
    first, tie = _chances(np.subtract.outer(parameters[:-1], parameters[:-1]), math.exp(parameters[-1]))
    return float((special.xlogy(wins, first) + special.xlogy(ties, tie) / 2).sum())


def _gradient(wins: Floats, ties: Floats, ratings: Floats, nu: float) -> Floats:
    """Derivatives of the log likelihood by the k ratings and by log nu: points and ties, less those expected."""
    first, tie = _chances(np.subtract.outer(ratings, ratings), nu)
    met = wins + wins.T + ties
    points = wins + ties / 2 - met * (first + tie / 2)
    return np.append(points.sum(axis=1), (ties - met * tie).sum() / 2)


def _information(met: Floats, ratings: Floats, nu: float) -> Floats:
    """Fisher information on the k ratings and log nu, made invertible where it knows nothing.

    It does not know the level of the ratings, nor nu without ties; the numbers filled in there leave both as they are.
    """
    k = len(ratings)
    first, tie = _chances(np.subtract.outer(ratings, ratings), nu)
    points = first + tie / 2
    spread = met * (first + tie / 4 - points**2)
    with_tie = met * (tie / 2 - points * tie)
    information = np.empty((k + 1, k + 1))
    information[:k, :k] = np.diag(spread.sum(axis=1)) - spread + 1
    information[:k, k] = information[k, :k] = with_tie.sum(axis=1)
    information[k, k] = (met * tie * (1 - tie)).sum() / 2 or 1.0
    return information


def _cluster_scores(games: _Games, boot: ClusterBootstrap, ratings: Floats, nu: float) -> Floats:
    """Gradient of each cluster's comparisons, clusters × (k + 1)."""
    width = len(ratings) + 1
    first, tie = _chances(ratings[games.first] - ratings[games.second], nu)
    points = (1 + games.outcomes) / 2 - (first + tie / 2)
    tied = (games.outcomes == 0) - tie
    row = boot.cluster * width
    cells = np.concatenate([row + games.first, row + games.second, row + width - 1])
    values: Floats = np.concatenate([points, -points, tied])
    sums = np.bincount(cells, weights=values, minlength=boot.clusters * width)
    return sums.reshape(boot.clusters, width).astype(float)


def _check_connected(beats: Flags, names: Sequence[str]) -> None:
    """Refuse systems of which some lost every comparison with the rest, or had none: their ratings are not finite."""
    reach = beats | np.eye(len(beats), dtype=bool)
    for _ in range(len(beats).bit_length()):
        reach = reach @ reach
    for row in reach:
        if not row.all():
            below = ", ".join(name for name, inside in zip(names, row, strict=True) if inside)
            above = ", ".join(name for name, inside in zip(names, row, strict=True) if not inside)
            raise UsageError(
                f"no comparison of {below} with {above} was won or tied by the former, so their ratings have no finite "
                "estimate; compare them more often, or rate them apart"
            )


def _check_tie_parameter(wins: Floats, ties: Floats) -> None:
    """Refuse ties that any larger nu would explain even better.

    The likelihood never falls along ratings u and log nu = 1 if every win is by at least 2 and every tie by at most 2
    in u. Such u exist unless a cycle holds more wins than ties (difference constraints; Bellman 1958, Q. Appl. Math.
    16:87), as two systems that beat each other do.
    """
    cost = np.where(wins > 0, -1.0, np.where(ties > 0, 1.0, np.inf))
    distance = np.zeros(len(wins))
    for _ in range(len(wins)):
        shorter = np.minimum(distance, (distance[:, None] + cost).min(axis=0))
        if (shorter == distance).all():
            raise UsageError(
                "the wins all point one way, so the ties have no finite estimate; compare on more prompts, or count a "
                "tie as half a win for each side"
            )
        distance = shorter


# --- ranks and letters -------------------------------------------------------------------------------------------


def significantly_better(found: Differences) -> Flags:
    """Which system's joint interval puts it above which: k × k, True where the row is better than the column.

    Args:
        found: differences of all pairs, higher is better.

    Raises:
        UsageError: if they are differences from one reference.
    """
    k = found.systems
    if found.first.size != k * (k - 1) // 2:
        raise UsageError(f"a ranking of {k} systems needs all pairs, got {found.first.size}; leave out the reference")
    better = np.zeros((k, k), dtype=bool)
    better[found.first, found.second] = found.joint_low > 0
    better[found.second, found.first] = found.joint_high < 0
    return better


def rank_intervals(found: Differences) -> tuple[Indices, Indices]:
    """The ranks that each system may have, all of them right at once at the level of the joint intervals.

    Args:
        found: differences of all pairs of k systems, higher is better.

    Returns:
        k best and k worst ranks, from 1 (best) to k: one more than the systems significantly better, and all but those
        significantly worse.

    Raises:
        UsageError: if they are differences from one reference.

    Source: Mogstad, Romano, Shaikh and Wilhelm 2024, Rev. Econ. Stud. 91:476-518.
    """
    better = significantly_better(found)
    return 1 + better.sum(axis=0), found.systems - better.sum(axis=1)


def group_letters(different: Flags) -> tuple[str, ...]:
    """Letters such that two systems share one if and only if they do not differ significantly.

    Args:
        different: k × k, True where two systems differ significantly; symmetric. `significantly_better` gives it as
            better | better.T. Sorting the systems by estimate first makes the letters run from the best.

    Returns:
        For each system its letters; after Z follow .a, .b and so on.

    Raises:
        UsageError: if the table is not square, symmetric and False on its diagonal.

    Source: Piepho 2004, J. Comput. Graph. Stat. 13:456-466, insert and absorb (without sweeping).
    """
    table = np.asarray(different)
    if table.ndim != 2 or table.dtype != bool or not np.array_equal(table, table.T) or table.diagonal().any():
        raise UsageError("letters need a symmetric table of True and False that is False on its diagonal")
    groups = {frozenset(range(len(table)))}
    for i, j in np.argwhere(np.triu(table)).tolist():
        both = {group for group in groups if i in group and j in group}
        split = {group - {member} for group in both for member in (i, j)}
        groups -= both
        groups |= {new for new in split if not any(new < other for other in split | groups)}
    letters = [""] * len(table)
    for number, group in enumerate(sorted(groups, key=sorted)):
        dots, letter = divmod(number, len(string.ascii_letters))
        for member in group:
            letters[member] += "." * dots + string.ascii_letters[letter]
    return tuple(letters)
