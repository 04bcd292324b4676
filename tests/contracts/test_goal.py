"""The grammar of goals."""

from __future__ import annotations

import pytest

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.goal import FigureName, Goal, Relation, parse_requirement

UNDERSTOOD = {
    "latency_p50 <= 2 ms": (FigureName.LATENCY_P50, Relation.ABSOLUTE, 0.002),
    "latency_p50 >= 1 ms better": (FigureName.LATENCY_P50, Relation.GAIN, 0.001),
    "latency_p50 >= 30 % better": (FigureName.LATENCY_P50, Relation.RELATIVE_GAIN, 0.3),
    "accuracy <= 1 point worse": (FigureName.ACCURACY, Relation.LOSS, 0.01),
    "throughput <= 2 % worse": (FigureName.THROUGHPUT, Relation.RELATIVE_LOSS, 0.02),
    "memory <= 64 MiB": (FigureName.MEMORY, Relation.ABSOLUTE, 64 * 2**20),
    "memory<=64MiB": (FigureName.MEMORY, Relation.ABSOLUTE, 64 * 2**20),
    "agreement >= 0.97": (FigureName.AGREEMENT, Relation.ABSOLUTE, 0.97),
    "agreement >= 97 %": (FigureName.AGREEMENT, Relation.ABSOLUTE, 0.97),
    "sqnr >= 20 dB": (FigureName.SQNR, Relation.ABSOLUTE, 20),
    "throughput >= 1e3 items/s": (FigureName.THROUGHPUT, Relation.ABSOLUTE, 1000),
    "latency_p99 <= 500 us": (FigureName.LATENCY_P99, Relation.ABSOLUTE, 0.0005),
}

REFUSED = {
    "latency <= 2 ms": "did you mean 'latency_p99'?|did you mean 'latency_p50'?",
    "latency_p50 < 2 ms": "was not understood",
    "latency_p50 >= 2 ms": "wrong direction",
    "throughput <= 5": "wrong direction",
    "latency_p50 <= 2 MiB": "has no unit 'MiB'",
    "latency_p50 <= 2": "has no unit ''",
    "accuracy >= 1 point worse": "would be met by any failure",
    "accuracy <= 1 point better": "would be met by any failure",
    "agreement <= 2 % worse": "already compares with the original",
    "accuracy <= -1 point worse": "must not be negative",
    "": "was not understood",
    "latency_p50 <= 1e999 ms": "1e999 is too large a number",
}


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_a_sentence_is_understood(text: str) -> None:
    figure, relation, limit = UNDERSTOOD[text]
    found = parse_requirement(text)
    assert (found.figure, found.relation) == (figure, relation)
    assert found.limit == pytest.approx(limit)
    assert found.text == text


@pytest.mark.parametrize("text", REFUSED)
def test_a_sentence_that_makes_no_sense_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidDocument, match=REFUSED[text].replace("?", r"\?")):
        parse_requirement(text)


@pytest.mark.parametrize("confidence", [0.4, 1.0, float("nan")])
def test_confidence_is_a_probability_worth_having(confidence: float) -> None:
    with pytest.raises(InvalidDocument, match="confidence"):
        Goal(confidence=confidence)
