"""The package as others get it: what the wheel holds, that a task runs by name from it, and that the parts agree."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support import ROOT, needs_data

from shard_eval import benchmarks, guidelines, prompts, solvers
from shard_eval.benchmarks import BENCHMARKS
from shard_eval.judges.trained import FILES
from shard_eval.passports import PACKAGED
from shard_eval.records import AXES, PAIR_AXES
from shard_train.methods import METHODS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_our_two_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"shard_eval", "shard_train"}
    assert {"shard_eval/tasks/mini.py", "shard_eval/benchmarks/mini.jsonl", "shard_eval/prompts/judge_harm.md"} <= set(
        names
    )
    assert "shard_eval/py.typed" in names
    assert {f"shard_eval/judges/{j}_{w}.json" for j in PACKAGED for w in ("agreement", "attacks")} <= set(names)
    assert {f"shard_eval/judges/embedded_model/{name}" for name in FILES} <= set(names)
    assert {f"shard_eval/labelling/page.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert "shard_train/judge_training/card.md" in names
    assert {f"shard_eval/tasks/lm_eval/{p.name}" for p in (ROOT / "tasks" / "lm_eval").glob("*.*")} <= set(names)
    assert {f"shard_eval/leaderboard/assets/{n}" for n in ("page.html", "page.css", "page.js", "vendor.js")} <= set(
        names
    )
    assert not any("tests/" in n or n.endswith(".gguf") for n in names)


@pytest.mark.slow
def test_a_task_runs_by_name_from_a_clean_installation(wheel, tmp_path):
    """The wheel alone in a new environment; its dependencies come from the one the tests run in."""
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    run = {"capture_output": True, "text": True, "timeout": 200, "cwd": tmp_path}
    done = subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], **run)
    assert done.returncode == 0, done.stderr
    (site,) = home.glob("lib/python*/site-packages")
    ours = [p for p in sys.path if p.endswith("site-packages")]
    # The test environment's own editable shard-eval is a finder in a .pth file, which a plain path entry does not run.
    (site / "dependencies.pth").write_text("\n".join(ours))
    command = ["-m", "inspect_ai", "eval", "shard_eval/mini", "--model", "none/none", "--limit", "2"]
    command += ["-T", "judge=embedded", "-T", "solver=always_refuse", "--log-dir", "logs", "--display", "none"]
    done = subprocess.run([python, *command], **run)
    assert done.returncode == 0, done.stdout + done.stderr
    where = subprocess.run([python, "-c", "import shard_eval.tasks as t; print(t.__file__)"], **run)
    assert where.stdout.startswith(str(home))
    show = subprocess.run([home / "bin" / "shard", "show", "logs"], **run)
    assert "mini 1-A" in show.stdout, show.stderr


def test_inspect_finds_each_task_in_its_file():
    from inspect_ai import list_tasks

    found = {t.name for t in list_tasks(globs=["tasks"], root_dir=ROOT)}
    assert {b.task for b in BENCHMARKS.values()} | {"judge_calibration", "own_prompts", "pairwise"} == found


def test_tasks_have_versions_and_stay_thin():
    for file in (ROOT / "tasks").glob("*.py"):
        if file.name in ("__init__.py", "linguasafe.py"):
            continue
        text = file.read_text()
        assert re.search(r'"\d+-[A-Z]"', text), file.name
        assert len(text.splitlines()) <= 60, file.name


def test_every_prompt_file_is_used():
    files = [f for folder in ("shard_eval", "shard_train", "tasks") for f in (ROOT / folder).rglob("*.py")]
    code = "\n".join(f.read_text() for f in files)
    judged = {f"judge_{axis}" for axis in AXES} | {f"pair_{axis}" for axis in PAIR_AXES}  # named by the axis
    judged |= {f"guidelines_{guidelines.slug(name)}" for name in guidelines.TYPES}
    assert judged | {n for n in prompts.names() if f'"{n}"' in code} == set(prompts.names())


COMMANDS = (
    "shard score", "shard show", "shard data", "shard judge calibrate", "shard judge attack", "shard compare",
    "shard judge label", "shard judge train-embedded",
    "shard train watch", "shard leaderboard build", "shard leaderboard check", "shard leaderboard submit",
    "shard leaderboard export", "shard results import", "shard data lm-eval",
)  # fmt: skip


def test_the_readme_names_every_benchmark_solver_method_and_command():
    text = (ROOT / "README.md").read_text()
    for name in (*BENCHMARKS, *solvers.SOLVERS, *COMMANDS, *(f"shard train {m}" for m in METHODS)):
        assert f"`{name}" in text or name in text, name


def test_the_readme_shows_the_tree_as_it_is():
    text = (ROOT / "README.md").read_text()
    for file in (ROOT / "shard_eval").glob("*.py"):
        assert file.name in text or file.name == "__init__.py", file.name
    for file in (ROOT / "shard_train").glob("*.py"):
        assert file.stem in text or file.name in ("__init__.py", "cli.py"), file.name


@needs_data
@pytest.mark.parametrize("name", ["dna", "xstest", "or_bench_hard", "linguasafe_en"])
def test_nothing_of_the_public_benchmarks_is_in_the_tree(name):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / f for f in listed.splitlines() if f.endswith((".py", ".md", ".json", ".jsonl", ".csv"))]
    text = "\n".join(f.read_text(errors="ignore") for f in files if f.exists())
    assert not [r.id for r in benchmarks.load(name).records if len(r.prompt) > 30 and r.prompt in text]


def test_mini_is_what_its_card_says():
    records = benchmarks.load("mini").records
    triples: dict[str, list] = {}
    for record in records:
        triples.setdefault(record.cluster, []).append(record)
    assert len(triples) == 72
    for triple in triples.values():
        assert sorted(r.intent for r in triple) == ["ambiguous", "benign", "harmful"]
        assert len({r.split for r in triple}) == 1 and len({r.category for r in triple}) == 1
        levels = {r.intent: r.level for r in triple}
        assert levels["benign"] == 0 and levels["ambiguous"] in (1, 2) and levels["harmful"] in (2, 3)
    assert {r.type for r in records} == set(benchmarks.linguasafe.TYPES)
    assert len({r.category for r in records}) == 12
    assert all(r.need for r in records) and all(r.withhold for r in records if r.intent != "benign")


def test_mini_references_are_for_training_splits_and_keep_their_form():
    for row in benchmarks.mini.rows():
        if row["split"] == "test":
            assert "reference_response" not in row and "reframed_prompt" not in row
            continue
        assert row["response_mode"] in solvers.MODES
        assert 60 <= len(row["reference_response"].split()) <= 190
        assert (row["response_mode"] == "direct_answer") == (row["reformulated_component"] == "")


def test_mini_does_not_leak_between_its_splits():
    from shard_eval.splits import find_leaks

    records = benchmarks.load("mini").records
    train = [r for r in records if r.split == "train"]
    assert find_leaks(train, [r for r in records if r.split != "train"]) == []
