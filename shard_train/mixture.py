"""Mix harmful rows into a task's data: the scenario STAR-DSS is for, fine-tuning on what a user uploads.

Published mixtures (arXiv:2505.17196, released code): GSM8K 0.9 + PureBad 0.1; the harmful rows are the user's own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from shard_eval.errors import UsageError

Row = dict[str, Any]


def mix(
    task: Sequence[Row], harmful: Sequence[Row], share: float, size: int | None = None, seed: int = 42
) -> list[Row]:
    """A mixture in random order.

    Args:
        task: rows with prompt and completion (`star.rows.read`).
        harmful: the same; a row that marks no unsafe part is unsafe as a whole, which only the oracle guard reads.
        share: of the mixture that is harmful, above 0 and below 1.
        size: rows of the mixture; default as many as all task rows allow.
        seed: of the sample and the order.

    Returns:
        Rows of prompt, response and unsafe; ids say where each came from.

    Raises:
        UsageError: if the share is no share, or there are too few rows of a kind; repeated ones would weigh more.
    """
    if not 0 < share < 1:
        raise UsageError(f"--share {share}: give a number between 0 and 1.")
    total = size if size is not None else round(len(task) / (1 - share))
    bad = round(total * share)
    for kind, rows, wanted in (("harmful", harmful, bad), ("task", task, total - bad)):
        if not 1 <= wanted <= len(rows):
            raise UsageError(
                f"a mixture of {total} rows with a share of {share} takes {wanted} {kind} rows, there are {len(rows)}. "
                "Change --size or --share."
            )
    rng = random.Random(seed)
    found = [_plain("task", row, []) for row in rng.sample(list(task), total - bad)]
    for row in rng.sample(list(harmful), bad):
        found.append(_plain("harmful", row, row.get("unsafe") or [[0, len(row["completion"][0]["content"])]]))
    rng.shuffle(found)
    return found


def _plain(kind: str, row: Row, unsafe: list[list[int]]) -> Row:
    if len(row["prompt"]) != 1:
        raise UsageError(f"{kind} row {row['id']!r} has several turns; a mixture takes single requests.")
    asked = row["prompt"][0]["content"]
    answer = row["completion"][0]["content"]
    return {"id": f"{kind}-{row['id']}", "prompt": asked, "response": answer, "unsafe": unsafe}
