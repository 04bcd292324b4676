"""From a file to a graph that can be trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import onnx
from onnx import version_converter
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from optimizers.contract.errors import NotSupported
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.trainable.module import TrainableGraph
from optimizers.trainable.node import DTYPES
from optimizers.trainable.registry import OPERATORS
from optimizers.trainable.storing import gather_stored
from optimizers.trainable.untying import untie

OLDEST_OPSET: Final = 9
NEWEST_OPSET: Final = 23
_CONVERTED_OPSET: Final = 13
_DEFAULT_DOMAINS: Final = ("", "ai.onnx")
_GRAPHS: Final = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def read_trainable(model: Path) -> TrainableGraph:
    """Read a model for training; weights that an exporter merged are untied.

    A model below operator set 9 is converted to a newer one first.

    Args:
        model: An ONNX file, with its external data beside it.

    Raises:
        InvalidModel: It is not an ONNX file, or lacks external data.
        NotSupported: Something in it cannot be trained; the text names all of it.
    """
    read_onnx_file(model)
    proto = onnx.load(str(model), load_external_data=False)
    external = {one.name for one in proto.graph.initializer if uses_external_data(one)}
    load_external_data_for_model(proto, str(model.parent))
    proto = _convert(proto, model.name)
    _refuse_unknown(proto, model.name)
    gather_stored(proto)
    copies = untie(proto.graph)
    external |= {name for name, source in copies.items() if source in external}
    return TrainableGraph(proto, _opset(proto), external)


def _opset(proto: onnx.ModelProto) -> int:
    versions = [one.version for one in proto.opset_import if one.domain in _DEFAULT_DOMAINS]
    return int(versions[0]) if versions else 1


def _convert(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    opset = _opset(proto)
    if opset > NEWEST_OPSET:
        raise NotSupported(
            f"{name} uses operator set {opset}; up to {NEWEST_OPSET} can be trained here"
        )
    if opset >= OLDEST_OPSET:
        return proto
    try:
        return version_converter.convert_version(proto, _CONVERTED_OPSET)
    # The converter raises RuntimeError and its own errors, as the operator would have it.
    except Exception as error:
        raise NotSupported(
            f"{name} uses operator set {opset} and cannot be converted to {_CONVERTED_OPSET}: "
            f"{error}"
        ) from error


def _refuse_unknown(proto: onnx.ModelProto, name: str) -> None:
    found = Counter(_operator_name(node) for node in proto.graph.node if not _known(node))
    complaints = [
        f"{one} ({count} node{'' if count == 1 else 's'})" for one, count in sorted(found.items())
    ]
    complaints += [
        f"tensor '{one.name}' of datatype {onnx.TensorProto.DataType.Name(one.data_type)}"
        for one in proto.graph.initializer
        if one.data_type not in DTYPES
    ]
    complaints += [f"sparse tensor '{one.values.name}'" for one in proto.graph.sparse_initializer]
    if complaints:
        raise NotSupported(f"{name} has parts that cannot be trained: {', '.join(complaints)}")


def _known(node: onnx.NodeProto) -> bool:
    if any(attribute.type in _GRAPHS for attribute in node.attribute):
        return False
    return node.domain in _DEFAULT_DOMAINS and node.op_type in OPERATORS


def _operator_name(node: onnx.NodeProto) -> str:
    if node.domain in _DEFAULT_DOMAINS:
        return str(node.op_type)
    return f"{node.domain}.{node.op_type}"
