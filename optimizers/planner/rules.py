"""Which ideas suit which bottleneck, best guess first.

Conv-bound: static int8 and narrower layers. Product-bound: int8 with activations scaled at run
time, fewer blocks and heads. Depthwise or gated: narrower layers before int8, whose conversions
cost such nets most. Launch-bound: fewer nodes and another session; nothing else is worth a node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from optimizers.planner import ideas
from optimizers.planner.ideas import Idea
from optimizers.planner.reading import Aim, Kind, Reading

_INT8_LEAVES: Final = {True: 0.5, False: 0.7}
"""With and without VNNI: share of the time that int8 was seen to leave, at best."""

_INT8_SIZE: Final = 0.3
"""The same of the size."""

_READS_WEIGHTS: Final = 10
"""Bytes of weights for each of activations from which reading them is what takes the time."""


def ranked(reading: Reading) -> Iterator[Idea]:
    """Ideas for a goal, best guess first; whether each can be tried is not asked here."""
    if reading.aim is Aim.ANSWERS:
        yield from _truer(reading)
        return
    if reading.tolerates_nothing:
        yield from _lossless(reading)
    if reading.kind not in (Kind.LAUNCH, Kind.OTHER):
        yield from _changing(reading)
    yield from _lossless(reading)


def _changing(reading: Reading) -> Iterator[Idea]:
    if reading.evidence.provider != "cpu":
        yield from _elsewhere(reading)
    elif reading.aim is Aim.MEMORY:
        yield from _with_session(reading)
    else:
        yield from _of_kind(reading)


def _of_kind(reading: Reading) -> Iterator[Idea]:
    match reading.kind:
        case Kind.CONVOLUTION:
            yield from _convolutional(reading)
        case Kind.DEPTHWISE:
            yield from _depthwise(reading)
        case Kind.PRODUCT:
            yield from _products(reading)
        case Kind.LAUNCH | Kind.OTHER:
            return


def _convolutional(reading: Reading) -> Iterator[Idea]:
    int8, pruned = ideas.static_int8(reading), ideas.pruned(reading)
    wanted = reading.size_wanted if reading.aim is Aim.SIZE else reading.time_wanted
    leaves = _INT8_SIZE if reading.aim is Aim.SIZE else _INT8_LEAVES[reading.evidence.host.has_vnni]
    asks_more = wanted is not None and wanted < leaves
    both = pruned + int8
    if reading.counts_bytes:
        yield from (both, int8, pruned) if asks_more else (int8, both, pruned)
    else:
        yield from (pruned, both, int8) if asks_more else (int8, pruned, both)
    if reading.evidence.residual_blocks:
        yield _together(ideas.shortened(reading), pruned)
    yield ideas.static_int8(reading, careful=True)
    yield ideas.trained_int8(reading)
    if reading.aim is Aim.SIZE and not reading.is_half:
        yield ideas.half(reading)


def _depthwise(reading: Reading) -> Iterator[Idea]:
    pruned, int8 = ideas.pruned(reading), ideas.corrected_int8(reading)
    why = ideas.narrower_first(reading)
    yield why + pruned
    yield why + pruned + int8
    yield int8
    yield ideas.trained_int8(reading)
    yield ideas.static_int8(reading, careful=True)


def _products(reading: Reading) -> Iterator[Idea]:
    evidence, int8 = reading.evidence, ideas.dynamic_int8(reading)
    narrow = ideas.narrow_weights(reading, 4)
    if evidence.attention_heads:
        yield ideas.merged(reading) + int8
    yield int8
    if reading.counts_bytes:
        yield narrow
        yield ideas.narrow_weights(reading, 8)
    if evidence.residual_blocks > 1:
        yield ideas.shortened(reading)
        yield ideas.shortened(reading) + int8
    if not reading.is_encoder:
        yield ideas.pruned(reading)
        yield ideas.pruned(reading) + int8
    reads_weights = evidence.weight_bytes >= _READS_WEIGHTS * evidence.activation_bytes
    if reading.aim is Aim.SPEED and reads_weights:
        yield narrow
    if evidence.attention_heads and min(evidence.attention_heads) > 1:
        yield ideas.fewer_heads(reading) + int8
    yield ideas.low_rank(reading)


def _with_session(reading: Reading) -> Iterator[Idea]:
    """Less memory: what takes weights and activations down, each with the session weighed."""
    tuned = ideas.tuned(reading)
    found = [*_of_kind(reading)]
    for idea in found[:2]:
        yield idea + tuned
    yield tuned
    for idea in found[2:]:
        yield idea + tuned


def _elsewhere(reading: Reading) -> Iterator[Idea]:
    """Where not the processor computes: int8 kernels are missing there, half floats are fast."""
    halves = () if reading.is_half else (ideas.half(reading),)
    yield from halves
    shorter = []
    if not reading.is_encoder:
        shorter.append(ideas.pruned(reading))
    if reading.evidence.residual_blocks > 1:
        shorter.append(ideas.shortened(reading))
    for idea in shorter:
        yield idea
        yield from (idea + half for half in halves)


def _truer(reading: Reading) -> Iterator[Idea]:
    """Better answers than the original's: only labels can teach them."""
    taught = ideas.taught(reading)
    yield taught
    yield ideas.grown(reading) + taught


def _lossless(reading: Reading) -> Iterator[Idea]:
    lossless, tuned = ideas.lossless(reading), ideas.tuned(reading)
    if reading.aim is Aim.MEMORY:
        yield tuned
        yield lossless + tuned
        return
    if reading.aim is Aim.SPEED and reading.kind is not Kind.LAUNCH:
        yield tuned
    yield lossless
    if reading.aim is Aim.SPEED:
        yield lossless + tuned
        yield tuned


def _together(one: Idea, other: Idea) -> Idea:
    """Both in one recipe that trains once."""
    known = {type(step) for step in one.steps}
    for part in other.parts:
        if known.isdisjoint(map(type, part.own)):
            one += part
    return one
