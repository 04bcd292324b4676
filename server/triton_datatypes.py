"""Triton's enum of datatypes and the protocol's names for them."""

from __future__ import annotations

from typing import Final

from server.pb import model_config_pb2 as pb

DATATYPES: Final[dict[int, str]] = {
    value: "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")
    for name, value in pb.DataType.items()
    if name not in ("TYPE_INVALID", "TYPE_BF16")
}
"""Triton's enum of datatypes → the protocol's names."""


def datatype_name(number: int) -> str:
    """Triton's name of a datatype; of one that Triton does not have, its number."""
    return next((name for name, value in pb.DataType.items() if value == number), str(number))
