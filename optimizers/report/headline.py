"""What came of a search, in a few words and one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optimizers.contract.evaluation import Evaluation, Verdict
from optimizers.contract.goal import Goal
from optimizers.contract.study import Explanation
from optimizers.search.explaining import winner_text
from optimizers.search.wording import against_original, amount, duration


class Tone(StrEnum):
    """Whether news are good."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What a reader learns first.

    Attributes:
        tone: Whether it is good news.
        verdict: A few words.
        sentence: Why, with numbers.
    """

    tone: Tone
    verdict: str
    sentence: str


def headline(explanation: Explanation, evaluation: Evaluation | None) -> Headline:
    """What came of a search, whether it has ended or not."""
    if explanation.winner is None:
        return _without_winner(explanation)
    goal, trials = explanation.profile.goal, explanation.trials
    why = winner_text(explanation.trial(explanation.winner), goal, trials)
    if evaluation is None and not explanation.ended_because:
        return Headline(tone=Tone.OPEN, verdict="Best so far", sentence=why)
    if evaluation is None:
        return Headline(tone=Tone.OPEN, verdict="Found, not judged by the gate yet", sentence=why)
    reasons = "; ".join(evaluation.reasons)
    match evaluation.verdict:
        case Verdict.PROVED:
            why += "".join(f"; the gate found {one}" for one in _found(evaluation, goal))
            return Headline(tone=Tone.GOOD, verdict="Proved by the gate", sentence=why)
        case Verdict.REFUSED:
            return Headline(tone=Tone.BAD, verdict="Refused by the gate", sentence=reasons)
        case Verdict.NOT_JUDGED | Verdict.AWAITING_MEASUREMENT:
            found = f"Found, {evaluation.verdict}"
            return Headline(tone=Tone.OPEN, verdict=found, sentence=reasons)


def progress_text(explanation: Explanation) -> str:
    """How much was tried, for how long, and why it ended or what is left."""
    tried = len(explanation.trials)
    text = f"{tried} trial{'' if tried == 1 else 's'} in {duration(explanation.seconds)}"
    if explanation.ended_because:
        return f"{text}; the search ended: {explanation.ended_because}"
    return f"{text}; the search goes on, {duration(explanation.seconds_left)} left"


def _found(evaluation: Evaluation, goal: Goal) -> list[str]:
    """What the gate measured of each aim."""
    figures = [figure for name in goal.optimize if (figure := evaluation.figure(name)) is not None]
    return [
        f"{one.name} {amount(one.name, one.value.value)}, {against_original(one)}".rstrip(", ")
        for one in figures
    ]


def _without_winner(explanation: Explanation) -> Headline:
    if explanation.unsatisfiable:
        sentence = "; ".join(explanation.unsatisfiable)
        return Headline(tone=Tone.BAD, verdict="No recipe can meet the goal", sentence=sentence)
    near = explanation.nearest_miss
    if explanation.ended_because:
        return Headline(tone=Tone.BAD, verdict="No trial holds what is required", sentence=near)
    return Headline(tone=Tone.OPEN, verdict="No trial holds what is required so far", sentence=near)
