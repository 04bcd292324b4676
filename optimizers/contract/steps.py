"""The steps a recipe is made of: what a user may ask for, as typed values.

A step says what to do and checks its own parameters; the module of the technique says how.
Its name in files is the snake_case of its class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from optimizers.contract.errors import InvalidDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicInt8:
    """Quantise the weights of matrix products to int8; activations are scaled at run time.

    Attributes:
        per_channel: One weight scale per output channel instead of one per tensor.
        reduce_range: 7-bit weights, which cannot saturate on CPUs without VNNI.
            "auto" decides by the CPU that builds.
        exclude: Names of nodes to leave alone.
    """

    per_channel: bool = True
    reduce_range: bool | Literal["auto"] = "auto"
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticInt8:
    """Quantise weights and activations to int8 with ranges measured on calibration data.

    Attributes:
        scheme: Activation and weight types. "auto": U8S8 on x86, S8S8 on Arm.
        per_channel: One weight scale per output channel.
        reduce_range: 7-bit weights; "auto": where the CPU has no VNNI and would saturate.
        calibration: How a range is chosen from the values seen.
        percentile: With calibration percentile, the share of values kept, in (50, 100].
        samples: At most so many calibration items, at least 1.
        exclude: Names of nodes to leave alone.
        skip_first: Leave the first convolution or product in floating point.
    """

    scheme: Literal["auto", "u8s8", "u8u8", "s8s8"] = "auto"
    per_channel: bool = True
    reduce_range: bool | Literal["auto"] = "auto"
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.999
    samples: int = 512
    exclude: tuple[str, ...] = ()
    skip_first: bool = False

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise InvalidDocument(
                f"static_int8.percentile must be in (50, 100], got {self.percentile}"
            )
        if self.samples < 1:
            raise InvalidDocument(f"static_int8.samples must be at least 1, got {self.samples}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSession:
    """Measure session arrangements and keep the best for the profile's goal.

    The model file stays as it is. Each list is what may be tried; an empty one means every
    sensible value on this machine.

    Attributes:
        threads: Threads inside one run, each at least 1.
        arena: Whether the runtime may keep freed memory.
        optimization: Graph optimisation levels of onnxruntime.
    """

    threads: tuple[int, ...] = ()
    arena: tuple[bool, ...] = ()
    optimization: tuple[Literal["all", "extended", "basic", "disabled"], ...] = ()

    def __post_init__(self) -> None:
        if any(count < 1 for count in self.threads):
            raise InvalidDocument(
                f"tune_session.threads must each be at least 1, got {list(self.threads)}"
            )


Step = DynamicInt8 | StaticInt8 | TuneSession

STEP_TYPES: Final[tuple[type[Step], ...]] = (DynamicInt8, StaticInt8, TuneSession)


def step_name(step: Step | type[Step]) -> str:
    """The step's name in files: `StaticInt8` is `static_int8`."""
    name = step.__name__ if isinstance(step, type) else type(step).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


STEPS_BY_NAME: Final[dict[str, type[Step]]] = {step_name(kind): kind for kind in STEP_TYPES}
