"""The lm-eval tasks: the prompts, the verdicts and the numbers of the Inspect tasks, on three backends."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support import ROOT, needs_data
from tiny import make_model, write_rows

from shard_eval import benchmarks, engine, lm_eval_support
from shard_eval import protocols_linguasafe as linguasafe
from shard_eval.benchmarks.linguasafe import mcq_ids
from shard_eval.capability import OWN
from shard_eval.cli import main
from shard_eval.errors import UsageError
from shard_eval.summary import METRICS

FOLDER = ROOT / "tasks" / "lm_eval"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as its text."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
TASKS = {path.stem: yaml.load(path.read_text(), Loader) for path in sorted(FOLDER.glob("*.yaml"))}


def run(tasks: str, model: str, model_args: str, out: Path, cwd: Path, **env: str) -> dict[str, Any]:
    """lm-eval's results on the first six prompts of mini's test split, answered in few tokens."""
    line = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", model_args, "--tasks", tasks]
    line += ["--include_path", str(FOLDER), "--apply_chat_template", "--limit", "6", "--output_path", str(out)]
    line += ["--gen_kwargs", "max_gen_toks=24", "--metadata", '{"judge": "rules", "split": "test"}', "--log_samples"]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | OFFLINE | env, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.rglob("results_*.json")
    return json.loads(path.read_text())["results"]


def test_every_task_names_functions_that_are_there_and_metrics_of_ours() -> None:
    assert set(TASKS) == {
        "do_not_answer", "linguasafe_direct", "linguasafe_indirect", "mini", "or_bench", "xstest", OWN,
    }  # fmt: skip
    exported = (FOLDER / "utils.py").read_text()
    for name, task in TASKS.items():
        used = [task["custom_dataset"], task["process_results"], *(m["aggregation"] for m in task["metric_list"])]
        for function in (f for f in used if f != "mean"):  # lm-eval's own
            assert hasattr(lm_eval_support, function.removeprefix("utils.")), function
            assert f"    {function.removeprefix('utils.')},\n" in exported
        assert task["task"] == name and task["generation_kwargs"]["temperature"] == 0
        if name == OWN:
            assert [m["metric"] for m in task["metric_list"]] == ["acc"]
            continue
        bench = benchmarks.describe(task["dataset_kwargs"]["benchmark"])
        assert (bench.task == name) or bench.name == name
        if task["process_results"] == "utils.judged":
            ours = {m.name: m.better for m in METRICS if set(m.needs) <= set(bench.axes)}
            for m in task["metric_list"]:
                assert m["metric"] == "unscored" or m["metric"] in ours
                if ours.get(m["metric"]) in ("higher", "lower"):
                    assert m["higher_is_better"] == (ours[m["metric"]] == "higher"), m


def test_documents_are_the_records_of_a_split_and_the_judge_asks_nobody() -> None:
    docs = lm_eval_support.dataset(benchmark="mini", judge="rules", split="test", version=1.0)["test"]
    records = [r for r in benchmarks.load("mini").records if r.split == "test"]
    assert [d["prompt"] for d in docs] == [r.prompt for r in records] and "response" not in docs.column_names
    assert {"joint", "over_refusal", "action_5"} <= set(docs[0]["metrics"])
    with pytest.raises(UsageError, match="judged offline"):
        lm_eval_support.dataset(benchmark="mini", judge="rubric")


def test_reasoning_is_not_judged_and_silence_is_unscored() -> None:
    (doc,) = list(lm_eval_support.dataset(benchmark="mini", judge="rules", split="test")["test"].select([0]))
    refused = lm_eval_support.judged(doc, ["<think>Fine, I help.</think>I'm sorry, but I can't help with that."])
    assert refused["over_refusal"] == 1 and refused["unscored"] == 0 and math.isnan(refused["refuses_harmful"])
    silent = lm_eval_support.judged(doc, ["<think>Let me see"])
    assert silent["unscored"] == 1 and math.isnan(silent["joint"])
    assert lm_eval_support.known_mean([1.0, math.nan, 0.0]) == 0.5
    assert math.isnan(lm_eval_support.known_mean([math.nan]))


@needs_data
def test_linguasafe_s_protocols_come_to_the_same_numbers() -> None:
    docs = lm_eval_support.dataset(benchmark="linguasafe_direct")["test"]
    questions, plain = linguasafe.plan(benchmarks.load("linguasafe_direct").records, set(mcq_ids()))
    assert len(docs) == len(questions)
    said = ["[A,B]", "[]", "nothing to see", "[E]", ""]
    found = [lm_eval_support.flags(doc, [said[i % 5]]) for i, doc in enumerate(docs)]
    counted = [
        (doc["levels"], letters)
        for i, doc in enumerate(docs)
        if (letters := linguasafe.parse_answer(said[i % 5])) is not None
    ]
    ours = linguasafe.severity_weighted_f1(linguasafe.confusion(counted)).f1
    assert lm_eval_support.severity_weighted_f1([f["f1"] for f in found]) == pytest.approx(ours)
    assert sum(f["unparseable"] for f in found) == len([i for i in range(len(docs)) if i % 5 == 2])
    assert sum(f["no_answer"] for f in found) == len([i for i in range(len(docs)) if i % 5 == 4])

    asked = lm_eval_support.dataset(benchmark="linguasafe_indirect", judge="rules")["test"]
    assert [d["id"] for d in asked] == [r.id for r in plain]
    texts = ["I'm sorry, but I can't help with that.", "Sure! First, get a knife and hurt him.", ""]
    items, rows = [], []
    for i, doc in enumerate(asked):
        items.append(lm_eval_support.replies(doc, [texts[i % 3]]))
        label = lm_eval_support.labels(doc, texts[i % 3])
        refused, unsafe = (math.nan if label[a] is None else float(label[a] > 0) for a in ("refusal", "harm"))
        rows.append(linguasafe.Reply(doc["level"], refused, unsafe))
    rates = linguasafe.indirect_rates(rows)
    for name in ("unsafe_rate", "penalty", "oversensitive_rate"):
        expected = getattr(rates, name)
        assert getattr(lm_eval_support, name)([i[name] for i in items]) == pytest.approx(expected), name
    assert sum(i["unscored"] for i in items) == len([i for i in range(len(asked)) if i % 3 == 2])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_plain_lm_eval_over_http_gives_the_numbers_that_shard_score_gives(tmp_path: Path) -> None:
    """SmolLM2 on llama.cpp, asked by lm-eval from another working directory; then its answers, scored by us.

    Not asked twice: llama.cpp reuses what it has read before, which changes the last bits and now and then a word.
    """
    server = engine.serve(engine.gguf_path("embedded"), slots=1, context=2048, threads=1)
    args = f"model=smollm2,base_url={server.url}/chat/completions,num_concurrent=1"
    found = run("mini", "local-chat-completions", args, tmp_path / "out", tmp_path, OPENAI_API_KEY=server.key)["mini"]
    (samples,) = (tmp_path / "out").rglob("samples_mini_*.jsonl")
    answered = [json.loads(line) for line in samples.read_text().splitlines()]
    kept = ("id", "prompt", "intent", "need", "withhold")
    rows = [{k: one["doc"][k] for k in kept if one["doc"][k]} | {"response": one["resps"][0][0]} for one in answered]
    assert len({row["response"] for row in rows}) == 6
    data = write_rows(tmp_path / "answers.jsonl", rows)
    line = ["score", "recorded", "-b", data, "-j", "rules", "--axes", "all", "--log-dir", str(tmp_path / "results")]
    done = CliRunner().invoke(main, [*line, "--no-attacks", "--json"])
    assert done.exit_code == 0, done.output
    (ours,) = json.loads(done.stdout)
    named = {key.removesuffix(",none"): n for key, n in found.items() if key.endswith(",none") and "stderr" not in key}
    assert set(named) == {*ours["metrics"], "unscored"} and named.pop("unscored") == 0
    assert named == pytest.approx({name: measured["value"] for name, measured in ours["metrics"].items()})
    assert len(set(named.values())) > 2  # not all alike


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", ["hf", "local-completions"])
def test_the_tasks_run_on_the_other_backends(tmp_path: Path, model: str) -> None:
    if model == "hf":
        args, key = f"pretrained={make_model(tmp_path / 'tiny')}", ""
    else:
        from shard_train.convert import kept

        gguf = engine.gguf_path("embedded")
        server = engine.serve(gguf, slots=1, context=2048, threads=1)
        args, key = f"model=x,base_url={server.url}/completions,tokenizer={kept(gguf)},num_concurrent=1", server.key
    found = run("mini", model, args, tmp_path / "out", tmp_path, OPENAI_API_KEY=key)["mini"]
    assert 0 <= found["over_refusal,none"] <= 1 and 0 <= found["unscored,none"] <= 1
