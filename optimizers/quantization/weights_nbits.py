"""Weights of products in 8, 4 or 2 bits, one scale per block of a column; activations stay float.

Round to nearest (rtn), see `nearest`; half-quadratic quantisation (hqq) looks for the zero points
that leave the sparsest error; gptq spreads errors, see `gptq`.
"""

from __future__ import annotations

import logging
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from optimizers.calibration import calibration_file
from optimizers.contract.quantization import WeightsNbits
from optimizers.quantization.gptq import rounded_for
from optimizers.quantization.moments import Moments
from optimizers.quantization.narrow_products import narrow_by, narrow_products, with_notes
from optimizers.quantization.narrowing import Quantise
from optimizers.quantization.nbits import Floats, NarrowWeight, block_count, pack
from optimizers.quantization.nearest import nearest
from optimizers.step import StepContext, StepResult


def apply(model: Path, step: WeightsNbits, context: StepContext) -> StepResult:
    """Narrow every product with a constant weight; see `optimizers.step`."""
    if step.algorithm == "rtn":
        code = partial(
            nearest, bits=step.bits, block_size=step.block_size, symmetric=step.symmetric
        )
        result = narrow_by(model, step, context, name="weights_nbits", code=code)
    else:
        result = narrow_products(
            model,
            step,
            context,
            name="weights_nbits",
            quantiser=lambda prepared: _quantiser(prepared, step, context),
        )
    return with_notes(result, *_remarks(step))


def _quantiser(prepared: Path, step: WeightsNbits, context: StepContext) -> Quantise:
    if step.algorithm == "hqq":
        return lambda weight, _: half_quadratic(weight, step)
    path = calibration_file(context, "weights_nbits with gptq")
    moments = Moments(prepared, path, step.samples, context.seed)
    return lambda weight, value: rounded_for(weight, moments.of(value), step.bits, step.block_size)


def half_quadratic(weight: Floats, step: WeightsNbits) -> NarrowWeight:
    """A weight [rows, columns] in codes, by the library's quantiser.

    Only its arithmetic is used: the library's own walk over a graph skips Gemm, stores a shared
    weight twice under one name, forgets the accuracy level with hqq, and raises the opset without
    converting the model.
    """
    rows, columns = weight.shape
    library = _library()
    config = library.HQQWeightOnlyQuantConfig(bits=step.bits, block_size=step.block_size)
    codes, scales, zero_points = library.HQQWeightOnlyQuantizer(config).quantize_internal(
        torch.from_numpy(np.ascontiguousarray(weight.T)),
        bits=step.bits,
        group_size=step.block_size,
    )
    blocks = block_count(rows, step.block_size)
    whole = codes.numpy().astype(np.uint8).reshape(columns, blocks, step.block_size)
    return NarrowWeight(
        rows=rows,
        columns=columns,
        bits=step.bits,
        block_size=step.block_size,
        codes=pack(whole, step.bits),
        scales=scales.numpy().reshape(columns, blocks),
        zero_points=zero_points.numpy().reshape(columns, blocks),
    )


def _library() -> ModuleType:
    """The library's quantisers. Importing them sets the root logger up, which is undone."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    module = import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    root.setLevel(level)
    root.handlers[:] = handlers
    return module


def _remarks(step: WeightsNbits) -> list[str]:
    remarks = [f"{step.bits} bits, blocks of {step.block_size}, {step.algorithm}"]
    if step.algorithm == "hqq":
        remarks.append(
            "zero points of hqq are fractions, for which the CPU has no product of int8: expect "
            "single rows to take many times longer than in floating point"
        )
    elif step.block_size == 16:
        remarks.append("blocks of 16 are slow: on CPU the fast products want 32 or more")
    return remarks
