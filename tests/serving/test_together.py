"""Bursts in a server of this process: who is answered together, what counts, what is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from optimizers.contract.errors import OutOfMemory
from server.app import App
from server.client import inference_request
from server.config import ServerConfig
from server.opened import OpenVariant
from server.pb import open_inference_pb2 as pb
from server.rpc.forms import InferenceRequest
from tests.support import models


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    folder = tmp_path / "models"
    models.identity(folder / "same/1/model.onnx", TensorProto.FLOAT)
    models.lookup(folder / "lookup/1/model.onnx", most=10)
    models.save(
        folder / "named/1/model.onnx",
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)],
        [("x", TensorProto.INT64, ["batch"])],
        [("y", TensorProto.STRING, ["batch"])],
    )
    config = ServerConfig(
        repository=folder,
        state=tmp_path / "state",
        grpc_port=0,
        metrics_port=0,
        admin_port=0,
    )
    app = App(config)
    await app.start()
    yield app
    await app.stop()


async def known(app: App, model: str, *arrays: NDArray[Any]) -> list[InferenceRequest]:
    """Requests of a form that is known, since one like them was answered."""
    inference = app._inference
    contents = [inference_request(model, {"x": one}).SerializeToString() for one in arrays]
    await inference.model_infer(inference._forms.read(contents[0]), None)
    return [inference._forms.read(content) for content in contents]


def opened(app: App, model: str) -> OpenVariant:
    return app.registry.find(model, "")[0].active


async def test_a_burst_is_one_run_and_every_request_counts_once(app: App) -> None:
    values = [np.full((1, 3), number, np.float32) for number in range(8)]
    requests = await known(app, "same", *values)
    before = opened(app, "same").metrics.statistics()
    together = app._inference._together
    assert together is not None
    assert all(together.takes(request) for request in requests)
    for answer, value in zip(together.answer(requests), values, strict=True):
        assert answer is not None
        response = pb.ModelInferResponse.FromString(answer)
        assert response.raw_output_contents == [value.tobytes()]
    after = opened(app, "same").metrics.statistics()
    assert after.rows - before.rows == 8
    assert after.runs - before.runs < 8
    assert after.success.count - before.success.count == 8
    assert after.queue.count - before.queue.count == 8
    assert opened(app, "same").metrics.version.in_flight == 0


async def test_a_request_that_fails_is_left_with_those_of_its_form_and_no_others(app: App) -> None:
    places = await known(app, "lookup", *[np.array([place]) for place in (1, 2, 99, 3)])
    sames = await known(app, "same", *[np.ones((1, 3), np.float32)] * 3)
    together = app._inference._together
    assert together is not None
    before = opened(app, "lookup").metrics.statistics()
    answers = together.answer([*sames[:2], *places, sames[2]])
    assert [answer is not None for answer in answers] == [True, True, *[False] * 4, True]
    after = opened(app, "lookup").metrics.statistics()
    assert (after.rows, after.success.count) == (before.rows, before.success.count)


async def test_answers_that_are_texts_go_the_usual_way(app: App) -> None:
    requests = await known(app, "named", np.array([1]), np.array([2]))
    assert all(request.form is not None for request in requests)
    together = app._inference._together
    assert together is not None
    assert not any(together.takes(request) for request in requests)


async def test_a_run_that_fails_for_want_of_memory_is_tried_for_each_by_itself(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wants_memory(*arguments: object) -> None:
        raise OutOfMemory("no more")

    requests = await known(app, "same", *[np.ones((1, 3), np.float32)] * 3)
    together = app._inference._together
    assert together is not None
    monkeypatch.setattr(opened(app, "same").at_once, "infer_at_once", wants_memory)
    assert together.answer(requests) == [None, None, None]
