"""Training a judge's network once."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from shard_eval.judges.encoder import CLS, HEADS, MASK, PAD, SEP, Tokens
from shard_eval.packaged import MPNET_TOKENIZER, obtain
from shard_train.judge_training.data import Example, disguised
from shard_train.judge_training.network import Network


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
        second: how much GPT-4's label of an action counts beside people's: where two readers differ, neither is sure.
        follows: weight of action 5, which is rare in Do-Not-Answer.
        rank: of what is kept of each matrix.
        seed: of everything.
    """

    epochs: int = 3
    rate: float = 6e-5
    batch: int = 24
    disguised: float = 0.2
    unasked: float = 0.1
    masked: float = 0.05
    smoothing: float = 0.03
    second: float = 0.25
    follows: float = 2.0
    rank: int = 32
    seed: int = 0


def train(rows: list[Example], recipe: Recipe, say: Callable[[str], None] = lambda line: None) -> Network:
    """Train a network.

    Args:
        rows: the examples.
        recipe: how.
        say: told the mean loss and the time after each epoch.

    Returns:
        The network, in single precision and evaluation mode.
    """
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    network = Network()
    tokens = Tokens(obtain(MPNET_TOKENIZER)[0])
    optimizer = _Optimizer(network, recipe, recipe.epochs * math.ceil(len(rows) / recipe.batch))
    network.train()
    start = time.monotonic()
    for epoch in range(recipe.epochs):
        losses = []
        for chosen in _batches([disguised(r, recipe.disguised, rng) for r in rows], recipe.batch, rng):
            loss = _loss(_forward(network, tokens, chosen, recipe, rng), chosen, recipe)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        say(f"epoch {epoch + 1} of {recipe.epochs}: loss {np.mean(losses):.3f}, {time.monotonic() - start:.0f} s")
    optimizer.restore(network)
    network.eval()
    return network


class _Optimizer:
    """AdamW on weights in single precision, while the layers compute in half of it.

    Half precision triples the speed on processors that have it (on others it is only slower); steps as small as these
    would be lost in its rounding.
    """

    def __init__(self, network: Network, recipe: Recipe, steps: int) -> None:
        self._layer = copy.deepcopy(network.layer)
        self._exact = [p for p in self._layer.parameters() if p.requires_grad]
        network.halve()
        self._half = [p for p in network.layer.parameters() if p.requires_grad]
        self._head = list(network.head.parameters())
        groups = [{"params": self._exact, "lr": recipe.rate}, {"params": self._head, "lr": 5e-4}]
        self._adam = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        warm = max(1.0, 0.06 * steps)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._adam, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1.0, steps - warm)))
        )

    def step(self) -> None:
        """Take the gradients that are there, and clear them."""
        for exact, half in zip(self._exact, self._half, strict=True):
            exact.grad = None if half.grad is None else half.grad.float()
            half.grad = None
        nn.utils.clip_grad_norm_([*self._exact, *self._head], 1.0)
        self._adam.step()
        self._schedule.step()
        self._adam.zero_grad()
        with torch.no_grad():
            for exact, half in zip(self._exact, self._half, strict=True):
                half.copy_(exact)

    def restore(self, network: Network) -> None:
        """Put the exact weights into the network."""
        network.layer = self._layer


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
    hidden = [[MASK if t not in (CLS, SEP) and rng.random() < recipe.masked else t for t in ids] for ids in pairs]
    found: torch.Tensor = network(*pad(hidden))
    return found


def pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows of ids to token ids and mask, each rows x tokens."""
    shape = len(rows), max(len(ids) for ids in rows)
    tokens, mask = torch.full(shape, PAD), torch.zeros(shape, dtype=torch.long)
    for i, ids in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        mask[i, : len(ids)] = 1
    return tokens, mask


def _loss(logits: torch.Tensor, rows: list[Example], recipe: Recipe) -> torch.Tensor:
    """Cross-entropy of the three heads, each over the examples that have its label, per example of the batch."""
    weights = torch.tensor([1, 1, 1.3, 1, 1, recipe.follows])
    actions = [_target(r.action, 6, recipe, r.second) for r in rows]
    refusals = [_target(r.refusal, 3, recipe) for r in rows]
    parts = [_classes(logits[:, HEADS["action"]], actions, weights), _classes(logits[:, HEADS["refusal"]], refusals)]
    known = [i for i, r in enumerate(rows) if r.harm is not None]
    if known:
        target = torch.tensor([float(rows[i].harm or 0) for i in known])
        harm = logits[known, HEADS["harm"].start]
        parts.append(nn.functional.binary_cross_entropy_with_logits(harm, target, reduction="sum"))
    return torch.stack(parts).sum() / len(rows)


def _target(label: int | None, classes: int, recipe: Recipe, second: int | None = None) -> list[float] | None:
    """Probabilities of the classes: the label, a little of a second reader's, and a trace of all others."""
    if label is None:
        return None
    share = 0.0 if second is None else recipe.second
    found = [recipe.smoothing / classes] * classes
    for known, weight in ((label, 1 - share), (second, share)):
        if known is not None:
            found[known] += (1 - recipe.smoothing) * weight
    return found


def _classes(
    logits: torch.Tensor, targets: list[list[float] | None], weights: torch.Tensor | None = None
) -> torch.Tensor:
    known = [i for i, target in enumerate(targets) if target is not None]
    if not known:
        return logits.sum() * 0.0
    target = torch.tensor([targets[i] for i in known])
    losses = nn.functional.cross_entropy(logits[known], target, reduction="none")
    return (losses if weights is None else losses * weights[target.argmax(1)]).sum()


def threads(number: int) -> None:
    """Compute on so many cores."""
    torch.set_num_threads(number)
