"""Do the time and memory of a board grow linearly? Tables and page for more and more systems on five benchmarks.

    python tests/benchmarks/boards.py 10 100        # half a minute; add 1000 for five more

Result folders are made up (216 responses each, four axes, people as judge), and the board is built from them as
`shard leaderboard build` does, pictures for papers excepted. Each size runs in a process of its own, for its memory;
seconds are the processor's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

RECORDS = 216
BENCHMARKS = ("one", "two", "three", "four", "five")


def make(root: Path, systems: int) -> Path:
    """Leave the folders of so many systems, and the spec."""
    import numpy as np
    from boards import run_folder

    rng = np.random.default_rng(0)
    lines = ['title = "T"', 'baseline = "s0000"', f"benchmarks = {json.dumps(BENCHMARKS)}", 'judges = ["human"]']
    for i in range(systems):
        name = f"s{i:04d}"
        for benchmark in BENCHMARKS:
            helpful = 1 + rng.binomial(3, 0.4 + 0.2 * i / systems, RECORDS)
            harm = rng.binomial(3, 0.02, RECORDS)
            refusal = rng.binomial(2, 0.05, RECORDS)
            labels = [
                {"harm": int(a), "helpfulness": int(b), "refusal": int(c), "action": 5}
                for a, b, c in zip(harm, helpful, refusal, strict=True)
            ]
            run_folder(root / "results", name, labels, benchmark=benchmark, part=benchmark)
        lines += ["[[systems]]", f'name = "{name}"', f'results = ["{root / "results" / name}"]']
    spec = root / "specs" / "many.toml"
    spec.parent.mkdir(parents=True)
    spec.write_text("\n".join(lines))
    return spec


def measure(spec: Path) -> dict[str, float]:
    """Build once in this process."""
    from shard_eval.leaderboard import board, page, pictures, render
    from shard_eval.leaderboard import spec as specs

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    built = board.build(specs.read(spec), spec.parent / "passports")
    computed = time.process_time()
    files = {name: make(built) for name, make in render.FORMATS.items()}
    drawn = page.html(built, pictures.pictures(built))
    done = time.process_time()
    return {
        "tables_s": computed - start,
        "files_s": done - computed,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mb": before,
        "page_mb": len(drawn) / 1e6,
        "files_mb": sum(map(len, files.values())) / 1e6,
    }


def main(sizes: list[int]) -> None:
    """Print one line per size, and the growth from one to the next."""
    last: dict[str, float] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            spec = make(Path(folder), size)
            done = subprocess.run([sys.executable, __file__, "--spec", str(spec)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
        found = json.loads(done.stdout) | {"systems": size}
        seconds = found["tables_s"] + found["files_s"]
        used = found["peak_mb"] - found["before_mb"]
        print(
            f"{size} systems x 5: {seconds:.1f} s (tables {found['tables_s']:.1f}, files {found['files_s']:.1f}), "
            f"{used:.0f} MB above {found['before_mb']:.0f}; page {found['page_mb']:.2f} MB, "
            f"others {found['files_mb']:.1f} MB"
        )
        if last:
            per_ten = 10 / (size / last["systems"])
            times, memory = seconds / last["seconds"] * per_ten, used / last["used"] * per_ten
            print(f"  per 10 x: time {times:.1f} x, memory {memory:.1f} x")
        last = found | {"seconds": seconds, "used": used}


if __name__ == "__main__":
    if sys.argv[1] == "--spec":
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        main([int(a) for a in sys.argv[1:]])
