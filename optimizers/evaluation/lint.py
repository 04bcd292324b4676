"""What can be said of a variant without data: it loads, fits, is finite, and will fuse."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from optimizers.contract.errors import HoneError
from optimizers.contract.evaluation import Check, Gate
from optimizers.contract.runtime import Session, SessionSpec

_COMPUTING: Final = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_FLOATING: Final = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
)


def lint(
    original: Path, variant: Path, original_spec: SessionSpec, spec: SessionSpec
) -> tuple[Check, ...]:
    """Look at a variant; the first check that breaks ends the list."""
    checks = []
    for look in (_loads, _is_finite, _fuses):
        check = look(original, variant, original_spec, spec)
        checks.append(check)
        if check.passed is False:
            break
    return tuple(checks)


def _check(passed: bool, text: str) -> Check:
    return Check(gate=Gate.LINT, passed=passed, text=text)


def _loads(original: Path, variant: Path, original_spec: SessionSpec, spec: SessionSpec) -> Check:
    try:
        one, other = Session(original, original_spec), Session(variant, spec)
    except HoneError as error:
        return _check(False, f"it does not load: {error}")
    try:
        if not one.signature.matches(other.signature):
            return _check(
                False, "its inputs or outputs differ from the original's: callers would notice"
            )
    finally:
        one.close()
        other.close()
    return _check(True, "it loads and has the original's inputs and outputs")


def _is_finite(
    original: Path, variant: Path, original_spec: SessionSpec, spec: SessionSpec
) -> Check:
    model = onnx.load(str(variant))
    for tensor in model.graph.initializer:
        if (
            tensor.data_type in _FLOATING
            and not np.isfinite(numpy_helper.to_array(tensor, base_dir=str(variant.parent))).all()
        ):
            return _check(False, f"weight '{tensor.name}' holds NaN or infinity")
    return _check(True, "every weight is finite")


def _fuses(original: Path, variant: Path, original_spec: SessionSpec, spec: SessionSpec) -> Check:
    """Whether quantised weights reach integer kernels.

    A product that reads a DequantizeLinear after the runtime's own optimisation computes in
    floating point and pays for the conversion on top.
    """
    graph = optimized_graph(variant, spec)
    makers = {name: node.op_type for node in graph.node for name in node.output}
    unfused = [
        node.name or node.op_type
        for node in graph.node
        if node.op_type in _COMPUTING
        and any(makers.get(name) == "DequantizeLinear" for name in node.input)
    ]
    counts = Counter(node.op_type for node in graph.node)
    left = counts["QuantizeLinear"] + counts["DequantizeLinear"]
    if unfused:
        return _check(
            False,
            f"{len(unfused)} products stay in floating point behind DequantizeLinear "
            f"({', '.join(unfused[:3])}…): quantising them only costs time",
        )
    return _check(True, f"no product waits for a DequantizeLinear ({left} conversions are left)")


def optimized_graph(model: Path, spec: SessionSpec) -> onnx.GraphProto:
    """The graph as onnxruntime runs it under `spec`."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(target)
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        if spec.optimization == "disabled":
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(target), load_external_data=False).graph
