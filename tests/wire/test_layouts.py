"""The short cut for requests of a known form gives what the full check gives, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays
from numpy.typing import NDArray

from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.client import inference_request
from server.errors import ServingError
from server.pb import open_inference_pb2 as pb
from server.rpc.codec import DecodedRequest, decode_request, encode_response
from server.rpc.layouts import _MOST_LAYOUTS, Layouts

DATATYPES = list(NUMPY_DTYPES)
OUTPUTS = ("y", "z")
Request = pb.ModelInferRequest
Mutation = Callable[[Request, int, int], None]
"""Changes a request; the numbers choose where and how."""


def other_shape(request: Request, at: int, how: int) -> None:
    """Another shape, mostly with as many elements."""
    tensor = chosen(request, at)
    shape = list(tensor.shape)
    turned: tuple[list[int], ...] = (
        shape[::-1],
        [*shape, 1],
        [1, *shape],
        [int(np.prod(shape))],
        [],
        [-n for n in shape],
    )
    del tensor.shape[:]
    tensor.shape.extend(turned[how % len(turned)])


def other_length(request: Request, at: int, how: int) -> None:
    """One dimension has another length than its bytes say."""
    tensor = chosen(request, at)
    if tensor.shape:
        tensor.shape[how % len(tensor.shape)] += (1, -1, -2, 1 << 40)[how % 4]


def other_datatype(request: Request, at: int, how: int) -> None:
    chosen(request, at).datatype = [*DATATYPES, "", "FP16 ", "fp32"][how % (len(DATATYPES) + 3)]


def other_name(request: Request, at: int, how: int) -> None:
    chosen(request, at).name = ("a", "b", "c", "FP32", "")[how % 5]


def swapped_inputs(request: Request, at: int, how: int) -> None:
    """The inputs in another order, with or without their bytes."""
    tensors = list(request.inputs)[::-1]
    del request.inputs[:]
    request.inputs.extend(tensors)
    if how % 2:
        swapped_bytes(request, at, how)


def swapped_bytes(request: Request, at: int, how: int) -> None:
    content = list(request.raw_input_contents)[::-1]
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(content)


def other_bytes(request: Request, at: int, how: int) -> None:
    if request.raw_input_contents:
        at %= len(request.raw_input_contents)
        content = request.raw_input_contents[at]
        changed = (content[:-1], content + b"\x00", b"", content[1:] + b"\xff", content * 2)
        request.raw_input_contents[at] = changed[how % len(changed)]


def missing_bytes(request: Request, at: int, how: int) -> None:
    del request.raw_input_contents[(None, -1)[how % 2] :]


def extra_input(request: Request, at: int, how: int) -> None:
    """One more, with or without bytes: the same again, or a new one."""
    request.inputs.append(chosen(request, at))
    if how % 3:
        request.raw_input_contents.append(b"\x00" * how)
    if how % 2:
        request.inputs[-1].name = "more"


def missing_input(request: Request, at: int, how: int) -> None:
    at %= len(request.inputs)
    del request.inputs[at]
    if how % 2 and len(request.raw_input_contents) > at:
        del request.raw_input_contents[at]


def contents_too(request: Request, at: int, how: int) -> None:
    """Typed contents beside raw ones; empty ones too."""
    contents = chosen(request, at).contents
    contents.SetInParent()
    contents.fp32_contents.extend([1.0] * (how % 3))


def parameter(request: Request, at: int, how: int) -> None:
    parameters = chosen(request, at).parameters
    if how % 2:
        parameters["shared_memory_region"].string_param = "region"
        parameters["shared_memory_byte_size"].int64_param = how
    else:
        parameters["anything"].bool_param = True


def outputs(request: Request, at: int, how: int) -> None:
    """Outputs by name: some, in any order, twice, unknown, with parameters."""
    wishes = (("y",), ("z", "y"), ("y", "z"), ("y", "y"), ("a",), ("",), ("z",) * 300, ("y",))
    del request.outputs[:]
    for name in wishes[how % len(wishes)]:
        request.outputs.add(name=name)
    if how % len(wishes) == len(wishes) - 1:
        request.outputs[0].parameters["classification"].int64_param = at


MUTATIONS: tuple[Mutation, ...] = (
    *(other_shape, other_length, other_datatype, other_name, swapped_inputs, swapped_bytes),
    *(other_bytes, missing_bytes, extra_input, missing_input, contents_too, parameter, outputs),
)


def chosen(request: Request, at: int) -> Any:
    return request.inputs[at % len(request.inputs)]


def some_values(datatype: str, shape: tuple[int, ...]) -> some.SearchStrategy[NDArray[Any]]:
    if datatype == "BYTES":
        return some_arrays.arrays(np.object_, shape, elements=some.text(max_size=5))
    return some_arrays.arrays(NUMPY_DTYPES[datatype], shape)


@some.composite
def conversations(draw: some.DrawFn) -> tuple[Signature, list[Request]]:
    """A model and requests to it: right ones, and such that differ from right ones a little."""
    datatype = some.sampled_from(["FP32", "INT32", *DATATYPES])
    specs, arrays = [], {}
    for name in ("a", "b", "c")[: draw(some.integers(1, 3))]:
        kind = draw(datatype)
        shape = draw(some_arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
        lengths = tuple(draw(some.sampled_from([-1, length])) for length in shape)
        specs.append(TensorSpec(name=name, datatype=kind, shape=lengths))
        arrays[name] = draw(some_values(kind, shape))
    ends = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1, 9)) for name in OUTPUTS)
    right = inference_request("m", arrays)
    requests = [right]
    number = some.integers(0, 50)
    steps = some.lists(some.tuples(some.sampled_from(MUTATIONS), number, number), max_size=2)
    for changes in draw(some.lists(steps, min_size=1, max_size=12)):
        request = Request.FromString(right.SerializeToString())
        for mutate, at, how in changes:
            if request.inputs:
                mutate(request, at, how)
        requests.append(request)
    return Signature(inputs=tuple(specs), outputs=ends), requests


@settings(max_examples=400, deadline=None, derandomize=True)
@given(conversation=conversations())
def test_a_known_form_is_read_as_the_full_check_reads_it_and_nothing_else_is_accepted(
    conversation: tuple[Signature, list[Request]],
) -> None:
    signature, requests = conversation
    layouts = Layouts()
    for request in [*requests, *requests[::-1]]:
        checked = full_check(request, signature)
        recognised, key = layouts.recognise(request)
        if recognised is not None:
            assert checked is not None, "the short cut accepted what must be refused"
            require_same(recognised, checked)
        elif checked is not None and key is not None:
            layouts.remember(key, request, signature, checked)
            again, _ = layouts.recognise(request)
            is_plain = not {"BYTES", "BOOL"} & {spec.datatype for spec in signature.inputs}
            assert (again is not None) == is_plain
            if again is not None:
                require_same(again, checked)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BYTES", "BOOL")])
def test_the_short_cut_is_taken_the_second_time(datatype: str) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, 2))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    layouts = Layouts()
    first = inference_request("m", {"x": np.ones((3, 2), NUMPY_DTYPES[datatype])}, outputs=["x"])
    recognised, key = layouts.recognise(first)
    assert recognised is None
    assert key is not None
    layouts.remember(key, first, signature, decode_request(first, signature))
    second = inference_request("m", {"x": np.zeros((3, 2), NUMPY_DTYPES[datatype])}, outputs=["x"])
    recognised, _ = layouts.recognise(second)
    assert recognised is not None
    require_same(recognised, decode_request(second, signature))


def test_inputs_may_come_in_any_order() -> None:
    specs = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in "abc")
    signature = Signature(inputs=specs, outputs=specs)
    layouts = Layouts()
    values = {name: np.full(2, number, np.float32) for number, name in enumerate("abc")}
    for order in permutations("abc"):
        request = inference_request("m", {name: values[name] for name in order})
        _, key = layouts.recognise(request)
        assert key is not None
        layouts.remember(key, request, signature, decode_request(request, signature))
        recognised, _ = layouts.recognise(request)
        assert recognised is not None
        assert {name: array[0] for name, array in recognised.feeds.items()} == dict(
            zip("abc", range(3), strict=True)
        )


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_content_that_must_be_checked_never_takes_the_short_cut(datatype: str) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    layouts = Layouts()
    value = np.array(["ab"], object) if datatype == "BYTES" else np.array([True])
    request = inference_request("m", {"x": value})
    for _ in range(2):
        recognised, key = layouts.recognise(request)
        assert recognised is None
        assert key is not None
        layouts.remember(key, request, signature, decode_request(request, signature))


def test_few_forms_are_kept() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    layouts = Layouts()
    for rows in range(1, 3 * _MOST_LAYOUTS):
        array = np.zeros(rows, np.float32)
        request = inference_request("m", {"x": array})
        _, key = layouts.recognise(request)
        assert key is not None
        layouts.remember(key, request, signature, decode_request(request, signature))
        answer(layouts, "", (array,))
        assert len(layouts._requests) <= _MOST_LAYOUTS
        assert len(layouts._answers) <= _MOST_LAYOUTS


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=some.data())
def test_an_answer_is_byte_for_byte_what_the_codec_says(data: some.DataObject) -> None:
    datatypes = data.draw(some.lists(some.sampled_from(DATATYPES), min_size=1, max_size=3))
    layouts = Layouts()
    for _ in range(data.draw(some.integers(2, 4))):
        shape = data.draw(some_arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        arrays = [data.draw(some_values(datatype, shape)) for datatype in datatypes]
        if data.draw(some.booleans()):
            arrays = [array.T for array in arrays]  # as a model may give them: not contiguous
        answer(layouts, data.draw(some.text(max_size=5) | some.just("é" * 100)), arrays)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 1 << 21])
def test_lengths_of_every_size_are_written_right(size: int) -> None:
    layouts = Layouts()
    for request_id in ("", "7", "x" * min(size, 1 << 15)):
        answer(layouts, request_id, (np.arange(size, dtype=np.uint8), np.zeros(3, np.float32)))


def answer(layouts: Layouts, request_id: str, arrays: Any) -> None:
    """Write an answer both ways and compare."""
    said: dict[str, Any] = {
        "model_name": "m",
        "version": 3,
        "variant": "original",
        "request_id": request_id,
        "names": tuple(f"y{index}" for index in range(len(arrays))),
        "arrays": arrays,
    }
    assert pb.ModelInferResponse.FromString(layouts.encode(**said)) == encode_response(**said)


def full_check(request: Request, signature: Signature) -> DecodedRequest | None:
    try:
        return decode_request(request, signature)
    except ServingError:
        return None


def require_same(one: DecodedRequest, other: DecodedRequest) -> None:
    assert (list(one.feeds), one.rows, one.outputs) == (
        list(other.feeds),
        other.rows,
        other.outputs,
    )
    assert (dict(one.places), dict(one.classes)) == (dict(other.places), dict(other.classes))
    for array, expected in zip(one.feeds.values(), other.feeds.values(), strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()
        assert array.flags.writeable == expected.flags.writeable
