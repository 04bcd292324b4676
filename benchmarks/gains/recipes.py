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


_GENTLE: Final = "training: {epochs: 2, learning_rate: 0.0003}"


def _distil(epochs: int, weight: float = 0.5) -> str:
    """The original's answers have so much of the loss, the labels the rest."""
    training = f"training: {{epochs: {epochs}, learning_rate: 0.01, batch_size: 128}}"
    return f"distill: {{batch_norm: true, weight: {weight}, {training}}}"


_SINGLE: Final = (
    Row("simplify", "[simplify]"),
    Row("merge", "[simplify, merge]"),
    Row("low rank", "[simplify, low_rank]"),
    Row("drop layers", "[simplify, drop_layers]"),
    Row("drop heads", "[simplify, drop_heads]"),
    Row("grow 1.5x, distilled", f"[grow, distill: {{{_GENTLE}}}]"),
    Row("prune weights 50 %", "[prune_weights: {ratio: 0.5}]", "size"),
    Row(
        "sparsify (l1), prune weights 80 %",
        f"[sparsify: {{penalty: l1, {_GENTLE}}}, prune_weights: {{ratio: 0.8}}]",
        "size",
    ),
    Row("finetune", f"[finetune: {{{_GENTLE}}}]", "accuracy"),
    Row("distill", f"[distill: {{{_GENTLE}}}]", "accuracy"),
    Row("dynamic int8", "[dynamic_int8]"),
    Row("static int8", "[static_int8]"),
    Row(
        "static int8, two nodes in float, biases corrected",
        "[static_int8: {keep_float: 2, correct_bias: true}]",
    ),
    Row("quantisation-aware training", f"[quantize_aware: {{{_GENTLE}}}]"),
    Row("8-bit weights", "[weights_nbits: {bits: 8}]", "size"),
    Row("4-bit weights", "[weights_nbits: {bits: 4}]", "size"),
    Row("binary weights", "[binarize]", "size"),
    Row("ternary weights", "[ternarize]", "size"),
    Row("fp16", "[fp16]", "size"),
    Row("bf16", "[bf16]", "size"),
    Row("session tuned", "[tune_session]"),
)


def _pruned(share: int, epochs: int, *, round_to: int = 8, int8: bool = False) -> Row:
    title = f"prune channels {share} %" + (f" to multiples of {round_to}" if round_to != 8 else "")
    steps = f"prune_channels: {{ratio: 0.{share}, round_to: {round_to}}}, {_distil(epochs)}"
    if int8:
        return Row(f"{title}, distilled, static int8", f"[{steps}, static_int8]", "size")
    return Row(f"{title}, distilled", f"[{steps}]")


_SHORTER_STEPS: Final = (
    f"drop_layers, prune_channels: {{ratio: 0.50, sensitivity: false}}, {_distil(20, 0.2)}"
)
_SHORTER: Final = (
    Row("drop one block, prune channels 50 %, distilled", f"[{_SHORTER_STEPS}]"),
    Row(
        "drop one block, prune channels 50 %, distilled, static int8",
        f"[{_SHORTER_STEPS}, static_int8]",
        "size",
    ),
)
_INTEGER: Final = tuple(
    row for row in _SINGLE if row.title.startswith(("static", "quantisation", "dynamic"))
)

ROWS: Final[dict[str, tuple[Row, ...]]] = {
    "tutorial": (
        _pruned(30, 8),
        _pruned(50, 8),
        _pruned(50, 8, round_to=4),
        *_SINGLE,
    ),
    "lenet": (_pruned(50, 8, round_to=4), *_INTEGER),
    "caffe_lenet": (
        _pruned(30, 6),
        _pruned(50, 6),
        _pruned(50, 6, int8=True),
        *_INTEGER,
    ),
    "resnet8": (
        *_SHORTER,
        _pruned(30, 10),
        _pruned(50, 10),
        _pruned(50, 10, int8=True),
        *_INTEGER,
    ),
}
