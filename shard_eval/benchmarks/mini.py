"""mini: our own matched triples (CC0): one topic asked benignly, ambiguously, and so that full compliance harms.

See `mini.md` for how it was written. Every train and dev record carries a reference reframing and a reference
answer; test records carry none, so that nothing can be trained on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

from shard_eval.benchmarks.source import Pin, verify
from shard_eval.records import Record

PIN = Pin(count=216, content="3dbe4615067a43cdb04a7e428e7412d4bb687da20779051df53acf99ba643ba2")


def rows() -> Iterator[dict[str, Any]]:
    """The rows of `mini.jsonl` as they are, with the reference reframings."""
    text = (resources.files(__package__) / "mini.jsonl").read_text(encoding="utf-8")
    return (json.loads(line) for line in text.splitlines())


def load() -> tuple[list[Record], str]:
    """Load and verify the 216 records; the three of a triple share their cluster.

    Returns:
        The records and "package".
    """
    records = [
        Record(
            benchmark="mini",
            id=row["id"],
            prompt=row["prompt"],
            category=row["harm_type"],
            risk_area=row["risk_area"],
            type=row["type"],
            level=row["level"],
            intent=row["intent"],
            split=row["split"],
            cluster=row["triple"],
            need=row["need"],
            withhold=row["withhold"],
            response=row.get("reference_response"),
        )
        for row in rows()
    ]
    verify(records, PIN, "mini", "package")
    return records, "package"
