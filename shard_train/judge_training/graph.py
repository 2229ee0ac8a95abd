"""The embedded judge's network as an ONNX graph without weights: MiniLM's six layers, two poolings, three heads.

    python -m shard_train.judge_training.graph shard_eval/judges/embedded_model/graph.onnx

onnxruntime is given the weights by name when it opens the graph. Needs the package onnx (extra `train`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

LAYERS, WIDTH, INNER, ATTENTION_HEADS, OUTPUTS = 6, 384, 1536, 12, 10
EPSILON = 1e-12  # of BERT's layer norms
OPSET = 20  # the first with Gelu


class _Graph:
    """Collects nodes, constants and the names of weights."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.weights: dict[str, tuple[int, ...]] = {}

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: list[float] | list[int]) -> str:
        from onnx import TensorProto, helper

        kind = TensorProto.INT64 if isinstance(values[0], int) else TensorProto.FLOAT
        self.constants[name] = helper.make_tensor(name, kind, [len(values)], values)
        return name

    def weight(self, name: str, *shape: int) -> str:
        self.weights[name] = shape
        return name

    def linear(self, x: str, name: str, inner: int, outer: int) -> str:
        product = self.add("MatMul", [x, self.weight(f"{name}.weight", inner, outer)], f"{name}/product")
        return self.add("Add", [product, self.weight(f"{name}.bias", outer)], f"{name}/out")

    def norm(self, x: str, name: str) -> str:
        inputs = [x, self.weight(f"{name}.weight", WIDTH), self.weight(f"{name}.bias", WIDTH)]
        return self.add("LayerNormalization", inputs, f"{name}/out", axis=-1, epsilon=EPSILON)


def _attention(g: _Graph, x: str, name: str) -> str:
    parts = {}
    for part in ("query", "key", "value"):
        flat = g.linear(x, f"{name}.self.{part}", WIDTH, WIDTH)
        split = g.add("Reshape", [flat, "split"], f"{name}/{part}/split")
        turn = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
        parts[part] = g.add("Transpose", [split], f"{name}/{part}/heads", perm=turn)
    scores = g.add("MatMul", [parts["query"], parts["key"]], f"{name}/products")
    scaled = g.add("Mul", [scores, "scale"], f"{name}/scaled")
    masked = g.add("Add", [scaled, "penalty"], f"{name}/masked")
    shares = g.add("Softmax", [masked], f"{name}/shares", axis=-1)
    mixed = g.add("MatMul", [shares, parts["value"]], f"{name}/mixed")
    back = g.add("Transpose", [mixed], f"{name}/back", perm=[0, 2, 1, 3])
    joined = g.add("Reshape", [back, "join"], f"{name}/joined")
    dense = g.linear(joined, f"{name}.output.dense", WIDTH, WIDTH)
    return g.norm(g.add("Add", [dense, x], f"{name}/residual"), f"{name}.output.LayerNorm")


def _layer(g: _Graph, x: str, name: str) -> str:
    attended = _attention(g, x, f"{name}.attention")
    inner = g.linear(attended, f"{name}.intermediate.dense", WIDTH, INNER)
    active = g.add("Gelu", [inner], f"{name}/gelu")
    dense = g.linear(active, f"{name}.output.dense", INNER, WIDTH)
    return g.norm(g.add("Add", [dense, attended], f"{name}/residual"), f"{name}.output.LayerNorm")


def _pool(g: _Graph, x: str) -> str:
    """The first token's state beside the mean of all."""
    weight = g.add("Unsqueeze", ["mask", "last"], "mask/column")
    total = g.add("ReduceSum", [g.add("Mul", [x, weight], "weighted"), "second"], "total", keepdims=0)
    count = g.add("ReduceSum", ["mask", "second"], "count", keepdims=1)
    mean = g.add("Div", [total, count], "mean")
    first = g.add("Squeeze", [g.add("Slice", [x, "zero", "one", "second"], "first/row"), "second"], "first")
    return g.add("Concat", [first, mean], "pooled", axis=-1)


def build() -> bytes:
    """The graph, serialized.

    Embeddings (pairs x tokens x 384) and which of them are tokens (pairs x tokens, 0 or 1) become logits (pairs x 10).
    """
    from onnx import TensorProto, helper

    g = _Graph()
    g.constant("split", [0, 0, ATTENTION_HEADS, WIDTH // ATTENTION_HEADS])
    g.constant("join", [0, 0, WIDTH])
    g.constant("scale", [float((WIDTH // ATTENTION_HEADS) ** -0.5)])
    g.constant("middle", [1, 2])
    for name, value in {"zero": 0, "one": 1, "second": 1, "last": 2}.items():
        g.constant(name, [value])
    g.constant("unit", [1.0])
    g.constant("lowest", [1e9])
    # 0 where there is a token, a large negative number where there is none.
    absent = g.add("Sub", [g.add("Unsqueeze", ["mask", "middle"], "mask/keys"), "unit"], "absent")
    g.add("Mul", [absent, "lowest"], "penalty")
    x = g.norm("embeddings", "embeddings.LayerNorm")
    for i in range(LAYERS):
        x = _layer(g, x, f"encoder.layer.{i}")
    head = g.linear(_pool(g, x), "head", 2 * WIDTH, OUTPUTS)
    g.add("Identity", [head], "logits")

    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        g.nodes,
        "embedded-judge",
        [
            helper.make_tensor_value_info("embeddings", floats, ["pairs", "tokens", WIDTH]),
            helper.make_tensor_value_info("mask", floats, ["pairs", "tokens"]),
        ],
        [helper.make_tensor_value_info("logits", floats, ["pairs", OUTPUTS])],
        [*g.constants.values(), *(_external(name, shape) for name, shape in g.weights.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return bytes(model.SerializeToString())


def _external(name: str, shape: tuple[int, ...]) -> Any:
    """A weight that is promised and given by name when the graph is opened."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="given-when-opened")
    return tensor


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(build())
