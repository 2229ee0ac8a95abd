"""Give every reply of a data file its STAR scores: its row's `star`, [[end, score], …] in characters of the reply."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shard_eval.errors import UsageError
from shard_eval.records import sha256
from shard_train.sft import write_json
from shard_train.star import calibration
from shard_train.star.calibration import Cut, Labelled, Trust
from shard_train.star.chunks import UNITS, ends
from shard_train.star.guards import Constant, Exchange, Guard, Mean, Oracle
from shard_train.star.rows import Row, exchange


@dataclass(frozen=True)
class Chunking:
    """How replies are cut.

    Attributes:
        size: units per chunk (M, published: 5); 0 for whole replies.
        unit: "words" as in the released code, or "tokens" of the model that is trained, as in the paper.
    """

    size: int = 5
    unit: str = "words"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError(f"chunk unit {self.unit!r} is unknown. Known: {', '.join(UNITS)}.")
        if self.size < 0:
            raise UsageError(f"chunks of {self.size}: give a number of at least 1, or 0 for whole answers.")

    def ends(self, reply: str, tokenizer: Any = None) -> list[int]:
        """Where the chunks of a reply end (`chunks.ends`)."""
        if not self.size:
            return [len(reply)]
        return ends(reply, self.size, _offsets(tokenizer, reply) if self.unit == "tokens" else None)


@dataclass(frozen=True)
class Scored:
    """A data file with scores.

    Attributes:
        rows: as they were, each with `star`.
        guard: its name.
        trust: what was seen of the guard; None for those that are no guards of anything real.
        chunking: how replies were cut.
    """

    rows: tuple[Row, ...]
    guard: str
    trust: Trust | None
    chunking: Chunking

    def to_json(self) -> dict[str, Any]:
        """What stands next to a result that was trained with it."""
        values = [score for row in self.rows for _, score in row["star"]]
        return {
            "guard": self.guard,
            "trust": asdict(self.trust) if self.trust else None,
            "chunking": asdict(self.chunking),
            "rows": len(self.rows),
            "chunks": len(values),
            "mean": sum(values) / len(values),
            "unsafe_chunks": sum(v < 0.5 for v in values) / len(values),
            "unsafe_rows": sum(any(v < 0.5 for _, v in row["star"]) for row in self.rows) / len(self.rows),
        }


def real(guard: Guard) -> bool:
    """Whether a guard reads replies, so that it can be tried out; a constant and an oracle have nothing to show."""
    if isinstance(guard, Mean):
        return any(map(real, guard.guards))
    return not isinstance(guard, Constant | Oracle)


def score(
    rows: Sequence[Row],
    guard: Guard,
    chunking: Chunking,
    *,
    probe: Callable[[Cut], Sequence[Labelled]],
    insist: bool = False,
    tokenizer: Any = None,
    cache: Path | None = None,
    track: Callable[[Sequence[Row]], Iterable[Row]] = iter,
) -> Scored:
    """Try a guard out, then score every reply.

    Args:
        rows: training rows (`sft.read_rows`).
        guard: who scores.
        chunking: how replies are cut.
        probe: from how replies are cut to the labelled replies the guard is tried on.
        insist: use the guard even if it cannot tell safe from unsafe prefixes.
        tokenizer: of the model that is trained, where tokens are counted; it must give offsets.
        cache: file that keeps finished scores by content, so that a stopped pass goes on.
        track: for a progress bar.

    Raises:
        UsageError: if the guard is not good enough, or tokens are to be counted without a tokenizer.
    """
    if chunking.unit == "tokens" and tokenizer is None:
        raise UsageError("chunks of tokens need the tokenizer of the model that is trained. Name it, or count words.")
    asked = trusted(guard, lambda reply: chunking.ends(reply, tokenizer), probe=probe, insist=insist, cache=cache)
    found = []
    for row in track(rows):
        one = exchange(row)
        cut = chunking.ends(one.reply, tokenizer)
        try:
            scores = asked.score(one, cut)
        except UsageError as error:
            raise UsageError(f"row {row['id']!r}: {error}") from error
        found.append({**row, "star": [[end, round(value, 6)] for end, value in zip(cut, scores, strict=True)]})
    return Scored(tuple(found), guard.name, asked.trust, chunking)


def trusted(
    guard: Guard,
    cut: Cut,
    *,
    probe: Callable[[Cut], Sequence[Labelled]],
    insist: bool = False,
    cache: Path | None = None,
) -> Trusted:
    """Try a guard out, and make its scores probabilities by what was seen.

    Args:
        guard: who scores.
        cut: how replies are cut.
        probe: from how replies are cut to the labelled replies the guard is tried on.
        insist: use the guard even if it cannot tell safe from unsafe prefixes.
        cache: file that keeps finished scores by content.

    Raises:
        UsageError: if the guard is not good enough.
    """
    asked = Remembered(guard, cache)
    if not real(guard):
        return Trusted(asked, None)
    trust = calibration.try_out(asked, probe(cut))
    calibration.require(trust, guard.name, insist)
    return Trusted(asked, trust)


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [(int(a), int(b)) for a, b in found]


class Remembered:
    """A guard whose finished scores are kept by content, so that a stopped pass goes on where it was.

    Args:
        guard: who scores.
        path: the file; None to keep nothing. A line that a kill cut short is forgotten.
    """

    def __init__(self, guard: Guard, path: Path | None) -> None:
        self._guard, self._path = guard, path
        self._found: dict[str, list[float]] = {}
        self.name, self.identity = guard.name, guard.identity
        if path is not None and path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            self._found = dict(json.loads(line) for line in lines)
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """The guard's scores, asked for once."""
        key = sha256(json.dumps([self.identity, asdict(exchange), list(ends)], sort_keys=True))
        if key not in self._found:
            self._found[key] = self._guard.score(exchange, ends)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self._found[key]]) + "\n")
        return self._found[key]


class Trusted:
    """A guard that was tried out; its scores are calibrated.

    Args:
        guard: who scores.
        trust: what was seen of it; None for one that reads nothing.
    """

    def __init__(self, guard: Guard, trust: Trust | None) -> None:
        self._guard, self.trust = guard, trust
        self.name, self.identity = guard.name, guard.identity

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """The guard's scores, as probabilities."""
        raw = self._guard.score(exchange, ends)
        return self.trust.calibrated(raw) if self.trust else raw


def write(scored: Scored, path: Path) -> None:
    """Write the rows, and beside them what stands next to a result: PATH and PATH.star.json."""
    write_json(path, *scored.rows)
    write_json(Path(f"{path}.star.json"), scored.to_json())
