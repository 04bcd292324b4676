"""The composition root: builds everything, starts it, drains it, stops it in reverse order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import platform
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import onnxruntime

from optimizers.contract.errors import NotSupported
from optimizers.contract.host import cpu_budget, this_host
from optimizers.contract.prepacked import drop_foreign
from optimizers.contract.provider_options import ENGINE_CACHE, device_name
from optimizers.contract.providers import settle_provider
from server.aside import executor_aside
from server.cache import ResponseCache
from server.config import ServerConfig
from server.conversion import Conversion, ConversionLimits
from server.errors import FailedPrecondition
from server.explanations import Explanations
from server.job_worker import WORKER
from server.journal import Journal
from server.loader import Loader
from server.loading import Loading
from server.metrics import Metrics
from server.metrics_endpoint import MetricsEndpoint
from server.optimization import Optimization
from server.registry import Registry
from server.repository import ModelRepository, VariantStore
from server.residency import Residency, ResidencyPolicy
from server.room import Room
from server.routes import Routes
from server.rpc.endpoint import Endpoint
from server.rpc.inference import Inference
from server.rpc.management import Management
from server.rpc.reflection import descriptor_pool
from server.rpc.status import use_triton_codes
from server.rpc.traced import keep_metadata
from server.rpc.transport import Connections, choose_transport, new_server
from server.shared_memory import SharedMemory, SharedMemoryLimits
from server.version import product_version
from server.watch import RepositoryWatch
from server.yielding import Yielding

if TYPE_CHECKING:
    from server.tracing import Tracing

_log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.2
_LOCAL: Final = ("127.0.0.1", "::1", "localhost")


class App:
    """A whole server in one process."""

    def __init__(self, config: ServerConfig, worker: Sequence[str] = WORKER) -> None:
        """Build everything; nothing listens or loads yet.

        Args:
            config: What the server was told.
            worker: The command that works on the job directory given as its last argument.

        Raises:
            FailedPrecondition: The repository or the state directory cannot be used.
            NotSupported: The provider does not work here.
        """
        chosen = settle_provider(config.provider, config.provider_options)
        if config.provider != "cpu":
            _log.info("Models compute on %s: %s", chosen.provider, chosen.why)
        if config.cuda_graphs and chosen.provider != "cuda":
            _log.warning("--cuda-graphs has no effect: models compute on %s", chosen.provider)
        config = config.model_copy(update={"provider": chosen.provider})
        # For TensorRT in this process and in the workers that measure what it will serve.
        os.environ.setdefault(ENGINE_CACHE, str(config.state.absolute() / "engines"))
        if config.triton_codes:
            use_triton_codes()
        self.config = config
        self.broken = asyncio.Event()
        """Set when the server cannot go on; `why_broken` says why."""
        self.why_broken = ""
        self._device = chosen.provider, device_name(chosen.provider, config.provider_options)
        self.host = this_host(config.cpus or max(1, int(cpu_budget())))
        self._tracing = _tracing(config)
        self.metrics = Metrics(triton_names=config.triton_metrics)
        repository = ModelRepository(config.repository)
        self.store = VariantStore(config.state)
        self.journal = Journal(self.store.journal_file)
        loader = Loader(
            config=config,
            host=self.host,
            store=self.store,
            journal=self.journal,
            metrics=self.metrics,
            cache=_cache(config, self.metrics),
            room=Room(config.max_total_queue_items, config.max_total_queue_bytes),
        )
        self.registry = Registry()
        self.loading = Loading(
            self.registry,
            repository,
            loader,
            Conversion(
                self.store.converted_directory,
                ConversionLimits(
                    timeout_s=config.convert_seconds, memory_bytes=config.convert_memory_bytes
                ),
                self.store.require_free_disk,
                allowed=config.allow_pt2,
            ),
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
            worker=worker,
        )
        self._yielding = Yielding(
            self.registry,
            self.metrics,
            self.journal,
            self.optimization.jobs,
            budget_s=config.latency_budget,
        )
        self._inference = Inference(
            self.registry,
            self.routes,
            self.loading,
            self.residency,
            self.metrics,
            version=product_version(),
            strict_readiness=config.strict_readiness,
            memory=_shared_memory(config),
            tracing=self._tracing,
        )
        before_each = keep_metadata if self._tracing is not None else None
        management = Management(
            self.registry,
            self.residency,
            self.routes,
            self.optimization,
            self.journal,
            Explanations(self.store, self.optimization.jobs),
        )
        connections = Connections(
            max_message_bytes=config.max_message_bytes,
            max_streams=config.max_streams,
            keepalive_s=config.keepalive_seconds,
            keepalive_timeout_s=config.keepalive_timeout_seconds,
            min_ping_interval_s=config.min_ping_interval_seconds,
            max_age_s=config.max_connection_age_seconds,
            max_age_grace_s=config.max_connection_age_grace_seconds,
            response_compression=config.response_compression,
        )
        self.transport = choose_transport(
            config.transport, connections, is_local=config.host in _LOCAL
        )
        self.public = Endpoint(
            [self._inference.service(model_control=config.model_control == "explicit")],
            descriptor_pool(management=False),
            new_server(self.transport, connections),
            self._break,
            response_compression=config.response_compression,
            before_each=before_each,
        )
        self.admin = Endpoint(
            [self._inference.service(model_control=True, load_files=True), management.service()],
            descriptor_pool(management=True),
            new_server("grpcio", connections),
            self._break,
            response_compression=config.response_compression,
            before_each=before_each,
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
        self.metrics.provider_info.labels(*self._device).set(1)
        if self._tracing is not None:
            stack.push_async_callback(asyncio.to_thread, self._tracing.close)
        drop_foreign(self.store.packed_directory, self.host)
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
        # From here on there are callers, and what they do not wait for keeps out of their way.
        asyncio.get_running_loop().set_default_executor(executor_aside())
        # What is there now stays; to look through it for garbage would hold callers up for 12 ms.
        gc.collect()
        gc.freeze()
        if follows:
            follow = asyncio.create_task(self._watch.follow(config.poll_seconds), name="watch")
            stack.push_async_callback(_end, follow)
        yielding = asyncio.create_task(self._yielding.follow(), name="yielding")
        stack.push_async_callback(_end, yielding)
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

    def _break(self, why: str) -> None:
        self.why_broken = self.why_broken or why
        self.broken.set()

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
        await _first_of(stopping, app.broken)
        _log.info("Stopping: finishing what was accepted")
        await _end(greeting)
    finally:
        await app.stop()
    if app.why_broken:
        raise FailedPrecondition(f"{app.why_broken}; start the server again")
    _log.info("Stopped")


def _shared_memory(config: ServerConfig) -> SharedMemory | None:
    """What clients register, where they may; a tensor there is no larger than one in a message."""
    if not config.allow_shared_memory:
        return None
    return SharedMemory(SharedMemoryLimits(tensor_bytes=config.max_message_bytes))


def _cache(config: ServerConfig, metrics: Metrics) -> ResponseCache | None:
    if not config.cache_bytes:
        return None
    cache = ResponseCache(config.cache_bytes)
    metrics.show_cache(lambda: cache.size_bytes)
    return cache


def _tracing(config: ServerConfig) -> Tracing | None:
    """What traces requests, loaded only when it is wanted.

    Raises:
        NotSupported: OpenTelemetry is not installed.
    """
    if not config.trace_endpoint:
        return None
    try:
        from server.tracing import Tracing
    except ImportError as error:
        raise NotSupported(
            "--trace-endpoint needs OpenTelemetry, which is not installed here; "
            "`pip install 'hone-server[trace]'` brings it"
        ) from error
    return Tracing(config.trace_endpoint, ratio=config.trace_ratio, version=product_version())


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


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _call(function: Callable[[], Awaitable[None]]) -> None:
    await function()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
