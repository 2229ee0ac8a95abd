"""Preference training with TRL, for the trainer process of `shard_train.sft`: pairs with a common beginning, and DPO.

    L = -log sigmoid( beta [ log p/p_ref (chosen) - log p/p_ref (rejected) ] )

Rafailov et al. 2023, arXiv:2305.18290. The reference is the model that the job starts from: a base with its first
adapter merged in, whose new adapter is switched off; where all weights are trained, what that model said beforehand.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shard_eval.errors import UsageError
from shard_train import sft

if TYPE_CHECKING:
    from shard_train.sft import Job


@dataclass(frozen=True)
class Encoded:
    """A pair as tokens: what both have in common, and how each goes on to the end of its turn."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Read preference pairs: rows of id, prompt (messages), begun, chosen and rejected (text behind `begun`).

    Raises:
        UsageError: if there are none, or a row is none, or its two texts are the same or empty; names the row.
    """
    rows = [_row(line, f"line {n} of {path}") for n, line in sft.numbered_lines(path, "pairs")]
    if not rows:
        raise UsageError(f"{path} holds no pairs, so there is nothing to train on.")
    return rows


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        where = f"pair {row['id']!r} ({where})"
        chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
        role = row["prompt"][-1]["role"]
        row["begun"] = str(row.get("begun", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UsageError(f"{where} is no pair (id, prompt, begun, chosen, rejected): {error!r}.") from error
    if role != "user":
        raise UsageError(f"{where}: its prompt must end with a message of the user.")
    if not chosen or not rejected or chosen == rejected:
        raise UsageError(f"{where} needs two different texts. Drop it.")
    return row


def encode(row: dict[str, Any], tokenizer: Any, stops: Sequence[int], max_length: int) -> Encoded | None:
    """Render a pair with the chat template; both sides end with the token that ends the turn.

    Returns:
        The pair, or None if a side is longer than `max_length`: a reply that was cut is no longer the one preferred.

    Raises:
        UsageError: as `sft.encode`, or if the chat template leaves nothing of what the two differ in.
    """
    sides = [
        sft.encode(
            {**row, "completion": [{"role": "assistant", "content": row["begun"] + row[name]}]},
            tokenizer,
            stops,
            max_length,
        )
        for name in ("chosen", "rejected")
    ]
    if any(side.cut for side in sides):
        return None
    chosen, rejected = (side.tokens for side in sides)
    if chosen == rejected:
        raise UsageError(
            f"pair {row['id']!r}: the chat template renders both sides alike, so there is nothing to prefer. Use a "
            "checkpoint whose template keeps what an answer says."
        )
    common = sides[0].prompt
    if row["begun"]:
        # A token may span the place where the two part; what both share before it is the prompt.
        asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        begun = tokenizer(asked + row["begun"], add_special_tokens=False)["input_ids"]
        shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(begun, chosen, rejected, strict=False))
        common = max(common, sum(1 for _ in shared))
    return Encoded(chosen[:common], chosen[common:], rejected[common:])


def build(job: Job, tokenizer: Any, pairs: Sequence[Encoded]) -> Any:
    """Make TRL's trainer for a job with preferences.

    Raises:
        UsageError: if the settings do not fit this machine or the model.
    """
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, PrinterCallback
    from trl import DPOConfig, DPOTrainer

    t, preference = job.training, job.preference
    assert preference is not None
    if t.kind == "qlora":
        raise UsageError("training.kind = 'qlora': a 4-bit base cannot hold the first stage merged in. Use 'lora'.")
    arguments = sft.arguments(job)
    init = sft.model_args(t, arguments["bf16"], flash=False)

    class Trainer(DPOTrainer):  # type: ignore[misc]  # TRL is not followed by the type checker
        """TRL's, given pairs that `encode` has rendered and checked."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    losses = {"sigmoid": 1.0} | ({"sft": preference.sft} if preference.sft else {})
    rows = {name: [getattr(pair, name) for pair in pairs] for name in ("prompt", "chosen", "rejected")}
    try:
        model = AutoModelForCausalLM.from_pretrained(job.base if t.kind == "lora" else job.start, **init)
        if t.kind == "lora":
            first = PeftModel.from_pretrained(model.float(), job.start)
            model = first.merge_and_unload().to(getattr(torch, init["dtype"]))  # added in fp32 and rounded once
        trainer = Trainer(
            model=model,
            args=DPOConfig(
                **arguments,
                beta=preference.beta,
                loss_type=list(losses),
                loss_weights=list(losses.values()),
                max_length=None,
                precompute_ref_log_probs=t.kind == "full",
            ),
            train_dataset=Dataset.from_dict({f"{name}_ids": ids for name, ids in rows.items()}),
            processing_class=tokenizer,
            peft_config=sft.adapter(t),
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"base {job.base!r} from {job.start} cannot be trained so: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def join(first: Path, second: Path, out: Path, marker: dict[str, Any]) -> Path:
    """Write two adapters, trained one upon the other, as the one adapter of the base that does what both do.

    W + s1 B1 A1 + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2]: exact, of the rank of both together, and served like any
    other beside its base.

    Args:
        first: adapter of the base.
        second: adapter of the base with the first merged in.
        out: folder that is written, complete or not at all.
        marker: what the trainer's marker of complete checkpoints says, but for the hash.

    Raises:
        UsageError: if they are more than plain LoRA, or not on the same modules.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    marker = marker | {"of": [sft.content_sha(first), sft.content_sha(second)]}
    if _sealed(out, marker):
        return out
    settings = [json.loads((f / "adapter_config.json").read_text(encoding="utf-8")) for f in (first, second)]
    weights = [load_file(f / "adapter_model.safetensors") for f in (first, second)]
    plain = not any(s.get("use_rslora") or s.get("use_dora") or s.get("modules_to_save") for s in settings)
    if not plain or weights[0].keys() != weights[1].keys():
        raise UsageError(f"{first} and {second} are no plain LoRA adapters of the same modules and cannot be joined.")
    scales = [s["lora_alpha"] / s["r"] for s in settings]
    joined = {
        name: np.concatenate([weights[0][name], weights[1][name]], axis=0)
        if ".lora_A." in name
        else np.concatenate([w[name] * np.float32(s) for w, s in zip(weights, scales, strict=True)], axis=1)
        for name in weights[0]
    }
    rank = sum(s["r"] for s in settings)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(second, partial)
    save_file(joined, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    base = settings[0]["base_model_name_or_path"]
    sft.write_json(
        partial / "adapter_config.json",
        settings[1] | {"r": rank, "lora_alpha": rank, "base_model_name_or_path": base},
    )
    return _seal(partial, out, marker)


def copy(checkpoint: Path, out: Path, marker: dict[str, Any]) -> Path:
    """Put a checkpoint beside others under another step; no bytes are copied where the file system allows it.

    Args:
        checkpoint: the folder.
        out: the new one, complete or not at all.
        marker: as for `join`.
    """
    marker = marker | {"of": [sft.content_sha(checkpoint)]}
    if _sealed(out, marker):
        return out
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial, copy_function=_link)
    return _seal(partial, out, marker)


def _sealed(out: Path, marker: dict[str, Any]) -> bool:
    """Whether a folder is complete already, and made of the same."""
    file = out / sft.MARKER
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {k: v for k, v in found.items() if k != "sha256"} == marker


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _seal(partial: Path, out: Path, marker: dict[str, Any]) -> Path:
    """Mark a folder as a complete checkpoint and give it its name."""
    (partial / sft.MARKER).unlink(missing_ok=True)
    sft.write_json(partial / sft.MARKER, marker | {"sha256": sft.content_sha(partial)})
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    return out
