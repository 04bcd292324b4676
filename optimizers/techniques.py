"""Which module applies a step; each is loaded when a step needs it, as torch takes seconds."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import assert_never

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
from optimizers.contract.steps import Step
from optimizers.contract.tuning import SetSession, TuneSession
from optimizers.step import StepContext, StepResult


def apply_step(model: Path, step: Step, context: StepContext) -> StepResult:
    """Run one step; a new one needs its module and a case here."""
    match step:
        case Sparsify():
            from optimizers.pruning import sparsify

            return sparsify.apply(model, step, context)
        case Finetune():
            from optimizers.distillation import finetune

            return finetune.apply(model, step, context)
        case Distill():
            from optimizers.distillation import distill

            return distill.apply(model, step, context)
        case PruneWeights():
            from optimizers.pruning import prune_weights

            return prune_weights.apply(model, step, context)
        case PruneChannels():
            from optimizers.pruning import prune_channels

            return prune_channels.apply(model, step, context)
        case Simplify():
            from optimizers.architecture import simplify

            return simplify.apply(model, step, context)
        case Merge():
            from optimizers.architecture import merge

            return merge.apply(model, step, context)
        case LowRank():
            from optimizers.architecture import low_rank

            return low_rank.apply(model, step, context)
        case DropLayers():
            from optimizers.architecture import drop_layers

            return drop_layers.apply(model, step, context)
        case DropHeads():
            from optimizers.architecture import drop_heads

            return drop_heads.apply(model, step, context)
        case Grow():
            from optimizers.architecture import grow

            return grow.apply(model, step, context)
        case DynamicInt8():
            from optimizers.quantization import dynamic_int8

            return dynamic_int8.apply(model, step, context)
        case StaticInt8():
            from optimizers.quantization import static_int8

            return static_int8.apply(model, step, context)
        case QuantizeAware():
            from optimizers.quantization import quantize_aware

            return quantize_aware.apply(model, step, context)
        case WeightsNbits():
            from optimizers.quantization import weights_nbits

            return weights_nbits.apply(model, step, context)
        case Binarize():
            from optimizers.quantization import binarize

            return binarize.apply(model, step, context)
        case Ternarize():
            from optimizers.quantization import ternarize

            return ternarize.apply(model, step, context)
        case Fp16():
            from optimizers.quantization import fp16

            return fp16.apply(model, step, context)
        case Bf16():
            from optimizers.quantization import bf16

            return bf16.apply(model, step, context)
        case SetSession():
            from optimizers.tuning import set_session

            return set_session.apply(model, step, context)
        case TuneSession():
            from optimizers.tuning import tune_session

            return tune_session.apply(model, step, context)
        case _:
            assert_never(step)


def load_all() -> None:
    """Load what any step may need, for a process whose forks shall have it at once."""
    for name in ("architecture", "distillation", "pruning", "quantization", "tuning"):
        package = import_module(f"optimizers.{name}")
        for module in iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
