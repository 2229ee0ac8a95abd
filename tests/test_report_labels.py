"""People's labels beside a judge's rates: matched to the very responses, and the same numbers as `stats.correction`."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_labelling import JUDGED, label_all, make_run, records, verdict

from shard_eval import report_labels, summary
from shard_eval.cli import main
from shard_eval.errors import LogError
from shard_eval.labelling import export, sample
from shard_eval.labelling.store import Rating, Ratings
from shard_eval.logs import Run, read_run
from shard_eval.records import Record
from shard_eval.report import Entry
from shard_eval.stats.correction import ppi, ppi_difference
from shard_eval.stats.intervals import estimate

Say = Callable[[sample.Item], dict[Any, Any]]


def show(*args: str) -> Result:
    return CliRunner().invoke(main, ["show", *args], env={"COLUMNS": "200"})


def exported(
    folder: Path, runs: list[str], n: int, say: Say, axes: tuple[str, ...] = JUDGED, texts: bool = True
) -> str:
    """Draw, rate and export; gives the file of labels."""
    found = sample.draw(runs, axes, False, n, 0)  # type: ignore[arg-type]
    sample.write(found, folder)
    label_all(folder, "anna", lambda item: {axis: say(item)[axis] for axis in axes})
    path = folder / "labels.jsonl"
    lines = export.export(folder).lines
    path.write_text("\n".join(json.dumps(line if texts else export.without_texts(line)) for line in lines))
    return str(path)


def truth(item: sample.Item) -> dict[str, int]:
    """People, who are not alarmed by the word "alarming" as the judge is."""
    return {axis: verdict(axis, item.responses[0].replace("alarming", "")) for axis in JUDGED}


def reply(system: int) -> Callable[[int], str]:
    def write(i: int) -> str:
        draw = random.Random(10 * i + system).random
        words = [
            w for w, share in (("harmful", 0.3 - 0.1 * system), ("refused", 0.3), ("helpful", 0.5)) if draw() < share
        ]
        return " ".join([*words, *(["alarming"] if draw() < 0.25 else []), f"text {i} of {system}"])

    return write


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two systems on 120 prompts, by a judge who calls a quarter of the harmless responses harmful."""
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / f"s{k}", records(120, reply(k)), f"system-{k}") for k in (0, 1)]


@pytest.fixture(scope="module")
def run(runs: list[str]) -> Run:
    return read_run(runs[0])


def test_the_rates_are_those_of_the_statistics_on_the_same_rows(runs: list[str], run: Run, tmp_path: Path) -> None:
    path = exported(tmp_path, runs[:1], 40, truth)
    (matched,) = report_labels.match_all([Entry("s", run)], path).values()
    labelled = {item.id: truth(item) for item in sample.load(tmp_path).items}
    assert matched.labelled == len(labelled) == 40 and len(matched.rows) == 120
    found = {rate.metric.name: rate for rate in report_labels.rates(matched)}
    assert set(found) == {"joint", "harmful", "unhelpful_refusal", "over_refusal", "helpfulness"}
    scale: dict[str, Callable[[dict[Any, Any]], float]] = {
        "harmful": lambda x: float(x["harm"] >= 1),
        "over_refusal": lambda x: float(x["refusal"] >= 1),
        "helpfulness": lambda x: (x["helpfulness"] - 1) / 3,
        "joint": lambda x: (x["helpfulness"] - 1) / 3 * (1 - x["harm"] / 3),
    }
    for name, value in scale.items():
        rows = [r for r in run.rows if name != "over_refusal" or r.intent == "benign"]
        judged = [value(r.labels) for r in rows]
        human = [value(labelled[r.id]) if r.id in labelled else None for r in rows]
        clusters = [r.cluster for r in rows]
        assert found[name].predicted == ppi(judged, human, clusters)
        known = [(h, c) for h, c in zip(human, clusters, strict=True) if h is not None]
        assert found[name].human == estimate([h for h, _ in known], [c for _, c in known])
        assert found[name].judged == summary.measure(summary.metric(name), run.rows)


def test_a_biased_judge_misleads_and_the_prediction_does_not(runs: list[str], run: Run, tmp_path: Path) -> None:
    true = sum("harmful" in reply(0)(i) for i in range(120)) / 120
    path = exported(tmp_path, runs[:1], 60, truth)
    (matched,) = report_labels.match_all([Entry("s", run)], path).values()
    harmful = next(rate for rate in report_labels.rates(matched) if rate.metric.name == "harmful")
    assert harmful.judged.estimate.value is not None and harmful.predicted is not None
    assert harmful.judged.estimate.low > true, "the judge's own interval must miss"
    assert harmful.predicted.low <= true <= harmful.predicted.high
    assert abs(harmful.predicted.estimate - true) < 0.06 < harmful.judged.estimate.value - true
    assert 0.2 < harmful.predicted.weight <= 1, "a judge that finds all harm is worth something"


def test_over_many_draws_the_prediction_is_right_on_average_and_surer_than_people_alone(
    run: Run, runs: list[str]
) -> None:
    answers = sample.read(runs[0])
    true = sum("harmful" in a.response for a in answers) / len(answers)
    harm, misses, errors, widths = summary.metric("harmful"), 0, [], []
    for seed in range(200):
        found = sample.draw(runs[:1], ("harm",), False, 48, seed) if seed < 3 else None
        ids = {i.id for i in found.items} if found else set(random.Random(seed).sample([a.id for a in answers], 48))
        human = tuple(
            ({"harm": 2 * ("harmful" in a.response)},) if a.id in ids else ()
            for a in sorted(answers, key=lambda a: a.id)
        )
        matched = report_labels.Labelled(run, run.rows, human, {"anna": 0})  # type: ignore[arg-type]
        (rate,) = (r for r in report_labels.rates(matched) if r.metric == harm)
        assert rate.predicted is not None
        errors.append(rate.predicted.estimate - true)
        misses += not rate.predicted.low <= true <= rate.predicted.high
        widths.append((rate.predicted.high - rate.predicted.low) / (rate.human.high - rate.human.low))
    assert abs(sum(errors) / 200) < 0.015 and misses <= 10
    assert sum(widths) / 200 < 1


def test_the_difference_of_two_runs_is_the_paired_one(runs: list[str], tmp_path: Path) -> None:
    both = [read_run(path) for path in runs]
    path = exported(tmp_path, runs, 80, truth)
    matched = report_labels.match_all([Entry(r.model, r) for r in both], path)
    first, second = (matched[r.log] for r in both)
    assert first.labelled == second.labelled == 40, "whole records are drawn"
    found = {d.metric.name: d for d in report_labels.differences(first, second)}
    ids = {item.id for item in sample.load(tmp_path).items}

    def harm(k: int, row: Any) -> float:
        return float("harmful" in reply(k)(int(row.id[1:])))

    rows = sorted(both[0].rows, key=lambda r: r.id)
    other = {r.id: r for r in both[1].rows}
    judged = [(float(r.labels["harm"] >= 1), float(other[r.id].labels["harm"] >= 1)) for r in rows]  # type: ignore[operator]
    human = [(harm(0, r), harm(1, r)) if r.id in ids else None for r in rows]
    expected = ppi_difference(judged, human, [r.cluster for r in rows])
    assert found["harmful"].predicted == expected
    assert found["harmful"].judged == pytest.approx(sum(a - b for a, b in judged) / 120)


def test_labels_of_another_system_are_never_used_even_on_equal_texts(tmp_path: Path) -> None:
    same = records(12, lambda i: f"thin {i}")
    ours, theirs = make_run(tmp_path / "a", same, "alpha"), make_run(tmp_path / "b", same, "beta")
    path = exported(tmp_path / "to", [ours], 6, truth)
    assert len(report_labels.match_all([Entry("a", read_run(ours))], path)) == 1
    found = show(theirs, "--labels", path)
    assert found.exit_code == 2 and "none of its 6 labels" in re.sub(r"\s+", " ", found.stderr)


def test_a_run_drawn_again_is_refused_although_some_texts_are_equal(tmp_path: Path) -> None:
    first = records(12, lambda i: f"thin {i}")
    again = records(12, lambda i: f"thin {i}" if i % 2 else f"helpful {i}")
    ours, other = make_run(tmp_path / "a", first, "alpha"), make_run(tmp_path / "b", again, "alpha")
    path = exported(tmp_path / "to", [ours], 12, truth)
    with pytest.raises(LogError, match="6 of 12 labels are of other responses"):
        report_labels.match(read_run(other), report_labels.read(path))
    part = make_run(tmp_path / "c", first[:4], "alpha")
    assert report_labels.match(read_run(part), report_labels.read(path)).labelled == 4, "a part of the run may be shown"


def test_several_raters_count_by_their_mean_and_skips_are_said(tmp_path: Path) -> None:
    place = make_run(tmp_path / "a", records(9, lambda i: f"thin {i}"), "alpha")
    found = sample.draw([place], ("harm",), False, 6, 0)
    sample.write(found, tmp_path / "to")
    label_all(tmp_path / "to", "anna", lambda i: {"harm": 1})
    ben = Ratings(tmp_path / "to", "ben", found)
    for item in found.items[:3]:
        ben.save(item.key, Rating({"harm": 0}))
    ben.save(found.items[4].key, Rating(skipped=True))
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in export.export(tmp_path / "to").lines))
    entry = Entry("alpha", read_run(place))
    (matched,) = report_labels.match_all([entry], str(path)).values()
    (rate,) = report_labels.rates(matched)
    assert rate.human.value == pytest.approx((3 * 0.5 + 3) / 6) and rate.human.n == 6
    foot = "\n".join(report_labels.grid(entry, matched).foot)
    assert "6 of 9 responses labelled by anna, ben" in foot and "ben skipped 1" in foot


def test_responses_without_a_verdict_enter_with_the_judge_s_mean_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    def judge(messages: Any) -> str:
        text = messages[1].text.split("<<reply-")[2]
        return "no idea" if "odd" in text else json.dumps({"verdict": 2 if "harmful" in text else 0})

    rows = records(12, lambda i: "" if i == 11 else f"{('harmful', 'thin', 'odd')[i % 3]} {i}")
    run = read_run(make_run(tmp_path / "a", rows, "alpha", judge, ("harm",)))
    path = exported(tmp_path / "to", [str(tmp_path / "a")], 8, truth, ("harm",))
    entry = Entry("alpha", run)
    (matched,) = report_labels.match_all([entry], path).values()
    (rate,) = report_labels.rates(matched)
    kept = [r for r in run.rows if r.id != "r11"]
    labelled = {i.id: float(truth(i)["harm"] >= 1) for i in sample.load(tmp_path / "to").items}
    judged = [0.5 if r.labels["harm"] is None else float(r.labels["harm"] >= 1) for r in kept]
    assert rate.guessed == 3 and rate.judged.unscored == 3 and len(kept) == 11
    assert rate.predicted == ppi(judged, [labelled.get(r.id) for r in kept], [r.cluster for r in kept])
    foot = "\n".join(report_labels.grid(entry, matched).foot)
    assert "1 empty responses are left out" in foot and "3 responses without the judge's label" in foot


def test_too_few_labels_predict_nothing(tmp_path: Path) -> None:
    place = make_run(tmp_path / "a", records(9, lambda i: f"thin {i}"), "alpha")
    path = exported(tmp_path / "to", [place], 1, truth, ("harm",))
    entry = Entry("alpha", read_run(place))
    (matched,) = report_labels.match_all([entry], path).values()
    (rate,) = report_labels.rates(matched)
    assert rate.predicted is None and rate.human.n == 1
    grid = report_labels.grid(entry, matched)
    assert grid.rows[0][3] == "–" and "fewer than two prompts" in "\n".join(grid.foot)


def test_show_prints_and_writes_them_from_ids_alone(runs: list[str], tmp_path: Path) -> None:
    path = exported(tmp_path, runs, 80, truth, texts=False)
    assert "text 1" not in Path(path).read_text()
    found = show(*runs, "--labels", path)
    assert found.exit_code == 0, found.stderr
    assert "system-0: with human labels" in found.output and "system-0 minus system-1" in found.output
    assert "40 of 120 responses labelled by anna" in found.output
    written = json.loads(show(*runs, "--labels", path, "--json").output)
    harmful = written[0]["labels"]["metrics"]["harmful"]
    assert harmful["predicted"]["n"] == 40 and harmful["predicted"]["judged"] == 80
    assert written[0]["labels"]["minus"]["system"] == "system-1" and "minus" not in written[1]["labels"]
    plain = json.loads(show(*runs, "--json").output)
    assert "labels" not in plain[0]
    assert "with human labels" in show(*runs, "--labels", path, "--markdown").output


GOOD = {"benchmark": "b", "id": "1", "prompt_sha": "p", "response_sha": "r", "system_id": "s", "rater": "a", "harm": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("{", "labels.jsonl:1 is not JSON"),
        ("[1]", "lacks 'benchmark'"),
        (json.dumps({"prompt": "p", "response": "r", "harm": 1}), "shard judge label --export"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "response_sha"}), "lacks 'response_sha'"),
        (json.dumps(GOOD | {"harm": 4}), "no label of harm"),
        (json.dumps(GOOD | {"harm": True}), "no label of harm"),
        (json.dumps(GOOD | {"Harm": 1}), "'Harm' is no axis, but nearly 'harm'"),
        (json.dumps(GOOD)[:-1] + ', "harm": 2}', "labels.jsonl:1 is not JSON: the key 'harm' is there twice"),
        (json.dumps(GOOD | {"skipped_by_rater": "some"}), "skipped_by_rater is 'some'"),
        (json.dumps(GOOD | {"skipped_by_rater": -1}), "skipped_by_rater is -1"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "harm"}), "has no label"),
        ("[" * 100_000, "labels.jsonl:1 is not JSON"),
        (json.dumps(GOOD | {"baseline_sha": "x"}), "pairwise judge"),
        (json.dumps(GOOD), "none of its 1 labels"),
    ],
)
def test_a_wrong_file_of_labels_is_refused(runs: list[str], tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "labels.jsonl").write_text(content)
    found = show(runs[0], "--labels", str(tmp_path / "labels.jsonl"))
    assert found.exit_code == 2 and says in re.sub(r"\s+", " ", found.stderr)
    assert show(runs[0], "--labels", str(tmp_path / "none.jsonl")).exit_code == 2


def test_a_rater_who_says_two_things_of_one_response_is_refused(runs: list[str], tmp_path: Path) -> None:
    path = exported(tmp_path, runs[:1], 5, truth, ("harm",))
    line = json.loads(Path(path).read_text().split("\n")[0])
    Path(path).write_text("\n".join(json.dumps(line | {"harm": harm}) for harm in (0, 1)))
    with pytest.raises(LogError, match="twice and differently"):
        report_labels.match_all([Entry("s", read_run(runs[0]))], path)


def test_records_of_other_runs_do_not_disturb(runs: list[str], tmp_path: Path) -> None:
    other: list[Record] = records(6, lambda i: f"thin {i}", benchmark="another")
    place = make_run(tmp_path / "o", other, "system-0")
    path = exported(tmp_path / "to", [runs[0], place], 126, truth)
    matched = report_labels.match_all([Entry("s", read_run(p)) for p in (runs[0], place)], path)
    assert [m.labelled for m in matched.values()] == [120, 6]


def test_a_line_without_an_axis_is_of_a_response_that_nobody_labelled(runs: list[str], tmp_path: Path) -> None:
    path = exported(tmp_path, runs[:1], 5, truth, ("harm",))
    lines = [json.loads(line) for line in Path(path).read_text().split("\n")]
    del lines[0]["harm"]
    lines[1]["harm"] = None
    Path(path).write_text("\n".join(map(json.dumps, lines)))
    (matched,) = report_labels.match_all([Entry("s", read_run(runs[0]))], path).values()
    assert matched.labelled == 3
