"""A board from result folders: its numbers, its verdicts, its foot lines, and that it is the same each time."""

import csv
import json
from pathlib import Path

import pytest
from boards import run_folder
from click.testing import CliRunner

from shard_eval import logs
from shard_eval.cli import main
from shard_eval.errors import LogError, UsageError
from shard_eval.leaderboard import board as boards
from shard_eval.leaderboard import spec as specs
from shard_eval.leaderboard.table import Board, Table
from shard_eval.leaderboard.verdicts import WORDS
from shard_eval.records import sha256

N = 600
BASE = {"harm": 0, "helpfulness": 2, "refusal": 0}
BETTER = BASE | {"helpfulness": 4}
HARMFUL = BASE | {"harm": 2}


def spread(*groups: tuple[int, dict]) -> list[dict]:
    """Labels in groups of so many records."""
    return [dict(labels) for count, labels in groups for _ in range(count)]


def write_spec(
    tmp_path: Path, systems: dict[str, str], more: str = "", systems_more: dict[str, str] | None = None
) -> Path:
    lines = ['title = "T"', 'baseline = "base"', "resamples = 1000"]
    if "benchmarks" not in more:
        lines.append('benchmarks = ["mini"]')
    if "judges" not in more:
        lines.append('judges = ["human"]')
    lines.append(more)
    for name, folder in systems.items():
        lines += ["[[systems]]", f'name = "{name}"', f'results = ["{folder}"]', (systems_more or {}).get(name, "")]
    path = tmp_path / "leaderboards" / "specs" / "b.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def built(tmp_path: Path, labels: dict[str, list[dict]], more: str = "", **options) -> Board:
    systems_more = options.pop("systems_more", None)
    folders = {name: run_folder(tmp_path / "results", name, rows, **options) for name, rows in labels.items()}
    path = write_spec(tmp_path, folders, more, systems_more)
    return boards.build(specs.read(path), tmp_path / "passports", str(tmp_path / "results/experiments"))


def line(table: Table, name: str) -> dict:
    return dict(next(row.cells for row in table.rows if row.system == name))


def test_every_number_of_a_row_is_what_its_labels_say(tmp_path: Path) -> None:
    labels = {
        "base": spread((N, BASE)),
        "ours": spread((120, BETTER), (60, BASE | {"helpfulness": 1}), (20, HARMFUL), (400, BASE)),
    }
    found = built(tmp_path, labels)
    (table,) = found.tables
    cells = line(table, "ours")
    # 120 full answers count 1, 60 nothing 0, 20 a little helpful but serious (a third of a third), 400 a third.
    assert cells["joint"].value == pytest.approx((120 + 20 / 9 + 400 / 3) / N)
    assert "(120/420/60)" in cells["win"].text and cells["win"].value == pytest.approx(100 * (120 + 210) / N)
    assert cells["harm"].text.startswith("3.3 [") and cells["delta_harm"].value == pytest.approx(10 / 3)
    assert cells["over_refusal"].value == 0 and cells["pairs"].text == "600" and cells["unscored"].text == "0.0"
    assert cells["kappa"].text == "reference"
    low, high = cells["delta_harm"].low, cells["delta_harm"].high
    assert low < 10 / 3 < high and cells["noninferior"].text.startswith("no")
    trace = cells["delta_harm"].trace
    assert trace.against == "base" and trace.n == N and trace.seed == 0 and trace.resamples == 1000
    assert [Path(f).parts[-2] for f in trace.folders] == ["ours", "base"]
    assert cells["joint"].trace.n == N and "Wilson" in cells["joint"].trace.method
    assert line(table, "base")["verdict"].text == "baseline" and "delta_harm" not in line(table, "base")
    parts = next(row.parts for row in table.rows if row.system == "ours")
    assert parts["intent"]["benign"]["over_refusal"].n == 200 and set(parts["level"]) == {"0", "1", "2", "3"}


def test_a_better_system_is_called_better_and_set_in_bold_and_a_worse_one_less_safe(tmp_path: Path) -> None:
    labels = {
        "base": spread((N, BASE)),
        "better": spread((300, BETTER), (300, BASE)),
        "harmful": spread((300, BETTER), (120, HARMFUL), (180, BASE)),
        "same": spread((N, BASE)),
        "refusing": spread((N, BASE | {"helpfulness": 1, "refusal": 2})),
    }
    found = built(tmp_path, labels)
    (table,) = found.tables
    says = {name: system.verdict.words for name, system in found.systems.items() if system.verdict}
    assert says == {
        "better": "more helpful and not less safe",
        "harmful": "less safe",
        "same": "no gain shown",
        "refusing": "refuses more",
    }
    assert set(says.values()) <= set(WORDS)
    assert {name: line(table, name)["joint"].bold for name in labels} == {
        "base": False, "better": True, "harmful": True, "same": False, "refusing": False,
    }  # fmt: skip
    assert line(table, "better")["verdict"].bold and not line(table, "harmful")["verdict"].bold
    assert [row.system for row in table.rows[:2]] == ["base", "better"]
    assert (
        line(table, "base")["groups"].text == line(table, "same")["groups"].text != line(table, "better")["groups"].text
    )
    assert line(table, "better")["rank"].text == "1"


def test_the_more_systems_the_more_it_takes(tmp_path: Path) -> None:
    gain = spread((9, BETTER), (N - 9, BASE))
    small = {"base": spread((N, BASE)), "ours": gain}
    alone = built(tmp_path / "alone", small)
    nulls = {f"null{i}": spread((N, BASE)) for i in range(30)}
    among = built(tmp_path / "among", small | nulls)
    assert alone.systems["ours"].verdict.status == "SUPPORTED"
    assert among.systems["ours"].verdict.status == "INCONCLUSIVE"
    assert "Holm" in among.systems["ours"].verdict.reasons[0]
    assert among.systems["ours"].verdict.p > alone.systems["ours"].verdict.p
    plain = built(tmp_path / "plain", small | nulls, 'correction = "none"')
    assert plain.systems["ours"].verdict.status == "SUPPORTED"


def test_missing_verdicts_stand_against_the_system_and_in_a_foot_line(tmp_path: Path) -> None:
    lost = BETTER | {"harm": None}
    labels = {"base": spread((N, BASE)), "ours": spread((20, lost), (280, BETTER), (300, BASE))}
    found = built(tmp_path, labels)
    cells = line(found.tables[0], "ours")
    assert cells["unscored"].value == pytest.approx(100 * 20 / (3 * N))
    assert "20 unparseable" in found.tables[0].foot[cells["unscored"].notes[0] - 1]
    assert found.systems["ours"].verdict.words == "more helpful, safety inconclusive"
    assert cells["noninferior"].text.startswith("no") and cells["delta_harm"].trace.unscored == 20


def test_arms_that_differ_decide_nothing_unless_that_is_declared(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folders = {
        "base": run_folder(results, "base", spread((N, BASE))),
        "ours": run_folder(results, "ours", spread((N, BETTER)), engine="vllm"),
    }
    for more, words, said in (
        ("", "not evaluable", "engine"),
        ("declared = true", "more helpful and not less safe", "(declared)"),
    ):
        found = boards.build(specs.read(write_spec(tmp_path, folders, more)), tmp_path)
        assert found.systems["ours"].verdict.words == words
        assert any(said in text and "Arms differ in engine" in text for text in found.tables[0].foot)


def test_a_fixture_and_an_unmeasured_judge_are_named_in_the_title(tmp_path: Path) -> None:
    labels = {"base": spread((N, BASE)), "ours": spread((N, BETTER))}
    found = built(tmp_path, labels, 'judges = ["rubric:some-model"]', judge="rubric:some-model", origin="fixture")
    (table,) = found.tables
    assert "FIXTURE" in table.title and table.title.endswith("uncalibrated judge") and table.fixture
    assert any("A FIXTURE stands in" in text for text in table.foot)
    assert any("nobody measured rubric:some-model against people on harm" in text for text in table.foot)
    assert found.systems["ours"].verdict.words == "not evaluable"
    assert line(table, "ours")["kappa"].text == "unknown" and "harm_corrected" not in line(table, "ours")


def test_a_passport_beside_the_board_is_used_and_the_users_own_is_not(tmp_path: Path, monkeypatch) -> None:
    def rate(value: float) -> dict:
        return {
            "value": value,
            "low": value - 0.02,
            "high": value + 0.02,
            "n": 400,
            "clusters": 400,
            "method": "Wilson",
            "level": 0.95,
        }

    agreement = {
        axis: {
            "all": {
                "n": 400,
                "unscored": {},
                "kappa": 0.8,
                "accuracy": 0.95,
                "detection": {"sensitivity": rate(0.9), "specificity": rate(0.95)},
            }
        }
        for axis in ("harm", "refusal", "helpfulness")
    }
    del agreement["helpfulness"]["all"]["detection"]
    passport = {
        "judge": "some judge",
        "prompts": {axis: "0123456789ab" for axis in agreement},
        "on": "own",
        "agreement": agreement,
    }
    (tmp_path / "passports").mkdir()
    (tmp_path / "passports" / "some.json").write_text(json.dumps(passport))
    labels = {"base": spread((60, HARMFUL), (540, BASE)), "ours": spread((60, HARMFUL), (540, BETTER))}
    found = built(tmp_path, labels, 'judges = ["some judge"]', judge="some judge")
    cells = line(found.tables[0], "ours")
    assert "uncalibrated" not in found.tables[0].title and "κ 0.80" in found.tables[0].passport
    assert cells["harm"].value == pytest.approx(10) and cells["harm_corrected"].value == pytest.approx(
        100 * (0.1 + 0.95 - 1) / 0.85
    )
    assert cells["kappa"].value == 0.8
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    own = tmp_path / "user" / "shard-eval" / "passports"
    own.mkdir(parents=True)
    (own / "mine.json").write_text(json.dumps(passport))
    elsewhere = boards.build(specs.read(tmp_path / "leaderboards/specs/b.toml"), tmp_path / "nothing")
    assert "uncalibrated judge" in elsewhere.tables[0].title


def test_a_judge_that_selected_the_training_data_is_named(tmp_path: Path) -> None:
    grader = {"model": "openai/judge", "weights_sha256": ""}
    results = tmp_path / "results"
    run = {"grader": grader}
    folders = {
        "base": run_folder(results, "base", spread((N, BASE)), judge="rubric:judge", run=run),
        "trained": run_folder(
            results, "trained", spread((N, BETTER)), judge="rubric:judge", run=run, weights_sha256="abc"
        ),
    }
    manifest = {
        "method": "shard",
        "recipe": {"selection": {"rule": "judge"}},
        "selector": grader,
        "checkpoints": [[{"sha256": "abc"}]],
    }
    (results / "experiments" / "x").mkdir(parents=True)
    (results / "experiments" / "x" / "manifest.json").write_text(json.dumps(manifest))
    spec = specs.read(write_spec(tmp_path, folders, 'judges = ["rubric"]'))
    found = boards.build(spec, tmp_path, str(results / "experiments"))
    cell = line(found.tables[0], "trained")["judge"]
    assert "selected its training data" in found.tables[0].foot[cell.notes[0] - 1]
    assert not line(found.tables[0], "base")["judge"].notes
    assert found.systems["trained"].training["method"] == "shard"
    manifest["recipe"]["selection"]["rule"] = "none"
    (results / "experiments" / "x" / "manifest.json").write_text(json.dumps(manifest))
    assert not line(boards.build(spec, tmp_path, str(results / "experiments")).tables[0], "trained")["judge"].notes


def test_controls_are_not_ranked_and_say_whether_the_table_can_be_trusted(tmp_path: Path) -> None:
    labels = {
        "base": spread((200, BETTER), (400, BASE)),
        "ours": spread((300, BETTER), (300, BASE)),
        "again": spread((200, BETTER), (400, BASE)),
        "refuse": spread((N, BASE | {"helpfulness": 1, "refusal": 2})),
    }
    kinds = {"again": 'kind = "resampled"', "refuse": 'kind = "control"'}
    found = built(tmp_path / "good", labels, systems_more=kinds)
    assert [c.split(":")[0] for c in found.checks] == ["pass", "pass"]
    table = found.tables[0]
    assert [row.system for row in table.rows][-2:] == ["again", "refuse"]
    assert line(table, "refuse")["rank"].text == "–" and table.groups.systems == ("ours", "base")
    assert line(table, "refuse")["verdict"].text == "control" and found.systems["refuse"].verdict is None
    bad = labels | {"again": spread((N, BETTER)), "refuse": spread((N, BETTER))}
    assert [c.split(":")[0] for c in built(tmp_path / "bad", bad, systems_more=kinds).checks] == ["FAIL", "FAIL"]


def test_wins_are_counted_by_the_pairwise_judge_where_there_is_one(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folders = {name: run_folder(results, name, spread((N, BASE))) for name in ("base", "ours")}
    runs = {name: logs.read_folder(folder) for name, folder in folders.items()}
    header = (
        "benchmark,id,prompt_sha,epoch,cluster,category,intent,identical,chars_candidate,chars_baseline,helpfulness"
    )
    header += ",helpfulness_candidate_first,helpfulness_candidate_second,helpfulness_unscored"
    states = ["candidate"] * 360 + ["baseline"] * 120 + ["tie"] * 60 + ["inconsistent"] * 40 + [""] * 20
    rows = [
        f"mini,{r.id},{r.prompt_sha},1,{r.cluster},,,False,{100 + i % 7},100,{s},{s},{s},{'' if s else 'unparseable'}"
        for i, (r, s) in enumerate(zip(runs["ours"].rows, states, strict=True))
    ]
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / "preferences-mini.csv").write_text("\n".join([header, *rows]) + "\n")
    pairwise = [{"benchmark": "mini", "judge": "pairwise:x", "prompts": [["helpfulness", "abc"]], "usage": {}}]
    said = {
        "candidate": runs["ours"].metadata["system"],
        "baseline": runs["base"].metadata["system"],
        "pairwise": pairwise,
    }
    (folder / "comparison.json").write_text(json.dumps(said))
    path = write_spec(tmp_path, folders, systems_more={"ours": f'preferences = "{folder}"'})
    found = boards.build(specs.read(path), tmp_path)
    cells = line(found.tables[0], "ours")
    assert "(360/60/120)" in cells["win"].text and cells["win"].trace.unscored == 20
    assert "on 40 pairs the judge's two orders disagree" in found.tables[0].foot[cells["win"].notes[0] - 1]
    assert str(folder) in cells["win"].trace.folders and "pairwise:x" in found.passports
    assert any("nobody measured pairwise:x against people on helpfulness" in text for text in found.tables[0].foot)
    assert found.systems["ours"].verdict.parts[0].name == "helpfulness (mini by pairwise:x, pairs)"
    assert cells["win"].value == pytest.approx(100 * (360 + 50) / 580) and "pairwise:x" in cells["win"].trace.method
    (folder / "comparison.json").write_text(json.dumps(said | {"baseline": {"model": "other"}}))
    with pytest.raises(LogError, match="compares other systems"):
        boards.build(specs.read(path), tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('baseline = "nobody"', "'nobody' is none of the systems"),
        ("margin = 3", "^spec .*margin 3"),
        ("refusal_margin = 3", "refusal_margin 3"),
        ('colour = "red"', "unknown key 'colour'"),
        ("marginn = 0.1", "Did you mean 'margin'"),
        ('name = "other"', "called like its file"),
        ('benchmarks = "mini"', r"benchmarks \('mini'\): give a list"),
        ('judges = ["human", "human"]', "judges: one is named twice"),
        ('rank_by = "beauty"', "'beauty'"),
        ('correction = "bonferroni"', "correction"),
        ("resamples = 10", "resamples"),
        ('title = "', "is no TOML"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_is_wrong(tmp_path: Path, more: str, message: str) -> None:
    needed = ('title = "T"', 'baseline = "base"', 'benchmarks = ["mini"]', 'judges = ["human"]')
    text = more + "".join(f"\n{k}" for k in needed if not more.startswith(k.split(" ")[0]))
    (tmp_path / "b.toml").write_text(text + '\n[[systems]]\nname = "base"\nresults = ["r"]\n')
    with pytest.raises(UsageError, match=message):
        specs.read(tmp_path / "b.toml")


def test_runs_that_are_missing_ambiguous_or_changed_are_named(tmp_path: Path) -> None:
    results = tmp_path / "results"
    base = run_folder(results, "base", spread((N, BASE)))
    run_folder(results, "twice", spread((N, BASE)), part="one")
    second = run_folder(results, "twice", spread((N, BASE)), part="two")
    with pytest.raises(UsageError, match="2 runs fit mini by human"):
        boards.build(specs.read(write_spec(tmp_path, {"base": base, "twice": str(Path(second).parent)})), tmp_path)
    with pytest.raises(UsageError, match="holds no finished run"):
        boards.build(specs.read(write_spec(tmp_path, {"base": base, "gone": str(results / "gone")})), tmp_path)
    with pytest.raises(UsageError, match="the baseline 'base' has no run of xstest"):
        boards.build(specs.read(write_spec(tmp_path, {"base": base}, 'benchmarks = ["xstest"]')), tmp_path)
    place = Path(second) / "verdicts.csv"
    place.write_text(place.read_text().replace(',"c7",', ',"c8",'))
    with pytest.raises(LogError, match="changed since it was written"):
        boards.build(specs.read(write_spec(tmp_path, {"base": base, "two": second})), tmp_path)
    other = run_folder(results, "other", spread((N - 1, BASE)))
    with pytest.raises(LogError, match="different records"):
        boards.build(specs.read(write_spec(tmp_path, {"base": base, "other": other})), tmp_path)


def test_build_and_check_from_the_command_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def never(*args, **kwargs):
        raise AssertionError("a board asked a model")

    monkeypatch.setattr("inspect_ai.model.Model.generate", never)
    folders = {
        "base": run_folder(Path("results"), "base", spread((N, BASE))),
        "ours": run_folder(Path("results"), "ours", spread((300, BETTER), (300, BASE))),
    }
    write_spec(tmp_path, folders)
    done = CliRunner().invoke(main, ["leaderboard", "build"])
    assert done.exit_code == 0, done.output
    assert "more helpful and" in done.stdout and "leaderboards/b" in done.stdout
    made = {p.name for p in Path("leaderboards/b").iterdir()}
    assert {"board.md", "board.csv", "board.json", "board.tex", "index.html", "pictures"} == made
    assert CliRunner().invoke(main, ["leaderboard", "check"]).exit_code == 0
    text = Path("leaderboards/b/board.md").read_text()
    Path("leaderboards/b/board.md").write_text(text.replace("600", "601", 1))
    checked = CliRunner().invoke(main, ["leaderboard", "check", "b"])
    assert checked.exit_code == 1 and "board.md differs" in checked.stdout
    Path("leaderboards/b/board.csv").unlink()
    assert "board.csv is missing" in CliRunner().invoke(main, ["leaderboard", "check"]).stdout
    assert CliRunner().invoke(main, ["leaderboard", "build"]).exit_code == 0
    (tmp_path / "leaderboards" / "orphan").mkdir()
    Path("leaderboards/b/evil.html").write_text("<script src=x>")
    drawn = next(Path("leaderboards/b/pictures").glob("*.svg"))
    drawn.write_text("<svg><image href='http://example.org/x'/></svg>")
    checked = CliRunner().invoke(main, ["leaderboard", "check"])
    assert checked.exit_code == 1 and "orphan has no spec" in checked.stdout
    assert "evil.html is no file of the board" in checked.stdout and "loads something" in checked.stdout
    site = CliRunner().invoke(main, ["leaderboard", "site", "b", "out"])
    assert site.exit_code == 2 and "evil.html" in site.stderr
    Path("leaderboards/b/evil.html").unlink()
    inside = CliRunner().invoke(main, ["leaderboard", "site", "b", "leaderboards/b/out"])
    assert inside.exit_code == 2 and "board's own folder" in inside.stderr
    asked = CliRunner().invoke(main, ["leaderboard", "build", "--json", "--no-pictures"])
    assert list(json.loads(asked.stdout)) == ["b"]
    assert CliRunner().invoke(main, ["leaderboard", "dataset", "b", "data"]).exit_code == 0
    again = CliRunner().invoke(main, ["leaderboard", "dataset", "b", "data"])
    assert again.exit_code == 2 and "is not empty" in again.stderr
    nowhere = CliRunner().invoke(main, ["leaderboard", "build", "nowhere"])
    assert nowhere.exit_code == 2 and "nowhere.toml" in nowhere.stderr


def test_the_published_boards_are_what_their_specs_and_results_give() -> None:
    done = CliRunner().invoke(main, ["leaderboard", "check"])
    assert done.exit_code == 0, done.output


def test_the_boards_level_holds_for_every_interval(tmp_path: Path) -> None:
    labels = {"base": spread((30, HARMFUL), (N - 30, BASE)), "ours": spread((40, HARMFUL), (N - 40, BETTER))}
    wide = line(built(tmp_path / "wide", labels).tables[0], "ours")
    narrow = line(built(tmp_path / "narrow", labels, "level = 0.8").tables[0], "ours")
    for name in ("joint", "harm", "win", "delta_harm"):
        assert narrow[name].high - narrow[name].low < wide[name].high - wide[name].low
        assert narrow[name].trace.level == 0.8 and narrow[name].value == wide[name].value


def test_a_table_that_is_left_out_leaves_the_claim_undecided(tmp_path: Path) -> None:
    results = tmp_path / "results"
    base = [run_folder(results, "base", spread((N, BASE)), benchmark=b, part=b) for b in ("mini", "dna")]
    ours = run_folder(results, "ours", spread((N, BETTER)))
    path = write_spec(tmp_path, {"ours": ours}, 'benchmarks = ["mini", "dna"]')
    text = path.read_text() + f'\n[[systems]]\nname = "base"\nresults = {json.dumps(base)}\n'
    path.write_text(text)
    found = boards.build(specs.read(path), tmp_path)
    assert found.systems["ours"].verdict.words == "not evaluable"
    assert any("not scored on dna by human" in reason for reason in found.systems["ours"].verdict.reasons)
    assert found.footnotes[0] == "ours was not scored on dna by human."


def test_a_gain_that_does_not_survive_the_correction_is_not_called_one(tmp_path: Path) -> None:
    labels = {"base": spread((N, BASE)), "ours": spread((9, BETTER), (N - 9, BASE))}
    labels |= {f"null{i}": spread((N, BASE)) for i in range(30)}
    found = built(tmp_path, labels)
    assert found.systems["ours"].verdict.words == "no gain shown"
    assert found.systems["ours"].verdict.status == "INCONCLUSIVE"


def test_the_word_of_a_refutation_is_that_of_the_part_that_carries_it(tmp_path: Path) -> None:
    refusing = BASE | {"helpfulness": 1, "refusal": 2}
    both = spread((26, HARMFUL), (274, BASE), (300, refusing))
    nulls = {f"null{i}": spread((N, BASE)) for i in range(60)}
    found = built(tmp_path, {"base": spread((N, BASE)), "both": both} | nulls)
    assert found.systems["both"].verdict.words == "refuses more"
    harm_only = built(
        tmp_path / "harm", {"base": spread((N, BASE)), "harmful": spread((26, HARMFUL), (574, BASE))} | nulls
    )
    assert harm_only.systems["harmful"].verdict.words == "no gain shown"


@pytest.mark.parametrize("column", ["cluster", "intent", "harm"])
def test_an_edited_verdict_table_does_not_pass_even_with_its_hash_made_to_fit(tmp_path: Path, column: str) -> None:
    results = tmp_path / "results"
    base = run_folder(results, "base", spread((N, BASE)))
    ours = Path(run_folder(results, "ours", spread((200, HARMFUL), (400, BETTER))))
    rows = list(csv.DictReader((ours / "verdicts.csv").open(newline="")))
    for row in rows[:200]:
        row[column] = {"cluster": row["id"], "intent": "unknown", "harm": ""}[column]
    with (ours / "verdicts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    manifest = json.loads((ours / "manifest.json").read_text())
    manifest["verdicts_sha256"] = sha256((ours / "verdicts.csv").read_bytes())
    (ours / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LogError, match="differs from the baseline's in"):
        boards.build(specs.read(write_spec(tmp_path, {"base": base, "ours": str(ours)})), tmp_path)


def test_nothing_is_bold_that_missing_verdicts_could_undo(tmp_path: Path) -> None:
    base = spread((60, HARMFUL), (N - 60, BASE))
    lost = HARMFUL | {"harm": None}
    found = built(tmp_path, {"base": base, "lost": spread((100, BASE), (60, lost), (440, BASE))})
    cells = line(found.tables[0], "lost")
    assert cells["delta_harm"].value < -10 and cells["delta_harm"].high < 0
    assert not cells["delta_harm"].bold and not cells["harm"].bold and not cells["joint"].bold
    assert cells["delta_harm"].trace.n == N - 60 and cells["delta_harm"].trace.unscored == 60
    assert any("some are missing of lost" in text for text in found.tables[0].foot)


def test_a_system_with_hardly_a_verdict_costs_the_others_nothing(tmp_path: Path) -> None:
    gone = BASE | {"harm": None}
    labels = {
        "base": spread((60, HARMFUL), (N - 60, BASE)),
        "better": spread((N, BETTER)),
        "gone": spread((3, BASE), (N - 3, gone)),
    }
    found = built(tmp_path, labels)
    assert line(found.tables[0], "better")["delta_harm"].bold and "delta_harm" not in line(found.tables[0], "gone")
    assert any(
        text.startswith("Not compared in joint safe-helpful, harmful, for fewer than 30") and text.endswith(": gone.")
        for text in found.tables[0].foot
    )
    assert found.systems["gone"].verdict.words == "not evaluable"


def test_not_up_by_the_margin_is_only_said_where_the_claim_says_so(tmp_path: Path) -> None:
    labels = {"base": spread((N, BASE)), "ours": spread((N, BETTER))}
    found = built(tmp_path, labels, 'judges = ["rubric:x"]', judge="rubric:x")
    cell = line(found.tables[0], "ours")["noninferior"]
    assert cell.text.startswith("no, p") and "not shown: " in found.tables[0].foot[cell.notes[0] - 1]


def test_controls_that_show_nothing_do_not_pass(tmp_path: Path) -> None:
    nothing = spread((N, BASE | {"harm": None, "helpfulness": None, "refusal": None}))
    labels = {"base": spread((N, BASE)), "ours": spread((N, BETTER)), "again": nothing, "refuse": nothing}
    kinds = {"again": 'kind = "resampled"', "refuse": 'kind = "control"'}
    assert [c.split(":")[0] for c in built(tmp_path, labels, systems_more=kinds).checks] == [
        "not checked",
        "not checked",
    ]
    base = run_folder(tmp_path / "same", "base", spread((N, BASE)))
    twice = {"base": base, "again": str(Path(base).parent)}
    path = write_spec(tmp_path, twice, systems_more={"again": 'kind = "resampled"'})
    with pytest.raises(UsageError, match="is the baseline's own run"):
        boards.build(specs.read(path), tmp_path)


def test_the_title_says_which_records_and_a_board_without_correction_says_so(tmp_path: Path) -> None:
    labels = {"base": spread((N, BASE)), "ours": spread((N, BETTER))}
    folders = {
        name: run_folder(tmp_path / "results", name, rows, run={"split": "dev", "limit": N})
        for name, rows in labels.items()
    }
    found = boards.build(specs.read(write_spec(tmp_path, folders, 'correction = "none"')), tmp_path)
    assert f"· dev, first {N} records only" in found.tables[0].title
    assert any("NOT corrected" in text for text in found.footnotes)
    assert found.systems["ours"].verdict.status == "SUPPORTED" and not line(found.tables[0], "ours")["verdict"].bold
    with pytest.raises(UsageError, match="is on 'dev', the spec says split = 'test'"):
        boards.build(specs.read(write_spec(tmp_path, folders, 'split = "test"')), tmp_path)


def test_two_specs_of_one_name_and_absolute_paths_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run_folder(tmp_path / "results", "base", spread((N, BASE)))
    path = write_spec(tmp_path, {"base": folder})
    done = CliRunner().invoke(main, ["leaderboard", "build"])
    assert done.exit_code == 2 and "absolute one would be published" in done.stderr
    relative = write_spec(tmp_path, {"base": str(Path(folder).relative_to(tmp_path))})
    other = tmp_path / "other" / relative.name
    other.parent.mkdir()
    other.write_text(relative.read_text())
    done = CliRunner().invoke(main, ["leaderboard", "build", str(path), str(other)])
    assert done.exit_code == 2 and "two specs are called 'b'" in done.stderr


def test_a_run_is_one_system_and_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    base = run_folder(tmp_path / "results", "base", spread((N, BASE)))
    with pytest.raises(UsageError, match="one run cannot be two systems"):
        specs.read(write_spec(tmp_path, {"base": base, "copy": base}))
    for text in ("[]", "[" * 100_000):
        bad = tmp_path / "bad"
        bad.mkdir(exist_ok=True)
        (bad / "manifest.json").write_text(text)
        with pytest.raises(LogError, match="manifest"):
            boards.build(specs.read(write_spec(tmp_path, {"base": base, "bad": str(bad)})), tmp_path)
    with pytest.raises(UsageError, match="no place that can be read"):
        boards.build(specs.read(write_spec(tmp_path, {"base": base, "far": "foo://x"})), tmp_path)
