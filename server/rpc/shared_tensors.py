"""Tensors that lie in shared memory: the three parameters that say where, on inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.documents import shown, shown_key
from server.errors import InvalidRequest, TooLarge, Unsupported
from server.pb import open_inference_pb2 as pb
from server.shared_memory import Region, SharedMemory

_PREFIX: Final = "shared_memory_"
_REGION: Final = "shared_memory_region"
_SIZE: Final = "shared_memory_byte_size"
_OFFSET: Final = "shared_memory_offset"
_MOST_PARAMETERS: Final = 64
DISABLED: Final = "shared memory is not enabled on this server; start it with --allow-shared-memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor lies; holding it keeps the region open.

    Attributes:
        tensor: What the errors call the tensor.
        region: The region.
        offset: Where it starts there, in bytes.
        byte_size: Bytes it has, or may have.
    """

    tensor: str
    region: Region
    offset: int
    byte_size: int

    def read(self) -> bytes:
        """A copy of the tensor's bytes.

        Raises:
            InvalidRequest: The memory has shrunk.
        """
        return self.region.read(self.offset, self.byte_size)

    def write(
        self, content: bytes | NDArray[Any], output: pb.ModelInferResponse.InferOutputTensor
    ) -> None:
        """Put an output there and say so in its parameters.

        Args:
            content: The encoded texts, or the array.
            output: What the response says of the tensor.

        Raises:
            InvalidRequest: It does not fit, or the memory has shrunk.
            FailedPrecondition: The memory cannot be written.
        """
        if isinstance(content, bytes):
            view = memoryview(content)
        else:
            view = np.ascontiguousarray(content).reshape(-1).view(np.uint8).data
        if len(view) > self.byte_size:
            raise InvalidRequest(
                f"shared memory size specified with the request for {self.tensor} "
                f"({self.byte_size} bytes) should be at least {len(view)} bytes to hold the results"
            )
        self.region.write(self.offset, view)
        output.parameters[_REGION].string_param = self.region.name
        output.parameters[_SIZE].int64_param = len(view)
        output.parameters[_OFFSET].int64_param = self.offset


def place_of(
    tensor: str, parameters: Mapping[str, pb.InferParameter], memory: SharedMemory | None
) -> Place | None:
    """Where a tensor's parameters say that it lies; None when they do not say.

    Args:
        tensor: What the errors call the tensor, for example "input 'x'".
        parameters: The tensor's own parameters.
        memory: What is registered; None where shared memory is not allowed.

    Raises:
        InvalidRequest: The parameters are incomplete, or the tensor is outside its region.
        NotFound: There is no such region.
        TooLarge: There are too many parameters, or the tensor is beyond a limit.
        Unsupported: Shared memory is not allowed.
    """
    if len(parameters) > _MOST_PARAMETERS:
        raise TooLarge(
            f"{tensor} has {len(parameters)} parameters, at most {_MOST_PARAMETERS} may be"
        )
    names = {name for name in parameters if name.startswith(_PREFIX)}
    if not names:
        return None
    if memory is None:
        raise Unsupported(f"{tensor}: {DISABLED}")
    if unknown := sorted(names - {_REGION, _SIZE, _OFFSET}):
        raise InvalidRequest(f"{tensor}: unknown parameter '{shown_key(unknown[0])}'")
    if not {_REGION, _SIZE} <= names:
        raise InvalidRequest(f"{tensor}: '{_REGION}' and '{_SIZE}' must be given together")
    name: str = _value(tensor, parameters, _REGION, "string_param")
    offset: int = _value(tensor, parameters, _OFFSET, "int64_param") if _OFFSET in names else 0
    byte_size: int = _value(tensor, parameters, _SIZE, "int64_param")
    region = memory.part(name, offset, byte_size)
    return Place(tensor=tensor, region=region, offset=offset, byte_size=byte_size)


def output_place(
    tensor: str, parameters: Mapping[str, pb.InferParameter], memory: SharedMemory | None
) -> Place | None:
    """Where an output is wanted; see `place_of`.

    Raises:
        InvalidRequest: As `place_of`, or the region may only be read.
    """
    place = place_of(tensor, parameters, memory)
    if place is not None and not place.region.is_writable:
        raise InvalidRequest(
            f"{tensor}: this server may only read shared memory region "
            f"'{shown_key(place.region.name)}'"
        )
    return place


def _value(tensor: str, parameters: Mapping[str, pb.InferParameter], name: str, kind: str) -> Any:
    parameter = parameters[name]
    found = parameter.WhichOneof("parameter_choice")
    if found != kind:
        got = None if found is None else getattr(parameter, found)
        raise InvalidRequest(f"{tensor}: '{name}' must be given as {kind}, got {shown(got)}")
    return getattr(parameter, kind)
