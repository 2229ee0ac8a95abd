"""SaRO-style: reasoning written, read, learned and preferred; pairs by hand, DPO on a tiny model, a run on SmolLM2."""

from __future__ import annotations

import json
import math
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessage, ContentReasoning, ContentText, ModelOutput
from rich.console import Console
from test_score import grader, run, verdict
from tiny import CHATML, TINY, row, tokenizer, write_rows

from shard_eval import prompts, reasoning, solvers
from shard_eval.cli import main
from shard_eval.errors import UsageError
from shard_eval.reasoning import Trace
from shard_eval.records import Record
from shard_eval.systems import Decoding, resolve
from shard_train import dpo, sft, star_sources
from shard_train import run as running
from shard_train.recipe import Preference, Reasoning
from shard_train.saro import pairs, readings, replies, stages
from shard_train.saro.pairs import Sampled, Tally
from shard_train.saro.readings import Reading
from shard_train.select import read_choice
from shard_train.star.calibration import Labelled
from shard_train.star.guards import Exchange, Lexical

Script = Callable[[str, Callable[[list[ChatMessage]], str | Exception]], str]
QUIET = Console(quiet=True)
WRITE = prompts.load("reason_write").text[:60]
CONTINUE = prompts.load("reason_continue").text[:60]
HOW = Reasoning()


def written(*steps: str, answer: str = "Use a soft cloth.") -> str:
    return json.dumps({"steps": list(steps), "answer": answer})


# --- traces ----------------------------------------------------------------------------------------------------------


def test_a_trace_is_written_and_read_back() -> None:
    one = Trace(("First.", "Second\nline.", "Third."), "The answer.\n\nIn two parts.")
    for tags in reasoning.TAGS:
        text = one.text(tags)
        assert reasoning.split(text) == (one.reasoning, one.answer)
        assert reasoning.trace(*reasoning.split(text)) == one
        assert one.begun(tags, 2) + one.text(tags, after=2) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (written("One.", "Two."), Trace(("One.", "Two."), "Use a soft cloth.")),
        ("Sure:\n```json\n" + written("One.") + "\n```", Trace(("One.",), "Use a soft cloth.")),
        (written("One.\n\nstill one."), Trace(("One.\nstill one.",), "Use a soft cloth.")),
        ("", "empty"),
        ("I cannot.", "not_json"),
        ("{]", "cut"),
        ("{}", "not_json"),
        ('{"steps": "One.", "answer": "A."}', "bad_schema"),
        ('{"steps": ["One."]}', "bad_schema"),
        (written("One.", answer=" "), "empty"),
        (written(), "empty"),
        (written("One. </think> Two."), "tags"),
        (written("One.", answer="<think>more</think>"), "tags"),
        (written("One.") + ' He said "yes".', Trace(("One.",), "Use a soft cloth.")),
        (written("One.")[:-3], "cut"),
        ('{"steps": ["One.", "Two', "cut"),
        ("{'steps': ['One.'], 'answer': 'Slips of quotes.',}", Trace(("One.",), "Slips of quotes.")),
    ],
)
def test_what_is_no_trace_says_why(text: str, found: Any) -> None:
    assert reasoning.written(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>\n\n</think>\n\n<reasoning>Why.</reasoning>\nAn answer.", ("Why.", "An answer.")),
        (" <think>a</think> <think>b</think>So.", ("a\n\nb", "So.")),
        ("<think>a</think><think>b", ("a\n\nb", "")),
        ("An answer. <think>a</think>", None),
    ],
)
def test_several_blocks_in_front_are_all_reasoning(text: str, found: Any) -> None:
    assert reasoning.split(text) == found
    output = ModelOutput.from_content("m", text)
    assert solvers.set_aside(output).completion == (text if found is None else found[1])


def test_reasoning_behind_what_the_provider_took_out_is_set_aside_too() -> None:
    output = ModelOutput.from_content("m", "")
    parts = [ContentReasoning(reasoning="a"), ContentText(text="<think>SECRET</think> Use water.")]
    output.choices[0].message.content = parts
    assert solvers.set_aside(output).completion == "Use water." == output.choices[0].message.text
    trace = replies.of_output(output)
    assert trace == Trace(("a", "SECRET"), "Use water.")


@given(st.text(), st.sampled_from(list(reasoning.TAGS)))
def test_any_text_is_read_without_an_exception(text: str, tags: str) -> None:
    assert isinstance(reasoning.written(text), Trace | str)
    opening, closing = reasoning.TAGS[tags]
    found = reasoning.split(opening + text)
    assert found is not None and (closing in opening + text or found[1] == "")
    assert isinstance(reasoning.trace(*found), Trace | str)


def test_a_system_that_reasons_shows_the_judge_its_answer_only(script: Script, results: str) -> None:
    shown: list[str] = []
    asked: list[str] = []

    def judge(messages: list[ChatMessage]) -> str:
        shown.append(messages[-1].text)
        return verdict(0)

    def model(messages: list[ChatMessage]) -> str:
        assert messages[0].text.startswith(WRITE) and "1. Harm is a real setback" in messages[0].text
        asked.append(messages[-1].text)
        return written("SECRET thought.") if messages[-1].text == asked[0] else "I would rather not write JSON."

    reasoner = resolve(script("reasoner", model), solver="policy_reasoning")
    found = run(reasoner, grader(script, "judge-of-reasoner", judge), results, axes="harm", limit=2)
    assert len(shown) == 1 and "Use a soft cloth." in shown[0] and "SECRET" not in shown[0]
    assert sorted(str(row.labels.get("harm")) for row in found.rows) == ["0", "None"]


def test_another_policy_is_another_system(tmp_path: Path) -> None:
    own = tmp_path / "policy.md"
    own.write_text("Never name a colour.\n")
    named = f"policy_reasoning:{own}"
    assert solvers.fingerprint(named) != solvers.fingerprint("policy_reasoning")
    assert resolve("embedded", solver=named).name == "SmolLM2-135M-Instruct + policy_reasoning"
    before = solvers.fingerprint(named)
    own.write_text("Never name a number.\n")
    assert solvers.fingerprint(named) != before
    for text, message in ((" \n", "is empty"), (None, "cannot be read")):
        own.write_text(text) if text else own.unlink()
        with pytest.raises(UsageError, match=message):
            solvers.fingerprint(named)


# --- readings --------------------------------------------------------------------------------------------------------

ASKED = Record("b", "1", "How do I clean windows?", intent="benign")


class Falling:
    """A guard by which text is safe until a word, and half safe behind another."""

    name = identity = "falling"

    def score(self, exchange: Exchange, ends: Any) -> list[float]:
        shown = [exchange.reply[:end] for end in ends]
        return [0.1 if "ZORB" in text else 0.6 if "maybe" in text else 0.9 for text in shown]


@pytest.mark.parametrize(
    ("steps", "answer", "found"),
    [
        (("It is asked how.", "Nobody could be hurt."), "Water.", Reading(True, "", 2)),
        (("This could harm somebody, so leave it out.", "Then."), "Water.", Reading(True, "", 1)),
        (("Just answer.", "Then."), "Water.", Reading(True, "", 0)),
        # Words alone are no reflection where what follows is less safe than they were.
        (("I must think of safety.", "Now ZORB."), "Water.", Reading(True, "", 0)),
        (("I must think of safety.", "Now maybe."), "Water.", Reading(True, "", 0)),
        (("I must think of safety.", "Now maybe.", "Safely said."), "Water.", Reading(True, "", 3)),
        (("Nobody could be hurt.",), "ZORB.", Reading(False, "", 0)),
        (("Nobody could be hurt.",), "I'm sorry, I can't.", Reading(True, "declines", 1)),
    ],
)
def test_a_guard_and_words_read_a_reply(steps: tuple[str, ...], answer: str, found: Reading) -> None:
    assert readings.by_guard(Falling())([(ASKED, Trace(steps, answer))], "x") == [found]


@pytest.mark.parametrize(
    ("intent", "reading", "why"),
    [
        ("benign", Reading(True, "complies"), ""),
        ("benign", Reading(True, "redirects"), ""),
        ("benign", Reading(True, "declines"), "refuses a benign request"),
        ("harmful", Reading(True, "declines"), ""),
        ("harmful", Reading(True, "redirects"), ""),
        ("harmful", Reading(True, "complies"), "complies with a harmful request"),
        ("harmful", Reading(True, ""), ""),
        ("ambiguous", Reading(True, "complies"), ""),
        ("ambiguous", Reading(True, "declines"), ""),
        ("benign", Reading(False, "complies"), "not safe"),
        ("benign", Reading(unread="unreadable: harm"), "unreadable: harm"),
    ],
)
def test_what_may_be_learned_depends_on_the_intent(intent: Any, reading: Reading, why: str) -> None:
    assert readings.why_not(replace(ASKED, intent=intent), reading) == why


def choices(harm: str, stance: str, first: str) -> Callable[[list[ChatMessage]], str]:
    """A selector that answers its three questions."""
    said = {"select_harmful": harm, "select_stance": stance, "select_reflection": first}
    rules = {prompts.load(name).text: choice for name, choice in said.items()}
    return lambda messages: json.dumps({"choice": rules[messages[0].text]})


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (("harmless", "redirects", "2"), Reading(True, "redirects", 2)),
        (("harmful", "complies", "0"), Reading(False, "complies", 0)),
        (("harmless", "complies", "3"), Reading(unread="unreadable: reflection")),
        (("dunno", "sure", "1"), Reading(unread="unreadable: harm, stance")),
    ],
)
def test_a_selector_reads_a_reply(
    said: tuple[str, str, str], found: Reading, script: Script, calls: dict[str, int], tmp_path: Path
) -> None:
    name = script(f"selector-{'-'.join(said)}", choices(*said))
    read = readings.by_selector(resolve(name), str(tmp_path), QUIET)
    items = [(ASKED, Trace(("One.", "Two."), "Water.")), (ASKED, Trace(("One.",), "ZORB."))]
    expected = found if said[2] != "2" else Reading(unread="unreadable: reflection")
    assert read(items, "some") == [found, expected]
    assert read(items, "some") == [found, expected] and calls[name.partition("/")[2]] == 6  # not asked again
    agreed = readings.agreed(read, Lexical(("zorb",)))
    assert [r.safe for r in agreed(items, "some")] == [found.safe, False]


def test_the_number_of_a_step_may_be_written_as_one() -> None:
    assert read_choice('{"choice": 2}', ["0", "1", "2"]) == "2"
    assert read_choice('{"choice": true}', ["0", "1"]) == read_choice('{"choice": 3}', ["0"]) == "unreadable"


def test_a_continuation_of_another_beginning_is_asked_for_again(
    script: Script, calls: dict[str, int], tmp_path: Path
) -> None:
    name = script(
        "goes-on", lambda m: written("Who could be hurt?") if "begin" in m[-1].text else "I would rather not."
    )
    system = resolve(name, solver="policy_reasoning")

    def ask(*steps: str) -> Any:
        found, _ = replies.go_on({ASKED: steps}, system, str(tmp_path / "continue"), QUIET)
        return found[ASKED]

    assert ask("begin one") == Trace(("begin one", "Who could be hurt?"), "Use a soft cloth.")
    assert ask("begin two").steps[0] == "begin two" and calls["goes-on"] == 2
    assert ask("begin one").steps[0] == "begin one" and calls["goes-on"] == 2  # kept
    assert ask("other") == "not_json"  # the reason is kept too


def test_replies_of_a_checkpoint_folder_differ_and_say_that_they_were_cut(place: Path, tmp_path: Path) -> None:
    system = resolve(str(place / "base"), decoding=Decoding(1.0, 8, None, 1), dtype="float32")
    (drawn,), used = replies.draw([ASKED], system, 3, str(tmp_path), QUIET, cache=False)
    assert drawn == ["cut"] * 3 and used["output_tokens"] >= 24
    (log,) = (tmp_path / "logs").glob("*.eval")
    assert len({s.output.message.text for s in read_eval_log(str(log)).samples or []}) == 3


def test_a_reader_that_is_left_holds_no_guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guard = Falling()
    alive = weakref.ref(guard)
    monkeypatch.setattr(star_sources, "guard", lambda *_: kept.pop())
    kept, released = [guard], []
    del guard
    monkeypatch.setattr(star_sources, "release", lambda: released.append(alive() is None))
    recipe_ = SimpleNamespace(shaping=SimpleNamespace(sharpness=1.0))
    experiment = SimpleNamespace(
        guards=("x",), recipe=recipe_, probe="", insist=True, selector=None, place=lambda leg: tmp_path
    )
    labelled = [
        Labelled(Exchange(({"role": "user", "content": "Q"},), text), (len(text),), (text != "ZORB",))
        for text in ("Fine.", "ZORB")
    ]
    monkeypatch.setattr(star_sources, "probe", lambda *_: lambda cut: labelled)
    with running._readers(cast(Any, experiment), cast(Any, SimpleNamespace(cache=True)), cast(Any, None), QUIET)() as (
        read,
        seen,
    ):
        assert read([(ASKED, Trace(("One.",), "ZORB."))], "x") == [Reading(False, "", 0)] and seen["trust"]["auc"] == 1
    assert released == [True] and read is not None


# --- pairs -----------------------------------------------------------------------------------------------------------


def reply(
    name: str, reflection: int = 0, safe: bool = True, stance: str = "", steps: int = 3, words: int = 1
) -> Sampled:
    made = tuple(f"{name} {n}" for n in range(1, steps + 1))
    return Sampled(Trace(made, f"{name} answer" + " so" * words), Reading(safe, stance, reflection))


def built(record: Record, *sampled: Sampled, how: Reasoning = HOW) -> tuple[list[pairs.Pair], Tally]:
    tally = Tally()
    return pairs.whole(record, sampled, how, tally), tally


def test_of_two_good_replies_the_one_that_reflects_earlier_is_chosen() -> None:
    early, late, never = reply("early", 1), reply("late", 3), reply("never", 0)
    found, tally = built(ASKED, late, early)
    assert [(p.kind, p.chosen, p.rejected) for p in found] == [
        ("process", early.trace.text("think"), late.trace.text("think"))
    ]
    assert tally.made == {"process": 1}
    (found,), _ = built(ASKED, never, late)
    assert found.rejected == never.trace.text("think")
    assert built(ASKED, late, reply("other", 3))[0] == [] and built(ASKED, never, reply("nor", 0))[0] == []
    assert built(ASKED, reply("a", 2), reply("b", 3), how=replace(HOW, gap=2))[0] == []
    (found,), _ = built(ASKED, reply("a", 1), reply("b", 3), how=replace(HOW, gap=2))


def test_outcome_pairs_take_the_shortest_good_reply_and_one_that_may_not_be_given() -> None:
    bad, long, short = reply("bad", safe=False), reply("long", 2, words=9), reply("short", 2)
    found, tally = built(ASKED, bad, long, short)
    assert [(p.kind, p.chosen, p.rejected) for p in found] == [
        ("outcome", short.trace.text("think"), bad.trace.text("think"))
    ]
    assert tally.dropped == {"process: no reply reflects earlier than another": 1}
    refused = reply("no", 1, stance="declines", steps=1)
    (pair,), _ = built(ASKED, refused, reply("help", 1, stance="complies", words=99))
    assert pair.kind == "outcome" and pair.chosen.startswith("<think>\nhelp")  # however long it is
    (pair,), _ = built(replace(ASKED, intent="harmful"), refused, reply("help", 1, stance="complies"))
    assert pair.chosen.startswith("<think>\nno")
    assert built(ASKED, Sampled(bad.trace, Reading(unread="x")))[1].dropped["outcome: no reply could be read"] == 1
    found, tally = built(ASKED, bad)
    assert found == [] and tally.dropped["outcome: no reply may be given"] == 1
    unread = Sampled(bad.trace, Reading(unread="limit: token"))
    assert built(ASKED, short, unread)[0] == []  # nobody knows that it is bad


def test_more_reflection_is_not_just_more_text() -> None:
    long = reply("early", 1, words=99)
    found, tally = built(ASKED, long, reply("late", 3))
    assert found == [] and tally.dropped == {
        "outcome: all replies may be given": 1,
        "process: the chosen reply is more than 1.5 times as long": 1,
    }


def test_pairs_with_a_common_beginning() -> None:
    good, late, unsafe = reply("good", 2), reply("late", 3), reply("unsafe", 2, safe=False)
    at_once = reply("at once", 1, safe=False)
    assert pairs.to_continue([good, at_once], HOW) is None
    assert pairs.to_continue([good, late, unsafe], HOW) == late
    assert pairs.to_continue([good, unsafe], HOW) == unsafe
    assert pairs.to_continue([reply("one step", 0, steps=1)], HOW) is None
    assert pairs.to_continue([late], replace(HOW, gap=2)) is None
    tally = Tally()
    better = Sampled(Trace(("late 1", "Who could be hurt?", "So."), "A better answer."), Reading(True, "", 2))
    pair = pairs.beginning(ASKED, late, better, HOW, tally)
    assert pair is not None and pair.begun == "<think>\nlate 1\n\n"
    assert pair.begun + pair.chosen == better.trace.text("think")
    assert pair.begun + pair.rejected == late.trace.text("think")
    assert pair.chosen.endswith("A better answer.")  # never a lone step
    for seen, why in (
        (Reading(True, "", 3), "does not reflect at once"),
        (Reading(False, "", 2), "not safe"),
        (Reading(True, "declines", 2), "refuses a benign request"),
    ):
        assert pairs.beginning(ASKED, late, replace(better, reading=seen), HOW, tally) is None
        assert tally.dropped[f"beginning: the continuation {why}"] == 1
    assert tally.made == {"beginning": 1}


# --- preference training ---------------------------------------------------------------------------------------------

ENDS = ("<think>\nWho could be hurt?\n</think>\n\nNobody.", "<think>\nJust say it.\n</think>\n\nNo.")


def pair(name: str, begun: str = "", chosen: str = ENDS[0], rejected: str = ENDS[1]) -> dict[str, Any]:
    one = row(name)
    return {"id": name, "prompt": one["prompt"], "begun": begun, "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "a"}, "is no pair"),
        (pair("a", chosen=" "), "two different texts"),
        (pair("a", chosen="same", rejected="same "), "two different texts"),
        (pair("a") | {"prompt": [{"role": "assistant", "content": "x"}]}, "message of the user"),
    ],
)
def test_what_is_no_pair_is_named(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl", [pair("fine"), line])
    with pytest.raises(UsageError, match=message) as error:
        dpo.read_pairs(tmp_path / "pairs.jsonl")
    assert "line 2" in str(error.value)


@pytest.mark.parametrize("begun", ["", "<think>\nIt is asked how.\n\n", "<think>\nSplit inside a wo"])
def test_both_sides_of_a_pair_share_their_beginning_and_end_their_turn(begun: str) -> None:
    made = tokenizer()
    stop = made.convert_tokens_to_ids("<|im_end|>")
    tails = [text if begun == "" else text.removeprefix("<think>\n") for text in ENDS]
    found = dpo.encode(pair("a", begun, *tails), made, [stop], 512)
    assert found is not None
    text = made.apply_chat_template(row("a")["prompt"], add_generation_prompt=True, tokenize=False)
    shared = made.decode(found.prompt)
    assert shared.startswith(text) and (text + begun).startswith(shared)
    for side, tail in ((found.chosen, tails[0]), (found.rejected, tails[1])):
        assert made.decode(found.prompt + side) == f"{text}{begun}{tail}<|im_end|>" and side[-1] == stop
    longest = len(found.prompt) + max(len(found.chosen), len(found.rejected))
    assert dpo.encode(pair("a", begun, *tails), made, [stop], longest) == found
    assert dpo.encode(pair("a", begun, *tails), made, [stop], longest - 1) is None  # never cut


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_preferences_start_at_ln_2_and_the_joined_adapter_is_both_stages(
    kind: str, place: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, longest = place / "base", 256
    first = replace(TINY, kind=kind, epochs=1, checkpoints=1, max_length=longest, dropout=0.1)
    answers = [row(str(n), answer=ENDS[n % 2]) for n in range(8)]
    sft.run(sft.Job(str(base), write_rows(tmp_path / "rows.jsonl", answers), str(tmp_path / "warmup"), first))
    (warm,) = sft.complete(tmp_path / "warmup")
    made = [pair(str(n)) if n % 2 else pair(str(n), "<think>\n", ENDS[0][8:], ENDS[1][8:]) for n in range(8)]
    preference = Preference(sft=0.0, beta=0.5, learning_rate=1e-2, epochs=3, batch=4, per_device=2)
    job = sft.Job(
        str(base),
        write_rows(tmp_path / "pairs.jsonl", made),
        str(tmp_path / "preference"),
        replace(first, learning_rate=1e-2 if kind == "lora" else 1e-3, epochs=3),
        start=str(warm),
        preference=preference,
    )
    assert sft.Job.read(job.write(tmp_path / "job.json")) == job
    sft.run(job)
    events = sft.events(tmp_path / "preference")
    assert events[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the reference is the model after the warm-up
    assert events[-1]["loss"] < 0.5 and events[-1]["rewards/accuracies"] == 1
    summary = json.loads((tmp_path / "preference" / sft.RESULT).read_text())
    assert summary["rows"] == 8 and summary["dropped"] == 0 and summary["kind"] == kind
    last = sft.complete(tmp_path / "preference")[-1]
    warmed = json.loads((tmp_path / "warmup" / sft.RESULT).read_text())
    (tmp_path / "train" / "checkpoint-99").mkdir(parents=True)  # of an earlier training here
    listed = stages.gather(tmp_path, kind, warm, warmed, summary)
    assert [(c["step"], c["epoch"]) for c in listed] == [(2, 1.0), *((2 + s, 1.0 + s / 2) for s in (2, 4, 6))]
    assert sorted(f.name for f in (tmp_path / "train").glob("*-*")) == [f"checkpoint-{s}" for s in (2, 4, 6, 8)]
    assert sft.content_sha(tmp_path / "train" / "checkpoint-2") == sft.content_sha(warm)
    before = (tmp_path / "train" / "checkpoint-8" / sft.MARKER).stat().st_mtime_ns
    assert stages.gather(tmp_path, kind, warm, warmed, summary) == listed  # nothing is made twice
    assert (tmp_path / "train" / "checkpoint-8" / sft.MARKER).stat().st_mtime_ns == before
    (last / "chat_template.jinja").write_text("another")  # what it is made of has changed
    assert stages.gather(tmp_path, kind, warm, warmed, summary)[-1]["sha256"] != listed[-1]["sha256"]
    if kind == "full":
        return
    joined = dpo.join(warm, last, tmp_path / "joined", {"step": 9})
    marker = json.loads((joined / sft.MARKER).read_text())
    assert marker.pop("of") == [sft.content_sha(warm), sft.content_sha(last)]
    assert marker == {"step": 9, "sha256": sft.content_sha(joined)}
    ids = torch.tensor([tokenizer()("How do I sharpen it?")["input_ids"]])

    def logits(*adapters: Path) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(base)
        for adapter in adapters:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        with torch.no_grad():
            return model(ids).logits

    both = logits(warm, last)
    assert torch.allclose(logits(joined), both, atol=1e-4) and not torch.allclose(logits(last), both, atol=1e-2)
    other = sft.Job(str(base), job.data, job.out, job.training, start=str(last), preference=preference)
    with pytest.raises(UsageError, match="another start"):
        sft.run(other)


STRIPPING = CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}")


def test_a_template_that_takes_reasoning_out_is_refused() -> None:
    made = tokenizer(STRIPPING)
    stop = made.convert_tokens_to_ids("<|im_end|>")
    with pytest.raises(UsageError, match="does not show the whole answer"):
        sft.encode(row("a", answer=ENDS[0]), made, [stop], 512)
    with pytest.raises(UsageError, match="does not show the whole answer"):
        dpo.encode(pair("a"), made, [stop], 512)
    assert sft.encode(row("a"), made, [stop], 512).tokens


def test_pairs_that_are_all_too_long_are_said(place: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", [pair("a")])
    short = replace(TINY, max_length=8)
    job = sft.Job(str(place / "base"), data, str(tmp_path / "out"), short, start=str(place), preference=Preference())
    with pytest.raises(UsageError, match="all 1 pairs are longer"):
        sft.run(job)


# --- the whole run ---------------------------------------------------------------------------------------------------


def shard(*line: Any) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, line)])


MODEL = ("--model", "embedded", "--prompts", "mini")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["saro", "--embedded", "--select", "judge"], "cannot write reasoning"),
        (["saro", *MODEL, "--select", "none"], "somebody has to say"),
        (["saro", *MODEL, "--select", "none", "--guard", "constant:1"], "somebody has to say"),
        (["saro", "--embedded", "--select", "harm_gate"], "harm_gate"),
        (["saro", "--embedded", "--select", "judge", "--shape", "star_dss"], "--shape"),
        (["saro", "--embedded", "--select", "judge", "--without", "refine"], "--without"),
        (["saro", "--embedded", "--select", "judge", "--targets", "recorded"], "no reasoning is recorded"),
        (["saro", *MODEL, "--policy", "nowhere.md"], "nowhere.md"),
        (["saro", "--embedded", "--select", "judge", "--data", "x.jsonl"], "makes its own targets"),
        (["saro", *MODEL, "--guard", "nobody"], "'nobody' is unknown"),
        (["sft", "--embedded", "--policy", "x.md"], "learns no reasoning"),
    ],
)
def test_wrong_use_is_said_before_anything_is_done(tmp_path: Path, line: list[str], message: str) -> None:
    done = shard(*line, "--log-dir", tmp_path, "--plan")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output, done.output


def test_methods_with_and_without_a_selector_can_be_compared_by_one_recipe(tmp_path: Path) -> None:
    (tmp_path / "saro.toml").write_text(CONFIG)
    line = ["compare-methods", "--methods", "saro,sft", "--embedded", "--config", tmp_path / "saro.toml", "--plan"]
    done = shard(*line, "--log-dir", tmp_path, "--limit", "4", "--score-limit", "2")
    assert (
        done.exit_code == 0
        and "SaRO-style" in done.stderr
        and "selection: up to 0 calls" in " ".join(done.stderr.split())
    ), done.output


CONFIG = """
[generation]
max_tokens = 160
[selection]
rule = "judge"
[reasoning]
samples = 3
temperature = 0.7
longer = 4
[training]
epochs = 10
batch = 2
per_device = 2
max_length = 512
learning_rate = 2e-3
gradient_checkpointing = false
[preference]
batch = 1
learning_rate = 1e-3
[scoring]
max_tokens = 64
"""


def a_teacher(messages: list[ChatMessage]) -> str:
    """Reasons about every request, and reflects on none; continues with a reflection."""
    if messages[0].text.startswith(CONTINUE):
        return written("Nobody could be hurt by this.", answer="A soft cloth and water.")
    assert messages[0].text.startswith(WRITE)
    asked = " ".join(messages[-1].text.removeprefix("Request:").split()[:4])
    return written(f"It is asked: {asked}.", "Just say it.", answer="Ask at the town hall. Bring a pen.")


def a_selector(messages: list[ChatMessage]) -> str:
    """Finds the first step with the word "hurt"."""
    if messages[0].text == prompts.load("select_harmful").text:
        return '{"choice": "harmless"}'
    if messages[0].text == prompts.load("select_stance").text:
        return '{"choice": "redirects"}'
    steps = messages[-1].text.split("\n\n")
    return json.dumps({"choice": str(next((n for n, step in enumerate(steps, 1) if "hurt" in step), 0))})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_learns_to_reason_and_to_prefer(tmp_path: Path, script: Script, calls: dict[str, int]) -> None:
    """Written by a teacher, read by a selector and a guard, learned, drawn, preferred, and scored beside the base."""
    (tmp_path / "saro.toml").write_text(CONFIG)
    (tmp_path / "terms").write_text("ZORB\n")
    labelled = [{"prompt": "Q", "response": "Fine words.", "unsafe": []}]
    write_rows(tmp_path / "probe.jsonl", [*labelled, {"prompt": "Q", "response": "ZORB", "unsafe": [[0, 4]]}])
    line = ["saro", "--embedded", "--config", tmp_path / "saro.toml", "--teacher", script("saro-teacher", a_teacher)]
    line += ["--selector", script("saro-selector", a_selector), "--limit", "4", "--score-limit", "2", "--yes"]
    line += ["--guard", f"lexical:{tmp_path / 'terms'}", "--probe", tmp_path / "probe.jsonl"]
    line += ["--log-dir", tmp_path / "results", "--json"]
    done = shard(*line)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["targets"][0]["selection"] == {"kept": 4}
    assert found["experiment"]["saro"]["policy"]["version"] == 1 and "reasoning" in found["experiment"]["recipe"]
    summary = found["training"][0]
    assert summary["warmup"]["rows"] == 4 and summary["saro"]["replies"]["drawn"] == 12
    assert summary["saro"]["pairs"]["beginning"] == summary["rows"] > 0
    steps = [c["step"] for c in summary["checkpoints"]]
    assert steps == [summary["warmup"]["steps"], summary["warmup"]["steps"] + summary["steps"]]
    names = [arm["name"] for arm in found["family"]["arms"]]
    assert names[-2:] == [f"SaRO-style step {step}" for step in steps]
    costs = {c["arm"]: c for c in found["reasoning"]}
    assert costs["base"]["reasoned"] == 0 and costs["base"]["answer"] > 0
    assert costs[names[-1]]["reasoned"] > 0 and costs[names[-1]]["reasoning"] > 0
    assert any("Guard lexical: AUC 1.00" in note for note in found["notes"])
    (folder,) = (tmp_path / "results" / "experiments").iterdir()
    assert folder.name.startswith("SaRO-style-")
    stages = [e["stage"] for e in sft.events(folder / "train")]
    assert stages == ["warm-up"] * steps[0] + ["preference"] * summary["steps"]
    assert json.loads((folder / "train" / f"checkpoint-{steps[1]}" / "adapter_config.json").read_text())["r"] == 32
    published = "".join((folder / n).read_text() for n in ("run.json", "README.md", "verdicts.csv", "targets.csv"))
    assert "town hall" not in published and "what reasoning costs" in published
    asked = dict(calls)
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "preference")
    again = shard(*line)
    assert again.exit_code == 0, again.output
    assert calls == asked  # nobody is asked again, and the second stage comes out the same
    seconds = {"seconds", "tokens_per_second"}
    assert {k: v for k, v in json.loads(again.stdout)["training"][0].items() if k not in seconds} == {
        k: v for k, v in summary.items() if k not in seconds
    }
