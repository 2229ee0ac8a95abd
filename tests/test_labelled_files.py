"""Files of your own labels: CSV and JSONL, blanks, several raters, and what is wrong with a bad one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from shard_eval.benchmarks import labelled
from shard_eval.errors import UsageError


def jsonl(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_a_csv_and_a_jsonl_file_say_the_same(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text(
        "prompt,response,harm,refusal,source,intent,need,withhold,category,comment\n"
        '"one, two","a\nb",0,,m1,benign,n,w,c1,x\n'
        "three,d,2.0,1,,,,,,\n\n",
        encoding="utf-8-sig",
    )
    rows = [
        {"prompt": "one, two", "response": "a\nb", "harm": 0, "source": "m1", "intent": "benign", "need": "n",
         "withhold": "w", "category": "c1", "refusal": None},
        {"prompt": "three", "response": "d", "harm": 2, "refusal": 1},
    ]  # fmt: skip
    found = labelled.read(str(table))
    assert [(r.record.prompt, r.record.response, r.labels) for r in found.rows] == [
        ("one, two", "a\nb", {"harm": 0}),
        ("three", "d", {"harm": 2, "refusal": 1}),
    ]
    first = found.rows[0].record
    assert (first.source, first.intent, first.need, first.withhold, first.category) == ("m1", "benign", "n", "w", "c1")
    assert found.rows[1].record.source == "unnamed" and labelled.axes(str(table)) == ("harm", "refusal")
    again = labelled.read(jsonl(tmp_path / "mine.jsonl", rows))
    assert [(r.record.prompt, r.record.category, r.labels) for r in again.rows] == [
        (r.record.prompt, r.record.category, r.labels) for r in found.rows
    ]


def test_rows_without_any_label_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": r, **({"harm": 0} if r == "a" else {})} for r in "abc"]
    found = labelled.read(jsonl(tmp_path / "f.jsonl", rows))
    assert len(found.rows) == 1 and found.unlabelled == 2


def test_json_may_hold_line_separators_that_are_no_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "p", "response": "a\u2028b", "harm": 0}\n', encoding="utf-8")
    assert labelled.load(str(path))[0].record.response == "a\u2028b"


def by_raters(*labels: tuple[str, str, dict[str, int]]) -> list[dict[str, object]]:
    return [{"prompt": "p", "response": r, "source": "m", "rater": who, **given} for r, who, given in labels]


def test_raters_make_one_label_by_majority_or_by_the_lower_median(tmp_path: Path) -> None:
    rows = by_raters(
        ("a", "x", {"action": 1, "harm": 0}), ("a", "y", {"action": 1, "harm": 3}),
        ("a", "z", {"action": 4, "harm": 1}),
        ("b", "x", {"action": 2, "harm": 0}), ("b", "y", {"action": 3, "harm": 1}),
        ("c", "x", {"harm": 1}),
    )  # fmt: skip
    found = labelled.read(jsonl(tmp_path / "f.jsonl", rows))
    assert {r.record.response: r.labels for r in found.rows} == {
        "a": {"action": 1, "harm": 1},
        "b": {"harm": 0},  # a tie of two classes is no majority; of two severities the lower counts
        "c": {"harm": 1},
    }
    action, harm = found.raters["action"], found.raters["harm"]
    assert (action.n_raters, action.units, action.undecided) == (3, 2, 1)
    assert (harm.n_raters, harm.units, harm.undecided) == (3, 2, 0)
    assert harm.alpha is not None and harm.alpha < 0.5


def test_raters_who_agree_have_alpha_one_and_one_rater_has_none(tmp_path: Path) -> None:
    both = [(r, who, {"refusal": i % 3}) for i, r in enumerate("abcdef") for who in "xy"]
    assert labelled.read(jsonl(tmp_path / "f.jsonl", by_raters(*both))).raters["refusal"].alpha == pytest.approx(1)
    alone = labelled.read(jsonl(tmp_path / "g.jsonl", by_raters(*(b for b in both if b[1] == "x"))))
    assert alone.raters["refusal"].alpha is None and alone.raters["refusal"].units == 0


def test_two_systems_of_one_name_stay_apart_by_their_ids(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": r, "source": "m", "system_id": id, "harm": 0} for r, id in ("a1", "b1", "c2")]
    found = labelled.read(jsonl(tmp_path / "f.jsonl", rows))
    assert found.system_ids == {"m 1": "1", "m 2": "2"}
    assert [r.record.source for r in found.rows] == ["m 1", "m 1", "m 2"]
    same = labelled.read(jsonl(tmp_path / "g.jsonl", rows[:2]))
    assert same.system_ids == {"m": "1"} and same.rows[0].record.source == "m"


HEAD = "prompt,response,harm\n"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("f.csv", "", "is empty"),
        ("f.csv", HEAD, "is empty"),
        ("f.csv", HEAD + "p,r,\n", "has no labelled row"),
        ("f.csv", HEAD + "p,r,7\n", "row 2: 7 is no label of harm; give 0 (none), 1 (mild)"),
        ("f.csv", HEAD + "p,r,yes\n", "'yes' is no label of harm"),
        ("f.csv", HEAD + "p,r,0.5\n", "0.5 is no label of harm"),
        ("f.csv", HEAD + "p,r,0\np,r,1\n", "row 3: the same prompt, response and source as f.csv: row 2"),
        ("f.csv", HEAD + "p,,0\n", "row 2: it lacks the text 'response'"),
        ("f.csv", HEAD + "p,r,0,extra\n", "row 2 has 4 cells for 3 columns"),
        ("f.csv", HEAD + "p,r,0\nq,r\n", "row 3 has 2 cells for 3 columns"),
        ("f.csv", HEAD + "p,r,0_1\n", "row 2: '0_1' is no label of harm"),
        ("f.csv", HEAD + "p,r,1_0.0\n", "row 2: '1_0.0' is no label of harm"),
        ("f.csv", HEAD + "p,r,١\n", "row 2: '١' is no label of harm"),
        ("f.csv", "prompt,response,harm,Refusal\np,r,0,2\n", "row 2: 'Refusal' is no axis, but nearly 'refusal'"),
        ("f.csv", HEAD + "p,r,0\np," + "x" * 20_000_000 + ",0\n", "row 3: field larger than field limit"),
        ("f.csv", "prompt;response;harm\np;r;0\n", "no column 'prompt'"),
        ("f.csv", "prompt,response,harm,harm\np,r,0,0\n", "two columns 'harm'"),
        ("f.csv", HEAD + 'p,"r,0\n', "is no CSV file"),
        ("f.csv", "prompt,response,harm,intent\np,r,0,evil\n", "intent 'evil'"),
        ("f.csv", "prompt,response,harm,source\np,r,0,all\n", "source 'all'"),
        ("f.csv", "prompt,response,harm,rater\np,r,0,x\np,q,0,\n", "row 3: it lacks the 'rater'"),
        ("f.csv", "prompt,response,harm,rater\np,r,0,x\np,r,1,x\n", "'x' labelled this response twice on harm"),
        ("f.jsonl", '{"prompt": "p", "response": "r", "harm": 0}\n{"prompt": "p"', "f.jsonl:2 is not JSON"),
        ("f.jsonl", '{"prompt": " ", "response": "r", "harm": 0}', "'prompt' is empty"),
        ("f.jsonl", '{"prompt": "p", "response": "r", "harm": 0, "helpfullness": 2}', ":1: 'helpfullness' is no axis"),
        ("f.jsonl", '{"prompt": "p", "response": "r", "harm": 0, "harm": 1}', "the key 'harm' is there twice"),
        ("f.jsonl", "[" * 100_000, "f.jsonl:1 is not JSON"),
        ("f.txt", "x", "unknown labelled set"),
    ],
)
def test_a_bad_file_is_refused_with_place_value_and_remedy(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        labelled.load(str(path))
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
def test_another_encoding_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("prompt,response,harm\np,caf\xe9,0\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"is not UTF-8 text .* at byte 26"):
        labelled.load(str(tmp_path / name))
    with pytest.raises(UsageError, match="is no file"):
        labelled.load(str(tmp_path / "absent.csv"))


def test_columns_of_any_other_name_are_ignored(tmp_path: Path) -> None:
    others = ("comment", "harm_category", "note", "seconds", "benchmark", "response_sha", "section", "relation", "refs")
    rows = [{"prompt": "p", "response": "r", "harm": 0} | dict.fromkeys(others, "x")]
    assert labelled.load(jsonl(tmp_path / "f.jsonl", rows))[0].labels == {"harm": 0}


def test_a_long_answer_fits_a_cell_and_python_s_limit_stays_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "f.csv").write_text(f"{HEAD}p,{'x' * 200_000},0\n", encoding="utf-8")
    assert len(labelled.load(str(tmp_path / "f.csv"))[0].record.response or "") == 200_000
    assert csv.field_size_limit() == before


def test_rows_share_the_cluster_they_name_else_their_prompt_s(tmp_path: Path) -> None:
    rows = [{"prompt": p, "response": "r", "harm": 0, "cluster": c} for p, c in (("a", "t1"), ("b", "t1"), ("c", None))]
    rows.append({"prompt": "c", "response": "s", "harm": 0, "cluster": ""})
    first, second, third, fourth = (r.record.cluster for r in labelled.load(jsonl(tmp_path / "f.jsonl", rows)))
    assert first == second == "t1" and third == fourth != "t1"
