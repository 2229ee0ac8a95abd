"""The command as a user meets it: help, wrong input, exit codes, what is and is not printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import needs_data

from shard_eval import benchmarks
from shard_eval.cli import main


def shard(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_help_names_every_command():
    text = shard("--help").output
    assert all(f"  {name}" in text for name in ("data", "demo", "judge", "score", "show"))


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from shard_eval.cli import main\n"
        "try: main(['score', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'inspect_ai', 'scipy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_library_does_not_import_torch():
    code = "import sys, shard_eval.cli, shard_eval.passports, shard_eval.tasks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["score", "embeded"], "Did you mean 'embedded'"),
        (["score", "opnai/gpt-5"], "Did you mean 'openai'"),
        (["score", "always_refuse", "-b", "dnaa"], "Did you mean 'dna'"),
        (["score", "always_refuse", "-b", ","], "names nothing"),
        (["score", "always_refuse", "-j", "embeded"], "Did you mean 'embedded'"),
        (["score", "always_refuse", "-j", "guard:qwen3gard=x/y"], "Did you mean 'qwen3guard'"),
        (["score", "always_refuse", "-j", "guard:qwen3guard"], "needs a model"),
        (["score", "embedded", "-s", "dirct"], "Did you mean 'direct'"),
        (["score", "embedded", "--split", "tets"], "give some of train, dev, test"),
        (["score", "embedded", "--axes", "harm,harm"], "once each"),
        (["score", "embedded", "--limit", "0"], "at least 1"),
        (["score", "embedded", "--by", "intention"], "'intent'"),
        (["score", "embedded", "--epochs", "2"], "give a --temperature"),
        (["score", "embedded", "-M", "slots"], "KEY=VALUE"),
        (["score", "./no-such-folder"], "no folder"),
        (["data", "check", "dan"], "Did you mean 'dna'"),
        (["judge", "calibrate", "embedded", "--on", "dnaa"], "Did you mean 'dna'"),
    ],
)
def test_wrong_use_says_what_to_do_and_exits_2(args, says):
    found = shard(*args)
    assert found.exit_code == 2
    assert says in found.stderr and "Traceback" not in found.output


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    found = shard("score", str(tmp_path))
    assert found.exit_code == 2 and "can run code" in found.stderr


def test_an_adapter_whose_base_is_elsewhere_says_how_to_name_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/gone/base"}))
    found = shard("score", str(tmp_path))
    assert found.exit_code == 2 and "--adapter" in found.stderr


def test_data_check_reports_and_json_lists():
    assert re.search(r"ok\s+mini\s+216 records", shard("data", "check", "mini").output)
    assert {row["name"] for row in json.loads(shard("data", "list", "--json").output)} == set(benchmarks.BENCHMARKS)


def test_a_benchmark_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    benchmarks.load.cache_clear()
    found = shard("data", "check", "or_bench_hard")
    benchmarks.load.cache_clear()
    assert found.exit_code == 2
    assert "SHARD_DATA_DIR" in found.stderr and "shard data fetch or_bench_hard" in found.stderr


def test_a_damaged_benchmark_is_not_used(tmp_path, monkeypatch):
    folder = tmp_path / "or-bench"
    folder.mkdir()
    (folder / "orbench_hard.json").write_text(json.dumps([{"prompt": f"number {i}"} for i in range(1319)]))
    monkeypatch.setenv("SHARD_DATA_DIR", str(tmp_path))
    benchmarks.load.cache_clear()
    found = shard("data", "check", "or_bench_hard")
    benchmarks.load.cache_clear()
    assert found.exit_code == 2 and "not the pinned ones" in found.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A real run of a constant."""
    root = tmp_path_factory.mktemp("run")
    assert shard("score", "always_refuse", "--log-dir", str(root)).exit_code == 0
    return root


def test_output_holds_no_prompt_and_no_response(tmp_path):
    found = shard("score", "always_comply", "--log-dir", str(tmp_path), "--by", "category", "--details")
    assert found.exit_code == 0
    assert "exactly what you asked" not in found.output
    assert not any(r.prompt[:40] in found.output for r in benchmarks.load("mini").records)


def test_json_is_json_and_nothing_else(finished):
    found = CliRunner().invoke(main, ["score", "always_refuse", "--log-dir", str(finished), "--json"])
    (line,) = json.loads(found.stdout)
    assert line["n"] == 216 and line["metrics"]["joint"]["value"] == 0
    assert line["metrics"]["joint"]["high"] > 0  # nothing happened, but the interval is not of zero width


def test_show_reads_the_folder_again(finished):
    (folder,) = finished.glob("*/mini-*")
    assert "always_refuse" in shard("show", str(folder)).output
    assert r"| always\_refuse |" in shard("show", str(folder), "--markdown").output


@needs_data
def test_a_fixture_says_so_in_every_output(tmp_path):
    args = ("score", "always_refuse", "-b", "linguasafe_en", "--log-dir", str(tmp_path), "--by", "level", "--details")
    found = shard(*args)
    tables = [line for line in found.stdout.splitlines() if "always_refuse" in line]
    assert tables and all("FIXTURE" in line for line in tables)
    (folder,) = tmp_path.glob("*/linguasafe*")
    assert "FIXTURE" in folder.name
    assert "FIXTURE" in json.loads((folder / "summary.json").read_text())["system"]
    assert json.loads((folder / "manifest.json").read_text())["protocol"]["origin"] == "fixture"
    assert "FIXTURE" in shard("show", str(folder), "--markdown").output
    assert "FIXTURE" in shard("data", "check", "linguasafe_en").output


def test_a_paid_judge_is_announced_before_it_is_asked(script, tmp_path):
    judge = script("paid", lambda m: '{"reason": "ok", "verdict": 1}')
    args = ["score", "always_refuse", "-j", judge, "--limit", "4", "--axes", "harm,helpfulness", "--price", "1,10"]
    found = shard(*args, "--log-dir", str(tmp_path))
    assert found.exit_code == 0
    assert re.search(r"asked up to 8 times, about [\d,]+ tokens in, 960 out, about \$0\.0\d", found.stderr)
    assert shard(*args[:-1], "cheap", "--log-dir", str(tmp_path)).exit_code == 2


def test_show_refuses_to_mix_protocols(finished, tmp_path):
    assert shard("score", "always_refuse", "--log-dir", str(tmp_path), "--axes", "harm").exit_code == 0
    (a,), (b,) = finished.glob("*/mini-*"), tmp_path.glob("*/mini-*")
    found = shard("show", str(a), str(b))
    assert found.exit_code == 1 and "differ in prompts" in found.stderr


def test_arms_of_different_decoding_are_not_compared_silently(script, tmp_path):
    model = script("model", lambda m: "An answer.")
    for tokens in ("64", "128"):
        found = shard("score", model, "--limit", "2", "--max-tokens", tokens, "--log-dir", str(tmp_path))
        assert found.exit_code == 0, found.output
    folders = [str(f) for f in tmp_path.glob("*/mini*")]
    found = shard("show", *folders)
    assert found.exit_code == 1 and "differ in decoding" in found.stderr
    assert "differ in decoding" in shard("show", "--mixed", *folders).stdout


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_log_is_one_clear_message(finished, tmp_path, damage):
    (log,) = finished.glob("*/mini-*/logs/*.eval")
    broken = tmp_path / log.name
    shutil.copy(log, broken)
    content = broken.read_bytes()
    broken.write_bytes({"cut": content[: len(content) // 2], "garbage": b"PK" + content[2:500], "empty": b""}[damage])
    found = shard("show", str(broken))
    assert found.exit_code == 1 and "cannot be read" in found.stderr


def test_a_run_leaves_what_the_readme_names(finished):
    (folder,) = finished.glob("*/mini-*")
    assert {f.name for f in folder.iterdir()} == {"manifest.json", "summary.json", "verdicts.csv", "logs"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"system", "system_id", "run", "protocol", "verdicts_sha256", "versions", "usage", "log"} == set(manifest)
    assert manifest["run"]["content_sha"] == benchmarks.load("mini").sha
