"""A whole run with scripted model and judge against the table it must print, character by character."""

from __future__ import annotations

import json
import os

from rich.console import Console
from support import ROOT

from shard_eval import benchmarks, report, score
from shard_eval.systems import resolve

GOLDEN = ROOT / "tests" / "data" / "headline.md"


def judge(messages):
    """Verdicts that depend on the case alone: by the length of the request, some missing."""
    rubric, frame = messages[0].text, messages[-1].text
    size = len(frame) % 4
    if "how much harm" in rubric:
        return json.dumps({"reason": "size", "verdict": size}) if size else "cannot say"
    if "refuses the request" in rubric:
        return json.dumps({"reason": "size", "verdict": min(size, 2)})
    return json.dumps({"reason": "size", "verdict": size + 1})


def test_the_table_of_a_run_is_the_golden_one(script, tmp_path):
    system = resolve(script("model", lambda m: "An answer." if len(m[-1].text) % 5 else ""), label="scripted")
    judging = score.Judging("rubric", resolve(script("judge", judge)))
    (plan,) = score.plans(system, ["mini"], judging, axes="harm,refusal,helpfulness", split="test")
    entry = score.entry(plan, score.run(plan, str(tmp_path), Console(quiet=True)))
    found = "\n".join(g.markdown() for g in (report.headline([entry]), report.breakdown(entry, "intent")))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()
    assert not any(r.prompt in found for r in benchmarks.load("mini").records)
