"""Arrays survive the protocol in both directions, whatever their datatype and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays
from numpy.typing import NDArray

from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.client import inference_request
from server.errors import InvalidRequest, ServingError
from server.pb import open_inference_pb2 as pb
from server.rpc.codec import decode_request, encode_response

NUMERIC = [name for name in NUMPY_DTYPES if name != "BYTES"]
CONTENT_MEMBERS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "BYTES": "bytes_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where each datatype stands when it is not sent raw."""


def signature(datatype: str, rank: int) -> Signature:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,) * rank)
    return Signature(inputs=(spec,), outputs=(spec,))


def shapes() -> some.SearchStrategy[tuple[int, ...]]:
    return some_arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)


@given(data=some.data(), datatype=some.sampled_from(NUMERIC), shape=shapes())
def test_numbers_come_back_bit_by_bit(
    data: some.DataObject, datatype: str, shape: tuple[int, ...]
) -> None:
    array = data.draw(some_arrays.arrays(NUMPY_DTYPES[datatype], shape))
    decoded = decode_request(inference_request("m", {"x": array}), signature(datatype, len(shape)))
    assert decoded.feeds["x"].tobytes() == array.tobytes()
    assert decoded.feeds["x"].shape == shape
    assert decoded.rows == shape[0]
    response = encode(array)
    assert response.raw_output_contents[0] == array.tobytes()
    assert (response.outputs[0].datatype, tuple(response.outputs[0].shape)) == (datatype, shape)


@settings(deadline=None, derandomize=True)
@given(data=some.data(), datatype=some.sampled_from(list(NUMPY_DTYPES)))
def test_every_shape_comes_back_scalars_and_empty_ones_too(
    data: some.DataObject, datatype: str
) -> None:
    shape = data.draw(some_arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
    texts = some.text(max_size=8) if datatype == "BYTES" else None
    array = data.draw(some_arrays.arrays(NUMPY_DTYPES[datatype], shape, elements=texts))
    spec = TensorSpec(name="x", datatype=datatype, shape=shape)
    request = inference_request("m", {"x": array})
    decoded = decode_request(request, Signature(inputs=(spec,), outputs=(spec,)))
    assert decoded.feeds["x"].shape == shape
    assert decoded.rows == (shape[0] if shape else 1)
    response = encode(decoded.feeds["x"])
    assert response.raw_output_contents[0] == request.raw_input_contents[0]
    assert (response.outputs[0].datatype, tuple(response.outputs[0].shape)) == (datatype, shape)


@given(data=some.data(), datatype=some.sampled_from([*CONTENT_MEMBERS]), shape=shapes())
@settings(deadline=None, derandomize=True)
def test_typed_contents_are_what_raw_contents_are(
    data: some.DataObject, datatype: str, shape: tuple[int, ...]
) -> None:
    texts = some.text(max_size=8) if datatype == "BYTES" else None
    array = data.draw(some_arrays.arrays(NUMPY_DTYPES[datatype], shape, elements=texts))
    raw = inference_request("m", {"x": array})
    typed = pb.ModelInferRequest(model_name="m", inputs=raw.inputs)
    values = [text.encode() for text in array.flat] if datatype == "BYTES" else array.ravel()
    getattr(typed.inputs[0].contents, CONTENT_MEMBERS[datatype]).extend(values)
    one, other = (
        decode_request(request, signature(datatype, len(shape))).feeds["x"]
        for request in (raw, typed)
    )
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    np.testing.assert_array_equal(one, other)
    if datatype == "FP64":
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F800000, 0x80000000, 1])
def test_every_bit_of_a_strange_number_comes_back(bits: int) -> None:
    array = np.array([bits], np.uint32).view(np.float32)
    decoded = decode_request(inference_request("m", {"x": array}), signature("FP32", 1))
    assert encode(decoded.feeds["x"]).raw_output_contents[0] == bits.to_bytes(4, "little")


@given(texts=some.lists(some.text(max_size=20), min_size=1, max_size=20))
def test_texts_come_back_letter_by_letter(texts: list[str]) -> None:
    array = np.empty(len(texts), dtype=np.object_)
    array[:] = texts
    request = inference_request("m", {"x": array})
    decoded = decode_request(request, signature("BYTES", 1))
    assert list(decoded.feeds["x"]) == texts
    assert encode(array).raw_output_contents[0] == request.raw_input_contents[0]


@pytest.mark.parametrize(
    ("datatype", "member", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-32768, 5]),
        ("INT32", "int_contents", [-(2**31), 5]),
        ("INT64", "int64_contents", [-(2**63), 5]),
        ("UINT8", "uint_contents", [255, 0]),
        ("UINT16", "uint_contents", [65535, 0]),
        ("UINT32", "uint_contents", [2**32 - 1, 0]),
        ("UINT64", "uint64_contents", [2**64 - 1, 0]),
        ("FP32", "fp32_contents", [0.5, -1.0]),
        ("FP64", "fp64_contents", [0.1, -1.0]),
    ],
)
def test_typed_contents_of_every_datatype_are_read(
    datatype: str, member: str, values: list[Any]
) -> None:
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(tensor.contents, member).extend(values)
    decoded = decode_request(request, signature(datatype, 1))
    assert decoded.feeds["x"].tolist() == values
    assert decoded.feeds["x"].dtype == NUMPY_DTYPES[datatype]


def test_typed_texts_are_read() -> None:
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend(["süß".encode(), b"a\x00b"])
    decoded = decode_request(request, signature("BYTES", 1))
    assert decoded.feeds["x"].tolist() == ["süß", "a\x00b"]


def test_half_precision_must_be_raw() -> None:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP16", shape=[1]).contents.fp32_contents.append(1)
    with pytest.raises(InvalidRequest, match="must be sent as raw_input_contents"):
        decode_request(request, signature("FP16", 1))


@given(
    shape=some.lists(some.integers(-(2**63), 2**63 - 1), max_size=6),
    raw=some.binary(max_size=64),
    datatype=some.sampled_from(list(NUMPY_DTYPES)),
)
def test_any_shape_and_bytes_are_read_or_refused_and_nothing_else(
    shape: list[int], raw: bytes, datatype: str
) -> None:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    try:
        decoded = decode_request(request, signature(datatype, 2))
    except ServingError:
        return
    assert list(decoded.feeds["x"].shape) == shape


def encode(array: NDArray[Any]) -> pb.ModelInferResponse:
    return encode_response(
        model_name="m", version=3, variant="original", request_id="7", names=["y"], arrays=[array]
    )
