"""`shard judge label`: people rate responses on a local page. Heavy imports happen inside."""

from __future__ import annotations

import json
import os
import shlex
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shard_eval.cli import ROOT, consoles
from shard_eval.errors import UsageError

if TYPE_CHECKING:
    from shard_eval.labelling.server import LabelServer
    from shard_eval.labelling.store import Ratings

AXES = "harm,refusal,helpfulness"
AXES_OF_PAIRS = "helpfulness,harm"
REDIRECT = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}">
<title>Rate responses</title>
<a href="{url}">Rate responses</a>
"""


@click.command()
@click.argument("runs", nargs=-1)
@click.option("-n", "number", type=int, default=100, show_default=True, help="Responses or pairs, whole records.")
@click.option("--axes", default="", help=f"What is asked; default {AXES}, with --pairs {AXES_OF_PAIRS}.")
@click.option("--pairs", is_flag=True, help="CANDIDATE BASELINE: two responses to a record, which is better?")
@click.option("--rater", default="rater", show_default=True, help="Who rates; each has a file of their own.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another number draws other records.")
@click.option("--to", "folder", default="", help=f"Folder of the sample and ratings; default {ROOT}/labels/….")
@click.option("--port", type=click.IntRange(0), default=0, help="Of the page; default any that is free.")
@click.option("--no-browser", is_flag=True, help="Only print the page's address.")
@click.option("--export", "exported", default="", metavar="FOLDER", help="Write the labels of a folder instead.")
@click.option("-o", "--output", default="", metavar="FILE", help="With --export: the .jsonl file to write.")
@click.option("--ids-only", is_flag=True, help="With --export: ids, hashes and labels, no text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def label(runs: tuple[str, ...], **options: Any) -> None:
    """Rate responses by hand, blind and in random order, on a page of this machine.

    \b
    shard judge label RUN [RUN …] -n 100            single responses; several systems are mixed
    shard judge label CANDIDATE BASELINE --pairs    which of two helps more, which does less harm
    shard judge label --to FOLDER                   go on with a folder's sample
    shard judge label --export FOLDER -o labels.jsonl
    RUN is what `shard score` left (with its log), or a .jsonl or .csv file with "prompt" and "response".

    Each rating is saved at once, and the same command goes on where it stopped. The labels then measure a judge
    (`shard judge calibrate JUDGE --on labels.jsonl`) and correct its rates (`shard show RUN --labels labels.jsonl`).
    Their folder, and labels.jsonl without --ids-only, hold texts: do not publish them.
    """  # noqa: D301 (click reads the control character)
    if options["exported"]:
        if runs:
            raise UsageError("--export takes the folder alone; its sample says which runs it is of.")
        _export(options)
    elif options["output"] or options["ids_only"]:
        raise UsageError("-o and --ids-only belong to --export FOLDER.")
    else:
        _rate(runs, options)


def _rate(runs: tuple[str, ...], options: dict[str, Any]) -> None:
    from shard_eval.labelling import sample as sampling
    from shard_eval.labelling import store
    from shard_eval.labelling.server import Session, open_server

    rater = store.rater_name(options["rater"])
    if runs:
        drawn = sampling.draw(runs, _axes(options), options["pairs"], options["number"], options["seed"])
        folder = Path(options["folder"] or f"{ROOT}/labels/{drawn.slug}")
        sampling.write(drawn, folder)
    elif options["folder"]:
        folder = Path(options["folder"])
        drawn = sampling.resume(folder)
    else:
        raise UsageError("name a run: shard judge label results/SYSTEM/BENCHMARK, or go on with --to FOLDER.")
    ratings = store.Ratings(folder, rater, drawn)
    with open_server(Session(ratings), options["port"]) as server:
        try:
            _announce(server, folder, ratings, options["as_json"])
            with nullcontext() if options["no_browser"] else _browser(server.url, folder):
                server.serve_forever()
        except KeyboardInterrupt:
            click.echo(err=True)
    _how_to_go_on(ratings, folder)


@contextmanager
def _browser(url: str, folder: Path) -> Iterator[None]:
    """Open the page through a file that only its owner may read.

    Everybody on a machine sees what a program was started with, and this address lets one in. Jupyter does so too.
    """
    from shard_eval.labelling.sample import replace_file

    file = folder / f"open-{os.getpid()}.html"
    replace_file(file, REDIRECT.format(url=url))
    try:
        webbrowser.open(file.resolve().as_uri())
        yield
    finally:
        file.unlink(missing_ok=True)


def _axes(options: dict[str, Any]) -> Any:
    from shard_eval.scorers import parse_axes, parse_pair_axes

    if options["pairs"]:
        return parse_pair_axes(options["axes"] or AXES_OF_PAIRS)
    return parse_axes(options["axes"] or AXES)


def _announce(server: LabelServer, folder: Path, ratings: Ratings, as_json: bool) -> None:
    sample, state = ratings.sample, server.session.state()
    if as_json:
        found = {"url": server.url, "folder": str(folder), "rater": ratings.rater, "sample": sample.id}
        click.echo(json.dumps({**found, **{k: state[k] for k in ("total", "rated", "skipped")}}))
        return
    records = len({item.record for item in sample.items})
    what = "pairs" if sample.pairs else "responses"
    left_out = "".join(f"; {n} {why} left out" for why, n in sample.left_out.items())
    drawn = f"{len(sample.items)} {what} to {records} of {sample.records} prompts"
    for line in (
        f"{drawn}, drawn with seed {sample.seed}{left_out}.",
        f"{folder} (holds texts: do not publish) · {state['rated']} rated by {ratings.rater} so far.",
        f"Rate here, only on this machine: {server.url}",
        "Ctrl-C stops; every rating is saved at once.",
    ):
        click.echo(line)


def _how_to_go_on(ratings: Ratings, folder: Path) -> None:
    from shard_eval.labelling.server import Session

    state = Session(ratings).state()
    said = f"{state['rated']} of {state['total']} rated by {ratings.rater}, {state['skipped']} skipped."
    if state["open"]:
        said += f" To go on: {shlex.join(['shard', 'judge', 'label', '--to', str(folder), '--rater', ratings.rater])}"
    export = shlex.join(["shard", "judge", "label", "--export", str(folder), "-o", "labels.jsonl"])
    click.echo(f"{said}\nTo use the labels: {export}", err=True)


def _export(options: dict[str, Any]) -> None:
    from shard_eval import report
    from shard_eval.labelling import export
    from shard_eval.labelling.sample import replace_file

    if not options["output"].endswith(".jsonl"):
        raise UsageError(f"-o {options['output']!r}: name the file to write, ending in .jsonl.")
    found, path = export.export(Path(options["exported"])), Path(options["output"])
    lines = [export.without_texts(line) for line in found.lines] if options["ids_only"] else found.lines
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(json.dumps(line) + "\n" for line in lines))
    if options["as_json"]:
        click.echo(
            report.dumps({"file": str(path), "texts": not options["ids_only"], **export.to_json(found)}), nl=False
        )
        return
    out, err = consoles()
    report.show(out, [export.grid(found)])
    texts = "ids and hashes, no text" if options["ids_only"] else "holds prompts and responses: do not publish it"
    err.print(f"{path} ({texts})", markup=False, highlight=False)
    name = shlex.quote(str(path))
    if not options["ids_only"]:
        err.print(f"Measure a judge: shard judge calibrate JUDGE --on {name}", markup=False, highlight=False)
    if not found.sample.pairs:
        err.print(f"Correct its rates: shard show RUN --labels {name}", markup=False, highlight=False)
