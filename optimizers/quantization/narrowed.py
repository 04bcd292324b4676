"""The account of what was narrowed in a model, and of what was left alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from optimizers.quantization.nbits import Floats, NarrowWeight


@dataclass(slots=True)
class Narrowed:
    """What became of the nodes that were looked at.

    Attributes:
        names: Of those whose weight is narrow now.
        left: Name of one that was left alone → why.
        before_bytes: What the weights of `names` took, shared ones counted once.
        after_bytes: What they take.
        squared: Sum of the squares of those weights.
        squared_errors: Sum of the squares of what they are off by now.
    """

    names: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    before_bytes: int = 0
    after_bytes: int = 0
    squared: float = 0.0
    squared_errors: float = 0.0

    def count(self, weight: Floats, narrow: NarrowWeight) -> None:
        """Add one weight that became narrow."""
        self.before_bytes += weight.nbytes
        self.after_bytes += narrow.stored_bytes
        self.squared += float(np.square(weight, dtype=np.float64).sum())
        off = np.square(narrow.widened() - weight, dtype=np.float64)
        self.squared_errors += float(off.sum())
