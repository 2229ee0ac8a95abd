"""The recipe of a training run: one TOML file, read into frozen dataclasses whose defaults are the published ones.

Published numbers are from SHARD (arXiv:2606.15517), Table 8 and appendix C.2, unless said otherwise.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from shard_eval.errors import UsageError, unknown
from shard_eval.reasoning import TAGS

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KINDS = ("lora", "qlora", "full")
RULES = ("none", "judge", "harm_gate")
SWITCH = ("auto", "yes", "no")
SHAPES = ("sft", "kl_only", "rejection", "deep_token", "star_dss")


@dataclass(frozen=True)
class Generation:
    """How training targets are made.

    Attributes:
        temperature: of draft, rewrite and refinement (published: 0.3).
        top_p: nucleus (published: 0.9).
        max_tokens: longest draft and refinement (published: 2000).
        seed: of the sampling.
    """

    temperature: float = 0.3
    top_p: float = 0.9
    max_tokens: int = 2000
    seed: int = 1


@dataclass(frozen=True)
class Selection:
    """Which targets are trained on.

    Attributes:
        rule: "none"; "judge": the refined answer is more helpful and not more harmful than the draft, in both orders;
            "harm_gate": the refined answer is not harmful by itself. (Published: helpfulness alone, asked once.)
    """

    rule: str = "judge"


@dataclass(frozen=True)
class Training:
    """How the model is fine-tuned.

    Attributes:
        kind: "lora", "qlora" (NF4 base, needs CUDA) or "full".
        rank: of the adapter.
        alpha: scale of the adapter.
        dropout: on the adapter's input.
        targets: modules that get an adapter.
        learning_rate: at the top of the schedule.
        epochs: passes over the data.
        batch: rows per optimiser step over all devices.
        per_device: rows per forward pass on one device; `batch` is reached by accumulation.
        scheduler: of the learning rate, by its transformers name.
        warmup: share of the steps with a rising rate.
        max_length: tokens of prompt and answer; longer rows are cut at the end and counted.
        seed: of data order and dropout.
        packing: several rows in one sequence; "auto" is where attention keeps them apart (flash attention on CUDA).
        bf16: "auto" is where the hardware computes it.
        gradient_checkpointing: recompute activations to save memory.
        checkpoints: kept per epoch, evenly spaced, the last at the epoch's end.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = PROJECTIONS
    learning_rate: float = 1e-4
    epochs: int = 3
    batch: int = 64
    per_device: int = 2
    scheduler: str = "cosine"
    warmup: float = 0.05
    max_length: int = 2048
    seed: int = 42
    packing: str = "auto"
    bf16: str = "auto"
    gradient_checkpointing: bool = True
    checkpoints: int = 1

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("packing", self.packing, SWITCH)
        _one_of("bf16", self.bf16, SWITCH)
        for name in ("rank", "alpha", "epochs", "batch", "per_device", "max_length", "checkpoints"):
            if getattr(self, name) < 1:
                raise UsageError(f"training.{name} = {getattr(self, name)} must be at least 1.")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"training.learning_rate = {self.learning_rate} must be above 0 and below 1.")
        if self.batch % self.per_device:
            raise UsageError(f"training.batch = {self.batch} must be a multiple of per_device = {self.per_device}.")


@dataclass(frozen=True)
class Shaping:
    """What of an answer is learned, token by token (`shard_train.shaping`).

    Published numbers are STAR-DSS's (arXiv:2505.17196, released code) and Deep Token's (arXiv:2406.05946).

    Attributes:
        rule: "sft": all of it; "star_dss": what a guard calls safe, the rest is held at the reference; "rejection":
            answers that the guard calls safe as a whole; "deep_token": tokens that move little, the first ones least;
            "kl_only": nothing, everything is held (a check).
        kl: weight of the pull to the reference (lambda, published: 0.5).
        estimator: of the divergence: "k2" as published, or "k3".
        chunk: units after which the guard is asked again (M, published: 5).
        unit: "words" as in the released code, or "tokens" as in the paper.
        sharpness: divisor of the guard's logits (1 as in the paper; about 0.2 as released).
        beta_first: how tightly Deep Token holds the first token, (published: 0.5),
        beta_early: the second to fifth (published: 2),
        beta_later: and the others (published: 0.1).
    """

    rule: str = "sft"
    kl: float = 0.5
    estimator: str = "k2"
    chunk: int = 5
    unit: str = "words"
    sharpness: float = 1.0
    beta_first: float = 0.5
    beta_early: float = 2.0
    beta_later: float = 0.1

    def __post_init__(self) -> None:
        _one_of("shaping.rule", self.rule, SHAPES)
        _one_of("shaping.estimator", self.estimator, ("k2", "k3"))
        _one_of("shaping.unit", self.unit, ("words", "tokens"))
        if self.kl < 0:
            raise UsageError(f"shaping.kl = {self.kl} must not be negative.")
        for name in ("sharpness", "beta_first", "beta_early", "beta_later"):
            if not getattr(self, name) > 0:
                raise UsageError(f"shaping.{name} = {getattr(self, name)} must be above 0.")
        if self.chunk < 1:
            raise UsageError(f"shaping.chunk = {self.chunk} must be at least 1.")

    @property
    def scored(self) -> bool:
        """Whether it needs a guard's scores."""
        return self.rule in ("star_dss", "rejection")

    @property
    def referred(self) -> bool:
        """Whether it needs to know what the model said before the training."""
        return self.rule in ("star_dss", "kl_only", "deep_token")


@dataclass(frozen=True)
class Reasoning:
    """How reasoning is written and drawn for the method `saro`. The paper's settings are not known: these are our own.

    Attributes:
        tags: around the reasoning, one of `reasoning.TAGS`.
        longest: words of a trace that is learned; longer ones are left out and counted.
        samples: replies drawn to each training prompt after the warm-up.
        temperature: of those.
        gap: steps by which the chosen of two replies must reflect earlier.
        longer: a chosen reply of a process pair has at most so many times the length of the rejected one.
        begun: steps that the two replies of a pair with a common beginning share.
    """

    tags: str = "think"
    longest: int = 800
    samples: int = 8
    temperature: float = 1.0
    gap: int = 1
    longer: float = 1.5
    begun: int = 1

    def __post_init__(self) -> None:
        _one_of("reasoning.tags", self.tags, tuple(TAGS))
        for name, least in (("longest", 1), ("samples", 2), ("gap", 1), ("begun", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"reasoning.{name} = {getattr(self, name)} must be at least {least}.")
        if self.longer < 1:
            raise UsageError(f"reasoning.longer = {self.longer} must be at least 1.")
        if self.temperature <= 0:
            raise UsageError(
                f"reasoning.temperature = {self.temperature} must be above 0, or all samples are the same."
            )


@dataclass(frozen=True)
class Preference:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) after the warm-up; our own settings.

    Attributes:
        beta: how tightly the model is held to the one after the warm-up.
        sft: weight of the chosen reply's plain loss beside it.
        learning_rate: at the top of the schedule.
        epochs: passes over the pairs.
        batch: pairs per optimiser step over all devices.
        per_device: pairs per forward pass on one device.
    """

    beta: float = 0.1
    sft: float = 0.2
    learning_rate: float = 5e-5
    epochs: int = 1
    batch: int = 32
    per_device: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "per_device"):
            if getattr(self, name) < 1:
                raise UsageError(f"preference.{name} = {getattr(self, name)} must be at least 1.")
        if self.batch % self.per_device:
            raise UsageError(f"preference.batch = {self.batch} must be a multiple of per_device = {self.per_device}.")
        if not self.beta > 0 or self.sft < 0 or not 0 < self.learning_rate < 1:
            raise UsageError(
                f"preference: beta = {self.beta} must be above 0, sft = {self.sft} not negative, learning_rate = "
                f"{self.learning_rate} above 0 and below 1."
            )


@dataclass(frozen=True)
class Scoring:
    """How every arm answers when it is scored; the same for all, so that they differ in one thing.

    Attributes:
        temperature: above 0, so that the base drawn again shows what chance does (published: 0.3).
        top_p: 1 for all arms (published: 0.9 for some of them, 1 for others).
        max_tokens: longest answer.
        seed: of all arms but the base drawn again, which takes the next one.
    """

    temperature: float = 0.3
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything a run is made with besides the model and the prompts."""

    generation: Generation = field(default_factory=Generation)
    selection: Selection = field(default_factory=Selection)
    training: Training = field(default_factory=Training)
    shaping: Shaping = field(default_factory=Shaping)
    reasoning: Reasoning = field(default_factory=Reasoning)
    preference: Preference = field(default_factory=Preference)
    scoring: Scoring = field(default_factory=Scoring)

    def __post_init__(self) -> None:
        _one_of("selection.rule", self.selection.rule, RULES)

    @property
    def manifest(self) -> dict[str, Any]:
        """All of it, as JSON; without the sections that stand at their default, most methods having no use for them."""
        found = asdict(self)
        for name, default in (("shaping", Shaping()), ("reasoning", Reasoning()), ("preference", Preference())):
            if getattr(self, name) == default:
                del found[name]
        return found

    @property
    def second_stage(self) -> Training:
        """How preferences are trained: as everything else, but for what `preference` says."""
        p = self.preference
        return replace(
            self.training,
            learning_rate=p.learning_rate,
            epochs=p.epochs,
            batch=p.batch,
            per_device=p.per_device,
            packing="no",
        )


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise unknown(name, value, options)


def load(path: str | Path) -> Recipe:
    """Read a recipe; what it leaves out has the published value.

    Raises:
        UsageError: if the file is missing, no TOML, or has a section, a name or a type that no recipe has.
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {str(path)!r} cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"recipe {str(path)!r} is no TOML: {error}.") from error
    sections = {f.name: f.default_factory for f in fields(Recipe)}
    for name in found:
        if name not in sections or not isinstance(found[name], dict):
            raise unknown(f"section of recipe {path}", name, sections)
    return Recipe(**{name: _section(kind, found.get(name, {}), name) for name, kind in sections.items()})


def _section(kind: Any, values: dict[str, Any], section: str) -> Any:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise unknown(f"{section} setting", name, hints)
        wanted = hints[name]
        if wanted is float and type(value) is int:
            values[name] = float(value)
        elif get_args(wanted) and isinstance(value, list):
            values[name] = tuple(str(v) for v in value)
        elif type(value) is not wanted:
            raise UsageError(f"{section}.{name} = {value!r} must be of type {wanted.__name__}.")
    return kind(**values)
