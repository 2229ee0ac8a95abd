"""The network that is trained: the lower layers of MPNet with one linear layer for the heads.

Only a small difference to MPNet is kept. That our own few lines compute what transformers' MPNet computes is tested;
they are here because its attention is not fused, which costs half the speed on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import nn

from shard_eval.judges.encoder import (
    ATTENTION_HEADS,
    EPSILON,
    FIRST_POSITION,
    INNER,
    LAYERS,
    OUTPUTS,
    WIDTH,
    buckets,
    merged,
)
from shard_eval.packaged import MPNET, obtain

FROZEN = 3
"""The lowest layers are left as they are: they cost less to train through, and less to carry."""


Learned = dict[str, npt.NDArray[Any]]


class Layer(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """A transformer layer, normalised after each half (Vaswani et al. 2017), named as in MPNet's file."""

    def __init__(self) -> None:
        super().__init__()
        attn = {name: nn.Linear(WIDTH, WIDTH) for name in "qkvo"}
        self.attention = nn.ModuleDict({"attn": nn.ModuleDict(attn), "LayerNorm": nn.LayerNorm(WIDTH, eps=EPSILON)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, INNER)})
        self.output = nn.ModuleDict({"dense": nn.Linear(INNER, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, eps=EPSILON)})

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """States after the layer; both are pairs x tokens x width, `bias` is added to the attention scores."""
        attn = self.attention["attn"]
        heads = (x.shape[0], x.shape[1], ATTENTION_HEADS, WIDTH // ATTENTION_HEADS)
        q, k, v = (attn[name](x).view(heads).transpose(1, 2) for name in "qkv")
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.attention["LayerNorm"](x + attn["o"](mixed.transpose(1, 2).reshape(x.shape)))
        inner = nn.functional.gelu(self.intermediate["dense"](x))
        found: torch.Tensor = self.output["LayerNorm"](x + self.output["dense"](inner))
        return found


class Network(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """MPNet's lower layers, the first token's state beside the mean of all, and a linear layer (`encoder.HEADS`).

    Embeddings and the lowest layers are not trained. There is no dropout inside: on a CPU it takes a third of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        weights = load_file(obtain(MPNET)[0])
        part = "embeddings.{}_embeddings.weight"
        self.word = nn.Embedding.from_pretrained(weights[part.format("word")])
        self.position = nn.Embedding.from_pretrained(weights[part.format("position")])
        self.distance = nn.Embedding.from_pretrained(weights["encoder.relative_attention_bias.weight"])
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.norm.load_state_dict({n: weights[f"embeddings.LayerNorm.{n}"] for n in ("weight", "bias")})
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.layer.load_state_dict({name: weights[f"encoder.layer.{name}"] for name in self.layer.state_dict()})
        self.norm.requires_grad_(False)
        self.layer[:FROZEN].requires_grad_(False)
        self.head = nn.Linear(2 * WIDTH, OUTPUTS)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def take_up(self, learned: Learned) -> None:
        """Start from what a training ended in (see `difference`)."""
        names = {name: f"encoder.layer.{name}" for name in self.layer.state_dict()}
        base = {names[name]: weight.numpy() for name, weight in self.layer.state_dict().items()}
        found = merged(base, learned)
        self.layer.load_state_dict({name: torch.from_numpy(found[key]) for name, key in names.items()})
        self.head.load_state_dict({name: torch.from_numpy(found[f"head.{name}"]) for name in ("weight", "bias")})

    def halve(self) -> None:
        """Compute the layers in bfloat16; embeddings and head stay as they are."""
        self.layer.to(torch.bfloat16)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits, pairs x `OUTPUTS`."""
        kind = self.layer[0].output["dense"].weight.dtype
        places = torch.arange(tokens.shape[1], device=tokens.device)
        near = self.distance(torch.from_numpy(buckets(tokens.shape[1])).to(tokens.device)).permute(2, 0, 1)
        bias = (near - 1e4 * (1 - mask[:, None, None, :].float())).to(kind)
        with torch.no_grad():
            x = self.norm(self.word(tokens) + self.position(places + FIRST_POSITION)).to(kind)
            for layer in self.layer[:FROZEN]:
                x = layer(x, bias)
        for layer in self.layer[FROZEN:]:
            x = layer(x, bias)
        x, weight = x.float(), mask.unsqueeze(-1).float()
        pooled = torch.cat([x[:, 0], (x * weight).sum(1) / weight.sum(1)], dim=-1)
        found: torch.Tensor = self.head(nn.functional.dropout(pooled, 0.1, self.training))
        return found


def difference(network: Network, rank: int) -> Learned:
    """What was learned, in little space: per matrix the best approximation of its change of a rank, in half precision.

    The truncated singular value decomposition is the nearest matrix of that rank (Eckart & Young 1936). Biases, norms
    and the head are kept as they are.

    Args:
        network: the trained network.
        rank: of the approximation.

    Returns:
        Arrays by name as `shard_eval.judges.encoder.merged` reads them.
    """
    base = load_file(obtain(MPNET)[0])
    network = network.cpu()
    found: Learned = {f"head.{n}": w.numpy().astype(np.float32) for n, w in network.head.state_dict().items()}
    for name, weight in network.layer.state_dict().items():
        key = f"encoder.layer.{name}"
        if int(name.partition(".")[0]) < FROZEN:
            continue
        if weight.ndim == 1:
            found[key] = weight.float().numpy()
            continue
        found |= _nearest(key, weight.float() - base[key], rank)
    return found


def average(judges: Sequence[Learned], rank: int) -> Learned:
    """The mean of what several judges learned (a model soup, Wortsman et al. 2022), of a rank again.

    Args:
        judges: as `difference` gives them.
        rank: of the approximation.
    """
    found: Learned = {}
    for name in judges[0]:
        if name.endswith(".up"):
            key = name.removesuffix(".up")
            products = [judge[name].astype(np.float32) @ judge[f"{key}.down"].astype(np.float32) for judge in judges]
            found |= _nearest(key, torch.from_numpy(np.mean(products, axis=0)), rank)
        elif not name.endswith(".down"):
            found[name] = np.asarray(np.mean([judge[name] for judge in judges], axis=0, dtype=np.float32))
    return found


def _nearest(key: str, change: torch.Tensor, rank: int) -> Learned:
    """The best approximation of a rank, as two factors."""
    up, size, down = torch.linalg.svd(change, full_matrices=False)
    root = size[:rank].sqrt()
    factors = {f"{key}.up": up[:, :rank] * root, f"{key}.down": root[:, None] * down[:rank]}
    # safetensors writes the buffer as it lies, whatever its order.
    return {name: np.ascontiguousarray(factor.numpy().astype(np.float16)) for name, factor in factors.items()}
