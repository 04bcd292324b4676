"""What the steps were meant to reach on each model, and why where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.gains.records import Quantity
from benchmarks.gains.wording import wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of one quantity.

    Attributes:
        quantity: Which; megabytes have to be at most the limit, all others at least.
        limit: In the quantity's own unit.
        aim: What is wished beyond that; None for nothing.
    """

    quantity: Quantity
    limit: float
    aim: float | None = None

    def margin(self, value: float, limit: float) -> float:
        """By how much a value is better than a limit; negative where it is worse."""
        return limit - value if self.quantity is Quantity.MEGABYTES else value - limit

    def is_met(self, value: float | None) -> bool:
        """Whether a value keeps the limit; a bound that there is not keeps none."""
        return value is not None and self.margin(value, self.limit) >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row has to meet all that is demanded.

    Attributes:
        model: Of `recipes.ROWS`.
        demands: The first is what rows that meet as much are ranked by.
        titles: Rows are meant whose titles hold one of these texts.
        meant: Which rows these are, for people; "" for all.
        why: What keeps it from being held, as far as it is known.
    """

    model: str
    demands: tuple[Demand, ...]
    titles: tuple[str, ...] = ("",)
    meant: str = ""
    why: str = ""

    @property
    def text(self) -> str:
        """What is asked, for people."""
        asked = ", ".join(wanted(one.quantity, one.limit, one.aim) for one in self.demands)
        return f"{self.meant}: {asked}" if self.meant else asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One row has to be refused, with the reason that was measured.

    Attributes:
        model: Of `recipes.ROWS`.
        title: The row's, in full.
        why: What lets it pass where it does.
    """

    model: str
    title: str
    why: str = ""

    @property
    def text(self) -> str:
        """What is asked, for people."""
        return f"{self.title}: refused, for a measured reason"


_SMALL: Final = (
    "half of its multiplications are gone, and an eighth of its 0.02 ms: what is left is hardly "
    "spent on multiplying"
)
_IN_INTEGERS: Final = "its products of integers win more than conversions cost"

TARGETS: Final[tuple[Target | Refusal, ...]] = (
    Target(
        model="resnet8",
        demands=(
            Demand(quantity=Quantity.FASTER, limit=2.5),
            Demand(quantity=Quantity.ACCURACY, limit=-1.5, aim=-1.0),
            Demand(quantity=Quantity.SMALLER, limit=3.5),
        ),
    ),
    *(
        Target(
            model=model,
            demands=(
                Demand(quantity=Quantity.FASTER, limit=1.3),
                Demand(quantity=Quantity.ACCURACY, limit=-0.5),
            ),
            why=why,
        )
        for model, why in (("lenet", ""), ("caffe_lenet", ""), ("tutorial", _SMALL))
    ),
    *(
        Refusal(model=model, title="static int8", why=_IN_INTEGERS)
        for model in ("lenet", "caffe_lenet", "tutorial")
    ),
    Target(
        model="efficientnet",
        demands=(
            Demand(quantity=Quantity.FASTER, limit=1.4),
            Demand(quantity=Quantity.AGREEMENT, limit=95.0),
        ),
        titles=("static int8", "quantisation-aware"),
        meant="static int8",
        why=(
            "the bound goes by photograph, and the gate has 110: agreement on every single crop "
            "would have a bound of 95.3 %"
        ),
    ),
    Target(
        model="efficientnet",
        demands=(Demand(quantity=Quantity.PEAK, limit=4.0),),
        meant="a served session",
    ),
    Target(
        model="minilm",
        demands=(
            Demand(quantity=Quantity.FASTER, limit=1.6),
            Demand(quantity=Quantity.COSINE, limit=0.99),
            Demand(quantity=Quantity.SMALLER, limit=3.8),
        ),
    ),
    Target(
        model="minilm",
        demands=(
            Demand(quantity=Quantity.MEGABYTES, limit=16.0),
            Demand(quantity=Quantity.COSINE, limit=0.985),
        ),
        titles=("4-bit",),
        meant="4-bit weights",
    ),
    Target(
        model="minilm",
        demands=(Demand(quantity=Quantity.COSINE, limit=0.9),),
        titles=("binary", "ternary"),
        meant="binary or ternary weights in feed-forward layers",
    ),
)
