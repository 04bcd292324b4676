"""Which models are open: brought in when asked for, let go when idle or when memory is short.

A model that is let go stays known and counts as ready: the next request for it opens it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from optimizers.contract.errors import HoneError
from server.errors import NotReady, Overloaded
from server.footprint import Footprint
from server.loading import Loading
from server.metrics import Metrics
from server.model import ModelVersion
from server.registry import IDLE, MEMORY_BUDGET, Registry

_log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.05
"""How often a request that waits for room looks whether there is some."""
_LONGEST_WAIT_S: Final = 60.0
_LONGEST_PAUSE_S: Final = 1.0
_LABELS: Final = {IDLE: "idle", MEMORY_BUDGET: "memory_budget"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyPolicy:
    """When models are let go.

    Attributes:
        budget_bytes: What open models may hold together; 0 for no bound. A single model may
            hold more.
        idle_s: A model that was not asked for so long is let go; 0 for never.
        keep_s: A model is open for at least so long before memory makes it go, so that two
            models that are asked for in turn do not push each other out with every request.
        max_items: Most requests that wait for a model to be opened.
        max_bytes: Most bytes of such requests.
    """

    budget_bytes: int
    idle_s: float
    keep_s: float
    max_items: int
    max_bytes: int


class Residency:
    """Opens models on demand and lets them go. Belongs to the registry's event loop."""

    def __init__(
        self,
        registry: Registry,
        loading: Loading,
        metrics: Metrics,
        policy: ResidencyPolicy,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Keep the models of `registry` within `policy`."""
        self._registry = registry
        self._loading = loading
        self._footprint = Footprint(registry, loading)
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._is_on = bool(policy.budget_bytes or policy.idle_s)
        self._room = asyncio.Lock()
        self._coming: dict[str, asyncio.Task[str]] = {}
        self._reserved: dict[str, int] = {}
        self._waiting_items = 0
        self._waiting_bytes = 0
        self._watching: asyncio.Task[None] | None = None

    async def load_all(self, names: Collection[str] | None = None) -> None:
        """Load models at start, by default every one known, as far as the budget goes.

        Under a budget they are opened one after the other, because what each holds is measured.
        """
        if not self._policy.budget_bytes:
            await self._loading.load_all(names)
        else:
            known = [entry.name for entry in self._registry.entries()]
            self._registry.expect(known if names is None else names)
            for name in sorted(known if names is None else names):
                if self._fits(await self._footprint.expected_of(name)) or not self._loading.put_off(
                    name, MEMORY_BUDGET
                ):
                    await self._loading.begin(name)
            self._registry.tried = True
        if self._is_on:
            self._watching = asyncio.create_task(self._watch(), name="residency")

    async def close(self) -> None:
        """Bring in nothing more and let nothing go."""
        tasks = [*self._coming.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def brings(self, name: str) -> bool:
        """Whether a model that is not open is about to be, or would be for a request."""
        registry = self._registry
        return self._is_on and (
            name in self._coming or registry.is_dormant(name) or registry.is_loading(name)
        )

    async def find(self, name: str, address: str, size_bytes: int = 0) -> tuple[ModelVersion, str]:
        """Like `Registry.find`, but a model that was let go is opened for the request.

        Args:
            name: The model.
            address: As for `Registry.find`.
            size_bytes: Of the request, which is held until the model is open.

        Raises:
            Overloaded: Too many requests wait for models already.
            NotReady: It does not serve, it could not be opened, or there was no room for too long.
            ServingError: As for `Registry.find`.
        """
        while True:
            try:
                return self._registry.find(name, address)
            except NotReady:
                if not self.brings(name):
                    raise
            await self._bring(name, size_bytes)

    async def _bring(self, name: str, size_bytes: int) -> None:
        """Wait until a model is open; requests that come meanwhile share one opening."""
        if self._waiting_items >= self._policy.max_items:
            raise Overloaded(
                f"{self._waiting_items} requests wait for models to be loaded already",
                reason="queue_items",
            )
        if self._waiting_bytes + size_bytes > self._policy.max_bytes:
            raise Overloaded(
                f"{self._waiting_bytes} bytes of requests wait for models to be loaded already",
                reason="queue_bytes",
            )
        task = self._coming.get(name)
        if task is None:
            task = self._coming[name] = asyncio.create_task(self._open(name), name=f"open {name}")
        self._waiting_items += 1
        self._waiting_bytes += size_bytes
        try:
            problem = await asyncio.shield(task)
        finally:
            self._waiting_items -= 1
            self._waiting_bytes -= size_bytes
        if problem:
            raise NotReady(problem)

    async def look(self) -> None:
        """Let go what has been idle for too long, and what is too much for the budget."""
        if self._policy.idle_s:
            since = self._clock() - self._policy.idle_s
            for name in self._idle(lambda model: model.last_used_s <= since):
                await self._let_go(name, IDLE)
        while (
            self._held() > self._policy.budget_bytes > 0
            and len(self._open_names()) > 1
            and await self._make_room("")
        ):
            pass

    async def _watch(self) -> None:
        pause_s = min(_LONGEST_PAUSE_S, (self._policy.idle_s or _LONGEST_PAUSE_S) / 4)
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.look()
            except Exception:
                _log.exception("idle models could not be let go")

    async def _open(self, name: str) -> str:
        """Open a model for a request; why that did not go, "" when it did or others do it."""
        try:
            async with self._registry.lock(name):
                pass  # who loads or unloads it now comes first
            return await self._open_in_room(name)
        finally:
            del self._coming[name]

    async def _open_in_room(self, name: str) -> str:
        needed = await self._footprint.expected_of(name)
        async with self._room:
            end = self._clock() + _LONGEST_WAIT_S
            while self._registry.is_dormant(name) and not self._fits(needed):
                if await self._make_room(name):
                    continue
                if self._clock() > end:
                    return (
                        f"there is no room for '{name}' within the memory budget: every other "
                        "model is in use; try again later, or raise --memory-budget"
                    )
                await asyncio.sleep(_LOOK_EVERY_S)
            if not self._registry.is_dormant(name):
                return ""
            self._reserved[name] = needed
        _log.info("model %s is opened for a request", name)
        try:
            await self._loading.reload(name)
        except HoneError as error:
            return f"'{name}' could not be loaded: {error}"
        finally:
            del self._reserved[name]
        return ""

    async def _make_room(self, name: str) -> bool:
        """Let the model go that was asked for least recently, other than `name`; if one may."""
        opened_before = self._clock() - self._policy.keep_s
        for candidate in self._idle(lambda model: model.opened_s <= opened_before):
            if candidate != name and await self._let_go(candidate, MEMORY_BUDGET):
                return True
        return False

    async def _let_go(self, name: str, reason: str) -> bool:
        self._footprint.of(name)  # what it holds is known only while it is open
        gone = await self._loading.set_aside(name, reason)
        if gone:
            _log.info("model %s %s", name, reason)
            self._metrics.models_unloaded.labels(name, _LABELS[reason]).inc()
        return gone

    def _idle(self, admits: Callable[[ModelVersion], bool]) -> list[str]:
        """Models of which no version answers anything now, least recently asked for first."""

        def may_go(name: str) -> bool:
            models = self._registry.models(name)
            is_free = name not in self._reserved and not self._registry.lock(name).locked()
            return is_free and all(model.is_idle and admits(model) for model in models)

        def last_used_s(name: str) -> float:
            return max(model.last_used_s for model in self._registry.models(name))

        return sorted(filter(may_go, self._open_names()), key=last_used_s)

    def _open_names(self) -> set[str]:
        return {model.name for model in self._registry.models()}

    def _fits(self, needed: int) -> bool:
        """Whether so much more may be opened; one model alone always may."""
        held = self._held()
        budget = self._policy.budget_bytes
        return not budget or not held or held + needed <= budget

    def _held(self) -> int:
        """What open models hold, and what those will that are being opened."""
        names = self._open_names() - self._reserved.keys()
        return self._footprint.of_all(names) + sum(self._reserved.values())
