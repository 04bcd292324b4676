"""Whether a peer runs as well as it can: a badly set up peer would flatter Hone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SHORTFALL: Final = 0.20

RAW_RECORDED: Final[Mapping[str, float]] = {"tiny": 51_000, "lenet": 18_000, "resnet18": 41}
"""Rows a second of onnxruntime alone, in process, one row a run, best arrangement."""

RECORDED: Final[Mapping[str, Mapping[str, float]]] = {
    "kserve": {"tiny": 1_327, "lenet": 1_400, "resnet18": 31},
    "mlserver": {"tiny": 1_086, "lenet": 759, "resnet18": 24},
    "pytriton": {"tiny": 1_186, "lenet": 1_227, "resnet18": 37},
    "litserve": {"tiny": 509, "lenet": 460, "resnet18": 34},
}
"""Requests a second of each peer, 32 in flight, on the same machine with the same model files.

Two processors (Zen 3, AVX2), onnxruntime 1.31.1, client and server sharing them, settings as in the
server files beside this one. Only the ratios to raw are used: machines differ.
"""


def recorded_ratio(peer: str, model: str) -> float | None:
    """The peer's rate over raw's as recorded; None where nothing was recorded."""
    rate = RECORDED.get(peer, {}).get(model)
    return None if rate is None else rate / RAW_RECORDED[model]


def too_slow(peer: str, model: str, rate: float, raw: float) -> str | None:
    """What is wrong with a peer's rate, or None.

    Args:
        peer: Its name.
        model: Under load, 32 in flight.
        rate: Requests a second found.
        raw: Rows a second of onnxruntime alone in the same run, one row a run.
    """
    recorded = recorded_ratio(peer, model)
    if recorded is None or rate / raw >= (1 - SHORTFALL) * recorded:
        return None
    return (
        f"{peer} reaches {rate / raw:.3g} of the raw runtime on {model}, more than "
        f"{SHORTFALL:.0%} below the recorded {recorded:.3g}: its comparison is not fair"
    )
