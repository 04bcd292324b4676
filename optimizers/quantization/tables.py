"""Tables of embeddings in 8 bits: w = (q - 128) s with s = max |w| / 127 of each block of a row."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from optimizers.contract.quantization import NARROW_BLOCKS
from optimizers.graph import load_named
from optimizers.quantization.narrowed import Narrowed
from optimizers.quantization.narrowing import Narrowing
from optimizers.quantization.nbits import Floats, NarrowWeight, in_blocks, narrow_weight

_BITS: Final = 8
_ZERO: Final = 128
_LARGEST: Final = 127


def narrow_tables(model: Path, excluded: Collection[str]) -> Narrowed:
    """Narrow, in its file, the tables that a model's Gather pick rows from.

    Args:
        model: A file that may be changed.
        excluded: Names of nodes to leave alone.

    Returns:
        Which nodes read narrow tables now, and which were left alone and why.
    """
    narrowing = Narrowing(load_named(model), lambda weight, _: _in_eight_bits(weight))
    narrowing.embeddings(excluded)
    if narrowing.result.names:
        onnx.save(narrowing.finish(), str(model))
    return narrowing.result


def _in_eight_bits(table: Floats) -> NarrowWeight:
    """A table [width, rows], in the largest blocks that a row can be cut into."""
    width = len(table)
    fitting = [size for size in NARROW_BLOCKS if width % size == 0]
    blocks = np.nan_to_num(in_blocks(table, max(fitting, default=min(NARROW_BLOCKS))))
    scales = np.abs(blocks).max(axis=2) / np.float32(_LARGEST)
    steps = np.where(scales > 0, scales, np.float32(1))
    codes = (np.rint(blocks / steps[:, :, None]) + _ZERO).astype(np.uint8)
    return narrow_weight(codes, scales, width, _BITS)
