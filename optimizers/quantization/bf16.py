"""Weights and values in bfloat16: 1 sign, 8 exponent and 7 mantissa bits, the range of float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import ml_dtypes
import onnx
from onnx import helper, numpy_helper

from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.provider_options import ON_GPU
from optimizers.contract.quantization import Bf16
from optimizers.graph import load_named, prepare
from optimizers.saving import save
from optimizers.step import StepContext, StepResult

_FLOAT: Final = onnx.TensorProto.FLOAT
_BFLOAT16: Final = onnx.TensorProto.BFLOAT16


def apply(model: Path, step: Bf16, context: StepContext) -> StepResult:
    """Write a copy in bfloat16 with inputs and outputs in float32; see `optimizers.step`."""
    context.report(0.0, "preparing")
    provider = context.session.provider
    if provider not in ON_GPU:
        note = f"onnxruntime has no bfloat16 products for provider {provider}; use cuda or tensorrt"
        return context.unchanged(model, note)
    prepared = prepare(model, context.work_directory / "prepared.onnx")
    loaded = load_named(prepared)
    floats = [one for one in loaded.graph.initializer if one.data_type == _FLOAT]
    if not floats:
        return context.unchanged(model, "the model has no float32 weights")
    context.report(0.3, "converting")
    to_bfloat16(loaded)
    why = _invalid(loaded)
    if why:
        return context.unchanged(model, f"an operator has no bfloat16 form: {why}")
    target = context.work_directory / "bf16.onnx"
    save(loaded, target)
    context.report(1.0, "written")
    before, after = (read_onnx_file(one).size_bytes for one in (prepared, target))
    note = f"{len(floats)} weights in bfloat16, {after} bytes instead of {before}"
    return StepResult(model=target, session=context.session, modified=True, notes=(note,))


def to_bfloat16(model: onnx.ModelProto) -> None:
    """Turn every float32 weight and value into bfloat16, but for the model's inputs and outputs."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == _FLOAT:
            narrow = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = _BFLOAT16
    inside = {value.name: f"{value.name}_bf16" for value in _floats(graph.input)}
    inside |= {value.name: f"{value.name}_bf16" for value in _floats(graph.output)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    nodes = [
        *(_cast(one.name, inside[one.name], _BFLOAT16) for one in _floats(graph.input)),
        *graph.node,
        *(_cast(inside[one.name], one.name, _FLOAT) for one in _floats(graph.output)),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]


def _floats(values: Iterable[onnx.ValueInfoProto]) -> Iterator[onnx.ValueInfoProto]:
    return (value for value in values if value.type.tensor_type.elem_type == _FLOAT)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind)


def _invalid(model: onnx.ModelProto) -> str:
    """What ONNX's own rules have against the model; empty when nothing."""
    try:
        onnx.checker.check_model(model)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).splitlines()[0]
    return ""
