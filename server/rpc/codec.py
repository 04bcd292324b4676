"""Messages to numpy arrays and back: the one place where tensors meet the protocol.

Order of checks: counts, names, datatypes, shapes, lengths; nothing is allocated before all hold.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.documents import shown_key
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.errors import InvalidRequest, TooLarge, Unsupported
from server.pb import open_inference_pb2 as pb

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
_SHARED_MEMORY: Final = "shared_memory_"


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
    """

    feeds: dict[str, NDArray[Any]]
    rows: int
    outputs: tuple[str, ...]


def decode_request(
    request: pb.ModelInferRequest, signature: Signature, limits: Limits = LIMITS
) -> DecodedRequest:
    """Check a request against a model's signature and take its arrays out.

    Raises:
        InvalidRequest: It does not fit; the text says what was expected and what came.
        TooLarge: It is beyond a limit.
        Unsupported: It asks for something that Hone does not do.
    """
    if len(request.outputs) > limits.outputs:
        raise TooLarge(f"{len(request.outputs)} outputs requested, at most {limits.outputs} may be")
    inputs = _match_inputs(request, signature)
    outputs = _match_outputs(request.outputs, signature)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            f"expected one raw_input_contents entry for each of {len(request.inputs)} inputs, "
            f"got {len(raw)}"
        )
    feeds: dict[str, NDArray[Any]] = {}
    for spec, index, tensor in inputs:
        shape, elements = _check_shape(spec, tensor, limits)
        if raw:
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
    return DecodedRequest(feeds=feeds, rows=rows, outputs=outputs)


def encode_response(
    *,
    model_name: str,
    version: int,
    variant: str,
    request_id: str,
    names: Sequence[str],
    arrays: Sequence[NDArray[Any]],
) -> pb.ModelInferResponse:
    """Build a response; outputs are always raw, which every client understands."""
    response = pb.ModelInferResponse(
        model_name=model_name, model_version=str(version), id=request_id
    )
    response.parameters["variant"].string_param = variant
    raw = response.raw_output_contents
    for name, array in zip(names, arrays, strict=True):
        datatype = _DATATYPES.get(array.dtype, "BYTES")
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        raw.append(_bytes_raw(array) if datatype == "BYTES" else array.tobytes())
    return response


def _match_inputs(
    request: pb.ModelInferRequest, signature: Signature
) -> list[tuple[TensorSpec, int, pb.ModelInferRequest.InferInputTensor]]:
    """Every input of the signature with its place in the request and what came for it."""
    wanted = {spec.name: spec for spec in signature.inputs}
    if len(request.inputs) != len(wanted):
        raise InvalidRequest(_wrong_inputs(request, wanted))
    places: dict[str, tuple[int, pb.ModelInferRequest.InferInputTensor]] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name not in wanted or tensor.name in places:
            raise InvalidRequest(_wrong_inputs(request, wanted))
        if tensor.parameters and any(key.startswith(_SHARED_MEMORY) for key in tensor.parameters):
            raise Unsupported(f"input '{tensor.name}': shared memory is not enabled on this server")
        places[tensor.name] = (index, tensor)
    return [(spec, *places[spec.name]) for spec in signature.inputs]


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
    requested: Iterable[pb.ModelInferRequest.InferRequestedOutputTensor],
    signature: Signature,
) -> tuple[str, ...]:
    known = [spec.name for spec in signature.outputs]
    names: list[str] = []
    for output in requested:
        if output.name not in known:
            raise InvalidRequest(
                f"unexpected inference output '{shown_key(output.name)}'; expected {known}"
            )
        if output.name in names:
            raise InvalidRequest(f"output '{output.name}' is requested twice")
        for key in output.parameters:
            if key == "classification":
                raise Unsupported("the classification extension is not supported")
            if key.startswith(_SHARED_MEMORY):
                raise Unsupported(
                    f"output '{output.name}': shared memory is not enabled on this server"
                )
        names.append(output.name)
    return tuple(names or known)


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
    dtype = NUMPY_DTYPES[spec.datatype]
    expected = elements * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f"unexpected total byte size {len(raw)} for input '{spec.name}', expecting {expected}"
        )
    if spec.datatype == "BOOL":
        bits = np.frombuffer(raw, np.uint8)
        if bits.size and bits.max() > 1:
            raise InvalidRequest(f"input '{spec.name}': a BOOL must be the byte 0 or 1")
        return bits.view(np.bool_)
    return np.frombuffer(raw, dtype)


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
