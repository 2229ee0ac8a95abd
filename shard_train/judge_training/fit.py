"""Training the embedded judge's network once."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from shard_eval.judges.encoder import CLS, SEP, Tokens, pad
from shard_eval.packaged import MINILM_TOKENIZER, obtain
from shard_train.judge_training.data import Example, disguised
from shard_train.judge_training.network import Network

MASK = 103  # MiniLM's [MASK]


@dataclass(frozen=True)
class Recipe:
    """How the network is trained.

    Attributes:
        epochs: passes over the examples.
        rate: highest learning rate; it rises over the first 6 % of the steps, then falls to 0.
        batch: examples a step.
        disguised: share of the examples that come in another dress.
        unasked: share of the examples that come without their request: the same requests, answered by every model,
            would else be learned by heart.
        masked: share of the tokens that are hidden.
        smoothing: of the action and refusal labels.
        follows: weight of action 5, which is rare in Do-Not-Answer.
        rank: of what is kept of each matrix.
        seed: of everything.
    """

    epochs: int = 3
    rate: float = 1.5e-4
    batch: int = 32
    disguised: float = 0.25
    unasked: float = 0.15
    masked: float = 0.05
    smoothing: float = 0.05
    follows: float = 3.0
    rank: int = 32
    seed: int = 0


def train(rows: list[Example], recipe: Recipe, say: Callable[[str], None] = lambda line: None) -> Network:
    """Train a network.

    Args:
        rows: the examples.
        recipe: how.
        say: told the mean loss and the time after each epoch.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    network = Network()
    tokens = Tokens(obtain(MINILM_TOKENIZER)[0])
    optimizer, schedule = _optimizer(network, recipe, recipe.epochs * math.ceil(len(rows) / recipe.batch))
    network.train()
    start = time.monotonic()
    for epoch in range(recipe.epochs):
        losses = []
        for chosen in _batches([disguised(r, recipe.disguised, rng) for r in rows], recipe.batch, rng):
            loss = _loss(_forward(network, tokens, chosen, recipe, rng), chosen, recipe)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        say(f"epoch {epoch + 1} of {recipe.epochs}: loss {np.mean(losses):.3f}, {time.monotonic() - start:.0f} s")
    network.eval()
    return network


def _optimizer(
    network: Network, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    body = [p for p in network.base.parameters() if p.requires_grad]
    groups = [{"params": body, "lr": recipe.rate}, {"params": list(network.head.parameters()), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    warm = max(1.0, 0.06 * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1.0, steps - warm)))
    )
    return optimizer, schedule


def _batches(rows: list[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    """Batches of like length in random order, so that little is padded."""
    rng.shuffle(rows)
    found = []
    for start in range(0, len(rows), size * 20):
        near = sorted(rows[start : start + size * 20], key=lambda r: len(r.request) + len(r.response))
        found += [near[i : i + size] for i in range(0, len(near), size)]
    rng.shuffle(found)
    yield from found


def _forward(network: Network, tokens: Tokens, rows: list[Example], recipe: Recipe, rng: random.Random) -> torch.Tensor:
    pairs = [tokens.pair("" if rng.random() < recipe.unasked else r.request, r.response) for r in rows]
    hidden = [
        ([MASK if t not in (CLS, SEP) and rng.random() < recipe.masked else t for t in ids], first)
        for ids, first in pairs
    ]
    # Half precision triples the speed on processors that have it; on others it is only slower.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found: torch.Tensor = network(*(torch.from_numpy(a) for a in pad(hidden))).float()
    return found


def _loss(logits: torch.Tensor, rows: list[Example], recipe: Recipe) -> torch.Tensor:
    """Cross-entropy of the three heads, each over the examples that have its label, per example of the batch."""
    weights = torch.tensor([1, 1, 1.5, 1, 1, recipe.follows])
    parts = [
        _classes(logits[:, :6], [r.action for r in rows], recipe.smoothing, weights),
        _classes(logits[:, 7:], [r.refusal for r in rows], recipe.smoothing, None),
    ]
    known = [i for i, r in enumerate(rows) if r.harm is not None]
    if known:
        target = torch.tensor([float(rows[i].harm or 0) for i in known])
        parts.append(nn.functional.binary_cross_entropy_with_logits(logits[known, 6], target, reduction="sum"))
    return torch.stack(parts).sum() / len(rows)


def _classes(
    logits: torch.Tensor, labels: list[int | None], smoothing: float, weights: torch.Tensor | None
) -> torch.Tensor:
    known = [i for i, label in enumerate(labels) if label is not None]
    if not known:
        return logits.sum() * 0.0
    target = torch.tensor([labels[i] for i in known])
    return nn.functional.cross_entropy(
        logits[known], target, weight=weights, label_smoothing=smoothing, reduction="sum"
    )


def threads(number: int) -> None:
    """Compute on so many cores."""
    torch.set_num_threads(number)
