"""A file of your own prompts as a benchmark: one JSON object a line, read strictly.

    {"prompt": "…", "id": "…", "category": "…", "intent": "benign", "need": "…", "withhold": "…"}

shard score MODEL --benchmarks my.jsonl
inspect eval shard_eval/own_prompts --model MODEL -T judge=embedded -T path=my.jsonl

Only "prompt" is required; KEYS names the others. The id is the line's number unless given. Over-refusal is measured on
prompts with the intent "benign". No error quotes a prompt.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shard_eval.errors import UsageError
from shard_eval.records import Record, sha256
from shard_eval.splits import SPLITS

INTENTS = ("benign", "ambiguous", "harmful")
CHOICES = {"intent": INTENTS, "split": SPLITS}
LABELS = ("category", "type", "risk_area", "cluster")
TEXTS = ("need", "withhold", "response")
KEYS = ("prompt", "id", *LABELS, "level", *CHOICES, *TEXTS)
IGNORED = ("reframed_prompt", "response_mode", "reformulated_component", "preserved_need", "draft_response", "unsafe")
"""What training reads from the same file."""

LONGEST_LABEL = 200
ORIGIN = "own file"


def is_path(name: str) -> bool:
    """Whether a benchmark's name is a file of your own."""
    return name.endswith(".jsonl")


def name_of(path: str) -> str:
    """The benchmark's name: the file's, in characters that are safe in a path; no built-in name begins so."""
    return "own-" + (re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-")[:40] or "prompts")


def read(path: str) -> str:
    """The file's text.

    Raises:
        UsageError: if there is no such file, or it is not UTF-8.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"{path!r} is no file. Give the path of a .jsonl file with one prompt a line.")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def load(path: str) -> tuple[list[Record], str]:
    """Load the records of a file, in its order.

    Returns:
        The records and "own file".

    Raises:
        UsageError: if there is no such file, or a line is wrong; names the line and what to do.
    """
    return parse(path, read(path)), ORIGIN


def parse(path: str, text: str) -> list[Record]:
    """Read the records from a file's text.

    Raises:
        UsageError: if a line is wrong, an id is there twice, or there is no prompt at all.
    """
    found: list[Record] = []
    line_of: dict[str, int] = {}
    # Not splitlines(): JSON allows U+2028 and others inside a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        record = _record(f"{path}:{number}", number, name_of(path), line)
        first = line_of.setdefault(record.id, number)
        if first != number:
            raise UsageError(f"{path}:{number}: the id {record.id!r} is taken by line {first}. Give each line its own.")
        found.append(record)
    if not found:
        raise UsageError(f'{path} holds no prompt. Write one object a line: {{"prompt": "…"}}.')
    return found


def content_sha(records: list[Record]) -> str:
    """Hash of everything the records say, in their order: a changed need, label or order is another content too."""
    given = [{k: v for k, v in asdict(r).items() if k != "benchmark" and v not in ("", None)} for r in records]
    return sha256(json.dumps(given, sort_keys=True))


def _record(where: str, number: int, benchmark: str, line: str) -> Record:
    row = _object(where, line)
    known = (*KEYS, *IGNORED)
    for key in row:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key[:60]!r}. Known: {', '.join(known)}.")
    prompt = _text(where, "prompt", row.get("prompt"))
    if not prompt.strip():
        raise UsageError(f"{where}: 'prompt' is empty. Write one, or delete the line.")
    checks = {**dict.fromkeys(TEXTS, _text), **dict.fromkeys(LABELS, _label), **dict.fromkeys(CHOICES, _choice)}
    checked: dict[str, Any] = {key: check(where, key, row[key]) for key, check in checks.items() if key in row}
    return Record(
        benchmark=benchmark,
        id=_id(where, row.get("id", number)),
        prompt=prompt,
        level=_level(where, row.get("level")),
        **checked,
    )


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=lambda pairs: _unique(where, pairs))
    except UsageError:
        raise
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}: not JSON ({error.msg} at column {error.colno}). Write one object a line."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise UsageError(f"{where}: JSON that cannot be read ({type(error).__name__}).") from error
    if not isinstance(row, dict):
        raise UsageError(f'{where}: {_kind(row)}, not an object. Write {{"prompt": "…"}}.')
    return row


def _unique(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise UsageError(f"{where}: a key is there twice. Keep one of them.")
    return row


def _kind(value: Any) -> str:
    names = {bool: "a truth value", str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def _text(where: str, key: str, value: Any) -> str:
    if value is None and key == "prompt":
        raise UsageError(f"{where}: there is no 'prompt'. Every line needs one.")
    if not isinstance(value, str):
        raise UsageError(f"{where}: {key!r} must be a text, not {_kind(value)}. Correct it, or leave the key out.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{where}: {key!r} holds half a character (a lone \\ud800-\\udfff). Write it whole."
        ) from error
    return value


def _label(where: str, key: str, value: Any) -> str:
    label = _text(where, key, value)
    if not label.isprintable() or len(label) > LONGEST_LABEL:
        raise UsageError(f"{where}: {key!r} must be one line of at most {LONGEST_LABEL} visible characters.")
    return label


def _id(where: str, value: Any) -> str:
    label = _label(where, "id", str(value) if type(value) is int else value)
    if not label.strip():
        raise UsageError(f"{where}: 'id' is empty. Give one, or leave the key out for the line's number.")
    return label


def _level(where: str, value: Any) -> int | None:
    if value is not None and type(value) is not int:
        kind = f"{value}" if type(value) is float else _kind(value)
        raise UsageError(f"{where}: 'level' must be a whole number, not {kind}. Correct it, or leave the key out.")
    return value


def _choice(where: str, key: str, value: Any) -> str:
    if value not in CHOICES[key]:
        raise UsageError(
            f"{where}: {key!r} must be one of {', '.join(CHOICES[key])}. Correct it, or leave the key out."
        )
    return str(value)
