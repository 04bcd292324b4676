"""Runs the samples that a `config.pbtxt` declares, before a model counts as ready."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.documents import shown_key
from optimizers.contract.errors import HoneError, InvalidModel
from optimizers.contract.runtime import Session
from optimizers.contract.samples import random_feeds
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.triton_warm_up import WarmUpInput, WarmUpSample

WARM_UP_FOLDER: Final = "warmup"
"""Where the files of samples lie, in a model's folder."""

_LENGTH: Final = struct.Struct("<I")
_LARGEST_TEXTS_BYTES: Final = 1 << 28


def warm_up(session: Session, samples: Iterable[WarmUpSample], directory: Path) -> None:
    """Run every sample as often as it says. Blocks: call it off the event loop.

    Args:
        session: The open model.
        samples: What to run, in order.
        directory: Where the files lie that samples name.

    Raises:
        InvalidModel: A sample does not fit the model, its file is missing or has another length,
            or the model does not answer it; the text names the sample and the input.
    """
    for sample in samples:
        where = f"warm-up sample '{shown_key(sample.name)}'"
        feeds = {
            spec.name: _array(f"{where}: input '{spec.name}'", given, directory)
            for spec, given in _matched(where, sample, session.signature)
        }
        try:
            for _ in range(sample.count):
                session.run(feeds)
        except HoneError as error:
            raise InvalidModel(f"{where} with inputs {', '.join(feeds)}: {error}") from error


def _matched(
    where: str, sample: WarmUpSample, signature: Signature
) -> Iterator[tuple[TensorSpec, WarmUpInput]]:
    """Each input of the model with what the sample says of it, checked to fit."""
    given = {one.name: one for one in sample.inputs}
    unknown = sorted(given.keys() - {spec.name for spec in signature.inputs})
    if unknown:
        raise InvalidModel(
            f"{where}: the model has no input '{shown_key(unknown[0])}'; it has "
            f"{', '.join(spec.name for spec in signature.inputs)}"
        )
    for spec in signature.inputs:
        one = given.get(spec.name)
        if one is None:
            raise InvalidModel(f"{where} lacks input '{spec.name}'")
        if one.datatype != spec.datatype:
            raise InvalidModel(
                f"{where}: input '{spec.name}' is {spec.datatype} in the model file, "
                f"{one.datatype} in the sample"
            )
        if len(one.shape) != len(spec.shape) or any(
            wanted not in (-1, length) for length, wanted in zip(one.shape, spec.shape, strict=True)
        ):
            raise InvalidModel(
                f"{where}: input '{spec.name}' has shape {list(spec.shape)} in the model file, "
                f"{list(one.shape)} in the sample"
            )
        yield spec, one


def _array(where: str, given: WarmUpInput, directory: Path) -> NDArray[Any]:
    match given.content:
        case "zero":
            empty = "" if given.datatype == "BYTES" else 0
            return np.full(given.shape, empty, NUMPY_DTYPES[given.datatype])
        case "random":
            spec = TensorSpec(name=given.name, datatype=given.datatype, shape=given.shape)
            return random_feeds(Signature(inputs=(spec,), outputs=()), 1)[given.name]
        case "file":
            return _from_file(where, given, directory / given.file)


def _from_file(where: str, given: WarmUpInput, path: Path) -> NDArray[Any]:
    source = f"{path.parent.name}/{shown_key(path.name)}"
    dtype = NUMPY_DTYPES[given.datatype]
    elements = int(np.prod(given.shape, dtype=np.int64))
    try:
        size = path.stat().st_size
        if given.datatype == "BYTES":
            if size > _LARGEST_TEXTS_BYTES:
                raise InvalidModel(
                    f"{where}: {source} has {size} bytes, expected at most {_LARGEST_TEXTS_BYTES}"
                )
            texts = list(_texts(f"{where}: {source}", path.read_bytes(), elements))
            return np.array(texts, dtype).reshape(given.shape)
        if size != elements * dtype.itemsize:
            raise InvalidModel(
                f"{where}: {source} has {size} bytes, expected {elements * dtype.itemsize} for "
                f"{given.datatype} {list(given.shape)}"
            )
        values = np.fromfile(path, dtype, elements)
    except OSError as error:
        raise InvalidModel(f"{where}: {source} cannot be read: {error.strerror}") from error
    if values.size != elements:
        raise InvalidModel(f"{where}: {source} was cut short while it was read")
    return values.reshape(given.shape)


def _texts(where: str, raw: bytes, elements: int) -> Iterator[str]:
    """The texts of a BYTES tensor: each is its length in four bytes, then itself in UTF-8."""
    position = 0
    for index in range(elements):
        start = position + _LENGTH.size
        length = _LENGTH.unpack_from(raw, position)[0] if start <= len(raw) else 0
        position = start + length
        if position > len(raw):
            raise InvalidModel(f"{where} ends inside text {index} of {elements}")
        try:
            yield raw[start:position].decode()
        except UnicodeDecodeError as error:
            raise InvalidModel(f"{where}: text {index} is not UTF-8") from error
    if position != len(raw):
        raise InvalidModel(f"{where} holds {len(raw) - position} bytes after text {elements - 1}")
