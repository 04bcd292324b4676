"""What an operator says of inputs that may be filled up to a common length (`hone.yaml`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from optimizers.contract.documents import Document, Path, shown, shown_key, unknown_key

_KEYS: Final = ("axis", "value", "edges", "mask")
_TRIM_KEYS: Final = ("axis", "like")
_MOST_INPUTS: Final = 32
_MOST_EDGES: Final = 32
_LARGEST_EDGE: Final = 1 << 24
_LARGEST_AXIS: Final = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedInput:
    """How one input is filled up.

    Attributes:
        axis: Along which, 1 or more; the first axis holds the rows.
        edges: The lengths to fill up to, ascending, at least 1; what is longer stays as it is.
        value: What is filled in.
        mask: The input that tells what is real, which gets 0 along the same axis; "" for none.
    """

    axis: int
    edges: tuple[int, ...]
    value: int | float = 0
    mask: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedOutput:
    """An output that is as long as an input.

    Attributes:
        axis: Along which, 1 or more.
        like: The padded input to whose own length it is cut back.
    """

    axis: int
    like: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingPolicy:
    """Which inputs are filled up, and which outputs are cut back. Empty: none.

    Attributes:
        inputs: By name. Those with equal edges have one length in common.
        trim: By the output's name.
    """

    inputs: dict[str, PaddedInput] = field(default_factory=dict)
    trim: dict[str, TrimmedOutput] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inputs)


def padding_policy(document: Document, top: Mapping[str, object]) -> PaddingPolicy:
    """Read the keys `padding` and `trim`, where they are.

    Args:
        document: A `hone.yaml`.
        top: Its outermost mapping.

    Raises:
        InvalidDocument: It names the file, the line, the key and what was expected.
    """
    entries = document.mapping(("padding",)) if "padding" in top else {}
    if len(entries) > _MOST_INPUTS:
        raise document.error(("padding",), f"expected at most {_MOST_INPUTS} inputs")
    inputs = {name: _input(document, ("padding", name)) for name in entries}
    for name, padded in inputs.items():
        _check_mask(document, inputs, name, padded)
    trimmed = document.mapping(("trim",)) if "trim" in top else {}
    trim = {
        name: _output(document, ("trim", name), entry, inputs) for name, entry in trimmed.items()
    }
    return PaddingPolicy(inputs=inputs, trim=trim)


def _input(document: Document, path: Path) -> PaddedInput:
    entries = document.mapping(path, _KEYS)
    for key in ("axis", "edges"):
        if key not in entries:
            raise document.error(
                path, f"'{key}' is missing; expected for example {{axis: 1, edges: [16, 32, 64]}}"
            )
    return PaddedInput(
        axis=_axis(document, (*path, "axis"), entries["axis"]),
        edges=_edges(document, (*path, "edges"), entries["edges"]),
        value=_value(document, (*path, "value"), entries.get("value", 0)),
        mask=_mask(document, (*path, "mask"), entries["mask"]) if "mask" in entries else "",
    )


def _axis(document: Document, path: Path, value: object) -> int:
    if not _is_whole(value, 1, _LARGEST_AXIS):
        raise document.error(
            path,
            f"expected a number from 1 to {_LARGEST_AXIS} (axis 0 holds the rows), "
            f"got {shown(value)}",
        )
    return value


def _edges(document: Document, path: Path, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_EDGES:
        raise document.error(
            path, f"expected a list of 1 to {_MOST_EDGES} lengths, got {shown(value)}"
        )
    former = 0
    for index, edge in enumerate(value):
        if not _is_whole(edge, 1, _LARGEST_EDGE):
            raise document.error(
                (*path, index), f"expected a length from 1 to {_LARGEST_EDGE}, got {shown(edge)}"
            )
        if edge <= former:
            raise document.error((*path, index), f"expected more than {former}, got {edge}")
        former = edge
    return tuple(value)


def _value(document: Document, path: Path, value: object) -> int | float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise document.error(path, f"expected a number, got {shown(value)}")
    return int(value) if isinstance(value, bool) else value


def _mask(document: Document, path: Path, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise document.error(path, f"expected the name of an input, got {shown(value)}")
    return value


def _check_mask(
    document: Document, inputs: dict[str, PaddedInput], name: str, padded: PaddedInput
) -> None:
    path = ("padding", name, "mask")
    if padded.mask in inputs:
        line = document.line(("padding", padded.mask))
        raise document.error(
            path,
            f"'{shown_key(padded.mask)}' is filled with 0 as a mask; remove its own entry "
            f"(line {line}) or this key",
        )
    for other, earlier in inputs.items():
        if other == name:
            return
        apart = (earlier.axis, earlier.edges) != (padded.axis, padded.edges)
        if padded.mask and padded.mask == earlier.mask and apart:
            raise document.error(
                path,
                f"'{shown_key(padded.mask)}' is also the mask of '{shown_key(other)}', which has "
                "another axis or other edges; expected the same",
            )


def _output(
    document: Document, path: Path, entry: object, inputs: dict[str, PaddedInput]
) -> TrimmedOutput:
    if not inputs:
        raise document.error(path, "no input is padded; expected inputs under 'padding'")
    if not isinstance(entry, dict):
        axis = _axis(document, path, entry)
        if len({padded.edges for padded in inputs.values()}) > 1:
            raise document.error(
                path,
                "the padded inputs have lengths of their own; expected {axis: "
                f"{axis}, like: INPUT}} with one of {shown_key(', '.join(inputs))}",
            )
        return TrimmedOutput(axis=axis, like=next(iter(inputs)))
    entries = document.mapping(path, _TRIM_KEYS)
    for key in _TRIM_KEYS:
        if key not in entries:
            raise document.error(path, f"'{key}' is missing; expected {{axis: 1, like: INPUT}}")
    axis, like = _axis(document, (*path, "axis"), entries["axis"]), entries["like"]
    if not isinstance(like, str) or like not in inputs:
        raise document.error((*path, "like"), unknown_key(str(like), inputs, "padded input"))
    return TrimmedOutput(axis=axis, like=like)


def _is_whole(value: object, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
