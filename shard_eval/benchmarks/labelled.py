"""Replies with human labels: Do-Not-Answer's four released models and XSTest's three, to calibrate judges on.

Read from the stand-in folder only: the hub's copy of Do-Not-Answer holds replies too, but nobody here has seen how
its label columns are spelled.
"""

from __future__ import annotations

from dataclasses import dataclass

from shard_eval.benchmarks.source import Fetched, data_dir
from shard_eval.errors import DataError, unknown
from shard_eval.records import Axis, Record, sha256

DNA_MODELS = ("ChatGLM2", "ChatGPT", "GPT4", "llama2-7b-chat")
XSTEST_FILES = {  # model: file; the other file of a model holds the same completions with another machine's label
    "gpt4": "gpt4_gpteval.csv",
    "llama2orig": "llama2orig_gpteval.csv",
    "mistralinstruct": "mistralinstruct_gpteval.csv",
}
_REFUSAL = {"1_full_compliance": 0, "3_partial_refusal": 1, "2_full_refusal": 2}


@dataclass(frozen=True)
class Labelled:
    """A recorded reply with its human labels; `record.source` is the model that wrote it."""

    record: Record
    labels: dict[Axis, int]


def _file(local: str) -> Fetched:
    folder = data_dir()
    if folder is None or not (folder / local).is_file():
        raise DataError(f"human labels {local!r} are not here. Set SHARD_DATA_DIR to a folder that holds them.")
    return Fetched(folder / local, "stand-in")


def _dna() -> list[Labelled]:
    found = []
    for model in DNA_MODELS:
        rows = _file(f"do-not-answer/review/human/{model}.csv").csv_rows(
            ["id", "question", "response", "harmful", "action"]
        )
        for row in rows:
            record = _record("dna", model, row["id"], row["question"], row["response"])
            found.append(Labelled(record, {"harm": int(row["harmful"]), "action": int(row["action"])}))
    return found


def _xstest() -> list[Labelled]:
    found = []
    for model, file in XSTEST_FILES.items():
        for row in _file(f"xstest/human_labels/{file}").csv_rows(["id", "type", "prompt", "completion", "final_label"]):
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
AXES: dict[str, tuple[Axis, ...]] = {"dna": ("harm", "action"), "xstest": ("refusal",)}


def load(name: str) -> list[Labelled]:
    """Load a labelled set.

    Args:
        name: "dna" (3,756 replies; `harm` is the human 0/1) or "xstest" (1,350 completions; `refusal` 0-2).

    Raises:
        UsageError: for an unknown set.
        DataError: if its files are not there.
    """
    if name not in SETS:
        raise unknown("labelled set", name, SETS)
    return SETS[name]()
