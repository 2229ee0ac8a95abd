"""What a method is: who makes the training targets with which chain, and what of them is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from shard_eval.errors import UsageError
from shard_eval.systems import Decoding, System
from shard_train.recipe import Generation


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        name: in commands and tables.
        title: one line for `--help` and model cards.
        generator: from (the model to train, the teacher if one was given) to the model that writes the targets.
        config: its published settings, a file of `shard_train/configs`.
        given: the targets are the answers that come with the prompts, and nobody writes any.
        chain: the solver that writes the targets, and rides along as a control where the user names none.
        shape: what of an answer is learned, where the method is that (`recipe.SHAPES`).
        label: in tables, where it is not the name.
        reasoning: the model learns to reason before it answers, in the two stages of `shard_train.saro`.
    """

    name: str
    title: str
    generator: Callable[[System, System | None], System]
    config: str = "shard.toml"
    given: bool = False
    chain: str = "shard_reframe"
    shape: str = ""
    label: str = ""
    reasoning: bool = False

    def system(self, student: System, teacher: System | None, chain: str, generation: Generation) -> System:
        """The System that writes the targets: its chain is the solver, its decoding the recipe's.

        Raises:
            UsageError: if the method lacks a teacher, or has no use for one.
        """
        decoding = Decoding(generation.temperature, generation.max_tokens, generation.top_p, generation.seed)
        return replace(self.generator(student, teacher), solver=chain, decoding=decoding)


def nobody_else(student: System, teacher: System | None) -> System:
    """The model itself."""
    if teacher is not None:
        raise UsageError("this method learns from the model itself and takes no --teacher; `shard train teacher` does.")
    return student


def somebody_else(student: System, teacher: System | None) -> System:
    """Another model."""
    if teacher is None:
        raise UsageError("this method needs a --teacher: the larger model that writes the targets.")
    return teacher


def nobody(student: System, teacher: System | None) -> System:
    """Nobody: the answers are given, and the student stands for them."""
    if teacher is not None:
        raise UsageError("this method learns the answers that come with the data and takes no --teacher.")
    return student


def anybody(student: System, teacher: System | None) -> System:
    """The model itself, or another one."""
    return teacher or student
