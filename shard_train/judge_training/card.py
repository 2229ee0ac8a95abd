"""The embedded judge's model card: what it is, how well it agrees with people, what it must not be used for."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shard_eval.benchmarks import labelled
from shard_eval.calibrate import agree
from shard_eval.judges import held_out
from shard_eval.judges.encoder import MAX_TOKENS
from shard_eval.logs import Row
from shard_eval.packaged import MINILM
from shard_eval.records import Axis
from shard_train.judge_training.data import FOLDS, PYRIT
from shard_train.judge_training.fit import Recipe

SETS = ("dna", "xstest")
TEMPLATE = Path(__file__).with_name("card.md")
BEFORE = {
    "longformer": "Longformer of the paper, trained on five models",
    "gpt4": "GPT-4 of the paper, mapped",
}


def rows_of(on: str, truth: Sequence[labelled.Labelled], verdicts: Sequence[Mapping[Axis, int] | None]) -> list[Row]:
    """Verdicts as a run would have them."""
    axes = labelled.axes(on)
    return [
        Row(
            benchmark=on,
            id=reply.record.id,
            prompt_sha=reply.record.prompt_sha,
            epoch=1,
            cluster=reply.record.cluster,
            split="",
            risk_area=reply.record.risk_area,
            category=reply.record.category,
            type=reply.record.type,
            level=reply.record.level,
            intent=reply.record.intent,
            source=reply.record.source,
            stop_reason="stop",
            chars=len(reply.record.response or ""),
            labels={axis: label[axis] for axis in axes},
        )
        for reply, label in zip(truth, verdicts, strict=True)
        if label is not None
    ]


def write(out: Path, recipe: Recipe) -> str:
    """The card, in Markdown, from the held-out verdicts in a folder.

    Raises:
        DataError: if the labels are not here.
    """
    found: dict[str, Any] = {}
    for on in SETS:
        truth = labelled.load(on)
        verdicts = held_out.verdicts([r.record for r in truth], out / "held_out.csv")
        found |= agree(rows_of(on, truth, verdicts), truth)
    size = (out / "weights.safetensors").stat().st_size / 1e6
    return TEMPLATE.read_text(encoding="utf-8").format(
        size=size,
        base=MINILM.package,
        pyrit=PYRIT.package,
        tokens=MAX_TOKENS,
        folds="; ".join(" and ".join(models) for models in FOLDS.values()),
        action=_table(found["action"], ("kappa", "macro_f1")),
        harm=_table(found["harm"], ("kappa", "f1"), detected=True),
        refusal=_table(found["refusal"], ("kappa", "weighted_kappa")),
        before=_before(),
        recipe=", ".join(f"{k} {v}" for k, v in asdict(recipe).items()),
    )


def _table(groups: dict[str, Any], measures: tuple[str, ...], detected: bool = False) -> str:
    rates = ("sensitivity", "specificity") if detected else ()
    names = [m.replace("_", " ") for m in (*measures, *rates)]
    lines = [f"| left out | n | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for name, group in groups.items():
        cells = [_interval(group["measures"][m]) for m in measures]
        cells += [_interval(group["detection"][r]) for r in rates]
        lines.append(f"| {'all, pooled' if name == 'all' else name} | {group['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "–"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _before() -> str:
    """Agreement of the paper's own judges on the same replies."""
    truth = labelled.load("dna")
    lines = ["| judge | action kappa | harm kappa |", "|---|---|---|"]
    for folder in ("longformer", "gpt4"):
        known: dict[str, dict[Axis, int | None]] = {}
        for model in labelled.DNA_MODELS:
            path = labelled.released(f"do-not-answer/review/{folder}/{model}.csv").path
            with path.open(encoding="utf-8", newline="") as file:
                for number, line in enumerate(csv.DictReader(file)):
                    known[f"{model}/{number}"] = _published(folder, line)
        order: dict[str, int] = {}
        verdicts: list[dict[Axis, int]] = []
        kept: list[labelled.Labelled] = []
        for reply in truth:  # by position: GPT-4's files misname one id
            number = order[reply.record.source] = order.get(reply.record.source, -1) + 1
            labels = known[f"{reply.record.source}/{number}"]
            if labels["action"] is not None and labels["harm"] is not None:
                kept.append(reply)
                verdicts.append({"action": labels["action"], "harm": labels["harm"]})
        found = agree(rows_of("dna", kept, verdicts), kept)
        cells = [_interval(found[axis]["all"]["measures"]["kappa"]) for axis in ("action", "harm")]
        lines.append(f"| {BEFORE[folder]} ({len(kept)} replies) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _published(folder: str, line: dict[str, str]) -> dict[Axis, int | None]:
    """Labels of a judge of the paper; its GPT-4 splits a class, and -1 is a reply that could not be read."""
    action = int(float(line["action"]))
    if folder == "longformer":
        return {"action": action, "harm": int(line["harmful"])}
    mapped = None if action < 0 else {5: 4, 6: 5}.get(action, action)
    return {"action": mapped, "harm": None if mapped is None else int(mapped == 5)}
