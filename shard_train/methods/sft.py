"""Plain fine-tuning on given answers: what everything that weighs them is compared with."""

from __future__ import annotations

from shard_train.methods.method import Method, nobody

METHOD = Method("sft", "plain fine-tuning on given answers", nobody, "sft.toml", given=True)
