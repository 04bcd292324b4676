"""Matrix products of one input become one wider product and a Split (queries, keys, values).

[x W1 + b1, x W2 + b2, ...] = split(x [W1 W2 ...] + [b1 b2 ...])

A weight that other nodes read stays where it is: it would have to be kept besides the wider one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optimizers.structure.affine import Affine, affine_maps, write_affine
from optimizers.structure.editing import graph_of, new_constant, take_over

_SPLIT_BY_INPUT = 13
"""The operator set from which on Split takes its parts as an input."""


def merge_parallel_products(model: ir.Model) -> int:
    """Merge every group of products that read one value; how many products went into others."""
    if model.graph.opset_imports.get("", 0) < _SPLIT_BY_INPUT:
        return 0
    several = _groups([one for one in affine_maps(model.graph) if not one.shares_weight])
    for group in several:
        _merge(group)
    return sum(map(len, several)) - len(several)


def products_with_shared_weights(model: ir.Model) -> list[str]:
    """Names of the products that are left alone for their weights, though others read one value."""
    groups = _groups(affine_maps(model.graph))
    return [affine.name for group in groups for affine in group if affine.shares_weight]


def _groups(found: list[Affine]) -> list[list[Affine]]:
    """Those of one input, operator and datatype, where they are several."""
    groups: dict[tuple[int, str, str], list[Affine]] = {}
    for affine in found:
        key = (id(affine.source), affine.product.op_type, affine.weight.dtype.name)
        groups.setdefault(key, []).append(affine)
    return [group for group in groups.values() if len(group) > 1]


def _merge(group: list[Affine]) -> None:
    first = group[0]
    weight = np.concatenate([affine.weight for affine in group], axis=1)
    bias = None
    if any(affine.bias is not None for affine in group):
        bias = np.concatenate([_bias(affine) for affine in group])
    name = "_".join(affine.name for affine in group)
    whole = write_affine(first, first.source, weight, bias, name)
    graph = graph_of(first.product)
    widths = np.array([affine.weight.shape[1] for affine in group], np.int64)
    parts = new_constant(graph, f"{name}.widths", widths)
    split = ir.node(
        "Split", [whole, parts], {"axis": -1}, num_outputs=len(group), name=f"{name}.split"
    )
    graph.insert_before(first.product, split)
    for affine, part in zip(group, split.outputs, strict=True):
        take_over(affine.result, part)


def _bias(affine: Affine) -> np.ndarray[tuple[int], np.dtype[np.floating]]:
    if affine.bias is not None:
        return affine.bias
    return np.zeros(affine.weight.shape[1], affine.weight.dtype)
