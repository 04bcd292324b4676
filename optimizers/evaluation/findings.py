"""What the gates have found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from optimizers.contract.evaluation import Check, Figure, Gate
from optimizers.contract.goal import FigureName, Goal
from optimizers.evaluation.limits import measured
from optimizers.evaluation.verdict import NOT_MEASURED, check_better, check_requirement

_GATES: Final = {
    FigureName.SIZE: Gate.LINT,
    FigureName.AGREEMENT: Gate.FIDELITY,
    FigureName.COSINE: Gate.FIDELITY,
    FigureName.SQNR: Gate.FIDELITY,
    FigureName.ACCURACY: Gate.ACCURACY,
    FigureName.LATENCY_P50: Gate.LATENCY,
    FigureName.LATENCY_P99: Gate.LATENCY,
    FigureName.THROUGHPUT: Gate.LATENCY,
    FigureName.COST: Gate.LATENCY,
    FigureName.MEMORY: Gate.MEMORY,
}


class Broken(Exception):
    """A check did not hold; nothing more is measured."""


@dataclass(slots=True, kw_only=True)
class Findings:
    """Checks and figures in order; a check that breaks ends the work.

    Attributes:
        goal: What must hold, floors included.
        alpha: Error probability of each bound.
        checks: What was looked at.
        figures: What was measured.
        missing: Why a figure could not be measured.
    """

    goal: Goal
    alpha: float
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: dict[FigureName, str] = field(default_factory=dict)

    def check(self, gate: Gate, passed: bool | None, text: str) -> None:
        """Note one check.

        Raises:
            Broken: It did not hold.
        """
        self.checks.append(Check(gate=gate, passed=passed, text=text))
        if passed is False:
            raise Broken

    def require(self, gate: Gate) -> None:
        """Judge every requirement of one gate, then whether the first aim was reached there.

        Raises:
            Broken: Something does not hold.
        """
        for requirement in self.goal.require:
            under = requirement.under
            if (Gate.ROBUSTNESS if under else _GATES[requirement.figure]) is gate:
                figure, missing = self._measured(requirement.figure, under.text if under else "")
                self.checks.append(
                    check_requirement(requirement, figure, gate, self.alpha, missing)
                )
        aim = self.goal.optimize[0]
        if _GATES[aim] is gate:
            figure, missing = self._measured(aim)
            self.checks.append(check_better(self.goal, figure, gate, missing))
        if any(check.passed is False for check in self.checks):
            raise Broken

    def _measured(self, name: FigureName, under: str = "") -> tuple[Figure | None, str]:
        return measured(self.figures, name, under), self.missing.get(name, NOT_MEASURED)
