"""Small networks of well-known kinds, written node by node with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support import models


class Network:
    """Collects nodes and weights; every method returns the name of what its node gives."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray[Any]] = {}

    def weight(self, name: str, *shape: int, fan: int = 0) -> str:
        scale = np.sqrt(2 / fan) if fan else 0.3
        values = self._random.standard_normal(shape) * scale + (0 if fan else 0.2)
        self.weights[name] = values.astype(np.float32)
        return name

    def literal(self, name: str, *values: int) -> str:
        self.weights[name] = np.array(values, np.int64)
        return name

    def node(self, operator: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def conv(
        self,
        name: str,
        source: str,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        group: int = 1,
        stride: int = 1,
    ) -> str:
        columns = inputs // group
        weight = self.weight(f"{name}.w", outputs, columns, kernel, kernel, fan=columns * kernel**2)
        return self.node(
            "Conv",
            name,
            [source, weight, self.weight(f"{name}.b", outputs)],
            pads=[kernel // 2] * 4,
            group=group,
            strides=[stride] * 2,
        )

    def norm(self, name: str, source: str, channels: int) -> str:
        names = [self.weight(f"{name}.{one}", channels) for one in ("scale", "shift", "mean")]
        self.weights[f"{name}.var"] = self._random.random(channels).astype(np.float32) + 0.5
        return self.node("BatchNormalization", name, [source, *names, f"{name}.var"])

    def relu(self, source: str) -> str:
        return self.node("Relu", f"{source}.relu", [source])

    def gemm(self, name: str, source: str, inputs: int, outputs: int) -> str:
        weight = self.weight(f"{name}.w", outputs, inputs, fan=inputs)
        bias = self.weight(f"{name}.b", outputs)
        return self.node("Gemm", name, [source, weight, bias], transB=1)

    def linear(self, name: str, source: str, inputs: int, outputs: int) -> str:
        product = self.node(
            "MatMul", name, [source, self.weight(f"{name}.w", inputs, outputs, fan=inputs)]
        )
        return self.node("Add", f"{name}.sum", [product, self.weight(f"{name}.b", outputs)])

    def save(self, path: Path, result: str, given: list[int], made: list[int]) -> Path:
        self.node("Identity", "y", [result])
        return models.save(
            path,
            self.nodes,
            [("x", TensorProto.FLOAT, ["batch", *given])],
            [("y", TensorProto.FLOAT, ["batch", *made])],
            self.weights,
        )


def lenet(path: Path) -> Path:
    """Two convolutions, a literal Reshape where Flatten was meant, three full layers."""
    net = Network()
    x = net.relu(net.conv("conv1", "x", 1, 16, kernel=5))
    x = net.node("MaxPool", "pool1", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = net.relu(net.conv("conv2", x, 16, 24))
    x = net.node("AveragePool", "pool2", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Reshape", "flat", [x, net.literal("flat.shape", -1, 24 * 9)])
    x = net.relu(net.gemm("fc1", x, 24 * 9, 48))
    x = net.relu(net.gemm("fc2", x, 48, 32))
    return net.save(path, net.gemm("fc3", x, 32, 10), [1, 12, 12], [10])


def resnet(path: Path, *, widths: tuple[int, ...] = (16, 32, 64)) -> Path:
    """ResNet-8: a stem, three blocks with skip connections, BatchNormalization unfolded."""
    net = Network()
    x = net.relu(net.norm("stem.bn", net.conv("stem", "x", 3, widths[0]), widths[0]))
    before = widths[0]
    for index, width in enumerate(widths):
        stride = 1 if index == 0 else 2
        name, skip = f"block{index}", x
        x = net.conv(f"{name}.1", x, before, width, stride=stride)
        x = net.relu(net.norm(f"{name}.bn1", x, width))
        x = net.norm(f"{name}.bn2", net.conv(f"{name}.2", x, width, width), width)
        if before != width:
            skip = net.conv(f"{name}.skip", skip, before, width, kernel=1, stride=stride)
            skip = net.norm(f"{name}.bn3", skip, width)
        x, before = net.relu(net.node("Add", f"{name}.add", [x, skip])), width
    x = net.node("Flatten", "flat", [net.node("GlobalAveragePool", "pool", [x])])
    return net.save(path, net.gemm("head", x, before, 10), [3, 16, 16], [10])


def mobilenet(path: Path) -> Path:
    """Inverted bottlenecks with depthwise convolutions, Clip, squeeze and excitation."""
    net = Network()
    net.weights |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}

    def clipped(name: str) -> str:
        return net.node("Clip", f"{name}.clip", [name, "zero", "six"])

    x = clipped(net.norm("stem.bn", net.conv("stem", "x", 3, 16), 16))
    for index in range(2):
        name, skip = f"block{index}", x
        x = clipped(net.norm(f"{name}.bn1", net.conv(f"{name}.wide", x, 16, 48, kernel=1), 48))
        x = net.conv(f"{name}.depth", x, 48, 48, group=48)
        x = clipped(net.norm(f"{name}.bn2", x, 48))
        gate = net.node("ReduceMean", f"{name}.mean", [x, net.literal("places", 2, 3)], keepdims=1)
        gate = net.relu(net.conv(f"{name}.squeeze", gate, 48, 16, kernel=1))
        gate = net.conv(f"{name}.excite", gate, 16, 48, kernel=1)
        x = net.node("Mul", f"{name}.gated", [x, net.node("Sigmoid", f"{name}.gate", [gate])])
        x = net.norm(f"{name}.bn3", net.conv(f"{name}.narrow", x, 48, 16, kernel=1), 16)
        x = net.node("Add", f"{name}.add", [x, skip])
    x = net.node("GlobalAveragePool", "pool", [x])
    x = net.node("Squeeze", "flat", [x, net.literal("flat.axes", 2, 3)])
    return net.save(path, net.gemm("head", x, 16, 10), [3, 12, 12], [10])


def densenet(path: Path) -> Path:
    """Every convolution reads all former ones' channels, and the image's, concatenated."""
    net = Network()
    x, width = net.node("Concat", "cat", ["x", net.relu(net.conv("stem", "x", 3, 16))], axis=1), 19
    for index in range(3):
        more = net.conv(f"grow{index}", net.relu(net.norm(f"bn{index}", x, width)), width, 16)
        x, width = net.node("Concat", f"cat{index}", [x, more], axis=1), width + 16
    x = net.relu(net.conv("transition", x, width, 32, kernel=1))
    x = net.conv("groups", x, 32, 32, group=2)
    x = net.node("Flatten", "flat", [net.node("GlobalMaxPool", "pool", [net.relu(x)])])
    return net.save(path, net.gemm("head", x, 32, 10), [3, 10, 10], [10])


def perceptron(path: Path) -> Path:
    """Three full layers over flattened images."""
    net = Network()
    x = net.relu(net.linear("fc1", net.node("Flatten", "flat", ["x"]), 64, 96))
    x = net.node("Tanh", "tanh", [net.linear("fc2", x, 96, 64)])
    return net.save(path, net.linear("fc3", x, 64, 10), [1, 8, 8], [10])


def transformer(path: Path, *, heads: int = 4, packed: bool = False) -> Path:
    """One encoder layer over [batch, 6, 32]: attention, LayerNormalization, feed-forward."""
    net, width = Network(), 32
    each = width // heads
    x = net.linear("embed", "x", 8, width)
    if packed:
        queries, keys, values = _packed(net, x, width, heads)
    else:
        parts = [net.linear(one, x, width, width) for one in ("query", "key", "value")]
        split = net.literal("split", 0, 6, heads, each)
        parts = [net.node("Reshape", f"{one}.heads", [one, split]) for one in parts]
        queries, keys, values = (
            net.node("Transpose", f"{one}.moved", [one], perm=[0, 2, 1, 3]) for one in parts
        )
    keys = net.node("Transpose", "keys", [keys], perm=[0, 1, 3, 2])
    net.weights["root"] = np.array(np.sqrt(each), np.float32)
    scores = net.node("Div", "scaled", [net.node("MatMul", "scores", [queries, keys]), "root"])
    shares = net.node("Softmax", "shares", [scores], axis=-1)
    mixed = net.node(
        "Transpose", "mixed", [net.node("MatMul", "mix", [shares, values])], perm=[0, 2, 1, 3]
    )
    joined = net.node("Reshape", "joined", [mixed, net.literal("join", 0, 0, width)])
    x = _added(net, "attended", net.linear("out", joined, width, width), x, width)
    inner = net.node("Gelu", "gelu", [net.linear("up", x, width, 64)])
    x = _added(net, "fed", net.linear("down", inner, 64, width), x, width)
    x = net.node("ReduceMean", "mean", [x, net.literal("time", 1)], keepdims=0)
    return net.save(path, net.linear("head", x, width, 10), [6, 8], [10])


def _packed(net: Network, x: str, width: int, heads: int) -> list[str]:
    """Queries, keys and values out of one product."""
    x = net.linear("qkv", x, width, 3 * width)
    x = net.node("Reshape", "five", [x, net.literal("five.shape", 0, 6, 3, heads, -1)])
    x = net.node("Transpose", "front", [x], perm=[2, 0, 3, 1, 4])
    net.nodes.append(
        helper.make_node(
            "Split", [x, net.literal("thirds", 1, 1, 1)], ["q3", "k3", "v3"], name="thirds", axis=0
        )
    )
    axis = net.literal("first", 0)
    return [net.node("Squeeze", f"{one}.part", [one, axis]) for one in ("q3", "k3", "v3")]


def _added(net: Network, name: str, branch: str, skip: str, width: int) -> str:
    total = net.node("Add", f"{name}.add", [branch, skip])
    parameters = [net.weight(f"{name}.scale", width), net.weight(f"{name}.shift", width)]
    return net.node("LayerNormalization", name, [total, *parameters], axis=-1)
