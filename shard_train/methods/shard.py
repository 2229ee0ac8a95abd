"""SHARD: the model rewrites a sensitive request, reframes its own draft with it, and learns the result.

Manoranjan et al. 2026, arXiv:2606.15517, sections 3.2 to 3.4.
"""

from __future__ import annotations

from shard_train.methods.method import Method, nobody_else

METHOD = Method("shard", "self-reframing distillation: the model learns from its own reframed answers", nobody_else)
