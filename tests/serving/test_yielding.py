"""When the work on jobs stops for live requests, and when it goes on; in virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.job import PAUSE_FILE
from optimizers.contract.profile import model_policy
from server.app import App
from server.config import ServerConfig, server_config
from server.metrics import Metrics
from server.yielding import PauseRule, PauseTerms, Yielding
from tests.support import models
from tests.support.data import policy, write_data
from tests.support.workers import ENDLESS, until, worker

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


@dataclass(slots=True)
class Watched:
    """A server that nobody can call, with a job under way, looked at whenever a test says so."""

    app: App
    yielding: Yielding
    now: float = 0.0

    def answers(self, *seconds: float, times: int = 1) -> None:
        """Requests are answered, each after so long."""
        variant = self.app.metrics.of_variant("net", 1, "original")
        for _ in range(times):
            for one in seconds:
                variant.answered("OK", one)

    def look(self, now: float) -> str:
        """Why jobs stand still from now on; "" when they do not."""
        self.now = now
        self.yielding.look()
        [job] = self.app.optimization.jobs.running
        file = self.app.store.jobs_directory / job / PAUSE_FILE
        return file.read_text() if file.exists() else ""


@contextlib.asynccontextmanager
async def watched(tmp_path: Path, more: str = "", *, budget_s: float) -> AsyncIterator[Watched]:
    original = models.perceptron(tmp_path / "models/net/1/model.onnx", sizes=(16, 64, 64, 4))
    write_data(tmp_path / "models/net/data", original, gate_items=8, calibration_items=8)
    fast = "  fast: {recipe: [{dynamic_int8: {}}], goal: {optimize: [size]}}"
    (tmp_path / "models/net/hone.yaml").write_text(f"{policy(fast, serve='fast')}\n{more}")
    config = ServerConfig(repository=tmp_path / "models", state=tmp_path / "state", cpus=2)
    app = App(config, worker=worker(ENDLESS))
    try:
        await app.optimization.start()
        await app.loading.scan()
        await app.loading.load_all()
        jobs = app.optimization.jobs
        await until(lambda: jobs.running)
        yielding = Yielding(
            *(app.registry, app.metrics, app.journal, jobs),
            budget_s=budget_s,
            terms=TERMS,
            clock=lambda: seen.now,
        )
        seen = Watched(app, yielding)
        yield seen
    finally:
        await app.optimization.close()
        await app.loading.close()
        app.journal.close()
        app.store.close()


async def test_jobs_stand_still_once_more_than_one_request_in_a_hundred_is_late(
    tmp_path: Path,
) -> None:
    async with watched(tmp_path, budget_s=0.02) as seen:
        assert not seen.look(0.0)
        seen.answers(0.03, times=2)
        assert not seen.look(1.0), "two slow requests are no percentile"
        assert not seen.look(5.0)
        seen.answers(0.03, times=3)
        seen.answers(0.01, times=297)
        assert not seen.look(6.0), "three of three hundred are one in a hundred"
        seen.answers(0.03)
        why = seen.look(7.0)
        assert why.startswith("net: 4 of 301 requests of the last 3 s took longer than the")
        assert why.endswith("latency budget of 20 ms")
        seen.answers(0.01, times=100)
        assert seen.look(9.0)
        for now in (10.0, 12.0, 13.75):
            assert seen.look(now)
        assert not seen.look(14.0)
        kinds = [event.kind for event in await seen.app.journal.events("net")]
        assert kinds[-2:] == ["jobs_paused", "jobs_resumed"]


async def test_what_a_model_says_of_its_budget_counts_before_the_flag(tmp_path: Path) -> None:
    async with watched(tmp_path, "latency_budget: 50 ms", budget_s=0.02) as seen:
        assert not seen.look(0.0)
        seen.answers(0.03, times=10)
        assert not seen.look(1.0)
        seen.answers(0.06, times=10)
        assert "latency budget of 50 ms" in seen.look(2.0)


async def test_a_model_can_do_without_a_budget(tmp_path: Path) -> None:
    async with watched(tmp_path, "latency_budget: 0", budget_s=0.02) as seen:
        assert not seen.look(0.0)
        seen.answers(5.0, times=10)
        assert not seen.look(1.0)


def test_a_budget_is_a_duration_and_zero_means_never() -> None:
    for text, seconds in (("20 ms", 0.02), ("0.5s", 0.5), ("250 us", 0.00025), ("0", 0.0)):
        policy = model_policy(f"latency_budget: {text}\n", "net/hone.yaml")
        assert policy.latency_budget_s == pytest.approx(seconds)
        config = server_config(repository="models", latency_budget=text)
        assert config.latency_budget == pytest.approx(seconds)
    assert model_policy("", "net/hone.yaml").latency_budget_s is None
    assert server_config(repository="models").latency_budget == 0.0


@pytest.mark.parametrize(
    "text", ["20", "20 m", "fast", "-1 ms", "[1]", "true", "1e-3 s", f"1 s{' ' * 30}x"]
)
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidDocument, match=r"net/hone.yaml:1: latency_budget: .* 20 ms"):
        model_policy(f"latency_budget: {text}\n", "net/hone.yaml")
    with pytest.raises(InvalidDocument, match=r"--latency-budget .* 20 ms"):
        server_config(repository="models", latency_budget=text)
