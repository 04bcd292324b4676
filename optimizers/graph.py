"""Small questions about ONNX graphs, and the preparation that every quantiser needs."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnxruntime.quantization.shape_inference import quant_pre_process

from optimizers.contract.errors import InvalidDocument
from optimizers.saving import is_large, save

_NUMBERS: Final = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
_FREE_INITIALIZERS: Final = 4
"""The first IR version whose initializers need not be inputs as well."""

_EIGHT_BITS: Final = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def prepare(model: Path, target: Path) -> Path:
    """Fold constants, infer shapes and drop stale ones, so that a quantiser sees a clean graph.

    A node without a name gets one, the same that the other functions here know it by.

    Args:
        model: The model as it is; stays untouched.
        target: Where the prepared copy goes.
    """
    stripped = load_named(model)
    # Shapes written by exporters name dimensions that quantisation changes.
    del stripped.graph.value_info[:]
    save(stripped, target)
    quant_pre_process(
        str(target),
        str(target),
        skip_symbolic_shape=True,
        skip_optimization=False,
        save_as_external_data=is_large(target),
        all_tensors_to_one_file=True,
        external_data_location=f"{target.stem}.weights",
    )
    return target


def load_named(model: Path) -> onnx.ModelProto:
    """The model with its weights, each node under the name that the other functions know it by."""
    loaded = onnx.load(str(model))
    make_weights_constant(loaded)
    name_nodes(loaded.graph)
    return loaded


def make_weights_constant(model: onnx.ModelProto) -> None:
    """Drop the inputs by which models of before IR version 4 declare their initializers.

    There an initializer is a constant all the same. From version 4 on such an input lets callers
    replace the initializer, and is left alone.
    """
    if model.ir_version >= _FREE_INITIALIZERS:
        return
    stored = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = _FREE_INITIALIZERS


def operator_names(model: Path, operators: Sequence[str]) -> list[str]:
    """Names of the nodes of these operators, in the graph's order; see `prepare` for nameless."""
    graph = _graph(model)
    return [node.name for node in graph.node if node.op_type in operators]


def check_excluded(
    step: str, excluded: Sequence[str], known: Sequence[str], *, key: str = "exclude"
) -> None:
    """Make sure that every node an operator wants left alone, or named under `key`, exists.

    Raises:
        InvalidDocument: One does not.
    """
    unknown = [name for name in excluded if name not in known]
    if unknown:
        raise InvalidDocument(
            f"{step}.{key} names {', '.join(unknown)}, which the step would not touch anyway; "
            f"it would touch {', '.join(known) or 'nothing'}"
        )


def matching_names(
    step: str, patterns: Sequence[str], known: Sequence[str], *, key: str = "exclude"
) -> tuple[str, ...]:
    """The nodes that names, or patterns with `*`, `?` and `[...]`, stand for, in their order.

    A name of a node is that node, whatever is in it.

    Raises:
        InvalidDocument: One stands for none.
    """
    found = {
        pattern: [pattern]
        if pattern in known
        else [name for name in known if fnmatchcase(name, pattern)]
        for pattern in patterns
    }
    check_excluded(step, [pattern for pattern in patterns if not found[pattern]], known, key=key)
    wanted = {name for names in found.values() for name in names}
    return tuple(name for name in known if name in wanted)


def names_after_preparing(model: Path, prepared: Path, names: Sequence[str]) -> list[str]:
    """What nodes of a model are called once `prepare` has fused them with their successors.

    A fused node is recognised by what it gives: a MatMul and the Add after it become one Gemm
    that gives what the Add gave.
    """
    before, after = _graph(model), _graph(prepared)
    makers = {output: node.name for node in after.node for output in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in before.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = []
    for node in before.node:
        if node.name not in names:
            continue
        output = node.output[0]
        while output not in makers and len(users.get(output, [])) == 1:
            output = users[output][0].output[0]
        found.append(makers.get(output, node.name))
    return found


def load_with_constants(model: Path) -> onnx.ModelProto:
    """A model with its weights, a name for every node, and all its constants as initializers."""
    loaded = onnx.load(str(model))
    make_weights_constant(loaded)
    name_nodes(loaded.graph)
    others = []
    for node in loaded.graph.node:
        value = _constant(node) if node.op_type == "Constant" else None
        if value is None:
            others.append(node)
            continue
        loaded.graph.initializer.append(value)
        loaded.graph.initializer[-1].name = node.output[0]
    if len(others) < len(loaded.graph.node):
        del loaded.graph.node[:]
        loaded.graph.node.extend(others)
    return loaded


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant gives; None where it is no tensor of numbers."""
    [attribute] = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name in _NUMBERS:
        value = onnx.numpy_helper.from_array(np.array(value, _NUMBERS[attribute.name]))
    return value if isinstance(value, onnx.TensorProto) else None


def subgraph_inputs(node: onnx.NodeProto) -> set[str]:
    """Names that the graphs inside a node, such as a loop's body, read."""
    inner = [one.g for one in node.attribute if one.type == onnx.AttributeProto.GRAPH]
    inner += [graph for one in node.attribute for graph in one.graphs]
    found = {output.name for graph in inner for output in graph.output}
    for graph in inner:
        for one in graph.node:
            found |= {*one.input, *subgraph_inputs(one)}
    return found


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model is written in; 1 if it names none."""
    versions = (int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return next(versions, 1)


def count_operators(model: Path, *operators: str) -> int:
    """How many nodes of these operators the model has."""
    return sum(node.op_type in operators for node in _graph(model).node)


def integer_weight_names(model: Path, operators: Sequence[str]) -> list[str]:
    """Names of the nodes of these operators that read a stored 8-bit weight.

    They read it through a DequantizeLinear; see `prepare` for nameless nodes.
    """
    graph = _graph(model)
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type in _EIGHT_BITS}
    weights = {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    return [
        node.name
        for node in graph.node
        if node.op_type in operators and not weights.isdisjoint(node.input[:2])
    ]


def _graph(model: Path) -> onnx.GraphProto:
    graph = onnx.load(str(model), load_external_data=False).graph
    name_nodes(graph)
    return graph


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node without a name one of its own, always the same for the same graph."""
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type.lower()}_{index}"
        while not node.name and name in taken:
            name += "_"
        taken.add(name)
        node.name = name
