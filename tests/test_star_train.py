"""Given answers from the command line: scored by a guard, shaped, trained, scored; mixtures and what hides in data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_shard_train import TINY
from tiny import make_model, write_rows

from shard_eval.cli import main
from shard_eval.errors import UsageError
from shard_train import lint, mixture, sft
from shard_train.star import choose, rows
from shard_train.star.guards import Constant, Lexical, Mean, Oracle

GOOD, BAD = "Start with clean water and a soft cloth.", "ZORB QUAX the blue lever and count the spoons twice."


def mixed(path: Path, rows: int = 8) -> Path:
    """Given answers, every other with a harmless stand-in for an unsafe part."""
    text = f"{GOOD} {BAD} Dry it well."
    spans = [[len(GOOD) + 1, len(GOOD) + 1 + len(BAD)]]
    made = [
        {"id": str(n), "prompt": f"How do I clean window number {n}?", "response": text if n % 2 else GOOD}
        | ({"unsafe": spans} if n % 2 else {})
        for n in range(rows)
    ]
    write_rows(path, made)
    return path


def shard(*line: Any) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, line)])


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_a_mixture_has_the_share_it_should_and_repeats_nothing(tmp_path: Path) -> None:
    mixed(tmp_path / "task.jsonl", 18)
    bad = [{"id": str(n), "prompt": f"Q{n}", "response": BAD} for n in range(5)]
    write_rows(tmp_path / "bad.jsonl", bad)
    line = ("mix", tmp_path / "task.jsonl", "--harmful", tmp_path / "bad.jsonl", "--out", tmp_path / "out.jsonl")
    done = shard(*line)
    assert done.exit_code == 0 and "20 rows, 2 of them harmful" in done.output
    found = [json.loads(r) for r in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len({r["id"] for r in found}) == 20
    assert [r["unsafe"] for r in found if r["id"].startswith("harmful")] == [[[0, len(BAD)]]] * 2
    assert "exists already" in shard(*line).stderr
    read = rows.read(tmp_path / "out.jsonl")
    assert sum(rows.exchange(r).unsafe != () for r in read) >= 2


@pytest.mark.parametrize(
    ("share", "size", "why"),
    [(0.5, None, "takes 18 harmful"), (1.0, None, "between 0 and 1"), (0.1, 99, "takes 10 harmful")],
)
def test_a_mixture_that_cannot_be_had_is_refused(share: float, size: int | None, why: str, tmp_path: Path) -> None:
    task = rows.read(mixed(tmp_path / "task.jsonl", 18))
    with pytest.raises(UsageError, match=why):
        mixture.mix(task, task[:5], share, size)


# --- what hides in data ----------------------------------------------------------------------------------------------

PLAIN = [
    "Plain words, a path/to/some/rather/long/file_name_with_words.txt and https://example.org/a-b-c?d=e&f=g.",
    "می‌خواهم، क्‍ष, 👩‍👩‍👧, ❤️, 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "The numbers are 10101010 and 1234567890, 50% of them %20 odd.",
    "Donaudampfschifffahrtsgesellschaftskapitän supercalifragilisticexpialidocious",
    "Title\n" + "=" * 50 + "\n" + "-" * 60 + "\nName: " + "_" * 70 + " |" + "-+" * 40,
]
ODD = [
    ("hel\u200blo\u2060", "zero-width characters", 2),
    ("a\u200cb\u200dc", "joiners where nothing is to be joined", 2),
    ("x\ufe00\ufe01\ufe05y", "variation selectors in a row", 1),
    ("note\U000e0041\U000e0042", "tag characters", 2),
    ("abc\u202edef", "characters that turn the direction", 1),
    ("abc\ue000", "other format or private characters", 1),
    ("see SGVsbG8gd29ybGQsIHRoaXMgaXMgYSBoaWRkZW4gdGV4dCBpbiBiYXNlNjQ= now", "long runs like base N", 1),
    ("0123012301230123012301230123012301230123012301", "long runs like base N", 1),
    ("01001000 01100101 01101100 01101100 01101111 00100001", "runs of binary digits", 1),
    (r"\x48\x65\x6c\x6c\x6f\x20\x77\x6f\x72", "runs of escaped characters", 1),
]


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_text_of_any_script_is_left_alone(text: str) -> None:
    assert lint.oddities(text) == {}


@pytest.mark.parametrize(("text", "what", "count"), ODD)
def test_hidden_and_encoded_content_is_found(text: str, what: str, count: int) -> None:
    assert lint.oddities(text) == {what: count}


def test_the_lint_names_rows_and_kinds_and_prints_no_text(tmp_path: Path) -> None:
    path = mixed(tmp_path / "data.jsonl", 2)
    assert shard("lint", path).exit_code == 0
    with path.open("a") as file:
        file.write(json.dumps({"id": "odd", "prompt": "Secretword", "response": "fi\u200bne"}) + "\n")
    done = shard("lint", path)
    assert done.exit_code == 1 and "row odd, answer: zero-width characters, 1" in done.output
    assert "Secretword" not in done.output and "3 rows, 1 of them to look at" in done.output
    assert json.loads(shard("lint", path, "--json").output)[0]["row"] == "odd"


# --- guards by name --------------------------------------------------------------------------------------------------


def test_guards_are_chosen_by_name(tmp_path: Path) -> None:
    (tmp_path / "terms").write_text("one\n\n two \n")
    assert choose.guard(["constant:0.5"]) == Constant(0.5) and choose.guard(["oracle:0.25"]) == Oracle(0.25)
    assert choose.guard([f"lexical:{tmp_path / 'terms'}"]) == Lexical(("one", "two"))
    assert choose.guard(["oracle", "constant:1"]) == Mean((Oracle(), Constant(1)))
    assert choose.guard(["yes_no:some/model"]).name == "yes_no model"
    assert choose.guard(["mine"], others=lambda name: Constant(0.1) if name == "mine" else None) == Constant(0.1)
    for name, why in (
        ("constant:2", "from 0 to 1"),
        ("oracle:x", "from 0 to 1"),
        ("constant", "unknown"),
        ("yes_no", "unknown"),
        ("lexical:nowhere", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=why):
            choose.guard([name])
    with pytest.raises(UsageError, match="a guard is needed"):
        choose.guard([])


def test_scores_from_the_command_line(tmp_path: Path) -> None:
    data, out = mixed(tmp_path / "data.jsonl"), tmp_path / "out.jsonl"
    done = shard("star-score", data, "--guard", "oracle", "--out", out)
    assert done.exit_code == 0 and "guard oracle: not tried out" in done.output
    rows = sft.read_rows(out)
    assert [min(s for _, s in r["star"]) for r in rows] == [1.0, 0.0] * 4 and not Path(f"{out}.cache.jsonl").exists()
    (tmp_path / "terms").write_text("ZORB\n")
    (tmp_path / "probe.jsonl").write_text(
        json.dumps({"prompt": "Q", "response": GOOD, "unsafe": []})
        + "\n"
        + json.dumps({"prompt": "Q", "response": BAD, "unsafe": [[0, 9]]})
        + "\n"
    )
    line = ["star-score", data, "--guard", f"lexical:{tmp_path / 'terms'}", "--out", out]
    found = json.loads(shard(*line, "--probe", tmp_path / "probe.jsonl", "--json").output)
    assert found["trust"]["auc"] == 1 and found["unsafe_rows"] == 0.5
    (tmp_path / "terms").write_text("cloth\n")
    refused = shard(*line, "--probe", tmp_path / "probe.jsonl")
    assert refused.exit_code == 2 and "upside down" in refused.stderr
    assert shard(*line, "--probe", tmp_path / "probe.jsonl", "--any-guard").exit_code == 0
    assert "would flatter it" in shard("star-score", data, "--guard", "embedded", "--out", out).stderr


# --- the whole run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["star_dss", "--embedded"], "needs a guard"),
        (["star_dss", "--embedded", "--guard", "embedded"], "would flatter it"),
        (["star_dss", "--embedded", "--guard", "nobody"], "'nobody' is unknown"),
        (["star_dss", "--embedded", "--guard", "oracle", "--probe", "nowhere.jsonl"], "nowhere.jsonl"),
        (["star_dss", "--embedded", "--guard", "oracle", "--shape", "rejection"], "is shaping 'star_dss'"),
        (["sft", "--embedded", "--guard", "oracle"], "asks none"),
        (["sft", "--embedded", "--select", "judge"], "compares with a draft"),
        (["shard", "--embedded", "--select", "judge"], "compares with a draft"),
        (["sft", "--embedded", "--shape", "rejection"], "needs a guard"),
        (["shard", "--embedded", "--data", "x.jsonl"], "makes its own targets"),
        (["sft", "--embedded", "--data", "x.csv"], "give a .jsonl"),
        (["sft", "--embedded", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["sft", "--embedded", "--data", "x.jsonl", "--folds", "2"], "learned whole"),
        (["sft", "--embedded", "--teacher", "embedded"], "takes no --teacher"),
    ],
)
def test_wrong_use_is_said_before_anything_is_done(tmp_path: Path, line: list[str], message: str) -> None:
    done = shard(*line, "--log-dir", tmp_path, "--plan")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output, done.output


def test_labels_to_try_a_guard_on_are_looked_for_before_anything_is_done(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "terms").write_text("ZORB\n")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "Q", "unsafe": [[0, 3]]}\n')
    line = ["star_dss", "--embedded", "--guard", f"lexical:{tmp_path / 'terms'}", "--log-dir", tmp_path / "results"]
    done = shard(*line, "--probe", tmp_path / "broken.jsonl")
    assert done.exit_code == 2 and "broken.jsonl" in done.stderr, done.output
    monkeypatch.setenv("SHARD_DATA_DIR", str(tmp_path / "nowhere"))
    done = shard(*line)
    assert done.exit_code == 2 and "SHARD_DATA_DIR" in done.stderr, done.output
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("method", "shape"), [("star_dss", None), ("sft", "deep_token")])
def test_given_answers_are_learned_shaped_and_scored(tmp_path: Path, method: str, shape: str | None) -> None:
    base = make_model(tmp_path / "base")
    (tmp_path / "tiny.toml").write_text(TINY.replace("max_length = 96", "max_length = 512") + "[shaping]\nchunk = 2\n")
    data = mixed(tmp_path / "data.jsonl")
    guard = [] if shape == "deep_token" else ["--guard", "oracle"]
    line = [method, "--model", base, "--prompts", "mini", "--data", data, *guard, "--controls", "", "--json"]
    line += ["--config", tmp_path / "tiny.toml", "--score-limit", "3", "--log-dir", tmp_path / "results"]
    line += ["--shape", shape] if shape else ["--capability", "own", "--capability-limit", "3"]
    done = shard(*line)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [arm["name"] for arm in found["family"]["arms"]]
    assert names[-1] == ("star_dss step 2" if shape is None else f"sft {shape} step 2")
    assert found["training"][0]["rows"] == 8 and found["targets"][0]["outcomes"] == {}
    (folder,) = (tmp_path / "results" / "experiments").iterdir()
    events = sft.events(folder / "train")
    assert all({"ce", "kl", "star", "unsafe"} <= set(e) for e in events)
    if shape != "deep_token":
        assert found["star"][0]["guard"] == "oracle" and 0 < found["star"][0]["unsafe_chunks"] < 0.5
        assert any("Answers weighed by guard oracle" in note for note in found["notes"])
    if shape is None:
        assert 0 < events[0]["unsafe"] < 0.5
        able = found["family"]["capability"]
        assert [(c["arm"], c["n"]) for c in able] == [("base", 3), (names[-1], 3)]  # greedy, so no other draws
        parts = found["family"]["comparison"]["parts"]
        assert any("capability" in json.dumps(part) for part in parts)
        assert "capability" in (folder / "README.md").read_text()
    published = "".join((folder / n).read_text() for n in ("run.json", "README.md", "verdicts.csv", "targets.csv"))
    assert "ZORB" not in published
    again = shard(*line)
    assert json.loads(again.stdout) == found  # nothing is done twice


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["shard", "star_dss"])
def test_recorded_targets_are_weighed_by_a_guard_that_reads_them(tmp_path: Path, method: str) -> None:
    """SHARD's data with STAR scores on a tiny model, and STAR-DSS on SmolLM2; the guard reads one word."""
    (tmp_path / "tiny.toml").write_text(TINY.replace("max_length = 96", "max_length = 512"))
    (tmp_path / "terms").write_text("the\n")
    labelled = [{"prompt": "Q", "response": "Fine words.", "unsafe": []}]
    write_rows(tmp_path / "probe.jsonl", [*labelled, {"prompt": "Q", "response": "the", "unsafe": [[0, 3]]}])
    model = ["--embedded"]
    if method == "shard":
        model = ["--model", make_model(tmp_path / "base"), "--prompts", "mini", "--targets", "recorded"]
    line = [method, *model, "--config", tmp_path / "tiny.toml", "--shape", "star_dss", "--limit", "4", "--json"]
    line += ["--guard", f"lexical:{tmp_path / 'terms'}", "--probe", tmp_path / "probe.jsonl", "--score-limit", "2"]
    done = shard(*line, "--controls", "", "--log-dir", tmp_path / "results")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["star"][0]["trust"]["auc"] == 1 and found["star"][0]["unsafe_rows"] > 0
    name = found["family"]["arms"][-1]["name"]
    assert name.startswith("shard star_dss step" if method == "shard" else "star_dss step")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--methods", "sft"], "at least two"),
        (["--methods", "sft,sft"], "named twice"),
        (["--methods", "sft,shart"], "shart"),
        (["--methods", "sft,sft:rejectio"], "rejectio"),
        (["--methods", "sft,star_dss"], "needs a guard"),
        (["--methods", "sft,sft:kl_only", "--folds", "2"], "takes no --merge"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(tmp_path: Path, line: list[str], message: str) -> None:
    done = shard("compare-methods", "--embedded", *line, "--log-dir", tmp_path, "--plan")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output, done.output


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_methods_stand_in_one_table_with_intervals_that_hold_for_all(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    config = TINY.replace("max_length = 96", "max_length = 512\ncheckpoints = 2")
    (tmp_path / "tiny.toml").write_text(config)
    data = mixed(tmp_path / "data.jsonl")
    line = ["compare-methods", "--methods", "sft,sft:star_dss", "--model", base, "--prompts", "mini"]
    line += ["--data", data, "--guard", "oracle", "--controls", "", "--config", tmp_path / "tiny.toml"]
    line += ["--score-limit", "6", "--log-dir", tmp_path / "results"]
    done = shard(*line, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["methods"] == ["sft", "sft star_dss"]
    names = [arm["name"] for arm in found["arms"]]
    assert names[:3] == ["base", "base resampled", "benign_intent"] and len(names) == 5
    assert [n.rpartition(" step ")[0] for n in names[3:]] == found["methods"]
    assert all("chosen of 2 on dev" in arm["note"] for arm in found["arms"][3:])
    assert any("sft star_dss: Answers weighed by guard oracle" in note for note in found["notes"])
    tested = [d for d in found["differences"] if d["kind"] == "checkpoint"]
    metrics = {d["metric"] for d in tested}
    assert "harmful" in metrics and len(tested) == 2 * len(metrics)
    assert found["simultaneous"]["family"] == {"mini": len(tested)} and all(d["low"] is not None for d in tested)
    assert len(list((tmp_path / "results" / "experiments").iterdir())) == 2
    text = shard(*line)  # everything is there already
    assert text.exit_code == 0 and "sft star_dss step" in text.output and "all at once" in text.output
