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
    Row("session set: an arena", "[set_session: {arena: true}]"),
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

_RATES: Final = "clip_norm: 1, weight_decay: 0, schedule: cosine, warm_up: 0.1"
_TAUGHT: Final = f"distill: {{training: {{epochs: 1, learning_rate: 0.0001, {_RATES}}}}}"
_FEED_FORWARD: Final = '"*.up/*", "*.down/*"'
_FEW_VALUES: Final = (
    f"include: [{_FEED_FORWARD}], training: {{epochs: 1, learning_rate: 0.0005, {_RATES}}}"
)
_TABLES: Final = "embeddings: true"
_MOST_SENSITIVE: Final = "layers.0.down/MatMul"
"""Left in floating point it brings back a fifth of the cosine that dynamic int8 loses on the
search's sentences; of the 23 other products none brings back a ninth."""

_SENTENCES: Final = (
    Row("merge", "[merge]"),
    Row("two blocks dropped, distilled", f"[drop_layers: {{count: 2}}, {_TAUGHT}]"),
    Row("three heads of twelve dropped", "[drop_heads: {count: 3}]"),
    Row("low rank", "[low_rank: {by: rank, keep: 0.4}]"),
    Row("dynamic int8", "[dynamic_int8]"),
    Row("dynamic int8, tables too", f"[dynamic_int8: {{{_TABLES}}}]"),
    Row(
        "merge, dynamic int8, tables too",
        f"[merge: {{which: [parallel]}}, dynamic_int8: {{{_TABLES}}}]",
    ),
    Row(
        "merge, dynamic int8, tables too, one product in blocks",
        f"[merge: {{which: [parallel]}}, "
        f"dynamic_int8: {{{_TABLES}, exclude: [{_MOST_SENSITIVE}]}}, "
        f"weights_nbits: {{bits: 8, block_size: 128, include: [{_MOST_SENSITIVE}]}}]",
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
    Row(
        "ternary weights in feed-forward layers, trained", f"[ternarize: {{{_FEW_VALUES}}}]", "size"
    ),
    Row("binary weights in feed-forward layers, trained", f"[binarize: {{{_FEW_VALUES}}}]", "size"),
    Row("fp16", "[fp16]", "size"),
)

_CORRECTED: Final = "static_int8: {correct_bias: true}"
_LITE: Final = (
    Row("static int8", "[static_int8]"),
    Row("static int8, biases corrected", f"[{_CORRECTED}]"),
    Row(
        "static int8, five nodes in float, biases corrected",
        "[static_int8: {keep_float: 5, rank_seconds: 120, correct_bias: true}]",
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
        _pruned(50, 10),
        _pruned(50, 10, int8=True),
        *_INTEGER,
    ),
    "minilm": _SENTENCES,
    "efficientnet": _LITE,
}
