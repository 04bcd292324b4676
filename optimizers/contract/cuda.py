"""Runs a session through buffers on its device that are bound once and used again.

On a GPU, `InferenceSession.run` allocates on the device and copies from pageable memory every
time. Here each set of input shapes has buffers of its own, and a CUDA graph if that was asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from optimizers.contract.page_locked import page_locked
from optimizers.contract.provider_options import ON_GPU
from optimizers.contract.providers import Wanted
from optimizers.contract.signature import Signature

_Layout = tuple[tuple[str, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]
"""Names of the outputs wanted; name, datatype and shape of each input."""

_MOST_KEPT: Final = 32
"""Sets of buffers kept for the next run of the same shapes; the oldest are given up."""
_MOST_GRAPHS: Final = 16
"""Layouts that get a graph: its memory cannot be given back while the session lives."""
_GRAPH: Final = "gpu_graph_id"
_NO_GRAPH: Final = "-1"


class CudaRunner:
    """Runs one session on one device. Safe to use from several threads; close it once."""

    def __init__(
        self, session: onnxruntime.InferenceSession, spec: Wanted, *, device: str = "cuda"
    ) -> None:
        """Prepare runs of `session`, which was opened as `spec` says.

        Args:
            session: The open session.
            spec: Its provider's options name the GPU and say whether graphs are captured.
            device: The kind of device, as onnxruntime calls it.
        """
        self._session = session
        self._device, self._number = device, spec.provider_options.device
        self._outputs = tuple(output.name for output in session.get_outputs())
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Buffers, None] = OrderedDict()
        self._graphs: dict[_Layout, _Buffers] = {}
        # onnxruntime forbids runs from several threads as soon as graphs are captured.
        self._only_thread = (
            ThreadPoolExecutor(1, thread_name_prefix="graphs")
            if spec.provider == "cuda" and spec.provider_options.graphs
            else None
        )

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] | None,
        options: onnxruntime.RunOptions,
    ) -> list[NDArray[Any]]:
        """Compute; the answers are the caller's own.

        Args:
            feeds: One array of numbers per input.
            outputs: Names of the outputs wanted, None for all in the model's order.
            options: Of this run; a graph's number is added to them.

        Returns:
            One array per output wanted.

        Raises:
            Exception: Whatever onnxruntime raises.
        """
        layout = (tuple(outputs or self._outputs), _described(feeds))
        if self._only_thread is None:
            return self._run_with_any(layout, feeds, options)
        return self._only_thread.submit(self._run_with_graph, layout, feeds, options).result()

    def close(self) -> None:
        """Give the buffers up. No run may be under way."""
        if self._only_thread is not None:
            self._only_thread.shutdown(wait=True)
        self._graphs.clear()
        self._kept.clear()

    def _run_with_any(
        self,
        layout: _Layout,
        feeds: Mapping[str, NDArray[Any]],
        options: onnxruntime.RunOptions,
    ) -> list[NDArray[Any]]:
        with self._lock:
            buffers = next((kept for kept in self._kept if kept.layout == layout), None)
            if buffers is not None:
                del self._kept[buffers]
        if buffers is None:
            buffers = _Buffers(self._session, layout, self._device, self._number)
        answers = buffers.run(feeds, options)
        with self._lock:
            self._kept[buffers] = None
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return answers

    def _run_with_graph(
        self,
        layout: _Layout,
        feeds: Mapping[str, NDArray[Any]],
        options: onnxruntime.RunOptions,
    ) -> list[NDArray[Any]]:
        buffers = self._graphs.get(layout)
        if buffers is not None:
            options.add_run_config_entry(_GRAPH, buffers.graph)
            return buffers.run(feeds, options)
        options.add_run_config_entry(_GRAPH, _NO_GRAPH)
        if len(self._graphs) == _MOST_GRAPHS:
            return self._run_with_any(layout, feeds, options)
        buffers = _Buffers(self._session, layout, self._device, self._number)
        answers = buffers.run(feeds, options)
        buffers.fix_outputs(graph=str(len(self._graphs) + 1))
        self._graphs[layout] = buffers
        return answers


class _Buffers:
    """Where the inputs and outputs of runs of one layout lie; for one run at a time."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        layout: _Layout,
        device: str,
        number: int,
    ) -> None:
        self.layout = layout
        self.graph = _NO_GRAPH
        self._session = session
        self._device, self._number = device, number
        self._binding = session.io_binding()
        self._inputs: dict[str, onnxruntime.OrtValue] = {}
        self._staged: dict[str, NDArray[Any] | None] = {}
        for name, datatype, shape in layout[1]:
            dtype = np.dtype(datatype)
            there = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, number)
            self._binding.bind_ortvalue_input(name, there)
            self._inputs[name] = there
            self._staged[name] = page_locked(shape, dtype, number)

    def run(
        self, feeds: Mapping[str, NDArray[Any]], options: onnxruntime.RunOptions
    ) -> list[NDArray[Any]]:
        for name, there in self._inputs.items():
            staged = self._staged[name]
            if staged is None:
                staged = np.ascontiguousarray(feeds[name])
            else:
                np.copyto(staged, feeds[name])
            if staged.size:
                there.update_inplace(staged)
        if self.graph == _NO_GRAPH:
            for name in self.layout[0]:  # anew: outputs of the run before may have another shape
                self._binding.bind_output(name, self._device, self._number)
        self._session.run_with_iobinding(self._binding, options)
        return list(self._binding.copy_outputs_to_cpu())

    def fix_outputs(self, *, graph: str) -> None:
        """Let every later run write where the last one did, as a graph does; `graph` names it."""
        for name, there in zip(self.layout[0], self._binding.get_outputs(), strict=True):
            self._binding.bind_ortvalue_output(name, there)
        self.graph = graph


def device_runner(
    session: onnxruntime.InferenceSession, spec: Wanted, signature: Signature
) -> CudaRunner | None:
    """The runner for `session`; None where `InferenceSession.run` serves it as well or better."""
    texts = any(one.datatype == "BYTES" for one in (*signature.inputs, *signature.outputs))
    return CudaRunner(session, spec) if spec.provider in ON_GPU and not texts else None


def _described(
    feeds: Mapping[str, NDArray[Any]],
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    return tuple((name, array.dtype.str, array.shape) for name, array in feeds.items())
