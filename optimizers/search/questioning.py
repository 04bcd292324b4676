"""What candidates answer to a search's items beside the original, whose answers are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from optimizers.calibration import Arrays, take
from optimizers.contract.evaluation import Figure, Gate
from optimizers.contract.goal import Requirement
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.answers import Answers, Arrangement, ask, read_items
from optimizers.evaluation.comparison import answer_figures, check_numbers
from optimizers.evaluation.fidelity import Outputs, answer
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.progress import untold
from optimizers.evaluation.robustness import (
    ask_under,
    check_robustness,
    figures_under,
    perturbations,
)

_ARRANGED_BY: Final = 32
"""Items that show whether rows may share a run, where only times are wanted."""


class Questions:
    """A search's items, and what the original answers to them."""

    def __init__(
        self,
        data: Path,
        original: Session,
        task: Task,
        requirements: Sequence[Requirement],
        seed: int,
    ) -> None:
        """Read the items and try them on the original.

        Args:
            data: `data.search`, never the gate's.
            original: Open for as long as these questions are asked.
            task: How answers are compared.
            requirements: What is asked `under` something besides.
            seed: Of noise, directions and company.

        Raises:
            InvalidData: The data does not fit the model, or cannot be changed as is required.
        """
        self._original, self._task, self._seed = original, task, seed
        self._judged = read_items(data, original)
        self._wishes = perturbations(requirements)
        check_robustness(self._wishes, original.signature, self._judged.items)
        self._wanted: Outputs | None = None

    @property
    def items(self) -> Arrays:
        """One array per input, first axis = items."""
        return self._judged.items

    @property
    def first(self) -> Outputs:
        """The original's answers to the first item."""
        return self._judged.first

    def ask(self, variant: Session, findings: Findings) -> None:
        """Agreement, cosine, sqnr and accuracy, as they are and under all that is required.

        Args:
            variant: The candidate, open.
            findings: Takes the figures.

        Raises:
            Broken: Its answers have another shape, or are no numbers where the original's are.
            RunFailed: The runtime refused.
            InvalidData: The labels do not fit the model, or perturbed numbers their type.
        """
        sessions, judged, alpha = (self._original, variant), self._judged, findings.alpha
        clean = ask(sessions, judged.items, self._seed, findings, untold, self._answers())
        check_numbers(clean, findings)
        findings.figures += answer_figures(self._task, judged, clean, alpha)
        for wish in self._wishes:
            found = ask_under(wish, sessions, judged.items, self._seed, clean)
            check_numbers(found, findings, Gate.ROBUSTNESS, f" under {wish.text}")
            findings.figures += figures_under(wish, self._task, judged, found, alpha)

    def of_original(self, alpha: float) -> list[Figure]:
        """The figures of a variant that answers exactly like the original.

        Args:
            alpha: Error probability of each bound.

        Raises:
            InvalidData: The labels do not fit the model, or perturbed numbers their type.
        """
        judged, wanted = self._judged, self._answers()
        clean = Answers(
            signature=self._original.signature,
            original=wanted,
            variant=(wanted,),
            arrangement=Arrangement(session=self._original.spec, batch_difference={}),
        )
        figures = answer_figures(self._task, judged, clean, alpha)
        for wish in self._wishes:
            sessions = self._original, self._original
            found = ask_under(wish, sessions, judged.items, self._seed, clean)
            same = replace(found, variant=(found.original,))
            figures += figures_under(wish, self._task, judged, same, alpha)
        return figures

    def arrangement(self, variant: Session, findings: Findings) -> SessionSpec:
        """How a candidate would be served, judged by a few items: unbatched if rows interfere.

        Raises:
            Broken: Its answers have another shape.
            RunFailed: The runtime refused.
        """
        few = take(self._judged.items, slice(0, _ARRANGED_BY))
        sessions = self._original, variant
        return ask(sessions, few, self._seed, findings, untold).arrangement.session

    def _answers(self) -> Outputs:
        if self._wanted is None:
            self._wanted = answer(self._original, self._judged.items)
        return self._wanted
