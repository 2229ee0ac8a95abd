"""A guard by what it is called on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from shard_eval.errors import UsageError
from shard_train.star.guards import Constant, Guard, Lexical, Mean, Oracle
from shard_train.star.reading import STYLES, ModelGuard

HELP = (
    "llama_guard:MODEL, granite_guardian:MODEL, yes_no:MODEL, embedded, judge_without:FOLDER:SOURCE, lexical:FILE, "
    "oracle[:MISSED], constant:V"
)
"""What guards are called; `embedded` and `judge_without` are of `others`."""


def guard(
    names: Sequence[str],
    sharpness: float = 1.0,
    device: str = "cpu",
    local: Callable[[str], str] = lambda model: model,
    others: Callable[[str], Guard | None] = lambda name: None,
) -> Guard:
    """The guard of a name, or the mean of several.

    Args:
        names: see `HELP`.
        sharpness: of guards that are language models.
        device: where those run.
        local: from a model's name to its checkpoint folder.
        others: finds guards that this package does not know by their name; None for one of its own.

    Raises:
        UsageError: if there is no name, or one that nobody knows.
    """
    if not names:
        raise UsageError(f"a guard is needed to score the answers: --guard {HELP}.")
    found = [others(name) or _one(name, sharpness, device, local) for name in names]
    return found[0] if len(found) == 1 else Mean(tuple(found))


def _one(name: str, sharpness: float, device: str, local: Callable[[str], str]) -> Guard:
    kind, _, of = name.partition(":")
    if kind in STYLES and of:
        return ModelGuard(kind, local(of), sharpness, device, Path(of).name)
    if kind == "lexical" and of:
        return Lexical(_terms(Path(of)))
    if kind == "oracle":
        return Oracle(_share(name, of or "0"))
    if kind == "constant" and of:
        return Constant(_share(name, of))
    raise UsageError(f"--guard {name!r} is unknown. Give one of {HELP}.")


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--guard {name!r}: {text!r} must be a number from 0 to 1.")
    return value


def _terms(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"--guard lexical: {str(path)!r} cannot be read: {error.strerror}.") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise UsageError(f"--guard lexical: {path} holds no term. Write one a line.")
    return found
