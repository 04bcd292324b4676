"""What an ONNX file refers to, read from its bytes without the onnx package.

Only the few fields that name other files or versions are looked at; everything else is skipped
over by its length. The runtime never sees a file whose external data would leave its directory.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from optimizers.contract.digests import file_sha256, file_state
from optimizers.contract.errors import InvalidModel
from optimizers.contract.varint import read_varint

NEWEST_OPSET: Final = 26

_LARGEST_DEPTH: Final = 64
_MOST_REMEMBERED: Final = 256
_LONGEST_SHOWN: Final = 80

# Field numbers of onnx.proto: which submessages can hold tensors, graphs or versions.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """What one ONNX file says of itself.

    Attributes:
        path: The file.
        opset: Version of the default operator set; 0 when it names none.
        external: Files with weights, below the model's directory, sorted.
    """

    path: Path
    opset: int
    external: tuple[Path, ...]

    def files(self) -> tuple[Path, ...]:
        """The file and everything it refers to."""
        return (self.path, *self.external)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, external weights included."""
        return sum(file.stat().st_size for file in self.files())

    def sha256(self) -> str:
        """Digest of all bytes that decide what the model computes.

        For a model in one file it is that file's own sha256; with external data it is the
        sha256 of the digests in order.
        """
        digests = [file_sha256(file) for file in self.files()]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_onnx_file(path: Path) -> OnnxFile:
    """Look through a model file.

    Raises:
        InvalidModel: It is empty, not ONNX, of an operator set this runtime does not know, or
            refers to a file that is missing or outside its directory.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidModel(f"cannot read {path.name}: {error.strerror}") from error
    if status.st_size == 0:
        raise InvalidModel(f"{path.name} is empty; expected an ONNX model")
    opset, locations = _look_through(path, file_state(status))
    if opset > NEWEST_OPSET:
        raise InvalidModel(
            f"{path.name} uses operator set {opset}; this runtime knows up to {NEWEST_OPSET}"
        )
    external = tuple(sorted(_external_file(path, location) for location in locations))
    return OnnxFile(path=path, opset=opset, external=external)


@lru_cache(maxsize=_MOST_REMEMBERED)
def _look_through(path: Path, state: tuple[int, ...]) -> tuple[int, frozenset[str]]:
    """Operator set and locations of external data; once for every state a file is in.

    A model is asked for these several times while it is opened, and holds the interpreter for
    milliseconds each time.
    """
    locations: set[str] = set()
    opset = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        try:
            for kind, start, end in _messages(view, len(view)):
                if kind == "OperatorSet":
                    opset = _opset(view, start, end) or opset
                elif kind == "Tensor":
                    locations.update(_locations(view, start, end))
        except (IndexError, ValueError) as error:
            raise InvalidModel(f"{path.name} is not an ONNX model, or is cut short") from error
    return opset, frozenset(locations)


def _external_file(model: Path, location: str) -> Path:
    directory = model.parent.resolve()
    try:
        target = (directory / location).resolve()
        is_file = target.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
        raise InvalidModel(
            f"{model.name} refers to external data at {location[:_LONGEST_SHOWN]!r}, which cannot "
            "name a file; expected a relative path to a file beside the model"
        ) from error
    if location.startswith("/") or not target.is_relative_to(directory) or target == directory:
        raise InvalidModel(
            f"{model.name} refers to external data at {location!r}, outside its own directory; "
            "put the file beside the model"
        )
    if not is_file:
        raise InvalidModel(f"{model.name} refers to external data {location!r}, which is missing")
    return target


def _messages(view: mmap.mmap, size: int) -> Iterator[tuple[str, int, int]]:
    """Every message that can hold a tensor or a version, as (kind, start, end)."""
    waiting = [("Model", 0, size, 0)]
    while waiting:
        kind, start, end, depth = waiting.pop()
        yield kind, start, end
        children = _CHILDREN.get(kind)
        if children is None:
            continue
        if depth > _LARGEST_DEPTH:
            raise ValueError("nested too deeply")
        for number, inner, inner_end in _fields(view, start, end):
            child = children.get(number)
            if child is not None and inner >= 0:
                waiting.append((child, inner, inner_end, depth + 1))


def _opset(view: mmap.mmap, start: int, end: int) -> int:
    domain, version = b"", 0
    for number, inner, inner_end in _fields(view, start, end):
        if number == 1:
            domain = view[inner:inner_end]
        elif number == 2:
            version = -inner - 1
    return version if domain in (b"", b"ai.onnx") else 0


def _locations(view: mmap.mmap, start: int, end: int) -> Iterator[str]:
    for number, inner, inner_end in _fields(view, start, end):
        if number != 13 or inner < 0:
            continue
        key = value = b""
        for entry, entry_start, entry_end in _fields(view, inner, inner_end):
            if entry == 1:
                key = view[entry_start:entry_end]
            elif entry == 2:
                value = view[entry_start:entry_end]
        if key == b"location":
            yield value.decode("utf-8")


def _fields(view: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Fields of one message as (number, start, end); a varint's value v comes as start = -v-1."""
    position = start
    while position < end:
        tag, position = read_varint(view, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire_type == 0:
            value, position = read_varint(view, position)
            yield number, -value - 1, 0
        elif wire_type == 2:
            length, position = read_varint(view, position)
            if position + length > end:
                raise ValueError("a field reaches beyond its message")
            yield number, position, position + length
            position += length
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
    if position != end:
        raise ValueError("a field reaches beyond its message")
