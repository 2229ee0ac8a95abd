"""LoRA adapters for llama.cpp: a PEFT folder as a GGUF file, made once per content and kept in the user cache.

    adapter_gguf(Path("run/sft"), Path("model.gguf"))    # -> ~/.cache/shard-eval/lora/HASH.gguf

Names and layout are those of llama.cpp's convert_lora_to_gguf.py. Nothing of torch is needed, only the package `gguf`.
"""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from shard_eval.errors import DataError, UsageError
from shard_eval.packaged import file_sha
from shard_eval.records import sha256

# Whether converting the base to GGUF reordered the rows of its q and k projections for the rotary embedding.
REORDERED = {"llama": True, "qwen2": False}
# Settings of PEFT that change nothing in what a finished adapter computes; every other one must be off.
HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
# The others (PiSSA, CorDA, OLoRA, LoftQ, ...) train against changed base weights.
INITS = (True, False, "gaussian", "eva", "orthogonal")
FILES = ("adapter_config.json", "adapter_model.safetensors")
_FORMAT = 1  # part of the file's name: another layout must not find the old files
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Base:
    """What an adapter must know of its base.

    Attributes:
        architecture: llama.cpp's name.
        blocks: number of layers.
        heads: number of heads of q and k, by the tensor's name without layer.
        shapes: of all tensors, rows first.
    """

    architecture: str
    blocks: int
    heads: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


def require_adapter(folder: Path) -> dict[str, Any]:
    """The settings of a PEFT adapter.

    Raises:
        UsageError: if the folder holds no adapter.
    """
    if not all((folder / name).is_file() for name in FILES):
        raise UsageError(f"{folder} is no adapter: it needs {FILES[0]} and {FILES[1]}.")
    settings: dict[str, Any] = json.loads((folder / FILES[0]).read_text())
    return settings


def adapter_gguf(adapter: Path, base: Path) -> Path:
    """Convert a PEFT LoRA folder for llama.cpp, unless it was done before.

    Args:
        adapter: folder with adapter_config.json and adapter_model.safetensors.
        base: GGUF file of the model it was trained on.

    Returns:
        The GGUF file, named by the content of the adapter and the shape of the base.

    Raises:
        UsageError: if there is no adapter, if it is more than plain LoRA, if it does not fit the base, or if a package
            is missing.
        DataError: if the base is no GGUF file, or a file is damaged.
    """
    settings = require_adapter(adapter)
    _require_plain(adapter, settings)
    found = read_base(base)
    if found.architecture not in REORDERED:
        raise UsageError(
            f"adapters on the architecture {found.architecture!r} ({base.name}) cannot be served by llama.cpp here; "
            f"known: {', '.join(REORDERED)}. Score it on a checkpoint folder instead."
        )
    facts = [_FORMAT, found.architecture, found.heads, found.shapes, settings["lora_alpha"], settings["r"]]
    facts += [bool(settings.get("use_rslora")), file_sha(adapter / FILES[1])]
    target = platformdirs.user_cache_path("shard-eval") / "lora" / f"{sha256(json.dumps(facts, sort_keys=True))}.gguf"
    if not target.is_file():
        _write(target, _tensors(adapter, found), _alpha(settings), found.architecture)
    return target


def _alpha(settings: dict[str, Any]) -> float:
    """Alpha as llama.cpp reads it: it divides by the rank; rank-stabilised LoRA divides by its root."""
    alpha = float(settings["lora_alpha"])
    return alpha * math.sqrt(settings["r"]) if settings.get("use_rslora") else alpha


def beyond_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a PEFT adapter that make it more than plain LoRA, W + (alpha / r) B A.

    Args:
        settings: as `require_adapter` gives them.
    """
    found = {k: v for k, v in settings.items() if k not in HARMLESS and v}
    for name, accepted in (("peft_type", ("LORA",)), ("bias", ("none",)), ("init_lora_weights", INITS)):
        if found.get(name) in accepted:
            del found[name]
    return found


def require_fit(adapter: Path, base: Path) -> None:
    """Refuse an adapter whose matrices do not fit a checkpoint's; engines may take it and leave it out silently.

    Args:
        adapter: PEFT folder.
        base: checkpoint folder in the Hugging Face format.

    Raises:
        UsageError: naming the first matrix that does not fit.
        DataError: if a file is damaged.
    """
    shapes = {name: shape for file in sorted(base.glob("*.safetensors")) for name, shape in shapes_of(file).items()}
    ours = shapes_of(adapter / FILES[1])
    for name, (rows, columns) in ((name, shape) for name, shape in ours.items() if len(shape) == 2):
        module, lora, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        theirs = shapes.get(f"{module}.weight")
        if not lora or theirs is None or len(theirs) != 2:
            continue  # another way of storing the base: the engine has to know it
        if {"A.weight": columns == theirs[1], "B.weight": rows == theirs[0]}.get(kind, True):
            continue
        raise UsageError(
            f"adapter {adapter} does not fit the base {base}: {module} is {theirs[0]} x {theirs[1]} there, and {name} "
            f"is {rows} x {columns}. Was it trained on another model?"
        )


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, which is not read beyond its head.

    Raises:
        DataError: if it is damaged.
    """
    try:
        with safe_open(file, "np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{file} is damaged: {error}.") from error


def _require_plain(adapter: Path, settings: dict[str, Any]) -> None:
    """Refuse what llama.cpp cannot compute, by name."""
    refused = beyond_plain(settings)
    if not settings["lora_alpha"]:  # 0 means "no scaling" to llama.cpp
        refused["lora_alpha"] = settings["lora_alpha"]
    if refused:
        named = ", ".join(f"{k} = {v!r}" for k, v in sorted(refused.items()))
        raise UsageError(
            f"adapter {adapter} cannot be served by llama.cpp, which knows plain LoRA only: {named}. "
            "Train without, or score it on its checkpoint folder: `CHECKPOINT --adapter FOLDER`."
        )


def _tensors(adapter: Path, base: Base) -> dict[str, Array]:
    """The adapter's matrices under llama.cpp's names, checked against the base."""
    gguf = _gguf_package()
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[base.architecture], base.blocks)
    found = {}
    for name, matrix in _read(adapter / FILES[1]).items():
        module, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        target = names.get_name(module) if kind in ("A.weight", "B.weight") else None
        if target is None or f"{target}.weight" not in base.shapes:
            raise UsageError(f"adapter {adapter} changes {name!r}, which llama.cpp cannot adapt in this base.")
        found[f"{target}.weight.lora_{kind[0].lower()}"] = _reorder(matrix, target, kind, base)
    _require_fit(adapter, found, base)
    return found


def _require_fit(adapter: Path, found: dict[str, Array], base: Base) -> None:
    if not found:
        raise UsageError(f"adapter {adapter} holds no LoRA matrices.")
    for name in dict.fromkeys(name.rsplit(".", 1)[0] for name in found):
        a, b = found.get(f"{name}.lora_a"), found.get(f"{name}.lora_b")
        if a is None or b is None or (b.shape[0], a.shape[1]) != base.shapes[name] or a.shape[0] != b.shape[1]:
            raise UsageError(
                f"adapter {adapter} does not fit the base: {name} is {base.shapes[name]} there. "
                "Was it trained on another model?"
            )


def _read(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file as float32 (the format: length of the header, header in JSON, data)."""
    content = path.read_bytes()
    try:
        end = 8 + struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:end])
        header.pop("__metadata__", None)
        data = memoryview(content)[end:]
        return {name: _widen(path, entry, data[slice(*entry["data_offsets"])]) for name, entry in header.items()}
    except UsageError:
        raise
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error!r}.") from error


def _widen(path: Path, entry: dict[str, Any], data: memoryview) -> Array:
    """A stored tensor as float32; numpy knows no bfloat16, whose bits are the upper half of a float32."""
    if entry["dtype"] == "BF16":
        bits = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(entry["shape"])
    if entry["dtype"] not in ("F32", "F16"):
        raise UsageError(f"{path} has tensors of type {entry['dtype']}; adapters are read as F32, F16 or BF16.")
    kind = "<f4" if entry["dtype"] == "F32" else "<f2"
    return np.frombuffer(data, dtype=kind).astype(np.float32).reshape(entry["shape"])


def _reorder(matrix: Array, target: str, kind: str, base: Base) -> Array:
    """Rows of q and k in the order the base's own have: halves of a head interleaved (llama.cpp's `permute`)."""
    heads = base.heads.get(target.rsplit(".", 1)[-1])
    if not REORDERED[base.architecture] or kind != "B.weight" or heads is None:
        return matrix
    rows, rank = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)


def _write(target: Path, tensors: dict[str, Array], alpha: float, architecture: str) -> None:
    gguf = _gguf_package()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / target.name
        writer = gguf.GGUFWriter(part, architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name in sorted(tensors):
            writer.add_tensor(name, np.ascontiguousarray(tensors[name]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, target)  # atomic: a killed conversion never leaves half a file under this name


def _gguf_package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise UsageError("an adapter for llama.cpp needs the package gguf: pip install 'shard-eval[train]'.") from error
    return gguf


def read_base(path: Path) -> Base:
    """Read the head of a GGUF file. gguf's own reader makes an object of every token: 8 s for 150,000 of them.

    Raises:
        DataError: if it is no GGUF file.
    """
    try:
        with path.open("rb") as file:
            magic, _, tensors, settings = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF":
                raise DataError(f"{path} is no GGUF file.")
            values = dict(_setting(file) for _ in range(settings))
            shapes = dict(_tensor_shape(file) for _ in range(tensors))
        architecture = values["general.architecture"]
        q = values[f"{architecture}.attention.head_count"]
        heads = {"attn_q": q, "attn_k": values.get(f"{architecture}.attention.head_count_kv", q)}
        return Base(architecture, values[f"{architecture}.block_count"], heads, shapes)
    except (struct.error, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is a damaged GGUF file: {error!r}.") from error


def _setting(file: BinaryIO) -> tuple[str, Any]:
    name = _text(file)
    return name, _value(file, *struct.unpack("<I", file.read(4)))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return struct.unpack("<" + _SCALARS[kind], file.read(struct.calcsize(_SCALARS[kind])))[0]
    inner, count = struct.unpack("<IQ", file.read(12))
    if inner in _SCALARS:
        return np.frombuffer(file.read(count * struct.calcsize(_SCALARS[inner])), dtype="<" + _SCALARS[inner]).tolist()
    return [_value(file, inner) for _ in range(count)]


def _text(file: BinaryIO) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    return file.read(size).decode()


def _tensor_shape(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    name = _text(file)
    (dimensions,) = struct.unpack("<I", file.read(4))
    sizes = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
    file.read(12)  # type and offset
    return name, sizes[::-1]
