"""What a planner goes by: where a model's time goes, and what the model is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from optimizers.calibration import Arrays, fixed_batch, item_count, load_arrays, open_data, take
from optimizers.contract.errors import RunFailed
from optimizers.contract.evidence import Evidence, Layer, OperatorShare
from optimizers.contract.host import Host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.contract.signature import Signature
from optimizers.evaluation.attribution import Attribution
from optimizers.evaluation.invariance import LARGER_BATCH
from optimizers.evaluation.lint import optimized_graph
from optimizers.evaluation.node_times import NodeRun, Tensor, run_nodes
from optimizers.evaluation.parts import (
    constants,
    embedding_bytes,
    groups_of,
    layer_nodes,
    weight_bits,
    weight_bytes_by_operator,
)
from optimizers.evaluation.run_times import run_seconds, starting_s
from optimizers.graph import load_with_constants
from optimizers.saving import saved, size_bytes
from optimizers.structure.attention import attentions
from optimizers.structure.editing import read_model
from optimizers.structure.residual import residual_blocks

_PURPOSES: Final = ("calibration", "train", "search")
_FED: Final = ("search", "calibration", "train")
"""Data that a model is profiled on, the best first; never the gate's."""

_PROFILED_S: Final = 0.3
_FEWEST_PROFILED: Final = 5
_MOST_PROFILED: Final = 50
_MOST_EVENTS: Final = 100_000
"""Nodes that are run under the profiler, over all runs: each event takes kilobytes of memory."""

_HEADS_RANK: Final = 4


def profile(
    model: Path,
    session: SessionSpec,
    *,
    host: Host,
    task: Task,
    data: Mapping[str, Path],
    seed: int,
) -> Evidence:
    """Look at a model before anything is done to it.

    Shares of time are of one item, run as it will be served; see `attribution` for how the nodes
    that ran are led back to the model's. What is outside of nodes is what a model with the same
    inputs and nothing to compute takes: a profile slows runs down too much to tell. Sizes between
    nodes are taken from a run without any optimisation, where every node is still there.

    Args:
        model: The file as delivered.
        session: How the server opens it.
        host: This machine.
        task: What the model's answers are.
        data: Purpose → file. Items of search, else calibration, else training data are run; made-up
            ones where there are too few, with every free length 1. The gate's file is not opened,
            so that its items are not among those counted.
        seed: Of made-up items.

    Raises:
        InvalidModel: The model cannot be opened.
        InvalidData: Data does not fit it.
        RunFailed: It cannot be run.
    """
    with closing(Session(model, session)) as opened:
        signature = opened.signature
        counts, has_labels = _looked_at(data, signature)
        items = _items(data, signature)
        rows = fixed_batch(signature) or 1
        feeds = _feeds(signature, items, rows, seed)
        seconds = run_seconds(opened, feeds)
        run_s = float(np.median(seconds))
        batch, batch_item_s = _joined(opened, items, seed, run_s / rows)
    loaded = load_with_constants(model)
    _tell_apart(loaded.graph)
    runs = _runs(run_s, len(loaded.graph.node))
    with saved(loaded) as file:
        ran = run_nodes(file, session, feeds, runs)
        plain = run_nodes(file, replace(session, optimization="disabled"), feeds, 1)
        shares = _shares(loaded.graph, optimized_graph(file, session), ran)
        given = _given(loaded.graph, plain, feeds)
        heads, blocks = _structure(file, given)
    return Evidence(
        operators=_operators(loaded.graph, shares.operators),
        layers=_layers(loaded.graph, shares.layers),
        weight_bytes=sum(map(size_bytes, loaded.graph.initializer)),
        embedding_bytes=embedding_bytes(loaded.graph),
        activation_bytes=_between_bytes(loaded.graph, given) // rows,
        item_s=run_s / rows,
        batch_item_s=batch_item_s,
        batch=batch,
        outside_share=min(1.0, starting_s(loaded, session, feeds) / min(seconds)),
        attention_heads=heads,
        residual_blocks=blocks,
        has_batch_norm=any(node.op_type == "BatchNormalization" for node in loaded.graph.node),
        task=task,
        host=host,
        provider=session.provider,
        data=counts,
        has_labels=has_labels,
        weight_bits=weight_bits(loaded.graph),
    )


def _runs(run_s: float, nodes: int) -> int:
    """How often a model is run under the profiler."""
    most = min(_MOST_PROFILED, max(_FEWEST_PROFILED, _MOST_EVENTS // max(1, nodes)))
    return int(np.clip(_PROFILED_S / run_s, _FEWEST_PROFILED, most))


def _tell_apart(graph: onnx.GraphProto) -> None:
    """Give nodes of one name different ones: a profile knows nodes by nothing else."""
    taken: set[str] = set()
    for node in graph.node:
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)


@dataclass(frozen=True, slots=True)
class _Shares:
    """Shares of the time of all nodes, by operator of the model and by name of the layer."""

    operators: dict[str, float]
    layers: dict[str, float]


def _looked_at(data: Mapping[str, Path], signature: Signature) -> tuple[dict[str, int], bool]:
    """How many items there are of each purpose, and whether the training items have labels."""
    counts, has_labels = {}, False
    for purpose in _PURPOSES:
        if purpose not in data:
            continue
        with open_data(data[purpose], signature) as file:
            counts[purpose] = file.count
            if purpose == "train":
                has_labels = file.labels(1) is not None
    return counts, has_labels


def _items(data: Mapping[str, Path], signature: Signature) -> Arrays | None:
    path = next((data[purpose] for purpose in _FED if purpose in data), None)
    if path is None:
        return None
    return load_arrays(path, signature, max(LARGER_BATCH, fixed_batch(signature) or 1))[0]


def _feeds(signature: Signature, items: Arrays | None, rows: int, seed: int) -> Feeds:
    if items is None or item_count(items) < rows:
        return random_feeds(signature, rows, seed=seed)
    return take(items, slice(0, rows))


def _joined(session: Session, items: Arrays | None, seed: int, item_s: float) -> tuple[int, float]:
    """How many items share a run when they can, and the seconds of each then."""
    rows = min(LARGER_BATCH, session.spec.max_batch)
    if rows == 1 or not session.signature.has_batch_dimension:
        return 1, item_s
    try:
        seconds = run_seconds(session, _feeds(session.signature, items, rows, seed))
    except RunFailed:  # a length written into the graph, whatever its inputs say
        return 1, item_s
    return rows, float(np.median(seconds)) / rows


def _shares(model: onnx.GraphProto, optimized: onnx.GraphProto, ran: list[NodeRun]) -> _Shares:
    attribution = Attribution(model, optimized, layer_nodes(model))
    total = sum(node.seconds for node in ran)
    operators: dict[str, float] = defaultdict(float)
    layers: dict[str, float] = defaultdict(float)
    for node in ran:
        share = node.seconds / total
        operators[attribution.operator(node.name, node.operator)] += share
        layer = attribution.layer(node.name, node.operator)
        if layer is not None:
            layers[layer] += share
    return _Shares(operators, layers)


def _operators(graph: onnx.GraphProto, shares: dict[str, float]) -> tuple[OperatorShare, ...]:
    weights = weight_bytes_by_operator(graph)
    names = dict.fromkeys([*shares, *(node.op_type for node in graph.node)])
    found = [
        OperatorShare(
            operator=name,
            share=shares.get(name, 0.0),
            nodes=sum(node.op_type == name for node in graph.node),
            weight_bytes=weights.get(name, 0),
        )
        for name in names
    ]
    return tuple(sorted(found, key=lambda one: -one.share))


def _layers(graph: onnx.GraphProto, shares: dict[str, float]) -> tuple[Layer, ...]:
    stored = constants(graph)
    return tuple(
        Layer(
            name=name,
            operator=node.op_type,
            weight_shape=tuple(stored[node.input[1]].dims),
            groups=groups_of(node),
            share=shares.get(name, 0.0),
        )
        for name, node in layer_nodes(graph).items()
    )


def _given(graph: onnx.GraphProto, ran: list[NodeRun], feeds: Feeds) -> dict[str, Tensor]:
    """Name → the tensor, of all that is fed and given in one run."""
    found = {
        name: Tensor(shape=array.shape, size_bytes=array.nbytes) for name, array in feeds.items()
    }
    outputs = {node.name: [name for name in node.output if name] for node in graph.node}
    for node in ran:
        found |= dict(zip(outputs.get(node.name, ()), node.gives, strict=False))
    return found


def _between_bytes(graph: onnx.GraphProto, given: dict[str, Tensor]) -> int:
    """Of all tensors that one node gives and another reads."""
    read = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    return sum(given[name].size_bytes for name in read & made & given.keys())


def _structure(model: Path, given: dict[str, Tensor]) -> tuple[tuple[int, ...], int]:
    """Heads of each attention, and how many residual blocks keep the shape of what they get."""
    graph = read_model(model).graph
    unknown = Tensor(shape=(), size_bytes=0)
    parted = [
        given.get(str(one.parted[0].reshape.outputs[0].name), unknown).shape
        for one in attentions(graph)
    ]
    heads = tuple(shape[2] for shape in parted if len(shape) == _HEADS_RANK)
    ends = [
        (block.name, str(block.source.name), str(block.result.name))
        for block in residual_blocks(graph)
    ]
    kept = {
        name
        for name, source, result in ends
        if source in given and result in given and given[source].shape == given[result].shape
    }
    return heads, len(kept)
