"""How a session is opened, in words."""

from __future__ import annotations

from optimizers.contract.runtime import SessionSpec


def describe(spec: SessionSpec) -> str:
    """What steps of this technique choose: `2 lanes x 1 threads, arena off, optimisation all`."""
    return (
        f"{spec.lanes} lanes x {spec.intra_op_threads} threads, arena "
        f"{'on' if spec.arena else 'off'}, optimisation {spec.optimization}"
    )
