"""The publishing kit: what the hub's own parsers read from it, names meant to do harm, and a folder for hosting."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from boards import HOSTILE, board
from huggingface_hub import DatasetCard, EvalResult, ModelCard
from inspect_ai.log import list_eval_logs, read_eval_log
from pyarrow import parquet
from rich.console import Console
from support import ROOT

from shard_eval import score
from shard_eval.errors import UsageError
from shard_eval.leaderboard import publish
from shard_eval.leaderboard.table import Board, Verdict
from shard_eval.logs import Row, Run, read_folder
from shard_eval.systems import resolve


def results(made: Board, system: str) -> list[EvalResult]:
    """What the hub reads from the block."""
    card = ModelCard(publish.model_index(made, system) + "\n# a model\n")
    assert card.data.model_name == system
    return list(card.data.eval_results or [])


# --- model card --------------------------------------------------------------------------------------------------


def test_the_hub_reads_every_metric_with_its_interval_judge_and_verdict():
    made = board(4)
    verdict = Verdict("more helpful and not less safe", "SUPPORTED", 0.01, (), ())
    systems = dict(made.systems) | {"model-001": replace(made.systems["model-001"], verdict=verdict)}
    found = results(replace(made, systems=systems), "model-001")
    assert {(r.dataset_type, r.metric_type) for r in found} == {
        (b, m) for b in ("mini", "dna") for m in ("joint", "harmful", "helpfulness", "over_refusal")
    }
    for result in found:
        (row,) = (
            r for t in made.tables if t.benchmark == result.dataset_type for r in t.rows if r.system == "model-001"
        )
        estimate = row.measured[result.metric_type]
        args = result.metric_args or {}
        assert result.metric_value == round(estimate.value, 4) and args["low"] == round(estimate.low, 4)
        assert (args["level"], args["n"], args["judge"]) == (0.95, estimate.n, "embedded")
        assert (args["verdict"], args["claim"], args["baseline"]) == (verdict.words, "SUPPORTED", "base-model-7B")
        assert "against people" in args["judge_against_people"]
    names = {r.metric_type: r.metric_name for r in found}
    assert names["harmful"] == "harmful (lower is better)"
    assert {r.dataset_name for r in found} >= {"Do-Not-Answer (arXiv:2308.13387)"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_meant_to_do_harm_is_a_name_to_the_hub_and_plain_ascii_in_the_file(name):
    made = board(8, hostile=True)
    text = publish.model_index(made, name)
    assert text.isascii() and text.count("\n---\n") == 1 and "\x1b" not in text
    assert len(results(made, name)) == 8


@pytest.mark.parametrize("name", ["yes", "1.0", "null", "- a: b", "*x", "!!python/object:os.system", "a: b #c", "---"])
def test_a_name_that_yaml_would_take_for_something_else_stays_text(name):
    made = board(3, benchmarks=("mini",))
    (table,) = made.tables
    rows = tuple(replace(r, system=name) if r.system == "model-001" else r for r in table.rows)
    system = replace(made.systems["model-001"], name=name)
    changed = replace(made, tables=(replace(table, rows=rows, judge=name),), systems={**made.systems, name: system})
    assert [r.metric_args["judge"] for r in results(changed, name)] == [name] * 4


def test_a_fixtures_numbers_are_not_put_on_a_card():
    made = board(3)
    part = replace(made, tables=(made.tables[0], replace(made.tables[1], fixture=True)))
    assert {r.dataset_type for r in results(part, "model-001")} == {"mini"}
    none = replace(made, tables=tuple(replace(t, fixture=True) for t in made.tables))
    with pytest.raises(UsageError, match="no number of 'model-001' that may be quoted"):
        publish.model_index(none, "model-001")
    with pytest.raises(UsageError, match="Did you mean 'model-001'"):
        publish.model_index(made, "model-01")


# --- data set ----------------------------------------------------------------------------------------------------


def some_runs(made: Board, n: int = 5) -> list[Run]:
    """A small run for every row, read from its folder."""
    base = read_folder(next((ROOT / "results" / "dna-2023").glob("GPT4-*/dna-gpt-4*")))
    unscored = next(row for row in base.rows if row.reasons)
    rows = [(row, table.benchmark) for table in made.tables for row in table.rows]
    return [
        replace(base, log=row.folder, rows=tuple(replace(r, benchmark=name) for r in (*base.rows[:n], unscored)))
        for row, name in rows
    ]


def test_all_verdicts_of_a_board_are_read_back_from_parquet():
    made = board(8, hostile=True)
    runs = some_runs(made)
    found, read = publish.dataset(made, runs), {run.log: run for run in runs}
    assert set(found) == {"README.md", "data/mini-embedded.parquet", "data/dna-embedded.parquet"}
    assert publish.dataset(made, runs[::-1]) == found
    for table in made.tables:
        lines = parquet.read_table(io.BytesIO(found[f"data/{table.key}.parquet"])).to_pylist()
        assert len(lines) == 6 * len(table.rows)
        assert list(dict.fromkeys(line["system"] for line in lines)) == [row.system for row in table.rows]
        rows: list[Row] = [r for row in table.rows for r in sorted(read[row.folder].rows, key=lambda r: r.id)]
        for line, row in zip(lines, rows, strict=True):
            assert (line["id"], line["prompt_sha"], line["chars"]) == (row.id, row.prompt_sha, row.chars)
            assert line["harm"] == row.labels["harm"] and line["harm_unscored"] == row.reasons.get("harm", "")
            assert line["helpfulness"] is None and line["level"] is None
    assert set(HOSTILE) <= {line["system"] for line in lines}


def test_the_data_sets_card_names_columns_and_licences_and_its_files_exist():
    made = board(3, benchmarks=("mini", "dna", "xstest"))
    found = publish.dataset(made, some_runs(made))
    card = DatasetCard(found["README.md"].decode())
    configs = card.data.to_dict()["configs"]
    assert {c["data_files"] for c in configs} == set(found) - {"README.md"}
    assert card.data.license == "other"
    columns = parquet.read_schema(io.BytesIO(found["data/mini-embedded.parquet"])).names
    text = card.text.replace("\\", "")
    assert all(f"| {name} |" in text for name in columns)
    assert "CC0-1.0" in text and "CC BY 4.0" in text
    assert "Apache-2.0 or CC BY-NC-SA 4.0: treat as the stricter" in text
    alone = board(3, benchmarks=("dna",))
    one = DatasetCard(publish.dataset(alone, some_runs(alone))["README.md"].decode())
    assert one.data.license == "cc-by-nc-sa-4.0"


def test_a_title_or_judge_meant_to_do_harm_is_text_on_the_card():
    made = board(3, benchmarks=("mini",))
    for name in HOSTILE:
        changed = replace(made, title=name, tables=(replace(made.tables[0], judge=name),))
        text = publish.dataset(changed, some_runs(changed))["README.md"].decode()
        body = text.split("\n---\n", 1)[1]
        assert DatasetCard(text).data.to_dict()["pretty_name"] == name
        assert "<script" not in body.replace("\\<", "") and "<img" not in body.replace("\\<", "")
        assert "](https" not in body.replace("\\]", "") and not set("\x1b\u202e\u200b") & set(text)


def test_a_data_set_needs_every_run():
    made = board(3)
    runs = some_runs(made)
    gone = runs.pop().log
    with pytest.raises(UsageError, match=gone):
        publish.dataset(made, runs)


# --- site --------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path) -> Path:
    folder = tmp_path / "board"
    (folder / "pictures").mkdir(parents=True)
    for name in ("index.html", "board.md", "board.csv", "board.json", "board.tex", "pictures/forest.svg"):
        (folder / name).write_text(f"content of {name}")
    return folder


def test_a_site_is_the_boards_files_and_what_hosts_look_for(built, tmp_path):
    lines = publish.site(built, tmp_path / "out")
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {
        "index.html", "board.md", "board.csv", "board.json", "board.tex", "pictures/forest.svg", "robots.txt",
        ".nojekyll",
    }  # fmt: skip
    assert (tmp_path / "out" / "index.html").read_text() == "content of index.html"
    assert (tmp_path / "out" / "robots.txt").read_text() == "User-agent: *\nDisallow: /\n"
    assert not any("arning" in line for line in lines)


def test_a_site_takes_nothing_that_is_no_part_of_a_board_and_overwrites_nothing(built, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        publish.site(built, tmp_path / "full")
    with pytest.raises(UsageError, match="no folder of a board"):
        publish.site(tmp_path / "nowhere", tmp_path / "out")
    (built / "second.html").write_text("x")
    with pytest.raises(UsageError, match=r"second\.html"):
        publish.site(built, tmp_path / "out")
    (built / "second.html").unlink()
    (built / "key.pem").write_text("x")
    with pytest.raises(UsageError, match=r"'key\.pem', which is no file of a board"):
        publish.site(built, tmp_path / "out")
    (built / "key.pem").unlink()
    (built / "linked.csv").symlink_to(tmp_path / "full" / "x")
    with pytest.raises(UsageError, match=r"linked\.csv"):
        publish.site(built, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logs_go_along_only_when_named_with_a_viewer_a_warning_and_no_path(built, tmp_path):
    system = resolve("always_refuse")
    for split in ("dev", "test"):
        (plan,) = score.plans(system, ["mini"], score.Judging("embedded"), split=split, limit=3)
        score.run(plan, str(tmp_path / split), Console(quiet=True))
    with pytest.raises(UsageError, match=r"holds no \.eval log"):
        publish.site(built, tmp_path / "out", [str(built)])
    lines = publish.site(built, tmp_path / "out", [str(tmp_path / "dev"), str(tmp_path / "test")])
    assert lines[0].startswith("Warning: logs/ holds prompts and responses") and "2 logs" in lines[-1]
    viewer = tmp_path / "out" / "logs"
    assert {read_eval_log(info.name).status for info in list_eval_logs(str(viewer / "logs"))} == {"success"}
    assert {p.parent.name for p in (viewer / "logs").rglob("*.eval")} == {"1-dev", "2-test"}
    listing = json.loads((viewer / "logs" / "listing.json").read_text())
    assert len(listing) == 2
    for path in (viewer / "index.html", viewer / "logs" / "listing.json"):
        assert not any(place in path.read_text() for place in ("/tmp", str(tmp_path), str(ROOT)))


def test_without_pyarrow_the_data_set_says_how_to_get_it(monkeypatch):
    made = board(2, benchmarks=("mini",))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'shard-eval\[parquet\]'"):
        publish.dataset(made, some_runs(made))
    assert publish.model_index(made, "model-001")
