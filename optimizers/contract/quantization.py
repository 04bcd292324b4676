"""Steps that store weights or activations in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.stage import Stage
from optimizers.contract.training import Training


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

    stage: ClassVar[Stage] = Stage.INTEGER


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
        keep_float: Leave at most so many of the most sensitive nodes in floating point; at least
            0, which looks for none.
        rank_seconds: No further node is tried for `keep_float` after so long, above 0.
        equalize: Give the channels between consecutive layers like ranges first.
        correct_bias: Take the mean shift of each layer's outputs off its bias afterwards.
    """

    scheme: Literal["auto", "u8s8", "u8u8", "s8s8"] = "auto"
    per_channel: bool = True
    reduce_range: bool | Literal["auto"] = "auto"
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.999
    samples: int = 512
    exclude: tuple[str, ...] = ()
    skip_first: bool = False
    keep_float: int = 0
    rank_seconds: float = 300.0
    equalize: bool = False
    correct_bias: bool = False

    stage: ClassVar[Stage] = Stage.INTEGER
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise InvalidDocument(
                f"static_int8.percentile must be in (50, 100], got {self.percentile}"
            )
        if self.samples < 1:
            raise InvalidDocument(f"static_int8.samples must be at least 1, got {self.samples}")
        if self.keep_float < 0:
            raise InvalidDocument(
                f"static_int8.keep_float must be at least 0, got {self.keep_float}"
            )
        if not self.rank_seconds > 0:
            raise InvalidDocument(
                f"static_int8.rank_seconds must be above 0, got {self.rank_seconds}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeAware:
    """Quantise to int8 and train the model through the rounding, to answer like the original.

    Attributes:
        int8: How it is quantised; the ranges that calibration finds stay.
        temperature: Softens the classes of both, above 0; for classification only.
        training: The strategy; small learning rates suit.
    """

    int8: StaticInt8 = field(default_factory=StaticInt8)
    temperature: float = 1.0
    training: Training = field(default_factory=lambda: Training(learning_rate=1e-4))

    stage: ClassVar[Stage] = Stage.INTEGER

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InvalidDocument(
                f"quantize_aware.temperature must be above 0, got {self.temperature}"
            )
