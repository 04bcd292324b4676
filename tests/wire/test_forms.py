"""A request that is recognised by its bytes says what parsing and checking it says."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays

from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.client import inference_request
from server.errors import ServingError
from server.pb import open_inference_pb2 as pb
from server.rpc.codec import DecodedRequest, decode_request
from server.rpc.forms import _MOST_ALIKE, _MOST_KINDS, Forms, InferenceRequest
from server.rpc.parameters import decode_parameters
from tests.support.tensors import some_values

DATATYPES = list(NUMPY_DTYPES)
OUTPUTS = ("y", "z")
OWNER = object()
MINE = pb.ModelInferRequest(
    parameters={"mine": pb.InferParameter(string_param="1")}
).SerializeToString()
Request = pb.ModelInferRequest
Mutation = Callable[[Request, int, int], None]
"""Changes a request; the numbers choose where and how."""
Bytes = Callable[[bytes, int, int], bytes]
"""Changes a request's bytes likewise."""


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


def other_id(request: Request, at: int, how: int) -> None:
    """An id, of the same length or another."""
    request.id = ("", "7", "8", "é", "x" * (how % 200), str(at))[how % 6]


def other_model(request: Request, at: int, how: int) -> None:
    request.model_name = ("m", "n", "mm", "")[how % 4]
    request.model_version = ("", "1", "2", "stable")[at % 4]


def request_parameter(request: Request, at: int, how: int) -> None:
    """Parameters of the request: such that mean something, some wrongly, and one that does not."""
    names = ("priority", "timeout", "sequence_id", "variant", "mine", "triton_mine")
    request.parameters[names[how % len(names)]].int64_param = at - 1


MUTATIONS: tuple[Mutation, ...] = (
    *(other_shape, other_length, other_datatype, other_name, swapped_inputs, swapped_bytes),
    *(other_bytes, missing_bytes, extra_input, missing_input, contents_too, parameter, outputs),
    *(other_id, other_model, request_parameter),
)


def chosen(request: Request, at: int) -> Any:
    return request.inputs[at % len(request.inputs)]


def other_byte(content: bytes, at: int, how: int) -> bytes:
    at %= max(1, len(content))
    return content[:at] + bytes([content[at] ^ (1 << how % 8)]) + content[at + 1 :]


def without_bytes(content: bytes, at: int, how: int) -> bytes:
    at %= max(1, len(content))
    return content[:at] + content[at + 1 + how % 4 :]


def moved_bytes(content: bytes, at: int, how: int) -> bytes:
    """As many bytes, but some of the start at the end: fields in another order, as a rule none."""
    at %= max(1, len(content))
    return content[at:] + content[:at]


def appended_fields(content: bytes, at: int, how: int) -> bytes:
    """A field twice, where the last one counts; an unknown one; one of another kind."""
    return content + (b"\x0a\x01n", b"\x1a\x017", b"\x3a\x00", b"\x7a\x02ab", b"\x78\x05")[how % 5]


def not_a_text(content: bytes, at: int, how: int) -> bytes:
    """An id that is no UTF-8, of a length that ids have."""
    return content.replace(b"\x1a\x017", (b"\x1a\x01\xff", b"\x1a\x01\xc3")[how % 2])


BYTE_MUTATIONS: tuple[Bytes, ...] = (
    *(other_byte, without_bytes, moved_bytes, appended_fields, not_a_text),
)


@some.composite
def conversations(draw: some.DrawFn) -> tuple[Signature, list[bytes]]:
    """A model and requests to it: right ones, and such that differ from right ones a little."""
    datatype = some.sampled_from(["FP32", "INT32", *DATATYPES])
    specs, arrays = [], {}
    for name in ("a", "b", "c")[: draw(some.integers(0, 3))]:
        kind = draw(datatype)
        shape = draw(some_arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
        lengths = tuple(draw(some.sampled_from([-1, length])) for length in shape)
        specs.append(TensorSpec(name=name, datatype=kind, shape=lengths))
        arrays[name] = draw(some_values(kind, shape))
    ends = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1, 9)) for name in OUTPUTS)
    right = inference_request("m", arrays)
    right.id = draw(some.sampled_from(["", "7"]))
    contents = [right.SerializeToString()]
    number = some.integers(0, 300)
    steps = some.lists(some.tuples(some.sampled_from(MUTATIONS), number, number), max_size=2)
    byte_steps = some.lists(
        some.tuples(some.sampled_from(BYTE_MUTATIONS), number, number), max_size=1
    )
    for changes in draw(some.lists(steps, min_size=1, max_size=12)):
        request = Request.FromString(contents[0])
        for mutate, at, how in changes:
            if request.inputs:
                mutate(request, at, how)
        content = request.SerializeToString()
        for change, at, how in draw(byte_steps):
            content = change(content, at, how) if content else content
        contents.append(content)
    return Signature(inputs=tuple(specs), outputs=ends), contents


@settings(max_examples=500, deadline=None, derandomize=True)
@given(conversation=conversations())
def test_what_is_recognised_is_what_parsing_and_checking_finds_and_nothing_else_is_accepted(
    conversation: tuple[Signature, list[bytes]],
) -> None:
    signature, contents = conversation
    forms = Forms()
    for content in [*contents, *contents[::-1]]:
        try:
            message = Request.FromString(content)
        except DecodeError:
            with pytest.raises(DecodeError):
                forms.read(content)
            continue
        request = forms.read(content)
        said = (message.id, message.model_name, message.model_version)
        assert (request.id, request.model_name, request.model_version) == said
        checked = full_check(message, signature)
        if request.form is not None:
            assert checked is not None, "what must be refused was recognised"
            require_same(request.form.decoded(content), checked)
            assert request.form.parameters == decode_parameters(message.parameters)
        elif checked is not None:
            parameters = decode_parameters(message.parameters)
            forms.learn(OWNER, request, parameters, signature, checked)
            again = forms.read(content)
            if again.form is not None:
                require_same(again.form.decoded(content), checked)
                assert again.form.parameters == parameters


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BYTES", "BOOL")])
@pytest.mark.parametrize("request_id", ["", "12", "é"])
def test_the_second_of_a_form_is_recognised_whatever_its_numbers_and_its_id(
    datatype: str, request_id: str
) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, 2))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    forms = Forms()
    first = inference_request("m", {"x": np.ones((3, 2), NUMPY_DTYPES[datatype])}, outputs=["x"])
    first.id = request_id
    assert learned(forms, first, signature).form is None
    second = inference_request("m", {"x": np.zeros((3, 2), NUMPY_DTYPES[datatype])}, outputs=["x"])
    second.id = request_id[::-1]
    request = forms.read(second.SerializeToString())
    assert request.form is not None
    assert request.id == second.id
    assert request.message == second
    require_same(request.form.decoded(request.content), decode_request(second, signature))


def test_inputs_may_come_in_any_order() -> None:
    specs = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in "abc")
    signature = Signature(inputs=specs, outputs=specs)
    forms = Forms()
    values = {name: np.full(2, number, np.float32) for number, name in enumerate("abc")}
    for order in permutations("abc"):
        message = inference_request("m", {name: values[name] for name in order})
        learned(forms, message, signature)
        request = forms.read(message.SerializeToString())
        assert request.form is not None
        feeds = request.form.decoded(request.content).feeds
        assert {name: array[0] for name, array in feeds.items()} == dict(
            zip("abc", range(3), strict=True)
        )


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_content_that_must_be_checked_is_never_recognised(datatype: str) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    forms = Forms()
    value = np.array(["ab"], object) if datatype == "BYTES" else np.array([True])
    for _ in range(2):
        assert learned(forms, inference_request("m", {"x": value}), signature).form is None


def test_what_another_owner_learned_is_replaced() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    forms, message = Forms(), inference_request("m", {"x": np.zeros(3, np.float32)})
    for owner in (object(), object()):
        learned(forms, message, signature, owner)
        form = forms.read(message.SerializeToString()).form
        assert form is not None
        assert form.owner is owner


def test_few_forms_are_kept_and_none_that_is_long() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    forms = Forms()
    for rows in range(1, 3 * _MOST_KINDS):
        message = inference_request("m", {"x": np.zeros(rows, np.float32)})
        for number in range(2 * _MOST_ALIKE if rows < 5 else 1):
            message.parameters["priority"].int64_param = number
            learned(forms, message, signature)
        assert len(forms._known) <= _MOST_KINDS
        assert max(map(len, forms._known.values())) <= _MOST_ALIKE


@pytest.mark.parametrize(
    "more", [b"\x7a\x00" * 5000, b"\x7a\xff\x7f" + bytes(16383), b"\x78\x05", MINE]
)
def test_what_has_more_to_say_than_tensors_is_not_learned(more: bytes) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    forms = Forms()
    right = inference_request("m", {"x": np.zeros(3, np.float32)}).SerializeToString()
    for content, is_known in ((right, True), (right + more, False)):
        message = Request.FromString(content)
        request = forms.read(content)
        decoded = decode_request(message, signature)
        parameters = decode_parameters(message.parameters)
        forms.learn(OWNER, request, parameters, signature, decoded)
        assert (forms.read(content).form is not None) == is_known


def learned(
    forms: Forms, message: Request, signature: Signature, owner: object = OWNER
) -> InferenceRequest:
    """Read a right request and learn its form; the request."""
    request = forms.read(message.SerializeToString())
    decoded = decode_request(request.message, signature)
    forms.learn(owner, request, decode_parameters(message.parameters), signature, decoded)
    return request


def full_check(request: Request, signature: Signature) -> DecodedRequest | None:
    try:
        decode_parameters(request.parameters)
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
