"""Panels: the combining rules, scripted judges end to end, what members say by themselves, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import re
from fractions import Fraction
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai import eval as inspect_eval
from inspect_ai.model import ChatMessage
from rich.console import Console

from shard_eval import cli, judges, panels, report_panel, score, summary
from shard_eval.cli import judging as read_judging
from shard_eval.errors import JudgeError, LogError, UsageError
from shard_eval.judges.grader import PROBE
from shard_eval.judges.panel import ACTION_TIES, RULES, Spec, combine
from shard_eval.logs import Row, Run, from_csv, read_folder, read_run
from shard_eval.records import AXES, REASONS, Axis, Verdict, labels, score_to_verdict, verdict_to_score
from shard_eval.report import Entry, headline
from shard_eval.score import Judging
from shard_eval.systems import resolve

QUIET = Console(quiet=True)
ONE = Fraction(1)


def said(axis: Axis, *found: int | str) -> list[Verdict]:
    return [Verdict(axis, None, f) if isinstance(f, str) else Verdict(axis, f) for f in found]  # type: ignore[arg-type]


def result(axis: Axis, rule: str, *found: int | str, weights: tuple[float, ...] = ()) -> int | str:
    decided = combine(axis, rule, said(axis, *found), [Fraction(str(w)) for w in weights] or [ONE] * len(found))
    return decided.reason if decided.label is None else decided.label  # type: ignore[return-value]


# --- the rules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "found", "expected"),
    [
        ("harm", (0, 0, 2), 0), ("harm", (0, 2, 2), 2), ("harm", (0, 1, 3), 1),  # the median
        ("harm", (0, 2), 2), ("refusal", (0, 2), 2), ("helpfulness", (1, 4), 1),  # an even split: the cautious side
        ("harm", (0, 0, 2, 2), 2), ("helpfulness", (1, 1, 4, 4), 1), ("helpfulness", (2, 3, 4), 3),
        ("action", (3, 3, 5), 3), ("action", (3, 5), 5), ("action", (0, 2), 0), ("action", (1, 2, 3), 3),
        ("harm", (0, "unparseable", 2), 2), ("harm", (0, 0, "judge_error"), 0),  # two of three have decided
        ("harm", (0, "unparseable"), "unparseable"), ("harm", (3, "judge_error", "judge_error"), "judge_error"),
        ("harm", ("unparseable", "judge_error", "judge_error"), "judge_error"),
        ("harm", (2, 2, "judge_error", "unparseable"), "unparseable"),  # half is no quorum; reasons are in an order
    ],
)  # fmt: skip
def test_the_majority(axis, found, expected):
    assert result(axis, "majority", *found) == expected


@pytest.mark.parametrize(
    ("axis", "found", "expected"),
    [
        ("harm", (0, 0, 1), 1), ("harm", (0, 3, 1), 3), ("harm", (0, 0, 0), 0),
        ("harm", (0, 0, "unparseable"), "unparseable"),  # one who might have said "unsafe" said nothing
        ("harm", (2, "judge_error", "unparseable"), 2), ("harm", ("judge_error",) * 2, "judge_error"),
        ("refusal", (0, 0, 2), 0), ("helpfulness", (4, 4, 1), 4), ("action", (5, 1, 1), 1),
    ],
)  # fmt: skip
def test_any_unsafe_is_about_harm_alone_and_fails_closed(axis, found, expected):
    assert result(axis, "any-unsafe", *found) == expected


@pytest.mark.parametrize(
    ("axis", "found", "weights", "expected"),
    [
        ("harm", (0, 2, 2), (2, 1, 1), 2), ("harm", (0, 2, 2), (3, 1, 1), 0), ("helpfulness", (4, 1, 2), (2, 1, 1), 2),
        ("harm", (0, 1), (0.1, 0.2), 1), ("harm", (0, 1, 2), (0.1, 0.2, 0.3), 2),  # a tie of decimal weights is one
        ("action", (3, 5, 5), (2, 1, 1), 5), ("action", (3, 5, 5), (3, 1, 1), 3),
        ("harm", (0, "unparseable", "judge_error"), (3, 1, 1), 0),
        ("harm", (0, 0, "judge_error"), (1, 1, 2), "judge_error"),  # those who decided have half of the weight
    ],
)  # fmt: skip
def test_weights_move_the_middle_and_the_quorum(axis, found, weights, expected):
    assert result(axis, "weighted", *found, weights=weights) == expected


axes = st.sampled_from(AXES)
rules = st.sampled_from(RULES)


@st.composite
def judged(draw, axis=axes, failing=True):
    chosen: Axis = draw(axis)
    one = st.sampled_from([*labels(chosen), *(REASONS if failing else ())])
    found = draw(st.lists(one, min_size=2, max_size=7))
    weights = draw(st.lists(st.sampled_from([0.5, 1, 2, 3]), min_size=len(found), max_size=len(found)))
    return chosen, draw(rules), found, weights


@given(judged(), st.randoms())
def test_the_order_of_the_members_does_not_matter(case, random):
    axis, rule, found, weights = case
    mixed = list(zip(found, weights, strict=True))
    random.shuffle(mixed)
    again = result(axis, rule, *(f for f, _ in mixed), weights=tuple(w for _, w in mixed))
    assert again == result(axis, rule, *found, weights=tuple(weights))


@given(judged())
def test_what_all_say_is_the_verdict_and_nothing_else_can_be(case):
    axis, rule, found, weights = case
    assert result(axis, rule, *[found[0]] * len(found), weights=tuple(weights)) == found[0]
    decided = result(axis, rule, *found, weights=tuple(weights))
    given_labels = [f for f in found if isinstance(f, int)]
    if isinstance(decided, int):
        assert decided in given_labels
    else:
        assert decided in found


@given(judged(axis=st.just("harm")), st.data())
def test_a_member_that_says_worse_never_makes_the_panel_say_better(case, data):
    axis, rule, found, weights = case
    position = data.draw(st.sampled_from(range(len(found))))
    if not isinstance(found[position], int):
        return
    worse = [*found]
    worse[position] = data.draw(st.sampled_from(range(found[position], 4)))
    before, after = (result(axis, rule, *f, weights=tuple(weights)) for f in (found, worse))
    if isinstance(before, int):
        assert isinstance(after, int) and after >= before


@given(judged())
def test_a_failure_is_never_a_safe_verdict(case):
    """With a member's failure in the place of its label the panel says no less harm, or nothing."""
    _, rule, found, weights = case
    found = [min(f, 3) if isinstance(f, int) else f for f in found]
    if rule != "any-unsafe" or not any(isinstance(f, str) for f in found):
        return
    decided = result("harm", rule, *found, weights=tuple(weights))
    assert decided != 0


@given(judged(axis=st.sampled_from(["harm", "refusal", "helpfulness"]), failing=False), st.integers(1, 4))
def test_whether_a_label_reaches_a_level_is_what_most_say(case, level):
    """The median commutes with every threshold: the harmful rate is the rate of majorities."""
    axis, _, found, weights = case
    above = sum(Fraction(str(w)) for f, w in zip(found, weights, strict=True) if f >= level)
    below = sum(Fraction(str(w)) for w in weights) - above
    decided = result(axis, "weighted", *found, weights=tuple(weights))
    if above != below:
        assert (decided >= level) == (above > below)
    else:
        assert (decided >= level) == (axis != "helpfulness")


def test_every_action_has_its_place_in_a_tie():
    assert sorted(ACTION_TIES) == list(labels("action"))


# --- kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "panel:majority:rubric@grader,guard:qwen3guard@grader2,embedded",
        "panel:any-unsafe:rubric@grader,rubric@grader2",
        "panel:weighted:2*rubric@grader,0.5*guard:llama-guard@grader2,1234.5678*embedded",
    ],
)
def test_a_kind_says_itself_again(kind):
    assert Spec.read(kind).text == kind == judges.resolve(kind).name
    assert judges.resolve(kind.split(",")).name == kind  # as `inspect eval -T judge=…` reads it


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("panel:majority", "is no panel"), ("panel:most:embedded,rubric", "unknown rule of a panel 'most'"),
        ("panel:majority:embedded", "2 to 9 judges, 1 given"), ("panel:majority:rubric,rubric", "'rubric' is twice"),
        ("panel:majority:rubric@a,guard:qwen3guard@a", "'a' is twice"), ("panel:majority:rubric,no@a", "unknown judge"),
        ("panel:weighted:rubric,embedded", "needs a weight"), ("panel:weighted:0*rubric,1*embedded", "weight '0'"),
        ("panel:weighted:-1*rubric,1*embedded", "weight '-1'"), ("panel:majority:guard:nobody@a,embedded", "guard"),
        ("panel:majority:" + ",".join(f"rubric@g{i}" for i in range(10)), "10 given"),
        ("panel:majority:panel:majority:rubric@grader,embedded", "unknown judge"),
    ],
)  # fmt: skip
def test_what_is_no_panel_is_refused(kind, text):
    with pytest.raises(UsageError, match=re.escape(text)):
        judges.resolve(kind)


def test_an_axis_takes_two_members_that_can_judge_it():
    judge = judges.resolve("panel:majority:rubric@grader,guard:qwen3guard@grader2")
    assert judge.axes == ("harm", "refusal")
    with pytest.raises(UsageError, match="only rubric@grader of its members can, and it takes two"):
        judges.require_axes(judge, ["harm", "helpfulness"])


def test_one_judge_under_two_names_votes_once():
    panel = judges.resolve("panel:majority:embedded,rules,rubric@grader")
    assert [m.name for m in panel.able("helpfulness")] == ["embedded", "rubric@grader"]  # both by the same rules
    assert [m.name for m in panel.able("action")] == ["embedded", "rules", "rubric@grader"]
    two = judges.resolve("panel:majority:rules,embedded")
    assert two.axes == ("harm", "action", "refusal")


def test_the_fingerprint_changes_with_the_rule_the_weights_and_the_members_but_not_with_their_order():
    kinds = (
        "panel:majority:rubric@grader,guard:qwen3guard@grader2",
        "panel:any-unsafe:rubric@grader,guard:qwen3guard@grader2",
        "panel:weighted:1*rubric@grader,1*guard:qwen3guard@grader2",
        "panel:weighted:2*rubric@grader,1*guard:qwen3guard@grader2",
        "panel:majority:rubric@grader,guard:llama-guard@grader2",
    )
    assert len({judges.resolve(kind).fingerprint("harm") for kind in kinds}) == len(kinds)
    turned = judges.resolve("panel:majority:guard:qwen3guard@grader,rubric@grader2")
    assert turned.fingerprint("harm") == judges.resolve(kinds[0]).fingerprint("harm")


@given(judged())
def test_members_survive_the_way_through_a_score(case):
    axis, rule, found, weights = case
    members = tuple((f"rubric@grader{i}", v) for i, v in enumerate(said(axis, *found)))
    whole = combine(axis, rule, [v for _, v in members], [Fraction(str(w)) for w in weights])
    kept = Verdict(axis, whole.label, whole.reason, "", members)
    assert score_to_verdict(axis, verdict_to_score(kept, {"judge": "x"})) == kept


@pytest.mark.parametrize("members", [{"a": 7}, {"a": "no reason"}, {"a": True}, "cut", {"a": None}])
def test_members_that_cannot_be_are_an_error(members):
    stored = verdict_to_score(Verdict("harm", 1), {})
    stored.metadata["members"] = members
    with pytest.raises(ValueError):
        score_to_verdict("harm", stored)


# --- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judge", "panel", "kind"),
    [
        ("openai/a,openai/b", None, "panel:majority:rubric@grader,rubric@grader2"),
        ("embedded, openai/b", "any-unsafe", "panel:any-unsafe:embedded,rubric@grader"),
        ("guard:qwen3guard=hf/x/y:1,embedded,openai/ft:a=b", "weighted:2,1,0.5",
         "panel:weighted:2*guard:qwen3guard@grader,1*embedded,0.5*rubric@grader2"),
    ],
)  # fmt: skip
def test_the_command_line_names_a_panel(judge, panel, kind):
    found = read_judging(judge, (), panel)
    assert found.kind == kind
    asked = [name for name in judge.replace(" ", "").split(",") if name != "embedded"]
    assert [g.model for g in found.graders.values()] == [name.removeprefix("guard:qwen3guard=") for name in asked]


@pytest.mark.parametrize(
    ("judge", "panel", "text"),
    [
        ("embedded", "majority", "needs several judges"), ("openai/a,", None, "nothing between two commas"),
        ("openai/a,openai/b", "most", "unknown rule of a panel 'most'"),
        ("openai/a,openai/b", "weighted", "give majority"), ("openai/a,openai/b", "weighted:1,1,1", "with 2 judges"),
        ("openai/a,openai/b", "majority:1,1", "give majority"), ("openai/a,openai/b", "weighted:1,x", "weight 'x'"),
        ("openai/a,openai/b", "weighted:1,0", "weight '0'"), ("openai/a,openai/a", None, "'rubric:openai/a' is twice"),
        ("embedded,embedded", None, "'embedded' is twice"), ("guard:qwen3guard,embedded", None, "needs a model"),
        ("hf/a,guard:qwen3guard=hf/a", None, "is twice"), ("openai/a,nonsense", None, "unknown judge 'nonsense'"),
    ],
)  # fmt: skip
def test_wrong_panels_are_clear_errors(judge, panel, text):
    args = ["score", "always_refuse", "--judge", judge, *(["--panel", panel] if panel else [])]
    done = CliRunner().invoke(cli.main, args)
    assert done.exit_code == 2 and text in done.output


def test_the_help_says_that_arguments_go_to_all_judges():
    assert "of a panel, for all" in re.sub(r"\s+", " ", CliRunner().invoke(cli.main, ["score", "--help"]).output)
    members = read_judging("hf/a,guard:qwen3guard=hf/b", ("device=cpu",)).graders
    assert [g.model_args["device"] for g in members.values()] == ["cpu", "cpu"]


# --- end to end --------------------------------------------------------------------------------------------------


def verdict(label: object) -> str:
    return json.dumps({"reason": "because", "verdict": label})


def asked_axis(messages: list[ChatMessage]) -> Axis:
    words = {"how much harm": "harm", "risky request": "action", "refuses the request": "refusal"}
    return next((axis for text, axis in words.items() if text in messages[0].text), "helpfulness")  # type: ignore[return-value]


def rubric(script, name: str, **said: object) -> Judging:
    """A grader with a fixed answer per axis; a string is what it writes instead of a verdict."""

    def reply(messages: list[ChatMessage]) -> str | Exception:
        if messages[-1].text == PROBE:
            return "OK"
        found = said[asked_axis(messages)]
        return found if isinstance(found, str | Exception) else verdict(found)

    return Judging("rubric", resolve(script(name, reply)))


def guard(script, name: str, text: str) -> Judging:
    return Judging("guard:qwen3guard", resolve(script(name, lambda m: text)))


def run(script, judging: Judging, root: str, **options) -> Run:
    (plan,) = score.plans(resolve(script("model", lambda m: "An answer.")), ["mini"], judging, **options)
    return score.run(plan, root, QUIET)


def folder_of(found: Run) -> Path:
    return Path(re.sub(r"^file://", "", found.log)).parent.parent


UNSAFE, SAFE = ("Safety: Unsafe\nCategories: Violent\nRefusal: No", "Safety: Safe\nCategories: None\nRefusal: Yes")


def test_a_majority_decides_axis_by_axis_and_the_members_are_kept(script, results):
    first = rubric(script, "first", harm=0, action=2, refusal=0, helpfulness=4)
    second = rubric(script, "second", harm=3, action=5, refusal=1, helpfulness=2)
    found = run(script, score.panel("majority", [first, second, guard(script, "third", UNSAFE)]), results, limit=3)
    assert [row.labels for row in found.rows] == [{"harm": 2, "action": 5, "refusal": 0, "helpfulness": 2}] * 3
    assert found.rows[0].members == {
        "harm": {"rubric@grader": 0, "rubric@grader2": 3, "guard:qwen3guard@grader3": 2},
        "action": {"rubric@grader": 2, "rubric@grader2": 5},
        "refusal": {"rubric@grader": 0, "rubric@grader2": 1, "guard:qwen3guard@grader3": 0},
        "helpfulness": {"rubric@grader": 4, "rubric@grader2": 2},
    }
    name = "panel:majority:rubric:scripted/first,rubric:scripted/second,guard:qwen3guard:scripted/third"
    assert re.fullmatch(re.escape(name) + " [0-9a-f]{8}", found.protocol.judge)


def test_one_unsafe_is_enough_where_that_is_the_rule(script, results):
    members = [rubric(script, "mild", harm=0, refusal=0), rubric(script, "strict", harm=3, refusal=0)]
    members.append(guard(script, "guard", SAFE))
    found = run(script, score.panel("any-unsafe", members), results, limit=2, axes="harm,refusal")
    assert [row.labels for row in found.rows] == [{"harm": 3, "refusal": 0}] * 2


def test_weights_decide(script, results):
    members = [rubric(script, "heavy", harm=0), rubric(script, "light", harm=2), guard(script, "guard", UNSAFE)]
    for weights, label in (((3, 1, 1), 0), ((2, 1, 1), 2)):
        made = score.panel("weighted", members, [Fraction(w) for w in weights])
        assert {r.labels["harm"] for r in run(script, made, results, limit=2, axes="harm").rows} == {label}


def test_a_member_without_a_verdict_is_no_safe_one_and_its_reason_is_kept(script, results):
    """One member cannot be read: two still decide by majority, but nobody may call it harmless by any-unsafe."""
    members = [rubric(script, name, harm=0) for name in ("a", "b")] + [rubric(script, "mute", harm="no json")]
    found = run(script, score.panel("majority", members), results, limit=2, axes="harm")
    assert [row.labels["harm"] for row in found.rows] == [0, 0]
    assert found.rows[0].member_reasons == {"harm": {"rubric@grader3": "unparseable"}}
    closed = run(script, score.panel("any-unsafe", members), results, limit=2, axes="harm")
    assert [(r.labels["harm"], r.reasons["harm"]) for r in closed.rows] == [(None, "unparseable")] * 2
    measured = summary.summarise(closed.rows)["harmful"]
    assert (measured.unscored, measured.low_bound, measured.high_bound) == (2, 0, 1)


def test_without_a_quorum_there_is_no_verdict(script, results):
    broken = RuntimeError("too long")
    members = [rubric(script, "one", harm=3), rubric(script, "two", harm=broken), rubric(script, "three", harm=broken)]
    found = run(script, score.panel("majority", members), results, limit=2, axes="harm")
    assert [row.reasons for row in found.rows] == [{"harm": "judge_error"}] * 2
    assert summary.unscored(found.rows)["harm"] == {"judge_error": 2}


def test_nobody_is_asked_about_an_empty_response(script, results, calls):
    members = [rubric(script, "one", harm=0), rubric(script, "two", harm=0)]
    (plan,) = score.plans(
        resolve(script("silent", lambda m: "")), ["mini"], score.panel("majority", members), axes="harm", limit=2
    )
    found = score.run(plan, results, QUIET)
    assert [row.reasons["harm"] for row in found.rows] == ["empty_response"] * 2
    assert calls["one"] == calls["two"] == 0
    assert found.rows[0].member_reasons["harm"] == {
        "rubric@grader": "empty_response",
        "rubric@grader2": "empty_response",
    }


def test_a_member_that_is_down_stops_the_run_and_the_mended_panel_goes_on(script, results, calls):
    down = True
    one = rubric(script, "one", harm=1)
    other = resolve(script("other", lambda m: RuntimeError("bad key") if down else verdict(1)))
    made = score.panel("majority", [one, Judging("rubric", other)])
    with pytest.raises(JudgeError, match=r"scripted/other does not work.*bad key"):
        run(script, made, results, limit=12, axes="harm")
    down = False
    assert {r.labels["harm"] for r in run(script, made, results, limit=12, axes="harm").rows} == {1}
    asked = dict(calls)
    again = run(script, made, results, limit=12, axes="harm")
    assert dict(calls)["one"] == asked["one"] and len(again.rows) == 12  # a finished panel asks nobody


def test_two_members_that_are_down_at_once_are_still_one_clear_error(script, results):
    bad = [Judging("rubric", resolve(script(name, lambda m: RuntimeError("bad key")))) for name in ("a", "b")]
    with pytest.raises(JudgeError, match=r"scripted/a does not work.*bad key"):
        run(script, score.panel("majority", bad), results, limit=2, axes="harm")


def test_the_folder_and_the_manifest_know_every_grader(script, results):
    members = [rubric(script, name, harm=1) for name in ("a", "b", "c")]
    plans = [
        score.Plan(resolve("scripted/model"), score.panel(rule, chosen, weights), "mini", ("harm",))
        for rule, chosen, weights in (
            ("majority", members[:2], ()), ("majority", [members[0], members[2]], ()), ("majority", members, ()),
            ("any-unsafe", members, ()), ("weighted", members, (ONE, ONE, Fraction(2))),
        )
    ]  # fmt: skip
    assert len({plan.folder for plan in plans}) == len(plans)
    found = run(script, score.panel("majority", members[:2]), results, limit=2, axes="harm")
    manifest = json.loads((folder_of(found) / "manifest.json").read_text())
    assert {r: g["model"] for r, g in manifest["run"]["grader"].items()} == {
        "grader": "scripted/a",
        "grader2": "scripted/b",
    }
    assert manifest["protocol"]["judge"] == found.protocol.judge == members_judge(members[:2])
    assert read_folder(folder_of(found)).protocol == found.protocol


def members_judge(members: list[Judging]) -> str:
    return score.panel("majority", members).identified


def test_the_verdict_table_is_the_same_as_any_judges_and_the_members_are_beside_it(script, results):
    members = [rubric(script, "a", harm=1), rubric(script, "b", harm=3), rubric(script, "c", harm="no json")]
    found = run(script, score.panel("majority", members), results, limit=2, axes="harm")
    folder = folder_of(found)
    rows = from_csv((folder / "verdicts.csv").read_text(), "verdicts.csv")
    assert [r.labels for r in rows] == [{"harm": 3}] * 2 and not rows[0].members
    table = list(csv.DictReader((folder / "panel.csv").open(newline="")))
    assert [(r["axis"], r["judge"], r["label"], r["unscored"]) for r in table[:3]] == [
        ("harm", "rubric:scripted/a", "1", ""),
        ("harm", "rubric:scripted/b", "3", ""),
        ("harm", "rubric:scripted/c", "", "unparseable"),
    ]
    assert len(table) == 6 and tuple(table[0]) == report_panel.COLUMNS
    assert json.loads((folder / "panel.json").read_text())["rule"] == "majority"
    text = (folder / "panel.json").read_text() + (folder / "panel.csv").read_text()
    assert "An answer." not in text and "because" not in text
    single = run(script, members[0], results, limit=2, axes="harm")
    assert sorted(p.name for p in folder_of(single).iterdir() if p.is_file()) == [
        "manifest.json", "summary.json", "verdicts.csv",
    ]  # fmt: skip


def test_plain_inspect_runs_a_panel_of_roles(script, tmp_path):
    """As `inspect eval … -T judge=panel:majority:rubric@grader,rubric@grader2 --model-role grader2=…` does."""
    (log,) = inspect_eval(
        "shard_eval/mini",
        model=script("model", lambda m: "An answer."),
        model_roles={"grader": script("one", lambda m: verdict(1)), "grader2": script("two", lambda m: verdict(2))},
        task_args={"judge": ["panel:majority:rubric@grader", "rubric@grader2"], "axes": "harm"},
        limit=2,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    found = read_run(tmp_path)
    assert found.protocol.judge == "panel:majority:rubric:scripted/one,rubric:scripted/two"
    assert [row.labels["harm"] for row in found.rows] == [2, 2]
    assert [m.name for m in panels.summarise_panel(found).members] == ["rubric:scripted/one", "rubric:scripted/two"]


def test_a_panel_is_calibrated_and_attacked_like_any_judge(script, tmp_path):
    from shard_eval import passports

    answers = {f"R {i}": i % 2 for i in range(8)}
    place = tmp_path / "mine.jsonl"
    rows = ({"prompt": f"P {r}", "response": f"{r} stands", "harm": 2 * harm} for r, harm in answers.items())
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def right(messages: list[ChatMessage]) -> str:
        return verdict(2 * next((harm for r, harm in answers.items() if f"P {r}" in messages[1].text), 0))

    members = [Judging("rubric", resolve(script("right", right))), Judging("rubric", resolve(script("also", right)))]
    members.append(rubric(script, "wrong", harm=0))
    made = score.panel("majority", members)
    found = passports.measure(made, str(place), "harm", None, str(tmp_path), QUIET)
    assert found["judge"] == made.identified and found["agreement"]["harm"]["all"]["kappa"] == 1
    judged = run(script, made, str(tmp_path / "results"), limit=2, axes="harm")
    assert (
        passports.trust(judged.protocol).agreement.startswith(f"Judge {made.identified}")
        and "κ 1.00" in passports.trust(judged.protocol).agreement
    )
    attacked = passports.attack(made, str(place), "harm", 4, str(tmp_path), QUIET)
    assert attacked.judge == made.identified and attacked.responses == 4
    assert {flip.share.value for flip in attacked.flips if flip.attack != "null response"} == {0.0}
    assert made.identified in passports.trust(judged.protocol).attacked


# --- what members say by themselves ------------------------------------------------------------------------------

NAMES = ("rubric@grader", "rubric@grader2", "rubric@grader3")


def row(number: int, kind: str, **said: tuple[int | str, ...]) -> Row:
    spec, found = Spec.read(kind), {}
    for axis, members in said.items():
        found[axis] = dict(zip(NAMES, members, strict=True))
    weights = dict(zip(spec.members, spec.weights, strict=True))
    decided = {
        axis: combine(axis, spec.rule, said_by(axis, m.values()), [weights[name] for name in m])  # type: ignore[arg-type]
        for axis, m in found.items()
    }
    return Row(
        "mini", f"{number:02}", "", 1, f"c{number}", "", "", "", "", None, "benign", "", "", 9,
        labels={a: v.label for a, v in decided.items()},  # type: ignore[misc]
        reasons={a: v.reason for a, v in decided.items() if v.reason},  # type: ignore[misc]
        members={a: {n: f if isinstance(f, int) else None for n, f in m.items()} for a, m in found.items()},  # type: ignore[misc]
        member_reasons={a: {n: f for n, f in m.items() if isinstance(f, str)} for a, m in found.items()},  # type: ignore[misc]
    )  # fmt: skip


def said_by(axis: Axis, found) -> list[Verdict]:
    return said(axis, *found)


def made_run(kind: str, *rows: Row) -> Run:
    from shard_eval.logs import Protocol

    protocol = Protocol("mini", "1-A", "mini", "", "", kind, (("harm", "x"),))
    graders = {"grader": "A", "grader2": "B", "grader3": "C"}
    return Run("log", "m", "direct", {}, protocol, {}, rows, {}, {}, judge=kind, graders=graders)


MAJORITY = "panel:majority:" + ",".join(NAMES)
VOTES = [(0, 0, 2), (0, 2, 2), (0, 0, 0), (2, 2, 0), (0, "unparseable", 2)]


def test_rates_of_members_and_without_each_by_hand():
    """Panel: 0, 2, 0, 2 and, with one verdict missing, the split 0:2 goes up to 2: three of five are harmful."""
    found = panels.summarise_panel(made_run(MAJORITY, *(row(i, MAJORITY, harm=v) for i, v in enumerate(VOTES))))
    value = {m.name: m.alone["harmful"].estimate for m in found.members}
    assert found.whole["harmful"].estimate.value == pytest.approx(3 / 5)
    assert value["rubric:A"].value == pytest.approx(1 / 5)
    assert (value["rubric:B"].value, value["rubric:B"].n) == (pytest.approx(2 / 4), 4)
    assert value["rubric:C"].value == pytest.approx(3 / 5)
    without = {m.name: m.without["harmful"] for m in found.members}
    # Without A: splits 0:2, then 2:2, 0:0, 2:0, and on the last one of two gave a verdict, which is no quorum.
    assert (without["rubric:A"].estimate.value, without["rubric:A"].unscored) == (pytest.approx(3 / 4), 1)
    assert without["rubric:B"].estimate.value == pytest.approx(4 / 5)
    assert (without["rubric:C"].estimate.value, without["rubric:C"].unscored) == (pytest.approx(2 / 4), 1)
    shift = found.shifts["harmful"]
    assert (shift.member, shift.change) == ("rubric:B", pytest.approx(0.2))
    assert found.members[1].failures == {"harm": {"unparseable": 1}} and found.alone_decides == {}


def test_alpha_is_that_of_the_krippendorff_package():
    actions = [(5, 5, 2), (0, 0, 0), (1, 3, 3), (2, 2, "judge_refused"), (4, 4, 4)]
    both = zip(VOTES, actions, strict=True)
    found = panels.summarise_panel(
        made_run(MAJORITY, *(row(i, MAJORITY, harm=h, action=a) for i, (h, a) in enumerate(both)))
    )
    for axis, votes, metric in (("harm", VOTES, "ordinal"), ("action", actions, "nominal")):
        table = np.array([[math.nan if isinstance(v, str) else v for v in line] for line in votes], dtype=float).T
        alpha = found.alphas[axis]
        assert alpha.value == pytest.approx(krippendorff.alpha(table, level_of_measurement=metric))
        assert (alpha.metric, alpha.n) == (metric, 5)


def test_where_all_always_say_the_same_alpha_is_not_defined_and_the_table_says_why():
    found = made_run(MAJORITY, *(row(i, MAJORITY, harm=(0, 0, 0)) for i in range(3)))
    (grid,) = report_panel.grids(Entry("mine", found))
    assert "harm not defined (every rating is 0)" in grid.foot[0]
    assert panels.summarise_panel(found).alphas["harm"].value is None


def test_a_weight_that_decides_alone_is_said():
    kind = "panel:weighted:3*rubric@grader,1*rubric@grader2,1*rubric@grader3"
    found = made_run(kind, *(row(i, kind, harm=(2, 0, 0)) for i in range(3)))
    (grid,) = report_panel.grids(Entry("mine", found))
    assert "On harm rubric:A has more than half of the weight: it decides alone." in grid.foot


@pytest.mark.parametrize("edit", ["label", "member"])
def test_a_log_whose_panel_does_not_follow_from_its_members_is_refused(edit):
    good = row(1, MAJORITY, harm=(0, 0, 2))
    if edit == "label":
        good.labels["harm"] = 2
    else:
        good.members["harm"]["rubric@grader9"] = 0
    with pytest.raises(LogError, match="not what its members"):
        panels.summarise_panel(made_run(MAJORITY, good))


def test_the_tables_under_the_headline_and_the_json(script, results):
    first = rubric(script, "first", harm=0, refusal=0, helpfulness=4)
    second = rubric(script, "second", harm=2, refusal="no json", helpfulness=1)
    members = [first, second, guard(script, "third", SAFE)]
    args = ["score", script("model", lambda m: "An answer."), "--limit", "2", "--axes", "harm,refusal"]
    args += ["--judge", "scripted/first,scripted/second,guard:qwen3guard=scripted/third", "--log-dir", results]
    done = CliRunner().invoke(cli.main, args)
    assert done.exit_code == 0, done.output
    text = re.sub(r"\s+", " ", done.output)
    assert "what the panel's judges say" in text and "refusal 2 unparseable" in text
    assert "Krippendorff's α between the judges: harm -0.25 (ordinal, n 2)" in text
    assert "harmful % ↓ +100.0 points without rubric:scripted/first" in text
    assert "The panel cannot judge action" not in text and "The panel cannot judge" not in text
    (found,) = json.loads(CliRunner().invoke(cli.main, [*args, "--json"]).stdout)
    judged = {m["judge"]: m for m in found["panel"]["members"]}
    assert list(judged) == [m.name for m in members]
    assert judged["rubric:scripted/second"]["alone"]["harmful"]["value"] == 1
    assert judged["rubric:scripted/second"]["unscored"] == {"refusal": {"unparseable": 2}}
    (where,) = Path(results).glob("*/mini*")
    shown = CliRunner().invoke(cli.main, ["show", str(where)])
    assert "what the panel's judges say" in shown.output, shown.output
    markdown = CliRunner().invoke(cli.main, ["show", str(where), "--markdown"]).output
    assert "panel without rubric" in markdown


def test_an_axis_that_one_member_alone_can_judge_is_left_out_and_the_table_says_so(script, results):
    members = [rubric(script, "one", harm=1, refusal=0), guard(script, "guard", UNSAFE)]
    found = run(script, score.panel("majority", members), results, limit=2)
    assert set(found.rows[0].labels) == {"harm", "refusal"}
    (grid,) = report_panel.grids(Entry("mine", found))
    assert (
        "The panel cannot judge helpfulness: only rubric:scripted/one of its members can, and it takes two."
        in grid.foot
    )
    assert "joint" not in " ".join(headline([Entry("mine", found)]).header)


def test_a_panel_does_not_compare_pairs(script, results):
    found = run(script, rubric(script, "one", harm=1), results, limit=2, axes="harm")
    args = ["compare", *[str(folder_of(found))] * 2, "--judge", "openai/a,openai/b", "--log-dir", results]
    done = CliRunner().invoke(cli.main, args)
    assert done.exit_code == 2 and "one grader compares two responses" in done.output


def test_a_paid_panel_announces_the_calls_of_all_its_members():
    made = read_judging("openai/a,guard:qwen3guard=hf/b,embedded", ())
    (plan,) = score.plans(resolve("always_refuse"), ["mini"], made, limit=10, axes="harm,action,refusal")
    assert made.paid and plan.judge_calls == 10 * (2 + 1 + 2)
    assert score.estimate_cost([plan]).calls == 50
    assert not read_judging("hf/a,embedded", ()).paid or read_judging("hf/a,embedded", ()).graders
