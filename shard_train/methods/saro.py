"""SaRO-style: reasoning with a policy is learned, then replies that reflect on safety early are preferred.

Mou et al. 2025, "SaRO", arXiv:2504.09420, as far as its abstracts and reviews tell; its settings are not known, so
every table says "SaRO-style". The stages are `shard_train.saro`'s.
"""

from __future__ import annotations

from shard_train.methods.method import Method, anybody

METHOD = Method(
    "saro",
    "reasoning with a policy, then preference for replies that reflect on safety early (SaRO-style)",
    anybody,
    chain="policy_reasoning",
    config="saro.toml",
    label="SaRO-style",
    reasoning=True,
)
