"""An answer written from what is kept of earlier ones is what the codec writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays

from optimizers.contract.signature import NUMPY_DTYPES
from server.pb import open_inference_pb2 as pb
from server.rpc.codec import encode_response
from server.rpc.layouts import _MOST_LAYOUTS, Layouts
from tests.support.tensors import some_values

DATATYPES = list(NUMPY_DTYPES)


def test_few_are_kept() -> None:
    layouts = Layouts()
    for rows in range(1, 3 * _MOST_LAYOUTS):
        answer(layouts, "", (np.zeros(rows, np.float32),))
        assert len(layouts._known) <= _MOST_LAYOUTS


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=some.data())
def test_an_answer_is_byte_for_byte_what_the_codec_says(data: some.DataObject) -> None:
    datatypes = data.draw(some.lists(some.sampled_from(DATATYPES), min_size=1, max_size=3))
    layouts = Layouts()
    for _ in range(data.draw(some.integers(2, 4))):
        shape = data.draw(some_arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        arrays = [data.draw(some_values(datatype, shape)) for datatype in datatypes]
        if data.draw(some.booleans()):
            arrays = [array.T for array in arrays]  # as a model may give them: not contiguous
        answer(layouts, data.draw(some.text(max_size=5) | some.just("é" * 100)), arrays)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 1 << 21])
def test_lengths_of_every_size_are_written_right(size: int) -> None:
    layouts = Layouts()
    for request_id in ("", "7", "x" * min(size, 1 << 15)):
        answer(layouts, request_id, (np.arange(size, dtype=np.uint8), np.zeros(3, np.float32)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=some.data())
def test_answers_that_lie_one_behind_another_are_what_each_would_be(data: some.DataObject) -> None:
    plain = [name for name in DATATYPES if name != "BYTES"]
    datatypes = data.draw(some.lists(some.sampled_from(plain), min_size=1, max_size=3))
    shape = data.draw(some_arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    request_ids = data.draw(some.lists(some.text(max_size=3), min_size=1, max_size=5))
    count, rows = len(request_ids), shape[0]
    arrays = [data.draw(some_values(kind, (count * rows, *shape[1:]))) for kind in datatypes]
    said: dict[str, Any] = {
        "model_name": "m",
        "version": 3,
        "variant": "original",
        "names": tuple(f"y{index}" for index in range(len(arrays))),
    }
    layouts = Layouts()
    found = layouts.encode_each(**said, request_ids=request_ids, arrays=arrays)
    assert len(found) == count
    for index, (request_id, one) in enumerate(zip(request_ids, found, strict=True)):
        own = [array[index * rows : (index + 1) * rows] for array in arrays]
        expected = encode_response(**said, request_id=request_id, arrays=own)
        assert pb.ModelInferResponse.FromString(one) == expected


def answer(layouts: Layouts, request_id: str, arrays: Any) -> None:
    """Write an answer both ways and compare."""
    said: dict[str, Any] = {
        "model_name": "m",
        "version": 3,
        "variant": "original",
        "request_id": request_id,
        "names": tuple(f"y{index}" for index in range(len(arrays))),
        "arrays": arrays,
    }
    assert pb.ModelInferResponse.FromString(layouts.encode(**said)) == encode_response(**said)
