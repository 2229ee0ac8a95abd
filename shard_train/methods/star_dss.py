"""STAR-DSS: of given answers, what a guard calls safe *so far* is learned, the rest is held where it was.

Peng et al. 2025, "Shape it Up!", arXiv:2505.17196, and its released code. The scores are `shard_train.star`'s, the loss
is `shard_train.shaping`'s.
"""

from __future__ import annotations

from shard_train.methods.method import Method, nobody

METHOD = Method(
    "star_dss",
    "fine-tuning on given answers, shaped token by token by a guard",
    nobody,
    "star_dss.toml",
    given=True,
    shape="star_dss",
)
