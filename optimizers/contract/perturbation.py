"""What is done to the gate's items where a requirement says `under KIND AMOUNT`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from optimizers.contract.errors import InvalidDocument


class PerturbationKind(StrEnum):
    """What a requirement may be judged under."""

    NOISE = "noise"
    SHIFT = "shift"
    BRIGHTNESS = "brightness"
    CONTRAST = "contrast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """One way in which items differ from those that were recorded.

    Attributes:
        kind: What is done.
        amount: How much of it. Noise: its standard deviation as a share of the input's, above 0.
            Shift: pixels, a whole number of at least 1. Brightness: what is added, as a share of
            the input's standard deviation, not 0. Contrast: the factor around the input's mean,
            above 0 and not 1.
    """

    kind: PerturbationKind
    amount: float

    def __post_init__(self) -> None:
        """Check the amount.

        Raises:
            InvalidDocument: It is none of its kind.
        """
        match self.kind:
            case PerturbationKind.NOISE:
                fits, expected = self.amount > 0, "a share above 0, for example 'noise 0.05'"
            case PerturbationKind.SHIFT:
                fits = self.amount >= 1 and self.amount % 1 == 0
                expected = "whole pixels, for example 'shift 2'"
            case PerturbationKind.BRIGHTNESS:
                fits, expected = self.amount != 0, "a share that is not 0, as 'brightness -0.2'"
            case PerturbationKind.CONTRAST:
                fits = self.amount > 0 and self.amount != 1
                expected = "a factor above 0 that is not 1, for example 'contrast 0.8'"
        if not fits:
            raise InvalidDocument(f"'{self.text}': expected {expected}")

    @property
    def text(self) -> str:
        """As a requirement may write it; no other amount of the kind reads so."""
        return f"{self.kind} {np.format_float_positional(self.amount, trim='-')}"


def perturbation(kind: str, amount: float) -> Perturbation:
    """Find a perturbation by name.

    Raises:
        InvalidDocument: There is none, with the nearest; or the amount does not fit.
    """
    try:
        found = PerturbationKind(kind)
    except ValueError:
        near = difflib.get_close_matches(kind, list(PerturbationKind), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InvalidDocument(
            f"nothing is judged under '{kind}'{hint} Expected one of {', '.join(PerturbationKind)}"
        ) from None
    return Perturbation(kind=found, amount=amount)
