"""What answers of one form look like on the wire, learned from the first of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from server.rpc.codec import encode_response

_MOST_LAYOUTS: Final = 256

_ID_TAG: Final = b"\x1a"  # field 3 of ModelInferResponse, length-delimited
_RAW_TAG: Final = b"\x32"  # field 6, likewise


class _Layout(NamedTuple):
    """What answers by one variant share whose tensors have the same names and shapes.

    Attributes:
        head: An answer without id and numbers.
        leads: What stands before each tensor's numbers.
        sizes: Bytes of each tensor.
        has_texts: Whether one of them is of texts, whose bytes are not as many in every answer.
    """

    head: bytes
    leads: tuple[bytes, ...]
    sizes: tuple[int, ...]
    has_texts: bool


class Layouts:
    """The forms seen of one model version's answers."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], _Layout] = {}

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
        layout = self._layout(model_name, version, variant, names, arrays)
        if layout.has_texts:
            return encode_response(
                model_name=model_name,
                version=version,
                variant=variant,
                request_id=request_id,
                names=names,
                arrays=arrays,
            ).SerializeToString()
        parts = _beginning(layout, request_id)
        for lead, array in zip(layout.leads, arrays, strict=True):
            parts += (lead, array.tobytes())
        return b"".join(parts)

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
        layout = self._layout(model_name, version, variant, names, own)
        contents = [array.tobytes() for array in arrays]
        answers = []
        for index, request_id in enumerate(request_ids):
            parts = _beginning(layout, request_id)
            for lead, size, content in zip(layout.leads, layout.sizes, contents, strict=True):
                parts += (lead, content[index * size : (index + 1) * size])
            answers.append(b"".join(parts))
        return answers

    def _layout(
        self,
        model_name: str,
        version: int,
        variant: str,
        names: tuple[str, ...],
        arrays: Sequence[NDArray[Any]],
    ) -> _Layout:
        """The layout of an answer, learned from the first of its form."""
        key = (variant, names, *[array.shape for array in arrays])
        layout = self._known.get(key)
        if layout is not None:
            return layout
        response = encode_response(
            model_name=model_name,
            version=version,
            variant=variant,
            request_id="",
            names=names,
            arrays=arrays,
        )
        del response.raw_output_contents[:]
        sizes = tuple(array.nbytes for array in arrays)
        layout = _Layout(
            head=response.SerializeToString(),
            leads=tuple(_RAW_TAG + _length(size) for size in sizes),
            sizes=sizes,
            has_texts=any(array.dtype.hasobject for array in arrays),
        )
        if len(self._known) >= _MOST_LAYOUTS:
            self._known.clear()
        self._known[key] = layout
        return layout


def _beginning(layout: _Layout, request_id: str) -> list[bytes]:
    """An answer's parts before its first tensor."""
    if not request_id:
        return [layout.head]
    text = request_id.encode()
    return [layout.head, _ID_TAG, _length(len(text)), text]


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
