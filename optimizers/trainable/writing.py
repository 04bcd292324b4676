"""From a trained graph back to a file."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from optimizers.trainable.module import TrainableGraph


def write_trainable(graph: TrainableGraph, target: Path) -> None:
    """Write the graph that was read, with the weights and statistics of now.

    Tensors that lay in a file of their own go to `<target>.data`; nothing but weights differs from
    what was read, except that merged weights stand apart.

    Args:
        graph: On any device.
        target: The file; replaced where there is one.
    """
    model = graph.model()
    data = target.with_name(target.name + ".data")
    if graph.external:
        # The writer of external data appends to a file that is there.
        data.unlink(missing_ok=True)
    for tensor in model.graph.initializer:
        if tensor.name in graph.external:
            set_external_data(tensor, location=data.name)
    onnx.save(model, str(target))
