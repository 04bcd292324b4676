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
        if any(array.dtype.hasobject for array in arrays):
            return encode_response(
                model_name=model_name,
                version=version,
                variant=variant,
                request_id=request_id,
                names=names,
                arrays=arrays,
            ).SerializeToString()
        [answer] = self.encode_each(
            model_name=model_name,
            version=version,
            variant=variant,
            request_ids=(request_id,),
            names=names,
            arrays=arrays,
        )
        return answer

    def encode_each(
        self,
        *,
        model_name: str,
        version: int,
        variant: str,
        request_ids: Sequence[str],
        names: tuple[str, ...],
        arrays: Sequence[NDArray[Any]],
    ) -> list[bytes]:
        """Like `encode`, for answers that lie one behind another in `arrays`, as many rows each.

        None of the arrays holds texts.
        """
        count = len(request_ids)
        own = arrays if count == 1 else [array[: array.shape[0] // count] for array in arrays]
        head = self._head(model_name, version, variant, names, own)
        tensors = [(_RAW_TAG + _length(one.nbytes), one.nbytes) for one in own]
        contents = [array.tobytes() for array in arrays]
        answers = []
        for index, request_id in enumerate(request_ids):
            parts = [head]
            if request_id:
                parts += _id_field(request_id)
            for (lead, size), content in zip(tensors, contents, strict=True):
                parts += (lead, content[index * size : (index + 1) * size])
            answers.append(b"".join(parts))
        return answers

    def _head(
        self,
        model_name: str,
        version: int,
        variant: str,
        names: tuple[str, ...],
        arrays: Sequence[NDArray[Any]],
    ) -> bytes:
        """An answer without id and numbers."""
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
            del response.raw_output_contents[:]
            head = response.SerializeToString()
            if len(self._answers) >= _MOST_LAYOUTS:
                self._answers.clear()
            self._answers[key] = head
        return head


def _id_field(request_id: str) -> tuple[bytes, bytes, bytes]:
    text = request_id.encode()
    return _ID_TAG, _length(len(text)), text


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
