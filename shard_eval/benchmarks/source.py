"""Where benchmark files come from: a stand-in folder, or the hub by pinned revision. Never our own tree.

`SHARD_DATA_DIR` names a folder with the same files for places where the hub is out of reach. Whatever the
place, `verify()` compares the records with the pinned count, categories and content hash.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import platformdirs

from shard_eval.errors import DataError
from shard_eval.records import Record, sha256


@dataclass(frozen=True)
class Source:
    """A file of a benchmark.

    Attributes:
        local: its path below SHARD_DATA_DIR.
        filename: its path in the hub's dataset repository, or its full address for a file outside the hub.
        repo: the hub's dataset repository; "" for a file outside the hub.
        revision: the pinned commit.
        sha256: hash of the upstream file's bytes where it is known.
    """

    local: str
    filename: str
    repo: str = ""
    revision: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Fetched:
    """A file as found: its path and where it came from ("stand-in" or repository@revision)."""

    path: Path
    origin: str

    def text(self) -> str:
        """The file as text.

        Raises:
            DataError: if it is not UTF-8.
        """
        try:
            return self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not UTF-8 text: {error}. Fetch it again.") from error

    def csv_rows(self, columns: Sequence[str]) -> list[dict[str, str]]:
        """The rows of a CSV file.

        Raises:
            DataError: if a column is missing.
        """
        reader = csv.DictReader(io.StringIO(self.text()))
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{self.path} has no column {sorted(missing)}; it has {reader.fieldnames}.")
        return [dict(row) for row in reader]


def data_dir() -> Path | None:
    """The stand-in folder, if the environment names one.

    Raises:
        DataError: if it names a folder that does not exist.
    """
    value = os.environ.get("SHARD_DATA_DIR")
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise DataError(f"SHARD_DATA_DIR={value!r} is not a folder. Correct it, or unset it to use the hub.")
    return path


def open_source(source: Source, benchmark: str) -> Fetched:
    """Find a file: in the stand-in folder first, else from the hub (or the hub client's own cache).

    Raises:
        DataError: if neither has it; says what to do.
    """
    folder = data_dir()
    if folder is not None and (folder / source.local).is_file():
        return Fetched(folder / source.local, "stand-in")
    try:
        path = _from_hub(source) if source.repo else _from_address(source)
    except DataError:
        raise
    except Exception as error:  # the hub client raises a dozen unrelated types when offline
        tried = f"{folder / source.local} (not there) and " if folder else ""
        raise DataError(
            f"benchmark {benchmark!r} is not available. Tried {tried}{source.repo or source.filename} at revision "
            f"{source.revision[:12]} ({type(error).__name__}). Either go online once and run "
            f"`shard data fetch {benchmark}`, or set SHARD_DATA_DIR to a folder that holds {source.local}."
        ) from error
    return Fetched(path, f"{source.repo or source.filename.split('/')[2]}@{source.revision[:12]}")


def _from_hub(source: Source) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    path = try_to_load_from_cache(source.repo, source.filename, repo_type="dataset", revision=source.revision)
    if not isinstance(path, str):
        # The client retries a dead network for half a minute; one short question tells.
        httpx.head(constants.ENDPOINT, timeout=10)
        path = hf_hub_download(source.repo, source.filename, repo_type="dataset", revision=source.revision)
    return _checked(Path(path), source)


def _from_address(source: Source) -> Path:
    path = platformdirs.user_cache_path("shard-eval") / "data" / source.revision / Path(source.filename).name
    if not path.is_file():
        reply = httpx.get(source.filename, follow_redirects=True, timeout=60).raise_for_status()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_bytes(reply.content)
        path.with_suffix(".part").rename(path)
    return _checked(path, source)


def _checked(path: Path, source: Source) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if source.sha256 and digest != source.sha256:
        raise DataError(f"{path} has sha256 {digest}, pinned is {source.sha256}. Delete it and fetch again.")
    return path


@dataclass(frozen=True)
class Pin:
    """What the records of a benchmark must be.

    Attributes:
        count: number of records; None if nobody has verified it.
        categories: number of records per category; None where the source has none.
        content: `content_sha()` of the records; "" if nobody has verified it.
    """

    count: int | None
    categories: dict[str, int] | None = None
    content: str = ""


def content_sha(records: Iterable[Record]) -> str:
    """Hash of the set of prompts, independent of order and of how the file spells ids and columns."""
    return sha256("\n".join(sorted(r.prompt_sha for r in records)))


def verify(records: Sequence[Record], pin: Pin, benchmark: str, origin: str) -> None:
    """Compare records with their pin.

    Raises:
        DataError: naming the first thing that differs.
    """
    found = Counter(r.category for r in records)
    where = f"benchmark {benchmark!r} from {origin}"
    remedy = "The file is damaged or another version: delete it and run `shard data fetch` again."
    if pin.count is not None and len(records) != pin.count:
        raise DataError(f"{where} has {len(records)} records, expected {pin.count}. {remedy}")
    if pin.categories is not None and found != pin.categories:
        differing = {c: (found[c], pin.categories.get(c, 0)) for c in found | pin.categories}
        wrong = {c: pair for c, pair in differing.items() if pair[0] != pair[1]}
        raise DataError(f"{where}: categories differ (found, expected): {wrong}. {remedy}")
    if pin.content and content_sha(records) != pin.content:
        raise DataError(f"{where}: the prompts are not the pinned ones (sha256 of the set differs). {remedy}")
    keys = Counter(r.key for r in records)
    twice = [key[1] for key, n in keys.items() if n > 1]
    if twice:
        raise DataError(f"{where}: records given twice: {twice[:5]}. {remedy}")
