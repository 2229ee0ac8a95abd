"""Every error a user can meet.

ShardError
├── UsageError   (ValueError)    wrong input: says what, the value, and what to do     exit code 2
├── DataError    (RuntimeError)  a benchmark cannot be had or is not what it should be exit code 2
├── JudgeError   (RuntimeError)  the judge does not work at all (not: one bad verdict) exit code 1
└── LogError     (RuntimeError)  a log cannot be read or must not be mixed with others exit code 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShardError(Exception):
    """Base of all errors raised on purpose; its text is shown to the user as it is."""

    exit_code = 1


class UsageError(ShardError, ValueError):
    """The caller asked for something that does not exist or makes no sense."""

    exit_code = 2


class DataError(ShardError, RuntimeError):
    """A benchmark is not available, or its content is not the pinned one."""

    exit_code = 2


class JudgeError(ShardError, RuntimeError):
    """The judge fails every time; going on would only cost money."""


class LogError(ShardError, RuntimeError):
    """An evaluation log is unreadable, unfinished or inconsistent with the others."""


def unknown(kind: str, value: str, known: Iterable[str]) -> UsageError:
    """Build the error for an unknown name, with the nearest known one.

    Args:
        kind: what the name stands for, e.g. "benchmark".
        value: what the user typed.
        known: the names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {kind} {value!r}.{hint} Known: {', '.join(names)}.")
