"""Find the checkpoints that a trainer has left: complete ones only, each once, by content."""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shard_eval.errors import UsageError
from shard_eval.systems import hash_folder

MARKER = "COMPLETE.json"
STEP = re.compile(r"checkpoint-(\d+)")
SETTLE = 30.0
LONGEST_HEADER = 100_000_000  # of a .safetensors file, by its format
PICKLED = re.compile(r"(pytorch_model|adapter_model|model|consolidated)\S*\.(bin|pt|pth)$")


@dataclass(frozen=True)
class Found:
    """A complete checkpoint: where it is, its step if its name tells, and the hash of its content."""

    path: Path
    step: int | None
    sha256: str


def find(folder: Path, settle: float = SETTLE) -> list[Found]:
    """Complete checkpoints in a folder and below, made by any trainer, in the order of training.

    Model folders in the Hugging Face format and PEFT adapters; the folder itself may be one. `checkpoint-<step>` gives
    the step; others come after those, by the time of their last change. A copy of another one is left out.

    Args:
        folder: where to look.
        settle: seconds for which nothing must have changed in a checkpoint without our marker.

    Raises:
        UsageError: if there is no such folder.
    """
    whole = [path for path, why in _examine(folder, settle) if not why]
    steps = {path: int(m[1]) if (m := STEP.fullmatch(path.name)) else None for path in whole}
    found: dict[str, Found] = {}
    for path in sorted(whole, key=lambda p: (steps[p] is None, steps[p] or 0, _changed(p), str(p))):
        found.setdefault(sha := hash_folder(path), Found(path, steps[path], sha))
    return list(found.values())


def left_out(folder: Path, settle: float = SETTLE) -> list[str]:
    """One line for each folder that looks like a checkpoint and that `find` leaves out, with the reason.

    Raises:
        UsageError: if there is no such folder.
    """
    return [f"{path}: {why}" for path, why in _examine(folder, settle) if why]


def _examine(folder: Path, settle: float) -> Iterator[tuple[Path, str]]:
    """Every folder that looks like a checkpoint, and why it is none; "" if it is one."""
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is no folder. Give the folder that a training run writes checkpoints to.")
    candidates = []
    for name, below, files in os.walk(folder):
        below[:] = [inner for inner in below if not inner.startswith(".")]
        if {"config.json", "adapter_config.json"} & set(files):
            candidates.append(Path(name))
    marked = {_run(path) for path in candidates if (path / MARKER).is_file()}
    for path in sorted(candidates):
        yield path, _incomplete(path, _run(path) in marked, settle)


def _run(path: Path) -> Path:
    """The folder of the training run that a checkpoint belongs to."""
    return path.parent if STEP.fullmatch(path.name) else path


def _incomplete(path: Path, marked: bool, settle: float) -> str:
    """Why a folder is no complete checkpoint; "" if it is one."""
    files = [file for file in path.iterdir() if file.is_file()]
    weights = [file for file in files if file.suffix == ".safetensors"]
    pickled = [file.name for file in files if PICKLED.match(file.name)]
    adapter = (path / "adapter_config.json").is_file()
    if adapter:
        weights = [file for file in weights if file.name == "adapter_model.safetensors"]
    if not weights and pickled:
        return f"only pickled weights ({pickled[0]}), which can run code and are not loaded; save as safetensors"
    if not weights:
        return "no weights (*.safetensors)"
    if marked and not (path / MARKER).is_file():
        return f"no {MARKER}, which other checkpoints of this run have"
    try:
        settings = json.loads((path / ("adapter_config.json" if adapter else "config.json")).read_text())
        shards = {s for f in path.glob("*.safetensors.index.json") for s in _shards(f)}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        return f"its configuration or index is not readable JSON ({type(error).__name__})"
    if not isinstance(settings, dict):
        return "its configuration is no JSON object"
    missing = sorted(shards - {file.name for file in weights})
    broken = sorted(file.name for file in weights if not whole_safetensors(file))
    if missing or broken:
        return f"{(missing or broken)[0]} is {'missing' if missing else 'cut or not yet written'}"
    if not marked and time.time() - _changed(path) < settle:
        return f"still changing (nothing must have changed for {settle:g} seconds)"
    return ""


def _shards(index: Path) -> set[str]:
    return set(json.loads(index.read_text())["weight_map"].values())


def _changed(path: Path) -> float:
    """When something in a folder last changed."""
    return max(item.stat().st_mtime for item in (path, *path.iterdir()) if item.exists())


def whole_safetensors(path: Path) -> bool:
    """Whether a .safetensors file is as long as its header says.

    Source: https://github.com/huggingface/safetensors (format).
    """
    with path.open("rb") as file:
        start, size = file.read(8), path.stat().st_size
        if len(start) < 8 or not 2 <= (length := struct.unpack("<Q", start)[0]) <= min(LONGEST_HEADER, size - 8):
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, AttributeError, KeyError, IndexError, TypeError):
            return False
    return bool(8 + length + max(ends, default=0) == size)
