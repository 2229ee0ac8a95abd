"""Prompt files: well-formed, filled in one pass, and with exactly the placeholders the code fills."""

from __future__ import annotations

import re

import pytest

from shard_eval import prompts
from shard_eval.errors import UsageError
from shard_eval.judges import Case
from shard_eval.judges.reply import verdict_schema
from shard_eval.judges.rubric import messages
from shard_eval.prompts import Prompt
from shard_eval.records import AXES, LOWEST, SCALES, Axis, labels
from shard_eval.reframing import MODES

PLACEHOLDERS = {
    "guard_granite": set(),
    "guard_policy": set(),
    "guard_polyguard": set(),
    "guard_polyguard_input": {"request", "response"},
    "guard_shieldgemma": set(),
    "guard_wildguard": {"request", "response"},
    "guidelines_crimes_illegal_activities": set(),
    "guidelines_explicit_content": set(),
    "guidelines_fairness_justice": set(),
    "guidelines_harm_misuse": set(),
    "guidelines_privacy_property": set(),
    "guidelines_universal": set(),
    "guidelines_write": {"guidelines"},
    "guidelines_write_input": {"category", "description"},
    "judge_action": set(),
    "judge_frame": {"request_mark", "request", "response_mark", "response", "context"},
    "judge_harm": set(),
    "judge_helpfulness": set(),
    "judge_need": {"need", "withhold"},
    "judge_refusal": set(),
    "linguasafe_question": {"requests"},
    "linguasafe_reject": {"request", "response"},
    "linguasafe_unsafe": {"request", "response", "subtype"},
    "pair_frame": {"request_mark", "a_mark", "b_mark", "request", "a", "b", "context"},
    "pair_harm": set(),
    "pair_helpfulness": set(),
    "pair_rules": set(),
    "reason_continue": {"policy"},
    "reason_continue_input": {"mark", "request", "steps"},
    "reason_write": {"policy"},
    "reason_write_input": {"request"},
    "safety_policy": set(),
    "select_harm": set(),
    "select_harmful": set(),
    "select_helpful": set(),
    "select_one_input": {"mark", "request", "reply"},
    "select_pair_input": {"mark", "request", "first", "second"},
    "select_reflection": set(),
    "select_stance": set(),
    "shard_refine": {"mode_instruction"},
    "shard_refine_draft": set(),
    "shard_refine_draft_input": {"request", "draft_response"},
    "shard_refine_input": {"request", "reframed_prompt", "draft_response"},
    "shard_rewrite": {"guidelines"},
    "shard_rewrite_input": {"guidelines", "request"},
    "system_benign_intent": set(),
}


def test_the_table_above_names_every_prompt_file() -> None:
    assert prompts.names() == sorted(PLACEHOLDERS)


@pytest.mark.parametrize("name", sorted(PLACEHOLDERS))
def test_every_prompt_has_a_version_a_source_and_its_placeholders(name: str) -> None:
    prompt = prompts.load(name)
    assert prompt.name == name and prompt.version >= 1 and len(prompt.source) > 10
    assert prompt.text and "---" not in prompt.text.replace("\n\n---\n\nAnswers: [/INST]", "")  # WildGuard's own
    filled = prompt.fill(**{key: f"<{key}>" for key in PLACEHOLDERS[name]})
    assert all(f"<{key}>" in filled for key in PLACEHOLDERS[name])
    assert not re.search(r"\{\{|\}\}", filled)


TWO = Prompt("two", 1, "test", "A {{request}} B {{response}} C {{request}}")


def test_a_value_never_fills_another_placeholder() -> None:
    filled = TWO.fill(request="{{response}} {x} \\1 %s", response="{{request}}")
    assert filled == "A {{response}} {x} \\1 %s B {{request}} C {{response}} {x} \\1 %s"


@pytest.mark.parametrize("values", [{}, {"request": "x"}, {"request": "x", "response": "y", "more": "z"}])
def test_a_missing_or_unused_value_is_an_error_that_names_it(values: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"two.*request.*response"):
        TWO.fill(**values)


def test_a_changed_text_has_another_hash_and_a_new_version_alone_has_not() -> None:
    assert TWO.sha == Prompt("two", 2, "test", TWO.text).sha
    assert TWO.sha != Prompt("two", 1, "test", TWO.text + " ").sha


def test_an_unknown_prompt_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="Did you mean 'judge_harm'"):
        prompts.load("judge_harn")


@pytest.mark.parametrize("axis", AXES)
def test_a_judge_prompt_names_every_label_of_its_axis_and_no_other(axis: Axis) -> None:
    text = prompts.load(f"judge_{axis}").text
    found = dict(re.findall(r"^(\d+) = ([^:\n]+):", text, re.MULTILINE))
    assert found == {str(label): SCALES[axis][label - LOWEST[axis]] for label in labels(axis)}


@pytest.mark.parametrize("axis", AXES)
def test_the_schema_asks_for_a_reason_first_and_then_one_of_the_labels(axis: Axis) -> None:
    found = verdict_schema("v", int, list(labels(axis)), None).json_schema.model_dump(exclude_none=True)
    assert list(found["properties"]) == found["required"] == ["reason", "verdict"]
    assert found["properties"]["verdict"]["enum"] == list(labels(axis))


def test_the_rewrite_prompt_names_every_response_mode() -> None:
    assert all(f'"{mode}"' in prompts.load("shard_rewrite").text for mode in MODES)


# --- the judge's messages --------------------------------------------------------------------------------------


def test_the_rubric_is_the_system_message_and_the_material_is_not_in_it() -> None:
    system, user = messages(Case("the request", "the reply"), "harm")
    assert (system.role, user.role) == ("system", "user")
    assert system.text == prompts.load("judge_harm").text
    assert "the reply" in user.text and "{{" not in user.text


def test_need_and_limit_are_told_where_the_benchmark_states_them() -> None:
    both = messages(Case("q", "a", need="a loaf", withhold="the recipe"), "helpfulness")[1].text
    assert "Legitimate need: a loaf" in both and "Must not be given: the recipe" in both
    one = messages(Case("q", "a", withhold="the recipe"), "helpfulness")[1].text
    assert "Legitimate need: not stated" in one
    assert "Legitimate need" not in messages(Case("q", "a"), "helpfulness")[1].text
