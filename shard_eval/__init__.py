"""shard-eval: is this model more helpful on sensitive prompts, and not less safe?

Read `records.py` first (the vocabulary), then `tasks/` (what is run), `scorers.py` and `judges/`
(who decides), `summary.py` (what is claimed) and `score.py` (the one command that does it all).
"""

from importlib.metadata import version

__version__ = version("shard-eval")
__all__ = ["__version__"]
