"""Results from elsewhere: the released labels of Do-Not-Answer as committed, and label files, right and wrong."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import DATA, ROOT, needs_data

from shard_eval import benchmarks, importing, passports, summary
from shard_eval.cli_results import results as command
from shard_eval.errors import UsageError
from shard_eval.logs import Run, read_folder, to_csv
from shard_eval.records import sha256

HOME = ROOT / "results" / "dna-2023"
JUDGES = [review.judge.name for review in importing.DNA_2023]


def committed() -> dict[tuple[str, str], Run]:
    runs = [read_folder(path.parent) for path in sorted(HOME.glob("*/*/manifest.json"))]
    return {(run.model, run.protocol.judge): run for run in runs}


def shard_results(*args: str) -> Result:
    return CliRunner().invoke(command, list(args), env={"COLUMNS": "200"})


# --- what is committed -------------------------------------------------------------------------------------------


def test_the_committed_labels_give_the_published_harmless_rates():
    runs = committed()
    assert set(runs) == {(model, judge) for model in importing.PUBLISHED for judge in JUDGES}
    for model, published in importing.PUBLISHED.items():
        for judge, rate in zip(JUDGES, published, strict=True):
            judged, counted = importing.harmless(runs[model, judge].rows)
            assert round(counted, 1) == rate, (model, judge)
            assert abs(judged - counted) < 0.02  # GPT-4 left out nine of 5,634
            if judge != "GPT-4 (2023)":
                assert judged == counted


def test_replies_gpt4_gave_no_category_have_no_label_and_the_seven_categories_are_six():
    missing = {}
    for (model, judge), run in committed().items():
        missing[model, judge] = summary.unscored(run.rows)
        assert {label for row in run.rows for label in [row.labels["action"]]} <= {0, 1, 2, 3, 4, 5, None}
        assert {row.labels["harm"] for row in run.rows} <= {0, 1, None}
    found = {model: missing[model, "GPT-4 (2023)"] for model in importing.PUBLISHED}
    assert {model: dict(c["harm"]) for model, c in found.items()} == {
        "ChatGLM2": {"unparseable": 2},
        "ChatGPT": {"unparseable": 1},
        "GPT4": {"unparseable": 2},
        "llama2-7b-chat": {"unparseable": 2},
    }
    assert not any(c for key, counts in missing.items() if key[1] != "GPT-4 (2023)" for c in counts.values())


def test_the_committed_folders_are_whole_small_and_alike():
    runs = committed()
    assert (
        len({(r.protocol.content, r.protocol.task, r.protocol.version, r.protocol.origin) for r in runs.values()}) == 1
    )
    assert len({sha256(json.dumps([(r.id, r.prompt_sha) for r in run.rows])) for run in runs.values()}) == 1
    for path in HOME.glob("*/*/*"):
        assert path.name in ("manifest.json", "verdicts.csv") and path.stat().st_size < 300_000
    for path in HOME.glob("*/*/manifest.json"):
        found = json.loads(path.read_text())
        assert found["system_id"] == sha256(json.dumps(found["system"], sort_keys=True))[:8]
        assert path.parent.parent.name.endswith(found["system_id"])
        assert path.parent.name.endswith(sha256(json.dumps(found["run"], sort_keys=True))[:8])
        assert found["verdicts_sha256"] == sha256((path.parent / "verdicts.csv").read_bytes())
        assert found["run"]["judge_prompts"] == dict(found["protocol"]["prompts"])
        assert to_csv(read_folder(path.parent).rows) == (path.parent / "verdicts.csv").read_text()


def test_the_committed_passports_are_found_by_judge_and_prompts_with_the_papers_agreement():
    runs = committed()
    kappas = {}
    with passports.kept_in(ROOT / "leaderboards" / "passports"):
        for judge in JUDGES:
            protocol = runs["GPT4", judge].protocol
            for a in passports.agreements(judge, dict(protocol.prompts)):
                kappas[judge, a.axis] = round(a.found["kappa"], 3)
                assert a.on == "dna" and a.found["n"] == (3749 if judge == "GPT-4 (2023)" else 3756)
        assert passports.agreements("GPT-4 (2023)", {"harm": "another prompt"}) == []
    assert kappas == {
        ("GPT-4 (2023)", "action"): 0.896,
        ("GPT-4 (2023)", "harm"): 0.745,
        ("Longformer (2023)", "action"): 0.846,
        ("Longformer (2023)", "harm"): 0.734,
    }
    found = json.loads((ROOT / "leaderboards" / "passports" / "gpt-4-2023-dna.json").read_text())
    harm = found["agreement"]["harm"]
    assert set(harm) == {"all", *importing.PUBLISHED}
    for group in harm.values():
        for rate in ("sensitivity", "specificity"):
            interval = group["detection"][rate]
            assert interval["low"] <= interval["value"] <= interval["high"]


@needs_data
def test_the_command_writes_what_is_committed(tmp_path):
    found = shard_results("import", "dna-2023", "--log-dir", str(tmp_path / "r"), "--passports", str(tmp_path / "p"))
    assert found.exit_code == 0, found.output
    assert "published %" in found.stdout and "12 runs" in found.stderr
    for made, kept in ((tmp_path / "r" / "dna-2023", HOME), (tmp_path / "p", ROOT / "leaderboards" / "passports")):
        files = {p.relative_to(made): p.read_bytes() for p in made.rglob("*") if p.is_file()}
        theirs = {p.relative_to(kept): p.read_bytes() for p in kept.rglob("*") if p.is_file()}
        assert files.items() <= theirs.items() and len(files) in (24, 2)


@needs_data
def test_no_question_and_no_response_is_in_what_is_committed():
    texts = set()
    for path in (DATA / "do-not-answer" / "review").glob("*/*.csv"):
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                texts |= {row["question"].strip(), row["response"].strip()[:60], (row.get("action_review") or "")[:60]}
    kept = "\n".join(p.read_text() for p in (*HOME.rglob("*.*"), *(ROOT / "leaderboards" / "passports").glob("*")))
    assert len(texts) > 3000
    assert not [len(text) for text in texts if len(text) >= 12 and text in kept]


@needs_data
def test_a_review_file_with_other_labels_is_not_taken_for_the_released_one(tmp_path, monkeypatch):
    review = tmp_path / "do-not-answer" / "review"
    for judge in ("human", "gpt4", "longformer"):
        (review / judge).mkdir(parents=True)
        for path in (DATA / "do-not-answer" / "review" / judge).glob("*.csv"):
            (review / judge / path.name).symlink_to(path)
    (tmp_path / "do-not-answer" / "do_not_answer_en.csv").symlink_to(DATA / "do-not-answer" / "do_not_answer_en.csv")
    changed = review / "human" / "ChatGLM2.csv"
    with open(changed, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    changed.unlink()
    with open(changed, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"harmful": "1"} for row in rows)
    monkeypatch.setenv("SHARD_DATA_DIR", str(tmp_path))
    with pytest.raises(importing.DataError, match=r"0\.0 % harmless, the paper 90\.9"):
        importing.dna_2023(str(tmp_path / "results"))


# --- labels of one's own -----------------------------------------------------------------------------------------

ORIGIN = importing.Origin("my model", "panel of three", "majority of three annotators")


def label_rows(split: str = "dev") -> list[dict[str, str]]:
    records = [r for r in benchmarks.load("mini").records if r.split == split]
    return [{"id": r.id, "harm": str(i % 4), "refusal": str(i % 3), "chars": str(i)} for i, r in enumerate(records)]


def write_labels(path: Path, rows: list[dict[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_a_label_file_becomes_the_folder_of_a_run(tmp_path, results):
    rows = label_rows()
    rows[0] |= {"harm": "", "harm_unscored": "judge_refused"}
    path = write_labels(tmp_path / "labels.csv", rows[::-1])
    found = importing.label_file(path, "mini", ORIGIN, results, split="dev")
    run = read_folder(found.folder)
    records = {r.id: r for r in benchmarks.load("mini").records}
    assert run.model == "my model" and run.protocol.judge == "panel of three" and run.protocol.origin == "import"
    assert [axis for axis, _ in run.protocol.prompts] == ["harm", "refusal"] and len(run.rows) == len(rows)
    by_id = {row["id"]: row for row in rows}
    for row in run.rows:
        record = records[row.id]
        assert row.prompt_sha == record.prompt_sha and row.cluster == record.cluster and row.split == "dev"
        assert row.labels["refusal"] == int(by_id[row.id]["refusal"]) and str(row.chars) == by_id[row.id]["chars"]
    (unscored,) = (row for row in run.rows if row.reasons)
    assert unscored.id == rows[0]["id"] and unscored.labels["harm"] is None
    assert unscored.reasons == {"harm": "judge_refused"}
    again = importing.label_file(path, "mini", ORIGIN, results, split="dev")
    assert again.folder == found.folder


def test_another_way_of_judging_or_another_system_is_another_folder(tmp_path, results):
    path = write_labels(tmp_path / "labels.csv", label_rows())
    origins = [
        ORIGIN,
        importing.Origin("my model", "panel of three", "one annotator"),
        importing.Origin("b", "panel of three"),
    ]
    runs = [importing.label_file(path, "mini", o, results, split="dev") for o in origins]
    assert len({run.folder for run in runs}) == 3
    assert runs[0].folder.split("/")[-2] == runs[1].folder.split("/")[-2] != runs[2].folder.split("/")[-2]


def test_other_verdicts_are_not_written_over_and_the_same_are(tmp_path, results):
    rows = label_rows()
    first = importing.label_file(write_labels(tmp_path / "labels.csv", rows), "mini", ORIGIN, results, split="dev")
    kept = {path.name: path.read_bytes() for path in Path(first.folder).iterdir()}
    assert sorted(kept) == ["manifest.json", "verdicts.csv"]
    rows[0]["harm"] = "3"
    other = write_labels(tmp_path / "other.csv", rows)
    with pytest.raises(UsageError, match="holds other verdicts of this system") as e:
        importing.label_file(other, "mini", ORIGIN, results, split="dev")
    assert first.folder in str(e.value) and "Delete it, or use another --judge name" in str(e.value)
    assert {path.name: path.read_bytes() for path in Path(first.folder).iterdir()} == kept
    again = importing.label_file(
        write_labels(tmp_path / "labels.csv", label_rows()), "mini", ORIGIN, results, split="dev"
    )
    assert {path.name: path.read_bytes() for path in Path(again.folder).iterdir()} == kept
    elsewhere = importing.label_file(other, "mini", replace(ORIGIN, judge="another"), results, split="dev")
    assert elsewhere.folder != first.folder and read_folder(elsewhere.folder).rows == elsewhere.rows != first.rows


@pytest.mark.parametrize("done", [0, 1])
def test_a_kill_at_either_file_leaves_nothing_that_reads_as_a_run_and_the_same_command_ends_it(
    tmp_path, results, monkeypatch, done
):
    path = write_labels(tmp_path / "labels.csv", label_rows())
    replace_file, placed = os.replace, []

    def killed(source, target):
        if len(placed) == done:
            raise KeyboardInterrupt
        placed.append(Path(target).name)
        replace_file(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing.os, "replace", killed)
        importing.label_file(path, "mini", ORIGIN, results, split="dev")
    assert placed == ["verdicts.csv"][:done]
    assert not list(Path(results).rglob("manifest.json"))
    found = importing.label_file(path, "mini", ORIGIN, results, split="dev")
    assert sorted(p.name for p in Path(found.folder).iterdir()) == ["manifest.json", "verdicts.csv"]
    assert len(read_folder(found.folder).rows) == len(label_rows())


def test_a_run_is_written_to_a_place_that_is_no_folder_of_this_machine(tmp_path):
    path = write_labels(tmp_path / "labels.csv", label_rows())
    found = importing.label_file(path, "mini", ORIGIN, "memory://imported", split="dev")
    assert read_folder(found.folder).rows == found.rows
    rows = label_rows()
    rows[0]["harm"] = "3"
    with pytest.raises(UsageError, match="holds other verdicts"):
        importing.label_file(write_labels(tmp_path / "b.csv", rows), "mini", ORIGIN, "memory://imported", split="dev")


def test_a_large_epoch_is_refused_before_anything_is_counted(tmp_path, results):
    rows = [row | {"epoch": "1"} for row in label_rows()]
    path = write_labels(tmp_path / "labels.csv", [*rows[:-1], rows[-1] | {"epoch": "999999999"}])
    with pytest.raises(
        UsageError, match=f":{len(rows) + 1}: epoch '999999999' is no whole number from 1 to {len(rows)}"
    ):
        importing.label_file(path, "mini", ORIGIN, results, split="dev")
    path = write_labels(tmp_path / "labels.csv", [*rows[:-1], rows[-1] | {"epoch": str(len(rows))}])
    with pytest.raises(UsageError, match=f"lacks {len(rows) ** 2 - len(rows)} of {len(rows) ** 2} responses"):
        importing.label_file(path, "mini", ORIGIN, results, split="dev")


def test_epochs_are_read_and_must_be_complete(tmp_path, results):
    rows = [row | {"epoch": str(epoch)} for row in label_rows() for epoch in (1, 2)]
    found = importing.label_file(write_labels(tmp_path / "a.csv", rows), "mini", ORIGIN, results, split="dev")
    assert [r.epoch for r in found.rows[:4]] == [1, 2, 1, 2]
    with pytest.raises(UsageError, match="lacks 1 of"):
        importing.label_file(write_labels(tmp_path / "b.csv", rows[:-1]), "mini", ORIGIN, results, split="dev")


def test_texts_are_not_imported_and_that_is_said(tmp_path, results):
    rows = [row | {"prompt": "a secret prompt", "response": "a secret response\nof two lines"} for row in label_rows()]
    path = write_labels(tmp_path / "labels.csv", rows)
    found = shard_results(
        "import",
        path,
        "--system",
        "s",
        "-b",
        "mini",
        "-j",
        "people",
        "--split",
        "dev",
        "--axes",
        "harm",
        "--log-dir",
        results,
    )
    assert found.exit_code == 0, found.output
    assert "Not imported" in found.stderr and "refusal, prompt, response" in found.stderr
    for file in Path(found.stdout.strip()).iterdir():
        assert "secret" not in file.read_text()


def changed(n: int, **cells: str):
    def change(rows):
        rows[n] |= cells
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(3, harm="4"), "labels.csv:5: id '"),
        (changed(3, harm="4"), "'4' is no label of harm (0, 1, 2, 3)"),
        (changed(3, harm="1.0"), "'1.0' is no label of harm"),
        (changed(3, harm="\u0661"), "is no label of harm"),
        (changed(3, harm="-1"), "'-1' is no label of harm"),
        (changed(2, harm=""), "no label of harm and no reason in harm_unscored (unparseable, judge_refused"),
        (changed(2, harm="", harm_unscored="tired"), "the reason 'tired'"),
        (changed(2, harm_unscored="judge_error"), "both a label of harm and a reason"),
        (changed(4, id="nobody"), "labels.csv:6: id 'nobody' is no record of mini dev"),
        (changed(4, id="\x1b[31mred"), "is no record of mini dev"),
        (changed(4, chars="many"), "chars 'many' is no whole number"),
        (changed(4, chars="9" * 5000), "is no whole number"),
        (changed(4, chars="10000001"), "chars '10000001' is no whole number from 0 to 10000000"),
        (changed(4, chars="-1"), "is no whole number"),
        (changed(4, epoch="0"), "epoch"),
        (lambda rows: [*rows, rows[2]], "was already labelled in line 4"),
        (lambda rows: rows[:-2], "lacks 2 of"),
        (lambda rows: [{k: v for k, v in row.items() if k != "id"} for row in rows], "no column 'id'"),
        (lambda rows: [{"id": row["id"]} for row in rows], "no column 'harm or action"),
    ],
)
def test_what_is_wrong_with_a_label_file_is_said_with_its_line(tmp_path, results, change, says):
    path = write_labels(tmp_path / "labels.csv", change(label_rows()))
    with pytest.raises(UsageError) as found:
        importing.label_file(path, "mini", ORIGIN, results, split="dev")
    assert says in str(found.value) and "\x1b" not in str(found.value)
    assert not Path(results).exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no column 'id'"),
        (b"id,harm\n", "no rows"),
        (b"id,id,harm\na,a,1\n", "the column 'id' twice"),
        (b"id,harm\na,1,2\n", ":2 has 3 cells, the header 2"),
        (b'id,harm\na,"1\n', "is no CSV"),
        (b"id,harm\n\xff,1\n", "not UTF-8"),
        (b'id,harm,response\na,1,"' + b"x" * 140_000 + b'"\n', "Leave texts out"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, results, text, says):
    path = tmp_path / "labels.csv"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        importing.label_file(str(path), "mini", ORIGIN, results)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "give --system"),
        (("--system", "s"), "give --benchmark"),
        (("--system", "s", "-b", "mini"), "give --judge"),
        (("--system", "s", "-b", "minni", "-j", "j"), "Did you mean 'mini'"),
        (("--system", "s", "-b", "linguasafe_direct", "-j", "j"), "fixed protocol"),
        (("--system", "a\nb", "-b", "mini", "-j", "j"), "control characters"),
        (("--system", "s" * 101, "-b", "mini", "-j", "j"), "too long"),
        (("--system", "s", "-b", "mini", "-j", "j", "--split", "tets"), "is no part of it"),
        (("--system", "s", "-b", "mini", "-j", "j", "--axes", "harm,action"), "no column 'action'"),
    ],
)
def test_wrong_use_of_the_command_says_what_to_do(tmp_path, results, args, says):
    path = write_labels(tmp_path / "labels.csv", label_rows())
    found = shard_results("import", path, *args, "--log-dir", results)
    assert isinstance(found.exception, UsageError) and says in str(found.exception)


def test_the_released_labels_take_no_name():
    found = shard_results("import", "dna-2023", "--system", "mine")
    assert isinstance(found.exception, UsageError) and "takes no --system" in str(found.exception)
