"""Inspect provider `llamacpp`: llama.cpp's own server, in this process, behind Inspect's OpenAI-compatible API.

    inspect eval tasks/mini.py --model llamacpp/embedded
    inspect eval tasks/mini.py --model llamacpp//abs/path/model.gguf -M slots=8 -M context=4096

The server listens on loopback only, starts in half a second, and ends with the process.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspect_ai.model import GenerateConfig, ModelAPI, modelapi
from inspect_ai.model._providers.openai_compatible import OpenAICompatibleAPI
from openai import AsyncOpenAI

from shard_eval import embedded
from shard_eval.errors import DataError, UsageError

SLOTS = 16  # requests decoded together; more is slower on two cores (measured, docs/LOG.md)
CONTEXT = 2048  # tokens per request, prompt and answer together; memory grows with slots x context
_servers: dict[tuple[Path, int, int, int], tuple[Any, str, str]] = {}


def gguf_path(name: str) -> Path:
    """The weights a model name stands for: "embedded", or the path of a GGUF file.

    Raises:
        UsageError: if there is no such file.
    """
    if name == "embedded":
        return embedded.weights()
    path = Path(name).expanduser()
    if not path.is_file() or path.suffix != ".gguf":
        raise UsageError(f"{name!r} is neither 'embedded' nor a .gguf file that exists.")
    return path.resolve()


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what llama.cpp writes straight to the process' output nowhere while it starts."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        for target, copy in enumerate(kept, start=1):
            os.dup2(copy, target)
            os.close(copy)


def serve(path: Path, slots: int = SLOTS, context: int = CONTEXT, threads: int = 0) -> tuple[str, str]:
    """Start a server for a GGUF file, once per process.

    Args:
        path: the weights.
        slots: number of requests decoded together.
        context: tokens per request.
        threads: of the processor; 0 for all. Beside other work take fewer: they wait for each other at every step.

    Returns:
        The base URL (with /v1) and the key that this process alone knows.

    Raises:
        DataError: if llama.cpp cannot load the file.
    """
    key = (path, slots, context, threads)
    if key not in _servers:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.n_parallel = slots
        params.n_ctx = slots * context
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or os.cpu_count() or 1
        params.use_jinja = True
        params.verbosity = -1
        params.warmup = params.fit_params = False  # both only cost start-up time here
        params.cache_ram_mib = 0  # every request is another prompt: nothing to reuse
        token = secrets.token_urlsafe(24)
        params.api_keys = [token]
        try:
            with _quiet():
                server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise DataError(f"llama.cpp cannot load {path}: {error}. Is the file complete?") from error
        _servers[key] = (server, f"{server.listening_address}/v1", token)
    return _servers[key][1], _servers[key][2]


@atexit.register
def _stop() -> None:
    """Stop the servers before the interpreter goes, quietly."""
    if _servers:
        with _quiet():
            _servers.clear()


class LlamaCppAPI(OpenAICompatibleAPI):
    """llama.cpp's server for one GGUF file."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's signature)
        slots: int = SLOTS,
        context: int = CONTEXT,
        threads: int = 0,
        weights_sha: str = "",
        **model_args: Any,
    ) -> None:
        self.slots = int(slots)
        self.url, token = serve(gguf_path(model_name), self.slots, int(context), int(threads))
        super().__init__(
            model_name=model_name,
            # Part of the cache key, so it must not hold the port, which differs in every process.
            base_url=f"llamacpp:{weights_sha}",
            api_key=token,
            config=config,
            service="llamacpp",
            **model_args,
        )

    def _create_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=self.api_key, base_url=self.url, http_client=self.http_client)

    @property
    def schema_exclude_fields(self) -> set[str] | None:
        """Nothing: llama.cpp enforces a string's length too, and small models need it to come to an end."""
        return None

    def max_connections(self) -> int:
        """Two requests per slot keep the server's queue filled."""
        return 2 * self.slots


@modelapi(name="llamacpp")
def llamacpp() -> type[ModelAPI]:
    """Provider entry for Inspect's registry."""
    return LlamaCppAPI
