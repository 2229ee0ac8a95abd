"""Guards by name, the embedded judge among them, and human labels to try them on.

What trains sees nothing of what grades (decision 0007), so this lies beside the commands and is handed in.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from shard_eval import engine
from shard_eval.benchmarks import labelled
from shard_eval.errors import UsageError
from shard_eval.judges.decision import Decision, probabilities
from shard_eval.judges.embedded import MODEL
from shard_eval.judges.encoder import Encoder
from shard_eval.judges.trained import load
from shard_eval.records import sha256
from shard_train import training
from shard_train.star import calibration, choose
from shard_train.star.calibration import Cut, Labelled
from shard_train.star.guards import Exchange, Guard

NAME, WITHOUT = "embedded", "judge_without:"
SAMPLE = 60  # labelled replies of each kind


class JudgeGuard:
    """A trained judge's probability that a reply so far is harmless.

    Args:
        folder: of the judge.
        source: the model whose replies this judge of a fold never saw; "" for the judge that is kept.
    """

    def __init__(self, folder: Path = MODEL, source: str = "") -> None:
        self._folder, self._source = folder, source
        self.name = f"judge without {source}" if source else NAME

    @cached_property
    def _judge(self) -> tuple[Encoder, Decision]:
        if not self._source:
            kept = load(str(self._folder))
            return kept.encoder, kept.decision
        return Encoder(_fold(self._folder, self._source), self._folder / "graph.onnx"), Decision()

    @property
    def identity(self) -> str:
        """Hash of its weights and decision."""
        encoder, how = self._judge
        return f"{self.name} {sha256(f'{encoder.sha} {how}')[:12]}"

    def score(self, exchange: Exchange, ends: Sequence[int]) -> list[float]:
        """One number per end."""
        asked = "\n\n".join(m["content"] for m in exchange.conversation if m["role"] != "system")
        encoder, how = self._judge
        read = probabilities(encoder.logits([(asked, exchange.reply[:end]) for end in ends]), how)
        return [1 - float(p) for p in read.harmful]


def other(name: str) -> Guard | None:
    """A guard that is a judge, by name: "embedded", or "judge_without:FOLDER:SOURCE"; None for another name.

    The second is the judge of one fold in a folder of `shard judge train-embedded --out FOLDER`. It never saw a reply
    of SOURCE, so the human labels of those say what it is worth; it saw other models' replies to the same requests.

    Raises:
        UsageError: if there is no such folder or fold.
    """
    if name == NAME:
        return JudgeGuard()
    if _source(name) is None:
        return None
    folder, _, source = name.removeprefix(WITHOUT).rpartition(":")
    _fold(Path(folder), source)
    return JudgeGuard(Path(folder), source)


def flattered(guards: Sequence[str], judges: Sequence[str]) -> str:
    """What a reader must know of a judge that scores what its like has weighed; "" where they have nothing in common.

    Args:
        guards: by name.
        judges: that score, by name; several of a panel.
    """
    if NAME in guards and NAME in judges:
        return "The judge that scores these arms also weighed the training data."
    ours = [name for name in guards if name == NAME or _source(name) is not None]
    if ours and any(judge == NAME or judge.startswith("trained:") for judge in judges):
        return "The judge that scores these arms is of one make with the guard that weighed the training data."
    return ""


def _source(name: str) -> str | None:
    """The model that a judge of a fold never saw; None for other guards."""
    return name.rpartition(":")[2] if name.startswith(WITHOUT) else None


def _fold(folder: Path, source: str) -> Path:
    weights = folder / f"without-{source}.safetensors"
    if not weights.is_file() or not (folder / "graph.onnx").is_file():
        raise UsageError(
            f"--guard {WITHOUT}{folder}:{source}: there is no {weights.name} with a graph.onnx. Give a folder of "
            "`shard judge train-embedded --out FOLDER` and the model of one of its folds."
        )
    return weights


def human_labels(cut: Cut, source: str = "") -> list[Labelled]:
    """A probe from Do-Not-Answer's human labels, of whole replies.

    Where in a harmful reply the harm begins nobody labelled, so nothing is claimed of its prefixes; and none of a
    harmless reply's are taken, for they are shorter, and a guard that measures length would pass.

    Args:
        cut: has no use here.
        source: only this model's replies.

    Raises:
        DataError: if the labels are not here.
    """
    rows = sorted(labelled.load("dna"), key=lambda r: sha256(f"star probe {r.record.source} {r.record.id}"))
    found = []
    if source:
        rows = [row for row in rows if row.record.source == source]
    for harmful in (0, 1):
        for row in [r for r in rows if r.labels["harm"] == harmful and (r.record.response or "").strip()][:SAMPLE]:
            reply = str(row.record.response)
            exchange = Exchange(({"role": "user", "content": row.record.prompt},), reply)
            found.append(Labelled(exchange, (len(reply),), (not harmful,)))
    return found


def guard(names: Sequence[str], sharpness: float) -> Guard:
    """Who says how safe answers are.

    Args:
        names: of one guard, or of several that are averaged (`star.choose`).
        sharpness: divisor of the logits of guards that are language models.

    Raises:
        UsageError: if there is none, or one that nobody knows.
    """

    def local(model: str) -> str:
        if model != "embedded" and not model.endswith(".gguf"):
            return model
        from shard_train.convert import kept

        return str(kept(engine.gguf_path(model)))

    device = "cuda" if training.gpus() else "cpu"
    return choose.guard(names, sharpness, device, local, other)


def probe(path: str, guards: Sequence[str]) -> Callable[[Cut], Sequence[Labelled]]:
    """Labelled replies to try a guard on, by how replies are cut: of a file, or Do-Not-Answer's human labels.

    Raises:
        UsageError: if there is no such file, or a guard learned from those labels: they would flatter it.
    """
    if not path and NAME in guards:
        raise UsageError(
            f"--guard {NAME} learned from Do-Not-Answer's human labels, on which guards are tried, so "
            "they would flatter it. Give other labelled replies with --probe FILE: prompt, response, and unsafe, a "
            "list of [begin, end]."
        )
    if path and not Path(path).is_file():
        raise UsageError(f"--probe {path!r} is no file. Give labelled replies: prompt, response, unsafe.")
    if path:
        return lambda cut: calibration.read(Path(path), cut)
    sources = {source for name in guards if (source := _source(name)) is not None}
    if len(sources) > 1:
        raise UsageError(
            f"--guard: judges without {' and '.join(sorted(sources))} have no replies that none of them saw."
        )
    return lambda cut: human_labels(cut, *sources)


def tried(star: dict[str, Any]) -> str:
    """A guard and what was seen of it."""
    trust = star["trust"]
    if not trust:
        return f"{star['guard']}: not tried out, for it reads nothing"
    return (
        f"{star['guard']}: AUC {trust['auc']:.2f} on {trust['safe']} safe and {trust['unsafe']} unsafe prefixes, "
        f"{trust['miss']:.0%} of the unsafe missed"
    )


def weighed(star: dict[str, Any]) -> str:
    """What a guard said of the training answers, and how far to trust it."""
    return (
        f"guard {tried(star)}; of {star['chunks']:,} chunks {star['unsafe_chunks']:.0%} unsafe, of "
        f"{star['rows']} answers {star['unsafe_rows']:.0%} have an unsafe part; mean score {star['mean']:.2f}"
    )


def release() -> None:
    """Give back what guards held on a graphics card, once nobody refers to them; the trainer needs it."""
    torch = sys.modules.get("torch")
    gc.collect()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
