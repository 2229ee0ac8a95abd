"""All pairs of 50 systems on 939 prompts, 10,000 resamples: our cluster bootstrap against SciPy's, pair by pair.

python tests/benchmarks/bootstrap.py [--pairs 10]

SciPy gives the percentile interval of each pair; ours gives that, the joint intervals and the adjusted p-values. Some
pairs are timed with SciPy, in turn with ours, so that a busy machine slows both, and scaled up to all of them.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import numpy.typing as npt
from scipy import stats

from shard_eval.stats.resampling import cluster_weights, differences

SYSTEMS, PROMPTS, RESAMPLES = 50, 939, 10_000
PAIRS = SYSTEMS * (SYSTEMS - 1) // 2


def ours(values: npt.NDArray[np.float64], seed: int) -> float:
    """Seconds for everything: the weights and all pairs."""
    start = time.perf_counter()
    differences(values, cluster_weights(range(PROMPTS), resamples=RESAMPLES, seed=seed))
    return time.perf_counter() - start


def scipys(values: npt.NDArray[np.float64], pair: int) -> float:
    """Seconds for one pair with SciPy."""
    first, second = np.triu_indices(SYSTEMS, 1)
    d = values[:, first[pair]] - values[:, second[pair]]
    start = time.perf_counter()
    stats.bootstrap((d,), np.mean, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=pair)
    return time.perf_counter() - start


def peak() -> int:
    """Peak memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Speed of the bootstrap.")
    parser.add_argument("--pairs", type=int, default=10, help="pairs to time with SciPy")
    sampled = parser.parse_args().pairs
    values = (np.random.default_rng(0).random((PROMPTS, SYSTEMS)) < 0.3).astype(float)
    before = peak()
    ours(values, 0)
    memory = peak()  # before SciPy takes its own
    times = np.array([(ours(values, pair), scipys(values, pair)) for pair in range(sampled)])
    seconds, each = np.median(times, axis=0)
    print(f"{SYSTEMS} systems, {PROMPTS} prompts, {PAIRS} pairs, {RESAMPLES} resamples; medians of {sampled} runs")
    print(f"ours: {seconds:.2f} s for all pairs, peak {memory} MB, {before} MB of them imports and data")
    print(f"scipy.stats.bootstrap: {each:.3f} s for one pair, scaled up to {PAIRS * each:.0f} s for all")
    print(f"ratio: {PAIRS * each / seconds:.0f}")


if __name__ == "__main__":
    main()
