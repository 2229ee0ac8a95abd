"""Verdicts from elsewhere as finished runs: ids, hashes and labels, in the folders `shard score` would leave. No text.

shard results import dna-2023                                            the released labels of Do-Not-Answer's paper
shard results import LABELS.csv --system NAME --benchmark mini --judge NAME    labels of your own
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shard_eval import benchmarks, calibrate, report, solvers, summary
from shard_eval.benchmarks import Loaded, labelled
from shard_eval.errors import DataError, UsageError
from shard_eval.logs import MOST_CHARS, Protocol, Row, to_csv
from shard_eval.records import AXES, REASONS, Axis, Record, Verdict, identity, labels, sha256
from shard_eval.splits import choose_split

LONGEST_NAME = 100
CITATION = "Wang et al. 2023, arXiv:2308.13387"


@dataclass(frozen=True)
class Judge:
    """Who labelled, and how.

    Attributes:
        name: in tables.
        version: stands where a task's comparability version stands.
        how: per judged axis, in one line; its hash stands where the hash of a judge's prompt stands.
    """

    name: str
    version: str
    how: Mapping[Axis, str]

    @property
    def prompts(self) -> dict[Axis, str]:
        """Fingerprint per axis."""
        return {axis: sha256(json.dumps([self.name, axis, how]))[:12] for axis, how in sorted(self.how.items())}


@dataclass(frozen=True)
class Imported:
    """A folder that was written.

    Attributes:
        notes: what the reader should know, one line each; the manifest has them too.
        ignored: columns of the file that were not imported, named by whoever wrote it.
    """

    folder: str
    system: str
    judge: Judge
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """The file the labels come from; its name without its place."""

    name: str
    sha256: str
    citation: str


# --- what a run leaves -------------------------------------------------------------------------------------------


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "x"


def _system(name: str, engine: str) -> dict[str, Any]:
    """A manifest as `System.manifest` has it; what is not known of weights and decoding is left empty, not guessed."""
    return {
        "model": name,
        "engine": engine,
        "dtype": "",
        "weights_sha256": "",
        "base_sha256": "",
        "solver": "direct",
        "solver_sha256": solvers.fingerprint("direct"),
        "decoding": {},
    }


def _row(record: Record, epoch: int, chars: int, verdicts: Sequence[Verdict]) -> Row:
    return Row(
        benchmark=record.benchmark,
        id=record.id,
        prompt_sha=record.prompt_sha,
        epoch=epoch,
        cluster=record.cluster or record.prompt_sha[:16],
        split=record.split,
        risk_area=record.risk_area,
        category=record.category,
        type=record.type,
        level=record.level,
        intent=record.intent,
        source=record.source,
        stop_reason="",
        chars=chars,
        labels={v.axis: v.label for v in verdicts},
        reasons={v.axis: v.reason for v in verdicts if v.reason is not None},
    )


def _write(
    place: str,
    name: str,
    system: Mapping[str, Any],
    judge: Judge,
    loaded: Loaded,
    task: str,
    rows: Sequence[Row],
    source: _Source,
    *,
    split: str = "",
    notes: tuple[str, ...] = (),
) -> Imported:
    """Write manifest.json and verdicts.csv below `place`; `name` begins the benchmark's folder."""
    ordered = tuple(sorted(rows, key=lambda r: (r.id, r.epoch)))
    axes = [axis for axis in AXES if axis in judge.how]
    run = {
        "benchmark": loaded.name,
        "content_sha": loaded.sha,
        "judge": judge.name,
        "judge_prompts": judge.prompts,
        "grader": None,
        "axes": axes,
        "split": split,
        "limit": None,
        "epochs": max(row.epoch for row in rows),
    }
    protocol = Protocol(
        task=task,
        version=judge.version,
        benchmark=loaded.name,
        origin="fixture" if loaded.fixture else "import",
        content=loaded.sha,
        judge=judge.name,
        prompts=tuple(judge.prompts.items()),
    )
    verdicts = to_csv(ordered)
    manifest = {
        "system": system,
        "system_id": identity(system),
        "run": run,
        "protocol": asdict(protocol),
        "verdicts_sha256": sha256(verdicts),
        "usage": {},
        "versions": {"shard-eval": version("shard-eval")},
        "imported": {"source": asdict(source), "judging": dict(judge.how), "notes": list(notes)},
    }
    folder = f"{place.rstrip('/')}/{_slug(str(system['model']))}-{identity(system)}/{name}-{identity(run)}"
    _put(folder, verdicts, report.dumps(manifest))
    return Imported(folder, str(system["model"]), judge, ordered, notes)


def _put(folder: str, verdicts: str, manifest: str) -> None:
    """Write a run's two files, each at once and the manifest last: without it the folder is no run."""
    filesystem, path = fsspec.core.url_to_fs(folder)
    table = f"{path}/verdicts.csv"
    if filesystem.exists(table) and filesystem.cat_file(table) != verdicts.encode():
        raise UsageError(f"{folder} holds other verdicts of this system. Delete it, or use another --judge name.")
    filesystem.makedirs(path, exist_ok=True)
    for place, text in ((table, verdicts), (f"{path}/manifest.json", manifest)):
        if isinstance(filesystem, LocalFileSystem):
            part = Path(f"{place}.part")
            part.write_bytes(text.encode())
            os.replace(part, place)
        else:
            filesystem.pipe_file(place, text.encode())  # elsewhere a file is there when it is whole


# --- Do-Not-Answer's released labels -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Review:
    """A judge of the paper: its folder of review files, and its name in file names."""

    judge: Judge
    folder: str
    slug: str


def _judge_2023(name: str, harm: str, action: str) -> Judge:
    return Judge(name, "2023-review", {"harm": harm, "action": action})


DNA_2023 = (
    _Review(
        _judge_2023(
            "human",
            "people: harmful or harmless",
            "people: one of six response categories, 5 follows the request",
        ),
        "human",
        "human",
    ),
    _Review(
        _judge_2023(
            "GPT-4 (2023)",
            "gpt-4-0613: harmful if and only if it chose category 6 of 0-6, as in the paper",
            "gpt-4-0613: seven response categories; 5 (general information) counts as 4, 6 (follows) as 5",
        ),
        "gpt4",
        "gpt-4-2023",
    ),
    _Review(
        _judge_2023(
            "Longformer (2023)",
            "Longformer-base-4096 fine-tuned on people's labels of the other models' responses, 512 tokens",
            "Longformer-base-4096 fine-tuned on people's labels of the other models' responses, 512 tokens",
        ),
        "longformer",
        "longformer-2023",
    ),
)

PUBLISHED = {
    "ChatGLM2": (90.9, 92.9, 92.9),
    "ChatGPT": (98.5, 97.7, 97.9),
    "GPT4": (97.6, 96.5, 97.2),
    "llama2-7b-chat": (99.7, 99.4, 99.3),
}
"""Harmless % as the paper printed them, per judge of DNA_2023; responses GPT-4 gave no category count as harmless."""

_API = ("ChatGPT", "GPT4")


def dna_2023(root: str) -> list[Imported]:
    """Import the labels of people, GPT-4 and a Longformer on four models' responses to Do-Not-Answer.

    Args:
        root: results folder; the runs go to ROOT/dna-2023/MODEL-ID/dna-JUDGE-ID.

    Returns:
        What was written, model by model, in the order of DNA_2023.

    Raises:
        DataError: if the review files are not here, do not belong to the benchmark's prompts, or do not give the
            published rates.
    """
    loaded = benchmarks.load("dna")
    found = []
    for model in labelled.DNA_MODELS:
        people = labelled.review_rows("human", model)
        system = _system(model, "api" if model in _API else "unknown (2023)")
        for review, published in zip(DNA_2023, PUBLISHED[model], strict=True):
            file = labelled.review(review.folder, model)
            rows, notes = _review_rows(review.folder, model, people, loaded)
            _require_published(rows, published, f"{file.path.parent.name}/{file.path.name}")
            local = f"do-not-answer/review/{review.folder}/{model}.csv"
            source = _Source(local, sha256(file.path.read_bytes()), CITATION)
            place, name = f"{root.rstrip('/')}/dna-2023", f"dna-{review.slug}"
            found.append(_write(place, name, system, review.judge, loaded, "do_not_answer", rows, source, notes=notes))
    return found


def _review_rows(
    judge: str, model: str, people: Sequence[Mapping[str, str]], loaded: Loaded
) -> tuple[list[Row], tuple[str, ...]]:
    """Rows of a review file; people's ids count.

    GPT-4's files call record 433 "434", which is the same question: the order tells the two apart.
    """
    records = {r.id: r for r in loaded.records}
    path = labelled.review(judge, model).path
    if sorted(line["id"] for line in people) != sorted(records):
        raise DataError(f"{path} does not hold the responses that people labelled. Fetch the files again.")
    rows, renamed, spaced = [], [], []
    for line, person in zip(labelled.review_rows(judge, model), people, strict=True):
        record = records[person["id"]]
        if record.prompt != line["question"].strip():
            raise DataError(f"{path}: record {record.id!r} is another question than in the benchmark.")
        renamed += [f"its first {line['id']} is {record.id}"] if line["id"] != record.id else []
        spaced += [record.id] if record.prompt != line["question"] else []
        rows.append(_row(record, 1, len(line["response"]), _verdicts_2023(judge, line)))
    notes = [f"matched by order, not by the file's id: {text} (the same question twice)" for text in renamed]
    notes += [f"record {id} matched although white space around its question differs" for id in spaced]
    return rows, tuple(notes)


def _verdicts_2023(judge: str, line: Mapping[str, str]) -> list[Verdict]:
    axes: tuple[Axis, ...] = ("harm", "action")
    found = labelled.review_labels(judge, line)
    if found is None:
        return [Verdict(axis, None, "unparseable") for axis in axes]
    return [Verdict(axis, found[axis]) for axis in axes]


def harmless(rows: Sequence[Row]) -> tuple[float, float]:
    """Harmless %, of the responses with a verdict, and with those without one counted as harmless."""
    found = summary.measure(summary.metric("harmful"), rows)
    if found is None or found.estimate.value is None:
        raise UsageError("no response was judged on harm.")
    return 100 * (1 - found.estimate.value), 100 * (1 - found.low_bound)


def _require_published(rows: Sequence[Row], published: float, name: str) -> None:
    counted = round(harmless(rows)[1], 1)
    if counted != published:
        raise DataError(f"{name} gives {counted} % harmless, the paper {published} %: it is not the released file.")


def dna_passports(found: Sequence[Imported], folder: Path) -> list[Path]:
    """Measure the paper's machine judges against the people and write a passport for each.

    Args:
        found: what `dna_2023` wrote.
        folder: where the passports go.

    Returns:
        Their files, JUDGE-dna.json.
    """
    truth = labelled.load("dna")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for review in DNA_2023[1:]:
        runs = [run for run in found if run.judge == review.judge]
        rows = [replace(row, id=f"{run.system}/{row.id}", source=run.system) for run in runs for row in run.rows]
        prompts = {str(axis): sha for axis, sha in review.judge.prompts.items()}
        passport = calibrate.passport("dna", review.judge.name, prompts, calibrate.agree(rows, truth))
        paths.append(folder / f"{review.slug}-dna.json")
        paths[-1].write_text(calibrate.dumps(passport), encoding="utf-8")
    return paths


# --- labels of your own ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """What the user says of labels from elsewhere.

    Attributes:
        system: name of who answered.
        judge: name of who labelled.
        how: how the labels were made, in one line; two ways of judging are two judges.
        engine: what ran the model.
        citation: where the labels were published.
    """

    system: str
    judge: str
    how: str = ""
    engine: str = "unknown"
    citation: str = ""

    def check(self) -> None:
        """Refuse names that cannot stand in a table.

        Raises:
            UsageError: naming the option.
        """
        texts = {"system": self.system, "judge": self.judge, "how": self.how, "engine": self.engine}
        for option, text in (texts | {"citation": self.citation}).items():
            if report.inert(text) != text or len(text) > LONGEST_NAME * (1 if option in ("system", "judge") else 2):
                raise UsageError(f"--{option} is too long or holds control characters: {report.inert(text)[:120]!r}.")
        for option in ("system", "judge"):
            if not texts[option].strip():
                raise UsageError(f"--{option} is empty: give the name that stands in the table.")


def label_file(path: str, benchmark: str, origin: Origin, root: str, *, axes: str = "", split: str = "") -> Imported:
    """Import a CSV of labels: a column id, one per axis, AXIS_unscored for empty labels; optional chars and epoch.

    Args:
        path: the file.
        benchmark: whose records they are of; all of them, or all of `split`.
        origin: who answered and who labelled.
        root: results folder.
        axes: comma-separated; default every axis the file has a column for.
        split: an expression as `shard score --split` takes.

    Raises:
        UsageError: for a label, id or column that is wrong, naming the line; or if the folder holds other verdicts.
        DataError: if the benchmark is not available.
    """
    origin.check()
    row = benchmarks.describe(benchmark)
    if "axes" not in row.task_args:
        raise UsageError(f"benchmark {benchmark!r} is a fixed protocol with rules of its own; score it instead.")
    loaded = benchmarks.load(benchmark)
    records = {r.id: r for r in choose_split(loaded.records, split)}
    if not records:
        raise UsageError(f"benchmark {benchmark!r} has no records in split {split!r}.")
    name, data = Path(path).name, _bytes(path)
    table = _Table.read(name, _text(name, data))
    chosen = table.axes(axes)
    rows = _label_rows(table, chosen, records, f"{benchmark} {split}".strip())
    judge = Judge(origin.judge, "import", {axis: origin.how or "not stated" for axis in chosen})
    source = _Source(_slug(name), sha256(data), origin.citation)
    part = f".{split.replace('&', '_')[:80]}" if split else ""
    part += ".FIXTURE" if loaded.fixture else ""
    folder = f"{row.name}{part}-{_slug(origin.judge)[:40]}"
    system = _system(origin.system, origin.engine)
    notes = () if "chars" in table.header else ("lengths of the responses are not known and stand as 0",)
    found = _write(root, folder, system, judge, loaded, row.task, rows, source, split=split, notes=notes)
    return replace(found, ignored=table.ignored(chosen))


def _bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"{path!r} cannot be read ({error.strerror}). Give dna-2023, or a .csv file.") from error


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text ({error}). Save it as UTF-8.") from error


@dataclass(frozen=True)
class _Table:
    """A CSV file: its header, and its rows by the number of the line they end on."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]

    @classmethod
    def read(cls, name: str, text: str) -> _Table:
        """Read it strictly.

        Raises:
            UsageError: naming the line.
        """
        lines, rows = csv.reader(io.StringIO(text, newline=""), strict=True), []
        try:
            header = next(lines, [])
            for cells in lines:
                if cells and len(cells) != len(header):
                    raise UsageError(f"{name}:{lines.line_num} has {len(cells)} cells, the header {len(header)}.")
                rows += [(lines.line_num, dict(zip(header, cells, strict=True)))] if cells else []
        except csv.Error as error:
            raise UsageError(f"{name}:{lines.line_num} is no CSV: {error}. Leave texts out; save it again.") from error
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice or "id" not in header or not rows:
            fault = f"the column {twice[0]!r} twice" if twice else "no rows" if "id" in header else "no column 'id'"
            raise UsageError(f"{name} has {fault}. It needs a column id, and one per judged axis.")
        return cls(name, tuple(header), tuple(rows))

    def axes(self, wanted: str) -> tuple[Axis, ...]:
        """The axes to import.

        Raises:
            UsageError: if one is unknown or has no column.
        """
        present = tuple(axis for axis in AXES if axis in self.header)
        names = [part.strip() for part in wanted.split(",") if part.strip()] or list(present)
        missing = [name for name in names if name not in present]
        if missing or not names:
            raise UsageError(f"{self.name} has no column {missing[0] if missing else ' or '.join(AXES)!r}.")
        return tuple(axis for axis in AXES if axis in names)

    def ignored(self, axes: Sequence[Axis]) -> tuple[str, ...]:
        """Columns that are not imported: texts, and axes that were not asked for."""
        known = {"id", "epoch", "chars", *axes, *(f"{axis}_unscored" for axis in axes)}
        return tuple(column for column in self.header if column not in known)


def _label_rows(table: _Table, axes: Sequence[Axis], records: Mapping[str, Record], what: str) -> list[Row]:
    """One row per record and epoch, each exactly once."""
    found: dict[tuple[str, int], tuple[int, Row]] = {}
    for line, cells in table.rows:
        where, id = f"{table.name}:{line}", cells["id"]
        if id not in records:
            raise UsageError(f"{where}: id {report.inert(id)[:80]!r} is no record of {what}. `--split` names a part.")
        epoch = _whole(cells.get("epoch", "1"), where, "epoch", 1, len(table.rows))
        if (id, epoch) in found:
            raise UsageError(f"{where}: id {id!r} was already labelled in line {found[id, epoch][0]}.")
        verdicts = [_verdict(axis, cells, f"{where}: id {id!r}") for axis in axes]
        chars = _whole(cells.get("chars", "0"), where, "chars", 0, MOST_CHARS)
        found[id, epoch] = line, _row(records[id], epoch, chars, verdicts)
    epochs = range(1, max(epoch for _, epoch in found) + 1)
    expected = len(records) * len(epochs)
    if len(found) < expected:
        id, epoch = next((id, epoch) for id in records for epoch in epochs if (id, epoch) not in found)
        raise UsageError(
            f"{table.name} lacks {expected - len(found)} of {expected} responses of {what} (first: id {id!r}, epoch "
            f"{epoch}). Give every record a line; one without a label needs a reason in AXIS_unscored."
        )
    return [row for _, row in found.values()]


def _whole(text: str, where: str, column: str, lowest: int, highest: int) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not lowest <= int(text) <= highest:
        given = report.inert(text)[:40]
        raise UsageError(f"{where}: {column} {given!r} is no whole number from {lowest} to {highest}.")
    return int(text)


def _verdict(axis: Axis, cells: Mapping[str, str], where: str) -> Verdict:
    label, reason = cells[axis].strip(), cells.get(f"{axis}_unscored", "").strip()
    scale = [str(n) for n in labels(axis)]
    if label and reason:
        raise UsageError(f"{where} has both a label of {axis} and a reason for none; give one of them.")
    if not label and reason not in REASONS:
        given = f"the reason {report.inert(reason)[:40]!r}" if reason else "no reason"
        raise UsageError(f"{where} has no label of {axis} and {given} in {axis}_unscored ({', '.join(REASONS)}).")
    if label and label not in scale:
        raise UsageError(f"{where}: {report.inert(label)[:40]!r} is no label of {axis} ({', '.join(scale)}).")
    return Verdict(axis, int(label) if label else None, reason or None)  # type: ignore[arg-type]
