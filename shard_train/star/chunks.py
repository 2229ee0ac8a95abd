"""Where a reply is cut, and which score each of its tokens gets; all in characters of the real reply.

The released code joins words with single blanks and takes the length of a rendered prefix, so its chunks end a token
too late, and drift on line breaks; characters do not.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from shard_eval.errors import UsageError

UNITS = ("words", "tokens")
"""The paper speaks of tokens, its code cuts after whitespace-separated words."""


def ends(reply: str, size: int, tokens: Sequence[tuple[int, int]] | None = None) -> list[int]:
    """Where the chunks of a reply end.

    Args:
        reply: the text.
        size: units per chunk (M in the paper).
        tokens: begin and end of each token in `reply`, to count those; default whitespace-separated words.

    Returns:
        Characters from the start, rising; the last is the reply's length. White space belongs to the word behind it, at
        the reply's end to the last one.

    Raises:
        UsageError: if the size is below 1.
    """
    if size < 1:
        raise UsageError(f"chunks of {size}: give a number of at least 1.")
    units = [m.end() for m in re.finditer(r"\S+", reply)] if tokens is None else [end for _, end in tokens]
    last = len(reply.rstrip())
    found = sorted({end for end in units[size - 1 :: size] if 0 < end < last})
    return [*found, len(reply)]


def per_token(scores: Sequence[tuple[int, float]], tokens: Sequence[tuple[int, int]]) -> list[float]:
    """The score of each token: that of the chunk that holds its last character.

    Args:
        scores: end and score of each chunk.
        tokens: begin and end of each token; those behind the reply (what ends the turn) get the last chunk's score.

    Raises:
        UsageError: if there are no scores, or their ends do not rise.
    """
    last = [end for end, _ in scores]
    if not last or any(b <= a for a, b in pairwise(last)):
        raise UsageError(f"the ends of the scored chunks must rise, got {last[:10]}.")
    # A token ends *behind* its last character, as a chunk does.
    return [scores[min(bisect_left(last, end), len(last) - 1)][1] for _, end in tokens]
