"""Serving comes first: while a model's live requests are late, the work on every job is stopped.

What is looked at is the 99th percentile of a short sliding window, exactly: it is above a budget
when more than one request in a hundred took longer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from server.jobs import Jobs
from server.journal import Journal
from server.metrics import Metrics
from server.registry import Registry

_LOOK_EVERY_S: Final = 0.25
_SHARE: Final = 0.01
_LEAST_LATE: Final = 3
"""One slow request among a few is no percentile."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseTerms:
    """When the work on jobs stops and goes on.

    Attributes:
        window_s: How far back requests count.
        calm_s: For how long no model may have been late before the work goes on.
        longest_s: No pause takes longer, so that no job waits for ever.
        turn_s: How long the work goes on at least after a longest pause.
    """

    window_s: float = 3.0
    calm_s: float = 5.0
    longest_s: float = 60.0
    turn_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """A model whose requests are late.

    Attributes:
        model: Its name.
        version: The version with most requests that were.
        text: How late, for people.
    """

    model: str
    version: int
    text: str


class PauseRule:
    """Decides from one look at the requests to the next whether the work stands still."""

    def __init__(self, terms: PauseTerms) -> None:
        """Begin with the work going on."""
        self._terms = terms
        self._since: float | None = None
        self._calm_since: float | None = None
        self._turn_until = float("-inf")
        self.why_over = ""
        """Why the last pause ended."""

    def stops(self, now: float, *, is_late: bool) -> bool:
        """Whether the work stands still from now on; `now` is on a monotonic clock."""
        terms = self._terms
        if self._since is None:
            if is_late and now >= self._turn_until:
                self._since, self._calm_since = now, None
            return self._since is not None
        if is_late:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if self._calm_since is not None and now - self._calm_since >= terms.calm_s:
            return self._end(f"no model was late for {terms.calm_s:g} s")
        if now - self._since >= terms.longest_s:
            self._turn_until = now + terms.turn_s
            return self._end(f"no pause takes longer than {terms.longest_s:g} s")
        return True

    def forget(self) -> None:
        """There is nothing left that could stand still."""
        self._end("no job is left to be paused")

    def _end(self, why: str) -> bool:
        self._since = self._calm_since = None
        self.why_over = why
        return False


class Yielding:
    """Stops the work on jobs while models are late. Belongs to the registry's event loop."""

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        journal: Journal,
        jobs: Jobs,
        *,
        budget_s: float,
        terms: PauseTerms | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Watch over the models of `registry`.

        Args:
            registry: What serves.
            metrics: Counts its requests, and is told of pauses.
            journal: Told when a pause begins and ends.
            jobs: What is paused.
            budget_s: Of models whose `hone.yaml` names none; 0: they have none.
            terms: When to pause.
            clock: Seconds, monotonic.
        """
        self._registry = registry
        self._metrics = metrics
        self._journal = journal
        self._jobs = jobs
        self._budget_s = budget_s
        self._clock = clock
        terms = terms or PauseTerms()
        self._window_s = terms.window_s
        self._rule = PauseRule(terms)
        self._counts: deque[tuple[float, dict[tuple[str, int], tuple[int, int]]]] = deque()
        self._pause: tuple[float, Late] | None = None
        self._told = 0.0

    async def follow(self) -> None:
        """Look again and again until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Look at what requests took lately, and let the work on jobs stop or go on."""
        now = self._clock()
        late = self._late(now)
        running = len(self._jobs.running)
        if self._pause is not None:
            self._metrics.job_paused_seconds.inc(running * (now - self._told))
        self._told = now
        if not running:
            self._rule.forget()
        stops = bool(running) and self._rule.stops(now, is_late=late is not None)
        if stops and late is not None and self._pause is None:
            self._begin(now, late)
        elif not stops and self._pause is not None:
            self._end(now, *self._pause)
        self._metrics.jobs_paused.set(running if self._pause is not None else 0)

    def _begin(self, now: float, late: Late) -> None:
        self._pause = now, late
        self._jobs.pause(f"{late.model}: {late.text}")
        jobs = ", ".join(self._jobs.running)
        self._journal.record(late.model, late.version, "jobs_paused", f"job {jobs}: {late.text}")

    def _end(self, now: float, since: float, late: Late) -> None:
        self._pause = None
        self._jobs.resume()
        text = f"after {now - since:.1f} s: {self._rule.why_over}"
        self._journal.record(late.model, late.version, "jobs_resumed", text)

    def _late(self, now: float) -> Late | None:
        """The model that is above its budget by the largest share; None where none is."""
        counts: dict[tuple[str, int], tuple[int, int]] = {}
        budgets: dict[str, float] = {}
        for model in self._registry.models():
            named_s = model.entry.policy.latency_budget_s
            budgets[model.name] = self._budget_s if named_s is None else named_s
            metrics = self._metrics.of_version(model.name, model.version)
            metrics.latency_budget_s = budgets[model.name]
            counts[model.name, model.version] = metrics.timed, metrics.late
        self._counts.append((now, counts))
        while len(self._counts) > 1 and self._counts[1][0] <= now - self._window_s:
            self._counts.popleft()
        return _latest(self._counts[0][1], counts, budgets, self._window_s)


def _latest(
    before: Mapping[tuple[str, int], tuple[int, int]],
    after: Mapping[tuple[str, int], tuple[int, int]],
    budgets: Mapping[str, float],
    window_s: float,
) -> Late | None:
    """Of the models above their budgets, that with the largest share of late requests.

    Args:
        before: (model, version) → requests timed and those that were late, at a window's begin.
        after: The same at its end.
        budgets: Model → seconds.
        window_s: Length of the window.
    """
    found: list[tuple[float, Late]] = []
    for name, budget_s in budgets.items():
        timed, late, most = 0, 0, (0, 0)
        for (model, version), (timed_now, late_now) in after.items():
            if model == name:
                timed_then, late_then = before.get((model, version), (timed_now, late_now))
                timed += timed_now - timed_then
                late += late_now - late_then
                most = max(most, (late_now - late_then, version))
        if late >= _LEAST_LATE and late > _SHARE * timed:
            text = (
                f"{late} of {timed} requests of the last {window_s:g} s took longer than the "
                f"latency budget of {1e3 * budget_s:g} ms"
            )
            found.append((late / timed, Late(model=name, version=most[1], text=text)))
    return max(found, key=lambda one: one[0])[1] if found else None
