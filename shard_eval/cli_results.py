"""`shard results import`: verdicts from elsewhere become finished runs. Heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shard_eval.cli import ROOT, consoles
from shard_eval.errors import UsageError

if TYPE_CHECKING:
    from shard_eval.importing import Imported
    from shard_eval.report import Grid

_OWN = ("system", "benchmark", "judge", "axes", "split", "how", "engine", "citation")


@click.group()
def results() -> None:
    """Finished runs that were not made by `shard score`."""


@results.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--system", default="", help="Who answered; its name in tables.")
@click.option("-b", "--benchmark", default="", help="Whose records the labels are of; `shard data list` names them.")
@click.option("-j", "--judge", default="", help="Who labelled; its name in tables.")
@click.option("--axes", default="", help="Columns to import (harm,action,refusal,helpfulness); default all there are.")
@click.option("--split", default="", help="The file holds this split only, as for `shard score`.")
@click.option("--how", default="", help="How the labels were made, in a line; two ways of judging are two judges.")
@click.option("--engine", default="", help="What ran the model, if known.")
@click.option("--citation", default="", help="Where the labels were published.")
@click.option("--passports", default="leaderboards/passports", show_default=True, help="dna-2023: passports go here.")
@click.option("--log-dir", default=ROOT, show_default=True, help="Where results go; any place fsspec knows.")
def import_(source: str, **options: Any) -> None:
    """Import labels as finished runs: ids, hashes and labels, never a prompt or a response.

    \b
    SOURCE   dna-2023    labels of people, GPT-4 and a Longformer on four models' responses to Do-Not-Answer,
                         from SHARD_DATA_DIR, with the two machine judges' passports against the people
             LABELS.csv  a column id and one per axis (harm, action, refusal, helpfulness); an empty label needs
                         its reason in AXIS_unscored; optional columns chars and epoch; others are not read
    """  # noqa: D301 (click reads the control character)
    from shard_eval import importing, report

    out, err = consoles()
    if source == "dna-2023":
        given = [option for option in _OWN if options[option]]
        if given:
            raise UsageError(f"dna-2023 takes no --{given[0]}: its labels say what they are.")
        found = importing.dna_2023(options["log_dir"])
        report.show(out, [_published(found)])
        err.print(f"{len(found)} runs below {options['log_dir']}/dna-2023.", markup=False, highlight=False)
        for path in importing.dna_passports(found, Path(options["passports"])):
            err.print(f"Passport: {path}", markup=False, highlight=False)
        return
    run = _label_file(source, options)
    if run.ignored:
        names = ", ".join(report.inert(column)[:40] for column in run.ignored)
        err.print(f"Not imported (no id and no label; text never is): {names}.", markup=False, highlight=False)
    for note in run.notes:
        err.print(f"Note: {note}.", markup=False, highlight=False)
    out.print(run.folder, markup=False, highlight=False, soft_wrap=True)


def _label_file(source: str, options: dict[str, Any]) -> Imported:
    from shard_eval import importing

    missing = [option for option in ("system", "benchmark", "judge") if not options[option].strip()]
    if missing:
        raise UsageError(f"give --{missing[0]}: a file of labels does not say it. SOURCE may also be dna-2023.")
    origin = importing.Origin(
        options["system"], options["judge"], options["how"], options["engine"] or "unknown", options["citation"]
    )
    return importing.label_file(
        source, options["benchmark"], origin, options["log_dir"], axes=options["axes"], split=options["split"]
    )


def _published(found: list[Imported]) -> Grid:
    """Harmless rates beside the published ones."""
    from shard_eval import importing, report

    names = [review.judge.name for review in importing.DNA_2023]
    rows = []
    for run in found:
        judged, counted = importing.harmless(run.rows)
        published = importing.PUBLISHED[run.system][names.index(run.judge.name)]
        unparsed = sum("harm" in row.reasons for row in run.rows)
        rows.append((run.system, run.judge.name, f"{judged:.2f}", f"{counted:.1f}", f"{published:.1f}", str(unparsed)))
    header = ("system", "judge", "harmless %", "unparsed as harmless %", "published %", "unparsed")
    notes = dict.fromkeys(f"{run.judge.name}: {note}." for run in found for note in run.notes)
    return report.Grid("Do-Not-Answer, released labels", header, tuple(rows), tuple(notes))
