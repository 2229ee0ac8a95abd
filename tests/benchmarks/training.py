"""Tokens per second of our trainer against plain TRL with the same settings, rows and random weights, in turn.

    python tests/benchmarks/training.py [--hidden 320] [--layers 8] [--rows 16] [--length 128] [--rounds 5]

Timed is the whole call, from the rows to the last checkpoint: loading, encoding, steps, saving; ours also checks each
row, writes events, and hashes and marks the checkpoint. The bar is a ratio of at least 0.95. The processor's time is
given too: on a busy machine it is the steadier figure.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from tiny import SENTENCES, tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from shard_train import sft
from shard_train.recipe import Training

WORDS = SENTENCES[0].split()


def make_base(folder: Path, hidden: int, layers: int, vocab: int) -> int:
    """Write a random model of this shape; gives its number of weights."""
    made = tokenizer()
    ends = {"eos_token_id": made.eos_token_id, "pad_token_id": made.pad_token_id, "bos_token_id": None}
    shape = {"hidden_size": hidden, "intermediate_size": hidden * 8 // 3, "num_hidden_layers": layers}
    heads = {"num_attention_heads": hidden // 64, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **shape, **heads, **ends))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def make_rows(number: int, length: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations of different lengths up to about `length` tokens."""
    rng = random.Random(seed)
    rows = []
    for n in range(number):
        answer = " ".join(rng.choices(WORDS, k=rng.randint(length // 12, length // 5)))
        prompt = [{"role": "user", "content": " ".join(rng.choices(WORDS, k=length // 20))}]
        rows.append({"id": str(n), "prompt": prompt, "completion": [{"role": "assistant", "content": answer}]})
    return rows


def plain(base: str, rows: list[dict[str, Any]], t: Training, folder: Path) -> None:
    """Train with TRL as its documentation does."""
    bf16 = sft.use_bf16(t.bf16)
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(
            output_dir=str(folder),
            model_init_kwargs={"dtype": "bfloat16" if bf16 else "float32"},
            per_device_train_batch_size=t.per_device,
            gradient_accumulation_steps=t.batch // t.per_device,
            num_train_epochs=t.epochs,
            learning_rate=t.learning_rate,
            lr_scheduler_type=t.scheduler,
            warmup_steps=t.warmup,
            max_length=t.max_length,
            bf16=bf16,
            use_cpu=not torch.accelerator.is_available(),
            activation_checkpointing=t.gradient_checkpointing,
            save_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{k: r[k] for k in ("prompt", "completion")} for r in rows]),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=t.rank, lora_alpha=t.alpha, lora_dropout=t.dropout, target_modules=list(t.targets)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def ours(base: str, rows: list[dict[str, Any]], t: Training, folder: Path) -> None:
    """Train with `shard_train.sft`."""
    folder.mkdir()
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    sft.run(sft.Job(base, str(data), str(folder / "out"), t))


def seconds(train: Callable[..., None], *args: Any) -> tuple[float, float]:
    """Seconds of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    train(*args)
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Print both speeds and their ratio."""
    parser = argparse.ArgumentParser(description="Speed of the trainer.")
    sizes = {"hidden": 320, "layers": 8, "vocab": 32_000, "rows": 16, "length": 128, "batch": 8, "per_device": 4}
    for name, default in (sizes | {"rounds": 5}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    warnings.filterwarnings("ignore")
    training = Training(epochs=1, batch=args.batch, per_device=args.per_device, max_length=args.length * 2)
    rows = make_rows(args.rows, args.length)
    with tempfile.TemporaryDirectory() as root:
        weights = make_base(Path(root) / "base", args.hidden, args.layers, args.vocab)
        base = f"{root}/base"
        plain(base, rows[:8], training, Path(root) / "warm-up")
        times: dict[Any, list[tuple[float, float]]] = {ours: [], plain: []}
        for n in range(args.rounds):
            for train in (ours, plain) if n % 2 else (plain, ours):  # what else runs may change within a round
                times[train].append(seconds(train, base, rows, training, Path(root) / f"{train.__name__}{n}"))
        tokens = json.loads((Path(root) / "ours0" / "out" / sft.RESULT).read_text())["tokens"]
    print(f"{weights / 1e6:.0f}M weights, {args.rows} rows, batch {args.batch}, {args.rounds} rounds in turn")
    for kind, of in enumerate(("clock", "processor")):
        mine, theirs = ([tokens / t[kind] for t in times[train]] for train in (ours, plain))
        ratio = statistics.median(m / p for m, p in zip(mine, theirs, strict=True))
        print(f"tokens per second of the {of}: shard {statistics.median(mine):.0f}, ", end="")
        print(f"plain TRL {statistics.median(theirs):.0f}, median ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
