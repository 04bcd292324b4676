"""Outputs as classes: Triton's texts and shapes, the model's own labels, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays
from numpy.typing import NDArray
from onnx import TensorProto

from server.client import Client, inference_request
from server.errors import TooLarge
from server.pb import open_inference_pb2 as pb
from server.rpc.classification import classify
from tests.support import models
from tests.support.calls import infer, refusal
from tests.support.servers import Server, running

LABELS = "apple\r\npickle\n\nsüß\n"


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("models")
    for name, config, labels in (
        ("plain", "", None),
        ("named", "", LABELS.encode()),
        ("whole", "max_batch_size: 0", None),
        ("broken", "", b"fine\n\xff\xfe\n"),
        ("long", "", b"fine\n" + b"x" * 257),
        ("many", "", b"\n" * (1 << 17) + b"one more"),
    ):
        models.identity(folder / name / "1/model.onnx", TensorProto.FLOAT, ["batch", 5])
        if config:
            (folder / name / "config.pbtxt").write_text(config)
        if labels is not None:
            (folder / name / "labels.txt").write_bytes(labels)
    models.two_inputs(folder / "pair/1/model.onnx")
    (folder / "pair/labels.txt").write_text(LABELS)
    models.identity(folder / "text/1/model.onnx", TensorProto.STRING, ["batch"])
    with running(folder, tmp_path_factory.mktemp("state")) as server:
        yield server


def wish(model: str, x: NDArray[Any], count: object, kind: str = "int64_param") -> Any:
    request = inference_request(model, {"x": x}, outputs=["y"])
    setattr(request.outputs[0].parameters["classification"], kind, count)
    return request


def texts_of(raw: bytes) -> list[str]:
    texts, position = [], 0
    while position < len(raw):
        length = int.from_bytes(raw[position : position + 4], "little")
        texts.append(raw[position + 4 : position + 4 + length].decode())
        position += 4 + length
    return texts


VALUES = np.array([[1, 5, 2.5, 4, -3], [0, 0.1, 7, 7, 7]], np.float32)


@pytest.mark.parametrize(
    ("model", "count", "shape", "texts"),
    [
        ("plain", 2, [2, 2], ["5.000000:1", "4.000000:3", "7.000000:2", "7.000000:3"]),
        (
            "named",
            2,
            [2, 2],
            ["5.000000:1:pickle", "4.000000:3:süß", "7.000000:2", "7.000000:3:süß"],
        ),
        ("whole", 3, [3], ["7.000000:7", "7.000000:8", "7.000000:9"]),
    ],
)
async def test_the_highest_values_come_with_index_and_label(
    server: Server, model: str, count: int, shape: list[int], texts: list[str]
) -> None:
    response = await infer(server.public, wish(model, VALUES, count))
    assert response.outputs[0].datatype == "BYTES"
    assert list(response.outputs[0].shape) == shape
    assert texts_of(response.raw_output_contents[0]) == texts


async def test_more_classes_than_there_are_gives_all(server: Server) -> None:
    response = await infer(server.public, wish("named", VALUES[:1], 2**62))
    assert list(response.outputs[0].shape) == [1, 5]
    assert texts_of(response.raw_output_contents[0]) == [
        "5.000000:1:pickle",
        "4.000000:3:süß",
        "2.500000:2",
        "1.000000:0:apple",
        "-3.000000:4",
    ]


async def test_one_output_as_classes_beside_one_as_it_is(server: Server) -> None:
    ones = np.ones((1, 3), np.float32)
    request = inference_request("pair", {"a": ones, "b": ones}, outputs=["difference", "sum"])
    request.outputs[1].parameters["classification"].int64_param = 1
    response = await infer(server.public, request)
    assert [one.datatype for one in response.outputs] == ["FP32", "BYTES"]
    assert response.raw_output_contents[0] == bytes(12)
    # labels.txt says nothing of a model with two outputs.
    assert texts_of(response.raw_output_contents[1]) == ["2.000000:0"]


@pytest.mark.parametrize(
    ("count", "kind"),
    [(0, "int64_param"), (-1, "int64_param"), (2, "uint64_param"), ("2", "string_param")],
)
async def test_a_count_that_makes_no_sense_is_refused(
    server: Server, count: object, kind: str
) -> None:
    code, text = await refusal(server.public, wish("plain", VALUES, count, kind))
    assert code == "INVALID_ARGUMENT"
    assert "'classification' must be an int64_param of 1 or more" in text


async def test_texts_have_no_classes(server: Server) -> None:
    x = np.array(["a"], dtype=np.object_)
    code, text = await refusal(server.public, wish("text", x, 1))
    assert code == "INVALID_ARGUMENT"
    assert "class result not available for output 'y' due to unsupported type 'BYTES'" in text


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("broken", "broken/labels.txt:2: expected UTF-8 text"),
        ("long", "long/labels.txt:2: a label has at most 256 characters"),
        ("many", "many/labels.txt: expected at most 131072 labels"),
    ],
)
async def test_labels_that_cannot_be_read_say_why(server: Server, model: str, problem: str) -> None:
    async with Client(server.public) as client:
        index = await client.call(
            "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse
        )
    reasons = {one.name: one.reason for one in index.models}
    assert problem in reasons[model]


def by_hand(row: NDArray[Any], count: int) -> list[int]:
    def key(index: int) -> tuple[Any, int]:
        value = row[index].item()
        return (-value if value == value else float("inf"), index)

    return sorted(range(row.size), key=key)[:count]


@given(
    array=some.sampled_from(["u1", "i1", "u8", "i8", "f4", "f8"]).flatmap(
        lambda dtype: some_arrays.arrays(
            np.dtype(dtype), some_arrays.array_shapes(min_dims=2, max_dims=3, max_side=6)
        )
    ),
    count=some.integers(1, 50),
)
def test_any_values_are_ordered_as_by_hand(array: NDArray[Any], count: int) -> None:
    found = classify("y", array, count, (), by_row=True)
    rows = array.reshape(array.shape[0], -1)
    assert found.shape == (rows.shape[0], min(count, rows.shape[1]))
    for texts, row in zip(found, rows, strict=True):
        assert [int(text.split(":")[1]) for text in texts] == by_hand(row, count)
        for text in texts:
            value, index = text.split(":")
            is_whole = array.dtype.kind != "f"
            assert value == (str(row[int(index)]) if is_whole else "%f" % row[int(index)])  # noqa: UP031


def test_not_every_number_of_texts_is_made() -> None:
    with pytest.raises(TooLarge, match="262145 rows of 1 classes"):
        classify("y", np.zeros(((1 << 18) + 1, 4), np.float32), 1, (), by_row=True)
