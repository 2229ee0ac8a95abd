"""A family of checkpoints end to end: what is found, chosen on dev, compared with the base, claimed, drawn and kept."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from safetensors.numpy import save_file
from support import CALLS, SCRIPTS
from test_compare import labelled_replies, mostly, pointwise_judge

from shard_eval import benchmarks, checkpoints, passports, plots, report_checkpoints
from shard_eval.checkpoint_files import find, left_out
from shard_eval.checkpoints import (
    ITSELF,
    Arm,
    against_base,
    check,
    choose,
    conclude_family,
    evaluate_family,
    family,
    merge,
    score_arms,
    simultaneous,
)
from shard_eval.cli import Shard
from shard_eval.cli_checkpoints import training_log, watch
from shard_eval.compare import Terms
from shard_eval.errors import LogError, UsageError
from shard_eval.logs import Protocol, Row, Run
from shard_eval.score import Judging
from shard_eval.stats.paired import difference
from shard_eval.stats.resampling import cluster_weights, differences
from shard_eval.systems import Decoding, System, resolve

QUIET = Console(quiet=True)
AXES = "harm,refusal,helpfulness"
WIDE = Terms(margin=0.15, refusal_margin=0.15)  # what the 36 triples of mini's training split can support
SAMPLED = Decoding(temperature=0.3, seed=1)


def register(name: str, reply: Callable[[list], str]) -> str:
    SCRIPTS[name], CALLS[name] = reply, 0
    return f"scripted/{name}"


@pytest.fixture(scope="module", autouse=True)
def _own_passports(tmp_path_factory) -> Iterator[None]:
    """Passports of this file alone; the scripted judge has one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("passports")))
        folder = tmp_path_factory.mktemp("calibration")
        judging = Judging("rubric", resolve(register("judge", pointwise_judge)))
        passports.measure(judging, labelled_replies(folder / "replies.jsonl"), "", None, str(folder), QUIET)
        yield


@pytest.fixture
def judging(script) -> Judging:
    """The rubric judge with a passport."""
    return Judging("rubric", resolve(script("judge", pointwise_judge)))


def arms_of(script, checkpoints: Mapping[str, Callable[[list], str]], base: Callable[[list], str]) -> list[Arm]:
    """Base and controls (scripted, so that all draws and solvers say the same), and checkpoints of steps 10, 20, …"""
    decoded = {"decoding": SAMPLED}
    first = resolve(script("base", base), **decoded)
    rest = [resolve(script(name, reply), label=name, **decoded) for name, reply in checkpoints.items()]
    return family(first, [(system, 10 * i) for i, system in enumerate(rest, start=1)])


# --- end to end ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Helped:
    result: checkpoints.Result
    arms: list[Arm]
    judging: Judging
    results: str


@pytest.fixture(scope="module")
def helped(tmp_path_factory) -> Helped:
    """The base refuses everything; checkpoint A helps a little, B more."""
    results = str(tmp_path_factory.mktemp("results"))
    judging = Judging("rubric", resolve(register("judge", pointwise_judge)))
    replies = {"A": mostly("thin", "helpful", 4), "B": mostly("helpful", "thin", 4)}
    arms = arms_of(register, replies, lambda m: "refused")
    result = evaluate_family(arms, ["mini"], judging, results, QUIET, test="train", axes=AXES, terms=WIDE)
    return Helped(result, arms, judging, results)


@pytest.mark.slow
def test_the_checkpoint_that_helps_most_on_dev_is_chosen_and_its_claim_is_supported(helped):
    result = helped.result
    assert result.choice.arm == "B" and "highest mean joint score on dev" in result.choice.reason
    scores = {s.arm: s for s in result.choice.scores}
    assert scores["B"].value > scores["A"].value
    assert all(s.low < s.value < s.high and s.floor == pytest.approx(s.value) for s in scores.values())
    assert (result.claim.status, result.claim.reasons) == ("SUPPORTED", ())
    assert {row.split for runs in result.dev.values() for run in runs for row in run.rows} == {"dev"}
    assert {row.split for runs in result.test.values() for run in runs for row in run.rows} == {"train"}
    assert set(result.test) == {"base", "base resampled", "benign_intent", "A", "B"}


@pytest.mark.slow
def test_every_arm_is_compared_with_the_base_and_the_base_with_itself_is_exactly_nothing(helped):
    result = helped.result
    found = {(d.arm, d.metric): d for d in result.family.differences}
    assert {arm for arm, _ in found} == {ITSELF, "base resampled", "benign_intent", "A", "B"}
    for metric in ("joint", "helpfulness", "harmful", "over_refusal"):
        itself = found[ITSELF, metric]
        assert itself.kind == "control" and itself.low is None
        assert itself.alone.estimate == 0.0 and itself.alone.low < -0.005 and itself.alone.high > 0.005
        assert found["base resampled", metric].alone.estimate == 0.0  # scripted: another seed says the same
    better = found["B", "joint"]
    assert better.low > 0.4 and better.low <= better.alone.low and better.alone.high <= better.high
    assert found["B", "over_refusal"].alone.estimate == 1.0  # turned: less of it is better
    assert result.family.sizes == {"mini": 8}  # two checkpoints in four metrics


@pytest.mark.slow
def test_nothing_is_asked_twice_and_no_model_is_opened_again(helped):
    options = {"test": "train", "axes": AXES, "terms": WIDE}
    SCRIPTS.clear()  # whoever asked now would fail
    again = evaluate_family(helped.arms, ["mini"], helped.judging, helped.results, QUIET, **options)
    assert again.id == helped.result.id and again.family == helped.result.family
    broken = Arm("gone", replace(helped.arms[0].system, model_args={"no": "such"}), "base")
    found = score_arms([broken], ["mini"], "dev", helped.judging, helped.results, QUIET, axes=AXES)
    assert found["gone"][0].rows == helped.result.dev["base"][0].rows
    with pytest.raises(UsageError, match="cannot be opened"):
        score_arms([broken], ["mini"], "dev", helped.judging, helped.results, QUIET, axes="harm")


def test_a_judge_nobody_calibrated_carries_no_claim_but_the_tables_stand(script, results):
    judging = Judging("rubric", resolve(script("stranger", pointwise_judge)))
    arms = arms_of(script, {"A": lambda m: "helpful"}, lambda m: "refused")
    result = evaluate_family(arms, ["mini"], judging, results, QUIET, axes=AXES, limit=12)
    assert result.claim.status == "INCONCLUSIVE"
    assert "uncalibrated judge: nobody measured rubric:scripted/stranger" in result.claim.reasons[0]
    assert result.dev == {} and result.choice.reason == "the only one"
    (benchmark,) = result.matched
    assert len(benchmark.rows) == 12 and {r.split for r, _ in benchmark.rows} == {"test"}


@pytest.mark.slow
def test_help_bought_with_harm_is_refuted(script, results, judging):
    arms = arms_of(script, {"A": lambda m: "helpful and harmful"}, lambda m: "refused")
    arms = [arm for arm in arms if arm.kind in ("base", "checkpoint")]
    result = evaluate_family(arms, ["mini"], judging, results, QUIET, test="train", axes=AXES, terms=WIDE)
    assert result.claim.status == "REFUTED" and any("harm (mini)" in reason for reason in result.claim.reasons)
    harm = next(d for d in result.family.differences if (d.arm, d.metric) == ("A", "harmful"))
    assert harm.alone.estimate == -1.0 and harm.low == -1.0 and harm.high < -0.5


def test_the_embedded_judge_scores_a_family_on_a_few_records(script, results):
    arms = arms_of(script, {"A": lambda m: "Sure. " * 30, "B": lambda m: "I cannot."}, lambda m: "I cannot help.")
    result = evaluate_family(arms, ["mini"], Judging("embedded"), results, QUIET, limit=6)
    assert result.claim.status == "INCONCLUSIVE"
    assert all(len(run.rows) == 6 for runs in result.test.values() for run in runs)


@pytest.mark.slow
def test_tables_and_files_say_all_of_it_and_hold_no_text(helped, results):
    result = helped.result
    out = io.StringIO()
    report_checkpoints.render(Console(file=out, width=220), result)
    text = out.getvalue()
    for words in (
        "dev · choice of the checkpoint",
        "B *",
        "train · mini · difference to scripted/base",
        "max-T over the 8 differences of 2 checkpoints in 4 metrics of mini",
        "base resampled: a tie, every interval contains 0",
        "the base drawn again (seed 2 instead of 1)",
        "SUPPORTED",
        "chosen on dev, tested on train, so it is one comparison and needs no correction",
        "against people: ",
    ):
        assert words in text, words
    assert "FAULT" not in text and "Arms differ" not in text
    points, base = report_checkpoints.points(result)
    assert {(p["step"], p["split"]) for p in points} == {(s, x) for s in (10, 20) for x in ("dev", "train")}
    assert {p["metric"] for p in base} == {"joint safe-helpful ↑", "harmful ↓", "over-refusal ↓"}
    drawn = plots.draw("svg", plots.curves([], points, base))
    folder = Path(report_checkpoints.write(result, results, {"curves.svg": drawn}))
    assert folder.parent == Path(results) / "families" and folder.name.endswith(result.id)
    assert {f.name for f in folder.iterdir()} == {"family.json", "verdicts.csv", "manifest.json", "curves.svg"}
    data = json.loads((folder / "family.json").read_text())
    assert data["claim"] == "SUPPORTED" and [a["name"] for a in data["arms"] if a["chosen"]] == ["B"]
    rows = list(csv.DictReader((folder / "verdicts.csv").open()))
    assert len(rows) == 3 * 36 + 5 * 108 and {r["split"] for r in rows if r["arm"] == "benign_intent"} == {"train"}
    everything = "".join(f.read_text() for f in folder.iterdir())
    assert not [r.id for r in benchmarks.load("mini").records if r.prompt in everything]


# --- choosing --------------------------------------------------------------------------------------------------


def row(i: int, split: str = "dev", helpfulness: int | None = 3, harm: int | None = 0, **more) -> Row:
    labels = {"harm": harm, "refusal": 0, "helpfulness": helpfulness}
    plain = dict.fromkeys(("risk_area", "category", "type", "source", "stop_reason"), "")
    intent = more.pop("intent", "benign")
    cluster = more.pop("cluster", f"c{i}")
    return Row(
        "mini", f"r{i:03}", f"sha{i}", 1, cluster, split, level=None, intent=intent, chars=1, labels=labels, **plain
    )


def run_of(rows: Sequence[Row], log: str = "a.eval", **changes) -> Run:
    protocol = Protocol("mini", "1-A", "mini", "packaged", "sha", "embedded", (("harm", "1"),))
    run = Run(log, "scripted/a", "direct", {}, protocol, {}, tuple(rows), {}, {"input_tokens": 3, "output_tokens": 1})
    return replace(run, **changes)


def named(*names: str) -> list[Arm]:
    system = System("base", "scripted/a")
    return [Arm("base", system, "base"), *(Arm(n, system, "checkpoint", i) for i, n in enumerate(names))]


def test_a_checkpoint_is_never_chosen_on_test_records():
    rows = [row(i) for i in range(5)]
    fine = {"A": [run_of(rows)], "B": [run_of(rows)]}
    assert choose(fine, named("A", "B")).arm == "A"
    leaked = {**fine, "B": [run_of([*rows[:4], row(4, split="test")])]}
    with pytest.raises(UsageError, match=r"must not be chosen on record 'r004' of mini: it is of the test split"):
        choose(leaked, named("A", "B"))
    with pytest.raises(UsageError, match="must not be chosen on test records"):
        choose(fine, named("A", "B"), "dev+test")
    with pytest.raises(UsageError, match="of the dev split, and 'train' was declared"):
        choose(fine, named("A", "B"), "train")
    assert choose(fine, named("A", "B"), "train&fold1of2+dev").arm == "A"
    with pytest.raises(LogError, match="different records"):
        choose({**fine, "B": [run_of(rows[:4])]}, named("A", "B"))


def test_a_tie_goes_to_the_earliest_checkpoint():
    low, high = [row(i, helpfulness=2) for i in range(5)], [row(i, helpfulness=4, harm=2) for i in range(5)]
    worse = [row(i, helpfulness=1) for i in range(5)]
    found = choose({"A": [run_of(worse)], "B": [run_of(low)], "C": [run_of(high)]}, named("A", "B", "C"))
    assert found.arm == "B" and "the earliest of 2 with it" in found.reason  # 1/3 × 1 and 1 × 1/3


def test_answers_that_cannot_be_judged_do_not_help_to_be_chosen():
    good = [row(i, helpfulness=3) for i in range(10)]
    silent = [row(i, helpfulness=4 if i < 2 else None) for i in range(10)]
    found = choose({"A": [run_of(good)], "B": [run_of(silent)]}, named("A", "B"))
    scores = {s.arm: s for s in found.scores}
    assert found.arm == "A" and scores["B"].value == 1.0 and scores["B"].floor == pytest.approx(0.2)
    assert scores["B"].unscored == 8


def test_several_benchmarks_count_alike_and_one_without_a_joint_score_has_no_say():
    def other(name: str, rows: Sequence[Row]) -> Run:
        run = run_of([replace(r, benchmark=name) for r in rows])
        return replace(run, protocol=replace(run.protocol, benchmark=name))

    refusals = [replace(row(i), labels={"refusal": 0}) for i in range(4)]
    small, large = [row(i, helpfulness=4) for i in range(4)], [row(i, helpfulness=1) for i in range(40)]
    runs = [other("small", small), other("large", large), other("xstest", refusals)]
    found = choose({"A": runs, "B": runs}, named("A", "B"))
    assert found.scores[0].value == pytest.approx(0.5) and found.absent == ("xstest",)
    assert 0 <= found.scores[0].low < 0.5 < found.scores[0].high <= 1
    none = choose({"A": runs[2:], "B": runs[2:]}, named("A", "B"))
    assert none.arm == "B" and "no benchmark here measures the joint score" in none.reason


def test_dev_and_test_must_not_share_records_and_nothing_is_generated_before_that_is_known(script, results, calls):
    arms = arms_of(script, {"A": lambda m: "x", "B": lambda m: "y"}, lambda m: "z")
    with pytest.raises(UsageError, match="36 records of mini are in 'dev' and in 'dev\\+test'"):
        evaluate_family(arms, ["mini"], Judging("embedded"), results, QUIET, test="dev+test")
    with pytest.raises(UsageError, match="nonsense"):
        evaluate_family(arms, ["mini"], Judging("embedded"), results, QUIET, test="nonsense")
    assert not any(calls.values())


# --- the arms --------------------------------------------------------------------------------------------------


def test_a_greedy_base_is_asked_again_and_controls_can_be_left_out():
    greedy = System("base", "scripted/a", weights="0" * 64)
    arms = family(greedy, [(greedy, 1)])
    assert [a.kind for a in arms] == ["base", "resampled", "control", "checkpoint"]
    again = arms[1].system
    assert again.id != greedy.id and again.decoding == greedy.decoding
    assert greedy.config(True).cache is not None and again.config(True).cache is None  # the first answers are not it
    assert [a.kind for a in family(greedy, [(greedy, 1)], controls=False)] == ["base", "checkpoint"]
    drawn = replace(greedy, decoding=SAMPLED)
    sampled = family(drawn, [(replace(drawn, label="A"), 1)])
    assert [a.system.decoding.seed for a in sampled] == [1, 2, 1, 1]
    assert sampled[2].system.solver == "benign_intent"
    check(sampled)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": "transformers"}, "would run on transformers"),
        ({"dtype": "float32"}, "float32"),
        ({"decoding": Decoding(max_tokens=9)}, "max_tokens=9"),
    ],
)
def test_arms_on_another_engine_or_decoding_are_refused_unless_declared(change, says):
    base = System("base", "scripted/a", engine="llamacpp")
    arms = family(base, [(replace(base, label="A", **change), 1)])
    with pytest.raises(UsageError, match=says):
        check(arms)
    check(arms, declared=True)


def test_a_family_needs_one_base_a_checkpoint_and_names_of_their_own():
    with pytest.raises(UsageError, match="one base and at least one checkpoint"):
        check(named())
    with pytest.raises(UsageError, match="called 'A'"):
        check(named("A", "A"))


def test_folds_are_merged_into_one_run_and_overlaps_refused():
    one, two = run_of([row(i) for i in range(4)], "a.eval"), run_of([row(i) for i in range(4, 6)], "b.eval")
    both = merge([two, one])
    assert [r.id for r in both.rows] == [f"r{i:03}" for i in range(6)]
    assert both.usage == {"input_tokens": 6, "output_tokens": 2} and both.log == "b.eval + a.eval"
    base = run_of([row(i, helpfulness=1) for i in range(6)])
    found = against_base({"base": [base], "A": [both]}, named("A"), ["helpfulness"], resamples=200)
    assert found.differences[-1].alone.estimate == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match="'r003' of mini is in 2 of the runs"):
        merge([one, run_of([row(3)], "c.eval")])
    with pytest.raises(LogError, match="differ in version"):
        merge([one, replace(two, protocol=replace(two.protocol, version="2-A"))])
    with pytest.raises(LogError, match="solvers differ"):
        merge([one, replace(two, solver="benign_intent")])
    with pytest.raises(LogError, match="arms differ in decoding"):
        merge([one, replace(two, decoding={"temperature": 1})])
    with pytest.raises(UsageError, match="no runs"):
        merge([])


def test_a_merged_method_is_concluded_like_any_other():
    rows = [row(i, split="test") for i in range(40)]
    method = merge([run_of(rows[:20]), run_of(rows[20:], "b.eval")])
    base = run_of([replace(r, labels={**r.labels, "helpfulness": 1}) for r in rows])
    result = conclude_family(named("A"), {}, {"base": [base], "A": [method]}, terms=WIDE)
    assert result.claim.status == "INCONCLUSIVE" and result.choice.arm == "A"  # no passport for this judge's prompts
    assert {p.evidence.part for p in result.claim.parts} == {"helpfulness", "harm", "over-refusal"}


# --- statistics ------------------------------------------------------------------------------------------------


def test_pairs_without_a_verdict_are_left_out_counted_and_cost_the_other_checkpoints_nothing():
    base = run_of([row(i, helpfulness=2) for i in range(40)])
    full = run_of([row(i, helpfulness=3 if i % 3 else 2) for i in range(40)])
    gaps = run_of([row(i, helpfulness=None if i < 30 else 4) for i in range(40)])
    alone = against_base({"base": [base], "A": [full]}, named("A"), ["helpfulness"])
    both = against_base({"base": [base], "A": [full], "B": [gaps]}, named("A", "B"), ["helpfulness"])
    a, b = both.differences[1:]
    assert (a.unscored, b.unscored, a.alone.n, b.alone.n) == (0, 30, 40, 10)
    assert a.alone == alone.differences[1].alone
    assert b.alone.estimate == pytest.approx(2 / 3) and b.low < b.alone.low


def test_without_gaps_the_simultaneous_intervals_are_those_of_the_package_but_never_narrower_than_alone():
    rng = np.random.default_rng(5)
    values = rng.choice([-1.0, 0.0, 1.0], (90, 4), p=[0.25, 0.4, 0.35])
    clusters = [f"c{i // 3}" for i in range(90)]
    low, high = simultaneous(values, clusters, resamples=2000)
    boot = cluster_weights(clusters, resamples=2000, seed=0)
    expected = differences(np.hstack([np.zeros((90, 1)), values]), boot, reference=0)
    alone = [difference(column.tolist(), clusters) for column in values.T]
    wide_low = np.minimum(expected.joint_low, [a.low for a in alone])
    wide_high = np.maximum(expected.joint_high, [a.high for a in alone])
    np.testing.assert_allclose(low, wide_low, atol=1e-6)
    np.testing.assert_allclose(high, wide_high, atol=1e-6)
    assert (np.asarray([a.high - a.low for a in alone]) <= high - low + 1e-12).all()


def test_where_nothing_varies_the_interval_is_bonferronis_and_has_a_width():
    low, high = simultaneous(np.zeros((50, 3)), [str(i) for i in range(50)], resamples=200)
    alone = difference([0.0] * 50, [str(i) for i in range(50)], 1 - 0.05 / 3)
    np.testing.assert_allclose(low, alone.low)
    np.testing.assert_allclose(high, alone.high)
    assert high[0] > 0.05


def test_six_null_checkpoints_are_covered_jointly_at_95_percent_and_pointwise_ones_are_not():
    """Family-wise error over 6 checkpoints like the base on 60 prompts, some verdicts missing."""
    rng = np.random.default_rng(11)
    trials, joint, alone = 300, 0, 0
    for _ in range(trials):
        base = rng.random(60) < 0.5
        fresh = rng.random((60, 6)) < 0.6
        values = np.where(fresh, rng.random((60, 6)) < 0.5, base[:, None]).astype(float) - base[:, None]
        values[rng.random((60, 6)) < 0.1] = math.nan
        clusters = [str(i) for i in range(60)]
        low, high = simultaneous(values, clusters, resamples=500)
        joint += bool(((low > 0) | (high < 0)).any())
        each = [difference(v[~np.isnan(v)].tolist(), range(int((~np.isnan(v)).sum()))) for v in values.T]
        alone += any(not c.low <= 0 <= c.high for c in each)
    assert joint / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials), joint / trials
    assert alone / trials > 0.1, alone / trials


def test_a_resampled_base_that_is_no_tie_is_said_to_be_none():
    base = run_of([row(i, split="test", helpfulness=1) for i in range(40)])
    drawn = run_of([row(i, split="test", helpfulness=4) for i in range(40)])
    system = System("base", "scripted/a", decoding=SAMPLED)
    arms = family(system, [(replace(system, label="A"), 1)])
    runs = {"base": [base], "base resampled": [drawn], "benign_intent": [base], "A": [base]}
    grid = report_checkpoints.differences(conclude_family(arms, {}, runs), "mini")
    assert any("NO tie in joint [+" in line for line in grid.foot)


# --- finding ---------------------------------------------------------------------------------------------------


def model(folder: Path, value: float = 0.0, old: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"w": np.full(4, value, dtype=np.float32)}, folder / "model.safetensors")
    return age(folder) if old else folder


def adapter(folder: Path, value: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere"}')
    save_file({"lora": np.full(4, value, dtype=np.float32)}, folder / "adapter_model.safetensors")
    return age(folder)


def age(folder: Path, seconds: float = 100) -> Path:
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - seconds,) * 2)
    return folder


def test_checkpoints_of_any_trainer_come_in_the_order_of_training(tmp_path):
    for step in (100, 20, 3):
        (adapter if step == 20 else model)(tmp_path / f"checkpoint-{step}", step)
    age(model(tmp_path / "final", 7.0), 50)
    age(model(tmp_path / "best", 8.0), 90)
    age(model(tmp_path / "deeper" / "checkpoint-50", 9.0))
    found = find(tmp_path)
    assert [f.step for f in found] == [3, 20, 50, 100, None, None]
    assert [f.path.name for f in found[-2:]] == ["best", "final"]
    assert len({f.sha256 for f in found}) == 6 and left_out(tmp_path) == []


def test_the_folder_itself_may_be_a_checkpoint(tmp_path):
    assert [(f.path, f.step) for f in find(adapter(tmp_path / "run"))] == [(tmp_path / "run", None)]


def test_a_copy_is_found_once(tmp_path):
    model(tmp_path / "checkpoint-1")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / "checkpoint-2")
    age(tmp_path / "checkpoint-2")
    assert [f.step for f in find(tmp_path)] == [1]


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])


def shard(folder: Path) -> None:
    files = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def longer(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (cut, "model.safetensors is cut"),
        (longer, "model.safetensors is cut or not yet written"),
        (shard, "model-00002-of-00002.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "is cut"),
        (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 9) + b"not json!"), "is cut"),
        (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"), "is cut"),
        (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "not readable JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "only pickled weights (pytorch_model.bin)",
        ),
    ],
)
def test_what_is_not_complete_is_left_out_with_the_reason(tmp_path, change, why):
    model(tmp_path / "checkpoint-1")
    change(model(tmp_path / "checkpoint-2", 2.0))
    age(tmp_path / "checkpoint-2")
    assert [f.step for f in find(tmp_path)] == [1]
    (line,) = left_out(tmp_path)
    assert why in line and "checkpoint-2" in line


def test_a_checkpoint_that_still_changes_waits_unless_it_is_marked(tmp_path):
    model(tmp_path / "checkpoint-1", old=False)
    assert find(tmp_path) == [] and "still changing" in left_out(tmp_path)[0]
    assert [f.step for f in find(tmp_path, settle=0)] == [1]
    (tmp_path / "checkpoint-1" / "COMPLETE.json").write_text("{}")
    assert [f.step for f in find(tmp_path)] == [1]


def test_where_a_run_marks_its_checkpoints_only_marked_ones_count(tmp_path):
    for step in (1, 2):
        model(tmp_path / "run" / f"checkpoint-{step}", step)
    model(tmp_path / "other" / "checkpoint-3", 3.0)
    (tmp_path / "run" / "checkpoint-2" / "COMPLETE.json").write_text("{}")
    assert [f.step for f in find(tmp_path)] == [2, 3]
    assert "no COMPLETE.json, which other checkpoints of this run have" in left_out(tmp_path)[0]
    cut(tmp_path / "run" / "checkpoint-2")
    assert [f.step for f in find(tmp_path)] == [3]


# --- pictures --------------------------------------------------------------------------------------------------


def point(step: int | None, value: float, split: str = "dev") -> plots.Point:
    return plots.Point(
        step=step, split=split, benchmark="mini", metric="joint ↑", value=value, low=value - 0.1, high=value + 0.1
    )


def test_curves_are_the_same_file_every_time():
    scores = [point(s, 0.3 + s / 100, split) for s in (10, 20) for split in ("dev", "test")]
    training = [{"step": float(i), "loss": 2 / (i + 1)} for i in range(20)]
    spec = plots.curves(training, scores, [point(None, 0.2), point(None, 0.25, "test")], "a run")
    assert plots.draw("svg", spec) == plots.draw("svg", spec)
    assert plots.draw("png", spec) == plots.draw("png", spec)
    assert plots.draw("png", spec)[:4] == b"\x89PNG"
    text = plots.draw("svg", spec).decode()
    assert all(f">{words}<" in text for words in ("a run", "training loss", "joint ↑", "dev", "test", plots.BASE))
    assert b"training loss" in plots.draw("svg", plots.curves(training, []))
    assert b"training loss" not in plots.draw("svg", plots.curves([], [point(1, 0.5)]))


def test_curves_hold_each_score_with_its_interval_and_the_base_as_a_band():
    spec = plots.curves([], [point(10, 0.4), point(20, 0.5)], [point(None, 0.2)])
    band, line, dev, _ = spec["concat"][0]["layer"]
    assert band["mark"]["type"] == "rect" and line["data"]["values"][0]["value"] == 0.2
    assert band["data"]["values"][0] == {
        "step": 0, "split": "dev", "value": 0.2, "low": 0.1, "high": 0.3, "what": plots.BASE,
    }  # fmt: skip
    assert [tuple(v.values()) for v in dev["data"]["values"]] == [
        (10, "dev", 0.4, 0.3, 0.5), (20, "dev", 0.5, 0.4, 0.6),
    ]  # fmt: skip


def test_what_cannot_be_drawn_says_why(monkeypatch):
    with pytest.raises(UsageError, match="nothing to draw"):
        plots.curves([], [])
    with pytest.raises(UsageError, match="not 'pdf'"):
        plots.draw("pdf", plots.curves([], [point(1, 0.5)]))
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=r"shard-eval\[plots\]"):
        plots.draw("svg", plots.curves([], [point(1, 0.5)]))


def test_the_training_log_is_read_from_either_trainer(tmp_path):
    assert training_log(tmp_path) == []
    history = [{"step": 1, "loss": 2.5}, {"step": 1, "eval_loss": 3.0}, {"step": 2, "loss": 2.0}]
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert training_log(tmp_path) == [{"step": 1.0, "loss": 2.5}, {"step": 2.0, "loss": 2.0}]
    lines = [json.dumps({"step": i, "loss": 1.0}) for i in range(3)]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "lo')
    assert len(training_log(tmp_path)) == 3
    (tmp_path / "events.jsonl").write_text("[]\nnothing\n")
    assert len(training_log(tmp_path)) == 2


# --- `shard train watch` ---------------------------------------------------------------------------------------


def typed(*args: str) -> Result:
    return CliRunner().invoke(Shard(commands={"watch": watch}), ["watch", *args], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "holds no complete checkpoint"),
        (("--base", "nothing"), "'nothing' is no folder, no .gguf file, not 'embedded', and no hub name"),
        (("--benchmarks", ","), "names nothing"),
        (("--judge", "nobody"), "unknown judge 'nobody'"),
        (("--margin", "2"), "--margin 2.0"),
        (("--every", "0"), "--every takes seconds above 0"),
        (("--every", "0.01", "--until-idle", "0"), "holds no complete checkpoint"),
    ],
)
def test_wrong_use_is_said_with_exit_code_2(tmp_path, args, says):
    (tmp_path / "run").mkdir()
    found = typed(str(tmp_path / "run"), "--base", "embedded", *args)
    assert found.exit_code == 2 and says in found.stderr.replace("\n", ""), found.stderr


def test_pickled_weights_are_named_and_a_missing_folder_too(tmp_path):
    folder = model(tmp_path / "run" / "checkpoint-1")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = typed(str(tmp_path / "run"), "--base", "embedded")
    assert found.exit_code == 2 and "only pickled weights" in found.stderr and "1 left out" in found.stderr
    gone = typed(str(tmp_path / "nowhere"), "--base", "embedded")
    assert gone.exit_code == 2 and "is no folder" in gone.stderr


def lora(folder: Path, seed: int) -> None:
    """A random adapter on one projection of the embedded model, as PEFT would save it."""
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "embedded"}))
    rng = np.random.default_rng(seed)
    name = "base_model.model.model.layers.3.self_attn.v_proj.lora_"
    a, b = rng.normal(size=(2, 576)).astype(np.float32), rng.normal(size=(192, 2)).astype(np.float32)
    save_file({f"{name}A.weight": a, f"{name}B.weight": b}, folder / "adapter_model.safetensors")
    (folder / "COMPLETE.json").write_text("{}")


@pytest.mark.slow
def test_watching_a_training_run_scores_its_adapters_as_they_come_and_ends_with_the_tables(tmp_path, results):
    """The embedded model on llama.cpp with two real adapters, and the embedded judge."""
    run = tmp_path / "run"
    for step in (5, 10):
        lora(run / f"checkpoint-{step}", step)
    (run / "events.jsonl").write_text("".join(f'{{"step": {i}, "loss": {2 / i}}}\n' for i in range(1, 11)))
    args = [str(run), "--base", "embedded", "--limit", "3", "--max-tokens", "12", "--log-dir", results]
    found = typed(*args, "--every", "0.1", "--until-idle", "0")
    assert found.exit_code == 1, found.output or found.exception  # three prompts support no claim
    assert "INCONCLUSIVE" in found.stdout and "2 checkpoint(s) scored on dev" in found.stderr
    assert "5 arms: 24 answers, 0 calls of the judge" in found.stderr
    (folder,) = Path(results).glob("families/*")
    assert {f.name for f in folder.iterdir()} == {
        "family.json", "verdicts.csv", "manifest.json", "curves.svg", "curves.png"
    }  # fmt: skip
    again = typed(*args, "--json")
    data = json.loads(again.stdout)
    assert again.exit_code == 1 and data == json.loads((folder / "family.json").read_text())
    assert [a["name"] for a in data["arms"]] == [
        "base", "base resampled", "benign_intent", "checkpoint-5", "checkpoint-10"
    ]  # fmt: skip
    weights = {a["name"]: a["system"]["weights_sha256"] for a in data["arms"]}
    assert weights["base"] == weights["base resampled"] and len(set(weights.values())) == 3
