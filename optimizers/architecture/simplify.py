"""Simplify: constants computed ahead; dead, idle and double nodes dropped. Lossless.

f(c) for constant c becomes a constant; Identity, x + 0, x * 1, pairs of Transpose, Reshape or Cast
collapse; of nodes with the same operator, inputs and attributes, and of equal constants, one stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    add_0_rule,
    cast_cast_rule,
    div_by_1_rule,
    dropout_inference_rule,
    dropout_zero_rule,
    mul_by_1_rule,
    no_op_cast_rule,
    no_op_expand_rule,
    no_op_transpose_rule,
    reshape_reshape_rule,
    sub_0_rule,
    transpose_transpose_rule,
    unsqueeze_unsqueeze_rule,
)

from optimizers.architecture.proof import why_different
from optimizers.contract.architecture import Simplify
from optimizers.step import StepContext, StepResult
from optimizers.structure.editing import (
    constant,
    graph_of,
    integer,
    read_model,
    take_over,
    write_model,
)

_TOLERANCE: Final = 1e-6
_RULES: Final = (
    add_0_rule,
    cast_cast_rule,
    div_by_1_rule,
    dropout_inference_rule,
    dropout_zero_rule,
    mul_by_1_rule,
    no_op_cast_rule,
    no_op_expand_rule,
    no_op_transpose_rule,
    reshape_reshape_rule,
    sub_0_rule,
    transpose_transpose_rule,
    unsqueeze_unsqueeze_rule,
)
_PASSES: Final = ir.passes.Sequential(
    RewritePass(_RULES),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.DeduplicateHashedInitializersPass(),
    common.CommonSubexpressionEliminationPass(),
    common.RemoveUnusedNodesPass(),
)
_REORDERING: Final = ("Cast", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""What gives as many numbers as it takes."""


def apply(model: Path, step: Simplify, context: StepContext) -> StepResult:
    """Simplify a model; see `optimizers.step`."""
    context.report(0.0, "simplifying")
    graph = read_model(model)
    before = _census(graph)
    names = [output.name for output in graph.graph.outputs]
    _simplify(graph, step.largest_constant)
    _name_outputs(graph.graph, names)
    target = write_model(graph, context.work_directory / "simplified.onnx")
    context.report(0.7, "comparing")
    after = _census(graph)
    why = why_different(model, target, tolerance=_TOLERANCE, seed=context.seed)
    context.report(1.0, "simplified")
    if before == after:
        return context.unchanged(
            model, "nothing is constant, unused, without effect or there twice"
        )
    if why:
        return context.unchanged(model, f"left as it was: {why}")
    notes = (
        f"{before[0]} nodes became {after[0]}, {before[1]} constants {after[1]}",
        f"bytes of constants: {before[2]} became {after[2]}",
    )
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def _simplify(model: ir.Model, largest: int) -> None:
    before = None
    while before != (before := _census(model)):
        fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=largest,
            output_size_limit=largest,
            should_fold=_should_fold,
        )
        _lay_out(model.graph)
        _drop_identities(model.graph)
        _PASSES(model)


def _drop_identities(graph: ir.Graph) -> None:
    """Let what reads an Identity read its source, in the graph and in those inside its nodes."""
    for node in list(graph.all_nodes()):
        if node.op_type == "Identity" and not node.domain:
            source, result = node.inputs[0], node.outputs[0]
            if source is not None and not (result.is_graph_output() and _has_a_place(source, node)):
                take_over(result, source)
                graph_of(node).remove(node, safe=True)


def _has_a_place(source: ir.Value, node: ir.Node) -> bool:
    """Whether a value is something to its graph, or is of another: it cannot be an output here."""
    known = source.is_graph_input() or source.is_graph_output() or source.is_initializer()
    return known or source.graph is not node.graph


def _lay_out(graph: ir.Graph) -> None:
    """Copy constants that are views, such as a folded Transpose's: equal ones are told by bytes."""
    for value in graph.initializers.values():
        array = constant(value)
        if array is not None and not array.flags.c_contiguous:
            value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)


def _should_fold(node: ir.Node) -> bool | None:
    """What takes no more room may become a constant of any size, in place of the old one.

    A Cast to a wider type takes more: None leaves it to the largest constant allowed.
    """
    source = node.inputs[0] if node.op_type in _REORDERING else None
    if source is None or source.const_value is None or _widens(node, source.const_value.dtype):
        return None
    return len(source.uses()) == 1


def _widens(node: ir.Node, before: ir.DataType) -> bool:
    """Whether a node gives numbers of more bits than it takes; texts count as wider."""
    if node.op_type != "Cast":
        return False
    after = ir.DataType(integer(node, "to", int(before)))
    if ir.DataType.STRING in (before, after):
        return True
    return bool(after.itemsize > before.itemsize)


def _name_outputs(graph: ir.Graph, names: list[str | None]) -> None:
    """Give outputs their names back: one value now stands for several, or was renamed."""
    for index, (output, name) in enumerate(zip(list(graph.outputs), names, strict=True)):
        if output.name != name:
            node = ir.node("Identity", [output])
            again = node.outputs[0]
            again.name, again.shape, again.type = name, output.shape, output.type
            graph.append(node)
            graph.outputs[index] = again


def _census(model: ir.Model) -> tuple[int, int, int]:
    """Nodes that compute, constants, and bytes of constants."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    nodes = list(model.graph)
    tensors += [
        node.outputs[0].const_value or node.attributes["value"].as_tensor()
        for node in nodes
        if node.op_type == "Constant" and "value" in node.attributes
    ]
    stored = [tensor for tensor in tensors if tensor is not None]
    computing = sum(node.op_type != "Constant" for node in nodes)
    return computing, len(stored), sum(tensor.nbytes for tensor in stored)
