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

_RATES: Final = "clip_norm: 1, weight_decay: 0, schedule: cosine, warm_up: 0.1"
_TAUGHT: Final = f"distill: {{training: {{epochs: 1, learning_rate: 0.0001, {_RATES}}}}}"
_FEED_FORWARD: Final = '"*.up/*", "*.down/*"'
_TERNARY: Final = (
    f"include: [{_FEED_FORWARD}], training: {{epochs: 2, learning_rate: 0.0003, {_RATES}}}"
)
_BINARY: Final = (
    f"include: [{_FEED_FORWARD}], training: {{epochs: 2, learning_rate: 0.0005, {_RATES}}}"
)
_TABLES: Final = "embeddings: true"

_SENTENCES: Final = (
    Row("merge", "[merge]"),
    Row("two blocks dropped, distilled", f"[drop_layers: {{count: 2}}, {_TAUGHT}]"),
    Row("three heads of twelve dropped, distilled", f"[drop_heads: {{count: 3}}, {_TAUGHT}]"),
    Row("low rank, distilled", f"[low_rank: {{by: rank, keep: 0.4}}, {_TAUGHT}]"),
    Row("dynamic int8", "[dynamic_int8]"),
    Row("dynamic int8, tables too", f"[dynamic_int8: {{{_TABLES}}}]"),
    Row(
        "merge, dynamic int8, tables too",
        f"[merge: {{which: [parallel]}}, dynamic_int8: {{{_TABLES}}}]",
    ),
    Row(
        "8-bit weights and tables in blocks of 128",
        f"[weights_nbits: {{bits: 8, block_size: 128, {_TABLES}}}]",
    ),
    Row("8-bit weights and tables", f"[weights_nbits: {{bits: 8, {_TABLES}}}]", "size"),
    Row("4-bit weights and tables", f"[weights_nbits: {{bits: 4, {_TABLES}}}]", "size"),
    Row(
        "4-bit weights and tables, trained",
        f"[weights_nbits: {{bits: 4, {_TABLES}, "
        f"training: {{epochs: 1, learning_rate: 0.0001, batch_size: 128, {_RATES}}}}}]",
        "size",
    ),
    Row(
        "ternary weights in feed-forward layers",
        f"[ternarize: {{include: [{_FEED_FORWARD}]}}]",
        "size",
    ),
    Row("ternary weights in feed-forward layers, trained", f"[ternarize: {{{_TERNARY}}}]", "size"),
    Row("binary weights in feed-forward layers, trained", f"[binarize: {{{_BINARY}}}]", "size"),
    Row("fp16", "[fp16]", "size"),
)

ROWS: Final[dict[str, tuple[Row, ...]]] = {
    "tutorial": (*_PRUNED, *_SINGLE),
    "resnet8": (
        *_PRUNED,
        _PRUNED_INT8,
        *(row for row in _SINGLE if row.title.startswith(("static", "quantisation", "dynamic"))),
    ),
    "minilm": _SENTENCES,
}
