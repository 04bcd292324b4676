"""An example of a search that has ended: twelve trials in every state, with made-up numbers."""

from __future__ import annotations

from dataclasses import replace

from optimizers.contract.distillation import Distill
from optimizers.contract.evaluation import (
    Certificate,
    Check,
    Estimate,
    Evaluation,
    Figure,
    Gate,
    Verdict,
)
from optimizers.contract.evidence import Evidence, Layer, OperatorShare, Proposal
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import Host
from optimizers.contract.profile import Profile, Task
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import DynamicInt8, Fp16, StaticInt8, WeightsNbits
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Search
from optimizers.contract.steps import Step
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.contract.training import Training
from optimizers.contract.tuning import TuneSession
from optimizers.search.explaining import why_lost

WINNER = 7
ORIGINAL_S = 1.2e-3
ORIGINAL_BYTES = 4_600_000.0
HOST = Host(
    architecture="x86_64",
    processor="Example processor",
    cpu_features=("avx", "avx2", "fma"),
    cpus=2,
    onnxruntime="1.31.0",
)
GOAL = Goal(
    optimize=(FigureName.LATENCY_P50,),
    require=tuple(parse_requirement(text) for text in ("agreement >= 0.97", "size <= 50 % worse")),
    stop_when=(parse_requirement("latency_p50 >= 80 % better"),),
)


def relative(name: FigureName, share: float, *, spread: float = 0.03) -> Figure:
    """A latency, throughput or size that is a share of the original's."""
    unit, original = {
        FigureName.SIZE: ("B", ORIGINAL_BYTES),
        FigureName.THROUGHPUT: ("items/s", 800.0),
    }.get(name, ("s", ORIGINAL_S))
    low, high = share * (1 - spread), share * (1 + spread)
    return Figure(
        name=name,
        unit=unit,
        samples=16,
        value=Estimate(value=share * original, lower=low * original, upper=high * original),
        original=Estimate(value=original),
        difference=Estimate(value=(share - 1) * original),
        ratio=Estimate(value=share, lower=low, upper=high),
        method="paired windows",
    )


def agreement(value: float, *, width: float = 0.006) -> Figure:
    """A share of 1000 items answered like the original."""
    return Figure(
        name=FigureName.AGREEMENT,
        unit="",
        samples=1000,
        value=Estimate(value=value, lower=value - width),
        method="Clopper-Pearson",
    )


def accuracy(value: float, original: float) -> Figure:
    """A share of 1000 items answered rightly, beside the original's."""
    change = value - original
    return Figure(
        name=FigureName.ACCURACY,
        unit="",
        samples=1000,
        value=Estimate(value=value),
        original=Estimate(value=original),
        difference=Estimate(value=change, lower=change - 0.004, upper=change + 0.004),
        method="paired",
    )


def trial(
    number: int,
    steps: tuple[Step, ...],
    state: TrialState = TrialState.COMPLETE,
    *,
    latency: float | None = None,
    size: float | None = None,
    agrees: float | None = None,
    level: int = 2,
    levels: int = 2,
    violation: float = 0.0,
    reason: str = "",
    origin: str = "tpe",
) -> Trial:
    """A trial with the figures that are given, latency and size as shares of the original's."""
    figures = []
    if latency is not None:
        figures.append(relative(FigureName.LATENCY_P50, latency))
    if size is not None:
        figures.append(relative(FigureName.SIZE, size, spread=0.0))
    if agrees is not None:
        figures.append(agreement(agrees))
    return Trial(
        number=number,
        recipe=Recipe(steps=steps),
        origin=origin,
        state=state,
        level=level,
        levels=levels,
        figures=tuple(figures),
        violation=violation,
        reason=reason,
        seconds=3.5 + 11 * number,
        worker="example:1",
        started_unix_s=1_790_000_000.0 + 30 * number,
    )


def example_trials() -> tuple[Trial, ...]:
    """Twelve trials of the example, the winner is `WINNER`."""
    half, quarter = PruneChannels(ratio=0.5), PruneChannels(ratio=0.25)
    taught = Distill(training=Training(epochs=4))
    int8 = StaticInt8()
    dynamic, running = DynamicInt8(), TrialState.RUNNING
    abandoned, halved = TrialState.ABANDONED, TrialState.HALVED
    return (
        trial(0, (int8,), latency=0.46, size=0.27, agrees=0.991, origin="planner: Conv is 83 %"),
        trial(1, (TuneSession(),), latency=0.93, size=1.0, agrees=0.9999, origin="planner"),
        trial(2, (half, taught), latency=0.44, size=0.31, agrees=0.958, violation=0.0186),
        trial(3, (half,), abandoned, latency=0.44, size=0.31, agrees=0.31, level=2, levels=2),
        trial(
            4,
            (WeightsNbits(bits=2),),
            TrialState.FAILED,
            level=1,
            reason="weights_nbits: 2 bits need a MatMul, and there is none",
        ),
        trial(5, (quarter, taught), halved, latency=0.7, size=0.6, agrees=0.93, level=2, levels=4),
        trial(6, (dynamic,), abandoned, latency=1.31, size=0.28, level=1),
        trial(WINNER, (quarter, taught, int8), latency=0.29, size=0.17, agrees=0.984, levels=4),
        trial(8, (Fp16(),), latency=1.12, size=0.5, agrees=0.9995),
        trial(9, (half, taught, int8), latency=0.21, size=0.09, agrees=0.952, violation=0.025),
        trial(10, (quarter, dynamic), halved, latency=0.74, size=0.21, agrees=0.9, level=2),
        trial(11, (half, dynamic), running, level=1),
    )


def example_evidence() -> Evidence:
    """What the planner of the example went by."""
    return Evidence(
        operators=(
            OperatorShare(operator="Conv", share=0.83, nodes=9, weight_bytes=3_900_000),
            OperatorShare(operator="Gemm", share=0.11, nodes=1, weight_bytes=650_000),
            OperatorShare(operator="Relu", share=0.06, nodes=8, weight_bytes=0),
        ),
        layers=(
            Layer(name="conv1", operator="Conv", weight_shape=(64, 3, 3, 3), groups=1, share=0.2),
        ),
        weight_bytes=4_550_000,
        embedding_bytes=0,
        activation_bytes=1_200_000,
        item_s=ORIGINAL_S,
        batch_item_s=0.9e-3,
        batch=8,
        outside_share=0.04,
        attention_heads=(),
        residual_blocks=3,
        has_batch_norm=False,
        task=Task.CLASSIFICATION,
        host=HOST,
        provider="cpu",
        data={"calibration": 256, "train": 4000, "search": 1000, "gate": 1500},
        has_labels=True,
    )


def example_explanation() -> Explanation:
    """The whole example, with a winner and with what is told of the others."""
    evidence = example_evidence()
    return Explanation(
        study="example-study",
        model="example_resnet",
        version=1,
        profile=Profile(name="edge", goal=GOAL, search=Search(trials=12, minutes=15.0)),
        evidence=evidence,
        proposals=(
            Proposal(
                recipe=Recipe(steps=(StaticInt8(),)),
                reason="Conv is 83 % of the time and int8 kernels are there",
            ),
        ),
        data=dict(evidence.data),
        trials=_with_reasons(example_trials()),
        front=(WINNER,),
        winner=WINNER,
        ended_because="12 of 12 trials were tried",
        seconds=742.0,
    )


def with_two_aims() -> Explanation:
    """The example with latency and size as aims, and a front of two."""
    example = example_explanation()
    aims = (FigureName.LATENCY_P50, FigureName.SIZE)
    goal = replace(example.profile.goal, optimize=aims)
    trials = list(example.trials)
    trials[8] = trial(8, (Fp16(), TuneSession()), latency=0.6, size=0.12, agrees=0.9995)
    return replace(
        example,
        profile=replace(example.profile, goal=goal),
        trials=tuple(trials),
        front=(WINNER, 8),
    )


def unfinished() -> Explanation:
    """The example while its second trial runs: no winner, no end."""
    example = example_explanation()
    return replace(
        example,
        trials=(replace(example.trials[2], number=0), replace(example.trials[11], number=1)),
        front=(),
        winner=None,
        ended_because="",
        seconds=41.0,
        seconds_left=859.0,
        nearest_miss="trial 0 misses 'agreement >= 0.97' by 1.9 %",
    )


def example_evaluation(verdict: Verdict = Verdict.PROVED) -> Evaluation:
    """What the gate found of the example's winner."""
    proved = verdict is Verdict.PROVED
    return Evaluation(
        verdict=verdict,
        reasons=() if proved else ("agreement is at least 0.9612, wanted 0.97",),
        checks=(
            Check(gate=Gate.LINT, passed=True, text="opens, and its answers are finite"),
            Check(gate=Gate.FIDELITY, passed=proved, text="'agreement >= 0.97': at least 0.9741"),
            Check(gate=Gate.MEMORY, passed=None, text="nothing was asked of memory"),
        ),
        figures=(
            relative(FigureName.LATENCY_P50, 0.31),
            agreement(0.983, width=0.009),
            accuracy(0.941, 0.944),
        ),
        certificate=Certificate(
            host=HOST,
            provider="cpu",
            issued_unix_s=1_790_000_900.0,
            confidence=0.95,
            gate_use=2,
            gate_sha256="ab" * 32,
        ),
    )


def _with_reasons(trials: tuple[Trial, ...]) -> tuple[Trial, ...]:
    winner = trials[WINNER]
    return tuple(replace(one, reason=why_lost(one, winner, GOAL, [winner])) for one in trials)
