"""Quantities as the page writes them: the value, and in brackets its bound."""

from __future__ import annotations

from typing import Final

from benchmarks.gains.records import Gained, Quantity

_FORMS: Final = {
    Quantity.FASTER: ".2f",
    Quantity.SMALLER: ".2f",
    Quantity.HELD: ".2f",
    Quantity.PEAK: ".2f",
    Quantity.ACCURACY: "+.2f",
    Quantity.AGREEMENT: ".1f",
    Quantity.COSINE: ".4f",
    Quantity.MEGABYTES: ".1f",
}
_PHRASES: Final = {
    Quantity.FASTER: "{} times faster",
    Quantity.SMALLER: "{} times smaller",
    Quantity.HELD: "{} times less memory held",
    Quantity.PEAK: "{} times less memory at the peak",
    Quantity.ACCURACY: "{} points of accuracy",
    Quantity.AGREEMENT: "agreement {} %",
    Quantity.COSINE: "cosine {}",
    Quantity.MEGABYTES: "{} MB",
}


def cell(quantity: Quantity, gained: Gained | None) -> str:
    """A cell under a head that says what it is; "" where nothing was measured."""
    if gained is None:
        return ""
    sign = " %" if quantity is Quantity.AGREEMENT else ""
    return f"{number(quantity, gained.value)}{sign}{_bound(quantity, gained)}"


def said(quantity: Quantity, gained: Gained) -> str:
    """The same in a sentence: `3.60 [3.58] times faster`."""
    return _PHRASES[quantity].format(f"{number(quantity, gained.value)}{_bound(quantity, gained)}")


def wanted(quantity: Quantity, limit: float, aim: float | None) -> str:
    """What is asked: `≥ 2.5 times faster`, `≤ 1.5 points of accuracy lost (aim: 1)`."""
    wished = "" if aim is None else f" (aim: {abs(aim):g})"
    if quantity is Quantity.ACCURACY:
        return f"≤ {-limit:g} points of accuracy lost{wished}"
    sign = "≤" if quantity is Quantity.MEGABYTES else "≥"
    return _PHRASES[quantity].format(f"{sign} {limit:g}") + wished


def number(quantity: Quantity, value: float) -> str:
    """A value with as many digits as its quantity deserves."""
    return format(value, _FORMS[quantity])


def _bound(quantity: Quantity, gained: Gained) -> str:
    return "" if gained.bound is None else f" [{number(quantity, gained.bound)}]"


def as_line(*cells: str) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
