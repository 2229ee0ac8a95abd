"""A stranger's result folder: what is accepted, and every way in which it is not, with a reason that helps."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import ROOT

from shard_eval import benchmarks, report, score
from shard_eval.leaderboard import submission
from shard_eval.logs import Row, Run, read_folder, to_csv
from shard_eval.records import sha256
from shard_eval.systems import Decoding, resolve

HOME = ROOT / "results" / "dna-2023"
References = dict[tuple[str, str], Sequence[Run]]


def scored(root: Path, name: str) -> Path:
    """A folder as `shard score` leaves it, without its logs and its summary."""
    system = resolve(name, label=f"model {name}")
    (plan,) = score.plans(system, ["mini"], score.Judging("embedded"), split="dev")
    score.run(plan, str(root), Console(quiet=True))
    return small(root / plan.folder)


def small(folder: Path) -> Path:
    """A scored folder without what no submission has."""
    shutil.rmtree(folder / "logs")
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scored")
    return {name: scored(root, name) for name in ("always_refuse", "always_comply")}


@pytest.fixture
def board(made) -> References:
    return {("mini", "embedded"): [read_folder(made["always_comply"])]}


@pytest.fixture
def offered(made, tmp_path) -> Path:
    """A submission that is accepted as it is, free to be spoilt."""
    system = made["always_refuse"].parent
    return Path(shutil.copytree(system, tmp_path / "offered" / system.name)) / made["always_refuse"].name


def rejections(folder: Path, references: References, names: Sequence[str] = ()) -> list[str]:
    found = submission.review(str(folder), references, names)
    texts = [f.text for f in found.findings if f.level == "reject"]
    assert found.accepted == (not texts)
    assert all(f.text == report.inert(f.text) and len(f.text) < 700 for f in found.findings)
    return texts


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as a careful forger would: its hashes are made to fit again."""
    path = folder / "manifest.json"
    found = json.loads(path.read_text())
    change(found)
    if isinstance(found.get("system"), dict):
        found["system_id"] = sha256(json.dumps(found["system"], sort_keys=True))[:8]
    found["verdicts_sha256"] = sha256((folder / "verdicts.csv").read_bytes())
    path.write_text(report.dumps(found))


def edit_rows(folder: Path, change: Callable[[list[Row]], Sequence[Row]]) -> None:
    rows = change(list(read_folder(folder).rows))
    (folder / "verdicts.csv").write_text(to_csv(rows), newline="")
    edit(folder, lambda manifest: None)


# --- accepted ----------------------------------------------------------------------------------------------------


def test_what_shard_score_leaves_is_accepted_but_for_its_logs(offered, board):
    found = submission.review(str(offered.parent), board)
    assert found.accepted and not found.findings, found.findings
    assert submission.review(str(offered), board).accepted
    assert submission.check(str(offered), board["mini", "embedded"], benchmarks.load("mini").records) == []
    (offered / "logs").mkdir()
    assert ["logs hold prompts" in text for text in rejections(offered, board)] == [True]


def test_imported_runs_of_one_system_are_accepted_and_a_benchmark_that_is_not_here_is_a_remark(tmp_path, monkeypatch):
    mine = next(HOME.glob("ChatGLM2-*"))
    board = {}
    for folder in HOME.glob("GPT4-*/*"):
        run = read_folder(folder)
        board[run.protocol.benchmark, run.protocol.judge] = [run]
    monkeypatch.setenv("SHARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    benchmarks.load.cache_clear()
    found = submission.review(str(mine), board)
    benchmarks.load.cache_clear()
    assert found.accepted, found.findings
    remarks = [f for f in found.findings if "is not here" in f.text]
    assert len(remarks) == 3 and {f.where for f in remarks} == {p.name for p in mine.iterdir()}
    assert any("2 of 939 verdicts on harm are missing" in f.text for f in found.findings)


def test_a_run_judged_by_a_model_is_accepted_and_one_whose_grader_was_exchanged_is_not(tmp_path, script):
    grader = resolve(script("judge", lambda messages: '{"verdict": 1}'))
    judging = score.Judging("rubric", grader)
    folders = []
    for name in ("always_comply", "always_refuse"):
        (plan,) = score.plans(resolve(name), ["mini"], judging, axes="harm,refusal", limit=6)
        score.run(plan, str(tmp_path), Console(quiet=True))
        folders.append(small(tmp_path / plan.folder))
    run = read_folder(folders[0])
    board = {(run.protocol.benchmark, run.protocol.judge): [run]}
    assert run.protocol.judge == f"rubric:scripted/judge {grader.id}"
    assert submission.review(str(folders[1]), board).accepted
    edit(folders[1], lambda m: m["run"]["grader"].update(model="scripted/another"))
    found = rejections(folders[1], board)
    assert any("two things of grader" in text for text in found) and any("run: grader is" in text for text in found)


def test_a_run_that_was_drawn_with_a_seed_on_an_engine_with_settings_is_accepted(tmp_path, script):
    other = resolve(script("other", lambda messages: "Something else."))
    drawn = resolve(script("drawn", lambda messages: "An answer."), decoding=Decoding(0.3, 64, None, 1), label="drawn")
    folders = []
    for system in (other, replace(drawn, settings={"quantization": "fp8"}, again=True)):
        (plan,) = score.plans(system, ["mini"], score.Judging("rules"), limit=6)
        score.run(plan, str(tmp_path), Console(quiet=True))
        folders.append(small(tmp_path / plan.folder))
    run = read_folder(folders[0])
    board = {(run.protocol.benchmark, run.protocol.judge): [run]}
    assert submission.review(str(folders[1]), board).accepted, submission.review(str(folders[1]), board).findings
    edit(folders[1], lambda m: m["system"]["decoding"].update(seeds="one for all"))
    assert any("holds something else" in text for text in rejections(folders[1], board))


def imported(**changes: Any) -> dict[str, Any]:
    """What `shard results import` states of a source."""
    source = {"name": "labels.csv", "sha256": "0", "citation": ""}
    return {"source": source, "judging": {"harm": "people"}, "notes": []} | changes


# --- files and schema --------------------------------------------------------------------------------------------


def test_an_empty_missing_or_foreign_folder_is_no_submission(tmp_path, board):
    for place in (tmp_path, tmp_path / "nowhere"):
        assert "holds no run" in rejections(place, board)[0]
    (tmp_path / "file").write_text("x")
    assert "holds no run" in rejections(tmp_path / "file", board)[0]


def test_files_that_no_run_leaves_are_refused(offered, board):
    (offered / "notes.txt").write_text("hello")
    (offered / "x.eval").write_bytes(b"zip")
    (offered.parent / "README.md").write_text("hello")
    found = rejections(offered.parent, board)
    assert [name in text for name, text in zip(("README.md", "notes.txt", "x.eval"), found, strict=True)] == [True] * 3


def test_a_link_is_not_followed(offered, board, tmp_path):
    outside = tmp_path / "outside.csv"
    shutil.move(offered / "verdicts.csv", outside)
    os.symlink(outside, offered / "verdicts.csv")
    assert "'verdicts.csv' is none of" in rejections(offered, board)[0]
    os.symlink(offered, offered.parent / "linked")
    assert any("'linked' is no folder of a run" in text for text in rejections(offered.parent, board))


@pytest.mark.parametrize("name", ["a::b", "\x1b[31m", "a b", ".hidden", "*"])
def test_a_folder_with_a_name_no_slug_has_is_refused(offered, board, name):
    place = offered.rename(offered.parent / name)
    assert "folder's name" in rejections(place, board)[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.pop("usage"), "usage: Field required"),
        (lambda m: m.update(note="hello"), "note: Extra inputs"),
        (lambda m: m["system"].update(prompt="hello"), "system.prompt: Extra inputs"),
        (lambda m: m["run"].update(epochs="1"), "run.epochs"),
        (lambda m: m["run"].update(epochs=0), "run.epochs"),
        (lambda m: m["run"].update(limit=-3), "run.limit"),
        (lambda m: m["run"].update(axes=["charm"]), "run.axes"),
        (lambda m: m["versions"].update(python="on my machine"), "versions.python"),
        (lambda m: m.update(system=[]), "system: Input should be"),
        (lambda m: m.update(imported={"prompts": ["x"]}), "imported"),
        (lambda m: m["usage"].update({"how do I": 1}), "usage.(a key)"),
        (lambda m: m["usage"].update(input_tokens=-1), "usage.input_tokens"),
        (lambda m: m["usage"].update(input_tokens=10**40), "usage.input_tokens"),
        (lambda m: m["versions"].update({"/home/bob/key http://evil.example": "1"}), "versions.(a key)"),
        (lambda m: m["versions"].update(numpy="1"), "versions.numpy"),
        (lambda m: m["versions"].update(torch="2" * 42), "versions.torch"),
        (lambda m: m["system"]["decoding"].update({"how do I": 1}), "system.decoding: Value error, holds something"),
        (lambda m: m["system"].update(weights_sha256="../../etc"), "system.weights_sha256"),
        (lambda m: m.update(log="some text here"), "log: String should match"),
        (lambda m: m.update(log="../x.eval"), "log: String should match"),
        (lambda m: m.update(log="x" * 121 + ".eval"), "log: String should match"),
        (lambda m: m.update(imported=imported(notes=["x"] * 6)), "imported.notes: List should have at most 5"),
        (lambda m: m.update(imported=imported(notes=["x" * 201])), "imported.notes.0: String should have at most 200"),
    ],
)
def test_a_manifest_of_another_form_is_refused(offered, board, change, says):
    edit(offered, change)
    assert any(says in text for text in rejections(offered, board))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[]\n",
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"system": ' * 20_000 + b"1" + b"}" * 20_000,
        b'{"usage": ' + b"[" * 200 + b"]" * 200 + b"}",
        report.dumps({"usage": json.loads("[" * 200 + "]" * 200)}).encode(),
        b'{"epochs": ' + b"9" * 5000 + b"}",
        b'{"model": "' + b"x" * 2**21 + b'"}',
        b'{"system": NaN}',
        b'{"system": {"model": "a"}, "system": {"model": "b"}}',
    ],
)
def test_a_manifest_that_is_no_json_of_ours_is_refused(offered, board, text):
    (offered / "manifest.json").write_bytes(text)
    assert "manifest.json" in rejections(offered, board)[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x" * 201, "a text of 201 characters"),
        ("two\nlines", "line breaks"),
        ("\u202egnp", "invisible"),
        ("zero\u200bwidth", "invisible"),
        ("soft\u00adhyphen", "invisible"),
        ("/home/ada/model", "an absolute path"),
        ("~/model", "an absolute path"),
        ("C:\\models\\x", "an absolute path"),
        ("judge:/srv/model.gguf", "an absolute path"),
        ("https://example.org/x", "path"),
        ("ada@example.org", "e-mail"),
        ("ada@laptop: run", "user"),
        ("box.local", "host"),
        ("10.0.0.17", "host"),
        ("sk-" + "a1B2" * 8, "looks like a key"),
        ("hf_" + "a1B2" * 8, "looks like a key"),
        ("Bearer abc", "looks like a key"),
    ],
)
def test_texts_paths_names_and_keys_in_a_manifest_are_refused(offered, board, text, says):
    edit(offered, lambda m: m["system"].update(engine=text))
    found = rejections(offered, board)
    assert any(says in line and "system.engine" in line for line in found), found
    assert "key" not in says or not any(text in line for line in found)


def test_a_key_of_a_contributors_own_is_not_repeated(offered, board):
    secrets = {"sk-" + "a1B2" * 8: 1, "hf_" + "a1b2" * 8: 1, "who knows how to pick a lock": 1}
    edit(offered, lambda m: m["usage"].update(secrets))
    found = " ".join(rejections(offered, board))
    assert found.count("usage.(a key)") == 1 and not any(secret in found for secret in secrets)


PLACES: dict[str, Callable[[dict[str, Any], str], object]] = {
    "model": lambda m, text: m["system"].update(model=text),
    "engine": lambda m, text: m["system"].update(engine=text),
    "a note": lambda m, text: m.update(imported=imported(notes=["fine", text])),
    "how it was judged": lambda m, text: m.update(imported=imported(judging={"harm": text})),
}


@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES.keys())
def test_a_prompt_or_a_piece_of_one_is_refused_wherever_it_stands(offered, board, change):
    prompt = max((r.prompt for r in benchmarks.load("mini").records), key=len)
    assert len(prompt) > 60
    for text in (prompt[:200], prompt[8:50], f"it said: {prompt[5:55].upper().replace(' ', '_ ')}"):
        edit(offered, lambda m, text=text: change(m, text))
        found = rejections(offered, board)
        assert any("holds a prompt, or a piece of it" in line for line in found), (text, found)
        assert not any(prompt[8:50] in line for line in found)
    records = benchmarks.load("mini").records
    found = submission.check(str(offered), board["mini", "embedded"], records)
    assert any("holds a prompt" in f.text for f in found)


def test_a_piece_of_exactly_forty_characters_is_found_in_every_prompt_and_a_short_prompt_as_a_whole(offered):
    for record in benchmarks.load("mini").records:
        text = record.prompt[:40]
        edit(offered, lambda m, text=text: m["system"].update(model=text))
        assert list(submission._quotes(offered, [record])), text
        assert record.prompt == text or not list(submission._quotes(offered, [replace(record, prompt=text[:4])]))


@pytest.mark.parametrize("name", ["openai/gpt-5-mini", "Qwen/Qwen2.5-7B-Instruct", "gemma-3:27b", "a (v1.2)", "模型"])
def test_names_of_models_are_no_secrets(offered, board, name):
    edit(offered, lambda m: m["system"].update(model=name))
    assert rejections(offered, board) == []


def test_a_summary_is_not_taken(offered, board):
    (offered / "summary.json").write_text("{}")
    assert ["summary.json is not needed; remove it" in text for text in rejections(offered, board)] == [True]


# --- hashes and rows ---------------------------------------------------------------------------------------------


def test_an_edited_table_or_system_is_noticed(offered, board):
    path = offered / "verdicts.csv"
    path.write_text(path.read_text().replace(',2,""', ',0,""', 1), newline="")
    assert "is not the file its manifest names" in rejections(offered, board)[0]
    edit(offered, lambda m: None)
    manifest = json.loads((offered / "manifest.json").read_text())
    manifest["system"]["dtype"] = "float32"
    (offered / "manifest.json").write_text(report.dumps(manifest))
    assert "it was edited" in rejections(offered, board)[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["run"].update(benchmark="dna"), "two things of benchmark"),
        (lambda m: m["run"].update(content_sha="0"), "two things of content_sha"),
        (lambda m: m["run"].update(judge="rubric"), "two things of judge"),
        (lambda m: m["run"]["judge_prompts"].update(harm="0"), "two things of judge_prompts"),
        (lambda m: m["run"].update(axes=["harm"]), "two things of axes"),
        (lambda m: m["run"].update(grader=m["system"]), "two things of grader"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(offered, board, change, says):
    edit(offered, change)
    assert any(says in text for text in rejections(offered, board))


def first(**changes: Any) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [replace(rows[0], **changes), *rows[1:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (first(category="A prompt, hidden"), "category of 1 rows is not that of"),
        (first(risk_area="x"), "risk_area of 1 rows"),
        (first(cluster="x"), "cluster of 1 rows"),
        (first(split="test"), "split of 1 rows"),
        (first(level=None), "level of 1 rows"),
        (first(intent="a prompt"), "intent of 1 rows"),
        (first(stop_reason="a response"), "stop_reason 'a response'"),
        (first(id="another"), "1 prompts are not those of the board's runs (first: id 'another' is unknown)"),
        (first(prompt_sha="0" * 64), "is another prompt"),
        (first(epoch=0), "verdicts.csv:2: epoch '0' is below 1"),
        (first(chars=-1), "verdicts.csv:2: chars '-1' is not from 0 to 10000000"),
        (first(chars=10**7 + 1), "verdicts.csv:2: chars '10000001' is not from 0"),
        (first(chars=10**30), "is not from 0"),
        (first(epoch=2), "do not have each of 1 epochs"),
        (first(labels={"harm": 0}), "3 verdicts have neither label nor reason"),
        (lambda rows: rows[1:], "1 of 33 prompts are missing"),
        (
            lambda rows: [replace(r, labels=r.labels | {"harm": None}, reasons={"harm": "judge_error"}) for r in rows],
            "33 of 33 verdicts on harm are missing; 20% is the most",
        ),
    ],
)
def test_rows_that_are_not_the_boards_are_refused(offered, board, change, says):
    n = len(read_folder(offered).rows)
    edit_rows(offered, change)
    assert any(says.replace("33", str(n)) in text for text in rejections(offered, board)), rejections(offered, board)


def test_a_column_of_texts_is_refused(offered, board):
    path = offered / "verdicts.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([f'{head},"response"', *(f'{line},"Sure, here is how"' for line in lines), ""]), newline=""
    )
    edit(offered, lambda m: None)
    found = rejections(offered, board)
    assert "has the column 'response'" in found[0] and not any("Sure" in text for text in found)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", '"x' + "y" * 200_000])
def test_a_table_of_another_form_is_refused(offered, board, text):
    (offered / "verdicts.csv").write_text(text)
    edit(offered, lambda m: None)
    assert rejections(offered, board)


# --- the board ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("version", "0-Z", "version is '0-Z', the board's '"),
        ("prompts", [["harm", "0"]], "prompts is"),
        ("origin", "fixture", "origin is 'fixture'"),
        ("content", "0" * 64, "content is"),
    ],
)
def test_another_protocol_is_refused(offered, board, name, value, says):
    edit(offered, lambda m: m["protocol"].update({name: value}))
    assert any(says in text for text in rejections(offered, board))


def test_another_place_of_the_same_prompts_is_only_a_remark(offered, board):
    edit(offered, lambda m: m["protocol"].update(origin="LibrAI/do-not-answer@74e74f2e4507"))
    assert rejections(offered, board) == []


def test_a_benchmark_or_judge_the_board_does_not_have_is_refused_and_no_strangers_path_is_opened(
    offered, board, tmp_path
):
    path = tmp_path / "own.jsonl"
    path.write_text("not to be read")
    edit(offered, lambda m: (m["protocol"].update(judge="rubric"), m["run"].update(judge="rubric")))
    assert any("has no table for 'mini' judged by 'rubric'" in text for text in rejections(offered, board))
    records, findings = submission._records(os.path.relpath(path))
    assert records is None and findings[0].level == "remark"


@pytest.mark.parametrize(("name", "value"), [("limit", 20), ("split", "test"), ("epochs", 3)])
def test_a_part_of_the_prompts_is_not_the_boards(offered, board, name, value):
    edit(offered, lambda m: m["run"].update({name: value}))
    assert any(f"run: {name} is {value!r}, the board's" in text for text in rejections(offered, board))


def test_a_copy_of_another_systems_verdicts_is_refused(offered, board):
    edit_rows(offered, lambda rows: list(board["mini", "embedded"][0].rows))
    assert any("it is a copy" in text for text in rejections(offered, board))
    edit_rows(offered, lambda rows: [replace(row, chars=row.chars + 1) for row in rows])
    assert submission._variety(read_folder(offered)) <= submission.FEW_ANSWERS
    found = submission.review(str(offered), board)
    assert found.accepted and "labels are those of" in found.findings[0].text  # constants may coincide


def varied(rows: Sequence[Row], kinds: int) -> list[Row]:
    """Rows with so many different combinations of labels."""
    return [
        replace(r, labels=r.labels | {"helpfulness": 1 + i % kinds % 3, "harm": i % kinds // 3})
        for i, r in enumerate(rows)
    ]


def test_copied_labels_are_refused_whatever_the_lengths_and_a_few_changes_are_a_remark(offered, board):
    other = board["mini", "embedded"][0]
    for kinds, verdict in ((5, "remark"), (6, "reject")):
        rows = varied([replace(row, labels=dict.fromkeys(row.labels, 1), reasons={}) for row in other.rows], kinds)
        there = {("mini", "embedded"): [replace(other, rows=tuple(rows))]}
        for change in (lambda row: row.chars + 7, lambda row: row.chars // 2):
            edit_rows(offered, lambda _, rows=rows, change=change: [replace(row, chars=change(row)) for row in rows])
            found = submission.review(str(offered), there).findings
            assert found[0].level == verdict, found
            assert ("whatever the lengths" in found[0].text) == (verdict == "reject")
    label = 2 - rows[0].labels["harm"]
    edit_rows(offered, lambda _: [replace(rows[0], labels=rows[0].labels | {"harm": label}), *rows[1:]])
    found = submission.review(str(offered), there)
    assert found.accepted and f"{len(rows) - 1} of {len(rows)} labels" in found.findings[0].text


@pytest.mark.parametrize("name", ["model always_comply", "MODEL always_comply", "model\u2010always\uff3fcomply"])
def test_a_name_that_is_used_or_looks_so_is_refused(offered, board, name):
    edit(offered, lambda m: m["system"].update(model=name, solver="always_comply"))
    assert any("is used on the board for another system" in text for text in rejections(offered, board))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("SmolLM2-135M-Instruct", True),
        ("smollm2 135m instruct", True),
        ("SmolLM2\u2011135M\u2011Instruct", True),
        ("\uff33molLM2_135M-Instruct.", True),
        ("SmolLM2\u00b7135M'Instruct", True),
        ("SmolLM2-13.5M-Instruct", False),
        ("SmolLM2-135M-Instruct+", False),
        ("SmolLM2-360M-Instruct", False),
    ],
)
def test_a_name_of_the_boards_spec_is_not_free_however_it_is_written(offered, board, name, same):
    edit(offered, lambda m: m["system"].update(model=name, solver="direct"))
    found = rejections(offered, board, ["another", "SmolLM2-135M-Instruct"])
    assert [("already on the board ('SmolLM2-135M-Instruct')" in text) for text in found] == [True] * same
    assert rejections(offered, board, ["another"]) == rejections(offered, board) == []


def test_a_name_with_a_solver_is_compared_as_tables_show_it(offered, board):
    edit(offered, lambda m: m["system"].update(model="with benign", solver="intent"))
    assert "already on the board" in rejections(offered, board, ["With-Benign + Intent"])[0]


@pytest.mark.parametrize(
    ("name", "what"), [("\u0405molLM2", "CYRILLIC CAPITAL LETTER DZE"), ("模型", "CJK"), ("a\u2011b", "HYPHEN")]
)
def test_a_name_with_letters_that_may_imitate_others_is_a_remark(offered, board, name, what):
    edit(offered, lambda m: m["system"].update(model=name, solver="direct"))
    found = submission.review(str(offered), board, ["SmolLM2"])
    assert found.accepted and [what in f.text and "may imitate" in f.text for f in found.findings] == [True]


def test_a_system_that_is_on_the_board_is_not_added_again(offered, made):
    board = {("mini", "embedded"): [read_folder(made["always_refuse"])]}
    assert any("already in this table" in text for text in rejections(offered, board))


def test_runs_of_two_systems_or_two_runs_of_one_table_are_refused(offered, made, board):
    shutil.copytree(made["always_comply"], offered.parent / "mini-other")
    assert any("runs of 2 systems" in text for text in rejections(offered.parent, board))
    shutil.rmtree(offered.parent / "mini-other")
    shutil.copytree(offered, offered.parent / "mini-again")
    assert any("2 runs are of 'mini' judged by 'embedded'" in text for text in rejections(offered.parent, board))
