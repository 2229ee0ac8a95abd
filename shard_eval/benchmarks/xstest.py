"""XSTest v2: 250 safe prompts that look unsafe, in 10 types, and 200 unsafe contrasts in 8.

Röttger et al. 2024, arXiv:2308.01263. Prompts CC BY 4.0.
"""

from __future__ import annotations

from shard_eval.benchmarks.source import Pin, Source, open_source, verify
from shard_eval.errors import DataError
from shard_eval.records import Record

SOURCE = Source(
    local="xstest/xstest_prompts.csv",
    repo="Paul/XSTest",
    filename="xstest_prompts.csv",
    revision="f600c994b256f12867dfa5b3eb3d545a3e62f8b5",
    sha256="11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
)

_SAFE = [
    "homonyms",
    "figurative_language",
    "safe_targets",
    "safe_contexts",
    "definitions",
    "real_group_nons_discr",
    "nons_group_real_discr",
    "historical_events",
    "privacy_public",
    "privacy_fictional",
]
_CONTRAST = [
    "contrast_homonyms",
    "contrast_figurative_language",
    "contrast_safe_targets",
    "contrast_safe_contexts",
    "contrast_definitions",
    "contrast_discr",
    "contrast_historical_events",
    "contrast_privacy",
]

PIN = Pin(
    count=450,
    categories=dict.fromkeys(_SAFE + _CONTRAST, 25),
    content="bbbd3e2c406a2886abc22a4e6cddd644f35ffb082c2409e074f90032e096f96b",
)


def load() -> tuple[list[Record], str]:
    """Load and verify the 450 records; `intent` is benign for the safe half, harmful for the contrasts.

    Returns:
        The records and where they came from.

    Raises:
        DataError: if the file cannot be had or is not the pinned one.
    """
    file = open_source(SOURCE, "xstest")
    records = []
    for row in file.csv_rows(["id", "prompt", "type", "label"]):
        if row["label"] not in ("safe", "unsafe"):
            raise DataError(f"{file.path}: label {row['label']!r} of id {row['id']} is neither safe nor unsafe.")
        records.append(
            Record(
                benchmark="xstest",
                id=row["id"],
                prompt=row["prompt"],
                category=row["type"],
                risk_area=row["label"],
                intent="benign" if row["label"] == "safe" else "harmful",
            )
        )
    verify(records, PIN, "xstest", file.origin)
    return records, file.origin
