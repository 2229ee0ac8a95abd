"""`shard judge train-embedded`. Heavy imports happen inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from shard_eval.cli import consoles
from shard_eval.errors import UsageError


@click.command("train-embedded")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("results/judges/trained"))
@click.option("--fold", "folds", multiple=True, help="Only these left-out models, to share the work.")
@click.option("--epochs", type=int, default=None, help="Other than the recipe's.")
@click.option("--seed", type=int, default=None, help="Other than the recipe's.")
@click.option("--threads", type=int, default=0, help="Cores to use; 0 for all.")
@click.option("--device", default="cpu", show_default=True, help="Where to train, in torch's words, e.g. cuda.")
def train_embedded(
    out: Path,
    folds: tuple[str, ...],
    epochs: int | None,
    seed: int | None,
    threads: int,
    device: str,
) -> None:
    """Train a small judge on human labels (Do-Not-Answer, XSTest, PyRIT) and answers of our own, and measure it.

    Four trainings, each without one source model, on which it is measured; their average is kept. Each goes on once
    from its end (the average of both ends counts), and then the head of refusal is fitted once more. Some hundred
    minutes each on one core with half precision where nothing else runs on it (`--fold NAME --threads 1`, one process a
    core, shares the work). What is finished in --out is not done again.
    Needs SHARD_DATA_DIR with the released labels and the extra `train`. --out then holds the judge with its card, and
    `--judge trained:OUT` uses it. The `embedded` judge was made so, by the recipe and examples that its card names.
    """
    from shard_train.judge_training import card
    from shard_train.judge_training.data import FOLDS
    from shard_train.judge_training.fit import Recipe
    from shard_train.judge_training.fit import threads as use
    from shard_train.judge_training.train import run, train_folds

    _, err = consoles()
    changed = {k: v for k, v in {"epochs": epochs, "seed": seed}.items() if v is not None}
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs {epochs}: give a number of at least 1.")
    unknown = sorted(set(folds) - set(FOLDS))
    if unknown:
        raise UsageError(f"--fold {unknown[0]!r}: the left-out models are {', '.join(FOLDS)}.")
    if threads:
        use(threads)

    def say(line: str) -> None:
        err.print(line, markup=False, highlight=False)

    recipe = replace(Recipe(), **changed)
    if folds:
        train_folds(out, recipe, folds, say, device)
        return
    run(out, recipe, say, device)
    (out / "CARD.md").write_text(card.write(out, recipe), encoding="utf-8")
    say(f"The judge is in {out}: --judge trained:{out}")
