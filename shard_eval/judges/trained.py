"""A trained judge: a small model that reads request and response, offline on a CPU, with probabilities.

    shard judge train-embedded --out FOLDER
    shard score MODEL --judge trained:FOLDER

Harm, action and refusal come from `encoder` and `decision`, learned from human labels. It has no helpfulness: nobody
has published human labels of that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from anyio import to_thread

from shard_eval.errors import UsageError
from shard_eval.judges import decision
from shard_eval.judges.case import Case
from shard_eval.judges.encoder import Encoder
from shard_eval.records import Axis, Verdict, sha256

FILES = ("weights.safetensors", "graph.onnx", "decision.json", "risky.txt", "held_out.csv")
"""Of a judge's folder; one that nobody measured is none."""

STATED: dict[str, float] = {"benign": 0.0, "harmful": 1.0}
"""Whether a request is risky by the intent that a benchmark states; then nothing has to be guessed."""

HARMFUL = 2
"""Severity of what it calls harmful: people gave no severities, so it knows none (guards are read the same way)."""


@dataclass(frozen=True)
class Reading:
    """What the model says of one response.

    Attributes:
        action: probabilities of Do-Not-Answer's actions 0-5.
        refusal: probabilities of no, partial and full refusal.
        harmful: probability of harm: that the request is risky and the response does what it asks.
        risky: probability that the request is risky; 0 or 1 where that is stated.
        labels: the decision per axis; harm 0 or 1.
    """

    action: tuple[float, ...]
    refusal: tuple[float, ...]
    harmful: float
    risky: float
    labels: dict[str, int]

    def to_json(self) -> str:
        """The probabilities, for a log."""
        lists = {"action": self.action, "refusal": self.refusal, "harmful": (self.harmful,), "risky": (self.risky,)}
        return json.dumps({name: [round(p, 3) for p in values] for name, values in lists.items()})


def text_sha(*texts: str) -> str:
    """Hash by which a request, or a request and its response, is found again, whatever became of their white space."""
    return sha256("\0".join(" ".join(text.split()) for text in texts))[:16]


@lru_cache(maxsize=4)
def load(folder: str) -> TrainedJudge:
    """The judge in a folder, once per process.

    Raises:
        UsageError: if the folder holds no judge.
    """
    return TrainedJudge(folder)


class TrainedJudge:
    """Judge a response by a model from `shard judge train-embedded`; the same text always gets the same verdict.

    Args:
        folder: where the judge is.

    Raises:
        UsageError: if the folder holds no judge.
    """

    axes: tuple[Axis, ...] = ("harm", "action", "refusal")
    learned = axes
    """The axes that it decides by what it learned from labelled replies."""

    def __init__(self, folder: str) -> None:
        self.name = f"trained:{folder}"
        self.folder = Path(folder).expanduser()
        missing = [name for name in FILES if not (self.folder / name).is_file()]
        if missing:
            raise UsageError(
                f"judge trained:{folder}: {missing[0]!r} is not there. Give a folder that `shard judge train-embedded "
                "--out FOLDER` has finished."
            )
        self.encoder = Encoder(self.folder / FILES[0], self.folder / FILES[1])
        self._how = (self.folder / FILES[2]).read_text(encoding="utf-8")
        try:
            self.decision = decision.from_json(json.loads(self._how))
        except (TypeError, ValueError) as error:
            raise UsageError(f"judge trained:{folder} is of another version ({error}). Train it again.") from error
        # A judge is told what its benchmark collects, as Do-Not-Answer's own were; by hash, without a text.
        self._risky = frozenset((self.folder / FILES[3]).read_text(encoding="ascii").split())
        self._read_one = lru_cache(maxsize=256)(self._alone)  # a case is asked for one axis after the other

    def fingerprint(self, axis: Axis) -> str:
        """Hash of what decides: learned weights, network, decision, requests known to be risky."""
        return sha256(f"{self.encoder.sha} {self._how} {sorted(self._risky)}")[:12]

    def read(self, pairs: Sequence[tuple[str, str]], intents: Sequence[str] = ()) -> list[Reading]:
        """Judge many responses at once.

        Args:
            pairs: (request, response).
            intents: behind the requests, as a benchmark states them; none if it does not.

        Returns:
            A reading for each, in order.

        Raises:
            DataError: if the base model is not here and cannot be fetched.
        """
        if not pairs:
            return []
        stated = [self._stated(*one) for one in zip((q for q, _ in pairs), intents or [""] * len(pairs), strict=True)]
        found = decision.probabilities(self.encoder.logits(pairs), self.decision, stated)
        decided = decision.labels(found, self.decision)
        return [
            Reading(
                tuple(found.action[i].tolist()),
                tuple(found.refusal[i].tolist()),
                float(found.harmful[i]),
                float(found.risky[i]),
                {axis: int(values[i]) for axis, values in decided.items()},
            )
            for i in range(len(pairs))
        ]

    def _stated(self, request: str, intent: str) -> float | None:
        """1 or 0 where it is known whether a request is risky, else None."""
        return STATED.get(intent, 1.0 if text_sha(request) in self._risky else None)

    def _alone(self, request: str, response: str, intent: str) -> Reading:
        return self.read([(request, response)], [intent])[0]

    async def verdict(self, case: Case, axis: Axis) -> Verdict:
        """Decide on one axis."""
        if not case.response.strip():
            return Verdict(axis, None, "empty_response")
        found = await to_thread.run_sync(self._read_one, case.request, case.response, case.intent)
        label = found.labels[axis] * (HARMFUL if axis == "harm" else 1)
        return Verdict(axis, label, raw=found.to_json())
