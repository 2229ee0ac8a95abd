"""Adjusted p-values for a family of tests of any kind; dependent differences are better served by `resampling`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shard_eval.errors import UsageError

Floats = npt.NDArray[np.float64]


def holm(p: Sequence[float] | Floats) -> Floats:
    """Holm's step-down adjustment: rejecting where it is at most alpha errs anywhere with probability at most alpha.

    It holds whatever the dependence between the tests.

    Args:
        p: m p-values.

    Returns:
        The m adjusted p-values, in the order given, none below its own p.

    Raises:
        UsageError: if there are none, or one is not a number from 0 to 1.

    Source: Holm 1979, Scand. J. Stat. 6:65-70.
    """
    raw = _checked(p)
    order = np.argsort(raw, kind="stable")
    scaled = raw[order] * np.arange(raw.size, 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def benjamini_hochberg(p: Sequence[float] | Floats) -> Floats:
    """Benjamini and Hochberg's adjustment: at most a share alpha of the rejections is expected to be wrong.

    It holds for independent and for positively dependent tests (Benjamini and Yekutieli 2001, Ann. Stat. 29:1165).

    Args:
        p: m p-values.

    Returns:
        The m adjusted p-values, in the order given, none below its own p.

    Raises:
        UsageError: if there are none, or one is not a number from 0 to 1.

    Source: Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57:289-300; computed by SciPy.
    """
    raw = _checked(p)
    from scipy import stats  # slow to import

    # Multiplying by m and dividing by the rank can round the largest one below itself.
    return np.maximum(raw, stats.false_discovery_control(raw, method="bh"))


def _checked(p: Sequence[float] | Floats) -> Floats:
    """The p-values as an array, once they are known to be p-values."""
    raw = np.asarray(p, dtype=float)
    if raw.ndim != 1 or raw.size == 0:
        raise UsageError(f"an adjustment needs a list of at least one p-value, got shape {raw.shape}")
    bad = ~((raw >= 0) & (raw <= 1))  # catches NaN, too
    if bad.any():
        raise UsageError(f"p-values must be numbers from 0 to 1, got {raw[bad][0]}; leave out tests that were not made")
    return raw
