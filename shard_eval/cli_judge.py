"""`shard judge`: how far a judge can be trusted. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from shard_eval.cli import PANEL, ROOT, Extensible, consoles, judging
from shard_eval.errors import UsageError

if TYPE_CHECKING:
    from shard_eval.score import Judging


class Judge(Extensible):
    """`shard judge`: what needs gradients is added by `shard_train`."""

    added = "shard_eval.judge_commands"


@click.group(cls=Judge)
def judge() -> None:
    """Measure how far a judge can be trusted."""


@judge.command("calibrate")
@click.argument("judge")
@click.option(
    "--on",
    default="dna",
    show_default=True,
    help="Human-labelled replies: dna (harm, action), xstest (refusal), or a .csv or .jsonl file of your own.",
)
@click.option("--panel", default=None, metavar="RULE", help=PANEL)
@click.option("--axes", default="", help="Of those with human labels; default all.")
@click.option("--limit", type=click.IntRange(min=1), help="A random part, the same number from each source model.")
@click.option("-J", "judge_args", multiple=True, metavar="KEY=VALUE", help="Argument for the judge's model provider.")
@click.option("--log-dir", default=ROOT, show_default=True, help="Where logs and the passport go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a paid judge starts.")
@click.option("--by-category", is_flag=True, help="Print all categories, however many there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def judge_calibrate(judge: str, on: str, axes: str, limit: int | None, log_dir: str, **options: Any) -> None:
    """Run JUDGE over replies with human labels and store its agreement; tables print it from then on.

    \b
    dna and xstest need SHARD_DATA_DIR with the released labels. JUDGE as in `shard score --judge`.
    A file of yours, .csv with these columns or .jsonl with one JSON object a line:
      {"prompt": …, "response": …, "helpfulness": 1-4, "harm": 0-3, "refusal": 0-2, "action": 0-5}
      {"prompt": …, "candidate": …, "baseline": …, "helpfulness": "candidate"}     pairs (.jsonl)
    Leave out what people did not label. Optional: "source" (the system's name in tables: then its rates are
    corrected with its own labels), "system_id", "category", "intent", "need", "withhold", and "rater" where
    several people labelled the same response.
    exit code   1 if the judge gave no verdict at all
    """  # noqa: D301 (click reads the control character)
    from shard_eval import passports, passports_show

    out, err = consoles()
    decider = judging(judge, options["judge_args"], options["panel"])
    _confirm_paid(decider, options["yes"])
    found = passports.measure(decider, on, axes, limit, log_dir, err)
    if options["as_json"]:
        click.echo(json.dumps(found, indent=1, sort_keys=True))
    else:
        passports_show.show(out, found, options["by_category"])
    if not passports_show.has_verdicts(found):
        click.get_current_context().exit(1)


def _confirm_paid(decider: Judging, yes: bool) -> None:
    if not decider.paid or yes or not sys.stdin.isatty():
        return
    if not click.confirm("Ask the paid judge?", default=True, err=True):
        raise UsageError("not started.")


@judge.command("attack")
@click.argument("judge")
@click.option(
    "--on",
    default="mini",
    show_default=True,
    help="Responses to attack: mini (references and two constants), dna or xstest (replies), or a .jsonl file.",
)
@click.option("--panel", default=None, metavar="RULE", help=PANEL)
@click.option("--axes", default="", help="What is judged; default all the judge has.")
@click.option(
    "--limit", type=int, default=24, show_default=True, help="Responses per attack, the same ones for all of them."
)
@click.option("-J", "judge_args", multiple=True, metavar="KEY=VALUE", help="Argument for the judge's model provider.")
@click.option("--log-dir", default=ROOT, show_default=True, help="Where logs go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a paid judge starts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def judge_attack(judge: str, on: str, axes: str, limit: int, log_dir: str, **options: Any) -> None:
    """Attack JUDGE and store how often that changes its verdict; tables print the worst from then on.

    Ten attacks, such as a verdict inside the response, a made-up end of it, a disclaimer, or invisible characters.
    JUDGE as in `shard score --judge`; it is asked up to 11 times LIMIT on each axis. A file of yours has one JSON
    object a line: {"prompt": …, "response": …}, with labels as for `shard judge calibrate` or without.
    """
    from shard_eval import attacks, passports

    out, err = consoles()
    decider = judging(judge, options["judge_args"], options["panel"])
    _confirm_paid(decider, options["yes"])
    found = passports.attack(decider, on, axes, limit, log_dir, err)
    if options["as_json"]:
        click.echo(json.dumps(attacks.to_json(found), indent=1, sort_keys=True))
    else:
        attacks.show(out, found)
