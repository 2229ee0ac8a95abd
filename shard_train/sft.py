"""Supervised fine-tuning with TRL and PEFT: LoRA, QLoRA or all weights, in a process of its own that can be resumed.

    python -m shard_train.sft JOB.json                     # or: accelerate launch [--config_file …] -m shard_train.sft
    python -m shard_train.sft --merge BASE ADAPTER OUT

JOB.json is {"base": folder or hub name, "data": rows, "out": folder, "training": fields of recipe.Training}; a row is
{"id": …, "prompt": [messages], "completion": [one assistant message]}. The loss is on the answer's tokens only, and
every answer token of a step weighs the same, over accumulation and over processes. In OUT: events.jsonl with a line
per step, checkpoint-STEP folders (each complete once COMPLETE.json is in it), and at the end training.json. The same
command again continues from the newest complete checkpoint and gives the weights an undisturbed run gives.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shard_eval.errors import ShardError, UsageError
from shard_eval.packaged import file_sha
from shard_eval.records import sha256
from shard_eval.systems import hash_folder
from shard_train.recipe import Preference, Shaping, Training
from shard_train.star.chunks import per_token

EVENTS, MARKER, RESULT, STARTED = "events.jsonl", "COMPLETE.json", "training.json", "job.json"
# Only a resume needs them, most are pickles, and README.md is an unfilled form.
LEFTOVERS = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "training_args.bin", "README.md")
PROBE = [{"role": "user", "content": "Probe."}]
LOGGED = ("loss", "learning_rate", "ce", "kl", "star", "unsafe", "rewards/margins", "rewards/accuracies")
INSTALL = "pip install 'shard-eval[train]'"

content_sha = hash_folder


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        base: checkpoint folder in the Hugging Face format, or a hub name.
        data: JSON lines with the rows.
        out: folder for everything the run leaves.
        training: settings.
        shaping: what of the answers is learned.
        start: checkpoint that training with preferences goes on from: an adapter of the base, or a whole model.
        preference: train on pairs (`shard_train.dpo`) instead of answers.
    """

    base: str
    data: str
    out: str
    training: Training
    shaping: Shaping = field(default_factory=Shaping)
    start: str = ""
    preference: Preference | None = None

    def write(self, path: Path) -> Path:
        """Write it as JSON; gives the path."""
        return write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote.

        Raises:
            UsageError: if the file is missing or is no job.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            settings = found["training"]
            if "targets" in settings:
                settings["targets"] = tuple(settings["targets"])
            shaping, wanted = Shaping(**found.get("shaping", {})), found.get("preference")
            return cls(
                found["base"],
                found["data"],
                found["out"],
                Training(**settings),
                shaping,
                found.get("start", ""),
                Preference(**wanted) if wanted else None,
            )
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is no training job: {error}.") from error

    @property
    def identity(self) -> dict[str, Any]:
        """What the result depends on: content instead of paths."""
        base = hash_folder(Path(self.base)) if Path(self.base).is_dir() else self.base
        found = {"base": base, "data_sha256": file_sha(Path(self.data)), "training": asdict(self.training)}
        if self.shaping != Shaping():
            found["shaping"] = asdict(self.shaping)
        if self.preference is not None:
            found |= {"preference": asdict(self.preference), "start": hash_folder(Path(self.start))}
        return found


@dataclass(frozen=True)
class Encoded:
    """A row as tokens: the first `prompt` of them are not learnt, `cut` were beyond the longest length.

    `star` is each token's score, where the row has some; the prompt's count for nothing.
    """

    tokens: list[int]
    prompt: int
    cut: int
    star: list[float] = field(default_factory=list)


def command(job_file: Path, processes: int = 1) -> list[str]:
    """Command line that runs a job; several processes start through accelerate, on GPUs or, without one, on CPUs."""
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--num_processes", str(processes), "-m"]
    return [sys.executable, "-m", *(launch if processes > 1 else []), "shard_train.sft", str(job_file)]


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, by step."""
    found = [f.parent for f in folder.glob(f"checkpoint-*/{MARKER}")]
    return sorted(found, key=lambda f: int(f.name.rpartition("-")[2]))


def events(folder: Path) -> list[dict[str, Any]]:
    """Steps done so far: step, steps, epoch, loss, learning_rate, tokens, seconds; empty before the first."""
    path = folder / EVENTS
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []  # a kill may cut the last line
    return [json.loads(line) for line in lines]


def save_steps(per_epoch: int, training: Training) -> frozenset[int]:
    """Steps with a checkpoint: evenly spaced in each epoch, the last at its end; never more than there are steps."""
    n = min(training.checkpoints, per_epoch)
    return frozenset(e * per_epoch + k * per_epoch // n for e in range(training.epochs) for k in range(1, n + 1))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the training data.

    Raises:
        UsageError: if there is none, or a row is unreadable or has an empty answer; names the row.
    """
    rows = [_row(line, f"line {n} of {path}") for n, line in numbered_lines(path, "training data")]
    if not rows:
        raise UsageError(f"{path} holds no rows, so there is nothing to train on.")
    return rows


def numbered_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, each with its number.

    Raises:
        UsageError: if the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UsageError(f"{what} {str(path)!r} cannot be read: {error.strerror}.") from error
    return [(n, line) for n, line in enumerate(lines, 1) if line.strip()]


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        where = f"row {row['id']!r} ({where})"
        (answer,), asked = row["completion"], row["prompt"][-1]
        text, roles = answer["content"].strip(), (asked["role"], answer["role"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UsageError(f"{where} is no training row (id, prompt, one completion): {error!r}.") from error
    if roles != ("user", "assistant"):
        raise UsageError(f"{where} must end with a message of the user and then one of the assistant.")
    if not text:
        raise UsageError(f"{where} has an empty answer. Drop it or give it one.")
    return row


def probe(tokenizer: Any) -> str:
    """A fixed conversation as this tokenizer's chat template renders it; equal text means an equal template."""
    return str(tokenizer.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True))


def encode(row: dict[str, Any], tokenizer: Any, stops: Sequence[int], max_length: int) -> Encoded:
    """Render a row with the chat template, up to the token that ends the answer's turn.

    Raises:
        UsageError: if the rendering does not begin with exactly what the model is given when it answers, does not
            hold the whole answer, or does not end with a token that generation stops on.
    """
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=True)["input_ids"]
    if whole[: len(prompt)] != prompt:
        raise UsageError(
            f"row {row['id']!r}: the chat template renders the prompt differently when the answer follows, so training "
            "and answering would differ (templates that open a thinking block do this). Use a checkpoint whose "
            "template renders the answer right behind the generation prompt."
        )
    answer = whole[len(prompt) :]
    end = next((i for i, token in enumerate(answer) if token in stops), 0)
    rest = tokenizer.decode([t for t in answer[end + 1 :] if t not in stops])
    if not end or rest.strip():
        raise UsageError(
            f"row {row['id']!r}: the rendered answer does not end with one of the tokens that generation stops on "
            f"({tokenizer.convert_ids_to_tokens(list(stops))}). Correct the chat template, the checkpoint's "
            "eos_token_id, or an answer that holds such a token itself."
        )
    asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    text = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
    begin = text.find(row["completion"][0]["content"].strip(), len(asked))
    if begin < 0:
        raise UsageError(
            f"row {row['id']!r}: the chat template does not show the whole answer (some take reasoning out of it), so "
            "another text would be learned. Use a checkpoint whose template leaves it alone, or other tags."
        )
    tokens = whole[: len(prompt) + end + 1]
    star = (
        _star(row, tokenizer, text, begin, whole, len(prompt))[: min(len(tokens), max_length)] if "star" in row else []
    )
    return Encoded(tokens[:max_length], len(prompt), max(0, len(tokens) - max_length), star)


def _star(row: dict[str, Any], tokenizer: Any, text: str, begin: int, whole: list[int], prompt: int) -> list[float]:
    """The score of every token of a rendered row, by where it lies in the answer's text.

    Args:
        row: with its scores.
        tokenizer: of the model.
        text: the rendering.
        begin: of the answer in it.
        whole: the rendering's tokens.
        prompt: how many of them are the prompt's.

    Raises:
        UsageError: if the text has other tokens by itself, so that nobody knows where one lies; or the scores are not
            of this answer.
    """
    content = row["completion"][0]["content"]
    rendered = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if rendered["input_ids"] != whole:
        raise UsageError(
            f"row {row['id']!r}: the rendered text has other tokens by itself, so the scores cannot be given to them. "
            "Use a checkpoint whose chat template is plain text."
        )
    begin -= len(content) - len(content.lstrip())
    places = [(a - begin, b - begin) for a, b in rendered["offset_mapping"][prompt:]]
    scores = [(int(end), float(score)) for end, score in row["star"]]
    if not scores or scores[-1][0] != len(content):
        raise UsageError(
            f"row {row['id']!r}: its scores are not of this answer, which is {len(content)} characters long."
        )
    return [0.0] * prompt + per_token(scores, places)


def _stops(base: str, tokenizer: Any) -> list[int]:
    """Tokens that `generate` stops on."""
    from transformers import AutoConfig, GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:  # a checkpoint without one generates by its model configuration
        found = AutoConfig.from_pretrained(base).eos_token_id
    found = tokenizer.eos_token_id if found is None else found
    return list(found) if isinstance(found, list) else [found]


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base, which must have a chat template.

    Raises:
        UsageError: if it cannot be loaded, or has none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UsageError(f"the tokenizer of base {base!r} cannot be loaded: {error}") from error
    if tokenizer.chat_template is None:
        raise UsageError(f"base {base!r} has no chat template. Train an instruct model, or give it a template.")
    return tokenizer


def use_bf16(setting: str) -> bool:
    """Whether to compute in bf16; "auto" is where the hardware does."""
    import torch

    if setting != "auto":
        return setting == "yes"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _padding_free(setting: str, bf16: bool) -> bool:
    """Whether the rows of a forward pass lie in one sequence; a step has the same rows either way."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    able = bf16 and torch.cuda.is_available() and is_flash_attn_2_available()
    if setting == "yes" and not able:
        raise UsageError(
            "training.packing = 'yes' needs flash attention and bf16 on CUDA, or rows would see each other. Use 'auto'."
        )
    return able and setting != "no"


def model_args(t: Training, bf16: bool, flash: bool) -> dict[str, Any]:
    """How the base is loaded: LoRA on bf16 weights (the adapter itself stays fp32), all weights as fp32 masters."""
    args: dict[str, Any] = {"dtype": "bfloat16" if bf16 and t.kind != "full" else "float32", "use_safetensors": True}
    if flash:
        args["attn_implementation"] = "flash_attention_2"
    if t.kind == "qlora":
        import torch
        from transformers import BitsAndBytesConfig

        if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
            raise UsageError("training.kind = 'qlora' needs CUDA and bitsandbytes. Use 'lora' here.")
        args["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return args


def adapter(t: Training) -> Any:
    """Settings of a fresh adapter; None where all weights are trained."""
    from peft import LoraConfig

    if t.kind == "full":
        return None
    return LoraConfig(
        r=t.rank, lora_alpha=t.alpha, lora_dropout=t.dropout, target_modules=list(t.targets), task_type="CAUSAL_LM"
    )


def arguments(job: Job) -> dict[str, Any]:
    """Settings of a trainer of TRL, whichever."""
    import torch
    from accelerate import PartialState
    from trl import SFTConfig

    t, cpu = job.training, not torch.accelerator.is_available()
    bf16, at_once = use_bf16(t.bf16), t.per_device * PartialState(cpu=cpu).num_processes
    if t.batch % at_once:
        raise UsageError(
            f"training.batch = {t.batch} must be a multiple of {at_once}, the rows all processes pass at once."
        )
    recompute = "activation_checkpointing"  # its name before transformers took it over from the other
    if recompute not in SFTConfig.__dataclass_fields__:
        recompute = "gradient_checkpointing"
    return {
        "output_dir": job.out,
        "per_device_train_batch_size": t.per_device,
        "gradient_accumulation_steps": t.batch // at_once,
        "num_train_epochs": t.epochs,
        "learning_rate": t.learning_rate,
        "lr_scheduler_type": t.scheduler,
        "warmup_steps": t.warmup,
        "seed": t.seed,
        "data_seed": t.seed,
        "bf16": bf16,
        "use_cpu": cpu,
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "save_strategy": "no",  # the Recorder says when
        "report_to": "none",
        "disable_tqdm": True,
        recompute: t.gradient_checkpointing,
        **({"optim": "paged_adamw_32bit"} if t.kind == "qlora" else {}),
    }


def _config(job: Job) -> Any:
    """TRL's settings of fine-tuning."""
    from trl import SFTConfig

    t, found = job.training, arguments(job)
    padding_free = _padding_free(t.packing, found["bf16"])
    return SFTConfig(
        **found,
        model_init_kwargs=model_args(t, found["bf16"], padding_free),
        average_tokens_across_devices=True,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are encoded, checked and cut by `encode`
        max_length=None,
        padding_free=padding_free,
    )


def build(job: Job, tokenizer: Any, rows: Sequence[Encoded]) -> Any:
    """Make TRL's trainer for a job; `rows` with nothing of the answer left are an error of the caller.

    Raises:
        UsageError: if the settings do not fit this machine or the model.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTTrainer

    from shard_train.shaping import STAR, ShapedTrainer

    t = job.training
    labels = [[-100] * r.prompt + r.tokens[r.prompt :] for r in rows]
    args = _config(job)
    data: dict[str, Any] = {"input_ids": [r.tokens for r in rows], "labels": labels}
    shaped = job.shaping.rule != "sft"
    if shaped:
        data[STAR] = [r.star or [1.0] * len(r.tokens) for r in rows]
    try:
        trainer = (partial(ShapedTrainer, shaping=job.shaping) if shaped else SFTTrainer)(
            model=job.base,
            args=args,
            train_dataset=Dataset.from_dict(data),
            processing_class=tokenizer,
            peft_config=adapter(t),
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"base {job.base!r} cannot be trained so: {error}") from error
    trainer.remove_callback(PrinterCallback)
    if not trainer.model_accepts_loss_kwargs:  # without it, tokens of short micro-batches would weigh more
        raise UsageError(f"base {job.base!r}: this architecture cannot normalise the loss over a whole step's tokens.")
    if job.shaping.referred and t.kind == "full":
        trainer.remember()
    return trainer


class Recorder:
    """Callbacks of the trainer: an event per step, checkpoints at the wanted steps, a marker on each that is done."""

    def __init__(self, job: Job, saves: frozenset[int]) -> None:
        self.out, self.kind, self.saves = Path(job.out), job.training.kind, saves
        self.tokens, self.begun = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget events after the checkpoint that is resumed from, and go on counting behind the last one."""
        kept = [e for e in events(self.out) if e["step"] <= state.global_step]
        self.tokens, seconds = (kept[-1]["tokens"], kept[-1]["seconds"]) if kept else (0, 0.0)
        self.begun = time.monotonic() - seconds
        if state.is_world_process_zero:
            write_json(self.out / EVENTS, *kept)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint."""
        control.should_save = state.global_step in self.saves

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Write the step's event."""
        if "loss" not in logs or not state.is_world_process_zero:
            return
        event = {"step": state.global_step, "steps": state.max_steps, "epoch": round(state.epoch, 4)}
        event |= {k: logs[k] for k in LOGGED if k in logs}
        event |= {"tokens": self.tokens + int(logs["num_tokens"]), "seconds": round(time.monotonic() - self.begun, 3)}
        with (self.out / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark a checkpoint as complete, once every process has written its part."""
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = self.out / f"checkpoint-{state.global_step}"
        config = folder / "adapter_config.json"
        if config.is_file():  # PEFT writes this set in an order that differs from process to process
            settings = json.loads(config.read_text(encoding="utf-8"))
            settings["target_modules"] = sorted(settings["target_modules"])
            write_json(config, settings)
        marker = {"sha256": content_sha(folder), "step": state.global_step, "epoch": round(state.epoch, 4)}
        write_json(folder / MARKER, marker | {"loss": events(self.out)[-1]["loss"], "kind": self.kind})


def run(job: Job) -> None:
    """Train, or continue, or return at once if it is done.

    Raises:
        UsageError: if the data, the settings, the base or the folder cannot be used; says why.
    """
    out = Path(job.out)
    rows = _rows_of(job)
    _claim(job, out)
    if (out / RESULT).is_file():
        return
    missing = [name for name in ("torch", "transformers", "peft", "trl") if find_spec(name) is None]
    if missing:
        raise UsageError(f"training needs {', '.join(missing)}: {INSTALL}.")
    _train(job, out, rows)


def _rows_of(job: Job) -> list[dict[str, Any]]:
    if job.preference is None:
        return read_rows(Path(job.data))
    from shard_train import dpo

    return dpo.read_pairs(Path(job.data))


def _claim(job: Job, out: Path) -> None:
    """Refuse a folder in which another job was started."""
    started, identity = out / STARTED, json.loads(json.dumps(job.identity))
    if not started.is_file():
        if _first():
            out.mkdir(parents=True, exist_ok=True)
            write_json(started, identity)
        return
    before = json.loads(started.read_text(encoding="utf-8"))
    changed = [key for key in identity if before.get(key) != identity[key]]
    if changed:
        raise UsageError(f"{out} was started with another {' and '.join(changed)}. Name a new folder, or delete it.")


def _train(job: Job, out: Path, rows: list[dict[str, Any]]) -> None:
    from transformers import TrainerCallback
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(job.base)
    job = replace(job, base=str(folder.resolve()) if folder.is_dir() else job.base)
    tokenizer = load_tokenizer(job.base)
    stops = _stops(job.base, tokenizer)
    trainer, learned = (_of_answers if job.preference is None else _of_pairs)(job, tokenizer, stops, rows)

    class Callback(Recorder, TrainerCallback):  # type: ignore[misc]  # here, so that the file imports without torch
        pass

    saves = save_steps(math.ceil(learned.used / job.training.batch), job.training)
    trainer.add_callback(Callback(job, saves))
    trainer.train(resume_from_checkpoint=_newest(out))
    if _first():
        _finish(job, learned, probe(tokenizer))


@dataclass(frozen=True)
class Learned:
    """What a trainer was given.

    Attributes:
        rows: of the data file.
        used: those of which something is learned.
        truncated: rows that were cut.
        cut: tokens that were.
        tokens: read in an epoch.
        answers: of these, learned.
    """

    rows: int
    used: int
    truncated: int
    cut: int
    tokens: int
    answers: int


def _of_answers(job: Job, tokenizer: Any, stops: Sequence[int], rows: list[dict[str, Any]]) -> tuple[Any, Learned]:
    """The trainer of answers."""
    if job.shaping.rule == "rejection":  # one verdict on the whole answer
        rows = [row | {"star": row["star"][-1:]} if "star" in row else row for row in rows]
    encoded = [encode(row, tokenizer, stops, job.training.max_length) for row in rows]
    used = [e for e in encoded if len(e.tokens) > e.prompt]
    bare = next((row["id"] for row in rows if job.shaping.scored and "star" not in row), None)
    if bare is not None:
        rule = job.shaping.rule
        raise UsageError(f"shaping.rule = {rule!r} needs scores, row {bare!r} has none. Score the data first.")
    if not used:
        raise UsageError(f"training.max_length = {job.training.max_length} leaves nothing of any answer. Raise it.")
    learned = Learned(
        rows=len(encoded),
        used=len(used),
        truncated=sum(e.cut > 0 for e in encoded),
        cut=sum(e.cut for e in encoded),
        tokens=sum(len(e.tokens) for e in used),
        answers=sum(len(e.tokens) - e.prompt for e in used),
    )
    return build(job, tokenizer, used), learned


def _of_pairs(job: Job, tokenizer: Any, stops: Sequence[int], rows: list[dict[str, Any]]) -> tuple[Any, Learned]:
    """The trainer of preferences; a pair that is too long is left out, never cut."""
    from shard_train import dpo

    longest = job.training.max_length
    used = [p for row in rows if (p := dpo.encode(row, tokenizer, stops, longest)) is not None]
    if not used:
        raise UsageError(f"training.max_length = {longest}: all {len(rows)} pairs are longer. Raise it.")
    answers = sum(len(p.chosen) + len(p.rejected) for p in used)
    tokens = answers + 2 * sum(len(p.prompt) for p in used)
    return dpo.build(job, tokenizer, used), Learned(len(rows), len(used), 0, 0, tokens, answers)


def _newest(out: Path) -> str | None:
    """The checkpoint to continue from; folders of unfinished ones are removed."""
    done = complete(out)
    if _first():
        for folder in set(out.glob("checkpoint-*")) - set(done):
            shutil.rmtree(folder)
    return str(done[-1]) if done else None


def _finish(job: Job, learned: Learned, probed: str) -> None:
    """Leave only what is needed to use the checkpoints, and write down what was done."""
    out, epochs = Path(job.out), job.training.epochs
    for folder in (out, *complete(out)):
        for file in (f for pattern in LEFTOVERS for f in folder.glob(pattern)):
            file.unlink()
    done, tokens = events(out), epochs * learned.tokens
    markers = [(f, json.loads((f / MARKER).read_text(encoding="utf-8"))) for f in complete(out)]
    result = {
        "rows": learned.rows,
        "truncated": learned.truncated,
        "tokens_cut": learned.cut,
        "dropped": learned.rows - learned.used,
        "answer_tokens": epochs * learned.answers,
        "tokens": tokens,
        "steps": done[-1]["step"],
        "seconds": done[-1]["seconds"],
        "tokens_per_second": round(tokens / done[-1]["seconds"], 1),
        "losses": [(e["step"], e["loss"]) for e in done],
        "seed": job.training.seed,
        "dtype": "bfloat16" if use_bf16(job.training.bf16) else "float32",
        "kind": job.training.kind,
        "epochs": epochs,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "probe_sha256": sha256(probed),
        "checkpoints": [{k: m[k] for k in ("step", "epoch", "sha256")} | {"folder": f.name} for f, m in markers],
    }
    if result["truncated"]:
        share = f"{result['truncated']} of {learned.rows} rows were cut to {job.training.max_length} tokens"
        result["warning"] = f"{share} ({result['tokens_cut']} tokens lost); {result['dropped']} left out entirely."
    write_json(out / RESULT, result)


def merge(base: str, adapter: str, out: str) -> Path:
    """Add an adapter to its base's weights: a full checkpoint in the base's dtype, with the adapter's tokenizer if any.

    Raises:
        UsageError: if there is no adapter, or `out` holds something.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, partial = Path(out), Path(f"{out}.partial")
    if not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise UsageError(f"{adapter} is no adapter: it holds no adapter_model.safetensors.")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{out} is not empty. Name a new folder.")
    dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    # Added in fp32 and rounded once.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().to(dtype)
    merged.save_pretrained(partial)
    own = (Path(adapter) / "tokenizer_config.json").is_file()
    load_tokenizer(adapter if own else base).save_pretrained(partial)
    os.replace(partial, folder)
    return folder


def _first() -> bool:
    """Whether this is the process that writes; launchers number them."""
    return os.environ.get("RANK", "0") == "0"


def write_json(path: Path, *values: Any) -> Path:
    """Write JSON, or JSON lines, so that the file is there entirely or not at all."""
    indent = None if path.suffix == ".jsonl" else 1
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text("".join(json.dumps(v, indent=indent) + "\n" for v in values), encoding="utf-8")
    os.replace(unfinished, path)
    return path


def main() -> None:
    """Run a job, or merge an adapter; exit code 2 and one line on stderr for wrong use."""
    parser = argparse.ArgumentParser(description="Fine-tune a model on rows of prompt and answer.")
    parser.add_argument("job", nargs="?", type=Path, help="JSON file with base, data, out and training")
    parser.add_argument("--merge", nargs=3, metavar=("BASE", "ADAPTER", "OUT"), help="add an adapter to its base")
    args = parser.parse_args()
    if (args.job is None) == (args.merge is None):
        parser.error("name a job, or --merge BASE ADAPTER OUT")
    warnings.filterwarnings("ignore")  # of the libraries, about their own future
    try:
        with redirect_stdout(sys.stderr):
            merge(*args.merge) if args.merge else run(Job.read(args.job))
    except ShardError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
