"""The methods: how the answers that a model is trained on are made. One file each, and the literal table."""

from __future__ import annotations

from shard_train.methods import shard, teacher
from shard_train.methods.method import Method

METHODS: dict[str, Method] = {m.name: m for m in (shard.METHOD, teacher.METHOD)}
