"""Run one Inspect evaluation set, or continue it where it stopped, with a progress bar and one clear error."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from inspect_ai import Task, eval_set
from inspect_ai.log import EvalLog
from rich.console import Console

from shard_eval import progress
from shard_eval.errors import JudgeError, LogError
from shard_eval.logs import finished, set_aside_damaged


def evaluate(task: str | Task, title: str, total: int | None, folder: str, console: Console, **options: Any) -> str:
    """Run one evaluation set, or continue it where it stopped.

    Args:
        task: what to run.
        title: what the progress bar and an error call it.
        total: number of responses, if known.
        folder: its logs go to `logs` below.
        console: for the progress bar.
        options: for Inspect's `eval_set`.

    Returns:
        The folder of its logs.

    Raises:
        JudgeError: if the judge does not work at all.
        LogError: if the evaluation did not finish.
        KeyboardInterrupt: if the user stopped it; Inspect has saved what was finished.
    """
    log_dir = f"{folder}/logs"
    for name in set_aside_damaged(log_dir):
        console.print(f"A damaged log was set aside as {name}; what it held is asked again.", markup=False)
    with progress.bar(console, title, total, finished(log_dir)):
        done, logs = eval_set(
            task,
            log_dir=log_dir,
            log_dir_allow_dirty=True,
            retry_attempts=0,  # the model API retries already; a failed run is continued by running again
            retry_immediate=False,
            display="none",
            log_level="error",
            log_realtime=False,  # 30 % of the harness' cost; the .eval log is flushed all the same
            fail_on_error=True,
            **options,
        )
    if not logs or any(log.status == "cancelled" for log in logs):
        raise KeyboardInterrupt  # Inspect reports a stopped set as a success, with no log or a cancelled one
    if not done:
        raise _failure(logs, title)
    return log_dir


def _failure(logs: Sequence[EvalLog], title: str) -> JudgeError | LogError:
    for log in logs:
        if log.error is not None:
            kind = JudgeError if "JudgeError" in log.error.traceback else LogError
            return kind(f"{title}: {_plain(log.error.message)}\nFinished answers are kept in {log.location}.")
    state = ", ".join(log.status for log in logs) or "nothing ran"
    return LogError(f"{title}: not finished ({state}). Run the same command again to continue.")


def _plain(message: str) -> str:
    """The text of an error that Inspect gives as `repr` does, with its class around it."""
    found = re.fullmatch(r"\w+\((.*)\)", message, re.DOTALL)
    try:
        return str(ast.literal_eval(found[1])) if found else message
    except (SyntaxError, ValueError):
        return message
