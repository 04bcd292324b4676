"""Named arrays in a file, texts included, without ever pickling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LENGTHS: Final = "#lengths"
_TEXTS: Final = "#texts"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an `.npz`; an array of texts becomes its bytes and their lengths."""
    plain: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.dtype != np.object_:
            plain[name] = array
            continue
        texts = [text.encode() for text in array.ravel()]
        plain[name + _TEXTS] = np.frombuffer(b"".join(texts), np.uint8)
        lengths = np.array([len(text) for text in texts], np.int64)
        plain[name + _LENGTHS] = lengths.reshape(array.shape)
    np.savez(path, **plain)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is something else.
    """
    with np.load(path, allow_pickle=False) as stored:
        plain = {name: stored[name] for name in stored.files}
    arrays = {}
    for name, array in plain.items():
        if name.endswith(_LENGTHS):
            name = name.removesuffix(_LENGTHS)
            arrays[name] = _texts(plain[name + _TEXTS].tobytes(), array)
        elif not name.endswith(_TEXTS):
            arrays[name] = array
    return arrays


def _texts(content: bytes, lengths: NDArray[Any]) -> NDArray[Any]:
    texts = np.empty(lengths.size, dtype=np.object_)
    position = 0
    for index, length in enumerate(lengths.ravel()):
        texts[index] = content[position : position + int(length)].decode()
        position += int(length)
    return texts.reshape(lengths.shape)
