"""Scoring a base and four LoRA adapters: one process with one server, against five `shard score` one after another.

    python tests/benchmarks/family.py [--limit 12] [--tokens 32]

The embedded model answers prompts of `mini`, judged by the rules. The adapters are random. Both ways are
timed from the start of the interpreter, use no cache of answers, and find the adapters converted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_lora import adapter

from shard_eval import engine, score
from shard_eval.systems import Decoding, resolve

ADAPTERS = 4


def score_all(root: str, arms: list[str], limit: int, tokens: int) -> None:
    """Score the base and the adapters in this process."""
    engine.announce("embedded", arms)
    for arm in (None, *arms):
        system = resolve("embedded", adapter=arm, decoding=Decoding(max_tokens=tokens))
        (plan,) = score.plans(system, ["mini"], score.Judging("rules"), limit=limit)
        score.run(plan, root, Console(quiet=True), cache=False)


def seconds(commands: list[list[str]]) -> float:
    """Time of commands one after another."""
    start = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print; with --arms, be the one process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--root", default="")
    parser.add_argument("--arms", nargs="*", default=[])
    given = parser.parse_args()
    if given.arms:
        return score_all(given.root, given.arms, given.limit, given.tokens)
    with tempfile.TemporaryDirectory() as root:
        arms = [str(adapter(Path(root) / f"arm{i}", seed=i)) for i in range(ADAPTERS)]
        for arm in arms:
            resolve("embedded", adapter=arm)
        single = [
            "shard",
            "score",
            "embedded",
            "-j",
            "rules",
            "--no-cache",
            "--limit",
            str(given.limit),
            "--log-dir",
            f"{root}/apart",
        ]
        single += ["--max-tokens", str(given.tokens)]
        apart = seconds([single, *([*single, "--adapter", arm] for arm in arms)])
        family = [sys.executable, __file__, "--limit", str(given.limit), "--tokens", str(given.tokens)]
        together = seconds([[*family, "--root", f"{root}/together", "--arms", *arms]])
    print(
        f"base + {ADAPTERS} adapters, {given.limit} prompts of at most {given.tokens} tokens: "
        f"one process {together:.1f} s, {ADAPTERS + 1} processes {apart:.1f} s, ratio {apart / together:.2f}"
    )


if __name__ == "__main__":
    main()
