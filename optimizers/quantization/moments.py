"""What the inputs of products look like on calibration data: their second moments."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from optimizers.calibration import fitting_batches, load_drawn, whole_batches
from optimizers.contract.runtime import Session, SessionSpec, session_options
from optimizers.graph import load_named
from optimizers.quantization.narrowing import PRODUCTS
from optimizers.saving import saved

_ITEMS_AT_ONCE: Final = 16


class Moments:
    """Second moments of a model's inner values, one held at a time: they are large."""

    def __init__(self, model: Path, data: Path, items: int, seed: int) -> None:
        """Open the model with the inputs of its products as further outputs.

        Args:
            model: The model file; stays untouched.
            data: An `.npz` with calibration items.
            items: Use at most so many, drawn from all.
            seed: Of that draw.

        Raises:
            InvalidData: The data does not fit the model.
        """
        with closing(Session(model, SessionSpec())) as session:
            self._signature = session.signature
            found = load_drawn(data, session.signature, items, seed)
        self._items = whole_batches(found, self._signature)
        loaded = load_named(model)
        self._inputs = {one.name for one in loaded.graph.input}
        known = {*self._inputs, *(one.name for one in loaded.graph.output)}
        makers = {name for node in loaded.graph.node for name in node.output}
        read = [node.input[0] for node in loaded.graph.node if node.op_type in PRODUCTS]
        loaded.graph.output.extend(
            onnx.ValueInfoProto(name=name)
            for name in dict.fromkeys(read)
            if name in makers and name not in known
        )
        with saved(loaded) as path:
            self._session = onnxruntime.InferenceSession(
                str(path), session_options(SessionSpec()), providers=["CPUExecutionProvider"]
            )
        self._last: tuple[str, NDArray[np.float64]] | None = None

    def of(self, value: str) -> NDArray[np.float64]:
        """The mean of x^T x over all rows x of what a product reads, [width, width]."""
        if self._last is None or self._last[0] != value:
            self._last = (value, self._measured(value))
        return self._last[1]

    def _measured(self, value: str) -> NDArray[np.float64]:
        total, count = np.zeros(()), 0
        for part in fitting_batches(self._items, self._signature, _ITEMS_AT_ONCE):
            [found] = [part[value]] if value in self._inputs else self._session.run([value], part)
            rows = found.reshape(-1, found.shape[-1]).astype(np.float64)
            total, count = total + rows.T @ rows, count + len(rows)
        return np.asarray(total / count)
