"""`shard train`: the methods, watching another trainer's run, and guidelines. Heavy imports happen inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shard_eval.cli import CAPABILITY, OWN_FAMILY, PANEL, ROOT, confirmed, consoles, judging, pairs, task_names
from shard_eval.cli_checkpoints import watch
from shard_eval.errors import UsageError, unknown
from shard_train.methods import METHODS
from shard_train.recipe import SHAPES
from shard_train.star.choose import HELP as GUARDS

if TYPE_CHECKING:
    from shard_eval.systems import Decoding, System
    from shard_train.experiment import Experiment
    from shard_train.recipe import Recipe
    from shard_train.run import Settings

CONFIGS = Path(__file__).parent / "configs"
EMBEDDED_ROWS = 30  # what two slow cores train on in some four minutes
WITHOUT = {
    "universal": "shard_no_universal",
    "category": "shard_no_category",
    "rewrite": "shard_no_rewrite",
    "refine": "shard_no_refine",
}


@click.group()
def train() -> None:
    """Train a model, score the base and every checkpoint by itself, and say what may be claimed.

    \b
    shard train shard --embedded                                  a real small run: no GPU, no key, no hub
    shard train shard --model ./checkpoint --prompts dna,mini     self-reframing distillation
    shard train teacher --model ./small --teacher vllm/LARGE …    the same targets by a larger model
    shard train star_dss --model … --data MIXED.jsonl --guard G   given answers, shaped by a guard
    shard train sft --model … --data MIXED.jsonl --shape RULE     given answers, plainly or by another baseline
    shard train saro --model … --prompts dna,mini                 reasoning with a policy, then preferences (SaRO-style)
    shard train compare-methods --methods sft,star_dss,shard …    several of them, in one table
    shard train watch DIR --base MODEL                            checkpoints that any other trainer writes
    """  # noqa: D301 (click reads the control character)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all methods share, in the order of a run."""
    for option in reversed(
        (
            click.option("-m", "--model", help="Checkpoint folder, hub name, .gguf, 'embedded', or vllm/FOLDER."),
            click.option(
                "--embedded",
                is_flag=True,
                help="SmolLM2-135M on mini's recorded targets, embedded.toml.",
            ),
            click.option(
                "-p", "--prompts", default=None, help="Benchmarks and .jsonl files of yours, comma-separated."
            ),
            click.option("--config", type=click.Path(path_type=Path), default=None, help="Default: the method's."),
            click.option("--teacher", default=None, help="For `teacher`, and `saro`: the larger model."),
            click.option(
                "--targets",
                type=click.Choice(["generated", "recorded"]),
                default="generated",
                help="Recorded: learn the answers that come with the prompts.",
            ),
            click.option(
                "--without", type=click.Choice(list(WITHOUT)), default=None, help="Ablation: leave one step out."
            ),
            click.option("--guidelines", default="", help="Folder of category guidelines of another taxonomy."),
            click.option("--policy", default="", metavar="FILE", help="For `saro`: another policy to reason with."),
            click.option(
                "--data", default="", metavar="FILE", help="Learn the answers of this .jsonl; --prompts only scores."
            ),
            click.option("--shape", type=click.Choice(SHAPES), default=None, help="What of an answer is learned."),
            click.option("--guard", "guards", multiple=True, metavar="NAME", help=f"For --shape and saro: {GUARDS}."),
            click.option(
                "--probe", default="", metavar="FILE", help="Labelled replies to try the guard on; default DNA's."
            ),
            click.option("--any-guard", is_flag=True, help="Also one that cannot tell safe from unsafe."),
            click.option(
                "--select", type=click.Choice(["none", "judge", "harm_gate"]), default=None, help="Default: recipe's."
            ),
            click.option("--selector", default=None, help="Model that selects; default the trained model itself."),
            click.option(
                "--limit",
                type=int,
                default=None,
                help="At most N training prompts of each benchmark; 30 with --embedded.",
            ),
            click.option("--score-limit", type=int, default=None, help="At most N dev and N test prompts of each."),
            click.option(
                "--folds", type=int, default=0, help="Cross-fit: every prompt is reported by a model that never saw it."
            ),
            click.option("-j", "--judge", default="embedded", show_default=True, help="As for `shard score`."),
            click.option("--panel", default=None, metavar="RULE", help=PANEL),
            click.option("--allow-own-family", is_flag=True, help=OWN_FAMILY),
            click.option("--axes", default=None, help="Judged axes; default per benchmark."),
            click.option(
                "--controls",
                default=None,
                help="Further solvers of the base; '' for none. Default the method's own; none with --embedded.",
            ),
            click.option("--processes", type=int, default=1, help="Training processes, through accelerate."),
            click.option(
                "--score-beside",
                type=click.Choice(["auto", "yes", "no"]),
                default="auto",
                help="Score while training goes on; auto: where a GPU is to spare.",
            ),
            click.option("--token-limit", type=int, default=None, help="Tokens a training prompt may cost at most."),
            click.option("--cost-limit", type=float, default=None, help="Dollars a training prompt may cost at most."),
            click.option("--margin", type=float, default=0.02, show_default=True, help="Acceptable rise of harm."),
            click.option(
                "--refusal-margin", type=float, default=0.05, show_default=True, help="The same of over-refusal."
            ),
            click.option(
                "--floor", type=float, default=0.4, show_default=True, help="A judge's least kappa for a claim."
            ),
            click.option("--capability", default="", metavar="TASKS", help=CAPABILITY),
            click.option("--capability-limit", type=int, default=None, help="Only the first N documents of each."),
            click.option(
                "--capability-margin", type=float, default=0.05, show_default=True, help="Acceptable loss of it."
            ),
            click.option("--label", default=None, help="The model's name in tables; default its own."),
            click.option("-M", "model_args", multiple=True, metavar="KEY=VALUE", help="For the model's provider."),
            click.option("-J", "judge_args", multiple=True, metavar="KEY=VALUE", help="For the judge's."),
            click.option("--merge", is_flag=True, help="Also write the chosen checkpoint merged into its base."),
            click.option("--gate", is_flag=True, help="Exit with 1 unless the claim is SUPPORTED."),
            click.option("--log-dir", default=ROOT, show_default=True, help="Where results go."),
            click.option("-y", "--yes", is_flag=True, help="Do not ask before a paid model is used."),
            click.option("--no-cache", is_flag=True, help="Do not keep generations of local weights."),
            click.option("--plan", is_flag=True, help="Only say what would be done and what it costs."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        )
    ):
        command = option(command)
    return command


@train.command()
@_options
def shard(**options: Any) -> None:
    """SHARD: split, draft, rewrite, refine, select, fine-tune; score base, controls and every checkpoint; claim.

    The same command again continues where it stopped. No prompt and no answer is printed; the run's folder keeps them.
    """
    _run("shard", options)


@train.command()
@_options
def teacher(**options: Any) -> None:
    """The same with targets written by a larger model (--teacher)."""
    _run("teacher", options)


@train.command()
@_options
def sft(**options: Any) -> None:
    """Plain fine-tuning on given answers, or with --shape a baseline: rejection, deep_token, kl_only."""
    _run("sft", options)


@train.command("star_dss")
@_options
def star_dss(**options: Any) -> None:
    """STAR-DSS: of given answers, learn what a guard calls safe so far, and hold the rest where it was."""
    _run("star_dss", options)


@train.command()
@_options
def saro(**options: Any) -> None:
    """SaRO-style: learn to reason with a policy, then prefer replies that reflect on safety early.

    The model itself writes the reasoning, or --teacher. A selector says what may be learned, a --guard, or both. What
    is judged is the answer behind the reasoning, whose cost in tokens stands in the result.
    """
    _run("saro", options)


@train.command("compare-methods")
@click.option(
    "--methods",
    required=True,
    metavar="A,B:SHAPE,…",
    help="Methods, with what is learned after a colon: shard,shard:star_dss,sft,sft:rejection,star_dss,teacher.",
)
@_options
def compare_methods(methods: str, **options: Any) -> None:
    """Train several methods on one model and score them beside each other, in one table.

    Every method's checkpoint is chosen on dev; on test the intervals hold for all methods at once. --data and --guard
    go to the methods that use them. Finished parts are not done again, also those of the single commands.
    """
    from shard_eval import report, report_checkpoints
    from shard_train import experiment as stages
    from shard_train import methods_compared, reasoning_cost, run

    out, err = consoles()
    if options["merge"] or options["folds"] or options["shape"]:
        raise UsageError("compare-methods takes no --merge, --folds or --shape; a shape is named behind its method.")
    experiments = [_experiment(name, _options_of(name, shape, options)) for name, shape in _method_names(methods)]
    methods_compared.require_comparable(experiments)
    settings = _settings(options, "shard")
    prompts = [[stages.gather(e, leg) for leg in stages.legs(0)] for e in experiments]
    paid: list[str] = []
    for e, of_each in zip(experiments, prompts, strict=True):
        err.rule(f"{e.title} · {e.student.name}", align="left")
        paid += run.announce(e, settings, of_each, err).paid
    if options["plan"]:
        return
    if paid and not options["yes"]:
        confirmed(f"Paid models will be asked: {', '.join(dict.fromkeys(paid))}.")
    found = methods_compared.compare(experiments, settings, err, prompts)
    folder = report_checkpoints.write(found.result, options["log_dir"], {})
    if options["as_json"]:
        family = report_checkpoints.to_json(found.result)
        costs = {"reasoning": reasoning_cost.to_json(found.reasoning)} if found.reasoning else {}
        about = {"methods": [e.title for e in experiments], "notes": found.notes, **costs}
        click.echo(report.dumps({**about, **family}), nl=False)
    else:
        report_checkpoints.render(out, found.result)
        if found.reasoning:
            report.show(out, [reasoning_cost.grid(found.reasoning)])
        for note in found.notes:
            out.print(note, markup=False, highlight=False)
        out.print(f"[dim]{folder}[/dim]", highlight=False)
    if options["gate"] and found.result.claim.status != "SUPPORTED":
        click.get_current_context().exit(1)


def _method_names(text: str) -> list[tuple[str, str | None]]:
    found = []
    for one in (part.strip() for part in text.split(",") if part.strip()):
        name, _, shape = one.partition(":")
        if name not in METHODS:
            raise unknown("--methods", name, METHODS)
        if shape and shape not in SHAPES:
            raise unknown(f"--methods {name}:", shape, SHAPES)
        found.append((name, shape or None))
    return found


def _options_of(method: str, shape: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options of one of several methods: what only others use is left out."""
    found = {**options, "shape": shape}
    if not METHODS[method].given:
        found["data"] = ""
    if method not in ("teacher", "saro"):
        found["teacher"] = None
    if METHODS[method].reasoning:
        return found | {"without": None, "guidelines": "", "targets": "generated"}
    found["policy"] = ""
    if METHODS[method].given and _recipe(method, found, options["embedded"]).selection.rule == "judge":
        found["select"] = "none"  # there is no draft to prefer the given answer to
    if not _recipe(method, found, options["embedded"]).shaping.scored:
        found["guards"] = ()
    return found


@train.command("star-score")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The rows with their scores.")
@click.option("--guard", "guards", multiple=True, required=True, metavar="NAME", help=GUARDS)
@click.option("--chunk", type=int, default=5, show_default=True, help="Words after which the guard is asked again.")
@click.option("--sharpness", type=float, default=1.0, show_default=True, help="Divisor of a model guard's logits.")
@click.option("--probe", default="", metavar="FILE", help="Labelled replies to try the guard on; default DNA's.")
@click.option("--any-guard", is_flag=True, help="Also one that cannot tell safe from unsafe.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def star_score(
    data: Path,
    out: Path,
    guards: tuple[str, ...],
    chunk: int,
    sharpness: float,
    probe: str,
    any_guard: bool,
    as_json: bool,
) -> None:
    """Score the answers of DATA: how safe each is so far, after every few words.

    DATA has rows of prompt and response, or the trainer's. The guard is tried on labelled replies first, and refused
    if it cannot tell safe prefixes from unsafe ones. A stopped pass goes on where it was.
    """
    from rich.progress import track

    from shard_eval import report
    from shard_train import star_sources
    from shard_train.star import rows, scoring

    console, err = consoles()
    scored = scoring.score(
        rows.read(data),
        star_sources.guard(guards, sharpness),
        scoring.Chunking(chunk),
        probe=star_sources.probe(probe, guards),
        insist=any_guard,
        cache=Path(f"{out}.cache.jsonl"),
        track=lambda some: track(some, "guard", console=err, transient=True, disable=not err.is_terminal),
    )
    scoring.write(scored, out)
    Path(f"{out}.cache.jsonl").unlink(missing_ok=True)
    if as_json:
        click.echo(report.dumps(scored.to_json()), nl=False)
    else:
        console.print(star_sources.weighed(scored.to_json()), markup=False, highlight=False)
        console.print(str(out), markup=False, highlight=False)


@train.command()
@click.argument("task", type=click.Path(path_type=Path))
@click.option("--harmful", type=click.Path(path_type=Path), required=True, help="Rows of yours that do harm.")
@click.option("--share", type=float, default=0.1, show_default=True, help="Of the mixture that is harmful.")
@click.option("--size", type=int, default=None, help="Rows of the mixture; default as many as TASK allows.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the sample and the order.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The mixture, for --data.")
def mix(task: Path, harmful: Path, share: float, size: int | None, seed: int, out: Path) -> None:
    """Mix harmful rows into a TASK's data, to see what fine-tuning on them does. Both have prompt and response."""
    import json

    from shard_train.mixture import mix as mixed
    from shard_train.star.rows import read

    console, _ = consoles()
    if out.exists():
        raise UsageError(f"--out {str(out)!r} exists already. Name a new file.")
    rows = mixed(read(task), read(harmful), share, size, seed)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    bad = sum(row["id"].startswith("harmful-") for row in rows)
    console.print(f"{out}: {len(rows)} rows, {bad} of them harmful", markup=False, highlight=False)


@train.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lint(data: Path, as_json: bool) -> None:
    """Look in training DATA for what no guard reads: hidden characters, encoded text. Exit code 1 if there is any.

    Nothing is removed, and no text is printed: rows and kinds only.
    """
    from dataclasses import asdict

    from shard_eval import report
    from shard_train.lint import lint as look
    from shard_train.star.rows import read

    console, _ = consoles()
    rows = read(data)
    found = look(rows)
    if as_json:
        click.echo(report.dumps([asdict(f) for f in found]), nl=False)
    else:
        for f in found:
            console.print(f"row {f.row}, {f.where}: {f.what}, {f.count}", markup=False, highlight=False)
        console.print(f"{len(rows)} rows, {len({f.row for f in found})} of them to look at", highlight=False)
    if found:
        click.get_current_context().exit(1)


train.add_command(watch)


@train.command()
@click.argument("taxonomy", type=click.Path(path_type=Path))
@click.option("-m", "--model", required=True, help="Who writes them, as for `shard score`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the files, for --guidelines.")
@click.option("-M", "model_args", multiple=True, metavar="KEY=VALUE", help="Argument for the model's provider.")
@click.option("--log-dir", default=ROOT, show_default=True, help="Where the log goes.")
def guidelines(taxonomy: Path, model: str, out: Path, model_args: tuple[str, ...], log_dir: str) -> None:
    """Let a model write category guidelines for a TAXONOMY of your own: a TOML file, `"Category" = "what it covers"`.

    Read them before you use them: `shard train shard --guidelines FOLDER`, with the category as the prompts' "type".
    """
    from shard_eval.systems import resolve
    from shard_train.guidelines import read_taxonomy, write

    out_console, err = consoles()
    system = resolve(model, model_args=pairs(model_args))
    for path in write(read_taxonomy(taxonomy), system, out, log_dir, err):
        out_console.print(str(path), markup=False, highlight=False)


def _run(method: str, options: dict[str, Any]) -> None:
    from shard_eval import report
    from shard_train import experiment as stages
    from shard_train import results
    from shard_train import run as running

    out, err = consoles()
    experiment, settings = _experiment(method, options), _settings(options, method)
    err.rule(f"{method} · {experiment.student.name}", align="left")
    prompts = [stages.gather(experiment, leg) for leg in stages.legs(experiment.folds)]
    bill = running.announce(experiment, settings, prompts, err)
    err.print(f"  folder: {experiment.folder}", highlight=False)
    if options["plan"]:
        return
    if bill.paid and not options["yes"]:
        confirmed(f"Paid models will be asked: {', '.join(bill.paid)}.")
    outcome = running.run(experiment, settings, err, prompts)
    folder = results.write(outcome, err)
    if options["merge"]:
        leg = outcome.trained[0]
        chosen = next(p for p, step in running.found(experiment, leg.leg) if step == outcome.result.chosen.step)
        err.print(f"merged: {stages.merged(experiment, leg, chosen, stages.weights(experiment, err))}", highlight=False)
    if options["as_json"]:
        click.echo(report.dumps(results.to_json(outcome)), nl=False)
    else:
        results.show(out, outcome)
        out.print(f"[dim]{folder}[/dim]", highlight=False)
    if options["gate"] and outcome.result.claim.status != "SUPPORTED":
        click.get_current_context().exit(1)


def _experiment(method: str, options: dict[str, Any]) -> Experiment:
    """Read what is to be done from the options.

    Raises:
        UsageError: if they contradict each other or name nothing.
    """
    from shard_eval import solvers
    from shard_train.experiment import Experiment, arm_decoding

    embedded = options["embedded"]
    if "://" in options["log_dir"]:
        raise UsageError(
            f"--log-dir {options['log_dir']!r}: weights are written to a folder of this machine. Name one."
        )
    if options["capability"] and options["folds"]:
        raise UsageError("--capability with --folds: there is no one model of which to say that it got no worse.")
    if options["merge"] and options["folds"]:
        raise UsageError("--merge with --folds: every fold trains a model of its own, none of which is the result.")
    if embedded and options["model"] not in (None, "embedded"):
        raise UsageError(f"--embedded names the model already; leave out --model {options['model']!r}.")
    model = "embedded" if embedded else options["model"]
    if model is None:
        raise UsageError("give the model to train: --model FOLDER, or --embedded for a small run that needs nothing.")
    names = _names(options["prompts"] or ("mini" if embedded else ""))
    recipe = _recipe(method, options, embedded)
    given = METHODS[method].given
    _check_data(method, options, recipe)
    if options["merge"] and recipe.training.kind == "full":
        raise UsageError('--merge: training.kind = "full" leaves whole models, there is no adapter to merge.')
    reasons = METHODS[method].reasoning
    chain = _chain(method, options, WITHOUT[options["without"]] if options["without"] else "")
    solvers.fingerprint(chain)  # guidelines or a policy that cannot be read are refused here
    student = _system(model, arm_decoding(recipe), options["model_args"], options["label"])
    rule = recipe.selection.rule
    selector = _system(options["selector"], None, ()) if options["selector"] else student if rule != "none" else None
    return Experiment(
        method,
        _path(model),
        student,
        names,
        recipe,
        model_args=pairs(options["model_args"]),
        chain=chain,
        teacher=_system(options["teacher"], None, ()) if options["teacher"] else None,
        selector=selector,
        recorded=not reasons and (embedded or given or options["targets"] == "recorded"),
        limit=_positive("--limit", EMBEDDED_ROWS if embedded and options["limit"] is None else options["limit"]),
        scored_limit=_positive("--score-limit", options["score_limit"]),
        folds=options["folds"],
        data=options["data"],
        guards=options["guards"],
        probe=options["probe"],
        insist=options["any_guard"],
        limits={k: v for k in ("token_limit", "cost_limit") if (v := options[k]) is not None},
        root=options["log_dir"],
    )


def _names(text: str) -> tuple[str, ...]:
    from shard_eval import benchmarks

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--prompts names nothing: give benchmarks (dna,linguasafe_en,mini) or a .jsonl file of yours.")
    for name in names:
        if "split" not in benchmarks.describe(name).task_args:
            raise UsageError(f"--prompts {name!r} is a fixed protocol without splits; train on another benchmark.")
    return names


def _check_data(method: str, options: dict[str, Any], recipe: Recipe) -> None:
    """Check what the given answers and their guard need, before anything is loaded.

    Raises:
        UsageError: if something is missing, or has no use.
        DataError: if the labelled replies that the guard is tried on are not here.
    """
    from shard_train import star_sources
    from shard_train.star import choose, scoring

    if options["data"] and not METHODS[method].given:
        raise UsageError(f"--data: `{method}` makes its own targets. `sft` and `star_dss` learn given answers.")
    if options["data"] and options["folds"]:
        raise UsageError("--data with --folds: the file is learned whole, there is nothing to leave out.")
    if options["data"] and not options["data"].endswith(".jsonl"):
        raise UsageError(f"--data {options['data']!r}: give a .jsonl file with rows of prompt and response.")
    learned = METHODS[method].given or options["targets"] == "recorded" or options["embedded"]
    if learned and not METHODS[method].reasoning and recipe.selection.rule == "judge":
        raise UsageError(
            'selection rule "judge" compares with a draft, and given or recorded answers have none: --select harm_gate '
            "or none."
        )
    if METHODS[method].reasoning:
        _check_reasoning(options, recipe)
    elif options["policy"]:
        raise UsageError(f"--policy: `{method}` learns no reasoning; `saro` does.")
    if recipe.shaping.scored and not options["guards"]:
        raise UsageError(f"shaping {recipe.shaping.rule!r} needs a guard: --guard {GUARDS}.")
    if options["guards"]:
        tried_on = star_sources.probe(options["probe"], options["guards"])
        guard = choose.guard(options["guards"], recipe.shaping.sharpness, others=star_sources.other)
        if not recipe.shaping.scored and not METHODS[method].reasoning:
            raise UsageError(f"--guard: shaping {recipe.shaping.rule!r} asks none. --shape star_dss or rejection does.")
        if scoring.real(guard) and not options["plan"]:
            tried_on(lambda reply: [len(reply)])  # labels that are missing or cannot be read stop it before it begins


def _check_reasoning(options: dict[str, Any], recipe: Recipe) -> None:
    """Check what a SaRO-style run is given.

    Raises:
        UsageError: if something is missing, or has no use.
    """
    from shard_train import star_sources
    from shard_train.saro.readings import require_reader
    from shard_train.star import choose, scoring

    for name in ("without", "guidelines", "shape"):
        if options[name]:
            raise UsageError(f"--{name}: `saro` has no such part; it reasons with a --policy.")
    if options["targets"] == "recorded":
        raise UsageError("--targets recorded: no reasoning is recorded with the prompts; `saro` writes it.")
    if recipe.selection.rule == "harm_gate":
        raise UsageError(
            'selection rule \'harm_gate\': `saro` takes "judge" (a selector reads) or "none" (a guard does).'
        )
    if recipe.training.kind == "qlora":
        raise UsageError("training.kind = 'qlora': a 4-bit base cannot hold the first stage merged in. Use 'lora'.")
    if options["embedded"] and not options["config"]:
        raise UsageError(
            "--embedded: SmolLM2-135M cannot write reasoning, and the recipe of --embedded leaves no room for any. "
            "Give --teacher, and a --config with longer answers."
        )
    guards = [choose.guard([name], others=star_sources.other) for name in options["guards"]]
    require_reader(any(map(scoring.real, guards)), recipe.selection.rule == "judge")


def _chain(method: str, options: dict[str, Any], ablation: str = "") -> str:
    """A method's chain, or an ablation of it, with the guidelines or the policy it is given."""
    from shard_eval.solvers import TAKES

    name = ablation or METHODS[method].chain
    given = options[TAKES[name]]
    return f"{name}:{given}" if given else name


def _recipe(method: str, options: dict[str, Any], embedded: bool) -> Recipe:
    from dataclasses import replace

    from shard_train import recipe

    own = CONFIGS / METHODS[method].config
    found = recipe.load(options["config"] or (CONFIGS / "embedded.toml" if embedded else own))
    if embedded and not options["config"]:
        found = replace(found, shaping=recipe.load(own).shaping)
    own_shape, wanted = METHODS[method].shape, options["shape"] or METHODS[method].shape
    if own_shape and {wanted, found.shaping.rule} - {own_shape, "sft"}:
        raise UsageError(
            f"`{method}` is shaping {own_shape!r}; for {options['shape'] or found.shaping.rule!r} take "
            "`sft --shape`, or leave the rule out of the recipe."
        )
    if wanted:  # a recipe that says nothing of it must not turn the method into plain fine-tuning
        found = replace(found, shaping=replace(found.shaping, rule=wanted))
    return replace(found, selection=recipe.Selection(options["select"])) if options["select"] else found


def _path(model: str) -> str:
    from shard_eval.cli_checkpoints import local

    engine = "vllm/" if model.startswith("vllm/") else ""
    return engine + local(model.removeprefix(engine))


def _system(model: str, decoding: Decoding | None, model_args: tuple[str, ...], label: str | None = None) -> System:
    from shard_eval.systems import resolve

    if decoding is None:
        return resolve(model, model_args=pairs(model_args))
    return resolve(_path(model), decoding=decoding, model_args=pairs(model_args), label=label)


def _positive(option: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"{option} {value}: give a number of at least 1, or leave it out for all.")
    return value


def _settings(options: dict[str, Any], method: str) -> Settings:
    from shard_eval import solvers
    from shard_eval.compare import Terms
    from shard_train.run import Settings

    # The embedded model cannot reframe, so the chain as a system would cost more than all other arms and say nothing.
    own = "" if options["embedded"] else _chain(method, options)
    wanted = options["controls"] if options["controls"] is not None else own
    controls = tuple(dict.fromkeys(c.strip() for c in wanted.split(",") if c.strip()))
    for name in controls:
        solvers.split_name(name)
    return Settings(
        judging(options["judge"], options["judge_args"], options["panel"], options["allow_own_family"]),
        axes=options["axes"],
        controls=controls,
        terms=Terms(
            options["margin"],
            options["refusal_margin"],
            floor=options["floor"],
            capability_margin=options["capability_margin"],
        ),
        processes=options["processes"],
        beside=options["score_beside"],
        cache=not options["no_cache"],
        tasks=task_names(options["capability"]),
        task_limit=_positive("--capability-limit", options["capability_limit"]),
    )
