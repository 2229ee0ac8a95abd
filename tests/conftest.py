"""Shared fixtures: scripted models, a results folder, and caches that never touch the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import CALLS, DATA, HAS_DATA, SCRIPTS, Reply
from tiny import make_model


@pytest.fixture
def script() -> Iterator[Callable[[str, Reply], str]]:
    """Register a scripted model; gives its Inspect name."""

    def register(name: str, reply: Reply) -> str:
        SCRIPTS[name], CALLS[name] = reply, 0
        return f"scripted/{name}"

    yield register
    SCRIPTS.clear()
    CALLS.clear()


@pytest.fixture
def calls() -> dict[str, int]:
    """How often each scripted model was asked."""
    return CALLS


@pytest.fixture(scope="session", autouse=True)
def _own_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Passports go to a temporary place; the weights' cache is shared, so that nothing is fetched twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("INSPECT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        if HAS_DATA:
            patch.setenv("SHARD_DATA_DIR", str(DATA))
        yield


@pytest.fixture
def results(tmp_path: Path) -> str:
    """A results folder."""
    return str(tmp_path / "results")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny model; hashes are remembered there, not in the user's cache."""
    folder = tmp_path_factory.mktemp("sft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        make_model(folder / "base")
        yield folder
