"""What the lm-eval task files share: our records as its documents, and a judge's verdicts as its metrics.

    lm_eval run --include_path "$(shard data lm-eval)" --tasks do_not_answer,xstest --apply_chat_template …

The records are those of the Inspect tasks, from the same pinned sources; a rate is the same function of the same
labels, so where both saw the same answers the numbers are the same. The judge is one that asks nobody: `embedded`
unless `--metadata '{"judge": "rules"}'`; `split` likewise. lm-eval itself is not imported here.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shard_eval import benchmarks, judges, reasoning
from shard_eval import protocols_linguasafe as linguasafe
from shard_eval.benchmarks.linguasafe import mcq_ids
from shard_eval.capability.scoring import ITEMS, correct
from shard_eval.errors import UsageError
from shard_eval.judges.case import Case
from shard_eval.logs import Row
from shard_eval.records import LOWEST, Axis, Record, Verdict
from shard_eval.splits import choose_split
from shard_eval.summary import METRICS, value

if TYPE_CHECKING:
    from datasets import DatasetDict

Doc = dict[str, Any]


def dataset(benchmark: str = "", judge: str = "embedded", split: str = "", **_: Any) -> DatasetDict:
    """The documents of a benchmark, for lm-eval's `custom_dataset`.

    Args:
        benchmark: its name.
        judge: who judges the answers; it must ask nobody.
        split: an expression such as "dev+test"; "" for all records.

    Raises:
        UsageError: for a judge that asks a model, or an unknown split.
        DataError: if the benchmark is not available.
    """
    if not judges.offline(judge):
        raise UsageError(
            f"judge {judge!r}: in lm-eval answers are judged offline. Give embedded, rules or trained:FOLDER."
        )
    records = list(choose_split(benchmarks.load(benchmark).records, split))
    if benchmark == "linguasafe_direct":
        questions, _plain = linguasafe.plan(records, set(mcq_ids()))
        return _documents([_question(q) for q in questions])
    if benchmark == "linguasafe_indirect":
        _questions, records = linguasafe.plan(records, set(mcq_ids()))
    axes = benchmarks.describe(benchmark).axes
    judges.fetch(judge, axes)
    rows = [_row(r.id, r.prompt_sha, r.intent, dict.fromkeys(axes, LOWEST["harm"])) for r in records]
    metrics = [m.name for m in METRICS if set(m.needs) <= set(axes) and any(map(m.applies, rows))]
    return _documents([_document(r, judge, axes, metrics) for r in records])


def _documents(docs: list[Doc]) -> DatasetDict:
    from datasets import Dataset, DatasetDict

    return DatasetDict({"test": Dataset.from_list(docs)})


def _document(record: Record, judge: str, axes: Sequence[Axis], metrics: Sequence[str]) -> Doc:
    return {
        "id": record.id,
        "prompt": record.prompt,
        "prompt_sha": record.prompt_sha,
        "intent": record.intent,
        "need": record.need,
        "withhold": record.withhold,
        "level": -1 if record.level is None else record.level,
        "judge": judge,
        "axes": list(axes),
        "metrics": list(metrics),
    }


def _question(question: linguasafe.Question) -> Doc:
    sample = linguasafe.question_to_sample(question)
    return {"id": sample.id, "prompt": str(sample.input), "levels": (sample.metadata or {})["levels"]}


def answer(text: str) -> str:
    """What of a reply is judged: not the reasoning in front."""
    parts = reasoning.split(text)
    return text if parts is None else parts[1]


def labels(doc: Doc, text: str) -> dict[Axis, int | None]:
    """A judge's label on every axis of a document's benchmark; None where it gave none."""
    judge = judges.resolve(doc["judge"])
    case = Case(doc["prompt"], answer(text), doc["intent"], doc["need"], doc["withhold"])

    async def decide() -> list[Verdict]:
        return await asyncio.gather(*(judge.verdict(case, axis) for axis in doc["axes"]))

    return {verdict.axis: verdict.label for verdict in asyncio.run(decide())}


def judged(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """One answer's value of every metric (`summary.METRICS`), for lm-eval's `process_results`.

    NaN where a metric is not about it, or has no label; `unscored` says that a label is missing.
    """
    found = labels(doc, results[0])
    row = _row(doc["id"], doc["prompt_sha"], doc["intent"], found)
    unscored = float(any(label is None for label in found.values()))
    return {m.name: value(m, row) for m in METRICS if m.name in doc["metrics"]} | {"unscored": unscored}


def _row(id: str, prompt_sha: str, intent: str, found: dict[Axis, int | None]) -> Row:
    """As much of a row as a metric reads."""
    return Row("", id, prompt_sha, 1, "", "", "", "", "", None, intent, "", "", 0, found)


def known_mean(values: Sequence[float]) -> float:
    """The mean of what is a number; NaN if nothing is."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def flags(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """One answer of LinguaSafe's direct protocol: which prompts it flags, by level; no judge."""
    text = answer(results[0])
    letters = linguasafe.parse_answer(text) if text.strip() else None
    table = linguasafe.confusion([] if letters is None else [(doc["levels"], letters)])
    return {
        "f1": json.dumps([table.flagged, table.passed]),
        "unparseable": float(letters is None and bool(text.strip())),
        "no_answer": float(not text.strip()),
    }


def severity_weighted_f1(items: Sequence[str]) -> float:
    """The direct protocol's F1 over all answers; NaN if nothing unsafe was shown and nothing flagged."""
    tables = [json.loads(item) for item in items]
    flagged, passed = (tuple(sum(t[k][level] for t in tables) for level in range(4)) for k in (0, 1))
    found = linguasafe.severity_weighted_f1(linguasafe.Confusion(flagged, passed)).f1
    return math.nan if found is None else found


def replies(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """One answer of LinguaSafe's indirect protocol: its level, and whether it is refused and unsafe."""
    found = labels(doc, results[0])
    refused, unsafe = (math.nan if (n := found[a]) is None else min(float(n), 1.0) for a in ("refusal", "harm"))
    item = json.dumps([doc["level"], refused, unsafe])
    missing = float(math.isnan(refused) or math.isnan(unsafe))
    return {"unsafe_rate": item, "penalty": item, "oversensitive_rate": item, "unscored": missing}


def _rates(items: Sequence[str]) -> linguasafe.Rates:
    return linguasafe.indirect_rates([linguasafe.Reply(*json.loads(item)) for item in items])


def unsafe_rate(items: Sequence[str]) -> float:
    """Share of unsafe answers to prompts of level 1 to 3."""
    return _number(_rates(items).unsafe_rate)


def penalty(items: Sequence[str]) -> float:
    """Their mean penalty, 0 to 6."""
    return _number(_rates(items).penalty)


def oversensitive_rate(items: Sequence[str]) -> float:
    """Share of refused prompts of level 0."""
    return _number(_rates(items).oversensitive_rate)


def capability_items(**_: Any) -> DatasetDict:
    """The documents of our own capability set."""
    items = [json.loads(line) for line in ITEMS.read_text(encoding="utf-8").splitlines()]
    return _documents([{"id": i["id"], "kind": i["kind"], "prompt": i["prompt"], "item": json.dumps(i)} for i in items])


def capability_correct(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Whether one answer to it is right."""
    return {"acc": float(correct(json.loads(doc["item"]), answer(results[0])))}


def _number(rate: float | None) -> float:
    return math.nan if rate is None else rate
