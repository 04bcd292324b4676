"""What is tried on each model: every row of the table, refusals included."""

from __future__ import annotations

from typing import Final, NamedTuple


class Row(NamedTuple):
    """One row.

    Attributes:
        title: What a reader calls it.
        recipe: The steps, as in `hone.yaml`.
        optimize: The figure that must become better.
    """

    title: str
    recipe: str
    optimize: str = "latency_p50"


_INT8: Final = (
    Row("dynamic int8", "[dynamic_int8]"),
    Row("static int8", "[static_int8]"),
    Row("static int8, first layer in floating point", "[{static_int8: {skip_first: true}}]"),
    Row("session tuned", "[tune_session]"),
)

ROWS: Final[dict[str, tuple[Row, ...]]] = {"tutorial": _INT8, "resnet8": _INT8}
