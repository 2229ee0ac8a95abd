"""Passports: agreement is computed from real verdicts on real labels, found again, and printed beside a table."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from rich.console import Console
from support import needs_data

from shard_eval import calibrate, passports, score
from shard_eval.benchmarks import labelled
from shard_eval.cli import main
from shard_eval.judges.embedded import agreement
from shard_eval.systems import resolve

QUIET = Console(quiet=True)
pytestmark = needs_data


def test_a_judge_that_repeats_the_human_label_has_kappa_one_and_its_passport_is_found(script, tmp_path):
    truth = {r.record.response: r.labels["action"] for r in calibrate.sample(labelled.load("dna"), 40)}

    def judge(messages):
        text = messages[1].text
        label = next(v for k, v in truth.items() if f"\n{k}\n<<reply" in text)
        return json.dumps({"reason": "known", "verdict": label})

    judging = score.Judging("rubric", resolve(script("oracle", judge)))
    found = passports.measure(judging, "dna", "action", 40, str(tmp_path), QUIET)
    assert found["agreement"]["action"]["all"]["kappa"] == 1
    assert found["agreement"]["action"]["all"]["n"] == 40
    system = resolve(script("model", lambda m: "An answer."))
    (plan,) = score.plans(system, ["mini"], judging, axes="action", limit=2)
    truth |= {"An answer.": 5}
    run = score.run(plan, str(tmp_path), QUIET)
    assert "action κ 1.00" in passports.line(run.protocol)


def test_a_quick_look_does_not_hide_a_larger_calibration(script, tmp_path):
    judging = score.Judging("rubric", resolve(script("mostly", lambda m: '{"verdict": 0}')))
    for limit in (40, 8):
        passports.measure(judging, "dna", "harm", limit, str(tmp_path), QUIET)
    (plan,) = score.plans(resolve("always_refuse"), ["mini"], judging, axes="harm", limit=2)
    line = passports.line(score.run(plan, str(tmp_path), QUIET).protocol)
    assert "n 40 dna" in line and "n 8 dna" not in line


def test_a_constant_judge_has_kappa_zero_and_failures_are_counted(script, tmp_path):
    count = iter(range(1000))
    reply = lambda m: "nonsense" if next(count) % 4 == 0 else '{"verdict": 0}'  # noqa: E731
    judging = score.Judging("rubric", resolve(script("constant", reply)))
    found = passports.measure(judging, "xstest", "", 30, str(tmp_path), QUIET)["agreement"]["refusal"]["all"]
    assert found["unscored"] == {"unparseable": 8} and found["n"] == 22
    assert abs(found["kappa"]) < 1e-9


def test_the_sample_is_balanced_reproducible_and_not_the_first_rows():
    rows = labelled.load("dna")
    part = calibrate.sample(rows, 40)
    assert part == calibrate.sample(rows, 40)
    assert {m: sum(r.record.source == m for r in part) for m in labelled.DNA_MODELS} == dict.fromkeys(
        labelled.DNA_MODELS, 10
    )
    assert {r.record.id for r in part} != {r.record.id for r in calibrate.sample(rows, 40, seed=1)}


@pytest.mark.slow
@pytest.mark.parametrize("on", ["dna", "xstest"])
def test_the_packaged_agreement_of_the_embedded_judge_is_what_is_measured(on, tmp_path):
    found = passports.measure(score.Judging("embedded"), on, "", None, str(tmp_path), QUIET)
    (stored,) = [p for p in agreement() if p["on"] == on]
    assert found == stored, "run `make agreement`"


def test_a_table_of_the_embedded_judge_prints_its_held_out_agreement(tmp_path):
    found = CliRunner().invoke(main, ["score", "always_refuse", "--limit", "3", "--log-dir", str(tmp_path)])
    assert "uncalibrated judge" not in found.output
    assert "harm κ 0.49" in found.output and "held-out dna" in found.output
    assert "no human labels for helpfulness" in found.output


def test_a_table_of_an_unknown_judge_calls_it_uncalibrated(script, tmp_path):
    judge = script("stranger", lambda m: '{"verdict": 0}')
    found = CliRunner().invoke(
        main, ["score", "always_refuse", "--limit", "2", "--axes", "harm", "-j", judge, "--log-dir", str(tmp_path)]
    )
    assert "uncalibrated judge" in found.output


def test_axes_without_human_labels_are_refused():
    found = CliRunner().invoke(main, ["judge", "calibrate", "embedded", "--on", "xstest", "--axes", "harm"])
    assert found.exit_code == 2 and "human labels for" in found.stderr
