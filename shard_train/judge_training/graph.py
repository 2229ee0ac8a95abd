"""A trained judge's network as an ONNX graph without weights: MPNet's lower layers, two poolings, the heads.

    python -m shard_train.judge_training.graph shard_eval/judges/embedded_model/graph.onnx

onnxruntime is given the weights by name when it opens the graph. Needs the package onnx (extra `train`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from shard_eval.judges.encoder import ATTENTION_HEADS, EPSILON, INNER, LAYERS, OUTPUTS, ROUNDED, STEP, WIDTH

OPSET = 20  # the first with Gelu
EXTRA = "com.microsoft"  # onnxruntime's own operators


class Rounded(NamedTuple):
    """Names of 8-bit integers and of the size of their steps."""

    integers: str
    step: str


class _Graph:
    """Collects nodes and the names of weights."""

    def __init__(self, in_integers: bool) -> None:
        self.in_integers = in_integers
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def weight(self, name: str, *shape: int, kind: str = "FLOAT") -> str:
        """A weight that is promised and given by name when the graph is opened."""
        from onnx import TensorProto

        place = TensorProto.EXTERNAL
        tensor = TensorProto(name=name, data_type=getattr(TensorProto, kind), dims=shape, data_location=place)
        tensor.external_data.add(key="location", value="given-when-opened")
        self.weights.append(tensor)
        return name

    def rounding(self, x: str) -> Rounded:
        """Activations as 8-bit integers, token by token, and the size of one step of each token.

        By one step for a whole response (DynamicQuantizeMatMul) a few tokens with large numbers would round off all
        others: that cost two points of kappa on action.
        """
        ends = [self.add(f"Reduce{end}", [x, "last"], f"{x}/{end}", keepdims=1) for end in ("Max", "Min")]
        largest = self.add("Max", [ends[0], self.add("Neg", [ends[1]], f"{x}/-Min"), "least"], f"{x}/largest")
        step = self.add("Div", [largest, "most"], f"{x}/step")
        steps = self.add("Reshape", [step, "last"], f"{x}/steps")
        middles = self.add("Expand", ["middle", self.add("Shape", [steps], f"{x}/tokens")], f"{x}/middles")
        return Rounded(self.add("QuantizeLinear", [x, steps, middles], f"{x}/rounded", axis=1), step)

    def linear(self, x: str | Rounded, name: str, inner: int, outer: int) -> str:
        """A linear layer, of activations or of rounded ones."""
        bias = self.weight(f"{name}.bias", outer)
        if isinstance(x, Rounded):
            matrix = self.weight(f"{name}.weight{ROUNDED}", inner, outer, kind="INT8")
            step = self.weight(f"{name}.weight{STEP}", outer)
            inputs = [x.integers, matrix, "unit", step, "middle"]
            product = self.add("MatMulIntegerToFloat", inputs, f"{name}/integers", EXTRA)
            product = self.add("Mul", [product, x.step], f"{name}/product")
        else:
            product = self.add("MatMul", [x, self.weight(f"{name}.weight", inner, outer)], f"{name}/product")
        return self.add("Add", [product, bias], f"{name}/out")

    def input(self, x: str) -> str | Rounded:
        """What linear layers are given."""
        return self.rounding(x) if self.in_integers else x

    def norm(self, x: str, name: str) -> str:
        inputs = [x, self.weight(f"{name}.weight", WIDTH), self.weight(f"{name}.bias", WIDTH)]
        return self.add("LayerNormalization", inputs, f"{name}/out", axis=-1, epsilon=EPSILON)


def _layer(g: _Graph, x: str, name: str) -> str:
    given = g.input(x)
    parts = [g.linear(given, f"{name}.attention.attn.{part}", WIDTH, WIDTH) for part in "qkv"]
    inputs = [*parts, "", "", "distance"]
    mixed = g.add("MultiHeadAttention", inputs, f"{name}/mixed", EXTRA, num_heads=ATTENTION_HEADS)
    dense = g.linear(g.input(mixed), f"{name}.attention.attn.o", WIDTH, WIDTH)
    attended = g.norm(g.add("Add", [dense, x], f"{name}/attended"), f"{name}.attention.LayerNorm")
    active = g.add("Gelu", [g.linear(g.input(attended), f"{name}.intermediate.dense", WIDTH, INNER)], f"{name}/gelu")
    dense = g.linear(g.input(active), f"{name}.output.dense", INNER, WIDTH)
    return g.norm(g.add("Add", [dense, attended], f"{name}/output"), f"{name}.output.LayerNorm")


def build(in_integers: bool = True) -> bytes:
    """The graph, serialized.

    The embeddings of one response (1 x tokens x 768) and what distance adds to the attention scores
    (1 x 12 x tokens x tokens) become what the heads read (1 x 1536) and their logits (1 x 11).

    Args:
        in_integers: multiply matrices in 8-bit integers (several times as fast), else in single precision.
    """
    from onnx import TensorProto, helper, numpy_helper

    g = _Graph(in_integers)
    x = g.norm("embeddings", "embeddings.LayerNorm")
    for i in range(LAYERS):
        x = _layer(g, x, f"encoder.layer.{i}")
    mean = g.add("ReduceMean", [x, "second"], "mean", keepdims=0)
    first = g.add("Gather", [x, "zero"], "first", axis=1)
    pooled = g.add("Concat", [first, mean], "pooled", axis=-1)
    product = g.add("MatMul", [pooled, g.weight("head.weight", 2 * WIDTH, OUTPUTS)], "head/product")
    g.add("Add", [product, g.weight("head.bias", OUTPUTS)], "logits")

    floats, tokens = TensorProto.FLOAT, "tokens"
    graph = helper.make_graph(
        g.nodes,
        "embedded-judge",
        [
            helper.make_tensor_value_info("embeddings", floats, [1, tokens, WIDTH]),
            helper.make_tensor_value_info("distance", floats, [1, ATTENTION_HEADS, tokens, tokens]),
        ],
        [
            helper.make_tensor_value_info("logits", floats, [1, OUTPUTS]),
            helper.make_tensor_value_info("pooled", floats, [1, 2 * WIDTH]),
        ],
        [*_constants(numpy_helper), *g.weights],
    )
    versions = [helper.make_opsetid("", OPSET), helper.make_opsetid(EXTRA, 1)]
    return bytes(helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString())


def _constants(numpy_helper: Any) -> list[Any]:
    import numpy as np

    found = {
        "zero": np.array(0),
        "second": np.array([1]),
        "last": np.array([-1]),
        "unit": np.array(1, dtype=np.float32),
        "least": np.array(1e-9, dtype=np.float32),
        "most": np.array(127, dtype=np.float32),
        "middle": np.array(128, dtype=np.uint8),
    }
    return [numpy_helper.from_array(value, name) for name, value in found.items()]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(build())
