"""The network that is trained: MiniLM with one linear layer for three heads. Only a small difference to it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertModel

from shard_eval.packaged import MINILM, obtain
from shard_train.judge_training.graph import ATTENTION_HEADS, EPSILON, INNER, LAYERS, OUTPUTS, WIDTH


class Network(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """MiniLM, the first token's state beside the mean of all, and a linear layer (logits: `encoder.HEADS`).

    Its embeddings are not trained: with 12 of 23 million weights they would make the difference too large to carry.
    There is no dropout inside: on a CPU it takes a third of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=30522,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=ATTENTION_HEADS,
            intermediate_size=INNER,
            layer_norm_eps=EPSILON,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
        self.base = BertModel(config, add_pooling_layer=False)
        weights = {k: v for k, v in load_file(obtain(MINILM)[0]).items() if not k.startswith("pooler.")}
        self.base.load_state_dict({k: v for k, v in weights.items() if k != "embeddings.position_ids"}, strict=False)
        self.base.embeddings.requires_grad_(False)
        self.head = nn.Linear(2 * WIDTH, OUTPUTS)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: torch.Tensor, segments: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits, pairs x 10."""
        states = self.base(input_ids=tokens, token_type_ids=segments, attention_mask=mask).last_hidden_state.float()
        weight = mask.unsqueeze(-1).float()
        mean = (states * weight).sum(1) / weight.sum(1)
        pooled = torch.cat([states[:, 0], mean], dim=-1)
        found: torch.Tensor = self.head(nn.functional.dropout(pooled, 0.1, self.training))
        return found


def difference(network: Network, rank: int) -> dict[str, Any]:
    """What was learned, in little space: per matrix the best approximation of its change of a rank, in half precision.

    The truncated singular value decomposition is the nearest matrix of that rank (Eckart & Young 1936). Biases, norms
    and the head are kept as they are.

    Args:
        network: the trained network.
        rank: of the approximation.

    Returns:
        Arrays by name as `shard_eval.judges.encoder.merged` reads them.
    """
    base = load_file(obtain(MINILM)[0])
    state = network.state_dict()
    found: dict[str, Any] = {f"head.{n}": state[f"head.{n}"].numpy().astype(np.float32) for n in ("weight", "bias")}
    for name, weight in state.items():
        key = name.removeprefix("base.")
        if not name.startswith("base.encoder."):
            continue
        if weight.ndim == 1:
            found[key] = weight.numpy().astype(np.float32)
            continue
        up, size, down = torch.linalg.svd(weight.float() - base[key], full_matrices=False)
        root = size[:rank].sqrt()
        found[f"{key}.up"] = (up[:, :rank] * root).numpy().astype(np.float16)
        found[f"{key}.down"] = (root[:, None] * down[:rank]).numpy().astype(np.float16)
    # safetensors writes the buffer as it lies, whatever its order.
    return {name: np.ascontiguousarray(w) for name, w in found.items()}
