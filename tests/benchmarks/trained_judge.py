"""A trained judge's speed and memory: responses of 150 tokens, side by side, against one at a time.

python tests/benchmarks/trained_judge.py FOLDER [RESPONSES]
"""

from __future__ import annotations

import resource
import sys
import time

from shard_eval.judges.trained import load

WORDS = ("the", "gate", "was", "painted", "green", "by", "my", "aunt", "who", "also", "keeps", "bees", "and", "honey")


def response(number: int) -> str:
    """A response of 150 words that are a token each."""
    return " ".join(WORDS[(number + i) % len(WORDS)] for i in range(150))


def main(folder: str, number: int) -> None:
    """Measure and print."""
    judge = load(folder)
    pairs = [("What did your aunt do with the gate?", response(i)) for i in range(number)]
    judge.read(pairs[:4])  # loads the model
    start = time.perf_counter()
    judge.read(pairs)
    together = time.perf_counter() - start
    start = time.perf_counter()
    for pair in pairs:
        judge.read([pair])
    alone = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{number} responses of 150 tokens: {number / together:.1f} a second, {number / alone:.1f} one by one")
    print(f"ratio {alone / together:.2f}; peak memory of the process {peak:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 256)
