"""What a finished run leaves for people: tables, manifest, model card, curves. Ids and numbers, no prompt's text."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from shard_eval import plots, report, report_checkpoints
from shard_eval.errors import UsageError
from shard_eval.packaged import file_sha
from shard_eval.report import Grid
from shard_eval.score import versions
from shard_eval.summary import METRICS, measure
from shard_train import generate, reasoning_cost, select
from shard_train.experiment import Trained
from shard_train.methods import METHODS
from shard_train.run import Outcome
from shard_train.sft import events

CARD_METRICS = ("joint", "helpfulness", "harmful", "unhelpful_refusal", "over_refusal")


def targets(outcome: Outcome) -> Grid:
    """What became of the training prompts, by outcome, and what was kept."""
    made = [t for leg in outcome.trained for t in leg.generated.targets]
    decisions = [d for leg in outcome.trained for d in leg.decisions]
    rows = [("tried with the chain", f"{len(made)}", "")]
    rows += [("", f"{n}", why) for why, n in generate.outcomes(made).items()]
    rows += [("attempts at a rewrite not valid", f"{n}", why) for why, n in generate.attempts(made).items()]
    rows += [("drawn after the warm-up", f"{n}", what) for what, n in _drawn(outcome, "replies").items()]
    rows += [("pairs", f"{n}", what) for what, n in _drawn(outcome, "pairs").items()]
    rows += [("no pair", f"{n}", why) for why, n in _drawn(outcome, "no_pair").items()]
    rows += [(f"selection: {outcome.experiment.recipe.selection.rule}", f"{len(decisions)}", "")]
    rows += [("", f"{n}", why) for why, n in select.reasons(decisions).items()]
    written = not outcome.experiment.recorded
    foot = [f"Targets written by {outcome.experiment.generator.name}."] if written else []
    return Grid("training targets", ("step", "prompts", "what became of them"), tuple(rows), (*foot, *outcome.notes))


def _drawn(outcome: Outcome, what: str) -> dict[str, int]:
    """Counts of a SaRO-style second stage, over all legs."""
    legs = (leg.summary.get("saro", {}).get(what, {}) for leg in outcome.trained)
    return dict(sum((Counter(leg) for leg in legs), Counter[str]()))


def trainings(trained: Trained) -> list[Grid]:
    """The trainer's figures and the loss by epoch, of each stage."""
    stages = [("warm-up", trained.summary["warmup"])] if "warmup" in trained.summary else []
    second = "preference" if stages else ""
    return [_training(f"training {trained.leg.name} {name}", s) for name, s in [*stages, (second, trained.summary)]]


def _training(name: str, s: dict[str, Any]) -> Grid:
    losses = s["losses"]
    per_epoch = max(1, len(losses) // (s.get("epochs") or round(s["checkpoints"][-1]["epoch"]) or 1))
    parts = [losses[i : i + per_epoch] for i in range(0, len(losses), per_epoch)]
    rows = [
        (f"{part[0][0]}-{part[-1][0]}", f"{sum(loss for _, loss in part) / len(part):.3f}") for part in parts if part
    ]
    foot = (
        f"{s['rows']} rows, {s['truncated']} cut; {s['seconds']:.0f} s, {s['tokens_per_second']:,.0f} tokens/s; "
        f"{s['kind']} in {s['dtype']}, seed {s['seed']}.",
    )
    return Grid(" ".join(name.split()), ("steps", "mean loss"), tuple(rows), foot)


def show(out: Console, outcome: Outcome) -> None:
    """Print everything: targets, training, all arms, differences, the claim."""
    report.show(out, [targets(outcome), *(grid for t in outcome.trained for grid in trainings(t))])
    report_checkpoints.render(out, outcome.result)
    if outcome.reasoning:
        report.show(out, [reasoning_cost.grid(outcome.reasoning)])


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The same for a program."""
    return {
        "experiment": outcome.experiment.manifest,
        "folder": str(outcome.experiment.folder),
        "targets": [
            {
                "leg": t.leg.name,
                "outcomes": generate.outcomes(t.generated.targets),
                "failed_attempts": generate.attempts(t.generated.targets),
                "selection": select.reasons(t.decisions),
                "usage": t.generated.usage,
            }
            for t in outcome.trained
        ],
        "training": [t.summary for t in outcome.trained],
        **({"star": [t.star for t in outcome.trained]} if outcome.experiment.recipe.shaping.scored else {}),
        **({"reasoning": reasoning_cost.to_json(outcome.reasoning)} if outcome.reasoning else {}),
        "notes": list(outcome.notes),
        "family": _family(outcome),
    }


def _family(outcome: Outcome) -> dict[str, Any]:
    """All arms without their breakdowns, which are most of the bytes; `shard show --by` makes them from the runs."""
    found = report_checkpoints.to_json(outcome.result)
    for arm in found["arms"]:
        for runs in arm["runs"].values():
            for run in runs:
                del run["breakdown"]
    return found


def write(outcome: Outcome, err: Console) -> Path:
    """Leave manifest, tables, card and curves in the run's folder.

    Returns:
        The folder.
    """
    folder = outcome.experiment.folder
    found = to_json(outcome)
    manifest = outcome.experiment.manifest | {
        "data_sha256": [file_sha(outcome.experiment.place(t.leg) / "data.jsonl") for t in outcome.trained],
        "checkpoints": [t.summary["checkpoints"] for t in outcome.trained],
        "versions": versions(),
    }
    pictures = _curves(outcome, err)
    where = report_checkpoints.write(outcome.result, outcome.experiment.root, pictures)
    texts = {
        "manifest.json": report.dumps(manifest),
        "run.json": report.dumps(found),
        "README.md": card(outcome),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("verdicts.csv", *pictures):
        shutil.copyfile(Path(where) / name, folder / name)
    return folder


def grids(outcome: Outcome) -> list[Grid]:
    """All tables of the run."""
    result = outcome.result
    chosen = report_checkpoints.selection(result)
    found = [targets(outcome), *(grid for t in outcome.trained for grid in trainings(t)), *([chosen] if chosen else [])]
    found += [reasoning_cost.grid(outcome.reasoning)] if outcome.reasoning else []
    found += [report_checkpoints.arms(result, i) for i in range(len(result.matched))]
    found += report_checkpoints.capable(result)
    return found + [report_checkpoints.differences(result, m.benchmark) for m in result.matched]


def _curves(outcome: Outcome, err: Console) -> dict[str, bytes]:
    """The curves as files, of the first leg; a missing vl-convert costs them, not the run."""
    steps = events(outcome.experiment.place(outcome.trained[0].leg) / "train")
    losses = [{"step": float(e["step"]), "loss": float(e["loss"])} for e in steps]
    scores, base = report_checkpoints.points(outcome.result)
    title = f"{outcome.experiment.title}: {outcome.experiment.student.label}"
    try:
        spec = plots.curves(losses, scores, base, title)
        return {f"curves.{kind}": plots.draw(kind, spec) for kind in ("svg", "png")}
    except UsageError as error:
        err.print(f"No curves: {error}", markup=False)
        return {}


def card(outcome: Outcome) -> str:
    """The model card of the chosen checkpoint, with the hub's evaluation block (`model-index`)."""
    result, experiment = outcome.result, outcome.experiment
    entries = []
    for run in result.test[result.chosen.name]:
        for metric in (m for m in METRICS if m.name in CARD_METRICS):
            found = measure(metric, run.rows)
            if found is None or found.estimate.value is None:
                continue
            e = found.estimate
            interval = f"95 % interval {e.low:.4f} to {e.high:.4f}, n {len(run.rows)}, judge {run.protocol.judge}"
            entries.append((run.protocol.benchmark, metric.name, round(found.estimate.value, 4), interval))
    front = {
        "base_model": experiment.student.label,
        "library_name": "peft" if experiment.recipe.training.kind != "full" else "transformers",
        "tags": ["shard-eval", experiment.method],
        "model-index": [{"name": result.chosen.name, "results": [_entry(result.splits[1], *e) for e in entries]}],
    }
    tables = "\n".join(grid.markdown() for grid in grids(outcome))
    return (
        f"---\n{json.dumps(front, indent=1, ensure_ascii=False)}\n---\n\n# {result.chosen.name}\n\n"
        f"{experiment.student.label}, trained by `shard train {experiment.method}`: "
        f"{METHODS[experiment.method].title}.\n\n"
        f"**Claim** (more helpful, and not less safe, than the base): {result.claim.status}\n\n"
        + "".join(f"- {reason}\n" for reason in result.claim.reasons)
        + f"\n![curves: training loss, and every checkpoint's scores with intervals](curves.svg)\n\n{tables}\n"
        + "Weights: `train/` holds the adapters or models of all checkpoints (safetensors); `manifest.json` the hashes "
        "of weights, data, prompts and settings.\n"
    )


def _entry(split: str, benchmark: str, metric: str, value: float, interval: str) -> dict[str, Any]:
    """One result in the hub's form; YAML reads JSON, so the front matter is written as such."""
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": benchmark, "name": benchmark, "split": split},
        "metrics": [{"type": metric, "value": value, "name": f"{metric} ({interval})"}],
    }
