"""What a look at a model might have found, and search spaces over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimizers.contract.declaration import Choice, Real
from optimizers.contract.evidence import Evidence, Layer, OperatorShare
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import Host
from optimizers.contract.profile import Task
from optimizers.contract.search import Search
from optimizers.search.space import Space, space_of

FAST = Goal(optimize=(FigureName.LATENCY_P50,))
FAST_AND_TRUE = Goal(
    optimize=(FigureName.LATENCY_P50,), require=(parse_requirement("agreement >= 0.97"),)
)
ALL_DATA = {"calibration": 64, "train": 256, "search": 64, "gate": 64}


def evidence(*operators: str, **changes: Any) -> Evidence:
    """Of a model with a layer of each of some operators, on two cores, with all kinds of data."""
    found = Evidence(
        operators=tuple(
            OperatorShare(operator=name, share=1 / len(operators), nodes=1, weight_bytes=4096)
            for name in operators
        ),
        layers=tuple(
            Layer(name=name, operator=name, weight_shape=(32, 32), groups=1, share=0.5)
            for name in operators
        ),
        weight_bytes=4096 * len(operators),
        embedding_bytes=0,
        activation_bytes=1024,
        item_s=1e-3,
        batch_item_s=1e-3,
        batch=8,
        outside_share=0.1,
        attention_heads=(),
        residual_blocks=0,
        has_batch_norm=False,
        task=Task.CLASSIFICATION,
        host=Host(
            architecture="x86_64", processor="", cpu_features=(), cpus=2, onnxruntime="1.32.0"
        ),
        provider="cpu",
        data=ALL_DATA,
        has_labels=True,
    )
    return replace(found, **changes)


def space_over(
    *steps: str, goal: Goal = FAST, values: dict[str, Choice | Real] | None = None, **changes: Any
) -> Space:
    """The space of a convolutional model with some of the steps."""
    return space_of(
        evidence("Conv", "Gemm", **changes), goal, Search(steps=steps, values=values or {})
    )
