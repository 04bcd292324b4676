"""Fills inputs up to common lengths, so that requests of other lengths can share a run.

A policy of `hone.yaml` says which. Whatever does not fit it goes on as it came, for the model to
answer or to refuse: what is longer than the last edge or empty, what would become too large, and
inputs that should have one length in common but do not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.documents import shown_key, unknown_key
from optimizers.contract.errors import InvalidModel
from optimizers.contract.padding import PaddingPolicy
from optimizers.contract.runtime import Feeds
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec

MOST_BYTES: Final = 16 << 20
"""Of the filled-up inputs of one request; one that would need more is not filled up."""

Lengths = dict[int, int]
"""Number of a group of inputs that were filled up → the length they had."""


class Member(NamedTuple):
    """An input of a group: the axis of its length, and what it is filled with."""

    name: str
    axis: int
    value: int | float
    is_mask: bool = False


class Group(NamedTuple):
    """Inputs that have one length in common, and the edges it is filled up to."""

    edges: tuple[int, ...]
    members: tuple[Member, ...]


class Padding:
    """A policy that fits a model. Keeps nothing of the requests; safe to use from everywhere.

    Attributes:
        groups: What is filled up.
    """

    def __init__(self, policy: PaddingPolicy, signature: Signature) -> None:
        """Follow `policy` for a model of this signature.

        Raises:
            InvalidModel: The two contradict each other.
        """
        _check(policy, signature)
        edges = list(dict.fromkeys(padded.edges for padded in policy.inputs.values()))
        self.groups = tuple(Group(one, _members(policy, one)) for one in edges)
        self._trim = {
            name: (trimmed.axis, edges.index(policy.inputs[trimmed.like].edges))
            for name, trimmed in policy.trim.items()
        }

    def pad(self, feeds: Feeds) -> tuple[Feeds, Lengths]:
        """Fill a request's inputs up.

        Args:
            feeds: One array per input, checked against the signature; they are not changed.

        Returns:
            The inputs in their order, and the lengths of what was filled up; none where the
            request stays as it is.
        """
        lengths: Lengths = {}
        filled: dict[str, tuple[Member, int]] = {}
        size = 0
        for number, (edges, members) in enumerate(self.groups):
            found = {feeds[member.name].shape[member.axis] for member in members}
            length = found.pop()
            if found or not 0 < length < edges[-1]:
                continue
            edge = edges[bisect_left(edges, length)]
            if edge == length:
                continue
            lengths[number] = length
            for member in members:
                filled[member.name] = member, edge
                size += feeds[member.name].nbytes // length * edge
        if not lengths or size > MOST_BYTES:
            return feeds, {}
        return {
            name: _fill(array, *filled[name]) if name in filled else array
            for name, array in feeds.items()
        }, lengths

    def trim(
        self, arrays: list[NDArray[Any]], names: Sequence[str], lengths: Lengths
    ) -> list[NDArray[Any]]:
        """Cut answers back to the lengths that `pad` told.

        Args:
            arrays: The answer to a request that was filled up.
            names: Of these outputs.
            lengths: What `pad` gave with it.

        Returns:
            One array per name, views where something was cut off.
        """
        return [
            self._cut(array, name, lengths) if name in self._trim else array
            for array, name in zip(arrays, names, strict=True)
        ]

    def _cut(self, array: NDArray[Any], name: str, lengths: Lengths) -> NDArray[Any]:
        axis, number = self._trim[name]
        if number not in lengths or array.ndim <= axis:
            return array
        return array[(slice(None),) * axis + (slice(lengths[number]),)]


def _fill(array: NDArray[Any], member: Member, edge: int) -> NDArray[Any]:
    shape, axis = array.shape, member.axis
    full = np.full((*shape[:axis], edge, *shape[axis + 1 :]), member.value, array.dtype)
    full[(slice(None),) * axis + (slice(shape[axis]),)] = array
    return full


def _members(policy: PaddingPolicy, edges: tuple[int, ...]) -> tuple[Member, ...]:
    found = {}
    for name, padded in policy.inputs.items():
        if padded.edges == edges:
            found[name] = Member(name, padded.axis, padded.value)
            if padded.mask:
                found[padded.mask] = Member(padded.mask, padded.axis, 0, is_mask=True)
    return tuple(found.values())


def _check(policy: PaddingPolicy, signature: Signature) -> None:
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    for name, padded in policy.inputs.items():
        key = f"padding.{shown_key(name)}"
        spec = _known(inputs, name, key, "input")
        _check_axis(spec, padded.axis, f"{key}.axis", "input")
        _check_value(spec, padded.value, f"{key}.value")
        if padded.mask:
            mask = _known(inputs, padded.mask, f"{key}.mask", "input")
            _check_axis(mask, padded.axis, f"{key}.mask", "input")
    for name, trimmed in policy.trim.items():
        key = f"trim.{shown_key(name)}"
        spec = _known(outputs, name, key, "output")
        if spec.shape:  # of an unknown rank otherwise
            _check_axis(spec, trimmed.axis, key, "output")
    _check_dimensions(policy, signature)


def _known(specs: dict[str, TensorSpec], name: str, key: str, kind: str) -> TensorSpec:
    spec = specs.get(name)
    if spec is None:
        raise _contradiction(key, unknown_key(name, specs, kind))
    return spec


def _check_axis(spec: TensorSpec, axis: int, key: str, kind: str) -> None:
    if spec.datatype == "BYTES" and kind == "input":
        raise _contradiction(key, f"{kind} '{spec.name}' holds texts, which cannot be padded")
    if axis >= len(spec.shape) or spec.shape[axis] != -1:
        raise _contradiction(
            key,
            f"{kind} '{spec.name}' has shape {list(spec.shape)} in the model; expected axis "
            f"{axis} to be of variable length (-1)",
        )


def _check_value(spec: TensorSpec, value: int | float, key: str) -> None:
    dtype = NUMPY_DTYPES[spec.datatype]
    if spec.is_floating:
        least, most, fits = -float(np.finfo(dtype).max), float(np.finfo(dtype).max), True
    else:
        info = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
        least, most, fits = info.min, 1 if dtype.kind == "b" else info.max, value == int(value)
    if not fits or not least <= value <= most:
        raise _contradiction(
            key,
            f"input '{spec.name}' is {spec.datatype}; expected a "
            f"{'number' if spec.is_floating else 'whole number'} from {least} to {most}, "
            f"got {value}",
        )


def _check_dimensions(policy: PaddingPolicy, signature: Signature) -> None:
    """Inputs whose lengths the model itself calls by one name are filled up alike, or not at all.

    Raises:
        InvalidModel: One of them is left out, or has other edges.
    """
    edges_of = {}
    for name, padded in policy.inputs.items():
        edges_of[name] = padded.axis, padded.edges
        if padded.mask:
            edges_of[padded.mask] = padded.axis, padded.edges
    dimensions: dict[str, tuple[str, tuple[int, ...]]] = {}
    for spec in signature.inputs:
        if spec.name in edges_of:
            axis, edges = edges_of[spec.name]
            symbol = spec.symbols[axis] if spec.symbols else ""
            former, other = dimensions.setdefault(symbol, (spec.name, edges))
            if symbol and other != edges:
                raise _contradiction(
                    "padding",
                    f"inputs '{former}' and '{spec.name}' share the length '{shown_key(symbol)}' "
                    "in the model; expected equal edges",
                )
    dimensions.pop("", None)
    for spec in signature.inputs:
        for axis, symbol in enumerate(spec.symbols):
            if symbol in dimensions and axis != edges_of.get(spec.name, (axis + 1,))[0]:
                raise _contradiction(
                    "padding",
                    f"input '{spec.name}' has the length '{shown_key(symbol)}' of "
                    f"'{dimensions[symbol][0]}' as its axis {axis}; expected it to be padded as "
                    "well, or to be its mask",
                )


def _contradiction(key: str, problem: str) -> InvalidModel:
    return InvalidModel(f"hone.yaml: {key}: {problem}")
