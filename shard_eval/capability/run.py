"""Run lm-eval tasks on a System, keep what came of every document, and compare two Systems by it.

results/SYSTEM-ID/capability-TASK-ID/capability.json
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import fsspec
from rich.console import Console

from shard_eval.capability import model as serving
from shard_eval.capability.scoring import ITEMS
from shard_eval.errors import DataError, LogError, UsageError
from shard_eval.packaged import file_sha
from shard_eval.records import identity, sha256
from shard_eval.report import Grid, percent
from shard_eval.stats.claims import Evidence
from shard_eval.stats.intervals import Estimate, estimate
from shard_eval.systems import System

OWN = "shard_capability"
"""The task of our own: some three hundred items, in the package."""

FILE = "capability.json"
METRICS = ("acc", "exact_match", "prompt_level_strict_acc", "acc_norm", "pass@1", "f1", "em")
"""Of a task's metrics the first of these counts, else its first."""

INSTALL = "pip install 'shard-eval[lm-eval]'"


@dataclass(frozen=True)
class Scores:
    """A System's result on one task.

    Attributes:
        task: as it was asked for.
        metric: what counts, with lm-eval's filter.
        system: name of the System.
        rows: id of each document, a hash of it, and its value, 0-1, higher is better.
    """

    task: str
    metric: str
    system: str
    engine: str
    dtype: str
    rows: tuple[tuple[str, float], ...]
    limit: int | None = None

    @property
    def estimate(self) -> Estimate:
        """The mean with its interval; documents are independent."""
        return estimate([value for _, value in self.rows], [name for name, _ in self.rows])


def measure(
    system: System, tasks: Sequence[str], root: str, console: Console, limit: int | None = None
) -> list[Scores]:
    """Run tasks on a System, or read back what is finished.

    Args:
        system: a model, perhaps with an adapter. Its solver and decoding have no part: answers are greedy.
        tasks: names that lm-eval knows, or `OWN`.
        root: results folder.
        console: for remarks.
        limit: only the first documents of each.

    Raises:
        UsageError: if lm-eval is missing, or knows no such task, or the System cannot be asked so.
        DataError: if a task's data are not available.
    """
    bare = replace(system, solver="direct")
    folders = {task: f"{root.rstrip('/')}/{bare.slug}/{_folder(task, limit)}" for task in dict.fromkeys(tasks)}
    kept = {task: _read(f"{folder}/{FILE}") for task, folder in folders.items()}
    if missing := [task for task, found in kept.items() if found is None]:
        console.print(f"{bare.name} · lm-eval: {', '.join(missing)}", markup=False, highlight=False)
        kept |= _evaluate(bare, missing, folders, limit)
    return [found for found in kept.values() if found is not None]


def _folder(task: str, limit: int | None) -> str:
    content = {"task": task, "limit": limit, "lm_eval": version("lm-eval") if find_spec("lm_eval") else ""}
    if task == OWN:
        content["items"] = file_sha(ITEMS)
    part = f".first{limit}" if limit is not None else ""
    return f"capability-{task}{part}-{identity(content)}"


def require(tasks: Sequence[str]) -> None:
    """Check that tasks can be run, before anything is generated or paid for.

    Raises:
        UsageError: if lm-eval is missing, or knows no such task.
    """
    if tasks:
        _known(tasks)


def _known(tasks: Sequence[str]) -> Any:
    """lm-eval's tasks and ours."""
    if find_spec("lm_eval") is None:
        raise UsageError(f"--capability needs lm-eval: {INSTALL}.")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with _silence():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(resources.files("shard_eval.tasks") / "lm_eval"))
    for task in tasks:
        if task not in manager.all_tasks:  # of thousands
            near = get_close_matches(task, manager.all_tasks, 3)
            hint = (
                f"Did you mean {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them; 'own' is the package's."
            )
            raise UsageError(f"--capability {task!r}: lm-eval knows no such task. {hint}")
    return manager


@contextmanager
def _silence() -> Iterator[None]:
    """lm-eval and what it loads announce themselves; stdout is for results."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _evaluate(system: System, tasks: list[str], folders: dict[str, str], limit: int | None) -> dict[str, Scores]:
    manager = _known(tasks)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _silence():
        from lm_eval import simple_evaluate

        try:
            found = simple_evaluate(
                model=serving.make(system),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                log_samples=True,
                bootstrap_iters=0,
                apply_chat_template=True,
            )
        except (UsageError, DataError):
            raise
        except Exception as error:  # lm-eval raises whatever its parts do: no network, a gated data set, a broken task
            raise DataError(
                f"lm-eval could not run {', '.join(tasks)} on {system.name}: {error!r}"[:1200]
                + " Tasks but 'own' have their data on the hub: go online once. What was scored before is kept."
            ) from error
    return {task: _keep(system, task, found, folders[task], limit) for task in tasks}


def _keep(system: System, task: str, found: Any, folder: str, limit: int | None) -> Scores:
    """What a task says of every document, written down.

    Raises:
        DataError: if it has no metric between 0 and 1 that every document has.
    """
    leaves = _leaves(task, found)
    metric, which = _metric(found["samples"][leaves[0]])
    higher = found.get("higher_is_better", {}).get(leaves[0], {}).get(metric, True)
    rows = []
    for leaf in leaves:
        samples = [s for s in found["samples"][leaf] if s["filter"] == which and metric in s]
        if len(samples) != len({s["doc_id"] for s in found["samples"][leaf]}):
            raise DataError(
                f"lm-eval task {leaf!r} of {task!r} does not give {metric} ({which}) of every document once."
            )
        for sample in samples:
            value = float(sample[metric])
            if not 0 <= value <= 1:
                raise DataError(f"lm-eval task {leaf!r}: {metric} = {value} of a document is not between 0 and 1.")
            name = f"{leaf}:{sample['doc_id']}:{sha256(json.dumps(sample['doc'], sort_keys=True, default=str))[:12]}"
            rows.append((name, value if higher is not False else 1 - value))
    title = metric if which == "none" else f"{metric} ({which})"
    scores = Scores(task, title, system.name, system.engine, system.dtype, tuple(sorted(rows)), limit)
    text = json.dumps(
        {
            "task": task,
            "metric": title,
            "limit": limit,
            "system": system.manifest,
            "name": system.name,
            "lm_eval": version("lm-eval"),
            "rows": scores.rows,
        },
        indent=1,
    )
    with fsspec.open(f"{folder}/{FILE}", "w", encoding="utf-8", auto_mkdir=True) as file:
        file.write(text + "\n")
    return scores


def _leaves(task: str, found: Any) -> list[str]:
    """The tasks with documents that a name stands for: itself, or a group's."""
    names = found.get("group_subtasks", {}).get(task) or []
    leaves = [leaf for name in names for leaf in _leaves(name, found)]
    if leaves:
        return leaves
    if task not in found["samples"] or not found["samples"][task]:
        raise DataError(f"lm-eval task {task!r} has no documents.")
    return [task]


def _metric(samples: Sequence[dict[str, Any]]) -> tuple[str, str]:
    names = samples[0]["metrics"]
    metric = next((m for m in METRICS if m in names), names[0])
    return str(metric), str(samples[0]["filter"])


def _read(path: str) -> Scores | None:
    filesystem, place = fsspec.core.url_to_fs(path)
    if not filesystem.exists(place):
        return None
    try:
        with fsspec.open(path, encoding="utf-8") as file:
            found = json.load(file)
        rows = tuple((str(name), float(value)) for name, value in found["rows"])
        system = found["system"]
        about = (found["task"], found["metric"], found["name"], system["engine"], system["dtype"])
        return Scores(*about, rows, found["limit"])
    except (ValueError, KeyError, TypeError) as error:
        raise LogError(f"{path} is damaged ({error!r}). Delete it, and the command makes it again.") from error


# --- two systems ---------------------------------------------------------------------------------------------------


def match(candidate: str, baseline: str, tasks: Sequence[str] = ()) -> list[tuple[Scores, Scores]]:
    """What two Systems' folders hold of the same tasks.

    Args:
        candidate: folder of a System (results/SYSTEM).
        baseline: the other's.
        tasks: only these; default all that both have.

    Raises:
        UsageError: if one of `tasks` is not there for both.
        LogError: if a file is damaged, or the two differ in their documents.
    """
    ours, theirs = _below(candidate), _below(baseline)
    found = [(ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())]
    found = [pair for pair in found if not tasks or pair[0].task in tasks]
    absent = set(tasks) - {one.task for one, _ in found}
    if absent:
        raise UsageError(
            f"--capability {', '.join(sorted(absent))}: not measured alike on both. Run `shard score MODEL "
            f"--capability {','.join(sorted(absent))}` for both, with the same --capability-limit."
        )
    return found


def _below(folder: str) -> dict[str, Scores]:
    filesystem, place = fsspec.core.url_to_fs(folder)
    if not filesystem.isdir(place):
        return {}
    names = [str(item).rstrip("/") for item in filesystem.ls(place, detail=False)]
    names = [name for name in names if name.rsplit("/", 1)[-1].startswith("capability-")]
    kept = {name.rsplit("/", 1)[-1]: _read(filesystem.unstrip_protocol(f"{name}/{FILE}")) for name in names}
    return {name: scores for name, scores in kept.items() if scores is not None}


def same(one: Scores, other: Scores) -> list[tuple[str, float]]:
    """The differences by document, higher is better for the first.

    Raises:
        LogError: if the two were not asked the same.
    """
    ours, theirs = dict(one.rows), dict(other.rows)
    if one.metric != other.metric or ours.keys() != theirs.keys():
        raise LogError(
            f"{one.task}: {one.system} and {other.system} were not asked the same documents ({len(ours)} and "
            f"{len(theirs)}, {len(ours.keys() & theirs.keys())} of them in both). Measure both again."
        )
    return [(name, value - theirs[name]) for name, value in one.rows]


def evidence(one: Scores, other: Scores, margin: float, declared: bool = False) -> Evidence:
    """Evidence that a candidate is not worse on a task by a margin or more.

    Args:
        one: the candidate's.
        other: the baseline's.
        margin: 0-1.
        declared: a difference in engine or dtype is meant.

    Raises:
        LogError: if the two were not asked the same.
    """
    differences = same(one, other)
    values = tuple(value for _, value in differences)
    doubts = []
    if (one.engine, one.dtype) != (other.engine, other.dtype) and not declared:
        doubts.append(f"arms differ: {one.engine} {one.dtype} and {other.engine} {other.dtype}")
    names = tuple(name for name, _ in differences)
    return Evidence("capability", one.task, values, values, names, margin=margin, doubts=tuple(doubts))


def grid(scores: Sequence[tuple[str, Scores]]) -> Grid:
    """The table: a line per arm and task, each with the arm's name."""
    rows = tuple((name, s.task, s.metric, percent(s.estimate), str(len(s.rows))) for name, s in scores)
    foot = ["lm-eval, greedy, chat template; a document counts once. Higher is better."]
    if any(s.limit is not None for _, s in scores):
        foot.append("First documents only: no figure to quote.")
    return Grid("capability", ("arm", "task", "metric", "in % ↑", "n"), rows, tuple(foot))


def to_json(scores: Sequence[tuple[str, Scores]]) -> list[dict[str, Any]]:
    """The same for a program."""
    found = []
    for name, s in scores:
        e = s.estimate
        value = None if e.value is None or math.isnan(e.value) else e.value
        about = {"arm": name, "task": s.task, "metric": s.metric, "n": len(s.rows), "limit": s.limit}
        found.append({**about, "value": value, "low": e.low, "high": e.high})
    return found
