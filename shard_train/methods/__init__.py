"""The methods: how the answers a model learns are made, and what of them is learned. A file each, and the table."""

from __future__ import annotations

from shard_train.methods import saro, sft, shard, star_dss, teacher
from shard_train.methods.method import Method

METHODS: dict[str, Method] = {
    m.name: m for m in (shard.METHOD, teacher.METHOD, sft.METHOD, star_dss.METHOD, saro.METHOD)
}
