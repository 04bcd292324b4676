"""Single ideas: which steps, and the numbers that speak for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

from optimizers.contract.amounts import byte_count, percent, time_span
from optimizers.contract.architecture import DropHeads, DropLayers, Grow, LowRank, Merge, Simplify
from optimizers.contract.distillation import Finetune
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import (
    DynamicInt8,
    Fp16,
    QuantizeAware,
    StaticInt8,
    WeightsNbits,
)
from optimizers.contract.recipe import Recipe
from optimizers.contract.steps import Step
from optimizers.contract.training import Training
from optimizers.contract.tuning import TuneSession
from optimizers.planner.fitting import as_allowed, numbers
from optimizers.planner.reading import CONVOLUTIONS, PRODUCTS, Aim, Reading
from optimizers.planner.training import distilled, epochs, said

_MANY_HEADS: Final = 8
_HALF: Final = 0.5
_TABLE: Final = 0.1
_BLOCKS_A_CUT: Final = 6
_MOST_CUTS: Final = 3


@dataclass(frozen=True, slots=True)
class Idea:
    """Steps and why, and what goes into the same recipe; in any order.

    Attributes:
        own: Steps that one reason speaks for; none for a mere remark.
        reason: It.
        others: What goes with it.
    """

    own: tuple[Step, ...]
    reason: str
    others: tuple[Idea, ...] = ()

    def __add__(self, other: Idea) -> Idea:
        """Both in one recipe."""
        return replace(self, others=(*self.others, other))

    @property
    def parts(self) -> tuple[Idea, ...]:
        """Itself and what goes with it, each without others."""
        return replace(self, others=()), *(part for one in self.others for part in one.parts)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Of all parts."""
        return tuple(step for part in self.parts for step in part.own)

    def why(self, recipe: Recipe) -> str:
        """What speaks for those of its steps that a recipe has."""
        kinds = {type(step) for step in recipe.steps}
        return "; ".join(
            part.reason
            for part in self.parts
            if not part.own or not kinds.isdisjoint(map(type, part.own))
        )


def static_int8(reading: Reading, *, careful: bool = False) -> Idea:
    """Convolutions and products in integers, with ranges measured beforehand."""
    return _static_int8(reading, StaticInt8(skip_first=careful, correct_bias=careful))


def corrected_int8(reading: Reading) -> Idea:
    """As `static_int8`, for nets whose layers have few inputs each: errors do not cancel."""
    return _static_int8(reading, StaticInt8(correct_bias=True))


def _static_int8(reading: Reading, wanted: StaticInt8) -> Idea:
    step = as_allowed(wanted, reading.search)
    evidence, host = reading.evidence, reading.evidence.host
    scheme = "S8S8 on Arm" if host.is_arm else "U8S8"
    if not host.is_arm and not host.has_vnni:
        scheme += " with 7-bit weights, for this processor has no VNNI"
    reason = (
        f"{_both(reading)}: int8 in {scheme}, weights of {evidence.weight_bits} bits become 8, "
        f"ranges from {evidence.data.get('calibration', 0)} items"
    )
    if step.skip_first:
        reason += "; the first layer in floating point"
    if step.correct_bias:
        reason += "; biases corrected"
    return Idea((step,), reason)


def dynamic_int8(reading: Reading) -> Idea:
    """Products in integers, activations scaled as they come."""
    evidence = reading.evidence
    tables = reading.wants_less and reading.table_share >= _TABLE
    step = as_allowed(DynamicInt8(embeddings=tables), reading.search)
    reason = f"{_products(reading)}: int8 products, activations scaled at run time"
    if step.embeddings:
        reason += (
            f"; tables of embeddings are {percent(reading.table_share)} of "
            f"{byte_count(evidence.weight_bytes)} of weights, so they are stored in 8 bits too"
        )
    return Idea((step,), reason)


def narrow_weights(reading: Reading, bits: int) -> Idea:
    """Weights in a few bits, activations as they are."""
    evidence = reading.evidence
    tables = reading.table_share >= _TABLE
    step = as_allowed(WeightsNbits(bits=bits, embeddings=tables), reading.search)
    reason = (
        f"{byte_count(evidence.weight_bytes)} of weights against "
        f"{byte_count(evidence.activation_bytes)} of activations an item: weights in {step.bits} "
        "bits"
    )
    if step.embeddings:
        reason += f", tables ({percent(reading.table_share)} of them) as well"
    return Idea((step,), reason)


def pruned(reading: Reading) -> Idea:
    """Channels taken out, as many as the goal asks for, and the answers won back."""
    ratio, why = _ratio(reading)
    what, channels = _products(reading), reading.channels
    if reading.convolves:
        what = _convolutions(reading)
        what += f", channels {channels[0]}…{channels[-1]}" if channels else ""
    plain = PruneChannels(ratio=ratio, round_to=reading.round_to)
    step = as_allowed(plain, reading.search)
    reason = f"{what}: prune_channels takes {percent(step.ratio)} ({why}), round_to {step.round_to}"
    return Idea((step,), reason) + _distilled(reading)


def narrower_first(reading: Reading) -> Idea:
    """No step, only the reason why int8 comes later."""
    seen = f"depthwise convolutions are {percent(reading.depthwise)} of the time"
    if reading.gates:
        seen += f", and there are {reading.gates:.1f} gates for each convolution"
    return Idea((), f"{seen}: narrower before int8")


def shortened(reading: Reading) -> Idea:
    """Residual blocks left out, and the answers won back."""
    blocks = reading.evidence.residual_blocks
    count = max(1, min(_MOST_CUTS, blocks // _BLOCKS_A_CUT))
    step = as_allowed(DropLayers(count=count), reading.search)
    reason = f"{step.count} of {blocks} residual blocks left out, which change least"
    return Idea((step,), reason) + _distilled(reading)


def fewer_heads(reading: Reading) -> Idea:
    """Attention heads left out, and the answers won back."""
    heads = reading.evidence.attention_heads
    step = as_allowed(DropHeads(count=2 if min(heads) >= _MANY_HEADS else 1), reading.search)
    reason = f"{len(heads)} attentions of {min(heads)} heads or more: {step.count} left out of each"
    return Idea((step,), reason) + _distilled(reading)


def _distilled(reading: Reading) -> Idea:
    """What was lost, won back."""
    step = distilled(reading)
    return Idea((step,), f"distilled, {said(reading, step.training)}")


def low_rank(reading: Reading) -> Idea:
    """Products split into two narrow ones."""
    step = as_allowed(LowRank(), reading.search)
    reason = f"{_products(reading)}: {percent(step.keep)} of their energy in two narrow factors"
    return Idea((step,), reason)


def trained_int8(reading: Reading) -> Idea:
    """Int8, trained through the rounding."""
    step = QuantizeAware(
        training=Training(learning_rate=1e-4, epochs=epochs(reading, QuantizeAware))
    )
    items = reading.evidence.data.get("train", 0)
    return Idea((step,), f"int8 trained through the rounding on {items} items, to lose less")


def half(reading: Reading) -> Idea:
    """Floating point of 16 bits."""
    evidence = reading.evidence
    where = "which this provider computes in" if evidence.provider != "cpu" else "in the file only"
    return Idea((Fp16(),), f"{byte_count(evidence.weight_bytes)} of weights to half, {where}")


def lossless(reading: Reading) -> Idea:
    """What changes no answer, and not the file's form alone."""
    evidence = reading.evidence
    nodes = sum(one.nodes for one in evidence.operators)
    reason = (
        f"{nodes} nodes, {percent(evidence.outside_share)} of {time_span(evidence.item_s)} "
        "outside of them: fewer nodes with the same answers"
    )
    if evidence.has_batch_norm:
        reason += "; batch normalisation is left, which goes into the operator before"
    if evidence.attention_heads:
        reason += f"; products of one input in {len(evidence.attention_heads)} attentions merged"
    return Idea((Simplify(), Merge()), reason)


def merged(reading: Reading) -> Idea:
    """Products of one input, such as those of an attention, made one."""
    count = len(reading.evidence.attention_heads)
    return Idea((Merge(),), f"{count} attentions, whose three products become one each")


def tuned(reading: Reading) -> Idea:
    """The session as it measures best."""
    evidence = reading.evidence
    if reading.aim is Aim.MEMORY:
        held = byte_count(evidence.activation_bytes)
        reason = (
            f"{held} of activations an item: lanes weighed, and the arena off, which keeps them"
        )
    else:
        reason = f"an item takes {time_span(evidence.item_s)} alone"
        if evidence.batch > 1:
            reason += f" and {time_span(evidence.batch_item_s)} among {evidence.batch}"
        reason += f": threads, lanes, arena and level measured on {evidence.host.cpus} processors"
    return Idea((TuneSession(),), reason)


def taught(reading: Reading) -> Idea:
    """Trained further on labels, as it is."""
    items = reading.evidence.data.get("train", 0)
    step = Finetune(training=Training(learning_rate=1e-3, epochs=epochs(reading, Finetune)))
    return Idea((step,), f"accuracy is the aim, and {items} training items have labels")


def grown(reading: Reading) -> Idea:
    """Wider, which costs time."""
    step = as_allowed(Grow(wider=1.25), reading.search)
    return Idea((step,), f"{percent(step.wider - 1)} more units in every layer, to train")


def _ratio(reading: Reading) -> tuple[float, str]:
    """The least share of channels that leaves what the goal asks for, and why.

    Of two layers in a row, a share r of the channels gone leaves (1 - r)^2 of the multiplications;
    what is not computed by them stays.
    """
    ratios = numbers(PruneChannels, "ratio", reading.search) or [_HALF]
    share = max(reading.convolutions, reading.products)
    wishes = [(reading.time_wanted, "time", share), (reading.size_wanted, "size", 1.0)]
    if reading.aim is not Aim.SPEED:
        wishes.reverse()
    for wanted, what, present in wishes:
        if wanted is None:
            continue
        needed = 1 - sqrt(max(0.0, wanted - (1 - present)) / present) if present else 1.0
        ratio = next((one for one in ratios if one >= needed), ratios[-1])
        return ratio, f"the goal leaves {percent(wanted)} of the {what}"
    return _HALF, "half, for the goal names no gain"


def _both(reading: Reading) -> str:
    if reading.counts_bytes:
        stored = reading.evidence.bytes_of(*CONVOLUTIONS, *PRODUCTS)
        of_all = byte_count(reading.evidence.weight_bytes)
        return f"convolutions and products hold {byte_count(stored)} of {of_all} of weights"
    return (
        f"convolutions are {percent(reading.convolutions)} of the time and products "
        f"{percent(reading.products)}"
    )


def _convolutions(reading: Reading) -> str:
    if reading.counts_bytes:
        return f"Conv holds {byte_count(reading.evidence.bytes_of(*CONVOLUTIONS))} of weights"
    return f"Conv is {percent(reading.convolutions)} of the time"


def _products(reading: Reading) -> str:
    if reading.counts_bytes:
        return f"MatMul and Gemm hold {byte_count(reading.evidence.bytes_of(*PRODUCTS))} of weights"
    return f"MatMul and Gemm are {percent(reading.products)} of the time"
