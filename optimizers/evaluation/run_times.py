"""How long a run takes, and how much of that whatever is computed."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Final

import onnx

from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.saving import saved

_LOOK_S: Final = 0.3
_FEWEST: Final = 5
_MOST: Final = 200


def run_seconds(session: Session, feeds: Feeds) -> list[float]:
    """Seconds of one caller's runs, for a guess: others may use the machine meanwhile.

    Raises:
        RunFailed: The runtime refuses `feeds`.
    """
    session.run(feeds)
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < _FEWEST or (
        len(seconds) < _MOST and time.perf_counter() - start < _LOOK_S
    ):
        begun = time.perf_counter()
        session.run(feeds)
        seconds.append(time.perf_counter() - begun)
    return seconds


def starting_s(model: onnx.ModelProto, spec: SessionSpec, feeds: Feeds) -> float:
    """Fewest seconds of a run of a model with the same inputs that only tells one's shape.

    Args:
        model: Whose inputs are taken.
        spec: How it is opened.
        feeds: One array per input.
    """
    given = [value for value in model.graph.input if value.name in feeds]
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [None])
    node = onnx.helper.make_node("Shape", [given[0].name], ["shape"])
    graph = onnx.helper.make_graph([node], "start", given, [shape])
    nothing = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    with saved(nothing) as file, closing(Session(file, spec)) as session:
        return min(run_seconds(session, feeds))
