"""Whether a peer runs as well as it can: a badly set up peer would flatter Hone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SHORTFALL: Final = 0.20

RAW_CPU_MS: Final[Mapping[str, float]] = {"tiny": 0.60, "lenet": 0.59}
"""Processor time of onnxruntime behind a bare grpcio handler for one request, 32 in flight."""

CPU_MS: Final[Mapping[str, Mapping[str, float]]] = {
    "kserve": {"tiny": 0.83, "lenet": 0.79},
    "mlserver": {"tiny": 1.00, "lenet": 1.40},
    "pytriton": {"tiny": 1.11, "lenet": 0.96},
    "litserve": {"tiny": 2.96, "lenet": 3.17},
}
"""Processor time of each peer's whole process tree for one request, 32 in flight."""

RAW_RATE: Final[Mapping[str, float]] = {"resnet18": 41}
"""Rows a second of onnxruntime alone, one row a run, best arrangement."""

RATE: Final[Mapping[str, Mapping[str, float]]] = {
    "kserve": {"resnet18": 31},
    "mlserver": {"resnet18": 24},
    "pytriton": {"resnet18": 37},
    "litserve": {"resnet18": 34},
}
"""Requests a second of each peer, 32 in flight.

All recorded on one machine: two processors (Zen 3, AVX2), onnxruntime 1.31.1, client and server
sharing them, settings as in the server files beside this one. Only shares are used, since machines
differ; of light models that of processor time, since what two processes get of two shared
processors is no property of either, and of a handler in Python, since machines on which Python is
as fast may run onnxruntime twice as fast.
"""


def recorded_share(peer: str, model: str) -> float | None:
    """How well the peer did against raw, as recorded; None where nothing was.

    Of light models raw's processor time over the peer's, of heavy ones the peer's rate over raw's.
    """
    cpu_ms = CPU_MS.get(peer, {}).get(model)
    if cpu_ms is not None:
        return RAW_CPU_MS[model] / cpu_ms
    rate = RATE.get(peer, {}).get(model)
    return None if rate is None else rate / RAW_RATE[model]


def expected_share(peer: str, model: str, raw_cpu_ms: float) -> float | None:
    """How well the peer should do here: as recorded, or less where raw itself is cheaper here.

    Where a grpcio handler costs a third, because threads hand over to each other more cheaply, a
    peer's own code costs what it did, and weighs more. With c the peer's and r raw's recorded
    processor time, and r' raw's here, its share is r' / (r' + c - r).

    Args:
        peer: Its name.
        model: The model's.
        raw_cpu_ms: What one request of a light model costs raw here.
    """
    recorded = recorded_share(peer, model)
    cpu_ms = CPU_MS.get(peer, {}).get(model)
    if recorded is None or cpu_ms is None:
        return recorded
    return min(recorded, raw_cpu_ms / (raw_cpu_ms + cpu_ms - RAW_CPU_MS[model]))


def too_slow(peer: str, model: str, share: float, expected: float | None) -> str | None:
    """What is wrong with such a share as it was measured now, or None."""
    if expected is None or share >= (1 - SHORTFALL) * expected:
        return None
    return (
        f"{peer} reaches {share:.3g} of the raw runtime on {model}, more than "
        f"{SHORTFALL:.0%} below the expected {expected:.3g}: its comparison is not fair"
    )
