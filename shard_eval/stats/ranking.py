"""Rankings that say how sure they are: ratings from preferences with ties, ranges of ranks, and letters.

found = rank(1 - harm, clusters)  # n prompts × k systems, higher is better, NaN where a verdict is missing
found.order, found.best, found.worst, found.letters
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from shard_eval.errors import UsageError
from shard_eval.stats.claims import MIN_CLUSTERS
from shard_eval.stats.resampling import ClusterBootstrap, Differences, centred, cluster_weights, max_t, unbiased
from shard_eval.stats.simultaneous import RESAMPLES, residual_means, simultaneous

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

STEPS = 100  # Newton steps; a handful is enough if there is a maximum
LEAP = 5.0  # furthest that a parameter goes in one step: a factor of 150 in the odds
STEP_SIZE = 1e-9  # largest change of a parameter at which the maximum counts as found
PAIRWISE = 40  # up to so many systems every pair gets its own interval: 780 of them
BLOCK = 64  # systems whose resamples are held at a time
DECIMALS = 12  # means that differ by less differ by rounding


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
        For each system its letters; after Z follow .a, .b and so on. If there are that many, three or more neighbouring
        letters are written first-last, as in a-f.

    Raises:
        UsageError: if the table is not square, symmetric and False on its diagonal.

    Source: Piepho 2004, J. Comput. Graph. Stat. 13:456-466, insert and absorb (without sweeping).
    """
    table = np.asarray(different)
    if table.ndim != 2 or table.dtype != bool or not np.array_equal(table, table.T) or table.diagonal().any():
        raise UsageError("letters need a symmetric table of True and False that is False on its diagonal")
    return _letters(_cliques(table), len(table))


def _cliques(different: Flags) -> list[list[int]]:
    """The largest groups of systems that do not differ, in the order of their members."""
    groups = {frozenset(range(len(different)))}
    for i, j in np.argwhere(np.triu(different)).tolist():
        both = {group for group in groups if i in group and j in group}
        split = {group - {member} for group in both for member in (i, j)}
        groups -= both
        groups |= {new for new in split if not any(new < other for other in split | groups)}
    return sorted(sorted(group) for group in groups)


def _letters(groups: Sequence[Sequence[int]], k: int) -> tuple[str, ...]:
    """For each of k systems the letters of the groups that it is in."""
    mine: list[list[int]] = [[] for _ in range(k)]
    for number, group in enumerate(groups):
        for member in group:
            mine[member].append(number)
    if len(groups) <= len(string.ascii_letters):
        return tuple("".join(map(_letter, numbers)) for numbers in mine)
    return tuple("".join(map(_run, _runs(numbers))) for numbers in mine)


def _letter(number: int) -> str:
    dots, letter = divmod(number, len(string.ascii_letters))
    return "." * dots + string.ascii_letters[letter]


def _runs(numbers: Sequence[int]) -> list[Sequence[int]]:
    """Cut rising numbers into runs without gaps."""
    cuts = [0, *(i for i in range(1, len(numbers)) if numbers[i] > numbers[i - 1] + 1), len(numbers)]
    return [numbers[a:b] for a, b in itertools.pairwise(cuts)]


def _run(numbers: Sequence[int]) -> str:
    """Letters of neighbouring groups; more than two as first-last."""
    return "-".join(map(_letter, [numbers[0], numbers[-1]])) if len(numbers) > 2 else "".join(map(_letter, numbers))


# --- a board -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranking:
    """Systems in order, with the ranks they may have and the groups that cannot be told apart.

    Attributes:
        order: columns, best first; ties by column number.
        best: best rank that each column may have, from 1; all ranges of ranks are right at once at `level`.
        worst: worst rank of each column.
        letters: of each column; two share one if and only if they do not differ significantly (see `group_letters`).
        bars: per letter, from a on, the first and last position in `order` of the systems that have it.
        skips: per letter the positions between these two that do not have it.
        critical: the least difference of two means that is significant, where one number serves all pairs; else None.
        method: how it was decided, in words.
        level: confidence level of the whole.
        resamples: number of resamples.
        seed: seed of the resamples.
        clusters: number of independent clusters.
    """

    order: tuple[int, ...]
    best: tuple[int, ...]
    worst: tuple[int, ...]
    letters: tuple[str, ...]
    bars: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, ...], ...]
    critical: float | None
    method: str
    level: float
    resamples: int
    seed: int
    clusters: int


@dataclass(frozen=True, eq=False)
class _Verdict:
    """What was found of k systems: their ranks, the groups that nothing divides, and how."""

    best: Indices
    worst: Indices
    groups: list[list[int]]
    critical: float | None
    method: str


def rank(
    values: npt.ArrayLike,
    clusters: Sequence[str],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    pairwise: int = PAIRWISE,
) -> Ranking:
    """Rank k systems by their means on the same prompts, and say what of it is sure.

    Up to `pairwise` systems every pair is compared on the prompts that both have, by `simultaneous` intervals. Above,
    one critical difference serves all pairs: the quantile of the range of the resampled means (`_critical`), in time
    linear in k; there each mean is over the prompts that its system has, so prompts that are missing because they are
    hard make a system look better. Systems or pairs with fewer than `claims.MIN_CLUSTERS` clusters are not told apart
    from any other.

    Args:
        values: n × k, one column for each system, higher is better; between 0 and 1, or -1 and 0 for what is bad. NaN
            where there is none.
        clusters: n labels; rows that share one are not independent.
        level: confidence level: with this probability no two systems are divided wrongly.
        resamples: of the clusters.
        seed: of the draws.
        pairwise: how many systems at most are compared pair by pair.

    Raises:
        UsageError: if values are not such a table, a column is empty, labels are missing, or level and number of
            resamples do not go together.

    Source: ranks: Mogstad, Romano, Shaikh and Wilhelm 2024, Rev. Econ. Stud. 91:476-518. Range: Tukey 1953, The Problem
    of Multiple Comparisons, resampled as in Westfall and Young 1993, Resampling-Based Multiple Testing.
    """
    table = _checked(values, clusters)
    known = ~np.isnan(table)
    means = np.round(np.where(known, table, 0.0).sum(axis=0) / known.sum(axis=0), DECIMALS)
    order = np.argsort(-means, kind="stable")
    ranked, k = table[:, order], order.size
    decide = _by_pairs if k <= pairwise else _by_range
    found = decide(ranked, means[order], clusters, level, resamples, seed) if k > 1 else _alone()
    position = np.empty_like(order)
    position[order] = np.arange(k)
    letters = _letters(found.groups, k)
    return Ranking(
        order=tuple(order.tolist()),
        best=tuple(found.best[position].tolist()),
        worst=tuple(found.worst[position].tolist()),
        letters=tuple(letters[p] for p in position),
        bars=tuple((group[0], group[-1]) for group in found.groups),
        skips=tuple(tuple(sorted({*range(group[0], group[-1])} - {*group})) for group in found.groups),
        critical=found.critical,
        method=found.method,
        level=level,
        resamples=resamples,
        seed=seed,
        clusters=len(set(clusters)),
    )


def _checked(values: npt.ArrayLike, clusters: Sequence[str]) -> Floats:
    """The values as an n × k array whose columns can be compared."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or table.size == 0 or len(table) != len(clusters):
        raise UsageError(
            f"a ranking needs a table of rows × systems and a cluster label per row, got shape {table.shape} and "
            f"{len(clusters)} labels"
        )
    empty = np.isnan(table).all(axis=0)
    if empty.any():
        raise UsageError(f"column {int(empty.argmax())} has no value at all; leave that system out of the ranking")
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    if not -1 <= low <= high <= 1 or high - low > 1:
        raise UsageError(f"values must be between 0 and 1, or -1 and 0 for what is bad, got {low} to {high}")
    return table


def _alone() -> _Verdict:
    return _Verdict(np.array([1]), np.array([1]), [], None, "one system")


def _undivided(k: int, method: str) -> _Verdict:
    """Nothing is significant: one group."""
    return _Verdict(np.ones(k, dtype=np.intp), np.full(k, k), [list(range(k))], None, method)


def _clusters_of(known: Flags, clusters: Sequence[str]) -> Indices:
    """In how many clusters each column has a value."""
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    rows = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[rows], np.arange(cluster.max() + 1))
    counts: Indices = np.logical_or.reduceat(known[rows], starts, axis=0).sum(axis=0)
    return counts


def _by_pairs(
    table: Floats, means: Floats, clusters: Sequence[str], level: float, resamples: int, seed: int
) -> _Verdict:
    """Decide each pair by its own simultaneous interval; the columns are in the order of their means."""
    k = means.size
    first, second = np.triu_indices(k, 1)
    d = table[:, first] - table[:, second]
    tested = _clusters_of(~np.isnan(d), clusters) >= MIN_CLUSTERS
    if not tested.any():
        return _undivided(k, f"no two systems share {MIN_CLUSTERS} independent prompts, so nothing is told apart")
    low, high = simultaneous(d[:, tested], clusters, level, resamples, seed, cautious=True)
    first, second = first[tested], second[tested]
    better = np.zeros((k, k), dtype=bool)
    better[first, second] = low > 0
    better[second, first] = high < 0
    pairs = "one pair" if tested.sum() == 1 else f"{tested.sum()} pairs"
    method = f"max-T over {pairs}, one prompt won and one lost added, none narrower than its score interval"
    if not tested.all():
        method += f"; {(~tested).sum()} pairs share fewer than {MIN_CLUSTERS} independent prompts, not told apart"
    return _Verdict(1 + better.sum(axis=0), k - better.sum(axis=1), _cliques(better | better.T), None, method)


def _by_range(
    table: Floats, means: Floats, clusters: Sequence[str], level: float, resamples: int, seed: int
) -> _Verdict:
    """Decide all pairs by one critical difference; the columns are in the order of their means."""
    k = means.size
    tested = _clusters_of(~np.isnan(table), clusters) >= MIN_CLUSTERS
    if tested.sum() < 2:
        return _undivided(k, f"no two systems have {MIN_CLUSTERS} independent prompts, so nothing is told apart")
    boot = cluster_weights(clusters, resamples=resamples, seed=seed)
    _, residuals, scored = residual_means(table[:, tested], boot)
    critical = _critical(residuals, scored, boot, level)
    positions, rest = np.flatnonzero(tested), np.flatnonzero(~tested).tolist()
    # Of each system the last one that it is not better than; so the first one that is not better than it.
    last = np.searchsorted(-means[tested], -means[tested] + critical, side="right") - 1
    first = np.searchsorted(last, np.arange(last.size))
    best, worst = np.ones(k, dtype=np.intp), np.full(k, k)
    best[tested] += first
    worst[tested] -= last.size - 1 - last
    starts = np.flatnonzero(np.diff(last, prepend=-1))
    groups = sorted(sorted([*positions[i : last[i] + 1].tolist(), *rest]) for i in starts)
    method = f"one critical difference: range of {last.size} resampled means, one prompt won and one lost added"
    if rest:
        method += f"; {len(rest)} systems have fewer than {MIN_CLUSTERS} independent prompts, not told apart"
    return _Verdict(best, worst, groups, critical, method)


def _critical(residuals: Floats, scored: Indices, boot: ClusterBootstrap, level: float) -> float:
    """The difference of two means that none of the pairs of equal systems exceeds, with probability `level`.

    That is the quantile of the largest less the smallest deviation of a resample. Systems on which nothing happens
    have no spread, so to each deviation noise is added as of one prompt: the variance of each pair grows by 2 / G^2, as
    if one prompt more had been won and one lost (in the spirit of Agresti and Min 2005, Stat. Med. 24:729). With two
    systems 5 : 0 is then no difference and 6 : 0 is one, as by the exact sign test. The number is widened as Student's
    quantile is against the normal one, at its distance in standard errors.

    Args:
        residuals: clusters × k, as `residual_means` gives them.
        scored: number of clusters of each system.
        boot: resamples.
        level: confidence level.
    """
    place = math.ceil(round((boot.resamples + 1) * level, 9)) - 1
    if not 0 < level < 1 or place >= boot.resamples:
        raise UsageError(f"{boot.resamples} resamples and level {level} do not go together; use 0.95 and 10,000")
    largest = np.full(boot.resamples, -np.inf)
    smallest = -largest
    weights = boot.weights.T.astype(float)  # double precision, as in `simultaneous`
    rng = np.random.default_rng([boot.seed, 1])
    # Which system gets which noise must not depend on the order of the columns.
    contents = np.ascontiguousarray(np.round(residuals, DECIMALS).T) + 0.0
    canonical = sorted(range(len(contents)), key=lambda i: contents[i].tobytes())
    for start in range(0, len(canonical), BLOCK):
        block = canonical[start : start + BLOCK]
        drawn = np.matmul(residuals[:, block].T, weights)
        drawn += rng.standard_normal(drawn.shape, dtype=np.float32) / scored[block, None]
        np.maximum(largest, drawn.max(axis=0), out=largest)
        np.minimum(smallest, drawn.min(axis=0), out=smallest)
    quantile = float(np.partition(largest - smallest, place)[place])
    # What all systems have in common leaves every difference.
    own = ((residuals - residuals.mean(axis=1, keepdims=True)) ** 2).sum(axis=0) + 1 / scored**2
    z = max(quantile / math.sqrt(2 * own.max()), -float(special.ndtri((1 - level) / 2)))
    student = -float(special.stdtrit(float(scored.min() - 1), float(special.ndtr(-z))))
    return quantile * student / z
