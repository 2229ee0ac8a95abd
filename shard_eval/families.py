"""Which models are relatives: a judge is not to grade a model of its own family unnoticed.

Judges prefer what their own kind writes (arXiv:2404.13076, arXiv:2410.21819), so `shard score` and `shard compare`
refuse such a judge unless `--allow-own-family` is said, and tables then name it in a footnote. A family is one vendor's
lineage, told by the stems in a model's name. A model can have two (DeepSeek-R1-Distill-Llama), an unknown one has none
and is a relative of itself alone. To add a family, add a line to `STEMS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shard_eval.errors import DataError, UsageError
from shard_eval.lora import read_base
from shard_eval.systems import PROVIDERS, System

# Built on Qwen or on Ministral: both, unless the rest of the name says which.
_POLYGUARD = r"polyguard(?!-?(?:qwen|ministral))"

STEMS: dict[str, tuple[str, ...]] = {
    # gpt-oss learnt from OpenAI's other models, Gemma from Gemini: one lineage each. GPT-Neo and GPT-J are others'.
    "OpenAI GPT": (r"gpt-?\d+(?:\.\d+)?o?", r"gpt-oss", r"chatgpt", r"davinci", r"(?<=/)(?:ft:)?o\d"),
    "Anthropic Claude": (r"claude",),
    "Google Gemini": (r"gemini", r"(?:code|med|shield|pali|t5|embedding)?gemma", r"learnlm"),
    "Meta Llama": (r"(?:code|meta-?|purple)?llama(?:-?guard)?", r"vicuna", r"alpaca"),
    "Alibaba Qwen": (r"(?:code)?qwen", r"qwq", r"qvq", _POLYGUARD),
    "Mistral": (
        r"(?:open)?mi[sx]tral",
        r"(?:mini|mag|math|dev|code)i?stral",
        r"pixtral",
        r"zephyr",
        r"wildguard",
        _POLYGUARD,
    ),
    "DeepSeek": (r"deepseek",),
    "Microsoft Phi": (r"phi",),
    "Hugging Face SmolLM": (r"smollm", r"smolvlm"),
    "Zhipu GLM": (r"(?:chat)?glm",),
    "Cohere Command": (r"command(?=-(?:r|a|light|nightly|xl)\b|$)", r"c4ai", r"aya"),
    "01.AI Yi": (r"yi(?=-)",),
    "AI2 OLMo": (r"olmoe?",),
    "IBM Granite": (r"granite",),
    "xAI Grok": (r"grok",),
    "Amazon Nova": (r"nova(?=-(?:micro|lite|pro|premier)\b)",),
    "NVIDIA Nemotron": (r"nemotron", r"minitron"),
    "TII Falcon": (r"falcon",),
    "Shanghai InternLM": (r"internlm",),
    "Moonshot Kimi": (r"kimi", r"moonlight"),
    "MiniMax": (r"minimax",),
    "Tencent Hunyuan": (r"hunyuan",),
    "LG EXAONE": (r"exaone",),
}
"""Stems of model names per family; a stem stands alone or before a digit, never inside a word."""

VENDORS = {
    "openai": "OpenAI GPT",
    "anthropic": "Anthropic Claude",
    "google": "Google Gemini",
    "mistral": "Mistral",
    "deepseek": "DeepSeek",
    "grok": "xAI Grok",
}
"""Inspect's providers that serve one family; they decide where the name says nothing."""

SAME = "the same model"
_LLAMA_VOCABULARIES = (32000, 128256)  # of Llama 1 and 2, and of Llama 3; many others share only the architecture
_STEMS = {
    family: re.compile(rf"(?<![a-z0-9])(?:{'|'.join(stems)})(?![a-z])", re.IGNORECASE)
    for family, stems in STEMS.items()
}


def families(name: str) -> frozenset[str]:
    """The families that a model's name tells of; empty if it tells of none.

    Args:
        name: as Inspect or the hub has it, e.g. "openai/gpt-5-mini", "together/deepseek-ai/DeepSeek-R1" or
            "Qwen2.5-0.5B-Instruct".
    """
    provider, slash, rest = name.partition("/")
    known = provider in PROVIDERS
    text = "/" + (rest if slash and known else name)
    found = frozenset(family for family, stem in _STEMS.items() if stem.search(text))
    vendor = VENDORS.get(provider) if slash and known else None
    return found or frozenset([vendor] if vendor else ())


def of_system(system: System) -> frozenset[str]:
    """The families of a System; of local weights by label, file name, configuration and an adapter's base.

    A label somebody gave a remote model says nothing, for the model string is there.
    """
    if system.engine == "none":
        return frozenset()  # constants and recorded answers are nobody's
    if not system.weights:
        return families(system.model)
    if system.model == "llamacpp/embedded":
        return families("SmolLM2") | families(system.label)
    if system.engine == "llamacpp":
        return families(system.label) | _of_file(Path(system.model.removeprefix("llamacpp/")))
    folder = system.model_args.get("model_path") or system.model_args.get("base", "")
    return families(system.label) | _of_folder(Path(str(folder)).resolve())  # vLLM's is a link named by content


def _of_file(path: Path) -> frozenset[str]:
    """Families of a .gguf file, by its name or else by the architecture that it states."""
    named = families(path.stem)
    if named or not path.is_file():
        return named
    try:
        architecture = read_base(path).architecture
    except DataError:
        return frozenset()  # the engine says what is wrong with the file
    return families(architecture) - families("llama")  # llama.cpp's name for the architecture that many share


def _of_folder(folder: Path) -> frozenset[str]:
    """Families of a checkpoint's folder, by its name, its configuration and the base of an adapter in it."""
    hub = next((part.removeprefix("models--").replace("--", "/") for part in folder.parts if "models--" in part), "")
    found = families(folder.name) | families(hub)
    config, adapter = (_settings(folder / name) for name in ("config.json", "adapter_config.json"))
    found |= families(str(config.get("_name_or_path") or "").rsplit("/", 1)[-1])
    kind = str(config.get("model_type") or "").replace("_", "-")
    if kind != "llama" or config.get("vocab_size") in _LLAMA_VOCABULARIES:
        found |= families(kind)
    base = str(adapter.get("base_model_name_or_path") or "")
    return found | (_of_folder(Path(base)) if base and Path(base) != folder else frozenset())


def _settings(path: Path) -> dict[str, Any]:
    """A configuration file; empty if there is none or it is not readable as one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def of_judge(kind: str, grader: System) -> frozenset[str]:
    """The families of a judge: its grader's, and of a guard those it was built on, whatever its folder is called."""
    built_on, named = _of_guard(kind), of_system(grader)
    return named if named & built_on else named | built_on


def _of_guard(kind: str) -> frozenset[str]:
    return families(kind.removeprefix("guard:")) if kind.startswith("guard:") else frozenset()


def kinship(model: Mapping[str, Any], own: Iterable[str], judge: Mapping[str, Any], its: Iterable[str]) -> str:
    """Why a judge is a relative of a tested model; "" if it is none.

    Args:
        model: the tested System's manifest.
        own: its families.
        judge: the grader's manifest.
        its: the judge's families.

    Returns:
        The family's name, "the same model", or "".
    """
    if model.get("engine") == "none":
        return ""
    hashes = [{m.get("weights_sha256"), m.get("base_sha256")} - {"", None} for m in (model, judge)]
    if hashes[0] and hashes[1]:
        same = bool(hashes[0] & hashes[1])
    else:
        same = not any(hashes) and _plain(str(model.get("model"))) == _plain(str(judge.get("model")))
    return SAME if same else ", ".join(sorted(set(own) & set(its)))


def _plain(name: str) -> str:
    """A model's name without the provider that serves it."""
    provider, slash, rest = name.partition("/")
    return (rest if slash and (provider in PROVIDERS or "/" not in rest) else name).casefold()


def own_family(system: System, judges: Iterable[tuple[str, str, System]]) -> dict[str, str]:
    """The judges that are relatives of the tested model, and why.

    Args:
        system: what is tested.
        judges: name in tables, kind and grader of each judge that has a grader.
    """
    own = of_system(system)
    found = {name: kinship(system.manifest, own, g.manifest, of_judge(kind, g)) for name, kind, g in judges}
    return {name: why for name, why in found.items() if why}


def own_family_of_run(metadata: Mapping[str, Any], judges: Iterable[tuple[str, str, System]]) -> dict[str, str]:
    """The same for a System that is known by its run: what `shard score` stored of it, or its name."""
    system = _system(metadata)
    own = _stated_families(metadata, system)
    found = {name: kinship(system, own, g.manifest, of_judge(kind, g)) for name, kind, g in judges}
    return {name: why for name, why in found.items() if why}


def _system(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return dict(metadata.get("system") or {"model": metadata.get("model", "")})


def _stated_families(metadata: Mapping[str, Any], system: Mapping[str, Any]) -> frozenset[str]:
    if system.get("engine") == "none":
        return frozenset()
    return frozenset(metadata.get("families") or ()) | families(str(system.get("model") or ""))


def require_other_family(system: str, own: Mapping[str, str]) -> None:
    """Refuse judges of the tested model's family.

    Args:
        system: the tested model's name.
        own: the judges that are relatives of it, and why (`own_family`).

    Raises:
        UsageError: naming the first of them.
    """
    for judge, why in own.items():
        what = "is the tested model itself" if why == SAME else f"is of the same family ({why}) as the tested model"
        raise UsageError(
            f"judge {judge!r} {what}, {system!r}: judges prefer what their own kind writes (arXiv:2404.13076, "
            "arXiv:2410.21819). Take a judge of another family, or say --allow-own-family to have it footnoted."
        )


def footnote(own: Mapping[str, str]) -> str:
    """One line on judges of the tested model's family; "" if there are none."""
    if not own:
        return ""
    what = (
        f"judge {judge} is " + (f"{SAME} as the tested one" if why == SAME else f"of the tested model's family ({why})")
        for judge, why in own.items()
    )
    text = "; ".join(what)
    return f"{text[0].upper()}{text[1:]}: self-preference possible (arXiv:2404.13076, arXiv:2410.21819)."


def own_family_line(manifest: Mapping[str, Any]) -> str:
    """The footnote of a stored run; "" if no judge is of the tested model's family.

    Args:
        manifest: a run's manifest.json, or the metadata of a run read from its folder or its log. What was found when
            it was scored counts; a run without such a note is told by the names of its models.
    """
    if manifest.get("own_family"):
        return footnote(dict(manifest["own_family"]))
    system = _system(manifest)
    own = _stated_families(manifest, system)
    found = {name: kinship(system, own, m, of_stored) for name, m, of_stored in _graders(manifest)}
    return footnote({name: why for name, why in found.items() if why})


def _graders(manifest: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], frozenset[str]]]:
    """Name, manifest and families of each grader that a stored run names."""
    run = manifest.get("run") or {}
    stored = run.get("grader") or {role: {"model": name} for role, name in (manifest.get("roles") or {}).items()}
    by_role = {"grader": stored} if "model" in stored else stored
    kind = str(run.get("judge") or manifest.get("judge") or "rubric")
    found = []
    for role, grader in by_role.items():
        name = str(grader.get("model") or "")
        guard = re.search(rf"guard:[\w.-]+(?=@{role}(?![\w-])|$)", kind)
        judge = guard[0] if guard else "rubric"
        found.append((f"{judge}:{name}", grader, families(name) | _of_guard(judge)))
    return found
