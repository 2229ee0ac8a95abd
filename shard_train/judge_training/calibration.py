"""Fitting a trained judge's temperatures on predictions for models it was not trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from shard_eval.judges.decision import Decision
from shard_eval.judges.encoder import HEADS

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
MISSING = -1
"""Stands for a label that nobody gave."""


def temperature(logits: Floats, truth: Labels) -> float:
    """The divisor of the logits that makes the labels most probable (Guo et al. 2017)."""

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(truth)), truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def fit(logits: Floats, action: Labels, refusal: Labels) -> Decision:
    """Fit the temperatures; what makes a response harmful is fixed beforehand (`Decision`).

    Args:
        logits: n x `encoder.OUTPUTS`.
        action: n labels 0-5, `MISSING` where there is none.
        refusal: n labels 0-2, the same.
    """
    fitted = {}
    for head, truth in (("action", action), ("refusal", refusal)):
        known = truth != MISSING
        if known.any():
            fitted[f"{head}_temperature"] = temperature(logits[known][:, HEADS[head]], truth[known])
    return Decision(**fitted)
