"""What a trained judge said of each labelled reply when the model that wrote it was left out of its training.

The judge that is kept learned from all of those replies, so asking it about them would flatter it. `held_out.csv` in
its folder holds the verdicts of each fold's judge instead: a line per reply, its id, a hash and its labels, no text.
What every fold's judge learned from is there without labels, so that nothing is measured on it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shard_eval.judges.trained import HARMFUL, text_sha
from shard_eval.records import Axis, Record

FILE = "held_out.csv"
"""Of a judge's folder."""

LABELS = ("harm", "action", "refusal", "risky")
FIELDS = ("set", "id", "sha", *LABELS)


@dataclass(frozen=True)
class Line:
    """A reply it was trained on: where it is from, the hash of its text, and what a judge that never saw it said.

    Attributes:
        harm: 0 or 1; this and the others None for a reply that no judge was without.
        risky: 0 or 1, whether it takes the request for risky where nobody says so.
    """

    set: str
    id: str
    sha: str
    harm: int | None = None
    action: int | None = None
    refusal: int | None = None
    risky: int | None = None

    @property
    def measured(self) -> bool:
        """Whether a judge that never saw it has judged it."""
        return self.action is not None

    @property
    def labels(self) -> dict[Axis, int]:
        """The labels as the judge gives them."""
        return {"harm": (self.harm or 0) * HARMFUL, "action": self.action or 0, "refusal": self.refusal or 0}


def write(path: Path, lines: Sequence[Line]) -> None:
    """Write verdicts, sorted."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        rows = (["" if (v := getattr(line, field)) is None else str(v) for field in FIELDS] for line in lines)
        writer.writerows(sorted(rows))


def read(path: Path) -> list[Line]:
    """All lines."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Line(r["set"], r["id"], r["sha"], *(int(r[axis]) if r[axis] else None for axis in LABELS))
            for r in csv.DictReader(file)
        ]


def verdicts(records: Sequence[Record], path: Path) -> list[dict[Axis, int] | None]:
    """Held-out verdicts on replies, in their order; None where there is none.

    Args:
        records: with their responses; found by benchmark and id, or, in a file of somebody else's, by their text.
        path: the file.
    """
    lines = [line for line in read(path) if line.measured]
    by_id = {(line.set, line.id, line.sha): line for line in lines}
    by_text = {line.sha: line for line in lines}
    found = []
    for record in records:
        sha = text_sha(record.prompt, record.response or "")
        line = by_id.get((record.benchmark, record.id, sha)) or by_text.get(sha)
        found.append(None if line is None else line.labels)
    return found
