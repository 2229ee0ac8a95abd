"""One rater's ratings: a file of lines, one appended and on disk before the page moves on.

    {"item": "0f3a…", "labels": {"harm": 0, "refusal": 2}, "skipped": false, "note": "", "seconds": 7.4, "at": "…"}

The last line of an item counts. An undo is a line too, with what was before, so nothing is ever deleted. The file is
read anew for every question: two tabs, or two servers on one folder, see each other's ratings, and a rating of what was
changed in between is refused. A line that a kill or a full disk tore is taken away before the next is written.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from shard_eval.errors import DataError, UsageError
from shard_eval.labelling.sample import Sample
from shard_eval.records import CHOICES, Axis, labels

LONGEST_NOTE = 2000
MOST_SECONDS = 3600.0
"""More on one item than this is a break."""

_NAME = re.compile(r"\w[\w-]{0,39}")
Labels = Mapping[Axis, int | str]


class Stale(UsageError):
    """A rating of an item that was saved again since it was shown."""


@dataclass(frozen=True)
class Rating:
    """What a rater says of an item.

    Attributes:
        labels: per axis; of a pair candidate, baseline or tie. Not all axes need be there yet.
        seconds: time spent on it in all.
        version: how often the item was saved, undone included.
    """

    labels: Labels = field(default_factory=dict)
    skipped: bool = False
    note: str = ""
    seconds: float = 0.0
    version: int = field(default=0, compare=False)


def rater_name(name: str) -> str:
    """A rater's name as files and exports have it.

    Raises:
        UsageError: if it would not make a file's name.
    """
    plain = unicodedata.normalize("NFC", name)
    if not _NAME.fullmatch(plain):
        raise UsageError(f"--rater {name!r}: give a name of up to 40 letters, digits, '_' and '-', such as rater-1.")
    return plain


def known_labels(axis: Axis, pairs: bool) -> tuple[int | str, ...]:
    """What a label of an axis may be."""
    return CHOICES if pairs else tuple(labels(axis))


def raters(folder: Path) -> list[str]:
    """The names of those who rated in a folder."""
    return sorted(path.stem.removeprefix("ratings-") for path in folder.glob("ratings-*.jsonl"))


class Ratings:
    """The ratings of one rater in a folder."""

    def __init__(self, folder: Path, rater: str, sample: Sample) -> None:
        self.rater = rater_name(rater)
        self.path = folder / f"ratings-{self.rater}.jsonl"
        self.sample = sample
        self._keys = {item.key for item in sample.items}
        self._lock = threading.Lock()

    def all(self) -> dict[str, Rating]:
        """The present rating of every item that has one, by the item's key.

        Raises:
            DataError: if a line other than a torn last one cannot be read.
        """
        return self._replay()[0]

    def complete(self, rating: Rating | None) -> bool:
        """Whether every axis has a label."""
        return rating is not None and not rating.skipped and set(rating.labels) == set(self.sample.axes)

    def save(self, item: str, rating: Rating, version: int | None = None) -> int:
        """Keep a rating; `rating.seconds` is the time since the last save and is added up.

        Args:
            item: its key.
            rating: all that is said of it.
            version: of the rating that this one replaces; None: whatever is there.

        Returns:
            The version of what is kept now.

        Raises:
            UsageError: if a label is none of the axis, or the item is not of this sample.
            Stale: if another version is there.
            OSError: if it cannot be written whole; the file is as before then.
        """
        self._check(item, rating)
        with self._writing() as file:
            there = self._replay()[0].get(item, Rating()).version
            if version not in (None, there):
                raise Stale("this item was changed elsewhere since it was shown (another tab or terminal). Reload it.")
            self._append(file, item, rating, undo=False)
            return there + 1

    def undo(self) -> str | None:
        """Put the item that was saved last back to what it was before.

        Returns:
            Its key; None if there is nothing to undo.
        """
        if not self.path.exists():
            return None
        with self._writing() as file:
            _, done = self._replay()
            if not done:
                return None
            item, before = done[-1]
            self._append(file, item, replace(before, seconds=0.0), undo=True)
            return item

    @contextmanager
    def _writing(self) -> Iterator[io.FileIO]:
        """The file, ending with a whole line, while no other thread or process writes to it."""
        with self._lock, io.FileIO(self.path, "a+", opener=_private) as file:
            if fcntl:
                with suppress(OSError):  # some network file systems have no locks; there one server a rater must do
                    fcntl.flock(file, fcntl.LOCK_EX)
            _mend(file)
            yield file

    def _check(self, item: str, rating: Rating) -> None:
        if item not in self._keys:
            raise UsageError(f"item {item!r} is not of this sample.")
        for axis, label in rating.labels.items():
            if axis not in self.sample.axes:
                raise UsageError(f"{axis!r} is not asked here ({', '.join(self.sample.axes)}).")
            if type(label) not in (int, str) or label not in known_labels(axis, self.sample.pairs):
                raise UsageError(f"{label!r} is no label of {axis} ({known_labels(axis, self.sample.pairs)}).")
        if len(rating.note) > LONGEST_NOTE:
            raise UsageError(f"a note has at most {LONGEST_NOTE} characters, this one {len(rating.note)}.")
        if not 0 <= rating.seconds <= MOST_SECONDS:
            raise UsageError(f"{rating.seconds} seconds on one item: give 0 to {MOST_SECONDS:.0f}.")

    def _append(self, file: io.FileIO, item: str, rating: Rating, undo: bool) -> None:
        line = {
            "item": item,
            "labels": dict(rating.labels),
            "skipped": rating.skipped,
            "note": rating.note,
            "seconds": round(rating.seconds, 1),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            **({"undo": True} if undo else {}),
        }
        data, size = (json.dumps(line) + "\n").encode(), file.seek(0, os.SEEK_END)
        try:
            written = file.write(data)
            os.fsync(file)
        except OSError:
            file.truncate(size)
            raise
        if written != len(data):
            file.truncate(size)
            raise OSError(
                f"only {written} of {len(data)} bytes could be written to {self.path}, so this rating was not kept; "
                "those before are. Make room on the disk, then rate it again."
            )

    def _replay(self) -> tuple[dict[str, Rating], list[tuple[str, Rating]]]:
        """The present ratings, and what can be undone: item and what it was before, the last one at the end."""
        present: dict[str, Rating] = {}
        done: list[tuple[str, Rating]] = []
        for line in self._lines():
            item, before = line["item"], present.get(line["item"], Rating())
            seconds, version = before.seconds + line["seconds"], before.version + 1
            present[item] = Rating(line["labels"], line["skipped"], line["note"], seconds, version)
            if not line.get("undo"):
                done.append((item, before))
            elif done:
                done.pop()
        return present, done

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        found = []
        lines = self.path.read_bytes().split(b"\n")
        for number, text in enumerate(lines, 1):
            try:
                if text:
                    line = json.loads(text)
                    self._check(line["item"], Rating(line["labels"], bool(line["skipped"]), str(line["note"])))
                    found.append(line | {"seconds": float(line["seconds"])})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if number == len(lines):  # no newline after it: torn by a kill
                    continue
                raise DataError(
                    f"{self.path}:{number} is no rating ({error}). It was edited: correct or delete the line."
                ) from error
        return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _mend(file: io.FileIO) -> None:
    """Make a file end with a whole line again: a torn one would tear the next one too."""
    file.seek(0)
    data = file.readall()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return
    if _is_line(data[whole:]):  # it lacks its newline only
        file.write(b"\n")
    else:
        file.truncate(whole)
    os.fsync(file)


def _is_line(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
