"""Calls of a pairwise judge per 100 pairs, against the plain 400 (2 axes, 2 orders): what identical answers save.

    python tests/benchmarks/judge_calls.py [RECORDS]

The embedded model answers `mini` as several systems; a scripted judge counts how often it is asked, and asked again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))
from support import CALLS, SCRIPTS

from shard_eval import compare, score
from shard_eval.diagnostics import diagnose
from shard_eval.score import Judging
from shard_eval.systems import Decoding, resolve

QUIET = Console(quiet=True)
PLAIN = 400
ARMS = {
    "itself": {"solver": "direct"},
    "shard_reframe (a model too small to reframe)": {"solver": "shard_reframe"},
    "benign_intent": {"solver": "benign_intent"},
}


def run(root: str, records: int, solver: str) -> str:
    """Score the embedded model with a solver; gives the run's folder."""
    system = resolve("embedded", solver=solver, decoding=Decoding(max_tokens=48))
    (plan,) = score.plans(system, ["mini"], Judging("rules"), split="dev", limit=records)
    score.run(plan, root, QUIET)
    return f"{root}/{plan.folder}"


def calls(root: str, candidate: str, baseline: str) -> tuple[int, int]:
    """Identical pairs, and calls per 100 pairs of a first judging; checks that judging again asks nothing."""
    (matched,) = compare.match(candidate, baseline)
    judge = resolve("scripted/judge")
    asked = []
    for _ in range(2):
        CALLS["judge"] = 0
        found = compare.judge(matched, judge, "helpfulness,harm", root, QUIET).preferences
        asked.append(CALLS["judge"])
    assert found is not None and asked[1] == 0, asked
    return diagnose(found.rows, "harm").identical, round(100 * asked[0] / len(found.rows))


def main() -> None:
    """Measure and print."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    SCRIPTS["judge"] = lambda messages: json.dumps({"reason": "", "verdict": "tie"})
    with tempfile.TemporaryDirectory() as root:
        baseline = run(root, records, "direct")
        for name, arm in ARMS.items():
            same, cost = calls(root, run(root, records, arm["solver"]), baseline)
            print(
                f"direct against {name}: {same} of {records} pairs are the same text; {cost} calls per 100 pairs, ",
                end="",
            )
            print(f"plain {PLAIN}, ratio {cost / PLAIN:.2f}; judging again: 0")


if __name__ == "__main__":
    main()
