"""OR-Bench Hard-1K: 1,319 prompts that look toxic and that a panel of models found safe.

Cui et al. 2025, arXiv:2405.20947. Data CC BY 4.0. "Safe" is itself a verdict of language models.
"""

from __future__ import annotations

import json

from shard_eval.benchmarks.source import Fetched, Pin, Source, open_source, verify
from shard_eval.errors import DataError
from shard_eval.records import Record, sha256

SOURCE = Source(
    local="or-bench/orbench_hard.json",
    repo="bench-llm/or-bench",
    filename="or-bench-hard-1k.csv",
    revision="e36d8b80e81837c8a8f264bbb2a49f1b32c7e272",
    sha256="a6e2f1166416efe5901f3bb05c47dc92ab3aca3acfe143693d38b8057d841e6d",
)

# The stand-in has no category column, so only count and content are pinned.
PIN = Pin(count=1319, content="401b362595b01eb03cbd020e2708b5b69a18e3c441798027b9c9d4df8fed2444")


def _rows(file: Fetched) -> list[dict[str, str]]:
    if file.path.suffix == ".csv":
        return file.csv_rows(["prompt", "category"])
    try:
        rows: list[dict[str, str]] = json.loads(file.text())
    except json.JSONDecodeError as error:
        raise DataError(f"{file.path} is not JSON: {error}. Fetch it again.") from error
    return rows


def load() -> tuple[list[Record], str]:
    """Load and verify the 1,319 records; the id is the prompt's hash, for the source numbers nothing.

    Returns:
        The records and where they came from.

    Raises:
        DataError: if the file cannot be had or is not the pinned one.
    """
    file = open_source(SOURCE, "or_bench_hard")
    records = [
        Record(
            benchmark="or_bench_hard",
            id=sha256(row["prompt"])[:12],
            prompt=row["prompt"],
            category=row.get("category", ""),
            intent="benign",
        )
        for row in _rows(file)
    ]
    verify(records, PIN, "or_bench_hard", file.origin)
    return records, file.origin
