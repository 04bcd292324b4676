"""Steps that store weights or activations in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict

from optimizers.contract.declaration import (
    FASTER,
    SMALLER,
    Choice,
    Declaration,
    Effect,
    Need,
    Place,
    Real,
)
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.stage import Stage
from optimizers.contract.training import TRAINING_RANGES, Training


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicInt8:
    """Quantise the weights of matrix products to int8; activations are scaled at run time.

    Attributes:
        per_channel: One weight scale per output channel instead of one per tensor.
        reduce_range: 7-bit weights, which cannot saturate on CPUs without VNNI.
            "auto" decides by the CPU that builds.
        embeddings: Whether tables that a Gather picks rows from are stored in 8 bits, too.
        exclude: Names of nodes to leave alone.
    """

    per_channel: bool = True
    reduce_range: bool | Literal["auto"] = "auto"
    embeddings: bool = False
    exclude: tuple[str, ...] = ()

    stage: ClassVar[Stage] = Stage.INTEGER
    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        ranges={"per_channel": Choice((True, False)), "embeddings": Choice((False, True))},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticInt8:
    """Quantise weights and activations to int8 with ranges measured on calibration data.

    Attributes:
        scheme: Activation and weight types. "auto": U8S8 on x86, S8S8 on Arm.
        per_channel: One weight scale per output channel.
        reduce_range: 7-bit weights; "auto": where the CPU has no VNNI and would saturate.
        calibration: How a range is chosen from the values seen.
        percentile: With calibration percentile, the share of values kept, in (50, 100].
        samples: At most so many calibration items, drawn from all, at least 1.
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
    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        needs=frozenset({Need.CALIBRATION}),
        ranges={
            "calibration": Choice(("minmax", "entropy", "percentile")),
            "skip_first": Choice((False, True)),
            "equalize": Choice((False, True)),
            "correct_bias": Choice((False, True)),
        },
    )
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


NARROW_BLOCKS: Final = (16, 32, 64, 128, 256)
"""Block sizes for which onnxruntime has kernels."""
_FAST_BLOCKS: Final = NARROW_BLOCKS[1:]
"""2 bits in blocks of 16 have a kernel that is some twenty times slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsNbits:
    """Store the weights of matrix products in a few bits; activations stay floating point.

    Attributes:
        bits: Of each weight: 8, 4 or 2.
        block_size: Weights of one column that share a scale: 16, 32, 64, 128 or 256.
        symmetric: Whether zero is in the middle of the codes; otherwise each block has a zero
            point, which takes `bits` more. With hqq there always is one, with gptq never.
        algorithm: `rtn` rounds to nearest; `hqq` looks for zero points that leave a sparse error,
            4 bits only; `gptq` makes up for errors by calibration data.
        samples: With gptq, at most so many calibration items, drawn from all, at least 1.
        embeddings: Whether tables that a Gather picks rows from are stored so, too.
        include: Names of the only nodes to touch, or patterns such as `*ffn*`; all when empty.
        exclude: Names of nodes to leave alone, or patterns.
        training: With rtn, how the model is trained through the rounding to answer like the
            original; None: it is not.
        temperature: Softens the classes of both in training, above 0.
    """

    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    algorithm: Literal["rtn", "hqq", "gptq"] = "rtn"
    samples: int = 128
    embeddings: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    training: Training | None = None
    temperature: float = 1.0

    stage: ClassVar[Stage] = Stage.INTEGER
    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        ranges={
            "bits": Choice((8, 4)),
            "block_size": Choice((32, 64, 128)),
            "embeddings": Choice((False, True)),
        },
    )

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise InvalidDocument(f"weights_nbits.bits must be 2, 4 or 8, got {self.bits}")
        _check_block_size("weights_nbits", self.block_size, NARROW_BLOCKS)
        if self.algorithm == "hqq" and self.bits != 4:
            raise InvalidDocument(f"weights_nbits.bits must be 4 with hqq, got {self.bits}")
        if self.samples < 1:
            raise InvalidDocument(f"weights_nbits.samples must be at least 1, got {self.samples}")
        if self.algorithm != "rtn" and self.embeddings:
            raise InvalidDocument(
                f"weights_nbits.embeddings must be false with {self.algorithm}, got true"
            )
        if self.algorithm == "gptq" and not self.symmetric:
            raise InvalidDocument("weights_nbits.symmetric must be true with gptq, got false")
        if self.algorithm != "rtn" and self.training is not None:
            raise InvalidDocument(
                f"weights_nbits.algorithm must be rtn with training, got {self.algorithm}"
            )
        _check_temperature("weights_nbits", self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FewValues:
    """Make the weights of matrix products a few values per block of each column.

    Attributes:
        block_size: Weights of one column that share a number: 32, 64, 128 or 256.
        include: Names of the only nodes to touch, or patterns such as `*ffn*`; all when empty.
        exclude: Names of nodes to leave alone, or patterns.
        training: How the model is trained with such weights to answer like the original; None:
            it is not.
        temperature: Softens the classes of both in training, above 0.
    """

    block_size: int = 32
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    training: Training | None = None
    temperature: float = 1.0

    stage: ClassVar[Stage] = Stage.INTEGER

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        _check_block_size(name, self.block_size, _FAST_BLOCKS)
        _check_temperature(name, self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binarize(_FewValues):
    """Make the weights of matrix products plus or minus one number per block of each column."""

    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS,
        effect=Effect.LOSSY,
        improves=SMALLER,
        ranges={"block_size": Choice((32, 64, 128))},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ternarize(_FewValues):
    """Make the weights of products 0 or plus or minus one number per block of each column."""

    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS,
        effect=Effect.LOSSY,
        improves=SMALLER,
        ranges={"block_size": Choice((32, 64, 128))},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp16:
    """Store weights and compute in float16; inputs and outputs of the model stay float32.

    Attributes:
        exclude: Names of nodes to leave in float32.
    """

    exclude: tuple[str, ...] = ()

    stage: ClassVar[Stage] = Stage.INTEGER
    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS, effect=Effect.LOSSY, improves=SMALLER
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bf16:
    """Store weights and compute in bfloat16, where the provider can: cuda and tensorrt.

    Inputs and outputs of the model stay float32.
    """

    stage: ClassVar[Stage] = Stage.INTEGER
    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        needs=frozenset({Need.CUDA}),
    )


def _check_temperature(step: str, temperature: float) -> None:
    if not temperature > 0:
        raise InvalidDocument(f"{step}.temperature must be above 0, got {temperature}")


def _check_block_size(step: str, block_size: int, known: tuple[int, ...]) -> None:
    if block_size not in known:
        listed = ", ".join(map(str, known))
        raise InvalidDocument(f"{step}.block_size must be one of {listed}, got {block_size}")


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
    declares: ClassVar[Declaration] = Declaration(
        place=Place.NUMBERS,
        effect=Effect.RETRAINS,
        improves=FASTER | SMALLER,
        needs=frozenset({Need.CALIBRATION, Need.TRAINING}),
        ranges={**TRAINING_RANGES, "training.learning_rate": Real(1e-5, 1e-3, log=True)},
    )

    def __post_init__(self) -> None:
        _check_temperature("quantize_aware", self.temperature)
