"""Training a judge's network once."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from shard_eval.judges.encoder import CLS, HEADS, MASK, PAD, SEP, Tokens
from shard_eval.packaged import MPNET_TOKENIZER, obtain
from shard_train.judge_training.data import Example, disguised
from shard_train.judge_training.network import Learned, Network


@dataclass(frozen=True)
class Recipe:
    """How a judge is trained.

    Attributes:
        epochs: passes over the examples.
        again: how often the training then goes on from its end, for one pass at the full rate and in another order;
            what is kept is the mean of all ends (Izmailov et al. 2018, "Averaging weights leads to wider optima").
        rate: highest learning rate; it rises over the first 6 % of the steps, then falls to 0.
        batch: examples a step.
        disguised: share of the examples that come in another dress.
        unasked: share of the examples that come without their request: the same requests, answered by every model,
            would else be learned by heart.
        masked: share of the tokens that are hidden.
        smoothing: of the labels of action, refusal and risk.
        second: how much a second reader's label of an action counts: where two readers differ, neither is sure.
        follows: weight of action 5.
        harmful: weight of harmful responses.
        implied: weight of what harm says of an action that nobody labelled: on a risky request, a harmful response is
            one of action 5, and a harmless one is not.
        risky: weight of whether the request is risky.
        rank: of what is kept of each matrix.
        concluded: weight of what follows for refusal (`data.of_refusal`) in the second fit of its head.
        near: how strongly that fit is held to the first.
        seed: of everything.
    """

    epochs: int = 3
    again: int = 1
    rate: float = 6e-5
    batch: int = 24
    disguised: float = 0.2
    unasked: float = 0.1
    masked: float = 0.05
    smoothing: float = 0.03
    second: float = 0.25
    follows: float = 1.0
    harmful: float = 2.0
    implied: float = 0.5
    risky: float = 0.6
    rank: int = 32
    concluded: float = 2.0
    near: float = 0.01
    seed: int = 0


def train(
    rows: list[Example],
    recipe: Recipe,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
    state: Path | None = None,
    begin: Learned | None = None,
) -> Network:
    """Train a network once.

    Args:
        rows: the examples.
        recipe: how.
        device: where, in torch's words.
        say: told the mean loss and the time after each epoch.
        state: a file that keeps the training after each epoch (57 million numbers, three times) and that a training
            which was stopped goes on from; removed at the end. It belongs to these rows, recipe and beginning.
        begin: what an earlier training ended in; default the base.

    Returns:
        The network, in single precision and evaluation mode.
    """
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    network: Network = Network()
    if begin is not None:
        network.take_up(begin)
    network = network.to(device)
    tokens = Tokens(obtain(MPNET_TOKENIZER)[0])
    optimizer = _Optimizer(network, recipe, recipe.epochs * math.ceil(len(rows) / recipe.batch))
    network.train()
    start = time.monotonic()
    done = 0
    if state is not None and state.exists():
        kept = torch.load(state, map_location=device)
        done = kept["epochs"]
        optimizer.load_state_dict(kept["optimizer"])
        rng.setstate(kept["random"])
        torch.set_rng_state(kept["dropout"].cpu())
        say(f"goes on after epoch {done} of {recipe.epochs}")
    for epoch in range(done, recipe.epochs):
        losses = []
        for chosen in _batches([disguised(r, recipe.disguised, rng) for r in rows], recipe.batch, rng):
            asked = [replace(r, request="", risky=None) if rng.random() < recipe.unasked else r for r in chosen]
            ids, mask = pad(_masked([tokens.pair(r.request, r.response) for r in asked], recipe.masked, rng))
            loss = _loss(network(_sent(ids, device), _sent(mask, device)), _sent(_aims(asked, recipe), device))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean().item()
        say(f"epoch {epoch + 1} of {recipe.epochs}: loss {mean:.3f}, {time.monotonic() - start:.0f} s")
        if state is not None:
            unfinished = state.with_suffix(".part")
            torch.save(
                {
                    "epochs": epoch + 1,
                    "optimizer": optimizer.state_dict(),
                    "random": rng.getstate(),
                    "dropout": torch.get_rng_state(),
                },
                unfinished,
            )
            unfinished.rename(state)
    optimizer.restore(network)
    if state is not None:
        state.unlink(missing_ok=True)
    network.eval()
    return network


def _sent(values: torch.Tensor, device: str) -> torch.Tensor:
    """The values on a device, without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else values


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
            torch._foreach_copy_(self._half, self._exact)

    def state_dict(self) -> dict[str, Any]:
        """All of it, weights included."""
        return {
            "layer": self._layer.state_dict(),
            "head": [p.detach() for p in self._head],
            "adam": self._adam.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._layer.load_state_dict(kept["layer"])
        self._adam.load_state_dict(kept["adam"])
        self._schedule.load_state_dict(kept["schedule"])
        with torch.no_grad():
            torch._foreach_copy_(self._head, kept["head"])
            torch._foreach_copy_(self._half, self._exact)

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


def _masked(rows: list[list[int]], share: float, rng: random.Random) -> list[list[int]]:
    return [[MASK if t not in (CLS, SEP) and rng.random() < share else t for t in ids] for ids in rows]


def pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows of ids to token ids and mask, each rows x tokens; a multiple of 8, which graphics processors like."""
    shape = len(rows), math.ceil(max(len(ids) for ids in rows) / 8) * 8
    tokens, mask = torch.full(shape, PAD), torch.zeros(shape, dtype=torch.long)
    for i, ids in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        mask[i, : len(ids)] = 1
    return tokens, mask


AIMS = {
    "action": slice(0, 6),
    "not 5": slice(6, 7),
    "refusal": slice(7, 10),
    "harm": slice(10, 12),
    "risky": slice(12, 14),
}
"""Columns of what a response should be: weights of the logarithms of probabilities."""

CLASS_WEIGHTS = (1.0, 1.0, 1.3, 1.0, 1.0)  # of actions 0 to 4; 2 is rare and easily overlooked


def _aims(rows: list[Example], recipe: Recipe) -> torch.Tensor:
    """What the responses should be, rows x 14 (see `AIMS`); 0 where nobody knows."""
    found = np.zeros((len(rows), 14), dtype=np.float32)
    for aim, r in zip(found, rows, strict=True):
        if r.action is not None:
            target = _target(r.action, 6, recipe, r.second)
            aim[AIMS["action"]] = target * (*CLASS_WEIGHTS, recipe.follows)[int(target.argmax())]
        elif r.harm is not None and r.risky != 0:
            aim[AIMS["action"].stop - 1 if r.harm else AIMS["not 5"].start] = recipe.implied
        if r.refusal is not None:
            aim[AIMS["refusal"]] = _target(r.refusal, 3, recipe)
        if r.harm is not None and r.risky != 0:
            aim[AIMS["harm"]] = (recipe.harmful, 0) if r.harm else (0, 1)
        if r.risky is not None:
            aim[AIMS["risky"]] = recipe.risky * _target(1 - r.risky, 2, recipe)
    return torch.from_numpy(found)


def _loss(logits: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of all heads, per example of the batch.

    Args:
        logits: rows x `OUTPUTS`.
        aims: rows x 14, see `_aims`.
    """
    log = nn.functional.logsigmoid
    action = logits[:, HEADS["action"]].log_softmax(1)
    refusal = logits[:, HEADS["refusal"]].log_softmax(1)
    harm, risky = logits[:, HEADS["harm"]], logits[:, HEADS["risky"]]
    parts = [action, action[:, :-1].logsumexp(1, keepdim=True), refusal, log(harm), log(-harm), log(risky), log(-risky)]
    found: torch.Tensor = -(aims * torch.cat(parts, dim=1)).sum() / len(aims)
    return found


def _target(label: int, classes: int, recipe: Recipe, second: int | None = None) -> npt.NDArray[np.float32]:
    """Probabilities of the classes: the label, a little of a second reader's, and a trace of all others."""
    share = 0.0 if second is None else recipe.second
    found = np.full(classes, recipe.smoothing / classes, dtype=np.float32)
    for known, weight in ((label, 1 - share), (second, share)):
        if known is not None:
            found[known] += (1 - recipe.smoothing) * weight
    return found


def threads(number: int) -> None:
    """Compute on so many cores."""
    torch.set_num_threads(number)


def cores() -> int:
    """On how many cores it computes."""
    return int(torch.get_num_threads())
