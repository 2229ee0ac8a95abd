"""What a trained judge said of each labelled reply when the model that wrote it was left out of its training.

The judge that is kept learned from all of those replies, so asking it about them would flatter it. `held_out.csv` in
its folder holds the verdicts of each fold's judge instead: a line per reply, its id, a hash and its labels, no text.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shard_eval.judges.trained import HARMFUL
from shard_eval.records import Axis, Record, sha256

FIELDS = ("set", "id", "sha", "harm", "action", "refusal")


@dataclass(frozen=True)
class Line:
    """A reply it was trained on: where it is from, the hash of its text, and what a judge that never saw it said.

    Attributes:
        harm: 0 or 1.
    """

    set: str
    id: str
    sha: str
    harm: int
    action: int
    refusal: int

    @property
    def labels(self) -> dict[Axis, int]:
        """The labels as the judge gives them."""
        return {"harm": self.harm * HARMFUL, "action": self.action, "refusal": self.refusal}


def reply_sha(request: str, response: str) -> str:
    """Hash by which a reply is found again in another file."""
    return sha256(f"{request}\0{response}")[:16]


def write(path: Path, lines: Sequence[Line]) -> None:
    """Write verdicts, sorted."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(sorted(tuple(getattr(line, field) for field in FIELDS) for line in lines))


def read(path: Path) -> list[Line]:
    """All held-out verdicts."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Line(r["set"], r["id"], r["sha"], int(r["harm"]), int(r["action"]), int(r["refusal"]))
            for r in csv.DictReader(file)
        ]


def verdicts(records: Sequence[Record], path: Path) -> list[dict[Axis, int] | None]:
    """Held-out verdicts on replies, in their order; None for a reply it was not trained on.

    Args:
        records: with their responses; found by benchmark and id, or, in a file of somebody else's, by their text.
        path: the file.
    """
    lines = read(path)
    by_id = {(line.set, line.id, line.sha): line for line in lines}
    by_text = {line.sha: line for line in lines}
    found = []
    for record in records:
        sha = reply_sha(record.prompt, record.response or "")
        line = by_id.get((record.benchmark, record.id, sha)) or by_text.get(sha)
        found.append(None if line is None else line.labels)
    return found
