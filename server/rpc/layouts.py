"""What requests and answers of one form look like on the wire, learned from the first of each.

Callers send the same names, datatypes and shapes again and again. The first request of a form is
checked in full; what follows is recognised by its header and only its bytes are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.signature import NUMPY_DTYPES, Signature
from server.pb import open_inference_pb2 as pb
from server.rpc.codec import DecodedRequest, encode_response

_MOST_LAYOUTS: Final = 256
_NOT_PLAIN: Final = ("BYTES", "BOOL")
"""Datatypes whose content is checked, not only its length."""

_ID_TAG: Final = b"\x1a"  # field 3 of ModelInferResponse, length-delimited
_RAW_TAG: Final = b"\x32"  # field 6, likewise


class _Input(NamedTuple):
    """Where one input lies in the request, and what it is."""

    name: str
    number: int
    size_bytes: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _Layout(NamedTuple):
    inputs: tuple[_Input, ...]
    rows: int
    outputs: tuple[str, ...]


class Layouts:
    """The forms seen of one model version's requests and answers."""

    __slots__ = ("_answers", "_requests")

    def __init__(self) -> None:
        self._requests: dict[tuple[Any, ...], _Layout] = {}
        self._answers: dict[tuple[Any, ...], bytes] = {}

    def recognise(
        self, request: pb.ModelInferRequest
    ) -> tuple[DecodedRequest | None, tuple[Any, ...] | None]:
        """Take the arrays out of a request whose form was seen before.

        Returns:
            The request, or None if it must be checked in full; and then the key under which to
            `remember` it if it passes, or None if there is more to it than its form.
        """
        inputs, raw = request.inputs, request.raw_input_contents
        if len(raw) != len(inputs):
            return None, None
        parts: list[Any] = []
        for tensor in inputs:
            if tensor.parameters or tensor.HasField("contents"):
                return None, None
            parts.append(tensor.name)
            parts.append(tensor.datatype)
            parts += tensor.shape
        if request.outputs:
            parts.append(None)  # names of outputs follow, not of inputs
            for output in request.outputs:
                if output.parameters:
                    return None, None
                parts.append(output.name)
        key = tuple(parts)
        layout = self._requests.get(key)
        if layout is None:
            return None, key
        feeds: dict[str, NDArray[Any]] = {}
        for name, number, size_bytes, dtype, shape in layout.inputs:
            content = raw[number]
            if len(content) != size_bytes:
                return None, None
            feeds[name] = np.frombuffer(content, dtype).reshape(shape)
        return DecodedRequest(feeds, layout.rows, layout.outputs), key

    def remember(
        self,
        key: tuple[Any, ...],
        request: pb.ModelInferRequest,
        signature: Signature,
        decoded: DecodedRequest,
    ) -> None:
        """Keep the form of a request that passed every check."""
        if any(spec.datatype in _NOT_PLAIN for spec in signature.inputs):
            return
        if len(self._requests) >= _MOST_LAYOUTS:
            self._requests.clear()
        order = {tensor.name: index for index, tensor in enumerate(request.inputs)}
        self._requests[key] = _Layout(
            tuple(
                _Input(
                    spec.name,
                    order[spec.name],
                    decoded.feeds[spec.name].nbytes,
                    NUMPY_DTYPES[spec.datatype],
                    decoded.feeds[spec.name].shape,
                )
                for spec in signature.inputs
            ),
            decoded.rows,
            decoded.outputs,
        )

    def encode(
        self,
        *,
        model_name: str,
        version: int,
        variant: str,
        request_id: str,
        names: tuple[str, ...],
        arrays: Sequence[NDArray[Any]],
    ) -> bytes:
        """The bytes of `encode_response`, of which all but the id and the numbers are kept."""
        key = (variant, names, *[array.shape for array in arrays])
        head = self._answers.get(key)
        if head is None:
            response = encode_response(
                model_name=model_name,
                version=version,
                variant=variant,
                request_id="",
                names=names,
                arrays=arrays,
            )
            if any(array.dtype.hasobject for array in arrays):
                response.id = request_id
                return response.SerializeToString()
            del response.raw_output_contents[:]
            head = response.SerializeToString()
            if len(self._answers) >= _MOST_LAYOUTS:
                self._answers.clear()
            self._answers[key] = head
        parts = [head]
        if request_id:
            text = request_id.encode()
            parts += (_ID_TAG, _length(len(text)), text)
        for array in arrays:
            parts += (_RAW_TAG, _length(array.nbytes), array.tobytes())
        return b"".join(parts)


def _length(size: int) -> bytes:
    """A protobuf varint."""
    if size < 0x80:
        return bytes((size,))
    septets = bytearray()
    while size >= 0x80:
        septets.append(size & 0x7F | 0x80)
        size >>= 7
    septets.append(size)
    return bytes(septets)
