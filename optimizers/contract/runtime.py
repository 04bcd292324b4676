"""A variant opened in ONNX Runtime: what is measured is what serves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from optimizers.contract.complaints import complaint, lacks_memory
from optimizers.contract.cuda import device_runner
from optimizers.contract.errors import (
    HoneError,
    InvalidDocument,
    OutOfMemory,
    RunFailed,
    SessionClosed,
)
from optimizers.contract.lanes import Lanes
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.processors import aside, everywhere
from optimizers.contract.provider_options import Provider, ProviderOptions
from optimizers.contract.providers import open_inference_session
from optimizers.contract.signature import Signature, tensor_spec

_log = logging.getLogger(__name__)

Feeds = Mapping[str, NDArray[Any]]
"""Input name → array of the signature's datatype and shape."""

Arrays = list[NDArray[Any]]
"""One array per requested output."""

Over = Callable[[Arrays | None, Exception | None], None]
"""Is told how a run ended, in the thread that computed: its answer, or else the error."""

Optimization = Literal["all", "extended", "basic", "disabled"]

_LEVELS: Final = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_ERRORS_ONLY: Final = 4
_SPINS_ON_US: Final = 2000
"""A caller who is alone asks again within that time, even where runs empty the caches. Threads that
had gone to sleep meanwhile cost a run of 30 ms 0.7 ms."""
_SHRINK: Final = "memory.enable_memory_arena_shrinkage"
_CLOSED: Final = "this variant was closed while the request waited; try again"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """How a variant is opened.

    Attributes:
        provider: Where it computes.
        intra_op_threads: Threads inside one run, at least 1.
        lanes: Concurrent runs, at least 1.
        max_batch: Most rows joined into one run, at least 1; 1 serves every request alone.
        arena: Whether the runtime keeps freed memory for itself.
        optimization: onnxruntime's graph optimisation level.
        spinning: Whether threads without work burn CPU to wake faster, for 2 ms after a run too.
        provider_options: What the provider is told besides.
    """

    provider: Provider = "cpu"
    intra_op_threads: int = 1
    lanes: int = 1
    max_batch: int = 1
    arena: bool = False
    optimization: Optimization = "all"
    spinning: bool = False
    provider_options: ProviderOptions = field(default_factory=ProviderOptions)

    def __post_init__(self) -> None:
        for name in ("intra_op_threads", "lanes", "max_batch"):
            if getattr(self, name) < 1:
                raise InvalidDocument(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Run:
    """One computation on a lane.

    Attributes:
        options: What this run alone was told.
    """

    options: onnxruntime.RunOptions

    def terminate(self) -> None:
        """End it soon, with `RunFailed`; nobody waits for it any more."""
        self.options.terminate = True


class Session:
    """An open variant and its lanes. Safe to use from several threads; close it once.

    Its runs are narrow: `spec.intra_op_threads` inside each, `spec.lanes` at once. `widen` opens a
    second session whose runs take all threads at once, for a caller who is alone.
    """

    def __init__(self, path: Path, spec: SessionSpec, packed: Path | None = None) -> None:
        """Open the model file at `path`.

        Args:
            path: The model as delivered, or a variant's.
            spec: How to open it.
            packed: The same model as `prepacked_model` wrote it, to be opened in its place.

        Raises:
            InvalidModel: The file is damaged, unsupported, or refers to files outside its
                directory.
            NotSupported: The provider cannot be had here, or not for all of the model.
        """
        read_onnx_file(path)
        self.path = path
        self.spec = spec
        self._file, self._file_spec = path, spec
        if packed is not None:
            self._file, self._file_spec = packed, replace(spec, optimization="disabled")
        session = self._open(self._file_spec)
        self._narrow: onnxruntime.InferenceSession | None = session
        self._wide: onnxruntime.InferenceSession | None = None
        self._had_many = False
        self.wide_threads = 0
        """Threads inside a wide run; 0 where there are none."""
        self.signature = signature_of(session)
        self._device = device_runner(session, spec, self.signature)
        self._inline_options = onnxruntime.RunOptions()
        self._under_way: set[onnxruntime.RunOptions] = set()
        self._is_ended = False
        self._lanes = Lanes(spec.lanes)

    def widen(self, threads: int) -> None:
        """Let wide runs take `threads`; 0: there are none.

        Their session is opened for the first of them, and not before: opening and closing it
        starts and joins threads, which callers of other models would notice.
        """
        self._wide = None
        self.wide_threads = threads

    def run(
        self, feeds: Feeds, outputs: Sequence[str] | None = None, *, wide: bool = False
    ) -> Arrays:
        """Compute in the calling thread.

        Args:
            feeds: One array per input.
            outputs: Names of the outputs wanted, None for all in the signature's order.
            wide: Whether to use all threads at once, where `widen` made that possible.

        Returns:
            One array per requested output, in the requested order.

        Raises:
            RunFailed: The runtime refused, for example because two inputs do not fit together.
            OutOfMemory: It could not allocate what the run needs.
            SessionClosed: The session is closed.
        """
        return self._compute(feeds, outputs, wide, self._inline_options)

    def start(
        self,
        feeds: Feeds,
        outputs: Sequence[str] | None,
        over: Over,
        *,
        wide: bool = False,
    ) -> Run:
        """Compute on a lane; like `run`, but returns at once and can be ended.

        Args:
            feeds: One array per input.
            outputs: Names of the outputs wanted, None for all in the signature's order.
            over: Is told the answer, or the error that `run` would raise.
            wide: Whether to use all threads at once, where `widen` made that possible.

        Raises:
            SessionClosed: The session is closed.
            RuntimeError: The machine has no more threads.
        """
        options = onnxruntime.RunOptions()
        if not self._lanes.start(partial(self._on_lane, feeds, outputs, over, wide, options)):
            raise SessionClosed(_CLOSED)
        return Run(options)

    def submit(
        self, feeds: Feeds, outputs: Sequence[str] | None = None, *, wide: bool = False
    ) -> Future[Arrays]:
        """Compute on a lane; like `start`, for whoever waits for the answer in any case."""
        future: Future[Arrays] = Future()

        def over(results: Arrays | None, error: Exception | None) -> None:
            if results is None:
                future.set_exception(error)
            else:
                future.set_result(results)

        self.start(feeds, outputs, over, wide=wide)
        return future

    def terminate(self) -> None:
        """End the runs under way, and every later one, with `RunFailed`."""
        self._is_ended = True
        self._inline_options.terminate = True
        for options in self._under_way.copy():
            options.terminate = True

    def close(self) -> None:
        """Wait for what is running and free the session's memory."""
        self._lanes.close()
        if self._device is not None:
            self._device.close()
        self._device = self._wide = None
        time.sleep(0)  # each session holds the interpreter for a millisecond when it dies
        self._narrow = None

    def _session(self, *, wide: bool) -> onnxruntime.InferenceSession | None:
        """The narrow session or, for whoever is the only one who runs, the wide one."""
        if not wide or self._narrow is None:
            return self._narrow
        if self._wide is None and self.wide_threads:
            self._open_wide(self.wide_threads)
        return self._wide or self._narrow

    def _open_wide(self, threads: int) -> None:
        """Open the wide session, or do without: nobody's request is to fail for want of speed.

        Its file is gone where another model of the same bytes was replaced meanwhile. Its runs are
        of one row, as a rule, and find their memory warm where they left it.
        """
        spec = replace(
            self._file_spec, intra_op_threads=threads, lanes=1, spinning=True, arena=True
        )
        try:
            self._wide = self._open(spec)
        except HoneError as error:
            _log.warning("%s gets no more threads for a caller who is alone: %s", self.path, error)
            self.wide_threads = 0

    def _tidy_up(self, feeds: Feeds, options: onnxruntime.RunOptions) -> None:
        """Give back after a wide run what one of many rows took, which would stay for ever.

        Its answer is still there when it ends; that part goes with the next one.
        """
        had_many = self._had_many
        self._had_many = any(array.ndim and array.shape[0] > 1 for array in feeds.values())
        if had_many or self._had_many:
            options.add_run_config_entry(_SHRINK, "cpu:0")

    def _open(self, spec: SessionSpec) -> onnxruntime.InferenceSession:
        # Threads of the session stay where its opener was.
        with everywhere() if spec.intra_op_threads > 1 else aside():
            return open_inference_session(self._file, session_options(spec), spec)

    def _on_lane(
        self,
        feeds: Feeds,
        outputs: Sequence[str] | None,
        over: Over,
        wide: bool,
        options: onnxruntime.RunOptions,
    ) -> None:
        self._under_way.add(options)
        try:
            if self._is_ended:
                options.terminate = True
            results = self._compute(feeds, outputs, wide, options)
        except Exception as error:
            over(None, error)
        else:
            over(results, None)
        finally:
            self._under_way.discard(options)

    def _compute(
        self,
        feeds: Feeds,
        outputs: Sequence[str] | None,
        wide: bool,
        options: onnxruntime.RunOptions,
    ) -> Arrays:
        session = self._session(wide=wide)
        if session is None:
            raise SessionClosed(_CLOSED)
        if wide and session is not self._narrow and options is not self._inline_options:
            self._tidy_up(feeds, options)
        try:
            if self._device is not None:
                return self._device.run(feeds, outputs, options)
            results = session.run(outputs, feeds, options)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            if options.terminate:
                raise RunFailed(
                    "the run was ended: nobody waits for it", terminated=True
                ) from error
            if lacks_memory(error):
                raise OutOfMemory(
                    f"not enough memory to run the model on these inputs: {complaint(error)}"
                ) from error
            raise RunFailed(f"the model could not be run: {complaint(error)}") from error
        # An array, as a rule; numpy itself is far away when a long run has emptied the caches.
        return [one if type(one) is np.ndarray else np.asarray(one) for one in results]


def signature_of(session: onnxruntime.InferenceSession) -> Signature:
    """Names, datatypes and shapes of an open session's inputs and outputs."""
    return Signature(
        inputs=tuple(tensor_spec(i.name, i.type, i.shape) for i in session.get_inputs()),
        outputs=tuple(tensor_spec(o.name, o.type, o.shape) for o in session.get_outputs()),
    )


def session_options(spec: SessionSpec) -> onnxruntime.SessionOptions:
    """Onnxruntime's options for `spec`; the provider is not among them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.intra_op_threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = spec.arena
    options.enable_mem_pattern = False  # there is one for every shape that ever came, for ever
    options.graph_optimization_level = _LEVELS[spec.optimization]
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spec.spinning)))
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPINS_ON_US))
    return options
