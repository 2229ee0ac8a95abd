"""Data files: the trainer's rows, or rows of prompt and response as for own prompts, with unsafe parts where marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shard_eval.errors import UsageError
from shard_train.sft import numbered_lines, read_rows
from shard_train.star.guards import Exchange

Row = dict[str, Any]


def read(path: Path, what: str = "data") -> list[Row]:
    """Read a data file.

    Args:
        path: the file.
        what: it is, for messages.

    Returns:
        Rows of id, prompt (messages), completion (one message) and, where the file marks them, unsafe.

    Raises:
        UsageError: if it cannot be read, or a row has no answer, or marks a part outside it; names the row.
    """
    lines = numbered_lines(path, what)
    try:
        plain = bool(lines) and isinstance(json.loads(lines[0][1]).get("prompt"), str)
    except (ValueError, AttributeError) as error:
        raise UsageError(f"the first row of {path} is no JSON object: {error}.") from error
    return [_row(line, n, path) for n, line in lines] if plain else read_rows(path)


def _row(line: str, n: int, path: Path) -> Row:
    try:
        row = json.loads(line)
        answer = row["response"]
        if not answer.strip():
            raise ValueError("the response is empty")
        spans = [[int(a), int(b)] for a, b in row.get("unsafe", ())]
        if any(not 0 <= a < b <= len(answer) for a, b in spans):
            raise ValueError(f"unsafe {spans} is not within the response")
        found = {
            "id": str(row.get("id", n)),
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": answer}],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"line {n} of {path} is no row of prompt, response and unsafe: {error!r}.") from error
    return found | ({"unsafe": spans} if "unsafe" in row else {})


def exchange(row: Row) -> Exchange:
    """A row as a guard sees it."""
    spans = tuple((int(a), int(b)) for a, b in row.get("unsafe", ()))
    return Exchange(tuple(row["prompt"]), row["completion"][0]["content"], spans)
