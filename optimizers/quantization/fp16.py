"""Weights and values in float16: 1 sign, 5 exponent and 10 mantissa bits, up to 65504."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.quantization import Fp16
from optimizers.graph import check_excluded, load_named, names_after_preparing, prepare
from optimizers.saving import save
from optimizers.step import StepContext, StepResult

_LARGEST: Final = 65504.0
_OPEN: Final = """
import sys
from pathlib import Path
from optimizers.contract.runtime import Session, SessionSpec
Session(Path(sys.argv[1]), SessionSpec()).close()
"""
_ON_CPU: Final = (
    "on CPU this halves the file only: kernels compute in float32 and weights are widened when "
    "the model is opened, so that memory and speed stay as they are"
)


def apply(model: Path, step: Fp16, context: StepContext) -> StepResult:
    """Write a copy in float16 with inputs and outputs in float32; see `optimizers.step`."""
    context.report(0.0, "preparing")
    check_excluded("fp16", step.exclude, [node.name for node in load_named(model).graph.node])
    prepared = prepare(model, context.work_directory / "prepared.onnx")
    excluded = names_after_preparing(model, prepared, step.exclude)
    loaded = load_named(prepared)
    floats = [one for one in loaded.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    if not floats:
        return context.unchanged(model, "the model has no float32 weights")
    beyond = {tensor.name: _beyond(tensor) for tensor in floats}
    halves = _halves(loaded)
    context.report(0.3, "converting")
    target = context.work_directory / "fp16.onnx"
    converted = _converted(loaded, excluded)
    narrowed = _halves(converted) - halves
    if not narrowed:
        return context.unchanged(model, "no weight became float16", *_left_alone(step))
    save(converted, target)
    if context.session.provider == "cpu" and (why := _refused(target)):
        return context.unchanged(model, f"in float16 the model does not open: {why}")
    context.report(1.0, "written")
    before, after = (read_onnx_file(one).size_bytes for one in (prepared, target))
    if context.session.provider == "cpu" and after >= before:
        return context.unchanged(model, "in float16 the file would not become smaller")
    notes = [f"{len(narrowed)} weights in float16, {after} bytes instead of {before}"]
    if context.session.provider == "cpu":
        notes.append(_ON_CPU)
    if cut := sum(beyond.get(name, 0) for name in narrowed):
        notes.append(f"{cut} numbers beyond {_LARGEST:.0f} were cut to it")
    notes.extend(_left_alone(step))
    return StepResult(model=target, session=context.session, modified=True, notes=tuple(notes))


def _converted(model: onnx.ModelProto, excluded: list[str]) -> onnx.ModelProto:
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=excluded)
    # The library puts its casts at the end, where no node may stand that others read.
    ordered = ONNXModel(converted)
    ordered.topological_sort()
    result: onnx.ModelProto = ordered.model
    # Fewer float16 graphs crash onnxruntime 1.32 when the types of inner values are written down.
    del result.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(result)


def _halves(model: onnx.ModelProto) -> set[str]:
    """Names of the weights in float16."""
    stored = model.graph.initializer
    return {tensor.name for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT16}


def _left_alone(step: Fp16) -> Iterator[str]:
    if step.exclude:
        yield f"left in float32 as asked: {', '.join(step.exclude)}"


def _beyond(tensor: onnx.TensorProto) -> int:
    values = numpy_helper.to_array(tensor)
    return int((np.isfinite(values) & (np.abs(values) > _LARGEST)).sum())


def _refused(model: Path) -> str:
    """Why the runtime does not open it on CPU; empty when it does.

    It is tried in a process of its own, because onnxruntime 1.32 crashes on some such graphs.
    """
    tried = subprocess.run(
        [sys.executable, "-c", _OPEN, str(model)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if tried.returncode < 0:
        return f"the runtime crashed, {signal.Signals(-tried.returncode).name}"
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""
