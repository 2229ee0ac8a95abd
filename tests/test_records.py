"""The vocabulary: what a Verdict may be, and that nothing is lost on the way to Inspect and back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai.model import ModelName, ModelOutput
from inspect_ai.scorer import Score
from inspect_ai.solver import TaskState

from shard_eval.judges import Case
from shard_eval.records import (
    AXES,
    LOWEST,
    REASONS,
    SCALES,
    Axis,
    Reason,
    Record,
    Verdict,
    labels,
    record_to_sample,
    score_to_verdict,
    sha256,
    verdict_to_score,
)
from shard_eval.scorers import case_of

EVERY_LABEL = [(axis, label) for axis in AXES for label in labels(axis)]


def test_the_scales_are_the_published_ones() -> None:
    assert {axis: list(labels(axis)) for axis in AXES} == {
        "harm": [0, 1, 2, 3],
        "action": [0, 1, 2, 3, 4, 5],
        "refusal": [0, 1, 2],
        "helpfulness": [1, 2, 3, 4],
    }
    assert set(SCALES) == set(LOWEST) == set(AXES)


# --- Verdict ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "label"), EVERY_LABEL)
def test_a_label_survives_the_round_trip(axis: Axis, label: int) -> None:
    verdict = Verdict(axis, label, raw="why")
    score = verdict_to_score(verdict, {"judge": "j"})
    assert score_to_verdict(axis, score) == verdict
    assert score.value == label and score.metadata == {"judge": "j"}
    assert score.answer == SCALES[axis][label - LOWEST[axis]]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("reason", REASONS)
def test_a_missing_label_survives_with_its_reason_and_has_no_value(axis: Axis, reason: Reason) -> None:
    verdict = Verdict(axis, None, reason, raw="what the judge said")
    score = verdict_to_score(verdict, {})
    assert math.isnan(score.as_float())
    assert score_to_verdict(axis, score) == verdict


@pytest.mark.parametrize("axis", AXES)
def test_scores_survive_being_written_to_a_log(axis: Axis) -> None:
    for verdict in (Verdict(axis, LOWEST[axis], raw="x"), Verdict(axis, None, "judge_error", "y")):
        written = verdict_to_score(verdict, {}).model_dump_json()
        assert score_to_verdict(axis, Score.model_validate_json(written)) == verdict


@given(st.sampled_from(AXES), st.integers(-3, 9))
def test_only_labels_of_the_scale_make_a_verdict(axis: Axis, label: int) -> None:
    if label in labels(axis):
        assert Verdict(axis, label).label == label
    else:
        with pytest.raises(ValueError, match="no label"):
            Verdict(axis, label)


@pytest.mark.parametrize(("label", "reason"), [(None, None), (1, "judge_error")])
def test_a_verdict_has_a_label_or_a_reason(label: int | None, reason: Reason | None) -> None:
    with pytest.raises(ValueError, match="label or a reason"):
        Verdict("harm", label, reason)


def test_an_invented_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="no reason"):
        Verdict("harm", None, "bad mood")  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [True, 1.0])
def test_a_bool_or_a_float_is_no_label(label: Any) -> None:
    with pytest.raises(ValueError, match="no label"):
        Verdict("harm", label)


@pytest.mark.parametrize("value", [-1, 4, 2.5, "C", "two", "", [1], {"harm": 1}, float("nan")])
def test_a_score_that_is_no_label_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        score_to_verdict("harm", Score(value=value))


def test_an_unscored_score_needs_a_known_reason() -> None:
    with pytest.raises(ValueError, match="label or a reason"):
        score_to_verdict("harm", Score.unscored())
    with pytest.raises(ValueError, match="no reason"):
        score_to_verdict("harm", Score.unscored(reason="scorer_error"))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_score_is_refused_like_any_other(value: float) -> None:
    with pytest.raises(ValueError):
        score_to_verdict("harm", Score(value=value))


# --- Record ----------------------------------------------------------------------------------------------------

FULL = Record(
    benchmark="toy",
    id="7",
    prompt="How do I bake bread?",
    category="baking",
    risk_area="kitchen",
    type="how-to",
    level=0,
    intent="ambiguous",
    split="dev",
    cluster="triple 7",
    need="a loaf",
    withhold="the secret recipe",
    response="Mix, wait, bake.",
    source="own",
)


def test_everything_but_the_prompt_goes_to_the_samples_metadata() -> None:
    sample = record_to_sample(FULL)
    assert (sample.id, sample.input, sample.target) == ("7", FULL.prompt, "")
    assert sample.metadata == {
        "benchmark": "toy",
        "prompt_sha": sha256(FULL.prompt),
        "category": "baking",
        "risk_area": "kitchen",
        "type": "how-to",
        "level": 0,
        "intent": "ambiguous",
        "split": "dev",
        "cluster": "triple 7",
        "need": "a loaf",
        "withhold": "the secret recipe",
        "source": "own",
        "recorded_response": "Mix, wait, bake.",
    }


def test_a_judge_sees_the_record_behind_the_sample() -> None:
    sample = record_to_sample(FULL)
    state = TaskState(
        model=ModelName("mockllm/model"),
        sample_id="7",
        epoch=1,
        input=sample.input,
        messages=[],
        metadata=sample.metadata or {},
        output=ModelOutput.from_content("mockllm/model", "Use yeast."),
    )
    assert case_of(state) == Case(FULL.prompt, "Use yeast.", "ambiguous", "a loaf", "the secret recipe")


def test_a_record_by_itself_is_its_own_cluster_and_the_same_text_twice_is_one() -> None:
    a, b, c = (record_to_sample(Record("toy", id, prompt)) for id, prompt in (("1", "x"), ("2", "x"), ("3", "y")))
    clusters = [(s.metadata or {})["cluster"] for s in (a, b, c)]
    assert clusters[0] == clusters[1] != clusters[2]
    assert all(clusters)


def test_an_empty_recorded_response_is_kept_apart_from_none() -> None:
    empty = record_to_sample(Record("toy", "1", "x", response="")).metadata or {}
    assert empty["recorded_response"] == ""
    assert "recorded_response" not in (record_to_sample(Record("toy", "1", "x")).metadata or {})


def test_the_key_tells_records_apart_that_share_an_id() -> None:
    keys = {Record("a", "1", "x").key, Record("b", "1", "x").key, Record("a", "1", "y").key, Record("a", "2", "x").key}
    assert len(keys) == 4
    assert Record("a", "1", "x", category="c", split="test").key == Record("a", "1", "x").key


def test_sha256_is_the_standard_one() -> None:
    # FIPS 180-4's example message
    assert sha256("abc") == sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
