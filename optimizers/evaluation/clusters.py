"""Items that belong together count as one: crops of a photograph, sentences of a document.

Bounds are for independent draws. Items of one cluster are not, but clusters drawn for themselves
are, so that everything is counted by cluster. What is bounded then is the mean over clusters of the
mean within each, that is, of a random item of a random cluster: a cluster weighs the same however
many items it has. The means are independent and lie where the items do, which is all that the
bound by betting needs (Waudby-Smith and Ramdas, JRSSB 86, 2024); nothing is assumed of how items
of a cluster hang together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import Groups
from optimizers.contract.evaluation import Estimate
from optimizers.evaluation.bounds import Numbers, mean_interval, quantile_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Which items belong together.

    Attributes:
        places: Of each item, the number of its cluster, counted from 0 without gaps.
        sizes: Of each cluster, how many items it has.
    """

    places: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def text(self) -> str:
        """For people."""
        return f"by {len(self.sizes)} clusters of {len(self.places)} items"

    def mean_interval(
        self, values: NDArray[Any], low: float, high: float, alpha: float
    ) -> Estimate:
        """Bounds of the mean over clusters of the mean within: k^-1 sum_c n_c^-1 sum_i x_ci.

        Args:
            values: One per item, in [low, high]; numbers or claims.
            low: Smallest possible value.
            high: Largest possible value.
            alpha: Error probability of each bound.
        """
        sums = np.bincount(self.places, weights=np.asarray(values, dtype=np.float64))
        return mean_interval(sums / self.sizes, low, high, alpha)

    def quantile_interval(self, values: Numbers, share: float, alpha: float) -> Estimate:
        """Bounds of a quantile of each cluster's smallest value.

        An item is at least its cluster's smallest, so that the lower bound holds for the quantile
        of a random item of a random cluster as well; it is a cautious one.

        Args:
            values: One per item.
            share: Which quantile, in (0, 1).
            alpha: Error probability of each bound.
        """
        smallest = np.full(len(self.sizes), np.inf)
        np.minimum.at(smallest, self.places, values)
        return quantile_interval(smallest, share, alpha)


def clusters_of(groups: Groups) -> Clusters:
    """Items of one name are one cluster."""
    _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return Clusters(places=places.astype(np.int64), sizes=sizes.astype(np.int64))
