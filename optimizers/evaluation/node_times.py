"""What each node of a model takes and gives, read from the profile that onnxruntime writes itself.

Its profile is a list of events in the form of Chrome's trace viewer. A node's event is called
`<node>_kernel_time` and has its duration in whole microseconds, cut off: half of one is added to
each, so that nodes below a microsecond are not free. What surrounds the nodes of a run is an event
called `model_run`, written after them.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from optimizers.contract.complaints import complaint
from optimizers.contract.errors import RunFailed
from optimizers.contract.processors import everywhere, off_one_processor
from optimizers.contract.providers import open_inference_session
from optimizers.contract.runtime import Feeds, SessionSpec, session_options

_NODE: Final = "_kernel_time"
_RUN: Final = "model_run"
_CUT_OFF_US: Final = 0.5
_WARM_UP: Final = 2
_AROUND_OTHERS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators whose event spans those of the nodes inside them."""

_BYTES: Final = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float", "int32", "uint32"), 4),
    **dict.fromkeys(("double", "int64", "uint64"), 8),
}
"""Element types by the names that a profile uses; others count as nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """What a node gave.

    Attributes:
        shape: As run.
        size_bytes: Of all its numbers.
    """

    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRun:
    """A node as the runtime ran it.

    Attributes:
        name: In the graph that ran, which is not the model's where the runtime fused nodes.
        operator: The same, without its domain.
        seconds: Median over runs.
        gives: Its results that are tensors, in order.
    """

    name: str
    operator: str
    seconds: float
    gives: tuple[Tensor, ...]


def run_nodes(model: Path, spec: SessionSpec, feeds: Feeds, runs: int) -> list[NodeRun]:
    """Run a model under the runtime's profiler, nodes inside of others left out.

    With a provider that works beside the processor, a node takes what starting it took.

    Args:
        model: The file.
        spec: How it is opened; it runs in one lane, without CUDA graphs.
        feeds: One array per input.
        runs: How many are counted, at least 1; a few more warm up.

    Raises:
        RunFailed: It cannot be run.
    """
    events = _events(model, spec, feeds, _WARM_UP + runs)
    durations: dict[str, list[float]] = defaultdict(list)
    last: dict[str, Mapping[str, Any]] = {}
    for run in [*_by_run(events)][_WARM_UP:]:
        taken: dict[str, float] = defaultdict(float)
        for event in run:
            name = str(event["name"]).removesuffix(_NODE)
            taken[name] += float(event["dur"]) + _CUT_OFF_US
            last[name] = event["args"]
        for name, microseconds in taken.items():
            durations[name].append(microseconds)
    return [
        NodeRun(
            name=name,
            operator=str(last[name]["op_name"]),
            seconds=float(np.median(each)) * 1e-6,
            gives=tuple(map(_tensor, last[name].get("output_type_shape", ()))),
        )
        for name, each in durations.items()
    ]


def _events(model: Path, spec: SessionSpec, feeds: Feeds, runs: int) -> list[dict[str, Any]]:
    plain = replace(spec, provider_options=replace(spec.provider_options, graphs=False))
    options = session_options(plain)
    options.enable_profiling = True
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        options.profile_file_prefix = str(Path(directory) / "profile")
        stack.enter_context(everywhere() if spec.intra_op_threads > 1 else off_one_processor())
        session = open_inference_session(model, options, plain)
        try:
            for _ in range(runs):
                session.run(None, dict(feeds))
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise RunFailed(f"the model could not be profiled: {complaint(error)}") from error
        finally:
            written = Path(session.end_profiling())
        events: list[dict[str, Any]] = json.loads(written.read_bytes())
    return events


def _by_run(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The nodes' events of each run, those inside of another node left out."""
    nodes: list[dict[str, Any]] = []
    for event in events:
        if event["name"] == _RUN:
            yield nodes
            nodes = []
        elif event["cat"] == "Node" and event["name"].endswith(_NODE):
            if event["args"]["op_name"] in _AROUND_OTHERS:
                nodes = [one for one in nodes if one["ts"] < event["ts"]]
            nodes.append(event)


def _tensor(described: Mapping[str, list[int]]) -> Tensor:
    """A tensor as a profile describes it: `{"float": [1, 10]}`."""
    [(kind, shape)] = described.items()
    return Tensor(shape=tuple(shape), size_bytes=_BYTES.get(kind, 0) * int(np.prod(shape)))
