"""May a contributor's result folder stand on a board? Schema, hashes, same prompts, complete, no text, plausible.

A submission is what `shard score` left: results/SYSTEM-ID, or one run in it. A stranger wrote everything in it: nothing
is executed, followed or believed, and every finding says what is wrong, the value, and what to do.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shard_eval import benchmarks, report
from shard_eval.errors import ShardError
from shard_eval.logs import Protocol, Row, Run, read_folder, system_name, to_csv
from shard_eval.records import AXES, Axis, Record, identity, record_to_sample
from shard_eval.splits import choose_split
from shard_eval.systems import SEEDS, Decoding

FILES = ("manifest.json", "verdicts.csv")
LONGEST_TEXT = 200
LARGEST = {"manifest.json": 2**20, "verdicts.csv": 64 * 2**20}
MOST_TOKENS = 10**15
PIECE = 32
"""So many characters of a prompt's words in a row are a piece of it: about 40 as they are written."""
SHORT = 12
"""A prompt of fewer characters is looked for as a whole text only, for it may be an ordinary word."""
FEW_ANSWERS = 5
"""Two systems with at most so many different verdicts may agree on all, as constants do."""
MOST_UNSCORED = 0.2
ALIKE = 0.95
_STATED = ("cluster", "split", "risk_area", "category", "type", "level", "intent", "source")
"""Fields of a row that the benchmark states, not the contributor."""

_KEYS = re.compile(r"[a-z0-9_-]{1,16}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_STOPS = ("", "stop", "max_tokens", "model_length", "tool_calls", "content_filter", "unknown")
_KEY = "what looks like a key"
_TRACES = {
    "an absolute path": re.compile(
        r"(?:^|[\s='\"(:,])(?:/[\w.~-]+/|~/|file:)|[A-Za-z]:[\\/]|\\\\|/(?:home|Users|root)/"
    ),
    "an e-mail address or a user's name": re.compile(r"[\w.+-]+@[\w-]+\.[A-Za-z]{2,}|[\w-]+@[\w-]+:"),
    "an address or a host's name": re.compile(r"\w+://|\blocalhost\b|\b\d{1,3}(?:\.\d{1,3}){3}\b|\.local\b"),
    _KEY: re.compile(
        r"\b(?:sk|pk|rk)-[\w-]{16,}|\bhf_\w{16,}|\bgh[pousr]_\w{16,}|\bgithub_pat_|\bAKIA[0-9A-Z]{12,}|\bAIza[\w-]{20,}"
        r"|\bxox[abp]-|\bBearer\s|-----BEGIN"
    ),
}

Level = Literal["reject", "remark"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: "reject" keeps the submission off the board; "remark" is for whoever decides.
        where: the run's folder, relative to what was submitted; "" for the whole.
        text: what, the value, and what to do; without control characters.
    """

    level: Level
    where: str
    text: str


@dataclass(frozen=True)
class Review:
    """All findings on a submission."""

    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against it."""
        return not any(finding.level == "reject" for finding in self.findings)


def review(folder: str, references: Mapping[tuple[str, str], Sequence[Run]], names: Sequence[str] = ()) -> Review:
    """Check a submission against a board.

    Args:
        folder: a run's folder, or a system's with several.
        references: the board's runs by (benchmark, judge) as their protocols name them.
        names: the systems' names that the board's spec gives; none of them is free.

    Returns:
        Every finding; an unreadable folder is a finding too, never an exception.
    """
    root = Path(folder)
    places = [root] if (root / "manifest.json").exists() else _run_folders(root)
    if not places:
        text = f"{root.name!r} holds no run: no manifest.json in it or one level below. Give results/SYSTEM-ID."
        return Review((_reject(text),))
    findings = [] if places == [root] else list(_strays(root, places))
    everyone = tuple(run for runs in references.values() for run in runs)
    found: list[Run] = []
    for place in places:
        label = "" if place == root else place.name
        run, faults = _read(place)
        findings += _placed(label, faults)
        if run is None:
            continue
        found.append(run)
        key = (run.protocol.benchmark, run.protocol.judge)
        records, absent = _records(run.protocol.benchmark)
        findings += _placed(label, absent)
        findings += _placed(label, [*_quotes(place, records or ()), *_listed(run, names)])
        findings += _placed(label, _against(run, references.get(key, ()), records, everyone))
    return Review((*findings, *_together(found)))


def check(folder: str, reference: Sequence[Run], records: Sequence[Record] | None = None) -> list[Finding]:
    """Check one run's folder against the board's runs of the same benchmark and judge.

    Args:
        folder: the run's folder.
        reference: the board's runs of one table; the first says what the protocol is.
        records: the benchmark's records with their splits; None if they cannot be had here.
    """
    run, faults = _read(Path(folder))
    if run is None:
        return _placed("", faults)
    quotes = _quotes(Path(folder), records or ())
    return _placed("", [*faults, *quotes, *_against(run, reference, records, reference)])


# --- reading -----------------------------------------------------------------------------------------------------


def _reject(text: str) -> Finding:
    return Finding("reject", "", report.inert(text))


def _remark(text: str) -> Finding:
    return Finding("remark", "", report.inert(text))


def _placed(place: str, found: Sequence[Finding]) -> list[Finding]:
    return [Finding(f.level, report.inert(place), f.text) for f in found]


def _shown(value: object) -> str:
    """A value in a message: short, on one line, and without a long text that may be a prompt."""
    return report.inert(repr(value)[:80])


def _run_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if not p.is_symlink() and (p / "manifest.json").exists())


def _strays(root: Path, places: Sequence[Path]) -> Iterator[Finding]:
    for path in sorted(set(root.iterdir()) - set(places)):
        yield _reject(f"{_shown(path.name)} is no folder of a run. Submit runs only; remove it.")


def _read(place: Path) -> tuple[Run | None, list[Finding]]:
    """A run's small files; None if they cannot be judged further."""
    if not _NAME.fullmatch(place.resolve().name):
        return None, [_reject(f"the folder's name {_shown(place.name)} is none `shard score` gives. Rename it.")]
    findings = list(_files(place))
    if findings:
        return None, findings
    manifest, findings = _manifest(place / "manifest.json")
    if manifest is None:
        return None, findings
    try:
        text = (place / "verdicts.csv").read_bytes().decode("utf-8")
        run = read_folder(place)
    except (ShardError, UnicodeDecodeError, csv.Error) as error:
        return None, [
            *findings,
            _reject(f"{_without_place(error, place)} Submit the files as `shard score` left them."),
        ]
    return run, [*findings, *_identity(manifest, run), *_form(text, run)]


def _without_place(error: Exception, place: Path) -> str:
    return str(error).replace(f"{place}/", "").replace(str(place), place.name)[:240]


def _files(place: Path) -> Iterator[Finding]:
    for path in sorted(place.iterdir()):
        if path.name == "logs" or path.suffix in (".eval", ".log"):
            yield _reject(f"{_shown(path.name)}: logs hold prompts and responses. Remove them; the labels are enough.")
        elif path.name == "summary.json":
            yield _reject("summary.json is not needed; remove it. The board counts for itself.")
        elif path.is_symlink() or path.name not in FILES or not path.is_file():
            yield _reject(f"{_shown(path.name)} is none of {', '.join(FILES)}. Remove it.")
        elif (size := path.stat().st_size) > LARGEST[path.name]:
            yield _reject(f"{path.name} has {size} bytes; {LARGEST[path.name]} is the most. Submit fewer epochs.")
    for name in FILES:
        if not (place / name).exists():
            yield _reject(f"{name} is missing. Submit the folder as `shard score` left it.")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _known(decoding: dict[str, int | float | str | None]) -> dict[str, int | float | str | None]:
    known = [item.name for item in fields(Decoding)]
    texts = {key: value for key, value in decoding.items() if isinstance(value, str)}
    if not decoding.keys() <= {*known, "seeds"} or texts not in ({}, {"seeds": SEEDS}):
        raise ValueError(f"holds something else than {', '.join(known)}")
    return decoding


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
_Package = Literal["python", "shard-eval", "inspect-ai", "xllamacpp", "openai", "torch", "transformers", "vllm"]
"""What `score.versions` states."""


class _System(_Strict):
    model: str = Field(min_length=1)
    engine: str
    dtype: str
    weights_sha256: _Hash
    base_sha256: _Hash
    solver: str = Field(min_length=1)
    solver_sha256: _Hash
    decoding: Annotated[dict[str, int | float | str | None], AfterValidator(_known)]
    settings: Annotated[dict[str, str | int | float | bool | None], Field(max_length=20)] = {}
    again: bool = False


class _Ran(_Strict):
    benchmark: str
    content_sha: str
    judge: str
    judge_prompts: dict[Axis, str]
    grader: _System | dict[Annotated[str, Field(pattern=r"^grader[0-9]?$")], _System] | None  # a panel's by role
    axes: list[Axis]
    split: str
    limit: Annotated[int, Field(ge=1)] | None
    epochs: int = Field(ge=1)


class _Protocol(_Strict):
    task: str
    version: str
    benchmark: str
    origin: str
    content: str
    judge: str
    prompts: list[tuple[Axis, str]]


class _Source(_Strict):
    name: str
    sha256: str
    citation: str


class _Imported(_Strict):
    source: _Source
    judging: dict[Axis, str]
    notes: Annotated[list[Annotated[str, Field(max_length=LONGEST_TEXT)]], Field(max_length=5)]


class _Manifest(_Strict):
    """What `shard score` and `shard results import` write."""

    system: _System
    system_id: str
    run: _Ran
    protocol: _Protocol
    verdicts_sha256: str
    usage: dict[Literal["input_tokens", "output_tokens"], Annotated[int, Field(ge=0, le=MOST_TOKENS)]]
    versions: dict[_Package, Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9_.+!-]{0,40}$")]]
    log: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,120}\.eval$")] = ""
    imported: _Imported | None = None
    own_family: dict[str, str] = {}


def _manifest(path: Path) -> tuple[dict[str, Any] | None, list[Finding]]:
    found, fault = _json(path)
    if fault:
        return None, [_reject(fault)]
    try:
        _Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        lines = list(dict.fromkeys(f"{_location(e['loc'])}: {e['msg']}"[:200] for e in error.errors()))[:5]
        return None, [_reject(f"manifest.json is no manifest of this version: {line}. Score again.") for line in lines]
    checked = {key: value for key, value in found.items() if key != "versions"}  # a version may look like an address
    return found, list(_texts("manifest.json", checked))


def _location(parts: Sequence[int | str]) -> str:
    """Where in the manifest; a key of the contributor's own may be a text or a secret and is not repeated."""
    shown = (str(p) if _KEYS.fullmatch(str(p)) else "(a key)" for p in parts if p != "[key]")  # pydantic's own mark
    return ".".join(shown) or "it"


def _json(path: Path) -> tuple[Any, str]:
    """A JSON file in the form we write it, so that nothing hides in a repeated key; else what is wrong with it."""
    try:
        text = path.read_bytes().decode("utf-8")
        found = json.loads(text)
        if report.dumps(found) == text:
            return found, ""
        return None, f"{path.name} is not in the form `shard score` writes. Submit the file as it was written."
    except (ValueError, RecursionError) as error:
        return None, f"{path.name} is no JSON ({str(error)[:100]}). Submit the file as it was written."


def _texts(name: str, value: Any, path: str = "") -> Iterator[Finding]:
    """Strings that a table has no use for: long ones, control characters, paths, names and keys of the contributor."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(name, str(key), f"{path}.(a key)")
            yield from _texts(name, item, f"{path}.{key[:40]}")
    elif isinstance(value, list):
        for item in value:
            yield from _texts(name, item, path)
    elif isinstance(value, str):
        fault = _fault(value)
        if fault:
            yield _reject(f"{name}, {path.lstrip('.')}: {fault}. A submission holds names, hashes and numbers only.")


def _fault(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        return f"a text of {len(text)} characters ({LONGEST_TEXT} is the most)"
    if report.inert(text) != text or any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text):
        return f"line breaks, control or invisible characters in {_shown(text)}"
    what = next((what for what, pattern in _TRACES.items() if pattern.search(text)), "")
    return f"{what} in {_shown(text)}" if what and what != _KEY else what


def _quotes(place: Path, records: Sequence[Record]) -> Iterator[Finding]:
    """A prompt of the benchmark, or a piece of one, among the keys and texts of a manifest that was read already."""
    texts = {_words(text) for text in _strings(json.loads((place / "manifest.json").read_bytes()))} - {""}
    pieces = {text[i : i + PIECE] for text in texts for i in range(len(text) - PIECE + 1)}
    together = "\n".join(sorted(texts))
    for record in records:
        prompt = _words(record.prompt)
        whole = prompt in texts or (len(prompt) >= SHORT and prompt in together)
        if whole or any(prompt[i : i + PIECE] in pieces for i in range(len(prompt) - PIECE + 1)):
            yield _reject(f"manifest.json holds a prompt, or a piece of it (id {_shown(record.id)}). Take it out.")
            return


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str) and not re.fullmatch("[0-9a-f]+", value):
        yield value


def _words(text: str) -> str:
    """A text's letters and digits, as they are compared: without case, punctuation and width of the white space."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


# --- one run by itself -------------------------------------------------------------------------------------------


def _identity(manifest: Mapping[str, Any], run: Run) -> Iterator[Finding]:
    """Hashes, and that the manifest's parts say the same."""
    expected = identity(manifest["system"])
    if manifest["system_id"] != expected:
        yield _reject(
            f"system_id is {_shown(manifest['system_id'])}, but the system's hash {expected}: it was edited.",
        )
    ran, protocol = manifest["run"], run.protocol
    judge = protocol.judge.partition(":")[0] if ran["grader"] else protocol.judge
    grader = identity(ran["grader"]) if ran["grader"] else ""
    pairs: dict[str, tuple[object, object]] = {
        "benchmark": (ran["benchmark"], protocol.benchmark),
        "content_sha": (ran["content_sha"], protocol.content),
        "judge": (ran["judge"].partition(":")[0] if ran["grader"] else ran["judge"], judge),
        "judge_prompts": (ran["judge_prompts"], dict(protocol.prompts)),
        "axes": (sorted(ran["axes"]), sorted(axis for axis, _ in protocol.prompts)),
        "grader": (grader, protocol.judge[-8:] if grader else ""),
    }
    for name, (stated, held) in pairs.items():
        if stated != held:
            yield _reject(
                f"manifest.json states two things of {name}: {_shown(stated)} and {_shown(held)}. Score again."
            )


def _form(text: str, run: Run) -> Iterator[Finding]:
    """The table is exactly what `to_csv` makes of its rows: no further column, no hidden text."""
    if to_csv(run.rows) != text:
        header = next(csv.reader([text.split("\n", 1)[0]]), [])
        ours = next(csv.reader([to_csv(())]))
        extra = [column for column in header if column not in ours]
        what = f"has the column {_shown(extra[0])}" if extra else "is not in the form `shard score` writes"
        yield _reject(f"verdicts.csv {what}. Only ids, hashes and labels are taken; submit the file as it was written.")
    stops = sorted({row.stop_reason for row in run.rows} - set(_STOPS))
    if stops:
        yield _reject(f"verdicts.csv: stop_reason {_shown(stops[0])} is none of {', '.join(_STOPS[1:])}.")
    axes = {axis for axis, _ in run.protocol.prompts}
    bare = [(row, axis) for row in run.rows for axis in axes if axis not in row.labels]
    if bare:
        row, axis = bare[0]
        yield _reject(
            f"{len(bare)} verdicts have neither label nor reason (first: {axis} of id {_shown(row.id)}). Score again.",
        )
    more = sorted({axis for row in run.rows for axis in row.labels} - axes)
    if more:
        yield _reject(f"verdicts.csv has labels of {more[0]}, which the protocol does not name. Score again.")
    epochs = run.metadata["run"]["epochs"]
    times = Counter(row.id for row in run.rows)
    odd = [id for id, n in times.items() if n != epochs] + [r.id for r in run.rows if not 1 <= r.epoch <= epochs]
    if odd:
        yield _reject(f"{len(set(odd))} records do not have each of {epochs} epochs (first: id {_shown(odd[0])}).")


# --- a run and the board -----------------------------------------------------------------------------------------


def _records(benchmark: str) -> tuple[Sequence[Record] | None, list[Finding]]:
    """The benchmark's records; only a built-in one is loaded, for a stranger's name could be a path."""
    try:
        if benchmark in benchmarks.BENCHMARKS:
            return benchmarks.load(benchmark).records, []
    except ShardError:
        pass  # said below, as for a benchmark that is not built in
    return None, [
        _remark(f"benchmark {_shown(benchmark)} is not here: prompts were compared with the board's runs only.")
    ]


def _against(
    run: Run, reference: Sequence[Run], records: Sequence[Record] | None, everyone: Sequence[Run]
) -> list[Finding]:
    if not reference:
        what = f"{_shown(run.protocol.benchmark)} judged by {_shown(run.protocol.judge)}"
        return [_reject(f"the board has no table for {what}. Score with the board's benchmarks and judge.")]
    first = reference[0]
    findings = [*_same_protocol(run.protocol, first.protocol), *_same_extent(run, first)]
    if findings and any(f.level == "reject" for f in findings):
        return [*findings, *_name(run, everyone)]
    findings += _same_rows(run, {(r.id, r.prompt_sha): r for r in first.rows}, "the board's runs")
    if records is not None:
        findings += _same_benchmark(run, records)
    return [*findings, *_plausible(run, reference), *_name(run, everyone)]


def _same_protocol(mine: Protocol, board: Protocol) -> Iterator[Finding]:
    for item in fields(Protocol):
        given, expected = getattr(mine, item.name), getattr(board, item.name)
        if given == expected:
            continue
        if item.name == "origin" and not {"fixture", "import"} & {given, expected}:
            yield _remark(
                f"prompts come from {_shown(given)}, the board's from {_shown(expected)}; their hash is the same."
            )
        else:
            yield _reject(
                f"protocol: {item.name} is {_shown(given)}, the board's {_shown(expected)}. Score as the board does.",
            )


def _same_extent(run: Run, board: Run) -> Iterator[Finding]:
    mine, theirs = run.metadata["run"], board.metadata.get("run") or {}
    for name in ("split", "limit", "epochs", "grader"):
        if name in theirs and mine[name] != theirs[name]:
            yield _reject(
                f"run: {name} is {_shown(mine[name])}, the board's {_shown(theirs[name])}. Score as the board does.",
            )


def _same_rows(run: Run, known: Mapping[tuple[str, str], Row], whose: str) -> Iterator[Finding]:
    """The same prompts by id and hash, all of them, with the fields that the benchmark states."""
    mine = {(row.id, row.prompt_sha) for row in run.rows}
    strange, missing = sorted(mine - known.keys()), sorted(known.keys() - mine)
    if strange:
        id = strange[0][0]
        what = "is another prompt" if id in {k for k, _ in known} else "is unknown"
        yield _reject(
            f"{len(strange)} prompts are not those of {whose} (first: id {_shown(id)} {what}). Use the same prompts.",
        )
    if missing:
        yield _reject(
            f"{len(missing)} of {len(known)} prompts are missing (first: id {_shown(missing[0][0])}). Score all."
        )
    for name in _STATED:
        odd = [r for r in run.rows if (k := known.get((r.id, r.prompt_sha))) and getattr(r, name) != getattr(k, name)]
        if odd:
            yield _reject(
                f"{name} of {len(odd)} rows is not that of {whose} (first: id {_shown(odd[0].id)}). Score again.",
            )


def _same_benchmark(run: Run, records: Sequence[Record]) -> Iterator[Finding]:
    ran = run.metadata["run"]
    try:
        chosen = choose_split(records, ran["split"])[: ran["limit"]]
    except ShardError as error:
        yield _reject(f"run: {error}")
        return
    yield from _same_rows(run, {(r.id, r.prompt_sha): _stated(r) for r in chosen}, "the benchmark")


def _stated(record: Record) -> Row:
    """A row with what the benchmark states of a record, as a log has it."""
    meta = record_to_sample(record).metadata or {}
    return Row(
        **{name: meta[name] for name in ("benchmark", "prompt_sha", *_STATED)},
        id=record.id,
        epoch=1,
        stop_reason="",
        chars=0,
    )


def _answers(run: Run) -> dict[tuple[str, int], tuple[int, dict[Axis, int | None]]]:
    return {(row.id, row.epoch): (row.chars, row.labels) for row in run.rows}


def _variety(run: Run) -> int:
    """How many different combinations of labels a run's responses have."""
    return len({tuple(row.labels.get(axis) for axis in AXES) for row in run.rows})


def _plausible(run: Run, reference: Sequence[Run]) -> Iterator[Finding]:
    mine = _answers(run)
    for other in (o for o in reference if o.metadata.get("system_id") != run.metadata["system_id"]):
        theirs, name = _answers(other), _shown(system_name(other))
        shared = mine.keys() & theirs.keys()
        alike = sum(mine[key] == theirs[key] for key in shared)
        labels = sum(mine[key][1] == theirs[key][1] for key in shared)
        if shared and alike == len(mine):
            yield _reject(f"every label and length is that of {name}: it is a copy. Submit a system of its own.")
        elif labels == len(mine) and _variety(run) > FEW_ANSWERS:
            yield _reject(f"every label is that of {name}, whatever the lengths: it is a copy. Submit a system's own.")
        elif shared and alike >= ALIKE * len(mine):
            yield _remark(f"{alike} of {len(mine)} labels and lengths are those of {name}. Is it another system?")
        elif shared and labels >= ALIKE * len(mine):
            yield _remark(f"{labels} of {len(mine)} labels are those of {name}. Is it another system?")
    for axis in (axis for axis in AXES if any(axis in row.labels for row in run.rows)):
        given = [row.labels.get(axis) for row in run.rows]
        missing = given.count(None)
        if missing > MOST_UNSCORED * len(given):
            yield _reject(
                f"{missing} of {len(given)} verdicts on {axis} are missing; {MOST_UNSCORED:.0%} is the most.",
            )
        elif missing:
            yield _remark(f"{missing} of {len(given)} verdicts on {axis} are missing.")
    if not any(row.chars for row in run.rows):
        yield _remark("no response has a length: nothing can be said at equal length.")


def _name(run: Run, everyone: Sequence[Run]) -> Iterator[Finding]:
    """The name is free, or it is this very system's; one that only looks different is not free."""
    mine = system_name(run)
    for other in everyone:
        name = system_name(other)
        if _plain(name) != _plain(mine):
            continue
        same = other.metadata.get("system_id") == run.metadata["system_id"]
        table = (other.protocol.benchmark, other.protocol.judge) == (run.protocol.benchmark, run.protocol.judge)
        if same and not table:
            continue
        if same:
            yield _reject(f"{_shown(mine)} is already in this table. Submit what the board does not have.")
        else:
            yield _reject(
                f"the name {_shown(mine)} is used on the board for another system ({_shown(name)}). Use --label."
            )
        return


def _listed(run: Run, names: Sequence[str]) -> Iterator[Finding]:
    """The name is none that the board's spec gives, and has no letters that only look like those of another."""
    mine = system_name(run)
    taken = [name for name in names if _plain(name) == _plain(mine)]
    if taken:
        yield _reject(f"the name {_shown(mine)} is already on the board ({_shown(taken[0])}). Use --label.")
    strange = next((c for c in mine if not " " <= c <= "~"), "")
    if strange:
        what = unicodedata.name(strange, "unnamed")
        yield _remark(
            f"the name {_shown(mine)} has {what}, no Latin letter, digit or plain sign: it may imitate another."
        )


def _plain(name: str) -> str:
    """A name without what the eye hardly tells apart: case, compatible characters, white space and most punctuation.

    A point and a plus count, for 1.5B is not 15B.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    left_out = ("P", "Z", "C", "M", "Sk", "Sm")
    return "".join(c for c in folded if c in ".+" or not unicodedata.category(c).startswith(left_out)).strip(".")


def _together(runs: Sequence[Run]) -> Iterator[Finding]:
    """Runs submitted together are of one system, and of different benchmarks or judges."""
    ids = sorted({str(run.metadata["system_id"]) for run in runs})
    if len(ids) > 1:
        yield _reject(f"the folder holds runs of {len(ids)} systems ({', '.join(ids)}). Submit one at a time.")
    tables = Counter((run.protocol.benchmark, run.protocol.judge) for run in runs)
    for (benchmark, judge), n in tables.items():
        if n > 1:
            yield _reject(f"{n} runs are of {_shown(benchmark)} judged by {_shown(judge)}. Submit one of them.")


__all__ = ["FILES", "Finding", "Review", "check", "review"]
