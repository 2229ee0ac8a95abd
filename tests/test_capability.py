"""Capability retention: the set, its scoring, lm-eval on any System, pairing, and its part in the claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai.model import ChatMessage
from rich.console import Console
from tiny import TINY, row, write_rows

from shard_eval import capability
from shard_eval.capability import OWN, make, scoring
from shard_eval.capability import model as serving
from shard_eval.capability import run as running
from shard_eval.cli import main
from shard_eval.errors import DataError, LogError, UsageError
from shard_eval.stats.claims import Evidence, claim
from shard_eval.systems import resolve
from shard_train import sft

Script = Callable[[str, Callable[[list[ChatMessage]], str | Exception]], str]
QUIET = Console(quiet=True)
ITEMS = {item["prompt"]: item for item in map(json.loads, scoring.ITEMS.read_text(encoding="utf-8").splitlines())}
EXAMPLES = {
    "words": lambda n: " ".join(["word"] * n),
    "numbered": lambda n: "\n".join(f"{k}. A thing." for k in range(1, n + 1)),
    "upper": lambda _: "A SENTENCE.",
    "keys": lambda keys: json.dumps(dict.fromkeys(keys, "x")),
    "last": lambda word: f"It ends with {word}.",
    "first": lambda word: f"{word.capitalize()} begins it.",
    "lines": lambda n: "\n".join(["A line."] * n),
}


def right(item: dict[str, Any]) -> str:
    """An answer that is right."""
    if "number" in item:
        return f"That makes {item['number']}."
    if "answers" in item:
        return f"It is {item['answers'][0]}."
    ((name, wanted),) = item["rule"].items()
    return str(EXAMPLES[name](wanted))


def a_model(wrong: str = "") -> Callable[[list[ChatMessage]], str]:
    """Right on everything but one kind of item."""
    return lambda messages: "No idea" if (i := ITEMS[messages[-1].text])["kind"] == wrong else right(i)


# --- the set ---------------------------------------------------------------------------------------------------------


def test_the_set_is_what_its_script_makes_and_every_item_can_be_answered() -> None:
    assert list(ITEMS.values()) == make.items() and len(ITEMS) >= 300
    kinds = [i["kind"] for i in ITEMS.values()]
    assert {kind: kinds.count(kind) >= 60 for kind in kinds} == dict.fromkeys(
        ("arithmetic", "reading", "format", "knowledge"), True
    )
    for item in ITEMS.values():
        assert scoring.correct(item, right(item)), item
        assert not scoring.correct(item, "") and not scoring.correct(item, "I am not sure about that at all, sorry."), (
            item
        )


def test_the_arithmetic_is_right() -> None:
    sums = [i for p, i in ITEMS.items() if p.startswith("What is ") and i["kind"] == "arithmetic"]
    assert len(sums) > 30
    for item in sums:
        term = item["prompt"].removeprefix("What is ").partition("?")[0].replace("times", "*")
        assert eval(term) == item["number"]


@pytest.mark.parametrize(
    ("item", "text", "found"),
    [
        ({"number": 12}, "First 3, then 4 times 3 makes 12.", True),
        ({"number": 12}, "12, or is it 13", False),
        ({"number": 1234}, "It is 1,234.", True),
        ({"number": 12}, "It is 12.5", False),
        ({"number": 12}, "twelve", False),
        ({"answers": ["Oslo"]}, "OSLO!", True),
        ({"answers": ["Oslo"]}, "Oslofjord", False),
        ({"answers": ["Ada"], "others": ["Ben"]}, "Ada, not Ben", False),
        ({"rule": {"words": 3}}, "one, two three.", True),
        ({"rule": {"numbered": 2}}, "1. A\n2) B", True),
        ({"rule": {"numbered": 2}}, "1. A\n2. B\n3. C", False),
        ({"rule": {"upper": True}}, "SHORT 1.", True),
        ({"rule": {"upper": True}}, "1.", False),
        ({"rule": {"keys": ["a"]}}, '```json\n{"a": 1}\n```', True),
        ({"rule": {"keys": ["a"]}}, 'Here: {"a": 1}', False),
        ({"rule": {"last": "lamp"}}, "By the lamp.", True),
        ({"rule": {"first": "lamp"}}, "A lamp.", False),
        ({"rule": {"lines": 2}}, "A\n\nB", True),
    ],
)
def test_what_counts_as_right(item: dict[str, Any], text: str, found: bool) -> None:
    assert scoring.correct(item, text) is found


@given(st.sampled_from(list(ITEMS.values())), st.text())
def test_any_text_gets_a_decision(item: dict[str, Any], text: str) -> None:
    assert isinstance(scoring.correct(item, text), bool)


# --- any System ------------------------------------------------------------------------------------------------------


def test_a_system_is_measured_once_and_compared_by_document(
    script: Script, calls: dict[str, int], results: str
) -> None:
    able = resolve(script("able", a_model()))
    spoiled = resolve(script("spoiled", a_model("arithmetic")))
    (one,), (other,) = (capability.measure(s, [OWN], results, QUIET) for s in (able, spoiled))
    assert one.estimate.value == 1 and len(one.rows) == len(ITEMS) == calls["able"]
    assert capability.measure(able, [OWN], results, QUIET) == [one] and calls["able"] == len(ITEMS)  # read back
    lost = capability.same(other, one)
    assert sum(d for _, d in lost) == -sum(i["kind"] == "arithmetic" for i in ITEMS.values())
    assert sum(d for _, d in capability.same(one, one)) == 0
    worse = capability.evidence(other, one, 0.05)
    assert worse.part == "capability" and worse.margin == 0.05 and not worse.doubts
    assert capability.evidence(one, replace(other, engine="elsewhere"), 0.05).doubts
    good = tuple(1.0 for _ in range(60))
    names = tuple(map(str, range(60)))
    rest = [
        Evidence("helpfulness", "x", good, good, names),
        *(Evidence(p, "x", *[tuple(0.0 for _ in range(400))] * 2, tuple(map(str, range(400))), margin=0.05)
          for p in ("harm", "over-refusal")),
    ]  # fmt: skip
    assert claim(rest).status == "SUPPORTED"
    assert claim([*rest, capability.evidence(one, one, 0.05)]).status == "SUPPORTED"
    refuted = claim([*rest, worse])
    assert refuted.status == "REFUTED" and "capability" in refuted.reasons[0]
    (few,) = capability.measure(able, [OWN], results, QUIET, limit=3)
    assert len(few.rows) == 3 and "First documents only" in capability.grid([("able", few)]).foot[1]
    with pytest.raises(LogError, match="not asked the same"):
        capability.same(few, one)


def ran(**values: list[Any]) -> dict[str, Any]:
    """What lm-eval returns for a group "all" of tasks; two filters of each, of which the first counts."""
    samples = {
        leaf: [
            {"doc_id": n, "doc": {"q": f"{leaf} {n}"}, "filter": which, "metrics": ["f1", "exact_match"], **value}
            for which, flip in (("strict", False), ("loose", True))
            for n, v in enumerate(several)
            for value in ([{}] if v is None else [{"exact_match": 1 - v if flip else v, "f1": 0.5}])
        ]
        for leaf, several in values.items()
    }
    better = {leaf: {"exact_match": leaf != "worse"} for leaf in samples}
    return {"samples": samples, "group_subtasks": {"all": list(samples), "one": []}, "higher_is_better": better}


def test_a_group_is_all_its_documents_by_one_metric_and_filter(results: str) -> None:
    system = resolve("openai-api/x/y")
    found = running._keep(system, "all", ran(one=[1.0, 0.0], two=[True]), f"{results}/a", None)
    assert found.metric == "exact_match (strict)" and [v for _, v in found.rows] == [1.0, 0.0, 1.0]
    assert [name.split(":")[0] for name, _ in found.rows] == ["one", "one", "two"]
    assert running._read(f"{results}/a/capability.json") == found
    turned = running._keep(system, "worse", ran(worse=[1.0, 0.0]), f"{results}/b", None)
    assert [v for _, v in turned.rows] == [0.0, 1.0]
    for values, why in (({"one": [1.0], "two": [None]}, "every document once"), ({"one": [7.0]}, "between 0 and 1")):
        with pytest.raises(DataError, match=why):
            running._keep(system, "all", ran(**values), f"{results}/c", None)
    with pytest.raises(DataError, match="no documents"):
        running._keep(system, "gone", ran(one=[1.0]), f"{results}/c", None)
    (Path(results) / "a" / "capability.json").write_text("{")
    with pytest.raises(LogError, match="damaged"):
        running._read(f"{results}/a/capability.json")


def test_what_cannot_be_measured_is_said(script: Script, results: str) -> None:
    with pytest.raises(UsageError, match=r"Did you mean .*shard_capability") as error:
        capability.require(["shard_capabilty"])
    assert len(str(error.value)) < 300  # it knows thousands
    with pytest.raises(UsageError, match="is no model"):
        serving.make(resolve("always_refuse"))
    served = serving.make(resolve(script("served", a_model())))
    with pytest.raises(UsageError, match="needs log-likelihoods"):
        served.loglikelihood([])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_checkpoint_folder_and_its_adapter_are_measured_by_transformers(place: Path, tmp_path: Path) -> None:
    base = str(place / "base")
    data = write_rows(tmp_path / "rows.jsonl", [row(str(n)) for n in range(4)])
    sft.run(sft.Job(base, data, str(tmp_path / "train"), replace(TINY, epochs=1, checkpoints=1)))
    (adapter,) = sft.complete(tmp_path / "train")
    systems = [resolve(base, dtype="float32"), resolve(base, adapter=str(adapter), dtype="float32")]
    found = [capability.measure(s, [OWN], str(tmp_path / "results"), QUIET, limit=2) for s in systems]
    assert [len(scores.rows) for (scores,) in found] == [2, 2]
    assert {scores.engine for (scores,) in found} == {"transformers"}
    capability.same(found[0][0], found[1][0])


# --- commands --------------------------------------------------------------------------------------------------------


def test_compare_takes_what_score_left_into_the_claim(script: Script, results: str) -> None:
    def answers(wrong: str) -> Callable[[list[ChatMessage]], str]:
        able = a_model(wrong)
        return lambda messages: able(messages) if messages[-1].text in ITEMS else "A plain answer."

    folders = []
    for name, wrong in (("fine", ""), ("worse", "knowledge")):
        line = ["score", script(name, answers(wrong)), "-b", "mini", "-j", "rules", "--limit", "3", "--no-attacks"]
        done = CliRunner().invoke(main, [*line, "--capability", "own", "--log-dir", results, "--json"])
        assert done.exit_code == 0, done.output
        (scores,) = json.loads(done.stdout)["capability"]
        assert scores["task"] == OWN and scores["n"] == len(ITEMS) and (scores["value"] == 1) == (not wrong)
        folders.append(next(str(f) for f in Path(results).iterdir() if f.name.startswith(f"scripted-{name}")))
    done = CliRunner().invoke(main, ["compare", folders[1], folders[0], "--log-dir", results, "--json"])
    found = json.loads(done.stdout)
    assert {c["arm"] for c in found["capability"]} == {"candidate", "baseline"}
    part = next(p for p in found["parts"] if "capability" in json.dumps(p))
    assert part["status"] == "REFUTED", part
    text = CliRunner().invoke(main, ["compare", folders[1], folders[0], "--log-dir", results]).output
    assert "capability not down by 5 points or more" in " ".join(text.split())
    wrong_name = CliRunner().invoke(main, ["compare", *folders, "--capability", "gsm8k", "--log-dir", results])
    assert wrong_name.exit_code == 2 and "not measured alike on both" in wrong_name.stderr
