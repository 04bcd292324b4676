"""Which operator is understood by what; every other one keeps all channels that reach it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from optimizers.pruning.flow import channelwise, layout, products, reshaping
from optimizers.pruning.flow.broadcast import elementwise
from optimizers.pruning.flow.use import Axes, Use

Handler = Callable[[Use], list[Axes]]
"""Ties and takes the axes of a node's inputs; returns those of its outputs."""

_PLACE_BY_PLACE: Final = (
    "Abs Add And Cast Ceil Celu Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater "
    "GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log Max Mean Min "
    "Mish Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign "
    "Sqrt Sub Sum Swish Tanh ThresholdedRelu Where Xor"
)
_REDUCTIONS: Final = "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
_POOLINGS: Final = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"

HANDLERS: Final[dict[str, Handler]] = {
    **dict.fromkeys(_PLACE_BY_PLACE.split(), elementwise),
    **dict.fromkeys(_REDUCTIONS.split(), channelwise.reduction),
    **dict.fromkeys(_POOLINGS.split(), channelwise.pooling),
    "BatchNormalization": channelwise.normalization,
    "InstanceNormalization": channelwise.normalization,
    "LayerNormalization": channelwise.layer_normalization,
    "Softmax": channelwise.softmax,
    "LogSoftmax": channelwise.softmax,
    "Pad": channelwise.padding,
    "Resize": channelwise.resizing,
    "Conv": products.convolution,
    "ConvTranspose": products.transposed_convolution,
    "Gemm": products.gemm,
    "MatMul": products.product,
    "Concat": layout.concatenation,
    "Flatten": reshaping.flatten,
    "Gather": layout.gather,
    "Reshape": reshaping.reshape,
    "Slice": layout.slicing,
    "Split": layout.split,
    "Squeeze": layout.squeeze,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
}
