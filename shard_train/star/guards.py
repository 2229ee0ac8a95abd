"""Who says how safe a reply is so far: the protocol, and the guards that are no model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from shard_eval.errors import UsageError

Message = dict[str, str]


@dataclass(frozen=True)
class Exchange:
    """A conversation and the reply to it.

    Attributes:
        conversation: messages up to the last of the user; a system message is not shown to guards.
        reply: what is scored.
        unsafe: begin and end of the parts that somebody marked as unsafe; only `Oracle` reads them.
    """

    conversation: tuple[Message, ...]
    reply: str
    unsafe: tuple[tuple[int, int], ...] = ()


class Guard(Protocol):
    """Gives the probability that a reply, up to each of some places, is safe."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    @property
    def identity(self) -> str:
        """What its scores depend on, for the cache: weights, template, settings."""
        ...

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """One number in [0, 1] per end: is `reply[:end]` safe?"""
        ...


@dataclass(frozen=True)
class Constant:
    """The same score for everything: 1 is plain fine-tuning, 0 learns nothing."""

    value: float

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"constant:{self.value:g}"

    identity = name

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """The value, for each end."""
        return [self.value for _ in ends]


@dataclass(frozen=True)
class Lexical:
    """Unsafe from the first of some terms on; for tests and as a floor, for it reads no meaning."""

    terms: tuple[str, ...]
    name = "lexical"

    @property
    def identity(self) -> str:
        """Its terms."""
        return "lexical " + repr(self.terms)

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """0 where a term is in the text, else 1."""
        shown = [exchange.reply[:end].casefold() for end in ends]
        return [float(not any(term.casefold() in text for term in self.terms)) for text in shown]


@dataclass(frozen=True)
class Oracle:
    """Knows the unsafe parts, and overlooks a share of the unsafe chunks: an upper bound, and a sweep of miss rates.

    Unlike a guard that reads a prefix, it says of each chunk whether *that* is unsafe.
    """

    miss: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"oracle, {self.miss:.0%} missed" if self.miss else "oracle"

    @property
    def identity(self) -> str:
        """Its settings."""
        return f"oracle {self.miss} {self.seed}"

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """0 where a chunk has a part of an unsafe one, else 1."""
        rng = random.Random(f"{self.seed} {exchange.reply}")
        found = []
        for begin, end in zip([0, *ends], ends, strict=False):
            bad = any(a < end and begin < b for a, b in exchange.unsafe)
            found.append(0.0 if bad and rng.random() >= self.miss else 1.0)
        return found


@dataclass(frozen=True)
class Mean:
    """The mean of several guards' scores."""

    guards: tuple[Guard, ...]

    def __post_init__(self) -> None:
        if len(self.guards) < 2:
            raise UsageError("a mean of guards takes at least two.")

    @property
    def name(self) -> str:
        """Its members' names."""
        return " + ".join(g.name for g in self.guards)

    @property
    def identity(self) -> str:
        """Its members'."""
        return "mean " + " | ".join(g.identity for g in self.guards)

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """The mean, for each end."""
        return [fmean(one) for one in zip(*(g.score(exchange, ends) for g in self.guards), strict=True)]
