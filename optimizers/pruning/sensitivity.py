"""What calibration data tells: how strong activations are, and where pruning hurts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from optimizers.calibration import Arrays, fitting_batches, item_count, load_drawn, whole_batches
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.pruning.flow.use import Flow, Layer
from optimizers.saving import save

_ITEMS_AT_ONCE: Final = 16
_LEAST: Final = 1e-12


class Probe:
    """Runs variants of one model on the same items.

    Args:
        model: The model file, which tells what its inputs are.
        data: An `.npz` with items.
        samples: At most so many of them, drawn from all.
        work_directory: For the variants' files.
        seed: Of the draw.

    Raises:
        InvalidData: The data does not fit the model.
    """

    def __init__(
        self, model: Path, data: Path, samples: int, work_directory: Path, seed: int
    ) -> None:
        with closing(Session(model, SessionSpec())) as session:
            self._signature = session.signature
            items = load_drawn(data, session.signature, samples, seed)
        self._items = whole_batches(items, self._signature)
        self._path = work_directory / "probe.onnx"

    @property
    def count(self) -> int:
        """How many items are run."""
        return item_count(self._items)

    def answers(self, model: onnx.ModelProto) -> list[NDArray[Any]]:
        """All floating-point outputs over all items, one array per output and batch."""
        save(model, self._path)
        with closing(Session(self._path, SessionSpec())) as session:
            found = [one for part in self._parts() for one in session.run(part)]
        return [one for one in found if np.issubdtype(one.dtype, np.floating)]

    def strengths(
        self, model: onnx.ModelProto, flow: Flow
    ) -> dict[tuple[str, int], NDArray[np.float64]]:
        """(tensor, axis) → rms of what is at every place along it, for all that layers read."""
        wanted = sorted({layer.reads[:2] for layer in flow.layers if _may_lose(flow, layer)})
        if not wanted:  # a session that is asked for no output gives all of them
            return {}
        save(_exposing(model, {name for name, _ in wanted}), self._path)
        names = [name for name, _ in wanted]
        sums: dict[tuple[str, int], NDArray[np.float64]] = {}
        counts: dict[tuple[str, int], int] = {}
        with closing(Session(self._path, SessionSpec())) as session:
            for part in self._parts():
                for key, value in zip(wanted, session.run(part, names), strict=True):
                    rows = np.moveaxis(value.astype(np.float64), key[1], 0)
                    rows = rows.reshape(len(rows), -1)
                    sums[key] = sums.get(key, np.zeros(len(rows))) + (rows**2).sum(axis=1)
                    counts[key] = counts.get(key, 0) + rows.shape[1]
        return {key: np.sqrt(total / counts[key]) for key, total in sums.items()}

    def _parts(self) -> Iterator[Arrays]:
        return fitting_batches(self._items, self._signature, _ITEMS_AT_ONCE)


def change(original: list[NDArray[Any]], other: list[NDArray[Any]]) -> float:
    """How far answers moved: |other - original| / |original|, Euclidean over all of them.

    An infinity, or what is no number, that stays as it was has not moved and has no size. One that
    comes, goes or changes moved infinitely far.
    """
    moved = sum(_squared_distance(a, b) for a, b in zip(original, other, strict=True))
    size = sum(float((a[np.isfinite(a)].astype(np.float64) ** 2).sum()) for a in original)
    return float(np.sqrt(moved / max(size, _LEAST)))


def broken(original: list[NDArray[Any]], other: list[NDArray[Any]]) -> bool:
    """Whether an answer is infinite that was finite, or no number that was one."""
    return any(
        bool(((np.isfinite(a) & ~np.isfinite(b)) | (np.isnan(b) & ~np.isnan(a))).any())
        for a, b in zip(original, other, strict=True)
    )


def _squared_distance(original: NDArray[Any], other: NDArray[Any]) -> float:
    a, b = original.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    total = float(((b[~same] - a[~same]) ** 2).sum())
    return total if np.isfinite(total) else float("inf")


def share_out(ratio: float, changes: list[float]) -> list[float]:
    """Ratios for groups that change the answers by so much when `ratio` of them goes.

    ratio_g = clip(ratio sqrt(m / change_g), ratio / 2, (1 + ratio) / 2) with m the median of finite
    changes.
    """
    finite = [one for one in changes if np.isfinite(one)]
    middle = float(np.median(finite)) if finite else 0.0
    wanted = [ratio * np.sqrt((middle + _LEAST) / (one + _LEAST)) for one in changes]
    return [float(np.clip(one, ratio / 2, (1 + ratio) / 2)) for one in wanted]


def _may_lose(flow: Flow, layer: Layer) -> bool:
    """Whether channels that a layer reads are followed at all; a model's inputs are not."""
    tensor, axis, _ = layer.reads
    return tensor in flow.axes and flow.axes[tensor][axis] is not None


def _exposing(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for name in sorted(names - {output.name for output in model.graph.output}):
        result.graph.output.append(onnx.ValueInfoProto(name=name))
    return result
