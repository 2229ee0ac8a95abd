"""Capability retention: lm-eval tasks for every arm, paired by document, and "not worse" as a part of the claim.

A model that lost its arithmetic is no release, however safe its answers.
"""

from shard_eval.capability.run import OWN, Scores, evidence, grid, match, measure, require, same, to_json

__all__ = ["OWN", "Scores", "evidence", "grid", "match", "measure", "require", "same", "to_json"]
