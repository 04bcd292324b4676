"""The gate's items judge; whatever a step has seen of them would judge itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from optimizers.calibration import (
    HOLD_GROUPS,
    Arrays,
    Groups,
    item_count,
    load_groups,
    load_in_parts,
    open_data,
)
from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import Signature

GATE: Final = "gate"

_DIGEST_BYTES: Final = 16
_ITEMS_AT_ONCE: Final = 64
_USE_NOTHING_TWICE: Final = "what judges a variant must not have had a part in making it"


def check_disjoint(
    data: Mapping[str, Path],
    digests: Mapping[str, str],
    signature: Signature,
    judging: str = GATE,
) -> None:
    """Make sure that the data that judges shares no item and no cluster with any other.

    Clusters are known by the names in `groups`. Where the gate names some, every other file of a
    kind that can has to; of one that cannot, only the items are compared (`not_compared`).

    Args:
        data: Purpose → file; nothing is checked without that which judges.
        digests: Purpose → sha256 of the same file.
        signature: The model's; an item is what goes into all of its inputs.
        judging: The purpose that judges: the gate's, or the search's, which is compared with
            what steps learn from.

    Raises:
        InvalidData: Two files are the same or share items or clusters, one names no groups and
            should, or one does not fit the model.
    """
    others = {name: path for name, path in data.items() if name not in (GATE, judging)}
    if judging not in data or not others:
        return
    judge = f"data.{judging} ({data[judging].name})"
    for name in others:
        if digests[name] == digests[judging]:
            raise InvalidData(
                f"{judge} and data.{name} ({others[name].name}) share all of "
                f"their items; {_USE_NOTHING_TWICE}"
            )
    of_gate = _items_of(data[judging], signature)
    for name, path in others.items():
        seen = {item: index for index, item in reversed([*enumerate(_items_of(path, signature))])}
        shared = [(index, seen[item]) for index, item in enumerate(of_gate) if item in seen]
        if shared:
            where, there = shared[0]
            raise InvalidData(
                f"{len(shared)} of the {len(of_gate)} items of {judge} are "
                f"in data.{name} ({path.name}) as well, the first in "
                f"{_row(data[judging], signature, where)} of the {judging}'s and "
                f"{_row(path, signature, there)} of the other; {_USE_NOTHING_TWICE}"
            )
    groups = load_groups(data[judging], signature)
    if groups is not None:
        for name, path in others.items():
            _check_groups(judge, groups, f"data.{name} ({path.name})", path, signature)


def not_compared(data: Mapping[str, Path], signature: Signature) -> tuple[str, ...]:
    """What `check_disjoint` could not see: a sentence for each file that can hold no groups.

    Args:
        data: Purpose → file.
        signature: The model's.

    Raises:
        InvalidData: The gate's data does not fit the model.
    """
    mute = [name for name, path in data.items() if path.suffix not in HOLD_GROUPS]
    if GATE not in data or not mute or load_groups(data[GATE], signature) is None:
        return ()
    return tuple(
        f"no item of data.gate is in data.{name}; whether a group is cannot be seen, as "
        f"{data[name].name} is of a kind that holds no `groups`"
        for name in mute
    )


def _check_groups(
    judging: str, groups: Groups, said: str, path: Path, signature: Signature
) -> None:
    if path.suffix not in HOLD_GROUPS:
        return
    there = load_groups(path, signature)
    if there is None:
        raise InvalidData(
            f"{judging} names groups and {said} names none, so that a group which is in "
            f"both would not be found; expected `groups`, one per item, in {path.name} as well"
        )
    shared = np.intersect1d(groups, there)
    if shared.size:
        raise InvalidData(
            f"{shared.size} of the {len(np.unique(groups))} groups of {judging} are in "
            f"{said} as well, the first is '{shared[0]}'; split by group, as "
            f"{_USE_NOTHING_TWICE}"
        )


def _row(path: Path, signature: Signature, index: int) -> str:
    with open_data(path, signature) as file:
        return file.row(index)


def _items_of(path: Path, signature: Signature) -> list[bytes]:
    return [
        _digest(items, index)
        for items in load_in_parts(path, signature, _ITEMS_AT_ONCE)
        for index in range(item_count(items))
    ]


def _digest(items: Arrays, index: int) -> bytes:
    """Of an item's shapes and contents in every input, in the signature's order."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for array in items.values():
        one = array[index : index + 1]
        digest.update(repr(one.shape).encode())
        content = repr(one.tolist()).encode() if one.dtype.hasobject else one.tobytes()
        digest.update(content)
    return digest.digest()
