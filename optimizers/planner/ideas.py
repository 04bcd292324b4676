"""Single ideas: which steps, and the numbers that speak for them."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

from optimizers.contract.amounts import byte_count
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
from optimizers.contract.steps import Step
from optimizers.contract.training import Training
from optimizers.contract.tuning import TuneSession
from optimizers.planner.fitting import as_allowed, numbers
from optimizers.planner.reading import Aim, Reading
from optimizers.planner.training import distilled, epochs, said

_MANY_HEADS: Final = 8
_HALF: Final = 0.5
_TABLE: Final = 0.1
_BLOCKS_A_CUT: Final = 6
_MOST_CUTS: Final = 3


@dataclass(frozen=True, slots=True)
class Idea:
    """Steps in any order, and why."""

    steps: tuple[Step, ...]
    reason: str

    def __add__(self, other: Idea) -> Idea:
        """Both in one recipe."""
        return Idea((*self.steps, *other.steps), f"{self.reason}; {other.reason}")


def static_int8(reading: Reading, *, careful: bool = False) -> Idea:
    """Convolutions and products in integers, with ranges measured beforehand."""
    evidence, host = reading.evidence, reading.evidence.host
    scheme = "S8S8 on Arm" if host.is_arm else "U8S8"
    if not host.is_arm and not host.has_vnni:
        scheme += " with 7-bit weights, for this processor has no VNNI"
    reason = (
        f"convolutions are {_percent(reading.convolutions)} of the time and products "
        f"{_percent(reading.products)}: int8 in {scheme}, {byte_count(evidence.weight_bytes)} of "
        f"weights to a quarter, ranges from {evidence.data.get('calibration', 0)} items"
    )
    if careful:
        step = StaticInt8(skip_first=True, correct_bias=True)
        return Idea((step,), f"{reason}; the first layer in floating point and biases corrected")
    return Idea((StaticInt8(),), reason)


def corrected_int8(reading: Reading) -> Idea:
    """As `static_int8`, for nets whose layers have few inputs each: errors do not cancel."""
    plain = static_int8(reading)
    return Idea((StaticInt8(correct_bias=True),), f"{plain.reason}; biases corrected")


def dynamic_int8(reading: Reading) -> Idea:
    """Products in integers, activations scaled as they come."""
    evidence = reading.evidence
    tables = reading.wants_less and reading.table_share >= _TABLE
    reason = (
        f"MatMul and Gemm are {_percent(reading.products)} of the time: int8 products, activations "
        "scaled at run time"
    )
    if tables:
        reason += (
            f"; tables of embeddings are {_percent(reading.table_share)} of "
            f"{byte_count(evidence.weight_bytes)} of weights, so they are stored in 8 bits too"
        )
    return Idea((DynamicInt8(embeddings=tables),), reason)


def narrow_weights(reading: Reading, bits: int) -> Idea:
    """Weights in a few bits, activations as they are."""
    evidence = reading.evidence
    tables = reading.table_share >= _TABLE
    reason = (
        f"{byte_count(evidence.weight_bytes)} of weights against "
        f"{byte_count(evidence.activation_bytes)} of activations an item: weights in {bits} bits"
    )
    if tables:
        reason += f", tables ({_percent(reading.table_share)} of them) as well"
    return Idea((WeightsNbits(bits=bits, embeddings=tables),), reason)


def pruned(reading: Reading) -> Idea:
    """Channels taken out, as many as the goal asks for, and the answers won back."""
    ratio, why = _ratio(reading)
    channels = reading.channels
    what = (
        f"Conv is {_percent(reading.convolutions)} of the time, channels "
        f"{channels[0]}…{channels[-1]}"
        if channels
        else f"MatMul and Gemm are {_percent(reading.products)} of the time"
    )
    plain = PruneChannels(ratio=ratio, round_to=reading.round_to)
    step, training = as_allowed(plain, reading.search), distilled(reading)
    reason = (
        f"{what}: prune_channels takes {_percent(step.ratio)} ({why}), round_to {step.round_to}; "
        f"distilled, {said(reading, training.training)}"
    )
    return Idea((step, training), reason)


def narrower_first(reading: Reading) -> Idea:
    """No step, only the reason why int8 comes later."""
    seen = f"depthwise convolutions are {_percent(reading.depthwise)} of the time"
    if reading.gates:
        seen += f", and there are {reading.gates:.1f} gates for each convolution"
    return Idea((), f"{seen}: narrower before int8")


def shortened(reading: Reading) -> Idea:
    """Residual blocks left out, and the answers won back."""
    blocks = reading.evidence.residual_blocks
    count = max(1, min(_MOST_CUTS, blocks // _BLOCKS_A_CUT))
    step, training = as_allowed(DropLayers(count=count), reading.search), distilled(reading)
    reason = f"{step.count} of {blocks} residual blocks left out, which change least; distilled, "
    return Idea((step, training), reason + said(reading, training.training))


def fewer_heads(reading: Reading) -> Idea:
    """Attention heads left out, and the answers won back."""
    heads = reading.evidence.attention_heads
    step = as_allowed(DropHeads(count=2 if min(heads) >= _MANY_HEADS else 1), reading.search)
    reason = f"{len(heads)} attentions of {min(heads)} heads or more: {step.count} left out of each"
    return Idea((step, distilled(reading)), f"{reason}; distilled")


def low_rank(reading: Reading) -> Idea:
    """Products split into two narrow ones."""
    reason = f"MatMul and Gemm are {_percent(reading.products)} of the time: 95 % of their energy"
    return Idea((LowRank(),), f"{reason} kept in two narrow factors")


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
        f"{nodes} nodes, {_percent(evidence.outside_share)} of {_seconds(evidence.item_s)} outside "
        "of them: fewer nodes with the same answers"
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
    host = reading.evidence.host
    if reading.aim is Aim.MEMORY:
        held = byte_count(reading.evidence.activation_bytes)
        reason = (
            f"{held} of activations an item: lanes weighed, and the arena off, which keeps them"
        )
    else:
        reason = f"threads and lanes on {host.cpus} processors, measured"
    return Idea((TuneSession(),), reason)


def taught(reading: Reading) -> Idea:
    """Trained further on labels, as it is."""
    items = reading.evidence.data.get("train", 0)
    step = Finetune(training=Training(learning_rate=1e-3, epochs=epochs(reading, Finetune)))
    return Idea((step,), f"accuracy is the aim, and {items} training items have labels")


def grown(reading: Reading) -> Idea:
    """Wider, which costs time."""
    return Idea((Grow(wider=1.25),), "accuracy is the aim: a quarter more units to train")


def _ratio(reading: Reading) -> tuple[float, str]:
    """The least share of channels that leaves what the goal asks for, and why.

    Of two layers in a row, a share r of the channels gone leaves (1 - r)^2 of the multiplications;
    what is not computed by them stays.
    """
    ratios = numbers(PruneChannels, "ratio", reading.search) or [_HALF]
    share = max(reading.convolutions, reading.products)
    wanted, what, present = reading.time_wanted, "time", share
    if wanted is None:
        wanted, what, present = reading.size_wanted, "size", 1.0
    if wanted is None:
        return _HALF, "half, for the goal names no gain"
    needed = 1 - sqrt(max(0.0, wanted - (1 - present)) / present) if present else 1.0
    ratio = next((one for one in ratios if one >= needed), ratios[-1])
    return ratio, f"the goal leaves {_percent(wanted)} of the {what}"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
