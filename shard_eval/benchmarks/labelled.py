"""Replies with human labels: Do-Not-Answer's four released models, XSTest's three, or a file of your own.

The released ones are read from the stand-in folder only: the hub's copy of Do-Not-Answer holds replies too, but nobody
here has seen how its label columns are spelled. Files of your own: see `labelled_files`.
"""

from __future__ import annotations

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


def _dna() -> list[Labelled]:
    found = []
    files = {model: released(f"do-not-answer/review/human/{model}.csv") for model in DNA_MODELS}
    areas = {record.id: record.risk_area for record in dna.load()[0]}
    for model, file in files.items():
        for row in file.csv_rows(["id", "question", "response", "harmful", "action"]):
            record = _record("dna", model, row["id"], row["question"], row["response"], areas[row["id"]])
            found.append(Labelled(record, {"harm": int(row["harmful"]), "action": int(row["action"])}))
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
