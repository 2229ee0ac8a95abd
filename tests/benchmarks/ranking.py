"""Are ranks and simultaneous intervals linear in the number of systems? Processor time on 939 prompts.

python tests/benchmarks/ranking.py
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from shard_eval.stats.ranking import rank
from shard_eval.stats.simultaneous import simultaneous

PROMPTS = 939
SIZES = (10, 100, 1000)


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Least processor seconds of three runs, and the peak memory of one in MB."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak / 1e6


def main() -> None:
    """Print a line per size."""
    rng = np.random.default_rng(0)
    clusters = [str(i) for i in range(PROMPTS)]
    rates = (rng.random((PROMPTS, SIZES[-1])) < np.linspace(0.05, 0.95, SIZES[-1])).astype(float)
    scores = rng.random((PROMPTS, SIZES[-1])) - rng.random((PROMPTS, SIZES[-1]))
    for name, work in (
        ("rank (range)", lambda k: rank(rates[:, :: SIZES[-1] // k], clusters, pairwise=0)),
        ("simultaneous", lambda k: simultaneous(scores[:, :k], clusters)),
    ):
        last = 0.0
        for k in SIZES:
            seconds, peak = measure(lambda k=k, work=work: work(k))  # type: ignore[misc]
            growth = f", {seconds / last:.1f} x" if last else ""
            print(f"{name}: {k} systems {seconds:.2f} s{growth}, {peak:.0f} MB")
            last = seconds


if __name__ == "__main__":
    main()
