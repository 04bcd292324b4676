"""The steps a recipe is made of: what a user may ask for, as typed values.

A step says what to do and checks its own parameters; the module of the technique says how.
Its name in files is the snake_case of its class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, get_args

from optimizers.contract.architecture import DropHeads, DropLayers, Grow, LowRank, Merge, Simplify
from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.pruning import PruneChannels, PruneWeights, Sparsify
from optimizers.contract.quantization import (
    Bf16,
    Binarize,
    DynamicInt8,
    Fp16,
    QuantizeAware,
    StaticInt8,
    Ternarize,
    WeightsNbits,
)
from optimizers.contract.stage import Stage
from optimizers.contract.tuning import SetSession, TuneSession

Step = (
    Simplify
    | Merge
    | LowRank
    | DropLayers
    | DropHeads
    | Grow
    | PruneWeights
    | PruneChannels
    | Sparsify
    | Finetune
    | Distill
    | DynamicInt8
    | StaticInt8
    | WeightsNbits
    | Binarize
    | Ternarize
    | Fp16
    | Bf16
    | QuantizeAware
    | SetSession
    | TuneSession
)

STEP_TYPES: Final[tuple[type[Step], ...]] = get_args(Step)


def step_name(step: Step | type[Step]) -> str:
    """The step's name in files: `StaticInt8` is `static_int8`."""
    name = step.__name__ if isinstance(step, type) else type(step).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


STEPS_BY_NAME: Final[dict[str, type[Step]]] = {step_name(kind): kind for kind in STEP_TYPES}


def misplaced(steps: Sequence[Step]) -> tuple[int, str] | None:
    """The first step that comes too late in a recipe: its index, and why; None if none does."""
    for index, (former, step) in enumerate(pairwise(steps), start=1):
        if step.stage < former.stage:
            late, early = step_name(step), step_name(former)
            if step.stage is Stage.FLOAT:
                return index, f"{late} works on floating-point weights; put it before {early}"
            return index, f"{early} has to come last; put {late} before it"
        if isinstance(step, Distill) and step.student:
            before = step_name(former)
            return index, f"distill.student takes the model's place; put it before {before}"
    return None
