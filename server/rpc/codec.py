"""Messages to numpy arrays and back: the one place where tensors meet the protocol.

Order of checks: counts, names, datatypes, shapes, lengths; nothing is allocated before all hold.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.documents import shown_key
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.errors import InvalidRequest, TooLarge
from server.pb import open_inference_pb2 as pb
from server.rpc.classification import PARAMETER, class_count
from server.rpc.shared_tensors import Place, output_place, place_of
from server.shared_memory import SharedMemory

_LENGTH: Final = struct.Struct("<I")
_CONTENTS: Final[dict[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_DATATYPES: Final[dict[np.dtype[Any], str]] = {
    dtype: name for name, dtype in NUMPY_DTYPES.items() if name != "BYTES"
}
_NO_PLACES: Final[Mapping[str, Place]] = {}
_NO_CLASSES: Final[Mapping[str, int]] = {}
_Input: TypeAlias = tuple[TensorSpec, int, pb.ModelInferRequest.InferInputTensor, Place | None]
"""An input, which of the raw contents is its own, what came for it, its place in shared memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may hold; more is refused before anything is allocated.

    Attributes:
        outputs: Outputs requested.
        rank: Dimensions shown in an error.
        elements: Elements of one input.
        empty_elements: Product of the other dimensions of an input without elements: no bytes
            are sent for them, but a model may make something of them.
    """

    outputs: int = 256
    rank: int = 16
    elements: int = 1 << 31
    empty_elements: int = 1 << 16


LIMITS: Final = Limits()


class DecodedRequest(NamedTuple):
    """A ModelInferRequest in our own words.

    Attributes:
        feeds: Input name → array, in the signature's order; numeric arrays are read-only views of
            the message.
        rows: Length of the first dimension of the first input; 1 for a scalar.
        outputs: Names of the outputs wanted, in the order wanted.
        places: Those of them that are wanted in shared memory, and where.
        classes: Those of them that are wanted as classes, and how many.
    """

    feeds: dict[str, NDArray[Any]]
    rows: int
    outputs: tuple[str, ...]
    places: Mapping[str, Place] = _NO_PLACES
    classes: Mapping[str, int] = _NO_CLASSES


def decode_request(
    request: pb.ModelInferRequest,
    signature: Signature,
    memory: SharedMemory | None = None,
    limits: Limits = LIMITS,
) -> DecodedRequest:
    """Check a request against a model's signature and take its arrays out.

    Args:
        request: What came.
        signature: What the model takes and gives.
        memory: Where inputs may lie and outputs may be wanted; None where that is not allowed.
        limits: What one request may hold.

    Raises:
        InvalidRequest: It does not fit; the text says what was expected and what came.
        NotFound: It names shared memory that is not registered.
        TooLarge: It is beyond a limit.
        Unsupported: It asks for something that Hone does not do.
    """
    if len(request.outputs) > limits.outputs:
        raise TooLarge(f"{len(request.outputs)} outputs requested, at most {limits.outputs} may be")
    inputs, sent = _match_inputs(request, signature, memory)
    outputs, places, classes = _match_outputs(request.outputs, signature, memory)
    raw = request.raw_input_contents
    if raw and len(raw) != sent:
        raise InvalidRequest(
            f"expected one raw_input_contents entry for each of {sent} inputs, got {len(raw)}"
        )
    feeds: dict[str, NDArray[Any]] = {}
    for spec, index, tensor, place in inputs:
        shape, elements = _check_shape(spec, tensor, limits)
        if place is not None:
            array = _from_place(spec, place, tensor, elements)
        elif raw:
            if tensor.HasField("contents"):
                raise InvalidRequest(
                    "contents field must not be specified when using raw_input_contents for "
                    f"input '{spec.name}' of model '{shown_key(request.model_name)}'"
                )
            array = _from_raw(spec, raw[index], elements)
        else:
            array = _from_contents(spec, tensor.contents, elements)
        feeds[spec.name] = array.reshape(shape)
    first = next(iter(feeds.values()), None)
    rows = first.shape[0] if first is not None and first.ndim else 1
    return DecodedRequest(feeds=feeds, rows=rows, outputs=outputs, places=places, classes=classes)


def encode_response(
    *,
    model_name: str,
    version: int,
    variant: str,
    request_id: str,
    names: Sequence[str],
    arrays: Sequence[NDArray[Any]],
    places: Mapping[str, Place] = _NO_PLACES,
) -> pb.ModelInferResponse:
    """Build a response; outputs are always raw, which every client understands.

    An output that has a place is put there, and its raw content is empty.

    Raises:
        InvalidRequest: An output does not fit into its place.
        FailedPrecondition: The place cannot be written.
    """
    response = pb.ModelInferResponse(
        model_name=model_name, model_version=str(version), id=request_id
    )
    response.parameters["variant"].string_param = variant
    raw = response.raw_output_contents
    for name, array in zip(names, arrays, strict=True):
        datatype = _DATATYPES.get(array.dtype, "BYTES")
        output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if places and name in places:
            content = _bytes_raw(array) if datatype == "BYTES" else array
            places[name].write(content, output)
            raw.append(b"")
            continue
        raw.append(_bytes_raw(array) if datatype == "BYTES" else array.tobytes())
    return response


def _match_inputs(
    request: pb.ModelInferRequest, signature: Signature, memory: SharedMemory | None
) -> tuple[list[_Input], int]:
    """Every input of the signature, and how many have their content in the request."""
    wanted = {spec.name: spec for spec in signature.inputs}
    if len(request.inputs) != len(wanted):
        raise InvalidRequest(_wrong_inputs(request, wanted))
    found: dict[str, _Input] = {}
    sent = 0
    for tensor in request.inputs:
        name = tensor.name
        if name not in wanted or name in found:
            raise InvalidRequest(_wrong_inputs(request, wanted))
        place = None
        if tensor.parameters:
            place = place_of(f"input '{name}'", tensor.parameters, memory)
        found[name] = (wanted[name], sent, tensor, place)
        if place is None:
            sent += 1
    return [found[spec.name] for spec in signature.inputs], sent


def _wrong_inputs(request: pb.ModelInferRequest, wanted: Mapping[str, TensorSpec]) -> str:
    names = [tensor.name for tensor in request.inputs[: 2 * len(wanted) + 8]]
    missing = [name for name in wanted if name not in names]
    unknown = [shown_key(name) for name in names if name not in wanted]
    twice = sorted({shown_key(name) for name in names if names.count(name) > 1})
    got = [shown_key(name) for name in names]
    text = (
        f"expected {len(wanted)} inputs but got {len(request.inputs)} inputs for model "
        f"'{shown_key(request.model_name)}'. Got input(s) {got}"
    )
    if missing:
        text += f", but missing required input(s) {missing}"
    if unknown:
        text += f", unknown input(s) {unknown}"
    if twice:
        text += f", given twice {twice}"
    return f"{text}. Expected {list(wanted)}"


def _match_outputs(
    requested: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor],
    signature: Signature,
    memory: SharedMemory | None,
) -> tuple[tuple[str, ...], Mapping[str, Place], Mapping[str, int]]:
    """The outputs wanted, those of them in shared memory, those of them as classes."""
    if not requested:
        return tuple([spec.name for spec in signature.outputs]), _NO_PLACES, _NO_CLASSES
    known = {spec.name: spec for spec in signature.outputs}
    names: list[str] = []
    places: dict[str, Place] = {}
    classes: dict[str, int] = {}
    for output in requested:
        name = output.name
        if name not in known:
            raise InvalidRequest(
                f"unexpected inference output '{shown_key(name)}'; expected {list(known)}"
            )
        if name in names:
            raise InvalidRequest(f"output '{name}' is requested twice")
        if output.parameters:
            place = output_place(f"output '{name}'", output.parameters, memory)
            if place is not None:
                places[name] = place
            if PARAMETER in output.parameters:
                classes[name] = class_count(known[name], output.parameters[PARAMETER])
            if name in places and name in classes:
                raise InvalidRequest(
                    f"output '{name}' can't set both 'shared_memory_region' and '{PARAMETER}'"
                )
        names.append(name)
    return tuple(names), places, classes


def _check_shape(
    spec: TensorSpec, tensor: pb.ModelInferRequest.InferInputTensor, limits: Limits
) -> tuple[tuple[int, ...], int]:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"input '{spec.name}' has datatype '{tensor.datatype[:32]}', expected '{spec.datatype}'"
        )
    shape = tuple(tensor.shape)
    fits = len(shape) == len(spec.shape) and all(
        length >= 0 and wanted in (-1, length)
        for length, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            f"unexpected shape for input '{spec.name}': expected {list(spec.shape)}, got "
            f"{list(shape[: limits.rank])}{'…' if len(shape) > limits.rank else ''} "
            "(-1 stands for any length)"
        )
    if shape and shape[0] == 0 and spec.shape[0] == -1:
        raise InvalidRequest(
            f"input '{spec.name}' has no rows: its first dimension must be at least 1, "
            f"got {list(shape)}"
        )
    elements = math.prod(shape)
    if elements > limits.elements:
        raise TooLarge(
            f"input '{spec.name}' has {elements} elements, at most {limits.elements} may be sent"
        )
    if elements == 0 and math.prod(filter(None, shape)) > limits.empty_elements:
        raise TooLarge(
            f"input '{spec.name}' has no elements, but its other dimensions come to more than "
            f"{limits.empty_elements}: {list(shape)}"
        )
    return shape, elements


def _from_raw(spec: TensorSpec, raw: bytes, elements: int) -> NDArray[Any]:
    if spec.datatype == "BYTES":
        return _text_array(spec, _split_bytes(spec, raw, elements))
    _check_size(spec, len(raw), elements)
    if spec.datatype == "BOOL":
        bits = np.frombuffer(raw, np.uint8)
        if bits.size and bits.max() > 1:
            raise InvalidRequest(f"input '{spec.name}': a BOOL must be the byte 0 or 1")
        return bits.view(np.bool_)
    return np.frombuffer(raw, NUMPY_DTYPES[spec.datatype])


def _from_place(
    spec: TensorSpec,
    place: Place,
    tensor: pb.ModelInferRequest.InferInputTensor,
    elements: int,
) -> NDArray[Any]:
    if tensor.HasField("contents"):
        raise InvalidRequest(
            f"contents field must not be specified for input '{spec.name}', which lies in shared "
            "memory"
        )
    if spec.datatype != "BYTES":
        _check_size(spec, place.byte_size, elements)
    return _from_raw(spec, place.read(), elements)


def _check_size(spec: TensorSpec, size: int, elements: int) -> None:
    expected = elements * NUMPY_DTYPES[spec.datatype].itemsize
    if size != expected:
        raise InvalidRequest(
            f"unexpected total byte size {size} for input '{spec.name}', expecting {expected}"
        )


def _from_contents(
    spec: TensorSpec, contents: pb.InferTensorContents, elements: int
) -> NDArray[Any]:
    member = _CONTENTS.get(spec.datatype)
    if member is None:
        raise InvalidRequest(
            f"input '{spec.name}' of datatype {spec.datatype} must be sent as raw_input_contents"
        )
    for field, _ in contents.ListFields():
        if field.name != member:
            raise InvalidRequest(
                f"input '{spec.name}' of datatype {spec.datatype} must be sent in {member}, "
                f"got {field.name}"
            )
    values = getattr(contents, member)
    if len(values) != elements:
        raise InvalidRequest(
            f"expected {elements} elements in {member} of input '{spec.name}', got {len(values)}"
        )
    if spec.datatype == "BYTES":
        return _text_array(spec, list(values))
    wide = {"int_contents": np.int32, "uint_contents": np.uint32}.get(member)
    array = np.array(values, dtype=wide or NUMPY_DTYPES[spec.datatype])
    return array.astype(NUMPY_DTYPES[spec.datatype]) if wide else array


def _split_bytes(spec: TensorSpec, raw: bytes, elements: int) -> list[bytes]:
    if elements * _LENGTH.size > len(raw):
        raise InvalidRequest(
            f"expected {elements} strings for input '{spec.name}', but {len(raw)} bytes cannot "
            "hold so many"
        )
    texts: list[bytes] = []
    position, end = 0, len(raw)
    for _ in range(elements):
        start = position + _LENGTH.size
        if start > end:
            raise InvalidRequest(
                f"expected {elements} strings for input '{spec.name}', got {len(texts)}"
            )
        (length,) = _LENGTH.unpack_from(raw, position)
        position = start + length
        if position > end:
            raise InvalidRequest(
                f"string {len(texts)} of input '{spec.name}' claims {length} bytes, "
                f"but {end - start} are left"
            )
        texts.append(raw[start:position])
    if position != end:
        raise InvalidRequest(
            f"unexpected {end - position} bytes after {elements} strings of input '{spec.name}'"
        )
    return texts


def _text_array(spec: TensorSpec, contents: list[bytes]) -> NDArray[Any]:
    """Texts as the runtime wants them: it knows no other strings than UTF-8."""
    array = np.empty(len(contents), dtype=np.object_)
    for index, content in enumerate(contents):
        try:
            array[index] = content.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"string {index} of input '{spec.name}' is not UTF-8: {error.reason} at byte "
                f"{error.start}"
            ) from error
    return array


def _bytes_raw(array: NDArray[Any]) -> bytes:
    parts: list[bytes] = []
    for item in array.ravel():
        text = item.encode()
        parts += (_LENGTH.pack(len(text)), text)
    return b"".join(parts)
