"""Requirements that no recipe can meet, told before time is spent on trials."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.contract.evaluation import Figure
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import Goal
from optimizers.contract.search import Search


def unsatisfiable(
    goal: Goal, evidence: Evidence, original: Sequence[Figure], search: Search | None = None
) -> tuple[str, ...]:
    """One sentence with its numbers for each requirement that no recipe can meet; () if none.

    Args:
        goal: With the task's floors (`Assessor.goal`).
        evidence: What is known of the model.
        original: The original beside itself, `Assessor.original_figures()`.
        search: What may be tried; None: every step with all that it declares.
    """
    raise NotImplementedError
