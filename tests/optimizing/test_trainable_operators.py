"""Every operator family that can be trained, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from optimizers.contract.errors import NotSupported
from optimizers.trainable import read_trainable
from tests.support.models import save

Array = NDArray[np.float32] | NDArray[np.int64] | NDArray[np.bool_] | NDArray[np.uint8]
Attribute = int | float | str | Sequence[int] | Sequence[float]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> NDArray[np.float32]:
    return np.abs(normal(*shape)) + np.float32(0.1)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


@dataclass(frozen=True)
class Case:
    """One node: its first input is fed, the others are stored."""

    operator: str
    x: Array
    stored: Sequence[Array | None] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    opset: int = 20
    result: int = FLOAT
    outputs: int = 1

    def __str__(self) -> str:
        form = "-".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.operator}-{self.opset}-{form}"

    def write(self, path: Path) -> Path:
        names = [f"s{number}" if one is not None else "" for number, one in enumerate(self.stored)]
        kind = helper.np_dtype_to_tensor_dtype(self.x.dtype)
        results = [f"y{number}" for number in range(self.outputs)]
        return save(
            path,
            [helper.make_node(self.operator, ["x", *names], results, **self.attributes)],  # type: ignore[arg-type]
            [("x", kind, [None] * self.x.ndim)],  # type: ignore[list-item]
            [(name, self.result, None) for name in results],  # type: ignore[misc]
            {n: one for n, one in zip(names, self.stored, strict=True) if one is not None},
            opset=self.opset,
        )


def both(case: Case, directory: Path) -> tuple[list[Array], list[Array]]:
    """What onnxruntime answers, and what torch does."""
    path = case.write(directory / "case.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        given = read_trainable(path).eval()({"x": torch.from_numpy(case.x)})
    return session.run(None, {"x": case.x}), [one.numpy() for one in given.values()]


def one(operator: str, *, result: int = FLOAT, opset: int = 20, **attributes: Attribute) -> Case:
    return Case(operator, normal(3, 4) * 2, (), attributes, opset, result)


ACTIVATIONS = [
    *(one(name) for name in ("Relu", "LeakyRelu", "Elu", "Celu", "Selu", "Gelu", "HardSigmoid")),
    *(one(name) for name in ("HardSwish", "Mish", "Softplus", "Softsign", "ThresholdedRelu")),
    *(one(name) for name in ("Erf", "Sigmoid", "Tanh", "Abs", "Neg", "Exp", "Floor", "Ceil")),
    *(one(name) for name in ("Round", "Sign", "Sin", "Cos", "Atan", "Sinh", "Identity")),
    one("LeakyRelu", alpha=0.3),
    one("Elu", alpha=0.3),
    one("Celu", alpha=0.3),
    one("ThresholdedRelu", alpha=0.4),
    one("HardSigmoid", alpha=0.3, beta=0.4),
    one("Gelu", approximate="tanh"),
    one("IsNaN", result=TensorProto.BOOL),
    one("IsInf", result=TensorProto.BOOL),
    Case("Sqrt", positive(3)),
    Case("Log", positive(3)),
    Case("Reciprocal", positive(3)),
    Case("PRelu", normal(2, 3, 4, 4), [normal(3, 1, 1)]),
    Case("Clip", normal(3, 4), [np.array(-0.5, np.float32), np.array(0.5, np.float32)]),
    Case("Clip", normal(3, 4), [None, np.array(0.5, np.float32)]),
    Case("Clip", normal(3, 4), [], {"min": -0.5, "max": 0.25}, opset=9),
    Case("Dropout", normal(3, 4), [], {}, opset=9),
    Case("Dropout", normal(3, 4), [np.array(0.5, np.float32)], {}, opset=13),
    Case("Not", normal(3) > 0, result=TensorProto.BOOL),
]

ARITHMETIC = [
    *(Case(name, normal(3, 4), [normal(4)]) for name in ("Add", "Sub", "Mul", "Div")),
    *(Case(name, normal(3, 4), [normal(1, 4), normal(3, 1)]) for name in ("Max", "Min")),
    *(Case(name, normal(3, 4), [normal(1, 4), normal(3, 1)]) for name in ("Sum", "Mean")),
    Case("Pow", positive(3, 4), [np.array(2.5, np.float32)]),
    Case("Pow", normal(3, 4), [whole(2)]),
    Case("Div", whole(7, -7, 8), [whole(2)], result=INT64),
    Case("Mod", whole(7, -7, 8), [whole(3)], result=INT64),
    Case("Mod", normal(7), [np.array(0.7, np.float32)], {"fmod": 1}),
    *(
        Case(name, whole(1, 2, 3), [whole(2)], result=TensorProto.BOOL)
        for name in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    ),
    Case("Where", normal(3, 4) > 0, [normal(4), normal(3, 1)]),
    Case("And", normal(3) > 0, [normal(3) > 0], result=TensorProto.BOOL),
    Case("MatMul", normal(2, 3, 4), [normal(4, 5)]),
    Case("Gemm", normal(3, 4), [normal(5, 4), normal(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", normal(4, 3), [normal(4, 5)], {"transA": 1}),
    Case("Einsum", normal(2, 3, 4), [normal(4, 5)], {"equation": "b i j, j k -> b i k"}),
]

KERNEL = {"kernel_shape": [3, 3]}
WINDOWS = [
    Case("Conv", normal(2, 3, 9, 8), [normal(4, 3, 3, 3), normal(4)], {"pads": [1, 1, 1, 1]}),
    Case("Conv", normal(2, 3, 9, 8), [normal(4, 3, 3, 3)], {"pads": [0, 1, 2, 0]}),
    Case("Conv", normal(2, 4, 9, 8), [normal(8, 1, 3, 3)], {"group": 4, "strides": [2, 2]}),
    Case("Conv", normal(2, 3, 9, 8), [normal(4, 3, 3, 3)], {"dilations": [2, 1]}),
    *(
        Case(
            "Conv", normal(1, 2, 8, 7), [normal(2, 2, 4, 3)], {"auto_pad": mode, "strides": [2, 2]}
        )
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    Case("Conv", normal(2, 3, 9), [normal(4, 3, 3)]),
    Case("Conv", normal(1, 2, 5, 5, 5), [normal(3, 2, 3, 3, 3)]),
    Case("ConvTranspose", normal(2, 3, 5, 6), [normal(3, 4, 3, 3), normal(4)], {"strides": [2, 2]}),
    Case(
        "ConvTranspose",
        normal(2, 4, 5, 6),
        [normal(4, 3, 3, 3), normal(6)],
        {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 1], "group": 2},
    ),
    *(
        Case(
            "ConvTranspose",
            normal(1, 2, 5, 6),
            [normal(2, 3, 3, 3)],
            {"strides": [2, 2], "auto_pad": mode},
        )
        for mode in ("SAME_UPPER", "SAME_LOWER")
    ),
    Case(
        "ConvTranspose",
        normal(1, 2, 5, 6),
        [normal(2, 3, 3, 3)],
        {"strides": [3, 2], "output_shape": [16, 14]},
    ),
    Case("MaxPool", normal(2, 3, 9, 8), [], {**KERNEL, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", normal(2, 3, 9, 8), [], {**KERNEL, "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", normal(2, 3, 9, 8), [], {**KERNEL, "auto_pad": "SAME_LOWER"}),
    Case("MaxPool", normal(2, 3, 9, 8), [], {**KERNEL, "dilations": [2, 2]}),
    Case("AveragePool", normal(2, 3, 9, 8), [], {**KERNEL, "strides": [2, 2]}),
    Case("AveragePool", normal(2, 3, 9, 8), [], {**KERNEL, "pads": [0, 1, 1, 1]}),
    Case("AveragePool", normal(2, 3, 9, 8), [], {**KERNEL, "auto_pad": "SAME_UPPER"}),
    Case(
        "AveragePool", normal(2, 3, 9, 8), [], {**KERNEL, "pads": [1] * 4, "count_include_pad": 1}
    ),
    Case("AveragePool", normal(2, 3, 9, 8), [], {**KERNEL, "strides": [2, 2], "ceil_mode": 1}),
    Case(
        "AveragePool",
        normal(2, 3, 9, 8),
        [],
        {**KERNEL, "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4},
    ),
    Case("GlobalAveragePool", normal(2, 3, 4, 5)),
    Case("GlobalMaxPool", normal(2, 3, 4, 5)),
]

HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
ATTENTION = [
    Case("Attention", normal(2, 4, 3, 8), [normal(2, 4, 5, 8), normal(2, 4, 5, 8)], {}, 23),
    Case("Attention", normal(2, 3, 8), [normal(2, 5, 4), normal(2, 5, 6)], HEADS, 23),
    Case(
        "Attention",
        normal(2, 4, 3, 8),
        [normal(2, 4, 5, 8), normal(2, 4, 5, 8), normal(2, 1, 3, 5)],
        {"scale": 0.3},
        23,
    ),
    Case("Attention", normal(1, 1, 3, 4), [normal(1, 1, 3, 4)] * 2, {"is_causal": 1}, 23),
]

NORMALISATIONS = [
    Case("BatchNormalization", normal(2, 3, 4), [normal(3), normal(3), normal(3), positive(3)]),
    Case("InstanceNormalization", normal(2, 3, 4, 4), [normal(3), normal(3)]),
    Case("LayerNormalization", normal(2, 3, 4), [normal(4), normal(4)]),
    Case("LayerNormalization", normal(2, 3, 4), [normal(3, 4)], {"axis": -2, "epsilon": 0.1}),
    Case("LayerNormalization", normal(2, 3, 4), [normal(3, 4)], {"axis": 1}),
    Case(
        "GroupNormalization", normal(2, 4, 3), [normal(2), normal(2)], {"num_groups": 2}, opset=18
    ),
    Case(
        "GroupNormalization", normal(2, 4, 3), [normal(4), normal(4)], {"num_groups": 2}, opset=21
    ),
    Case("RMSNormalization", normal(2, 3, 4), [normal(4)], {}, opset=23),
    Case("LRN", normal(2, 7, 3, 3), [], {"size": 3, "alpha": 0.2, "bias": 1.5}),
    Case("LpNormalization", normal(2, 3), [], {"axis": 1}),
    *(
        Case(name, normal(2, 3, 4), [], {"axis": 1}, opset=opset)
        for name in ("Softmax", "LogSoftmax")
        for opset in (9, 13)
    ),
    Case("Softmax", normal(2, 3, 4)),
]

REDUCTIONS = [
    *(
        Case(f"Reduce{name}", positive(2, 3, 4), [whole(0, -1)], {"keepdims": 0})
        for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp")
    ),
    Case("ReduceSumSquare", normal(2, 3), []),
    Case("ReduceMean", normal(2, 3, 4), [], {"axes": [1]}, opset=13),
    Case("ReduceSum", normal(2, 3), [], {"noop_with_empty_axes": 1}),
    Case("ReduceSum", whole(2, 3), [], {}, result=INT64),
    Case("ArgMax", normal(3, 4), [], {"axis": 1}, result=INT64),
    Case("ArgMin", normal(3, 4), [], {"keepdims": 0}, result=INT64),
    Case("CumSum", normal(3, 4), [whole(1)[0]]),
    Case("CumSum", normal(3, 4), [whole(1)[0]], {"reverse": 1, "exclusive": 1}),
]

SHAPES = [
    Case("Reshape", normal(2, 3, 4), [whole(0, -1)]),
    Case("Flatten", normal(2, 3, 4), [], {"axis": 2}),
    Case("Flatten", normal(2, 3, 4), [], {"axis": -1}),
    Case("Flatten", normal(2, 3, 4), [], {"axis": 0}),
    Case("Transpose", normal(2, 3, 4)),
    Case("Transpose", normal(2, 3, 4), [], {"perm": [1, 0, 2]}),
    Case("Squeeze", normal(1, 3, 1), [whole(-1)]),
    Case("Squeeze", normal(1, 3, 1)),
    Case("Squeeze", normal(1, 3, 1), [], {"axes": [0]}, opset=9),
    Case("Unsqueeze", normal(3, 4), [whole(-1, 0)]),
    Case("Unsqueeze", normal(3, 4), [], {"axes": [0, 3]}, opset=9),
    Case("Expand", normal(3, 1), [whole(2, 1, 4)]),
    Case("Expand", normal(2, 3, 1), [whole(1, 4)]),
    Case("Shape", normal(3, 4), result=INT64),
    Case("Shape", normal(3, 4, 5), [], {"start": 1, "end": -1}, result=INT64),
    Case("Size", normal(3, 4), result=INT64),
    Case("Cast", normal(3, 4) * 3, [], {"to": INT64}, result=INT64),
    Case("Concat", normal(3, 4), [normal(2, 4)], {"axis": 0}),
    Case("Split", normal(3, 7), [whole(3, 4)], {"axis": 1}, outputs=2),
    Case("Split", normal(3, 8), [], {"axis": 1}, opset=9, outputs=2),
    Case("Split", normal(3, 7), [], {"axis": 1, "num_outputs": 2}, outputs=2),
    Case("Slice", normal(5, 6), [whole(1, -4), whole(9, -1), whole(0, 1), whole(2, 1)]),
    Case("Slice", normal(5, 6), [whole(-1), whole(-99), whole(1), whole(-2)]),
    Case("Slice", normal(5, 6), [], {"starts": [1], "ends": [-1], "axes": [1]}, opset=9),
    Case("Tile", normal(2, 3), [whole(2, 1)]),
    Case("Pad", normal(2, 3), [whole(1, 0, 0, 2), np.array(0.5, np.float32)]),
    Case("Pad", normal(2, 3, 5), [whole(1, -2), None, whole(2)]),
    Case("Pad", normal(2, 3), [], {"pads": [1, 0, 0, 2], "value": 0.5}, opset=9),
    *(
        Case("Pad", normal(3, 4), [whole(1, 2, 0, 3)], {"mode": mode})
        for mode in ("reflect", "edge")
    ),
    *(
        Case("DepthToSpace", normal(1, 8, 2, 3), [], {"blocksize": 2, "mode": m})
        for m in ("DCR", "CRD")
    ),
    Case("SpaceToDepth", normal(1, 2, 4, 6), [], {"blocksize": 2}),
    Case("Trilu", normal(4, 4), [whole(1)[0]], {"upper": 0}),
]

INDICES = [
    Case("Gather", normal(4, 5), [np.array([[0, -1], [2, 1]])], {"axis": 1}),
    Case("Gather", normal(4, 5), [whole(2)[0]]),
    Case("GatherElements", normal(3, 4), [np.array([[0, -1], [2, 1], [0, 0]])], {"axis": 1}),
    Case("GatherND", normal(3, 4, 2), [np.array([[0, -1], [2, 1]])]),
    Case("GatherND", normal(3, 4, 2), [np.array([[0], [-1], [2]])], {"batch_dims": 1}),
    Case("ScatterND", normal(3, 4), [np.array([[0], [2]]), normal(2, 4)]),
    Case("ScatterND", normal(3, 4), [np.array([[0], [0]]), normal(2, 4)], {"reduction": "add"}),
    Case("ScatterElements", normal(3, 4), [np.array([[0, -1]]), normal(1, 2)], {"axis": 1}),
    Case(
        "ScatterElements",
        normal(3, 4),
        [np.array([[0, 0]]), normal(1, 2)],
        {"axis": 1, "reduction": "max"},
    ),
    Case("NonZero", normal(3, 4), result=INT64),
    Case("ConstantOfShape", whole(2, 3)),
    Case(
        "Range", np.array(1.0, np.float32), [np.array(9.0, np.float32), np.array(2.0, np.float32)]
    ),
    Case("OneHot", whole(0, -1, 2, 5), [whole(3), np.array([0.5, 2], np.float32)], {"axis": 0}),
]

SCALES = np.array([1, 1, 2, 1.5], np.float32)
RESIZES = [
    *(
        Case(
            "Resize",
            normal(1, 2, 5, 6),
            [None, SCALES],
            {"mode": mode, "coordinate_transformation_mode": transform},
        )
        for mode in ("nearest", "linear", "cubic")
        for transform in (
            "half_pixel",
            "asymmetric",
            "align_corners",
            "pytorch_half_pixel",
            "half_pixel_symmetric",
        )
    ),
    *(
        Case(
            "Resize",
            normal(1, 2, 5, 6),
            [None, None, whole(1, 2, 3, 9)],
            {"mode": "nearest", "nearest_mode": rounding},
        )
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    Case(
        "Resize",
        normal(1, 2, 5, 6),
        [None, None, whole(9, 4)],
        {"mode": "cubic", "axes": [2, 3], "exclude_outside": 1, "cubic_coeff_a": -0.5},
    ),
    Case("Resize", normal(1, 2, 5, 6), [SCALES], {"mode": "linear"}, opset=10),
    Case("Upsample", normal(1, 2, 5, 6), [SCALES], {"mode": "nearest"}, opset=9),
]

ZERO = np.array(3, np.uint8)
QUANTISATIONS = [
    Case(
        "DequantizeLinear",
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        [np.array(0.1, np.float32), ZERO],
    ),
    Case(
        "DequantizeLinear",
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        [positive(3), np.array([1, 2, 3], np.uint8)],
        {"axis": 0},
    ),
    Case("QuantizeLinear", normal(3, 4) * 9, [np.array(0.1, np.float32), ZERO], result=2),
    Case("QuantizeLinear", normal(3, 4) * 9, [positive(4)], {"axis": 1}, result=2),
]

CASES = [
    *ACTIVATIONS,
    *ARITHMETIC,
    *WINDOWS,
    *ATTENTION,
    *NORMALISATIONS,
    *REDUCTIONS,
    *SHAPES,
    *INDICES,
    *RESIZES,
    *QUANTISATIONS,
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_node_computes_what_onnxruntime_computes(case: Case, tmp_path: Path) -> None:
    expected, given = both(case, tmp_path)

    assert len(expected) == len(given)
    for right, answer in zip(expected, given, strict=True):
        assert right.shape == answer.shape
        np.testing.assert_allclose(answer, right, rtol=1e-4, atol=1e-5)
        assert answer.dtype == right.dtype or case.operator == "QuantizeLinear"


def test_the_largest_elements_and_their_numbers(tmp_path: Path) -> None:
    path = save(
        tmp_path / "top.onnx",
        [helper.make_node("TopK", ["x", "k"], ["values", "numbers"])],
        [("x", FLOAT, [2, 3])],
        [("values", FLOAT, [2, 2]), ("numbers", INT64, [2, 2])],
        {"k": whole(2)},
    )

    given = read_trainable(path)({"x": torch.tensor([[1.0, 3, 2], [9, 7, 8]])})

    assert given["values"].tolist() == [[3, 2], [9, 8]]
    assert given["numbers"].tolist() == [[1, 2], [0, 2]]


@pytest.mark.parametrize("case", [*WINDOWS, *RESIZES, *SHAPES, *ATTENTION], ids=str)
def test_shapes_are_known_without_asking_the_accelerator(case: Case, tmp_path: Path) -> None:
    graph = read_trainable(case.write(tmp_path / "case.onnx")).to("meta")

    # Tensors on this device have shapes and no numbers: reading one fails, as does mixing devices.
    given = graph({"x": torch.from_numpy(case.x).to("meta")})

    assert all(one.device.type == "meta" or one.dtype == torch.int64 for one in given.values())


def test_a_node_computed_wrongly_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "softmax", lambda x, axis: torch.nn.functional.softmax(x, 0))

    expected, given = both(Case("Softmax", normal(2, 3, 4)), tmp_path)

    assert np.abs(expected[0] - given[0]).max() > 1e-2


def test_rounding_lets_the_gradient_through_and_clamping_does_not(tmp_path: Path) -> None:
    path = save(
        tmp_path / "quantised.onnx",
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        [("x", FLOAT, [3])],
        [("y", FLOAT, [3])],
        {"scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8)},
    )
    x = torch.tensor([0.234, -0.26, 99.0], requires_grad=True)

    y = read_trainable(path)({"x": x})["y"]
    torch.autograd.backward(y.sum())

    assert torch.allclose(y, torch.tensor([0.2, -0.3, 12.7]))
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([1, 1, 0])


@pytest.mark.parametrize(
    "case",
    [
        Case("Attention", normal(1, 1, 3, 4), [normal(1, 1, 3, 4)] * 2, {"softcap": 0.5}, 23),
        Case(
            "BatchNormalization",
            normal(2, 3),
            [normal(3), normal(3), normal(3), positive(3)],
            {"training_mode": 1},
        ),
        Case("AveragePool", normal(1, 1, 9), [], {"kernel_shape": [2], "dilations": [2]}),
        Case("Resize", normal(1, 4), [None, np.array([1, 0.5], np.float32)], {"antialias": 1}),
        Case("MaxPool", normal(1, 1, 9), [], {"kernel_shape": [2]}, outputs=2),
        Case("Cast", normal(3), [], {"to": TensorProto.STRING}),
    ],
    ids=str,
)
def test_a_form_that_is_not_translated_is_refused_by_name(case: Case, tmp_path: Path) -> None:
    graph = read_trainable(case.write(tmp_path / "case.onnx"))

    with pytest.raises(NotSupported, match=f"{case.operator} '{case.operator.lower()}_0'"):
        graph({"x": torch.from_numpy(case.x)})
