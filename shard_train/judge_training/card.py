"""A trained judge's model card: what it is, how well it agrees with people, what it must not be used for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from shard_eval.benchmarks import labelled
from shard_eval.calibrate import agree, rows
from shard_eval.judges import held_out
from shard_eval.judges.encoder import LAYERS, MAX_TOKENS
from shard_eval.judges.trained import load
from shard_eval.packaged import MPNET
from shard_eval.records import Axis
from shard_train.judge_training import data
from shard_train.judge_training.fit import Recipe

SETS = ("dna", "xstest")
HELD = {
    "pyrit": "PyRIT's replies to jailbreaks",
    "mini": "`mini`'s reference answers",
    "model": "answers of a small model",
    "written": "written answers",
    "contrasts": "contrasting answers",
}
RISK = {0: "benign", None: "ambiguous", 1: "harmful"}
TEMPLATE = Path(__file__).with_name("card.md")
BEFORE = {
    "longformer": "Longformer of the paper, trained on five models",
    "gpt4": "GPT-4 of the paper, mapped",
}


def write(out: Path, recipe: Recipe) -> str:
    """The card, in Markdown, from the held-out verdicts in a folder.

    Raises:
        DataError: if the labels are not here.
    """
    found: dict[str, Any] = {}
    for on in SETS:
        truth = labelled.load(on)
        verdicts = held_out.verdicts([r.record for r in truth], out / held_out.FILE)
        found |= agree(rows(truth, verdicts, labelled.axes(on)), truth)
    size = (out / "weights.safetensors").stat().st_size / 1e6
    return TEMPLATE.read_text(encoding="utf-8").format(
        size=size,
        base=MPNET.package.format(1),
        pyrit=data.PYRIT.package,
        worked=data.LM_EVAL.package,
        mild=sum(r.harm == 1 and not r.held for r in data.contrasts()),
        tokens=MAX_TOKENS,
        layers=LAYERS,
        folds="; ".join(" and ".join(models) for models in data.FOLDS.values()),
        action=_table(found["action"], ("kappa", "macro_f1")),
        harm=_table(found["harm"], ("kappa", "f1"), detected=True),
        guessed=_table(_guessed(out), ("kappa", "f1"), detected=True),
        refusal=_table(found["refusal"], ("kappa", "weighted_kappa")),
        before=_before(),
        alarms=_alarms(out),
        refused=_refused(out),
        follows=load(str(out)).decision.follows,
        risky=load(str(out)).decision.risky,
        recipe=", ".join(f"{k} {v}" for k, v in asdict(recipe).items()),
    )


def _guessed(out: Path) -> dict[str, Any]:
    """Agreement on harm if nobody had said that the requests are risky."""
    truth = labelled.load(data.ALL_RISKY)
    lines = {line.id: line for line in held_out.read(out / held_out.FILE) if line.set == data.ALL_RISKY}
    said = [lines[r.record.id] for r in truth]
    verdicts: list[dict[Axis, int] | None] = [{"harm": x.labels["harm"] if x.risky else 0} for x in said]
    groups: dict[str, Any] = agree(rows(truth, verdicts, ("harm",)), truth)["harm"]
    return groups


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
    for folder, name in BEFORE.items():
        known = labelled.reviewed(folder)
        kept = [reply for reply, labels in zip(truth, known, strict=True) if labels is not None]
        found = agree(rows(truth, known, labelled.axes("dna")), kept)
        cells = [_interval(found[axis]["all"]["measures"]["kappa"]) for axis in ("action", "harm")]
        lines.append(f"| {name} ({len(kept)} replies) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _refused(out: Path) -> str:
    """How many held-out answers, most of them good ones, the judge that is kept takes for refusals."""
    kept = [r for r in data.harmless() if r.held]
    found = [one.labels["refusal"] for one in load(str(out)).read([(r.request, r.response) for r in kept])]
    counts: dict[str, list[int]] = {}
    for r, label in zip(kept, found, strict=True):
        counts.setdefault(f"{HELD[r.set]}, {RISK[r.risky]} requests", []).append(label)
    lines = ["| held-out responses | n | in part | in full |", "|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name} | {len(v)} | {v.count(1)} | {v.count(data.FULL)} |" for name, v in counts.items())]
    )


def _alarms(out: Path) -> str:
    """How many harmless responses it calls harmful, and how many harmful ones it finds beside Do-Not-Answer.

    XSTest's are held out as always. The others no fold learned from, so they are read by the judge that is kept.
    """
    verdicts = {(line.set, line.id): line.harm or 0 for line in held_out.read(out / held_out.FILE)}
    xstest = [r for r in data.examples() if r.set == "xstest" and r.harm == 0]
    kept = [r for r in (*data.jailbroken(), *data.harmless(), *data.contrasts()) if r.held and r.harm is not None]
    found = [one.labels["harm"] for one in load(str(out)).read([(r.request, r.response) for r in kept])]
    counts: dict[tuple[str, str], list[int]] = {}
    for refused, name in ((True, "full refusals"), (False, "answers to safe requests")):
        chosen = [verdicts[r.set, r.id] for r in xstest if (r.refusal == data.FULL) is refused]
        counts[f"XSTest, {name}", "no"] = chosen
    for r, label in zip(kept, found, strict=True):
        request = "" if r.set == "pyrit" else f", {RISK[r.risky]} requests"
        counts.setdefault((f"{HELD[r.set]}{request}", "yes" if r.harm else "no"), []).append(label)
    lines = ["| held-out responses | labelled harmful | n | called harmful |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {harm} | {len(v)} | {sum(v)} |" for (name, harm), v in counts.items())])
