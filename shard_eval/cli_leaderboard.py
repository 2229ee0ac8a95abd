"""`shard leaderboard`: build boards from their specs, check that they are what the specs give, receive and publish."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shard_eval.cli import consoles
from shard_eval.errors import UsageError

if TYPE_CHECKING:
    from shard_eval.leaderboard.spec import Spec
    from shard_eval.leaderboard.table import Board
    from shard_eval.logs import Run

ROOT = "leaderboards"
PAGE = "index.html"


@click.group()
def leaderboard() -> None:
    """Publish boards: specs/*.toml and finished results -> tables, one HTML page, pictures. No model is asked.

    \b
    shard leaderboard build                             every board of leaderboards/specs
    shard leaderboard check                             are the files what the specs and results give?
    shard leaderboard submit SPEC FOLDER                may this result folder stand on the board?
    shard leaderboard export BOARD SYSTEM               the evaluation block for a model card
    shard leaderboard dataset BOARD OUT                 all verdicts as Parquet with a card
    shard leaderboard site BOARD OUT                    a folder ready for static hosting
    """  # noqa: D301 (click reads the control character)


_specs = click.argument("specs", nargs=-1, type=click.Path(path_type=Path))
_root = click.option("--root", default=ROOT, show_default=True, type=click.Path(path_type=Path), help="Boards' folder.")


@leaderboard.command()
@_specs
@_root
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Also SVG and PNG files for papers.")
@click.option("--json", "as_json", is_flag=True, help="Print the boards as JSON.")
def build(specs: Sequence[Path], root: Path, pictures: bool, as_json: bool) -> None:
    """Build boards: Markdown, CSV, JSON, LaTeX, one HTML page, and pictures.

    SPECS default to all of leaderboards/specs. Passports of the boards' judges that only you have are copied to
    leaderboards/passports, so that the board is the same everywhere.
    """
    from shard_eval import report
    from shard_eval.leaderboard import render

    out, err = consoles()
    built = {}
    for spec in _read(specs, root):
        for name in _adopt_passports(spec, root):
            err.print(f"passport copied: {name}", highlight=False, markup=False)
        board = _build(spec, root)
        folder = root / spec.name
        _write(folder, _files(board))
        if pictures:
            _write_pictures(board, folder)
        if as_json:
            built[spec.name] = json.loads(render.to_json(board))
            continue
        report.show(out, [render.grid(table) for table in board.tables])
        for line in board.checks:
            out.print(report.inert(line), style="" if line.startswith("pass") else "bold red", markup=False)
        out.print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}", style="dim", markup=False)
    if as_json:
        click.echo(report.dumps(built), nl=False)


@leaderboard.command()
@_specs
@_root
def check(specs: Sequence[Path], root: Path) -> None:
    """Build boards again and compare them with their files, byte for byte; exit code 1 if one differs.

    Pictures are drawn by a library whose versions differ in detail: of them only the specifications are compared, which
    the page holds.
    """
    from shard_eval.leaderboard import pictures

    out, _ = consoles()
    chosen = _read(specs, root)
    faults = [] if specs else _orphans(root, {spec.name for spec in chosen})
    for spec in chosen:
        board = _build(spec, root)
        faults += _differences(root / spec.name, _files(board), set(pictures.named(board)))
    for line in faults:
        out.print(line, markup=False, highlight=False)
    if faults:
        click.get_current_context().exit(1)
    out.print("every board is what its spec and its results give.")


def _orphans(root: Path, boards: set[str]) -> list[str]:
    known = {*boards, "specs", "passports"}
    strangers = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in known)
    return [f"{root / name} has no spec. Write one, or remove the folder." for name in strangers]


def _differences(folder: Path, files: Mapping[str, bytes], drawn: set[str]) -> list[str]:
    """What of a board's folder is not what its spec and results give."""
    lines = []
    for name, content in files.items():
        place = folder / name
        if not place.is_file() or place.read_bytes() != content:
            state = "differs from what its spec and results give" if place.is_file() else "is missing"
            lines.append(f"{place} {state}. Run `shard leaderboard build`.")
    for place in sorted(p for p in folder.rglob("*") if not p.is_dir()):
        name = place.relative_to(folder).as_posix()
        if name not in files and name not in drawn:
            lines.append(f"{place} is no file of the board. Remove it.")
        elif name.endswith(".svg") and _LOADS.search(place.read_text(encoding="utf-8", errors="replace")):
            lines.append(
                f"{place} runs or loads something, which no picture of ours does. Run `shard leaderboard build`."
            )
    return lines


_LOADS = re.compile(r"<script|<image|<foreignObject|href|\bon[a-z]+\s*=", re.IGNORECASE)


@leaderboard.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("folders", nargs=-1, required=True)
@_root
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def submit(spec: Path, folders: Sequence[str], root: Path, as_json: bool) -> None:
    """Say whether result folders may stand on a board; exit code 1 if one may not.

    Checked: schema, hashes, same prompts as the board's, complete, no text, nobody else's verdicts.
    """
    from dataclasses import asdict

    from shard_eval import report
    from shard_eval.leaderboard import submission

    (read,) = _read([spec], root)
    references = _runs(read)
    names = [system.name for system in read.systems]
    found = {folder: submission.review(folder, references, names) for folder in folders}
    if as_json:
        click.echo(report.dumps({folder: asdict(review) for folder, review in found.items()}), nl=False)
    out, _ = consoles()
    for folder, review in found.items() if not as_json else ():
        out.print(f"{report.inert(folder)}: {'accept' if review.accepted else 'REJECT'}", markup=False, highlight=False)
        for finding in review.findings:
            where = f"{finding.where}: " if finding.where else ""
            out.print(report.inert(f"  {finding.level}: {where}{finding.text}"), markup=False, highlight=False)
    if not all(review.accepted for review in found.values()):
        click.get_current_context().exit(1)


@leaderboard.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("system")
@_root
def export(spec: Path, system: str, root: Path) -> None:
    """Print a system's evaluation block (`model-index`) for the head of its Hugging Face model card."""
    from shard_eval.leaderboard import publish

    (read,) = _read([spec], root)
    click.echo(publish.model_index(_build(read, root), system), nl=False)


@leaderboard.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_root
def dataset(spec: Path, out: Path, root: Path) -> None:
    """Write all verdicts of a board as a data set: Parquet and a card; ids, hashes and labels only."""
    from shard_eval.leaderboard import publish

    (read,) = _read([spec], root)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty. Give a new folder, so that nothing else is published with the data.")
    runs = [run for there in _runs(read).values() for run in there]
    _write(out, publish.dataset(_build(read, root), runs))
    click.echo(f"{out}")


@leaderboard.command()
@click.argument("board")
@click.argument("out", type=click.Path(path_type=Path))
@_root
@click.option(
    "--logs", multiple=True, help="Also an `inspect view` bundle of these log folders, WITH prompts and answers."
)
def site(board: str, out: Path, root: Path, logs: Sequence[str]) -> None:
    """Make a folder ready for static hosting of a built board."""
    from shard_eval.leaderboard import publish

    folder = root / board
    if not (folder / PAGE).is_file():
        raise UsageError(f"{folder} holds no built board. Run `shard leaderboard build` first.")
    for line in publish.site(folder, out, logs):
        click.echo(line, err=True)


def _read(specs: Sequence[Path], root: Path) -> list[Spec]:
    """The specs that are meant: those named, by path or by the board's name, or all."""
    from shard_eval.leaderboard import spec

    places = [p if p.suffix == ".toml" else root / "specs" / f"{p}.toml" for p in specs] or sorted(
        (root / "specs").glob("*.toml")
    )
    if not places:
        raise UsageError(f"{root / 'specs'} holds no *.toml. Write one (leaderboards/README.md), or name it.")
    found = [spec.read(place) for place in places]
    for path in (path for s in found for system in s.systems for path in (*system.results, system.preferences)):
        if Path(path).is_absolute():
            raise UsageError(
                f"{path[:200]!r}: give paths from the working directory; an absolute one would be published."
            )
    names = [s.name for s in found]
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise UsageError(f"two specs are called {again[0]!r}, and would be the same board. Rename one.")
    return found


def _build(spec: Spec, root: Path) -> Board:
    from shard_eval.leaderboard import board

    return board.build(spec, root / "passports")


def _files(board: Board) -> dict[str, bytes]:
    """Every file of a board that is the same on every machine."""
    from shard_eval.leaderboard import page, pictures, render

    files = {name: make(board).encode() for name, make in render.FORMATS.items()}
    return files | {PAGE: page.html(board, pictures.pictures(board)).encode()}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # a link is replaced, not followed
        place.write_bytes(content)


def _write_pictures(board: Board, folder: Path) -> None:
    """Draw the pictures, in place of those of an earlier build; without the drawing library only say so."""
    from shard_eval.leaderboard import pictures

    try:
        files = pictures.files(board)
    except UsageError as error:
        click.echo(f"no picture files: {error}", err=True)
        return
    for old in (folder / "pictures").glob("*.*"):
        if f"pictures/{old.name}" not in files:
            old.unlink()
    _write(folder, files)


def _adopt_passports(spec: Spec, root: Path) -> list[str]:
    """Copy passports of the board's judges from the user's store; one that is there already is left alone."""
    import json

    from shard_eval import passports
    from shard_eval.leaderboard import sources
    from shard_eval.logs import read_folder
    from shard_eval.pairs import judges_of

    judges: dict[str, dict[str, str]] = {}
    for folders in sources.find(spec).values():
        protocol = read_folder(folders[spec.baseline]).protocol
        judges.setdefault(protocol.judge, {}).update(protocol.prompts)
    for system in spec.systems:
        if system.preferences:
            for judge, prompts in judges_of(system.preferences).items():
                judges.setdefault(judge, {}).update(prompts)
    copied = []
    for judge, prompts in judges.items():
        for name, passport in passports.kept(judge, prompts):
            place = root / "passports" / name
            if not place.exists():
                _write(place.parent, {name: (json.dumps(passport, indent=1, sort_keys=True) + "\n").encode()})
                copied.append(name)
    return copied


def _runs(spec: Spec) -> dict[tuple[str, str], list[Run]]:
    """All runs of a board, per benchmark and judge."""
    from shard_eval.leaderboard import sources
    from shard_eval.logs import read_folder

    found: dict[tuple[str, str], list[Run]] = {}
    for folders in sources.find(spec).values():
        runs = [read_folder(folder) for folder in dict.fromkeys(folders.values())]
        found[runs[0].protocol.benchmark, runs[0].protocol.judge] = runs
    return found
