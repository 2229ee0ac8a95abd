"""Replies with human labels: Do-Not-Answer's four released models, XSTest's three, or a file of your own.

The released ones are read from the stand-in folder only: the hub's copy of Do-Not-Answer holds replies too, but nobody
here has seen how its label columns are spelled. A file of your own has one JSON object a line: "prompt", "response", a
label on one or more axes, and if you like "source" (who wrote it), "intent", "need" and "withhold"; or, for a pairwise
judge, "prompt", "candidate", "baseline", and who is preferred ("candidate", "baseline", "tie") on "helpfulness" or
"harm" (there: who does less).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard_eval.benchmarks.source import Fetched, data_dir
from shard_eval.errors import DataError, UsageError, unknown
from shard_eval.records import AXES as ALL_AXES
from shard_eval.records import CHOICES, PAIR_AXES, Axis, Choice, Record, labels, sha256

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
    for model in DNA_MODELS:
        rows = released(f"do-not-answer/review/human/{model}.csv").csv_rows(
            ["id", "question", "response", "harmful", "action"]
        )
        for row in rows:
            record = _record("dna", model, row["id"], row["question"], row["response"])
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


@dataclass(frozen=True)
class LabelledPair:
    """Two responses to one prompt and which one people prefer; `record.response` is the candidate's."""

    record: Record
    baseline: str
    labels: dict[Axis, Choice]


def _lines(path: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is no file. Give a labelled set ({', '.join(SETS)}) or a .jsonl file.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number} is not JSON: {error}") from error
        missing = [k for k in needed if not isinstance(row, dict) or not isinstance(row.get(k), str)]
        if missing:
            raise UsageError(f"{path}:{number} lacks the text {missing[0]!r}; each line needs {', '.join(needed)}.")
        found.append((number, row))
    if not found:
        raise UsageError(f"{path} is empty.")
    return found


def _labels(path: Path, number: int, row: dict[str, Any], known: dict[Axis, list[Any]]) -> dict[Axis, Any]:
    found = {axis: row[axis] for axis in known if axis in row}
    for axis, label in found.items():
        if isinstance(label, bool) or label not in known[axis]:
            raise UsageError(f"{path}:{number}: {label!r} is no label of {axis} ({known[axis]}).")
    if not found:
        raise UsageError(f"{path}:{number} has no label; give one or more of {', '.join(known)}.")
    return found


def _same_axes(path: Path, found: list[dict[Axis, Any]]) -> None:
    if len({tuple(sorted(axes)) for axes in found}) > 1:
        raise UsageError(f"{path}: every line must be labelled on the same axes; make one file per set of axes.")


def _own_record(path: Path, number: int, row: dict[str, Any], response: str) -> Record:
    return Record(
        path.stem,
        f"line-{number}",
        row["prompt"],
        intent=row.get("intent", "unknown"),
        cluster=sha256(row["prompt"])[:16],
        response=response,
        source=str(row.get("source") or "unnamed"),
        need=str(row.get("need") or ""),
        withhold=str(row.get("withhold") or ""),
    )


def _own(path: Path) -> list[Labelled]:
    known = {axis: list(labels(axis)) for axis in ALL_AXES}
    found = []
    for number, row in _lines(path, ("prompt", "response")):
        record = _own_record(path, number, row, row["response"])
        found.append(Labelled(record, _labels(path, number, row, known)))
    _same_axes(path, [dict(r.labels) for r in found])
    return found


def is_pairs(name: str) -> bool:
    """Whether a labelled set is a file of pairs."""
    path = Path(name)
    return name not in SETS and path.is_file() and '"baseline"' in path.read_text(encoding="utf-8").split("\n", 1)[0]


def load_pairs(name: str) -> list[LabelledPair]:
    """Load a file of labelled pairs.

    Raises:
        UsageError: if it is no such file; names the line.
    """
    path = Path(name)
    known: dict[Axis, list[Any]] = {axis: list(CHOICES) for axis in PAIR_AXES}
    found = []
    for number, row in _lines(path, ("prompt", "candidate", "baseline")):
        record = _own_record(path, number, row, row["candidate"])
        found.append(LabelledPair(record, row["baseline"], _labels(path, number, row, known)))
    _same_axes(path, [dict(r.labels) for r in found])
    return found


SETS = {"dna": _dna, "xstest": _xstest}


def axes(name: str) -> tuple[Axis, ...]:
    """The axes a labelled set has human labels for."""
    released: dict[str, tuple[Axis, ...]] = {"dna": ("harm", "action"), "xstest": ("refusal",)}
    return released[name] if name in released else tuple(load(name)[0].labels)


def load(name: str) -> list[Labelled]:
    """Load a labelled set.

    Args:
        name: "dna" (3,756 replies; `harm` is the human 0/1), "xstest" (1,350 completions; `refusal` 0-2), or a .jsonl
            file of your own.

    Raises:
        UsageError: for an unknown set, or a line of your file that is wrong.
        DataError: if its files are not there.
    """
    if name in SETS:
        return SETS[name]()
    if name.endswith(".jsonl"):
        return _own(Path(name))
    raise unknown("labelled set", name, [*SETS, "FILE.jsonl"])
