"""Functions that the YAML files beside it name; lm-eval looks for them here."""

from shard_eval.lm_eval_support import (  # noqa: F401
    capability_correct,
    capability_items,
    dataset,
    flags,
    judged,
    known_mean,
    oversensitive_rate,
    penalty,
    replies,
    severity_weighted_f1,
    unsafe_rate,
)
