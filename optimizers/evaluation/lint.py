"""What can be said of a variant without data: it loads, fits, is finite, and will fuse."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from optimizers.contract.errors import HoneError, OutOfMemory
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.runtime import Session, SessionSpec, session_options
from optimizers.contract.signature import Signature

Finding = tuple[bool, str]
"""Whether it held, and what was found."""

_COMPUTING: Final = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "FusedConv", "FusedGemm", "FusedMatMul"}
)
_MOVING: Final = frozenset(
    {
        *("ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Squeeze", "Unsqueeze"),
        *("Flatten", "Identity", "Cast", "MaxPool"),
    }
)
_FLOATING: Final = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
)
_WEIGHTS_APART: Final = "session.optimized_model_external_initializers_file_name"
_SHOWN: Final = 3


def lint(original: Path, known: Signature, variant: Path, spec: SessionSpec) -> Iterator[Finding]:
    """Look at a variant, cheapest first; stop taking findings when one did not hold.

    Args:
        original: The model file it was made from.
        known: The signature that callers know.
        variant: The model file.
        spec: How it is to be opened.

    Raises:
        OutOfMemory: The runtime got too little; that says nothing of the variant.
    """
    yield _loads(known, variant, spec)
    yield _is_finite(original, variant)
    yield _fuses(variant, spec)


def _loads(known: Signature, variant: Path, spec: SessionSpec) -> Finding:
    try:
        session = Session(variant, spec)
    except OutOfMemory:
        raise
    except HoneError as error:
        return False, f"it does not load: {error}"
    session.close()
    if not known.matches(session.signature):
        return False, "its inputs or outputs differ from the original's: callers would notice"
    return True, "it loads and has the original's inputs and outputs"


def _is_finite(original: Path, variant: Path) -> Finding:
    """Whether a NaN or infinity came in; a mask of minus infinities that was there may stay."""
    found = _weights_with_other_than_numbers(variant)
    known = set(_weights_with_other_than_numbers(original).values()) if found else set()
    bad = next((name for name, content in found.items() if content not in known), None)
    if bad is not None:
        return False, f"weight '{bad}' holds NaN or infinity"
    return True, "every weight is finite, or the original's"


def _weights_with_other_than_numbers(model: Path) -> dict[str, bytes]:
    """Name → content of every weight with a NaN or infinity, constants of nodes included."""
    graph = onnx.load(str(model)).graph
    constants = (
        (node.output[0], attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    )
    weights = (*((tensor.name, tensor) for tensor in graph.initializer), *constants)
    arrays = (
        (name, numpy_helper.to_array(tensor, base_dir=str(model.parent)))
        for name, tensor in weights
        if tensor.data_type in _FLOATING
    )
    return {name: array.tobytes() for name, array in arrays if not np.isfinite(array).all()}


def _fuses(variant: Path, spec: SessionSpec) -> Finding:
    """Whether quantised weights reach integer kernels.

    A product that reads a DequantizeLinear after the runtime's own optimisation, be it through
    nodes that only move data, computes in floating point and pays for the conversion on top. One
    whose weight is stored in floating point was left so on purpose: timing says what that costs.
    """
    graph = optimized_graph(variant, spec)
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type in _FLOATING}
    unfused = [
        node.name or node.op_type
        for node in graph.node
        if node.op_type in _COMPUTING
        and stored.isdisjoint(node.input[:2])
        and any(_comes_from_integers(name, makers) for name in node.input)
    ]
    if unfused:
        shown = ", ".join(unfused[:_SHOWN]) + ("…" if len(unfused) > _SHOWN else "")
        return False, (
            f"{len(unfused)} products stay in floating point behind DequantizeLinear ({shown}): "
            "quantising them only costs time"
        )
    left = sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node)
    return True, f"no product waits for a DequantizeLinear ({left} conversions are left)"


def _comes_from_integers(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    node = makers.get(name)
    while node is not None and node.op_type in _MOVING:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def optimized_graph(model: Path, spec: SessionSpec) -> onnx.GraphProto:
    """The graph as onnxruntime runs it under `spec`."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "optimized.onnx"
        options = session_options(spec)
        options.optimized_model_filepath = str(target)
        if read_onnx_file(model).external:
            options.add_session_config_entry(_WEIGHTS_APART, f"{target.name}.data")
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(target), load_external_data=False).graph
