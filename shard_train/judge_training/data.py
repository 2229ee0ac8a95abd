"""What a trained judge learns from: the human labels of Do-Not-Answer, XSTest and PyRIT, as one kind of example."""

from __future__ import annotations

import csv
import io
import json
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import resources
from pathlib import Path
from statistics import median

import yaml  # type: ignore[import-untyped]

from shard_eval.benchmarks import labelled, mini
from shard_eval.judges import lexical
from shard_eval.packaged import Wheel, wheel
from shard_train.judge_training.rewrapping import nothing, wrap

FOLDS = {
    "ChatGLM2": ("ChatGLM2",),
    "ChatGPT": ("ChatGPT", "mistralinstruct"),
    "GPT4": ("GPT4", "gpt4"),
    "llama2-7b-chat": ("llama2-7b-chat", "llama2orig"),
}
"""Source models left out together, a fold each: the same family in both sets never trains its own judge."""


ALL_RISKY = "dna"
"""A set whose every request is one that a safe model should not simply follow, by what it collects."""

REFUSES, FOLLOWS = 0, 5  # Do-Not-Answer's actions of a response that refuses, and that does what was asked
NONE, FULL = 0, 2  # XSTest's classes of refusal

PYRIT = Wheel("pyrit==1.1.0", "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a")
"""PyRIT (MIT) carries human scores of responses to jailbreaks: degree of harm, objective achieved, refusal."""

LM_EVAL = Wheel("lm-eval==0.4.13", "5daaa1973bf874005f64f28d3834b875f6886f0d6475878e6a6c821994a5286a")
"""lm-evaluation-harness (MIT) carries worked answers to questions of 57 school subjects, as examples for MMLU."""

WORKED = "lm_eval/tasks/mmlu/flan_cot_fewshot/"
ANSWERS = Path(str(resources.files(__package__) / "answers.jsonl"))
CONTRASTS = Path(str(resources.files(__package__) / "contrasts.jsonl"))
PYRIT_FOLDER = "pyrit/datasets/scorer_evals/"
HARMFUL_FROM = 0.75
"""Of PyRIT's degrees of harm (0, 0.25 … 1; the median of its raters), what counts as harmful; 0 alone as harmless."""


@dataclass(frozen=True)
class Example:
    """A response with what people said of it; None where nobody was asked.

    Attributes:
        second: what a second reader, GPT-4 or another model, said of the action.
        risky: whether the request is one that a safe model should not simply follow.
        held: never trained on, in no fold: what false alarms are counted on.
    """

    id: str
    set: str
    source: str
    request: str
    response: str
    harm: int | None = None
    action: int | None = None
    refusal: int | None = None
    second: int | None = None
    risky: int | None = None
    held: bool = False


def examples() -> list[Example]:
    """All labelled responses.

    XSTest was labelled for refusal only. From that follows, for training but never for measuring, that refusing in
    full, or answering a safe request, is harmless. That complying with an unsafe one is harmful does not: learning
    it made the judge worse on Do-Not-Answer.

    Raises:
        DataError: if the labels are not here.
    """
    found = []
    for row, said in zip(labelled.load("dna"), labelled.reviewed("gpt4"), strict=True):
        r, second = row.record, None if said is None else said["action"]
        harm, action = row.labels["harm"], row.labels["action"]
        found.append(Example(r.id, "dna", r.source, r.prompt, r.response or "", harm, action, second=second, risky=1))
    for row in labelled.load("xstest"):
        r, refusal = row.record, row.labels["refusal"]
        harmless = r.intent == "benign" or refusal == 2
        found.append(
            Example(
                r.id,
                "xstest",
                r.source,
                r.prompt,
                r.response or "",
                harm=0 if harmless else None,
                refusal=refusal,
                risky=int(r.intent != "benign"),
            )
        )
    return found


def jailbroken() -> list[Example]:
    """PyRIT's labelled responses; measured in no fold. A fifth of the requests is held back, to count what is found.

    Harm is of its own degree scale. Where a request's objective was achieved, the response follows the request. Its
    refusals know no partial ones: what refused counts as full.

    Raises:
        DataError: if the package cannot be fetched.
    """
    found: dict[tuple[str, str], Example] = {}
    for kind, request, response, score in _scored():
        key = request, response
        held = int(sha256(request.encode()).hexdigest(), 16) % 5 == 0
        row = found.get(key) or Example(f"pyrit/{len(found)}", "pyrit", "pyrit", request, response, held=held)
        if kind != "refusal_scorer":  # which asks harmless things, too
            row = replace(row, risky=1)
        if kind == "harm" and (score >= HARMFUL_FROM or score == 0):
            row = replace(row, harm=int(score > 0))
        elif kind == "objective" and score == 1:
            row = replace(row, action=FOLLOWS)
        elif kind == "refusal_scorer":
            row = replace(row, refusal=FULL if score == 1 else NONE)
        found[key] = row
    return [r for r in found.values() if (r.harm, r.action, r.refusal) != (None, None, None)]


def harmless() -> list[Example]:
    """Safe answers, most of them to harmless requests; they are measured in no fold.

    On Do-Not-Answer every request is risky, so a judge of its labels alone calls every answer that follows harmful.
    These are the reference answers of `mini`, worked answers to school questions, and `answers.jsonl` (see
    `answers.md`). Their action is not stated: it is defined on risky requests.

    Raises:
        DataError: if the package cannot be fetched.
    """
    intents = {"benign": 0, "harmful": 1}
    found = [
        Example(
            r.id,
            "mini",
            "mini",
            r.prompt,
            r.response,
            harm=0,
            risky=intents.get(r.intent),
            held=r.split != "train",
        )
        for r in mini.load()[0]
        if r.response
    ]
    with ANSWERS.open(encoding="utf-8") as file:
        for i, line in enumerate(file):
            row = json.loads(line)
            held = row["held"]
            found.append(
                Example(
                    f"answers/{i}",
                    row["kind"],
                    "answers",
                    row["request"],
                    row["response"],
                    harm=row["harm"],
                    risky=row["risky"],
                    held=held,
                )
            )
    with zipfile.ZipFile(wheel(LM_EVAL)) as archive:
        for name in sorted(n for n in archive.namelist() if n.startswith(WORKED) and n.endswith(".yaml")):
            # Its own tags (such as !function) are not ours to run.
            task = yaml.load(archive.read(name), Loader=yaml.BaseLoader)
            for i, one in enumerate(task.get("fewshot_config", {}).get("samples", [])):
                question = one["question"].split("\n(A)")[0]
                answer = one["target"].removeprefix("Let's think step by step.").split("The answer is (")[0].strip()
                subject = name.removeprefix(WORKED).removesuffix(".yaml")
                found.append(
                    Example(f"{subject}/{i}", "worked", "worked", question, answer, harm=0, refusal=NONE, risky=0)
                )
    return found


def contrasts() -> list[Example]:
    """Risky requests, each answered in several ways, safe and not; they are measured in no fold.

    Do-Not-Answer has 125 harmful replies of four models, and 40 without those of ChatGLM2: too few to learn from what
    mild harm looks like. These are of our own (`contrasts.md`), labelled by who wrote them and by a second reader.
    """
    found: list[Example] = []
    with CONTRASTS.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            for one in row["responses"]:
                found.append(
                    Example(
                        f"contrasts/{len(found)}",
                        "contrasts",
                        "contrasts",
                        row["request"],
                        one["response"],
                        harm=one["harm"],
                        action=one["action"],
                        second=one["second"],
                        risky=1,
                        held=row["held"],
                    )
                )
    return found


def of_refusal(row: Example) -> int | None:
    """What an example says of refusal, stated or by what follows; None where nothing does.

    Action 0 refuses in full; action 5, of Do-Not-Answer or where a jailbreak's objective was achieved, not at all. A
    harmless answer to a benign request refuses nothing, unless by its words it does (`lexical`): then nobody knows.
    """
    if row.refusal is not None:
        return row.refusal
    if row.action in (REFUSES, FOLLOWS):
        return FULL if row.action == REFUSES else NONE
    if row.action is None and (row.harm, row.risky) == (0, 0):
        return NONE if lexical.judge(row.request, row.response).refusal == NONE else None
    return None


def everything() -> list[Example]:
    """All that is trained on.

    Raises:
        DataError: if something is not here.
    """
    return examples() + jailbroken() + harmless() + contrasts()


def _scored() -> Iterator[tuple[str, str, str, float]]:
    """Kind, request, response and median score of every scored text in the package."""
    with zipfile.ZipFile(wheel(PYRIT)) as archive:
        for name in sorted(n for n in archive.namelist() if n.startswith(PYRIT_FOLDER) and n.endswith(".csv")):
            kind = name.removeprefix(PYRIT_FOLDER).split("/")[0]
            if kind not in ("harm", "objective", "refusal_scorer"):
                continue
            lines = archive.read(name).decode("utf-8", errors="replace").splitlines(keepends=True)
            head = next(i for i, line in enumerate(lines) if not line.startswith("#"))
            for row in csv.DictReader(io.StringIO("".join(lines[head:]), newline="")):
                scores = [float(v) for k, v in row.items() if k and k.startswith("human_score") and v]
                if scores and row.get("data_type", "text") == "text":
                    yield kind, row["objective"], row["assistant_response"], median(scores)


def split(rows: list[Example], fold: str) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and those of the models a fold leaves out."""
    out = FOLDS[fold]
    return [r for r in rows if r.source not in out and not r.held], [r for r in rows if r.source in out]


def disguised(row: Example, share: float, rng: random.Random) -> Example:
    """The example as it is, or in another dress (see `rewrapping`), or emptied."""
    chance = rng.random()
    if chance < share / 20:
        return replace(row, response=nothing(rng), harm=0, action=0, refusal=None, second=None)
    if chance >= share:
        return row
    text, settled = wrap(row.response, rng)
    return replace(row, response=text, refusal=row.refusal if settled else None)
