"""The composition root: builds everything, starts it, drains it, stops it in reverse order."""

from __future__ import annotations

import asyncio
import logging
import platform
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import onnxruntime

from optimizers.contract.host import cpu_budget, this_host
from optimizers.contract.runtime import require_provider
from server.config import ServerConfig
from server.errors import FailedPrecondition
from server.journal import Journal
from server.loader import Loader
from server.loading import Loading
from server.metrics import Metrics, MetricsEndpoint
from server.optimization import Optimization
from server.registry import Registry
from server.repository import ModelRepository, VariantStore
from server.residency import Residency, ResidencyPolicy
from server.routes import Routes
from server.rpc.endpoint import Endpoint
from server.rpc.inference import Inference
from server.rpc.management import Management
from server.rpc.reflection import descriptor_pool
from server.watch import RepositoryWatch

_log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.2


class App:
    """A whole server in one process."""

    def __init__(self, config: ServerConfig) -> None:
        """Build everything; nothing listens or loads yet.

        Raises:
            FailedPrecondition: The repository or the state directory cannot be used.
            NotSupported: The provider is not to be had here.
        """
        require_provider(config.provider)
        self.config = config
        self.host = this_host(config.cpus or max(1, int(cpu_budget())))
        self.metrics = Metrics()
        repository = ModelRepository(config.repository)
        self.store = VariantStore(config.state)
        self.journal = Journal(self.store.journal_file)
        loader = Loader(
            config=config,
            host=self.host,
            store=self.store,
            journal=self.journal,
            metrics=self.metrics,
        )
        self.registry = Registry()
        self.loading = Loading(
            self.registry,
            repository,
            loader,
            parallel=config.load_threads or min(2, self.host.cpus),
        )
        self.residency = Residency(
            self.registry,
            self.loading,
            self.metrics,
            ResidencyPolicy(
                budget_bytes=config.memory_budget,
                idle_s=config.idle_unload_seconds,
                keep_s=config.keep_loaded_seconds,
                max_items=config.max_queue_items,
                max_bytes=config.max_queue_bytes,
            ),
        )
        self._watch = RepositoryWatch(repository, self.loading)
        self.routes = Routes(self.registry, loader)
        self.optimization = Optimization(
            registry=self.registry,
            routes=self.routes,
            loading=self.loading,
            store=self.store,
            journal=self.journal,
            metrics=self.metrics,
            config=config,
            host=self.host,
        )
        self._inference = Inference(
            self.registry,
            self.routes,
            self.loading,
            self.residency,
            self.metrics,
            version=product_version(),
            strict_readiness=config.strict_readiness,
        )
        management = Management(
            self.registry, self.residency, self.routes, self.optimization, self.journal
        )
        self.public = Endpoint(
            [self._inference.service(model_control=config.model_control == "explicit")],
            descriptor_pool(management=False),
            max_message_bytes=config.max_message_bytes,
        )
        self.admin = Endpoint(
            [self._inference.service(model_control=True, load_files=True), management.service()],
            descriptor_pool(management=True),
            max_message_bytes=config.max_message_bytes,
        )
        self.metrics_port = 0
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Listen, load every model, and say that requests are welcome.

        Raises:
            FailedPrecondition: An address cannot be listened on.
        """
        config, stack = self.config, self._stack
        self.metrics.cpu_budget.set(self.host.cpus)
        self.metrics.build_info.labels(
            product_version(), onnxruntime.__version__, platform.python_version()
        ).set(1)
        stack.callback(self.store.close)
        stack.callback(self.journal.close)
        try:
            endpoint = MetricsEndpoint(self.metrics, config.host, config.metrics_port)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot serve metrics on {config.host}:{config.metrics_port}: {error.strerror}; "
                "choose another --metrics-port (0 takes any free one)"
            ) from error
        stack.callback(endpoint.close)
        self.metrics_port = endpoint.port
        stack.push_async_callback(self.loading.close)
        await self.optimization.start()
        stack.push_async_callback(self.optimization.close)
        follows = config.model_control == "poll"
        if follows:
            await self._watch.remember()
        await self.loading.scan()
        stack.push_async_callback(self.residency.close)
        stack.push_async_callback(self._stop_listening)
        await self.admin.start(config.admin_host, config.admin_port)
        await self.public.start(config.host, config.grpc_port)
        await self.residency.load_all(self._names_at_start())
        if follows:
            follow = asyncio.create_task(self._watch.follow(config.poll_seconds), name="watch")
            stack.push_async_callback(_end, follow)
        health = asyncio.create_task(self._keep_health(), name="health")
        stack.push_async_callback(_end, health)
        await self._tell_health()

    async def stop(self) -> None:
        """Claim readiness no more, finish what was accepted, close everything in reverse."""
        self._inference.accepting = False
        await self._tell_health()
        await self._stack.aclose()

    def _names_at_start(self) -> Collection[str] | None:
        """The models to load at start; None for all."""
        if self.config.model_control != "explicit" or "*" in self.config.load_model:
            return None
        return self.config.load_model

    async def _stop_listening(self) -> None:
        grace_s = self.config.drain_seconds
        await asyncio.gather(self.public.stop(grace_s), self.admin.stop(grace_s))

    async def _keep_health(self) -> None:
        """Strict readiness can change with every load; health checks follow it."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._tell_health()

    async def _tell_health(self) -> None:
        for endpoint in (self.public, self.admin):
            await endpoint.set_serving(self._inference.is_ready)


async def serve(app: App, ready: Callable[[], Awaitable[None]]) -> None:
    """Run a server until SIGTERM or SIGINT.

    Args:
        app: The server.
        ready: Called once it takes requests; ended when it stops.

    Raises:
        HoneError: It cannot start; the text says why.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        if not await _unless(stopping, app.start()):
            return
        greeting = asyncio.create_task(_call(ready), name="ready")
        await stopping.wait()
        _log.info("Stopping: finishing what was accepted")
        await _end(greeting)
    finally:
        await app.stop()
    _log.info("Stopped")


def product_version() -> str:
    """The installed version of Hone."""
    try:
        return version("hone-server")
    except PackageNotFoundError:
        return "0+unknown"


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work` unless the server is told to stop first; whether it was done."""
    working = asyncio.create_task(work, name="start")
    waiting = asyncio.create_task(stopping.wait(), name="signal")
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not working.done():
        _log.info("Stopping before everything was loaded")
        await _end(working)
        return False
    await working
    return True


async def _call(function: Callable[[], Awaitable[None]]) -> None:
    await function()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
