"""How targets stand by what was measured: which row meets one best, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.gains.records import Gained, Quantity, Record
from benchmarks.gains.targets import Demand, Refusal, Target
from benchmarks.gains.wording import number, said
from optimizers.contract.job import JobState


class Verdict(StrEnum):
    """How a target stands."""

    HELD = "held"
    BY_ESTIMATE = "estimate holds, bound does not"
    MISSED = "missed"
    NOT_REFUSED = "not refused"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One target beside what was measured.

    Attributes:
        model: Which model.
        text: What is asked.
        verdict: How it stands.
        row: Title of the row that stands best; "" where nothing was measured.
        measured: That row's values, with their bounds.
        remarks: What it lacks and why, or how the aim stands.
    """

    model: str
    text: str
    verdict: Verdict
    row: str = ""
    measured: str = ""
    remarks: str = ""


def standing(target: Target | Refusal, records: Sequence[Record]) -> Standing:
    """How a target stands by the records of its model."""
    if isinstance(target, Refusal):
        return _refusal(target, records)
    best = _best(target, records)
    if best is None:
        return Standing(model=target.model, text=target.text, verdict=Verdict.NOT_MEASURED)
    verdict = _verdict(target, best)
    remark = _of_aim if verdict is Verdict.HELD else _of_limit
    remarks = [remark(demand, best.figures[demand.quantity]) for demand in target.demands]
    if verdict is not Verdict.HELD:
        remarks.append(target.why)
    return Standing(
        model=target.model,
        text=target.text,
        verdict=verdict,
        row=best.title,
        measured=", ".join(_said(best, demand.quantity) for demand in target.demands),
        remarks="; ".join(filter(None, remarks)),
    )


def _refusal(target: Refusal, records: Sequence[Record]) -> Standing:
    record = next((one for one in records if one.title == target.title), None)
    if record is None or record.ending.startswith(JobState.FAILED):
        return Standing(model=target.model, text=target.text, verdict=Verdict.NOT_MEASURED)
    is_refused = record.ending.startswith(JobState.REFUSED)
    vnni = "with" if record.circumstances.has_vnni else "without"
    quantities = (Quantity.FASTER, Quantity.ACCURACY)
    return Standing(
        model=target.model,
        text=target.text,
        verdict=Verdict.HELD if is_refused else Verdict.NOT_REFUSED,
        row=record.title,
        measured=", ".join(_said(record, one) for one in quantities if one in record.figures),
        remarks=_reason(record) if is_refused else f"{vnni} VNNI {target.why}",
    )


def _reason(record: Record) -> str:
    """Why it was refused: the first reason, which is of the aim."""
    return record.ending.partition(": ")[2].split(";")[0]


def _best(target: Target, records: Sequence[Record]) -> Record | None:
    """Of the rows that are meant, the one that stands best.

    One that holds all by its bounds comes before one that holds all by its estimates, and that
    before one that holds more than others; among equals the first quantity counts, by its bound.
    """
    meant = [
        record
        for record in records
        if any(text in record.title for text in target.titles)
        and all(demand.quantity in record.figures for demand in target.demands)
    ]

    def rank(record: Record) -> tuple[bool, bool, int, int, float]:
        by_bound = [_holds_by_bound(demand, record) for demand in target.demands]
        by_value = [_holds(demand, record) for demand in target.demands]
        first = target.demands[0]
        gained = record.figures[first.quantity]
        worst = gained.value if gained.bound is None else gained.bound
        margin = first.margin(worst, first.limit)
        return all(by_bound), all(by_value), sum(by_bound), sum(by_value), margin

    return max(meant, key=rank, default=None)


def _verdict(target: Target, record: Record) -> Verdict:
    if all(_holds_by_bound(demand, record) for demand in target.demands):
        return Verdict.HELD
    if all(_holds(demand, record) for demand in target.demands):
        return Verdict.BY_ESTIMATE
    return Verdict.MISSED


def _holds(demand: Demand, record: Record) -> bool:
    return demand.is_met(record.figures[demand.quantity].value)


def _holds_by_bound(demand: Demand, record: Record) -> bool:
    return demand.is_met(record.figures[demand.quantity].bound)


def _of_limit(demand: Demand, gained: Gained) -> str:
    """What one demand lacks; "" for nothing."""
    if not demand.is_met(gained.value):
        return _short(demand, gained.value, demand.limit)
    if gained.bound is None:
        return f"{said(demand.quantity, gained)} has no bound"
    if not demand.is_met(gained.bound):
        return f"the bound's {_short(demand, gained.bound, demand.limit)}"
    return ""


def _of_aim(demand: Demand, gained: Gained) -> str:
    """How the aim of a demand that is met stands; "" where there is none."""
    if demand.aim is None or gained.bound is None:
        return ""
    if demand.margin(gained.bound, demand.aim) >= 0:
        return "the aim as well"
    if demand.margin(gained.value, demand.aim) >= 0:
        bound = _short(demand, gained.bound, demand.aim)
        return f"the aim by its estimate only, the bound's {bound}"
    return f"not the aim, {_short(demand, gained.value, demand.aim)}"


def _short(demand: Demand, value: float, limit: float) -> str:
    """`1.14 times faster misses 1.30 by 0.16`."""
    quantity = demand.quantity
    return (
        f"{said(quantity, Gained(value=value))} misses {number(quantity, limit)} "
        f"by {number(quantity, abs(value - limit)).lstrip('+')}"
    )


def _said(record: Record, quantity: Quantity) -> str:
    return said(quantity, record.figures[quantity])
