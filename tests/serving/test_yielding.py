"""When the work on jobs stops for live requests, and when it goes on; in virtual time."""

from __future__ import annotations

import pytest

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.profile import model_policy
from server.config import server_config
from server.metrics import Metrics
from server.yielding import PauseRule, PauseTerms

TERMS = PauseTerms(window_s=3.0, calm_s=5.0, longest_s=60.0, turn_s=10.0)


def spans(late: list[tuple[float, float]], until_s: float) -> list[tuple[float, float]]:
    """From when to when the work stands still, if models are late in the spans of `late`."""
    rule, found, since = PauseRule(TERMS), [], None
    for tick in range(int(4 * until_s)):
        now = tick / 4
        stops = rule.stops(now, is_late=any(begin <= now < end for begin, end in late))
        if stops and since is None:
            since = now
        if not stops and since is not None:
            found.append((since, now))
            since = None
    return found


@pytest.mark.parametrize(
    ("late", "pauses"),
    [
        ([], []),
        ([(1, 2)], [(1, 7)]),
        ([(1, 2), (5, 6)], [(1, 11)]),
        ([(1, 2), (7.5, 8)], [(1, 7), (7.5, 13)]),
        ([(1, 1000)], [(1, 61), (71, 131)]),
    ],
    ids=["never", "once", "again before it is calm", "again after it was", "for ever"],
)
def test_a_pause_ends_when_it_was_calm_for_a_while_and_never_lasts_for_ever(
    late: list[tuple[float, float]], pauses: list[tuple[float, float]]
) -> None:
    assert spans(late, 140) == pauses


def test_a_rule_without_a_job_forgets_its_pause() -> None:
    rule = PauseRule(TERMS)
    assert rule.stops(0.0, is_late=True)
    rule.forget()
    assert not rule.stops(1.0, is_late=False)


def test_requests_count_as_late_only_where_there_is_a_budget() -> None:
    metrics = Metrics()
    variant = metrics.of_variant("net", 1, "original")
    variant.answered("OK", 5.0)
    version = metrics.of_version("net", 1)
    assert (version.timed, version.late) == (0, 0)
    version.latency_budget_s = 0.02
    variant.answered("OK", 0.02)
    variant.answered("DEADLINE_EXCEEDED", 0.03)
    variant.succeeded([0.01, 0.5])
    assert (version.timed, version.late) == (4, 2)


def test_a_budget_is_a_duration_and_zero_means_never() -> None:
    for text, seconds in (("20 ms", 0.02), ("0.5s", 0.5), ("250 us", 0.00025), ("0", 0.0)):
        policy = model_policy(f"latency_budget: {text}\n", "net/hone.yaml")
        assert policy.latency_budget_s == pytest.approx(seconds)
        config = server_config(repository="models", latency_budget=text)
        assert config.latency_budget == pytest.approx(seconds)
    assert model_policy("", "net/hone.yaml").latency_budget_s is None
    assert server_config(repository="models").latency_budget == 0.0


@pytest.mark.parametrize("text", ["20", "20 m", "fast", "-1 ms", "[1]", "true", "1e-3 s"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidDocument, match=r"net/hone.yaml:1: latency_budget: .* 20 ms"):
        model_policy(f"latency_budget: {text}\n", "net/hone.yaml")
    with pytest.raises(InvalidDocument, match=r"--latency-budget .* 20 ms"):
        server_config(repository="models", latency_budget=text)
