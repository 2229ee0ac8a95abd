"""Every prompt of ours is a Markdown file in this folder, with a version and a source in its head.

---
version: 1
source: where the idea comes from
---
Text with {{placeholders}}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from shard_eval.errors import UsageError, unknown
from shard_eval.records import sha256

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_FILE = re.compile(r"---\nversion: (\d+)\nsource: ([^\n]+)\n---\n(.+)", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """A prompt file: its text with placeholders, its version and its source."""

    name: str
    version: int
    source: str
    text: str

    @property
    def sha(self) -> str:
        """Hash of the text; a changed prompt is another judge or another system."""
        return sha256(self.text)[:12]

    def fill(self, **values: str) -> str:
        """Fill all placeholders in one pass, so that a value never fills another placeholder.

        Raises:
            UsageError: if a placeholder has no value or a value has no placeholder.
        """
        wanted = set(_PLACEHOLDER.findall(self.text))
        if wanted != set(values):
            raise UsageError(f"prompt {self.name!r} needs {sorted(wanted)}, got {sorted(values)}")
        return _PLACEHOLDER.sub(lambda match: values[match.group(1)], self.text)


def names() -> list[str]:
    """Names of all prompt files."""
    return sorted(f.name[:-3] for f in resources.files(__name__).iterdir() if f.name.endswith(".md"))


@cache
def load(name: str) -> Prompt:
    """Read a prompt file by its name without the ending.

    Raises:
        UsageError: if there is no such prompt or its head is not well-formed.
    """
    if name not in names():
        raise unknown("prompt", name, names())
    text = (resources.files(__name__) / f"{name}.md").read_text(encoding="utf-8")
    match = _FILE.fullmatch(text)
    if match is None:
        raise UsageError(f"prompt {name!r}: the file must begin with version and source between '---' lines")
    version, source, body = match.groups()
    return Prompt(name, int(version), source, body.strip())
