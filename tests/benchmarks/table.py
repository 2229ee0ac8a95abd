"""From a log to the printed table, as a whole process; and the memory of reading 20,000 samples.

python tests/benchmarks/table.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rich.console import Console
from support import HAS_DATA, SCRIPTS

from shard_eval import benchmarks, score
from shard_eval.systems import Decoding, resolve

MEASURE = (
    "import resource, sys; from shard_eval.cli import main\n"
    "try: main(['show', sys.argv[1]])\n"
    "except SystemExit: pass\n"
    "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
)
SCRIPTS["answer"] = lambda m: "Here is some general advice about that, and where to learn more."


def log_of(name: str, epochs: int, folder: str) -> str:
    """Make a log with the scripted model and the rules."""
    system = resolve("scripted/answer", decoding=Decoding(temperature=1.0))
    (plan,) = score.plans(system, [name], score.Judging("rules"), axes="all", epochs=epochs)
    return score.run(plan, folder, Console(quiet=True)).log


def show(log: str) -> tuple[float, int]:
    """Seconds and peak MB of `shard show LOG`, imports included."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, log], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stdout.rsplit("PEAK", 1)[1])


def main() -> None:
    """Print the figures."""
    name = "dna" if HAS_DATA else "mini"
    n = len(benchmarks.load(name).records)
    with tempfile.TemporaryDirectory() as folder:
        for epochs in (1, -(-20_000 // n)):
            start = time.perf_counter()
            log = log_of(name, epochs, f"{folder}/{epochs}")
            made = time.perf_counter() - start
            seconds, peak = min(show(log) for _ in range(3))
            print(f"{n * epochs} samples: log made in {made:.1f} s, table in {seconds:.2f} s, peak {peak} MB")


if __name__ == "__main__":
    main()
