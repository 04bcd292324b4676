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


_TRAINING: Final = "training: {epochs: 10, learning_rate: 0.01}"
_GENTLE: Final = "training: {epochs: 2, learning_rate: 0.0003}"
_DISTIL: Final = f"distill: {{batch_norm: true, {_TRAINING}}}"

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
_PRUNED: Final = tuple(
    Row(
        f"prune channels {share} %, distilled", f"[prune_channels: {{ratio: 0.{share}}}, {_DISTIL}]"
    )
    for share in (30, 50)
)
_PRUNED_INT8: Final = Row(
    "prune channels 50 %, distilled, static int8",
    f"[prune_channels: {{ratio: 0.50}}, {_DISTIL}, static_int8]",
    "size",
)

_CORRECTED: Final = "static_int8: {correct_bias: true}"
_LITE: Final = (
    Row("static int8", "[static_int8]"),
    Row("static int8, biases corrected", f"[{_CORRECTED}]"),
    Row(
        "static int8, five nodes in float, biases corrected",
        "[static_int8: {keep_float: 5, correct_bias: true}]",
    ),
    Row(
        "quantisation-aware training",
        "[quantize_aware: {int8: {correct_bias: true}, training: {epochs: 1, batch_size: 32, "
        "learning_rate: 0.00001, weight_decay: 0}}]",
    ),
    Row("4-bit weights", "[weights_nbits: {bits: 4}]", "size"),
    Row("fp16", "[fp16]", "size"),
    Row("session tuned for memory", "[tune_session]", "memory"),
    Row(
        "static int8, biases corrected, session tuned for memory",
        f"[{_CORRECTED}, tune_session]",
        "memory",
    ),
)

ROWS: Final[dict[str, tuple[Row, ...]]] = {
    "tutorial": (*_PRUNED, *_SINGLE),
    "resnet8": (
        *_PRUNED,
        _PRUNED_INT8,
        *(row for row in _SINGLE if row.title.startswith(("static", "quantisation", "dynamic"))),
    ),
    "efficientnet": _LITE,
}
