"""Bounds of what clients register, and what parameters of tensors are taken for."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from server.errors import ServingError, TooLarge
from server.pb import open_inference_pb2 as pb
from server.rpc.shared_tensors import place_of
from server.shared_memory import SharedMemory, SharedMemoryLimits
from tests.support.memory import shared_object

LIMITS = SharedMemoryLimits(regions=3, region_bytes=100, tensor_bytes=32)


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with shared_object(bytes(range(64))) as path:
        yield path


def memory(path: Path) -> SharedMemory:
    memory = SharedMemory(LIMITS)
    memory.register("region", path.name, 8, 48)
    return memory


def descriptors(path: Path) -> int:
    """How often this process holds the file open; what other tests hold is not counted."""
    gc.collect()
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.realpath(link) == str(path) for link in links)


def test_no_more_regions_than_the_limit(path: Path) -> None:
    known = memory(path)
    for number in range(2):
        known.register(str(number), path.name, 0, 1)
    with pytest.raises(TooLarge, match="at most 3 may be"):
        known.register("one more", path.name, 0, 1)
    known.unregister("0")
    known.register("one more", path.name, 0, 1)


def test_no_more_bytes_than_the_limit(path: Path) -> None:
    known = memory(path)
    with pytest.raises(TooLarge, match="48 bytes of shared memory are registered"):
        known.register("large", path.name, 0, 53)
    known.register("fits", path.name, 0, 52)


def test_refused_and_forgotten_regions_leave_nothing_open(path: Path) -> None:
    known = SharedMemory(LIMITS)
    for _ in range(20):
        with pytest.raises(ServingError):
            known.register("outside", path.name, 0, 65)
        known.register("inside", path.name, 0, 64)
        assert descriptors(path) == 1
        known.unregister("inside")
    assert descriptors(path) == 0


def test_a_region_is_open_as_long_as_somebody_holds_it(path: Path) -> None:
    known = memory(path)
    region = known.part("region", 0, 4)
    known.unregister("")
    assert region.read(0, 4) == bytes([8, 9, 10, 11])
    assert descriptors(path) == 1
    del region
    assert descriptors(path) == 0


def values() -> some.SearchStrategy[pb.InferParameter]:
    numbers = some.integers(-(2**63), 2**63 - 1) | some.integers(-2, 50)
    return some.one_of(
        some.builds(lambda value: pb.InferParameter(int64_param=value), numbers),
        some.sampled_from(["region", "", "other", "/"]).map(
            lambda text: pb.InferParameter(string_param=text)
        ),
        some.builds(lambda value: pb.InferParameter(bool_param=value), some.booleans()),
        some.just(pb.InferParameter()),
    )


@given(
    parameters=some.dictionaries(
        some.sampled_from(["region", "byte_size", "offset", "other"]).map("shared_memory_".__add__),
        values(),
        min_size=1,
    ),
    right=some.booleans(),
)
def test_any_parameters_name_bytes_inside_the_region_or_are_refused(
    path: Path, parameters: dict[str, pb.InferParameter], right: bool
) -> None:
    if right:
        parameters["shared_memory_region"] = pb.InferParameter(string_param="region")
    try:
        place = place_of("input 'x'", parameters, memory(path))
    except ServingError:
        return
    assert place is not None
    start = 8 + place.offset
    assert place.read() == bytes(range(64))[start : start + place.byte_size]
    assert len(place.read()) == place.byte_size <= LIMITS.tensor_bytes
