"""Images in other sizes: each axis by itself, every result a weighted sum of a few elements."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import operator


@operator("Upsample", on_host=(1,))
def upsample(node: Node, inputs: Inputs) -> Tensor:
    """Give x larger by a factor for each axis, places counted from the edge."""
    x, mode = inputs[0], node.text("mode", "nearest")
    for axis, scale in enumerate(inputs[1].tolist()):
        length = math.floor(x.shape[axis] * scale)
        places = torch.arange(length, dtype=torch.float64) / scale
        x = _interpolate(node, x, axis, places, mode, "floor")
    return x


@operator("Resize", on_host=(1, 2, 3))
def resize(node: Node, inputs: Inputs) -> Tensor:
    """Give x in other sizes, or larger by factors, along the axes that the node names."""
    x, mode = inputs[0], node.text("mode", "nearest")
    _refuse_unknown(node)
    old = node.opset < 11
    rounding = "floor" if old else node.text("nearest_mode", "round_prefer_floor")
    axes = node.integers("axes", list(range(x.ndim)))
    for axis, (length, scale) in zip(axes, _lengths(inputs, axes, old), strict=True):
        if length == x.shape[axis] and scale == 1:
            continue
        transform = "asymmetric" if old else node.text("coordinate_transformation_mode", "")
        places = _places(node, x.shape[axis], length, scale, transform or "half_pixel")
        x = _interpolate(node, x, axis, places, mode, rounding)
    return x


def _refuse_unknown(node: Node) -> None:
    if node.integer("antialias", 0):
        raise node.refuse("a filter against aliases")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("a kept aspect ratio")


def _lengths(inputs: Inputs, axes: list[int], old: bool) -> list[tuple[int, float]]:
    """The length and the factor of each axis, from factors or from sizes."""
    sizes = [inputs[0].shape[axis] for axis in axes]
    scales = inputs.optional(1 if old else 2)
    if scales is not None and scales.numel():
        factors = scales.tolist()
        return [(math.floor(n * by), by) for n, by in zip(sizes, factors, strict=True)]
    return [(new, new / n) for n, new in zip(sizes, inputs.integers(3), strict=True)]


def _places(node: Node, before: int, after: int, scale: float, transform: str) -> Tensor:
    """Where each result lies among the elements, float64 [after]."""
    numbers = torch.arange(after, dtype=torch.float64)
    half = (numbers + 0.5) / scale - 0.5
    if transform == "half_pixel_symmetric":
        return half + before / 2 * (1 - after / (scale * before))
    if transform == "align_corners":
        return numbers * ((before - 1) / max(1, after - 1))
    if transform == "asymmetric":
        return numbers / scale
    if transform == "pytorch_half_pixel" and after == 1:
        return torch.zeros_like(half)
    if transform in ("half_pixel", "pytorch_half_pixel"):
        return half
    raise node.refuse(f"the mode {transform}")


def _interpolate(
    node: Node, x: Tensor, axis: int, places: Tensor, mode: str, rounding: str
) -> Tensor:
    if mode == "nearest":
        first, weights = _rounded(places, rounding), torch.ones(1, len(places))
    elif mode in ("linear", "cubic"):
        first = places.floor() - int(mode == "cubic")
        rest = places - places.floor()
        weights = torch.stack([1 - rest, rest]) if mode == "linear" else _cubic(node, rest)
    else:
        raise node.refuse(f"the mode {mode}")
    shape = [-1 if other == axis else 1 for other in range(x.ndim)]
    total = x.new_zeros(())
    numbers = first.to(torch.int64) + torch.arange(len(weights)).unsqueeze(1)
    if mode == "cubic" and node.integer("exclude_outside", 0):
        weights = weights * ((numbers >= 0) & (numbers < x.shape[axis]))
        weights = weights / weights.sum(0)
    for row, weight in zip(numbers.clamp(0, x.shape[axis] - 1), weights, strict=True):
        part = x.index_select(axis, row.to(x.device))
        total = total + part * weight.to(x).reshape(shape)
    return total


def _rounded(places: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return places.floor()
    if rounding == "ceil":
        return places.ceil()
    if rounding == "round_prefer_ceil":
        return (places + 0.5).floor()
    return (places - 0.5).ceil()


def _cubic(node: Node, rest: Tensor) -> Tensor:
    """Weights of the four elements around each place (Keys, 1981), float64 [4, places]."""
    a = node.number("cubic_coeff_a", -0.75)
    near, far = torch.stack([rest, 1 - rest]), torch.stack([rest + 1, 2 - rest])
    inner = ((a + 2) * near - (a + 3)) * near**2 + 1
    outer = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    return torch.stack([outer[0], inner[0], inner[1], outer[1]])
