"""What was measured of a variant, always beside the original, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optimizers.contract.goal import FigureName
from optimizers.contract.host import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measured value with one-sided bounds, each at the evaluation's level for one bound.

    Attributes:
        value: The best single number.
        lower: With the stated confidence the true value is not below; None without a bound.
        upper: With the stated confidence the true value is not above; None without a bound.
    """

    value: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity of a variant.

    Attributes:
        name: Which quantity.
        unit: The unit of `value`, `original` and `difference`.
        samples: Items, windows or runs it was computed from; clusters of items where these are not
            independent.
        value: The variant's.
        original: The original's from the same run; None for a figure that already compares.
        difference: Variant minus original.
        ratio: Variant divided by original.
        method: How the bounds were computed.
        condition: Under which circumstances, or of which output, for example `batch 8`; "" for the
            usual ones.
        under: What was done to the items first, as in a requirement; "" for nothing.
        of_items: How many items the samples hold where they are clusters, else 0.
    """

    name: FigureName
    unit: str
    samples: int
    value: Estimate
    original: Estimate | None = None
    difference: Estimate | None = None
    ratio: Estimate | None = None
    method: str = ""
    condition: str = ""
    under: str = ""
    of_items: int = 0

    @property
    def counted(self) -> str:
        """What it was computed from, for people."""
        if self.of_items:
            return f"{self.samples} clusters of {self.of_items} items"
        return f"{self.samples} samples"


class Gate(StrEnum):
    """The gates in their order."""

    LINT = "lint"
    FIDELITY = "fidelity"
    INVARIANCE = "batch invariance"
    ACCURACY = "accuracy"
    ROBUSTNESS = "robustness"
    LATENCY = "latency"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing a gate looked at.

    Attributes:
        gate: Where it stands in the order.
        passed: Whether it held; None when it could not be judged.
        text: What was found, with its numbers, and what was expected.
    """

    gate: Gate
    passed: bool | None
    text: str


class Verdict(StrEnum):
    """What follows from an evaluation."""

    PROVED = "proved"
    REFUSED = "refused"
    NOT_JUDGED = "not judged"
    AWAITING_MEASUREMENT = "awaiting measurement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Where a verdict is valid.

    Attributes:
        host: The machine measured on.
        provider: The execution provider.
        issued_unix_s: When.
        confidence: Probability with which all bounds that decide hold together, over every use of
            the same gate data.
        gate_use: How often this gate data had been used for this model, this use included.
        gate_sha256: Digest of the gate data; "" without any.
    """

    host: Host
    provider: str
    issued_unix_s: float
    confidence: float
    gate_use: int
    gate_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything the gates found.

    Attributes:
        verdict: What follows.
        reasons: Why, for people; never empty unless proved.
        checks: What each gate looked at, in order.
        figures: What was measured.
        certificate: Where it is valid.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...]
    certificate: Certificate

    def figure(self, name: FigureName) -> Figure | None:
        """The first figure of that name on items as they are, if it was measured."""
        return next((one for one in self.figures if one.name == name and not one.under), None)
