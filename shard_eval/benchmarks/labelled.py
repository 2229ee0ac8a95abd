"""Replies with human labels: Do-Not-Answer's four released models, XSTest's three, or a file of your own.

The released ones are read from the stand-in folder only: the hub's copy of Do-Not-Answer holds replies too, but nobody
here has seen how its label columns are spelled. Files of your own: see `labelled_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shard_eval.benchmarks import dna, labelled_files
from shard_eval.benchmarks.labelled_files import Labelled, LabelledPair, LabelledSet
from shard_eval.benchmarks.source import Fetched, data_dir
from shard_eval.errors import DataError, unknown
from shard_eval.records import AXES, Axis, Record, sha256

__all__ = [
    "DNA_MODELS",
    "SETS",
    "XSTEST_FILES",
    "Labelled",
    "LabelledPair",
    "LabelledSet",
    "axes",
    "is_pairs",
    "load",
    "load_pairs",
    "read",
    "released",
    "review",
    "review_labels",
    "review_rows",
    "reviewed",
]

DNA_MODELS = ("ChatGLM2", "ChatGPT", "GPT4", "llama2-7b-chat")
XSTEST_FILES = {  # model: file; the other file of a model holds the same completions with another machine's label
    "gpt4": "gpt4_gpteval.csv",
    "llama2orig": "llama2orig_gpteval.csv",
    "mistralinstruct": "mistralinstruct_gpteval.csv",
}
_REFUSAL = {"1_full_compliance": 0, "3_partial_refusal": 1, "2_full_refusal": 2}


def released(local: str) -> Fetched:
    """A file of released labels by its path in the stand-in folder.

    Raises:
        DataError: if it is not there.
    """
    folder = data_dir()
    if folder is None or not (folder / local).is_file():
        raise DataError(f"the released labels {local!r} are not here. Set SHARD_DATA_DIR to a folder that holds them.")
    return Fetched(folder / local, "stand-in")


def review(judge: str, model: str) -> Fetched:
    """A file of Do-Not-Answer's released labels.

    Args:
        judge: "human", "gpt4" or "longformer".
        model: one of `DNA_MODELS`.

    Raises:
        DataError: if it is not there.
    """
    return released(f"do-not-answer/review/{judge}/{model}.csv")


def review_rows(judge: str, model: str) -> list[dict[str, str]]:
    """The lines of such a file, in the order of people's: GPT-4's misname an id, the order tells its two apart.

    Raises:
        DataError: if it is not there, or holds other responses than people labelled.
    """
    columns = ["id", "question", "response", "action"]
    file, people = review(judge, model), review("human", model).csv_rows([*columns, "harmful"])
    lines = file.csv_rows(columns)
    texts = [[(line["question"].strip(), line["response"]) for line in some] for some in (lines, people)]
    if texts[0] != texts[1]:
        raise DataError(f"{file.path} does not hold the responses that people labelled. Fetch the files again.")
    return lines


def review_labels(judge: str, line: Mapping[str, str]) -> dict[Axis, int] | None:
    """The labels in a line of such a file; None for an answer of GPT-4 that was not understood.

    GPT-4 chose among seven categories: 5 (general information) counts as 4, and 6 (follows) as 5 and as harmful. The
    others chose among six, and harm apart.
    """
    action = int(line["action"])
    if judge != "gpt4":
        return {"harm": int(line["harmful"]), "action": action}
    return None if action == -1 else {"harm": int(action == 6), "action": {5: 4, 6: 5}.get(action, action)}


def reviewed(judge: str) -> list[dict[Axis, int] | None]:
    """What a judge of the paper said of every reply of "dna", in the order of `load`; None where it said nothing.

    Raises:
        DataError: as `review_rows`.
    """
    return [review_labels(judge, line) for model in DNA_MODELS for line in review_rows(judge, model)]


def _dna() -> list[Labelled]:
    found = []
    areas = {record.id: record.risk_area for record in dna.load()[0]}
    for model in DNA_MODELS:
        for row in review("human", model).csv_rows(["id", "question", "response", "harmful", "action"]):
            record = _record("dna", model, row["id"], row["question"], row["response"], areas[row["id"]])
            found.append(Labelled(record, review_labels("human", row) or {}))
    return found


def _xstest() -> list[Labelled]:
    found = []
    for model, file in XSTEST_FILES.items():
        for row in released(f"xstest/human_labels/{file}").csv_rows(
            ["id", "type", "prompt", "completion", "final_label"]
        ):
            intent = "harmful" if row["type"].startswith("contrast") else "benign"
            record = _record("xstest", model, row["id"], row["prompt"], row["completion"], row["type"], intent)
            found.append(Labelled(record, {"refusal": _REFUSAL[row["final_label"]]}))
    return found


def _record(
    benchmark: str, model: str, id: str, prompt: str, reply: str, category: str = "", intent: str = "unknown"
) -> Record:
    return Record(
        benchmark=benchmark,
        id=f"{model}/{id}",
        prompt=prompt,
        category=category,
        intent=intent,  # type: ignore[arg-type]
        cluster=sha256(prompt)[:16],  # the same prompt answered by several models
        response=reply,
        source=model,
    )


SETS = {"dna": _dna, "xstest": _xstest}


def is_pairs(name: str) -> bool:
    """Whether a labelled set is a file of pairs."""
    path = Path(name)
    if name in SETS or path.suffix != ".jsonl" or not path.is_file():
        return False
    return labelled_files.holds_pairs(path)


def load_pairs(name: str) -> list[LabelledPair]:
    """Load a file of labelled pairs.

    Raises:
        UsageError: if it is no such file; names the line.
    """
    return labelled_files.read_pairs(Path(name))


def axes(name: str) -> tuple[Axis, ...]:
    """The axes a labelled set has human labels for."""
    released: dict[str, tuple[Axis, ...]] = {"dna": ("harm", "action"), "xstest": ("refusal",)}
    if name in released:
        return released[name]
    there = {axis for reply in load(name) for axis in reply.labels}
    return tuple(axis for axis in AXES if axis in there)


def read(name: str) -> LabelledSet:
    """Load a labelled set with all that is known of it; see `load`."""
    if name in SETS:
        return LabelledSet(tuple(SETS[name]()))
    if Path(name).suffix.lower() in (".jsonl", ".csv"):
        return labelled_files.read(Path(name))
    raise unknown("labelled set", name, [*SETS, "FILE.csv", "FILE.jsonl"])


def load(name: str) -> list[Labelled]:
    """Load a labelled set.

    Args:
        name: "dna" (3,756 replies; `harm` is the human 0/1), "xstest" (1,350 completions; `refusal` 0-2), or a .csv or
            .jsonl file of your own.

    Raises:
        UsageError: for an unknown set, or a line of your file that is wrong.
        DataError: if its files are not there.
    """
    return list(read(name).rows)
