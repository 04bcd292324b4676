"""What answers of one form look like on the wire, learned from the first of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray

from server.rpc.codec import encode_response

_MOST_LAYOUTS: Final = 256

_ID_TAG: Final = b"\x1a"  # field 3 of ModelInferResponse, length-delimited
_RAW_TAG: Final = b"\x32"  # field 6, likewise


class Layouts:
    """The forms seen of one model version's answers."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: dict[tuple[Any, ...], bytes] = {}

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
