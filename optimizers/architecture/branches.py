"""Parallel branches whose results are added up become one convolution (RepVGG, arXiv 2101.03697).

conv(x, K1) + conv(x, K2) + x = conv(x, K1 + pad(K2) + I): a smaller kernel is padded with zeros to
the larger one's size, x itself is the convolution with I[c, c] = 1 in the kernel's middle, and a
BatchNormalization of x is that times its scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from optimizers.architecture.batch_norm import read_normalization
from optimizers.structure.convolution import Convolution, read_convolution, write_convolution
from optimizers.structure.editing import insert, only_user, take_over


@dataclass(frozen=True, slots=True)
class _Branch:
    """One term of a sum: scale x + shift where it has no convolution.

    Attributes:
        value: The term.
        convolution: What makes it, or None.
        scale: float64 [channels], or 1.
        shift: float64 [channels], or 0.
    """

    value: ir.Value
    convolution: Convolution | None
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


def merge_branches(model: ir.Model) -> int:
    """Merge the branches of every sum; how many went into others."""
    count = 0
    while True:
        merged = next((went for node in list(model.graph) if (went := _merge(node))), 0)
        if not merged:
            return count
        common.RemoveUnusedNodesPass()(model)
        count += merged


def _merge(root: ir.Node) -> int:
    """Merge branches below the last Add of a sum; how many went into others."""
    if not _is_sum(root) or _is_sum(only_user(root.outputs[0])):
        return 0
    terms = _terms(root)
    # A small kernel has no room for a larger one; the larger one then takes the small one in.
    for term in terms:
        main = read_convolution(term.producer())
        if main is None or only_user(term) is None:
            continue
        found = [_branch(other, main) for other in terms]
        fitting = [branch for branch in found if branch is not None]
        if len(fitting) > 1:
            _replace(root, terms, main, fitting)
            return len(fitting) - 1
    return 0


def _is_sum(node: ir.Node | None) -> bool:
    return node is not None and not node.domain and node.op_type in ("Add", "Sum")


def _terms(root: ir.Node) -> list[ir.Value]:
    """What a tree of Adds adds up."""
    found: list[ir.Value] = []
    for value in root.inputs:
        if value is None:
            continue
        producer = value.producer()
        if producer is not None and _is_sum(producer) and only_user(value) is root:
            found += _terms(producer)
        else:
            found.append(value)
    return found


def _branch(term: ir.Value, main: Convolution) -> _Branch | None:
    """A term as something that can be added to a convolution's kernel, if it can."""
    one, zero = np.ones(len(main.kernel)), np.zeros(len(main.kernel))
    convolution = read_convolution(term.producer())
    if convolution is not None and only_user(term) is not None:
        fits = convolution.source is main.source and _places(convolution, main) is not None
        return _Branch(term, convolution, one, zero) if fits else None
    if not _may_hold_identity(main):
        return None
    if term is main.source:
        return _Branch(term, None, one, zero)
    normalization = read_normalization(term.producer())
    if normalization is None or normalization.node.inputs[0] is not main.source:
        return None
    return _Branch(term, None, normalization.scale, normalization.shift)


def _places(small: Convolution, main: Convolution) -> list[tuple[int, int]] | None:
    """Zeros around each axis of a kernel to lie where another's does; None where it cannot."""
    same = (small.group, small.strides, small.dilations, len(small.kernel))
    if same != (main.group, main.strides, main.dilations, len(main.kernel)):
        return None
    margins = [wide - narrow for wide, narrow in zip(main.pads, small.pads, strict=True)]
    half = len(margins) // 2
    places = list(zip(margins[:half], margins[half:], strict=True))
    sizes = zip(small.kernel.shape[2:], main.kernel.shape[2:], places, strict=True)
    fits = all(size + sum(place) == whole for size, whole, place in sizes)
    dilated = any(dilation != 1 for dilation in main.dilations) and any(margins)
    return places if fits and min(margins) >= 0 and not dilated else None


def _may_hold_identity(main: Convolution) -> bool:
    half = len(main.pads) // 2
    middle = [2 * pad + 1 for pad in main.pads[:half]]
    return (
        main.pads[:half] == main.pads[half:]
        and middle == list(main.kernel.shape[2:])
        and set(main.strides) == {1}
        and set(main.dilations) == {1}
        and len(main.kernel) == main.kernel.shape[1] * main.group
    )


def _replace(
    root: ir.Node, terms: list[ir.Value], main: Convolution, branches: list[_Branch]
) -> None:
    kernel = np.zeros(main.kernel.shape)
    bias = np.zeros(len(main.kernel))
    for branch in branches:
        kernel += _padded(branch, main)
        bias += branch.shift if branch.convolution is None else branch.convolution.bias
    result = write_convolution(root, main, kernel, bias, name=main.name)
    gone = [branch.value for branch in branches]
    for term in terms:
        if not any(term is value for value in gone):
            result = insert(root, ir.node("Add", [result, term], name=f"{main.name}.add"))
    take_over(root.outputs[0], result)


def _padded(branch: _Branch, main: Convolution) -> NDArray[Any]:
    """A branch's kernel in the size of another, float64."""
    if branch.convolution is not None:
        places = _places(branch.convolution, main) or []
        return np.pad(branch.convolution.kernel.astype(np.float64), [(0, 0), (0, 0), *places])
    identity = np.zeros(main.kernel.shape)
    middle = tuple(size // 2 for size in main.kernel.shape[2:])
    for channel, scale in enumerate(branch.scale):
        identity[(channel, channel % main.kernel.shape[1], *middle)] = scale
    return identity
