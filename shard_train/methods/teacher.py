"""Teacher distillation: the same chain run by a larger model; the comparison that SHARD has to win (its RQ3)."""

from __future__ import annotations

from shard_train.methods.method import Method, somebody_else

METHOD = Method("teacher", "the same targets written by a larger model", somebody_else)
