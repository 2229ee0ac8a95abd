"""The guidelines a request is rewritten by: universal principles, and those of the request's category.

The five types of LinguaSafe have theirs in `prompts/`; for another taxonomy a folder holds one Markdown file per
category, named by `slug`, e.g. written by `shard train guidelines`.
"""

from __future__ import annotations

import re
from pathlib import Path

from shard_eval import prompts
from shard_eval.errors import UsageError
from shard_eval.records import sha256

TYPES = (
    "Crimes & Illegal Activities",
    "Explicit Content",
    "Fairness & Justice",
    "Harm & Misuse",
    "Privacy & Property",
)


def slug(category: str) -> str:
    """A category's file name without ending: "Harm & Misuse" gives harm_misuse."""
    return re.sub(r"\W+", "_", category.casefold()).strip("_")


def category_text(category: str, folder: str = "") -> str:
    """The guidelines of a category; "" if there are none for it.

    Args:
        category: a record's type.
        folder: of another taxonomy's files; "" for LinguaSafe's five types.
    """
    if folder:
        file = Path(folder) / f"{slug(category)}.md"
        return file.read_text(encoding="utf-8").strip() if category and file.is_file() else ""
    return prompts.load(f"guidelines_{slug(category)}").text if category in TYPES else ""


def universal() -> str:
    """The universal principles as the rewriting rules show them."""
    return f"\nPrinciples:\n{prompts.load('guidelines_universal').text}\n"


def of_category(category: str, folder: str = "") -> str:
    """The guidelines of a category as they stand before the request; "" if there are none.

    They come with the request, not with the rules, so that the rules stay the same for every call and in a server's
    prefix cache.
    """
    text = category_text(category, folder)
    return f"Guidelines for requests about {category}:\n{text}\n\n" if text else ""


def fingerprint(folder: str) -> str:
    """Hash of a folder's files; "" for none.

    Raises:
        UsageError: if it is no folder, or holds no Markdown file.
    """
    if not folder:
        return ""
    files = sorted(Path(folder).glob("*.md"))
    if not files:
        raise UsageError(f"{folder!r} holds no guidelines (*.md). `shard train guidelines` writes such a folder.")
    return sha256("\n".join(f"{f.name} {sha256(f.read_bytes())}" for f in files))[:12]
