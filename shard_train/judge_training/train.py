"""Train a judge and measure it on models it has not seen: four folds, a decision, and the average of the four.

Everything lands in one folder; what is finished there is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from shard_eval.errors import UsageError
from shard_eval.judges import decision, held_out
from shard_eval.judges.decision import Decision
from shard_eval.judges.encoder import Encoder
from shard_eval.judges.trained import text_sha
from shard_eval.records import identity
from shard_train.judge_training import graph, refit
from shard_train.judge_training.calibration import MISSING, fit
from shard_train.judge_training.data import ALL_RISKY, FOLDS, Example, everything, split
from shard_train.judge_training.fit import Recipe, cores, train
from shard_train.judge_training.network import Learned, average, difference

Say = Callable[[str], None]
GRAPH = "graph.onnx"


@dataclass(frozen=True)
class HeldOut:
    """Logits for examples by judges that never saw their source model.

    Attributes:
        rows: the examples, n.
        logits: n x `encoder.OUTPUTS`.
        fold: name of each one's fold, n.
    """

    rows: list[Example]
    logits: npt.NDArray[np.float32]
    fold: list[str]

    def decided(self) -> list[dict[str, int]]:
        """Labels of each example, its fold's decision fitted on the other folds; and what is guessed of its request."""
        found: list[dict[str, int]] = [{} for _ in self.rows]
        for name in FOLDS:
            mine = [i for i, fold in enumerate(self.fold) if fold == name]
            how = self.fit([i for i, fold in enumerate(self.fold) if fold != name])
            stated = [1.0 if self.rows[i].set == ALL_RISKY else None for i in mine]
            labels = decision.labels(decision.probabilities(self.logits[mine], how, stated), how)
            guessed = decision.probabilities(self.logits[mine], how).risky >= how.risky
            for k, i in enumerate(mine):
                found[i] = {axis: int(values[k]) for axis, values in labels.items()} | {"risky": int(guessed[k])}
        return found

    def fit(self, chosen: list[int] | None = None) -> Decision:
        """The decision fitted on some examples; default all."""
        index = list(range(len(self.rows))) if chosen is None else chosen
        rows = [self.rows[i] for i in index]
        action = np.array([_or(r.action) for r in rows])
        refusal = np.array([_or(r.refusal) for r in rows])
        return fit(np.asarray(self.logits[index], dtype=float), action, refusal)


def _or(label: int | None) -> int:
    return MISSING if label is None else label


def run(out: Path, recipe: Recipe, say: Say, device: str = "cpu") -> None:
    """Train and measure; leaves weights.safetensors, graph.onnx, decision.json, risky.txt and held_out.csv in a folder.

    Args:
        out: the folder.
        recipe: how.
        say: told what happens.
        device: where to train, in torch's words.

    Raises:
        DataError: if the labels are not here.
        UsageError: if the folder holds another recipe's work.
    """
    rows = everything()
    _claim(out, recipe, rows)
    found = held_out_logits(out, rows, recipe, say, device)
    lines = [
        held_out.Line(r.set, r.id, text_sha(r.request, r.response), **d)
        for r, d in zip(found.rows, found.decided(), strict=True)
    ]
    measured = {r.id for r in found.rows}
    lines += [
        held_out.Line(r.set, r.id, text_sha(r.request, r.response)) for r in rows if r.id not in measured and not r.held
    ]
    held_out.write(out / held_out.FILE, lines)
    # Every label counts in three of the four, and nothing is shipped that was not measured in its parts.
    learned = average([load_file(out / f"without-{name}.safetensors") for name in FOLDS], recipe.rank)
    save_file(learned, out / "weights.safetensors")
    text = json.dumps(found.fit().to_json(), indent=1, sort_keys=True)
    (out / "decision.json").write_text(text + "\n", encoding="utf-8")
    known = sorted({text_sha(r.request) for r in rows if r.set == ALL_RISKY})
    (out / "risky.txt").write_text("\n".join(known) + "\n", encoding="ascii")


def train_folds(out: Path, recipe: Recipe, names: Sequence[str], say: Say, device: str = "cpu") -> None:
    """Train the judges of some folds only, so that several processes or machines can share the work."""
    rows = everything()
    _claim(out, recipe, rows)
    for name in names:
        _weights(out / f"without-{name}.safetensors", split(rows, name)[0], recipe, say, f"without {name}", device)


def _claim(out: Path, recipe: Recipe, rows: list[Example]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    work = {"recipe": asdict(recipe), "examples": identity([asdict(r) for r in rows])}
    place = out / "recipe.json"
    if place.exists() and json.loads(place.read_text()) != work:
        raise UsageError(f"{out} holds the work of another recipe or other labels. Give another folder.")
    place.write_text(json.dumps(work, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    built, there = graph.build(), out / GRAPH
    if not there.exists() or there.read_bytes() != built:  # another process may be reading it
        there.write_bytes(built)


def held_out_logits(out: Path, rows: list[Example], recipe: Recipe, say: Say, device: str = "cpu") -> HeldOut:
    """Logits of the fold judges; each is trained unless its weights are in the folder."""
    found: list[Example] = []
    logits: list[npt.NDArray[np.float32]] = []
    folds: list[str] = []
    for name in FOLDS:
        kept, left = split(rows, name)
        path = _weights(out / f"without-{name}.safetensors", kept, recipe, say, f"without {name}", device)
        found += left
        # By the engine and the weights as they are shipped, not by the network as it was trained.
        logits.append(Encoder(path, out / GRAPH, cores()).logits([(r.request, r.response) for r in left]))
        folds += [name] * len(left)
    return HeldOut(found, np.concatenate(logits), folds)


def _weights(path: Path, rows: list[Example], recipe: Recipe, say: Say, name: str, device: str) -> Path:
    trained = path.with_name(f"trained-{path.name}")
    if not path.exists() and not trained.exists():
        say(f"{name}: {len(rows)} examples")
        _save(average(_ends(path, rows, recipe, lambda line: say(f"{name}: {line}"), device), recipe.rank), trained)
    if not path.exists():
        say(f"{name}: the head of refusal")
        learned = load_file(trained)
        _save(refit.refusal(rows, Encoder(trained, path.with_name(GRAPH), cores()), learned, recipe), path)
    return path


def _ends(path: Path, rows: list[Example], recipe: Recipe, say: Say, device: str) -> list[Learned]:
    """What a training and each of its continuations ended in."""
    found: list[Learned] = []
    for number in range(recipe.again + 1):
        end = path.with_name(f"end{number}-{path.name}")
        if not end.exists():
            if number:
                say(f"once more, {number} of {recipe.again}")
            now = replace(recipe, epochs=1, seed=recipe.seed + number) if number else recipe
            network = train(rows, now, device, say, path.with_suffix(".state"), found[-1] if number else None)
            _save(difference(network, recipe.rank), end)
        found.append(load_file(end))
    return found


def _save(learned: Learned, path: Path) -> None:
    unfinished = path.with_suffix(".part")
    save_file(learned, unfinished)
    unfinished.rename(path)
