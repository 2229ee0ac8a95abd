"""The head of refusal fitted a second time, on the network as it was trained.

XSTest's refusals are of 2023, and none of its answers is as careful or as long as good help to a delicate but benign
question is today: a head that learned from them alone takes much of such help for a refusal. What else is known of
refusal (`data.of_refusal`) settles that, without touching what the network reads.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from shard_eval.judges.encoder import HEADS, Encoder
from shard_train.judge_training.data import Example, disguised, of_refusal
from shard_train.judge_training.fit import Recipe
from shard_train.judge_training.network import Learned

Floats = npt.NDArray[np.float64]
CLASSES = 3


def head(
    states: Floats, aims: Floats, weights: Floats, first: tuple[Floats, Floats], near: float
) -> tuple[Floats, Floats]:
    """Multinomial logistic regression that stays near a first solution.

    Args:
        states: n x d.
        aims: probabilities of the classes, n x 3.
        weights: n.
        first: matrix (3 x d) and bias (3) to start from.
        near: of the squared distance of the matrix from the first, beside the mean loss.

    Returns:
        Matrix and bias.

    Raises:
        RuntimeError: if the fit does not converge.
    """
    d, share = states.shape[1], weights / weights.sum()

    def loss(flat: Floats) -> tuple[float, Floats]:
        matrix, bias = flat[: CLASSES * d].reshape(CLASSES, d), flat[CLASSES * d :]
        log, away = log_softmax(states @ matrix.T + bias, axis=1), matrix - first[0]
        slope = (np.exp(log) - aims) * share[:, None]
        gradient = np.concatenate([(slope.T @ states + 2 * near * away).ravel(), slope.sum(0)])
        return float(-(share[:, None] * log * aims).sum() + near * (away**2).sum()), gradient

    found = minimize(loss, np.concatenate([first[0].ravel(), first[1]]), jac=True, method="L-BFGS-B")
    if not found.success:
        raise RuntimeError(f"the head of refusal did not settle: {found.message}")
    return found.x[: CLASSES * d].reshape(CLASSES, d), found.x[CLASSES * d :]


def refusal(rows: Sequence[Example], encoder: Encoder, learned: Learned, recipe: Recipe) -> Learned:
    """Fit the head of refusal again.

    What the first fit says of answers to harmful requests that nobody labelled is kept (as in Li & Hoiem 2016, learning
    without forgetting), so that "no refusal" of benign answers does not spread to those. Every row counts once as it is
    and once in another dress, if its label survives that.

    Args:
        rows: that the network was trained on.
        encoder: with the weights that were trained.
        learned: those weights.
        recipe: how.

    Returns:
        The weights with another head of refusal.
    """
    rng = random.Random(recipe.seed)
    known = [(replace(r, refusal=label), r.refusal is None) for r in rows if (label := of_refusal(r)) is not None]
    dressed = [(disguised(r, 1.0, rng), new) for r, new in known]
    known += [(r, new) for r, new in dressed if r.refusal is not None]
    unlabelled = [r for r in rows if of_refusal(r) is None and r.action is None and r.risky == 1]
    states = encoder.states([(r.request, r.response) for r in (*(r for r, _ in known), *unlabelled)]).astype(float)
    columns = HEADS["refusal"]
    first = learned["head.weight"][columns].astype(float), learned["head.bias"][columns].astype(float)
    said = np.eye(CLASSES)[[int(r.refusal or 0) for r, _ in known]]
    said = said * (1 - recipe.smoothing) + recipe.smoothing / CLASSES
    aims = np.concatenate([said, softmax(states[len(known) :] @ first[0].T + first[1], axis=1)])
    weights = np.array([recipe.concluded if new else 1.0 for _, new in known] + [1.0] * len(unlabelled))
    matrix, bias = head(states, aims, weights, first, recipe.near)
    found = {name: weight.copy() for name, weight in learned.items()}
    found["head.weight"][columns], found["head.bias"][columns] = matrix, bias
    return found
