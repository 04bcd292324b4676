"""Whether a model answers the same when its inputs are filled up, asked with made-up requests.

A model that ignores its mask does not. For every edge, requests of several lengths are answered
alone as they are, and then filled up and joined; at the first edge also with numbers that are all
above, or all below, what is filled in, which shows the difference that a largest or smallest makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.difference import are_close
from optimizers.contract.errors import HoneError
from optimizers.contract.runtime import Feeds, Session
from optimizers.contract.samples import random_feeds
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.padding import MOST_BYTES, Member, Padding

_Numbers = Literal["any", "above", "below"]
_ALL_NUMBERS: Final[tuple[_Numbers, ...]] = ("any", "above", "below")


def harm_of_padding(session: Session, padding: Padding, most_rows: int) -> str:
    """What goes wrong when inputs are filled up; "" when nothing does. Blocks.

    Args:
        session: Answers.
        padding: Fills up.
        most_rows: Most rows in one run.
    """
    levels = max(len(group.edges) for group in padding.groups)
    for level in range(levels):
        if _size_bytes(session.signature, padding, level) > MOST_BYTES:
            break  # nor is such a request ever filled up
        requests = []
        for numbers in _ALL_NUMBERS if level == 0 else _ALL_NUMBERS[:1]:
            for part in (0.0, 0.5, 1.0) if level == 0 else (0.0, 0.5):
                feeds = _made_up(session.signature, padding, level, part, numbers)
                try:
                    requests.append((feeds, session.run(feeds)))
                except HoneError as error:
                    if numbers == "any":
                        return f"made-up requests could not be run: {error}"
        for start in range(0, len(requests), most_rows):
            harm = _harm_together(session, padding, requests[start : start + most_rows])
            if harm:
                return harm
    return ""


def _harm_together(
    session: Session, padding: Padding, requests: list[tuple[Feeds, list[NDArray[Any]]]]
) -> str:
    """How filled-up requests that share a run are answered otherwise than alone; "" if not."""
    filled = [padding.pad(feeds) for feeds, _ in requests]
    names = [spec.name for spec in session.signature.outputs]
    together = {name: np.concatenate([feeds[name] for feeds, _ in filled]) for name in filled[0][0]}
    try:
        answers = session.run(together)
    except HoneError as error:
        return f"filled-up requests could not be run: {error}"
    for row, ((feeds, alone), (filled_up, lengths)) in enumerate(
        zip(requests, filled, strict=True)
    ):
        own = padding.trim([array[row : row + 1] for array in answers], names, lengths)
        for name, array, expected in zip(names, own, alone, strict=True):
            if array.shape != expected.shape:
                return (
                    f"output '{name}' has shape {list(array.shape)} for inputs that are filled "
                    f"up, {list(expected.shape)} for these inputs as they are; where it is as "
                    "long as an input, name it under 'trim'"
                )
            if not are_close(array, expected):
                return f"output '{name}' changes with {_lengths(padding, feeds, filled_up)}"
    return ""


def _made_up(
    signature: Signature, padding: Padding, level: int, part: float, numbers: _Numbers
) -> Feeds:
    """One row whose lengths lie `part` of the way from one edge to the next."""
    lengths: dict[str, int] = {}
    members: dict[str, Member] = {}
    for edges, group in padding.groups:
        place = min(level, len(edges) - 1)
        shortest = edges[place - 1] + 1 if place else 1
        for member in group:
            members[member.name] = member
            lengths[member.name] = shortest + int((edges[place] - shortest) * part)
    feeds = random_feeds(_with_lengths(signature, members, lengths), 1, seed=level)
    return {
        name: _numbers(array, members[name], numbers) if name in members else array
        for name, array in feeds.items()
    }


def _numbers(array: NDArray[Any], member: Member, numbers: _Numbers) -> NDArray[Any]:
    """The array with numbers on one side of what it is filled up with, where there are any."""
    if member.is_mask:
        return np.ones_like(array)
    if numbers == "any":
        return array
    step = 1 if numbers == "above" else -1
    if array.dtype.kind == "f":
        return (member.value + step * (1 + array)).astype(array.dtype)
    beside = int(member.value) + step
    info = np.iinfo(np.uint8 if array.dtype.kind == "b" else array.dtype)
    most = 1 if array.dtype.kind == "b" else info.max
    return np.full_like(array, beside) if info.min <= beside <= most else array


def _with_lengths(
    signature: Signature, members: Mapping[str, Member], lengths: Mapping[str, int]
) -> Signature:
    def fixed(spec: TensorSpec) -> TensorSpec:
        if spec.name not in members:
            return spec
        shape = list(spec.shape)
        shape[members[spec.name].axis] = lengths[spec.name]
        return replace(spec, shape=tuple(shape))

    return Signature(inputs=tuple(map(fixed, signature.inputs)), outputs=signature.outputs)


def _size_bytes(signature: Signature, padding: Padding, level: int) -> int:
    """Of one filled-up row's inputs that are filled up."""
    specs = {spec.name: spec for spec in signature.inputs}

    def sizes() -> Iterator[int]:
        for edges, members in padding.groups:
            for member in members:
                spec = specs[member.name]
                others = [abs(n) for axis, n in enumerate(spec.shape) if axis != member.axis]
                size = int(np.prod(others, dtype=np.int64))
                size *= NUMPY_DTYPES[spec.datatype].itemsize
                yield size * edges[min(level, len(edges) - 1)]

    return sum(sizes())


def _lengths(padding: Padding, feeds: Feeds, filled_up: Feeds) -> str:
    """For example "'tokens' of 3 filled up to 16"."""
    firsts = [members[0] for _, members in padding.groups]
    return ", ".join(
        f"'{one.name}' of {feeds[one.name].shape[one.axis]} filled up to "
        f"{filled_up[one.name].shape[one.axis]}"
        for one in firsts
    )
