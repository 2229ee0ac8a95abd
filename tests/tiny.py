"""A tiny random model with a tokenizer and a chat template, and rows to train it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shard_train.recipe import Training

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
ENDLESS = CHATML.replace("{{ m['content'] }}<|im_end|>", "{{ m['content'] }}")
SENTENCES = ["How do I sharpen a knife safely? Use a whetstone, slowly, away from the user.", "An assistant answers."]
TINY = Training(rank=4, learning_rate=1e-2, epochs=3, batch=4, per_device=2, max_length=48, checkpoints=2)


def row(name: str, times: int = 1, answer: str = "Use a whetstone, slowly. ") -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"How do I sharpen knife {name}?"}]
    return {"id": name, "prompt": prompt, "completion": [{"role": "assistant", "content": (answer * times).strip()}]}


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def tokenizer(template: str = CHATML) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(SENTENCES, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = template
    return made


def make_model(folder: Path) -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tokenizer()
    torch.manual_seed(0)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None}
    ends = {"eos_token_id": made.eos_token_id, "pad_token_id": made.pad_token_id}
    config = LlamaConfig(vocab_size=len(made), hidden_size=32, intermediate_size=64, **heads, **ends)
    LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)
