"""Requests that a model must have answered before it counts as ready: `model_warmup`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from optimizers.contract.documents import shown, shown_key
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.signature import NUMPY_DTYPES
from server.file_names import is_plain_file_name
from server.triton_datatypes import DATATYPES, datatype_name

Content = Literal["zero", "random", "file"]

_MOST_SAMPLES: Final = 256
_MOST_RUNS: Final = 10_000
_LARGEST_INPUT_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpInput:
    """One input of a sample.

    Attributes:
        name: The input.
        datatype: A key of `NUMPY_DTYPES`.
        shape: Complete, with the batch dimension where the model has one.
        content: Where its values come from.
        file: Name of the file that holds them; "" unless `content` is "file".
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: Content
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpSample:
    """A request to warm up with.

    Attributes:
        name: What errors call it.
        batch_size: Rows in the request; 1 for a model without a batch dimension.
        count: How often it is run.
        inputs: Its inputs, by name.
    """

    name: str
    batch_size: int
    count: int
    inputs: tuple[WarmUpInput, ...]


def read_warm_up(source: str, message: Any) -> tuple[WarmUpSample, ...]:
    """Read the `model_warmup` of a parsed model configuration.

    A sample with batch_size 0 is left out, as Triton does; `unused_samples` names it.

    Raises:
        InvalidDocument: A sample makes no sense or goes beyond a bound; the text names it.
    """
    if len(message.model_warmup) > _MOST_SAMPLES:
        raise InvalidDocument(
            f"{source}: model_warmup: expected at most {_MOST_SAMPLES} samples, "
            f"got {len(message.model_warmup)}"
        )
    return tuple(
        _sample(source, given, message.max_batch_size)
        for given in message.model_warmup
        if given.batch_size
    )


def unused_samples(message: Any) -> Iterator[str]:
    """Names of samples that have no effect, because they have no rows."""
    for given in message.model_warmup:
        if not given.batch_size:
            yield f"model_warmup '{shown_key(given.name)}' (its batch_size is 0)"


def _sample(source: str, given: Any, max_batch_size: int) -> WarmUpSample:
    where = f"{source}: model_warmup '{shown_key(given.name)}'"
    if not given.name:
        raise InvalidDocument(f"{source}: model_warmup: every sample must have a name")
    if given.batch_size > max(1, max_batch_size):
        raise InvalidDocument(
            f"{where}: batch_size must be at most {max(1, max_batch_size)}, got {given.batch_size}"
        )
    if given.count > _MOST_RUNS:
        raise InvalidDocument(f"{where}: count must be at most {_MOST_RUNS}, got {given.count}")
    rows = (given.batch_size,) if max_batch_size else ()
    return WarmUpSample(
        name=given.name,
        batch_size=given.batch_size,
        count=max(1, given.count),
        inputs=tuple(
            _input(f"{where}: input '{shown_key(name)}'", name, given.inputs[name], rows)
            for name in sorted(given.inputs)
        ),
    )


def _input(where: str, name: str, given: Any, rows: tuple[int, ...]) -> WarmUpInput:
    datatype = DATATYPES.get(given.data_type)
    if datatype is None:
        raise InvalidDocument(
            f"{where} must have a data_type that Hone serves, got {datatype_name(given.data_type)}"
        )
    shape = (*rows, *given.dims)
    if any(length < 1 for length in shape):
        raise InvalidDocument(f"{where}: dims must be 1 or more, got {shown(list(given.dims))}")
    size = math.prod(shape) * NUMPY_DTYPES[datatype].itemsize
    if size > _LARGEST_INPUT_BYTES:
        raise InvalidDocument(
            f"{where}: expected at most {_LARGEST_INPUT_BYTES} bytes, shape {shown(list(shape))} "
            f"of {datatype} takes {shown(size)}"
        )
    content, file = _content(where, given)
    return WarmUpInput(name=name, datatype=datatype, shape=shape, content=content, file=file)


def _content(where: str, given: Any) -> tuple[Content, str]:
    match given.WhichOneof("input_data_type"):
        case "zero_data":
            return "zero", ""
        case "random_data":
            return "random", ""
        case "input_data_file":
            name = given.input_data_file
            if not is_plain_file_name(name):
                raise InvalidDocument(
                    f"{where}: input_data_file must name a file in the model's warmup folder, "
                    f"got {shown(name)}"
                )
            return "file", name
    raise InvalidDocument(f"{where} must have zero_data, random_data or input_data_file")
