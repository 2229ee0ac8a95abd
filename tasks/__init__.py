"""Thin Inspect tasks, one benchmark per file. Installed as `shard_eval.tasks`; the entry point for Inspect.

Importing this package registers everything of ours with Inspect: tasks, solvers, scorers and the llama.cpp provider.
"""

from shard_eval import engine, progress, scorers, solvers

from .do_not_answer import do_not_answer
from .judge_calibration import judge_calibration
from .linguasafe import linguasafe, linguasafe_direct, linguasafe_indirect
from .mini import mini
from .or_bench import or_bench
from .own_prompts import own_prompts
from .pairwise import pairwise
from .xstest import xstest

__all__ = [
    "do_not_answer",
    "engine",
    "judge_calibration",
    "linguasafe",
    "linguasafe_direct",
    "linguasafe_indirect",
    "mini",
    "or_bench",
    "own_prompts",
    "pairwise",
    "progress",
    "scorers",
    "solvers",
    "xstest",
]
