"""Tables of embeddings in 8 bits, rounded to nearest in blocks of each row: see `nearest`."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Final

from optimizers.contract.quantization import NARROW_BLOCKS
from optimizers.graph import load_named, operator_names
from optimizers.quantization.coding import coded
from optimizers.quantization.narrowed import Narrowed
from optimizers.quantization.narrowing import Narrowing
from optimizers.quantization.nbits import Floats, NarrowWeight
from optimizers.quantization.nearest import nearest
from optimizers.saving import save

_BITS: Final = 8
_LARGEST_BLOCK: Final = 128
"""Larger blocks save no more than a fiftieth of a table."""


def narrow_tables(model: Path, excluded: Collection[str]) -> Narrowed:
    """Narrow, in its file, the tables that a model's Gather pick rows from.

    Args:
        model: A file that may be changed.
        excluded: Names of nodes to leave alone.

    Returns:
        Which nodes read narrow tables now, and which were left alone and why.
    """
    narrowing = Narrowing(load_named(model), lambda table, _: _in_eight_bits(table))
    narrowing.embeddings({*operator_names(model, ("Gather",))} - {*excluded})
    if narrowing.result.names:
        save(narrowing.finish(), model)
    return narrowing.result


def _in_eight_bits(table: Floats) -> NarrowWeight:
    """A table [width, rows], in the largest blocks that a row can be cut into."""
    fitting = [size for size in NARROW_BLOCKS if size <= _LARGEST_BLOCK and len(table) % size == 0]
    block_size = max(fitting, default=min(NARROW_BLOCKS))
    return coded(table, partial(nearest, bits=_BITS, block_size=block_size, symmetric=True))
