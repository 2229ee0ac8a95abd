"""What people rate: responses of finished runs or of a file, drawn by hash and written into a folder.

Whole records are drawn: all their responses, of every run given, or none. So who is labelled depends on the record's
hash alone, which prediction-powered inference needs, and two runs' answers to a prompt are both labelled or neither.
The same text twice to the same record is rated once.

The folder's sample.jsonl holds everything the page and the export need, texts too. Only its owner may read it, and a
.gitignore keeps it out of git. Its first line holds the hash and the number of the others.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalSample, read_eval_log_samples

from shard_eval.benchmarks import labelled_files
from shard_eval.errors import DataError, LogError, UsageError
from shard_eval.labelling.questions import fingerprint
from shard_eval.logs import Run, read_run, system_name
from shard_eval.records import AXES, Axis, identity, sha256

FILE = "sample.jsonl"
FORMAT = 2
BLOCK = 10
"""Records whose responses are mixed: whoever stops early has rated nearly whole records."""


@dataclass(frozen=True)
class Answer:
    """One response of one system to one record.

    Attributes:
        system: its name in tables; never shown to a rater.
        system_id: its identity, "" where it is not known (a file).
    """

    benchmark: str
    id: str
    prompt_sha: str
    epoch: int
    cluster: str
    intent: str
    need: str
    withhold: str
    prompt: str
    response: str
    system: str
    system_id: str

    @property
    def record(self) -> tuple[str, str, str]:
        """The record's key."""
        return (self.benchmark, self.id, self.prompt_sha)


@dataclass(frozen=True)
class Item:
    """What is rated at once.

    Attributes:
        responses: one, or the candidate's and the baseline's.
        systems: (id, name) of those who gave the response; of a pair, the candidate and the baseline.
    """

    benchmark: str
    id: str
    prompt_sha: str
    cluster: str
    intent: str
    need: str
    withhold: str
    prompt: str
    responses: tuple[str, ...]
    systems: tuple[tuple[str, str], ...]

    @property
    def record(self) -> tuple[str, str, str]:
        """The record's key."""
        return (self.benchmark, self.id, self.prompt_sha)

    @property
    def key(self) -> str:
        """Identity of what is rated, whoever wrote it."""
        return sha256(json.dumps([*self.record, *map(sha256, self.responses)]))[:16]


@dataclass(frozen=True)
class Sample:
    """A drawn sample and how it was drawn.

    Attributes:
        items: in the order of their records' hashes.
        n: number of responses (or pairs) asked for.
        frame: hash of all responses it was drawn from.
        records: number of records it was drawn from.
        left_out: what nobody need rate: empty responses, pairs of the same text.
        asked: hash of the questions.
    """

    items: tuple[Item, ...]
    axes: tuple[Axis, ...]
    pairs: bool
    n: int
    seed: int
    frame: str
    records: int
    left_out: dict[str, int] = field(default_factory=dict)
    asked: str = ""

    @property
    def design(self) -> dict[str, Any]:
        """What makes this sample the one it is."""
        names = ("axes", "pairs", "n", "seed", "frame", "asked")
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in names}

    @property
    def id(self) -> str:
        """Short hash of the design."""
        return identity(self.design)

    @property
    def slug(self) -> str:
        """The folder's name unless another is given."""
        names = "+".join(sorted({item.benchmark for item in self.items}))
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "+_-") else "-" for c in names)
        return f"{safe[:60]}{'-pairs' if self.pairs else ''}-{self.id}"


# --- responses -----------------------------------------------------------------------------------------------------


def system_id(run: Run) -> str:
    """Identity of the System behind a run, as in its folder's name."""
    plain = {"model": run.model, "solver": run.solver, "decoding": run.decoding}
    return identity(run.metadata.get("system") or plain)


def of_run(run: Run) -> list[Answer]:
    """All responses of a finished run, with their texts."""
    samples = read_eval_log_samples(run.log, resolve_attachments="core", exclude_fields={"events", "store"})
    texts = {(str(s.id), s.epoch): s for s in samples}
    name, system = system_name(run), system_id(run)
    return [_answer(row, texts[row.id, row.epoch], name, system) for row in run.rows]


def _answer(row: Any, sample: EvalSample, name: str, system: str) -> Answer:
    request = sample.input if isinstance(sample.input, str) else sample.input[-1].text
    return Answer(
        **{k: getattr(row, k) for k in ("benchmark", "id", "prompt_sha", "epoch", "cluster", "intent")},
        need=str(sample.metadata.get("need") or ""),
        withhold=str(sample.metadata.get("withhold") or ""),
        prompt=request,
        response=sample.output.completion,
        system=name,
        system_id=system,
    )


def read(path: str) -> list[Answer]:
    """The responses of a run's folder or log, or of a .jsonl or .csv file with "prompt" and "response".

    Raises:
        UsageError: for a file that is wrong, or a run without texts.
        LogError: if the run is unfinished or damaged.
    """
    if path.endswith((".jsonl", ".csv")):
        return [_of_line(path, number, row, "response") for number, row in _lines(path, ("prompt", "response"))]
    return of_run(_run(path))


def _run(path: str) -> Run:
    try:
        return read_run(path)
    except LogError as error:
        if (Path(path) / "verdicts.csv").is_file() and not any(Path(path).rglob("*.eval")):
            raise UsageError(
                f"{path} holds ids and labels but no text (it was imported, or its log was not kept), and people "
                "cannot rate what they cannot read. Give a run with its log, or a .jsonl file of responses."
            ) from error
        raise


def _lines(path: str, needed: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a file, numbered; calibration takes each of them once it is labelled."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path!r} cannot be read ({error}). Give a UTF-8 file with one response a line.") from error
    rows = labelled_files.table(path, text, needed)
    labelled_files.require_texts(rows, needed)
    found = []
    for number, row in enumerate(rows, 1):
        intent, source = labelled_files.checked(row.place, row.cells)
        found.append((number, {**row.cells, "intent": intent, "source": source}))
    return found


def _of_line(path: str, number: int, row: dict[str, Any], response: str) -> Answer:
    def given(key: str, default: str = "") -> str:
        value = row.get(key)
        return default if value is None or value == "" else str(value)

    prompt_sha = sha256(row["prompt"])
    return Answer(
        benchmark=given("benchmark", Path(path).stem),
        id=given("id", prompt_sha[:12]),  # the same prompt answered by several systems is one record
        prompt_sha=prompt_sha,
        epoch=number,
        cluster=given("cluster", prompt_sha[:16]),
        intent=row["intent"],
        need=given("need"),
        withhold=given("withhold"),
        prompt=row["prompt"],
        response=row[response],
        system=row["source"] if response == "response" else response,
        system_id=given("system_id"),
    )


# --- what is drawn -------------------------------------------------------------------------------------------------


def draw(paths: Sequence[str], axes: Sequence[Axis], pairs: bool, n: int, seed: int) -> Sample:
    """Draw what is rated.

    Args:
        paths: runs, or files of responses; with pairs two runs (candidate, baseline), or one file of pairs.
        axes: what is asked.
        pairs: show two responses to the same record side by side.
        n: number of responses (or pairs); the last record drawn is taken whole.
        seed: another number, another draw.

    Raises:
        UsageError: if n is below 1, a run is given twice, there is nothing to rate, or the number of paths is wrong.
        LogError: if a run is unfinished, or two runs to be paired hold different records.
    """
    if n < 1:
        raise UsageError(f"-n {n}: give a number of at least 1.")
    items, left_out = _pairs(paths) if pairs else _singles(paths)
    if not items:
        raise UsageError(f"{', '.join(paths)}: there is nothing to rate ({_left_out(left_out) or 'no response'}).")
    records = sorted({item.record for item in items}, key=lambda record: _hash(seed, *record))
    by_record: dict[tuple[str, str, str], list[Item]] = {record: [] for record in records}
    for item in items:
        by_record[item.record].append(item)
    chosen: list[Item] = []
    for record in records:
        if len(chosen) < n:
            chosen += by_record[record]
    frame = sha256(json.dumps(sorted([item.key, *(id for id, _ in item.systems)] for item in items)))[:16]
    asked = fingerprint(axes, pairs)
    return Sample(tuple(chosen), tuple(axes), pairs, n, seed, frame, len(records), dict(left_out), asked)


def _left_out(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.items())


def _singles(paths: Sequence[str]) -> tuple[list[Item], Counter[str]]:
    found, left_out = [], Counter[str]()
    seen: dict[tuple[Any, ...], int] = {}
    for number, path in enumerate(paths):
        for answer in read(path):
            key = (*answer.record, answer.epoch, answer.system_id or path, answer.system)
            first = seen.setdefault(key, number)
            if first != number:
                raise UsageError(
                    f"{path} and {paths[first]} are the same system on the same records. Give each run once."
                )
            if answer.response.strip():
                found.append(answer)
            else:
                left_out["empty responses"] += 1
    return _once(found), left_out


def _once(answers: Iterable[Answer]) -> list[Item]:
    """One item per text and record, with everybody who wrote it."""
    items: dict[str, Item] = {}
    for answer in answers:
        item = _item(answer, (answer.response,), ((answer.system_id, answer.system),))
        known = items.get(item.key)
        systems = {*item.systems, *(known.systems if known else ())}
        items[item.key] = _item(answer, item.responses, tuple(sorted(systems)))
    return list(items.values())


def _item(answer: Answer, responses: tuple[str, ...], systems: tuple[tuple[str, str], ...]) -> Item:
    shared = ("benchmark", "id", "prompt_sha", "cluster", "intent", "need", "withhold", "prompt")
    return Item(**{name: getattr(answer, name) for name in shared}, responses=responses, systems=systems)


def _pairs(paths: Sequence[str]) -> tuple[list[Item], Counter[str]]:
    items: dict[str, Item] = {}
    left_out = Counter[str]()
    for ours, theirs in _both(paths):
        if not ours.response.strip() or not theirs.response.strip():
            left_out["pairs with an empty response"] += 1
        elif ours.response == theirs.response:
            left_out["pairs of the same text"] += 1
        else:
            systems = ((ours.system_id, ours.system), (theirs.system_id, theirs.system))
            item = _item(ours, (ours.response, theirs.response), systems)
            items.setdefault(item.key, item)
    return list(items.values()), left_out


def _both(paths: Sequence[str]) -> list[tuple[Answer, Answer]]:
    if len(paths) == 1 and paths[0].endswith((".jsonl", ".csv")):
        lines = _lines(paths[0], ("prompt", "candidate", "baseline"))
        sides = ("candidate", "baseline")
        return [(a, b) for n, row in lines for a, b in [[_of_line(paths[0], n, row, side) for side in sides]]]
    if len(paths) != 2:
        raise UsageError(
            f"--pairs takes two runs, CANDIDATE BASELINE, or one .jsonl file of pairs, got {len(paths)} path(s)."
        )
    if any(path.endswith((".jsonl", ".csv")) for path in paths):
        raise UsageError('--pairs takes two runs, or one file with "prompt", "candidate" and "baseline" a line.')
    ours, theirs = ({(*a.record, a.epoch): a for a in of_run(_run(path))} for path in paths)
    strangers = sorted(ours.keys() ^ theirs.keys())
    if strangers:
        raise LogError(
            f"{paths[0]} and {paths[1]} hold different records: {len(strangers)} are only in one of them (e.g. "
            f"{strangers[0][1]!r}, epoch {strangers[0][3]}). Score both with the same --split, --limit and --epochs."
        )
    return [(ours[key], theirs[key]) for key in sorted(ours)]


def _hash(*parts: object) -> str:
    return sha256(json.dumps([str(part) for part in parts]))


# --- order and sides -----------------------------------------------------------------------------------------------


def order(sample: Sample, rater: str) -> list[Item]:
    """The items as a rater meets them: at random within blocks of a few records, the same at every start."""
    rank = {record: i for i, record in enumerate(dict.fromkeys(item.record for item in sample.items))}
    return sorted(
        sample.items, key=lambda item: (rank[item.record] // BLOCK, _hash(sample.seed, "order", rater, item.key))
    )


def turned(sample: Sample, rater: str, item: Item) -> bool:
    """Whether a rater sees the baseline's response of a pair first."""
    return int(_hash(sample.seed, "side", rater, item.key), 16) % 2 == 1


# --- the folder ----------------------------------------------------------------------------------------------------


def write(sample: Sample, folder: Path) -> None:
    """Write a sample into a folder, or find the same one there.

    Raises:
        UsageError: if the folder holds another sample; says in what it differs.
    """
    if (folder / FILE).exists():
        _require_same(folder, load(folder), sample)
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # one that exists is the user's own to close
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    items = "".join(json.dumps(asdict(item)) + "\n" for item in sample.items)
    kept = {"records": sample.records, "left_out": sample.left_out, "items": len(sample.items), "sha": sha256(items)}
    head = json.dumps({"id": sample.id, "format": FORMAT, **sample.design, **kept})
    replace_file(folder / FILE, f"{head}\n{items}")


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all; only its owner may read it."""
    place, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(place, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


_WORDS = {
    "frame": "the responses it is drawn from",
    "asked": "the wording of the questions (another version of shard-eval)",
    "n": "the number asked for (-n)",
    "seed": "the seed",
    "axes": "the axes",
    "pairs": "pairs or single responses",
}


def _require_same(folder: Path, kept: Sample, drawn: Sample) -> None:
    for name, ours in drawn.design.items():
        theirs = kept.design[name]
        if ours != theirs:
            shown = "" if name in ("frame", "asked") else f" ({theirs!r} there, {ours!r} now)"
            go_on = "" if name == "asked" else ", or go on with that sample by --to alone, without naming runs"
            raise UsageError(
                f"{folder} holds another sample: {_WORDS[name]} differ{'' if name == 'axes' else 's'}{shown}. Give "
                f"another --to{go_on}."
            )


def load(folder: Path) -> Sample:
    """Read a folder's sample.

    Raises:
        UsageError: if there is none.
        DataError: if it was changed since it was written, or is of an earlier version.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder} holds no {FILE}: it is no folder of `shard judge label`.")
    try:
        first, _, text = path.read_text(encoding="utf-8").partition("\n")
        head = json.loads(first)
        _require_whole(path, head, text)
        items = tuple(_read_item(json.loads(line)) for line in text.split("\n") if line)
        names = ("pairs", "n", "seed", "frame", "records", "left_out", "asked")
        found = Sample(items, tuple(head["axes"]), **{name: head[name] for name in names})
        if not set(found.axes) <= set(AXES):
            raise ValueError(f"unknown axes {found.axes}")
        if found.id != head["id"] or not items:
            raise ValueError("its design is not what it says")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error!r}). Draw the sample again.") from error
    return found


def _require_whole(path: Path, head: Mapping[str, Any], text: str) -> None:
    again = (
        "Draw it again by the same command with another --to. A ratings-*.jsonl that is copied there counts for the "
        "same texts; copy it only if the questions were the same."
    )
    if head["format"] != FORMAT:  # format 1 had no hash of its items: nobody could say what its raters read
        raise DataError(f"{path} is of another version (format {head['format']!r}, here {FORMAT}). {again}")
    there = text.count("\n")
    if there != head["items"]:
        raise DataError(f"{path} was changed: it holds {there} items, {head['items']} were drawn. {again}")
    if sha256(text) != head["sha"]:
        raise DataError(f"{path} was changed: its items are not those that were drawn. {again}")


def _read_item(row: dict[str, Any]) -> Item:
    responses = tuple(str(text) for text in row.pop("responses"))
    systems = tuple((str(id), str(name)) for id, name in row.pop("systems"))
    return Item(**row, responses=responses, systems=systems)


def resume(folder: Path) -> Sample:
    """Read a folder's sample to rate it further.

    Raises:
        UsageError: if there is none, or the questions are no longer those that its raters were asked.
        DataError: as `load`.
    """
    found = load(folder)
    if found.asked != fingerprint(found.axes, found.pairs):
        raise UsageError(
            f"{folder}: the questions are worded otherwise than when its sample was drawn (another version of "
            "shard-eval), and ratings to other words are other ratings. Go on with that version, or draw a sample "
            "anew: shard judge label RUN --to ANOTHER. What is rated can be exported: "
            f"shard judge label --export {folder} -o labels.jsonl"
        )
    return found
