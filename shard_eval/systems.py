"""Who answers: a System is a model, its weights, a solver and a decoding. Its manifest's hash identifies it.

Engine and dtype belong to the identity: the same weights answer differently on llama.cpp and on transformers.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import platformdirs
from inspect_ai.model import CachePolicy, GenerateConfig, Model, ModelInfo, get_model, set_model_info

from shard_eval import solvers, vllm_engine
from shard_eval.errors import UsageError, unknown
from shard_eval.lora import adapter_gguf, require_adapter, require_fit
from shard_eval.packaged import SMOLLM2, file_sha, obtain
from shard_eval.records import identity, sha256

# For the hint at a typing error; Inspect itself decides what exists.
PROVIDERS = [
    "openai",
    "anthropic",
    "google",
    "mistral",
    "deepseek",
    "grok",
    "together",
    "fireworks",
    "groq",
    "openrouter",
    "bedrock",
    "azureai",
    "hf",
    "vllm",
    "vllm_served",
    "sglang",
    "ollama",
    "llama-cpp-python",
    "openai-api",
    "mockllm",
    "none",
    "llamacpp",
]
WEIGHT_FILES = (
    "*.safetensors",
    "*.gguf",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "chat_template.jinja",
)


SEEDS = "by prompt and epoch"
"""What a run's seed is of where text is drawn: every prompt and epoch has one of its own (`solvers`)."""


@dataclass(frozen=True)
class Decoding:
    """How text is drawn; the same for every arm of a comparison."""

    temperature: float = 0.0
    max_tokens: int = 512
    top_p: float | None = None
    seed: int | None = None

    @property
    def manifest(self) -> dict[str, Any]:
        """Its numbers, and what the seed is of where one has an effect (`solvers`)."""
        drawn = self.seed is not None and self.temperature > 0
        return asdict(self) | ({"seeds": SEEDS} if drawn else {})


@dataclass(frozen=True)
class System:
    """Who answers.

    Attributes:
        label: name in tables.
        model: Inspect's model string.
        model_args: arguments of the provider.
        weights: hash of the weights, "" for a remote model, whose weights nobody can see.
        base: hash of an adapter's base weights, "" if there is no adapter.
        settings: further arguments of the engine that can change an answer.
        again: the same asked a second time, and nothing of the first time used: what an engine does not repeat shows.
    """

    label: str
    model: str
    solver: str = "direct"
    engine: str = ""
    dtype: str = ""
    weights: str = ""
    base: str = ""
    decoding: Decoding = Decoding()
    model_args: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    again: bool = False

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Everything that makes this system the one it is; no paths, so that it is the same elsewhere."""
        local = bool(self.weights)
        return {
            "model": self.label if local else self.model,
            "engine": self.engine,
            "dtype": self.dtype,
            "weights_sha256": self.weights,
            "base_sha256": self.base,
            "solver": solvers.split_name(self.solver)[0],  # a folder of guidelines counts by its content, in the hash
            "solver_sha256": solvers.fingerprint(self.solver),
            "decoding": {} if self.solver in solvers.CONSTANTS else self.decoding.manifest,
            **({"settings": self.settings} if self.settings else {}),
            **({"again": True} if self.again else {}),
        }

    @cached_property
    def id(self) -> str:
        """Short hash of the manifest."""
        return identity(self.manifest)

    @property
    def slug(self) -> str:
        """Folder name: the label in safe characters, the solver, and the id."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.label).strip("-.") or "model"
        solver = "" if self.solver in ("direct", *solvers.CONSTANTS) else f"+{solvers.split_name(self.solver)[0]}"
        return f"{plain}{solver}-{self.id}"

    @property
    def name(self) -> str:
        """Name in tables: the label and, if it is not `direct`, the solver."""
        if self.solver in ("direct", *solvers.CONSTANTS):
            return self.label
        return f"{self.label} + {solvers.split_name(self.solver)[0]}"

    def config(self, cache: bool) -> GenerateConfig:
        """Inspect's decoding settings; a cache entry is keyed by the weights, not by a name."""
        d = self.decoding
        greedy_hf = self.engine == "transformers" and d.temperature == 0  # that provider rejects temperature 0
        return GenerateConfig(
            temperature=None if greedy_hf else d.temperature,
            max_tokens=d.max_tokens,
            top_p=d.top_p,
            seed=d.seed,
            cache=CachePolicy(expiry=None, scopes={"weights": self.weights + self.base})
            if cache and self.weights and not self.again
            else None,
        )

    def open(self, cache: bool = True) -> Model:
        """Make Inspect's model.

        Raises:
            UsageError: if Inspect knows no such model or something it needs is missing.
        """
        return open_model(self.model, self.config(cache), self.model_args)

    def shares_engine(self, other: System) -> bool:
        """Whether one server of vLLM answers for both."""
        ours, theirs = ((s.engine, s.model_args.get("base"), s.model_args.get("merge", False)) for s in (self, other))
        return ours == theirs == ("vllm", ours[1], False)

    @contextmanager
    def opened(self, cache: bool = True, keep: bool = False) -> Iterator[Model]:
        """Inspect's model for a while: local weights leave the memory afterwards, before others come.

        Args:
            cache: keep generations of local weights by content.
            keep: leave a vLLM server that was started for it running, for an adapter on it that comes next.

        Raises:
            UsageError: as `open`.
        """
        model = self.open(cache)
        if self.engine == "transformers":
            with model:
                yield model
            return
        try:
            yield model  # the clients of servers end with the event loop that made them
        finally:
            if self.engine == "vllm" and not keep:
                vllm_engine.stop(model.api)


def open_model(name: str, config: GenerateConfig, model_args: dict[str, Any]) -> Model:
    """Make an Inspect model and turn what can go wrong into one clear error.

    Raises:
        UsageError: if Inspect knows no such model, or a package or key it needs is missing.
    """
    served = name.startswith("vllm_served/")
    if "model_path" in model_args or served:
        # Inspect would else ask the hub for "hf/LABEL", to learn its context length: 50 s of retries without one.
        set_model_info(name, ModelInfo())
    try:
        with redirect_stdout(io.StringIO()):  # Inspect announces itself there; stdout is for results
            # A remembered model would ask a server that has ended meanwhile.
            return get_model(name, config=config, memoize=not served, **model_args)
    except UsageError:
        raise
    except Exception as error:
        text = re.sub(r"\[/?[a-z ]+\]", "", str(error)).strip()
        if "not recognized" in text:
            raise unknown("model provider", name.split("/")[0], PROVIDERS) from error
        raise UsageError(f"model {name!r} cannot be opened: {text}") from error


def hash_folder(folder: Path) -> str:
    """Hash of a checkpoint's content: weights, configuration, tokenizer and chat template.

    Large weights are hashed once: the result is remembered by path, size and time of change.
    """
    files = sorted({f for pattern in WEIGHT_FILES for f in folder.glob(pattern)})
    return sha256("\n".join(f"{f.name} {_content(f)}" for f in files))


def _content(path: Path) -> str:
    if path.name == "adapter_config.json":  # names the base by its path, which differs from place to place
        settings = json.loads(path.read_text())
        return sha256(json.dumps({k: v for k, v in settings.items() if k != "base_model_name_or_path"}, sort_keys=True))
    return _remembered_sha(path)


def _remembered_sha(path: Path) -> str:
    stat = path.resolve().stat()
    key = sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    memo = platformdirs.user_cache_path("shard-eval") / "sha256" / key
    if not memo.is_file():
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(file_sha(path))
    return memo.read_text()


def resolve(
    model: str,
    *,
    solver: str = "direct",
    adapter: str | None = None,
    decoding: Decoding | None = None,
    dtype: str = "bfloat16",
    label: str | None = None,
    model_args: dict[str, Any] | None = None,
    merge: bool | None = None,
) -> System:
    """Find out what a user means by MODEL.

    Args:
        model: "embedded"; a constant ("always_refuse", "always_comply", "recorded"); a folder with a checkpoint or
            an adapter in the Hugging Face format; a .gguf file; or any Inspect model string ("openai/gpt-5-mini").
        solver: name of the solver.
        adapter: folder of a PEFT adapter to put on `model`: a checkpoint folder, a .gguf file or "embedded".
        decoding: default greedy, 512 tokens.
        dtype: for checkpoint folders.
        label: name in tables; default the model's own.
        model_args: further arguments for Inspect's provider.
        merge: of an adapter on vLLM: into the base's weights instead of beside them; None if it must be.

    Raises:
        UsageError: if nothing is meant by it; says what is wrong with it.
    """
    decoding, extra = decoding or Decoding(), model_args or {}
    solvers.split_name(solver)
    if model in solvers.CONSTANTS or solver in solvers.CONSTANTS:
        if adapter:
            raise UsageError(f"{model!r} with solver {solver!r} uses no model, so --adapter {adapter} has no meaning.")
        constant = model if model in solvers.CONSTANTS else solver
        return System(label or constant, "none/none", constant, engine="none", weights=solvers.fingerprint(constant))
    if model == "embedded":
        base = System(
            "SmolLM2-135M-Instruct", "llamacpp/embedded", solver, "llamacpp", "Q4_1", SMOLLM2.sha256, "", decoding
        )
        return _llamacpp(base, adapter, label, extra)
    if model.startswith("vllm/"):
        shared = System(label or "", model, solver, dtype=dtype, decoding=decoding)
        return _vllm(shared, model.removeprefix("vllm/"), adapter, extra, merge)
    path = Path(model).expanduser()
    if path.exists() or adapter or model.startswith((".", "/", "~")):
        return _local(path, adapter, solver, decoding, dtype, label, extra)
    if "/" not in model:
        raise unknown("model", model, ["embedded", *solvers.CONSTANTS, *(f"{p}/…" for p in PROVIDERS)])
    provider = model.split("/")[0]
    if provider == "hf":
        args = _transformers_args(dtype, decoding) | extra
        return System(label or model, model, solver, "transformers", dtype, decoding=decoding, model_args=args)
    return System(label or model, model, solver, engine=provider, decoding=decoding, model_args=extra)


def resolve_checkpoint(base: str, folder: Path, *, model_args: dict[str, Any] | None = None, **settings: Any) -> System:
    """A checkpoint of a training run, as it is served beside its base.

    Args:
        base: what was trained, as `resolve` takes it.
        folder: the checkpoint: a PEFT adapter, which goes on the base, or a model of its own.
        model_args: further arguments for Inspect's provider.
        settings: decoding, dtype, label and merge, as for `resolve`.

    Raises:
        UsageError: as `resolve`.
    """
    if (folder / "adapter_config.json").is_file():
        return resolve(base, adapter=str(folder), model_args=model_args, **settings)
    extra = dict(model_args or {})
    settings.pop("merge", None)
    if base.startswith("vllm/"):
        own = {"tokenizer": base.removeprefix("vllm/")} if not (folder / "tokenizer_config.json").is_file() else {}
        return resolve(f"vllm/{folder}", model_args=own | extra, **settings)
    if not (folder / "tokenizer_config.json").is_file() and Path(base).is_dir():
        extra = {"tokenizer_path": base} | extra
    return resolve(str(folder), model_args=extra, **settings)


def _transformers_args(dtype: str, decoding: Decoding) -> dict[str, Any]:
    """Arguments of Inspect's hf provider; it is greedy by an argument and rejects temperature 0."""
    return {"dtype": dtype} | ({"do_sample": False} if decoding.temperature == 0 else {})


def _llamacpp(base: System, adapter: str | None, label: str | None, extra: dict[str, Any]) -> System:
    """The base itself, or an adapter on it; llama.cpp adds the adapter to the same quantised weights."""
    args = {"weights_sha": base.weights[:16]}
    if adapter is None:
        return replace(base, label=label or base.label, model_args=args | extra)
    folder = Path(adapter).expanduser()
    # Converted here, so that one that cannot be served is refused before anything is generated.
    gguf = obtain(SMOLLM2)[0] if base.model == "llamacpp/embedded" else Path(base.model.removeprefix("llamacpp/"))
    args["adapter"] = str(adapter_gguf(folder, gguf))
    return replace(
        base,
        label=label or folder.resolve().name,
        weights=hash_folder(folder),
        base=base.weights,
        model_args=args | extra,
    )


def _vllm(shared: System, name: str, adapter: str | None, extra: dict[str, Any], merge: bool | None) -> System:
    """A base on vLLM, alone or with an adapter.

    Args:
        shared: solver, decoding and dtype, and the label if one was given.
        name: folder, hub name, or what a server that runs knows it by; perhaps with an adapter, as Inspect writes it.
        adapter: its folder.
        extra: arguments of the provider.
        merge: as for `resolve`.
    """
    if adapter is None and ":" in name:
        name, _, adapter = name.partition(":")
    place, limit = vllm_engine.locate(name, extra), shared.decoding.max_tokens
    if place.context is not None and limit >= place.context:
        raise UsageError(
            f"answers of up to {limit} tokens leave no room for a prompt in the {place.context} tokens of context of "
            f"{place.url or name}. Give fewer --max-tokens, or the server a larger --max-model-len."
        )
    sha = hash_folder(place.folder) if place.folder is not None else ""
    label = shared.label or (place.folder.resolve().name if place.folder is not None else name)
    base = replace(
        shared,
        label=label,
        model=f"vllm_served/{label if sha else name}",  # weights that nobody can see are known by the server's name
        engine="vllm",
        dtype=shared.dtype if place.url is None else "as served",  # a server does not tell
        weights=sha,
        model_args={"base": vllm_engine.register(place, sha), "dtype": shared.dtype, "content": sha},
        settings={k: _told(v) for k, v in place.arguments.items() if k not in vllm_engine.RUNTIME},
    )
    return base if adapter is None else _vllm_adapter(base, place, Path(adapter).expanduser(), shared.label, merge)


def _vllm_adapter(base: System, place: vllm_engine.Place, folder: Path, label: str, merge: bool | None) -> System:
    """An adapter on vLLM, beside its base's weights or merged into them."""
    reason = vllm_engine.must_merge(folder)
    if place.folder is not None:
        require_fit(folder, place.folder)
    merge = bool(reason) if merge is None else merge
    if reason and not merge:
        raise UsageError(f"vLLM cannot serve adapter {folder}: {reason}. Have it merged (--serve merged).")
    if merge and place.url is not None:
        raise UsageError(
            f"adapter {folder} must be merged{f' ({reason})' if reason else ''}, and the server at {place.url} has its "
            "weights already. Leave -M base_url away to have a server started."
        )
    own, label = hash_folder(folder), label or folder.resolve().name
    found = {"adapter": str(vllm_engine.view(folder, own)), "merge": merge, "content": f"{base.weights}+{own}"}
    if not merge:
        vllm_engine.announce(base.model_args["base"], folder)
    return replace(
        base,
        label=label,
        model=f"vllm_served/{label}" if base.weights else f"{base.model}+{own[:12]}",
        weights=own if base.weights else "",  # half of a system's weights are not its content
        base=base.weights,
        model_args=base.model_args | found,
        settings=base.settings | ({"adapter": "merged"} if merge else {}),
    )


def _told(value: Any) -> Any:
    """An argument as a manifest has it: a file or folder by its content, not by where it lies here."""
    path = Path(str(value)).expanduser()
    if isinstance(value, str) and path.exists():
        return (hash_folder(path) if path.is_dir() else file_sha(path))[:16]
    return value if isinstance(value, (str, int, float, bool, type(None))) else json.dumps(value, sort_keys=True)


def _local(
    path: Path,
    adapter: str | None,
    solver: str,
    decoding: Decoding,
    dtype: str,
    label: str | None,
    extra: dict[str, Any],
) -> System:
    if path.is_file() and path.suffix == ".gguf":
        kind = path.stem.split(".")[-1]  # by custom the quantisation ends the name
        model, sha = f"llamacpp/{path.resolve()}", _remembered_sha(path)
        return _llamacpp(System(path.stem, model, solver, "llamacpp", kind, sha, "", decoding), adapter, label, extra)
    if not path.is_dir():
        raise UsageError(f"{str(path)!r} is no folder and no .gguf file. Give a checkpoint folder or an Inspect model.")
    base, sha_base = path, ""
    if adapter is None and (path / "adapter_config.json").is_file():
        stated = json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]
        adapter, base = str(path), Path(stated)
        if not base.is_dir():
            raise UsageError(f"adapter {path} was trained on {stated!r}, which is not here: `MODEL --adapter {path}`.")
    if not (base / "config.json").is_file():
        raise UsageError(f"{base} holds no config.json, so it is no checkpoint in the Hugging Face format.")
    if not list(base.glob("*.safetensors")):
        raise UsageError(f"{base} holds no *.safetensors; other weight formats can run code and are not loaded.")
    model_path, sha = base, hash_folder(base)
    if adapter is not None:
        model_path, sha_base = _adapter_view(Path(adapter).expanduser(), base), sha
        require_fit(model_path, base)
        sha = hash_folder(model_path)
    name = label or (Path(adapter) if adapter else base).resolve().name
    args = {"model_path": str(model_path)} | _transformers_args(dtype, decoding)
    if not (model_path / "tokenizer_config.json").is_file():
        args["tokenizer_path"] = str(base)  # an adapter saved by itself carries no tokenizer
    args |= extra
    return System(name, f"hf/{name}", solver, "transformers", dtype, sha, sha_base, decoding, args)


def _adapter_view(adapter: Path, base: Path) -> Path:
    """A folder with the adapter's files whose configuration names this base, wherever it was trained."""
    settings = require_adapter(adapter) | {"base_model_name_or_path": str(base.resolve())}
    config = adapter / "adapter_config.json"
    key = sha256(f"{adapter.resolve()} {base.resolve()}")[:16]
    view = platformdirs.user_cache_path("shard-eval") / "adapters" / key
    view.mkdir(parents=True, exist_ok=True)
    for file in adapter.iterdir():
        target = view / file.name
        target.unlink(missing_ok=True)
        if file.is_file() and file.name != config.name:
            target.symlink_to(file.resolve())
    (view / config.name).write_text(json.dumps(settings, indent=1))
    return view
