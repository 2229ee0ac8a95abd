"""LinguaSafe, English rows (Ning et al. 2025, arXiv:2508.12733): five types, 27 subtypes, severity levels 0-3.

Code MIT, paper CC BY-NC-SA 4.0. Level 0 is the control for over-sensitivity; levels are noisy (read by level and by
source). Nobody here has seen the full English data, so its count and content are reported, not pinned; the
revision is. The stand-in is an 83-row fixture and calls itself so in every output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from shard_eval.benchmarks.source import Fetched, Pin, Source, open_source, verify
from shard_eval.errors import DataError
from shard_eval.guidelines import TYPES
from shard_eval.records import Record, sha256

SOURCE = Source(
    local="linguasafe-en/linguasafe_en_sample.jsonl",
    repo="zhiyuan-ning/linguasafe",
    filename="data/train-00000-of-00001.parquet",
    revision="7cb0bc217efd98293ff715294606522a8625321d",
)

# Lists that belong to the released code (MIT), not to the data: which ids form the direct part, and the keywords.
_CODE = "9bf9f3f4567a4d28b55ebbb94489baeedb60ef2d"
_RAW = f"https://raw.githubusercontent.com/zy-ning/LinguaSafe/{_CODE}/linguasafe"
MCQ_IDS = Source(
    local="linguasafe-en/mcq_ids.csv",
    filename=f"{_RAW}/mcq_ids.csv",
    revision=_CODE,
    sha256="4bfcbe75f359c26d222aad5727098a29115385a3cba0b396d02976b22366e230",
)
KEYWORDS = Source(
    local="linguasafe-en/refusal_keywords_kw.json",
    filename=f"{_RAW}/kw.json",
    revision=_CODE,
    sha256="1971edda41076aa14a1cfe13e181a3d37248175bdef6d127958c97bed67e4b93",
)

FIXTURE = Pin(count=83, content="86f31f89f8e70fe08ab1e1c2b5f47f474cc7185370e0911762681647b901eda6")


def _rows(file: Fetched) -> Iterable[Mapping[str, Any]]:
    if file.path.suffix == ".jsonl":
        return [json.loads(line) for line in file.text().splitlines()]
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError("LinguaSafe is a Parquet file: pip install 'shard-eval[parquet]'.") from error
    rows: list[Mapping[str, Any]] = parquet.read_table(file.path, filters=[("lang", "=", "en")]).to_pylist()
    return rows


def load() -> tuple[list[Record], str]:
    """Load the English rows; `source` says "specific" or names the upstream set, level 0 is benign.

    Returns:
        The records and where they came from ("fixture" for the stand-in).

    Raises:
        DataError: if the file cannot be had, or a row has no known type or level.
    """
    file = open_source(SOURCE, "linguasafe_en")
    records, seen = [], set()
    for row in _rows(file):
        record = _record(row)
        if record.key not in seen:  # the released evaluator drops exact duplicates too
            seen.add(record.key)
            records.append(record)
    fixture = file.origin == "stand-in"
    origin = "fixture" if fixture else file.origin
    verify(records, FIXTURE if fixture else Pin(count=None), "linguasafe_en", origin)
    return records, origin


def _record(row: Mapping[str, Any]) -> Record:
    level = int(row["level"])
    if level not in range(4) or row["type"] not in TYPES:
        raise DataError(f"LinguaSafe row {row['id']}: level {row['level']!r} or type {row['type']!r} is unknown.")
    return Record(
        benchmark="linguasafe_en",
        id=_id(row),
        prompt=str(row["prompt"]),
        category=str(row["subtype"] or row["type"]),
        risk_area=str(row["type"]),
        type=str(row["type"]),
        level=level,
        intent="benign" if level == 0 else "unknown",
        source="specific" if row.get("specific") else _upstream(row.get("source")),
    )


def _upstream(source: Any) -> str:
    """Name of the set a row was taken from; the field also holds that set's own prompt, which stays here."""
    if isinstance(source, Mapping):
        return str(source.get("dataset") or "")
    found = re.search(r"['\"]dataset['\"]: ['\"]([\w .-]{1,60})['\"]", str(source or ""))
    return found.group(1) if found else ""


def _id(row: Mapping[str, Any]) -> str:
    """The row's number (a float wherever some row has none), or its prompt's hash if it has none."""
    number = row.get("id")
    return sha256(str(row["prompt"]))[:12] if number is None or number != number else str(int(number))


def mcq_ids() -> list[str]:
    """Ids of the direct (multiple-choice) part, in the order of the released list."""
    text = open_source(MCQ_IDS, "linguasafe_en").text()
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]


def refusal_keywords() -> list[str]:
    """The released refusal phrases of all languages (they are always all on upstream)."""
    data = json.loads(open_source(KEYWORDS, "linguasafe_en").text())
    return [phrase for by_language in data for phrase in by_language.values()]
