"""A sentence encoder of MiniLM's form, written node by node with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from onnx import TensorProto

from tests.support import models
from tests.support.networks import Network

TOKENS: Final = 16
WORDS: Final = 3000


def encoder(path: Path, *, layers: int = 4, width: int = 192, heads: int = 6) -> Path:
    """y [batch, width] of x, int64 [batch, TOKENS]: embeddings, attention, feed-forward, mean."""
    net = Network()
    table = net.weight("words", WORDS, width, fan=width)
    x = net.node("Add", "placed", [net.node("Gather", "looked_up", [table, "x"]), "places"])
    net.weight("places", TOKENS, width, fan=width)
    net.weights["root"] = np.array(np.sqrt(width // heads), np.float32)
    split = net.literal("split", 0, 0, heads, width // heads)
    join = net.literal("join", 0, 0, width)
    for index in range(layers):
        name = f"layer{index}"
        queries, keys, values = (
            net.node(
                "Transpose",
                f"{name}.{one}.moved",
                [
                    net.node(
                        "Reshape",
                        f"{name}.{one}.heads",
                        [net.linear(f"{name}.{one}", x, width, width), split],
                    )
                ],
                perm=[0, 2, 3, 1] if one == "key" else [0, 2, 1, 3],
            )
            for one in ("query", "key", "value")
        )
        scores = net.node("MatMul", f"{name}.scores", [queries, keys])
        shares = net.node("Softmax", f"{name}.shares", [_scaled(net, name, scores)], axis=-1)
        mixed = net.node("MatMul", f"{name}.mix", [shares, values])
        moved = net.node("Transpose", f"{name}.mixed", [mixed], perm=[0, 2, 1, 3])
        joined = net.node("Reshape", f"{name}.joined", [moved, join])
        x = _added(net, f"{name}.first", net.linear(f"{name}.out", joined, width, width), x, width)
        inner = net.node("Gelu", f"{name}.gelu", [net.linear(f"{name}.up", x, width, 4 * width)])
        fed = net.linear(f"{name}.down", inner, 4 * width, width)
        x = _added(net, f"{name}.second", fed, x, width)
    net.node("ReduceMean", "y", [x, net.literal("time", 1)], keepdims=0)
    return models.save(
        path,
        net.nodes,
        [("x", TensorProto.INT64, ["batch", TOKENS])],
        [("y", TensorProto.FLOAT, ["batch", width])],
        net.weights,
    )


def _scaled(net: Network, name: str, scores: str) -> str:
    return net.node("Div", f"{name}.scaled", [scores, "root"])


def _added(net: Network, name: str, branch: str, skip: str, width: int) -> str:
    total = net.node("Add", f"{name}.add", [branch, skip])
    parameters = [net.weight(f"{name}.scale", width), net.weight(f"{name}.shift", width)]
    return net.node("LayerNormalization", name, [total, *parameters], axis=-1)
