"""What a board gives to others: a model card's evaluation block, a data set of verdicts, a folder for static hosting.

Names, ids and labels come from strangers: YAML is written by a dumper that escapes everything but plain ASCII, Markdown
by one that escapes markup, and no text of a prompt or a response is in any of it (but in logs that you ask for).
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from shard_eval import report
from shard_eval.benchmarks import BENCHMARKS
from shard_eval.errors import UsageError, unknown
from shard_eval.leaderboard.table import Board, Row, System, Table
from shard_eval.logs import Row as VerdictRow
from shard_eval.logs import Run
from shard_eval.records import AXES, LOWEST, SCALES
from shard_eval.stats.intervals import Estimate
from shard_eval.summary import METRICS

# --- model card --------------------------------------------------------------------------------------------------


def front_matter(data: Mapping[str, Any]) -> str:
    """A YAML block as the hub's cards begin with; a name in it can be neither YAML nor Markdown."""
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=False, width=2**16, default_flow_style=False)
    return f"---\n{text}---\n"


def model_index(board: Board, system: str) -> str:
    """The evaluation block (`model-index`) of a system for its model card on the hub.

    Args:
        board: the board.
        system: name of the system on it.

    Returns:
        YAML front matter: one result per benchmark and judge, every metric that has a better direction, with interval,
        judge and the board's verdict as arguments. A fixture's numbers are left out.

    Raises:
        UsageError: if the board has no such system, or nothing of it that may be quoted.
    """
    if system not in board.systems:
        raise unknown("system", system, board.systems)
    results = [
        _result(board, table, row)
        for table in board.tables
        if not table.fixture
        for row in table.rows
        if row.system == system and _quotable(row)
    ]
    if not results:
        raise UsageError(f"board {board.name!r} has no number of {system!r} that may be quoted (a fixture's may not).")
    return front_matter({"model-index": [{"name": system, "results": results}]})


def _quotable(row: Row) -> list[tuple[str, str, Estimate]]:
    """Name, title and estimate of the row's metrics that have a better direction."""
    return [
        (m.name, f"{m.title.strip()} ({m.better} is better)", e)
        for m in METRICS
        if m.better != "neither" and (e := row.measured.get(m.name)) is not None and e.value is not None
    ]


def _result(board: Board, table: Table, row: Row) -> dict[str, Any]:
    known = BENCHMARKS.get(table.benchmark)
    verdict = board.systems[row.system].verdict
    dataset = {
        "type": table.benchmark,
        "name": known.title if known else table.benchmark,
        "args": {"content_sha256": table.content, "board": board.name, "table": table.key},
    }
    said = {"judge": table.judge, "judge_against_people": table.passport or "not measured"}
    if verdict is not None:
        said |= {"verdict": verdict.words, "claim": verdict.status, "baseline": board.baseline}
    return {
        "task": {"type": "text-generation"},
        "dataset": dataset,
        "metrics": [
            {"type": name, "value": _number(e.value), "name": title, "args": _interval(e) | said}
            for name, title, e in _quotable(row)
        ],
    }


def _number(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _interval(e: Estimate) -> dict[str, Any]:
    return {
        "low": _number(e.low),
        "high": _number(e.high),
        "level": e.level,
        "n": e.n,
        "clusters": e.clusters,
        "method": e.method,
    }


# --- data set ----------------------------------------------------------------------------------------------------

_LICENCES = {  # of the prompts' texts, by the benchmark's row; of two, the stricter
    "CC0-1.0": "cc0-1.0",
    "Apache-2.0": "apache-2.0",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "Apache-2.0 or CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
}

_PLAIN = {
    "system": "name on the board",
    "system_id": "short hash of what makes the system the one it is",
    "kind": "baseline, system, resampled (the baseline drawn again) or control",
    "judge": "who labelled",
    "benchmark": "name of the benchmark",
    "id": "of the prompt in the benchmark",
    "prompt_sha": "SHA-256 of the prompt's text",
    "epoch": "which answer to the prompt, from 1",
    "cluster": "prompts that are not independent share it",
    "split": "train, dev or test",
    "risk_area": "as the benchmark has it",
    "category": "as the benchmark has it",
    "type": "as the benchmark has it, or mapped to LinguaSafe's five types",
    "level": "severity of the request, as the benchmark has it",
    "intent": "benign, ambiguous, harmful or unknown",
    "source": "where the benchmark has the prompt from",
    "stop_reason": "why the model stopped",
    "chars": "length of the response in characters; 0 for every response if the lengths are not known",
}
_WHOLE = ("epoch", "level", "chars", *AXES)


def dataset(board: Board, runs: Sequence[Run]) -> dict[str, bytes]:
    """All verdicts of a board as a data set for the hub: one Parquet file per table, and a card.

    Args:
        board: the board.
        runs: its runs, read from the result folders that its rows name.

    Returns:
        Content by path; the same board and runs give the same bytes.

    Raises:
        UsageError: if a run is missing, or pyarrow is not installed.
    """
    read = {run.log: run for run in runs}
    missing = [row.folder for table in board.tables for row in table.rows if row.folder not in read]
    if missing:
        raise UsageError(f"the data set of board {board.name!r} needs the run {missing[0]!r}; read it from its folder.")
    parts = {table.key: _parquet(board, table, read) for table in board.tables}
    card = _card(board, sum(n for _, n in parts.values()))
    return {"README.md": card.encode("utf-8"), **{f"data/{key}.parquet": data for key, (data, _) in parts.items()}}


def _parquet(board: Board, table: Table, runs: Mapping[str, Run]) -> tuple[bytes, int]:
    """A table's verdicts and their number."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: pip install 'shard-eval[parquet]'.") from error
    schema = pa.schema([(name, pa.int32() if name in _WHOLE else pa.string()) for name in _columns()])
    out, n = io.BytesIO(), 0
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        for row in table.rows:
            verdicts = sorted(runs[row.folder].rows, key=lambda r: (r.id, r.epoch))
            lines = [_line(table, row, board.systems[row.system], verdict) for verdict in verdicts]
            writer.write_table(pa.Table.from_pylist(lines, schema=schema))
            n += len(lines)
    return out.getvalue(), n


def _columns() -> list[str]:
    return [*_PLAIN, *(name for axis in AXES for name in (axis, f"{axis}_unscored"))]


def _line(table: Table, row: Row, system: System, verdict: VerdictRow) -> dict[str, Any]:
    plain = {f.name: getattr(verdict, f.name) for f in fields(VerdictRow) if f.name in _PLAIN}
    said = {axis: verdict.labels.get(axis) for axis in AXES}
    why = {f"{axis}_unscored": verdict.reasons.get(axis, "") for axis in AXES}
    return plain | said | why | {"system": system.name, "system_id": system.id, "kind": row.kind, "judge": table.judge}


def _card(board: Board, verdicts: int) -> str:
    names = list(dict.fromkeys(table.benchmark for table in board.tables))
    configs = [{"config_name": t.key, "data_files": f"data/{t.key}.parquet"} for t in board.tables]
    head = {
        **_licence(names),
        "pretty_name": board.title,
        "tags": ["shard-eval", "leaderboard", "llm-safety"],
        "configs": configs,
    }
    tables = report.Grid(
        "Tables",
        ("configuration", "benchmark", "judge", "systems", "prompts' licence"),
        tuple((t.key, t.benchmark, t.judge, str(len(t.rows)), _terms(t.benchmark)) for t in board.tables),
        tuple(f"{t.key}: FIXTURE, not the benchmark: quote no number from it." for t in board.tables if t.fixture),
    )
    return (
        f"{front_matter(head)}\n# {_heading(board.title)}\n\n"
        f"{verdicts:,} verdicts behind a board of shard-eval: ids, hashes and labels, no prompt and no response; "
        "take the prompts from the benchmarks and check them by `prompt_sha`.\n\n"
        f"{tables.markdown()}\n{_column_table()}\n"
        "**Licences.** The labels refer to prompts by id. Where a benchmark is under two licences the stricter one is "
        "meant here; non-commercial and share-alike terms of a benchmark are best taken to reach its labels too. The "
        "responses belong to the terms of the models that wrote them.\n"
    )


def _licence(names: Sequence[str]) -> dict[str, str]:
    """One licence if all benchmarks share it; else the card says which is which."""
    found = {_LICENCES.get(BENCHMARKS[name].licence, "") if name in BENCHMARKS else "" for name in names}
    if len(found) == 1 and (one := found.pop()):
        return {"license": one}
    return {"license": "other", "license_name": "per-benchmark", "license_link": "README.md"}


def _terms(benchmark: str) -> str:
    row = BENCHMARKS.get(benchmark)
    if row is None:
        return "its author's"
    return f"{row.licence}: treat as the stricter" if " or " in row.licence else row.licence


def _heading(text: str) -> str:
    return re.sub(r"([\\`*_~#>\[\]|!<&])", r"\\\1", report.inert(text))


def _column_table() -> str:
    scales = []
    for axis in AXES:
        names = ", ".join(f"{LOWEST[axis] + i} {name}" for i, name in enumerate(SCALES[axis]))
        scales += [(axis, f"label: {names}; empty without one"), (f"{axis}_unscored", "why there is no label")]
    return report.Grid("Columns", ("column", "what it is"), (*_PLAIN.items(), *scales)).markdown()


# --- static site -------------------------------------------------------------------------------------------------

_OURS = re.compile(r"index\.html|board\.(?:md|csv|json|tex)|pictures/[A-Za-z0-9._-]+\.(?:svg|png)")
ROBOTS = "User-agent: *\nDisallow: /\n"
WARNING = (
    "logs/ holds prompts and responses, harmful ones among them, under their benchmarks' licences, and may name paths "
    "of the machine they were made on. Publish it only where you may."
)


def site(board_folder: str | Path, out: str | Path, logs: Sequence[str] = ()) -> list[str]:
    """A folder ready for static hosting: the board's files and what hosts look for.

    Args:
        board_folder: what `shard leaderboard build` left.
        out: a folder that does not exist yet, or is empty.
        logs: folders of Inspect logs to put into logs/ with Inspect's viewer; none unless you name them.

    Returns:
        Lines for the user: a warning if there are logs, and what was written.

    Raises:
        UsageError: if a file is none of a board's, `out` holds something, or a folder holds no log.
    """
    source, target = Path(board_folder), Path(out)
    files = _board_files(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{str(out)!r} is not empty. Give a new folder, so that nothing else is published with it.")
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{str(out)!r} lies in the board's own folder. Give one outside of it.")
    named = _named_logs(logs)
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (target / "robots.txt").write_text(ROBOTS, encoding="utf-8")
    (target / ".nojekyll").write_bytes(b"")
    lines = [f"{len(files)} files of the board, robots.txt (no search engine) and .nojekyll in {target}"]
    if named:
        _bundle(named, target / "logs")
        lines = [f"Warning: {WARNING}", *lines, f"{sum(map(len, named.values()))} logs in {target / 'logs'}"]
    return lines


def _ours(name: str) -> bool:
    """Whether `shard leaderboard build` leaves a file of this name."""
    return _OURS.fullmatch(name) is not None


def _board_files(source: Path) -> list[Path]:
    if not source.is_dir():
        raise UsageError(f"{str(source)!r} is no folder of a board. Give what `shard leaderboard build` left.")
    found = [p for p in sorted(source.rglob("*")) if not p.is_dir()]
    odd = [p for p in found if p.is_symlink() or not _ours(p.relative_to(source).as_posix())]
    if odd:
        name = odd[0].relative_to(source)
        raise UsageError(
            f"{str(source)!r} holds {str(name)!r}, which is no file of a board. Move it away, then repeat."
        )
    if source / "index.html" not in found:
        raise UsageError(f"{str(source)!r} holds no page (index.html). Run `shard leaderboard build` first.")
    return found


def _named_logs(folders: Sequence[str]) -> dict[str, list[Path]]:
    """The logs below each folder, under a name that tells the folders apart and holds no path."""
    found = {}
    for number, folder in enumerate(folders, 1):
        logs = sorted(Path(folder).rglob("*.eval"))
        if not logs:
            raise UsageError(f"{folder!r} holds no .eval log. Give folders that `shard score` left, with their logs.")
        found[f"{number}-{Path(folder).resolve().name}"] = logs
    return found


def _bundle(named: Mapping[str, Sequence[Path]], target: Path) -> None:
    """Inspect's own static viewer over copies, so that one bundle holds all folders and names none of their paths."""
    from inspect_ai.log import bundle_log_dir

    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder).resolve() / "logs"
        for name, logs in named.items():
            for log in logs:
                (copies / name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, copies / name / log.name)
        with redirect_stdout(io.StringIO()):  # it reports to stdout, where the caller's results go
            bundle_log_dir(str(copies), str(target))
        index = target / "index.html"
        text = index.read_text(encoding="utf-8")
        index.write_text(text.replace(json.dumps(str(copies)), '"logs"'), encoding="utf-8")
