"""The Open Inference Protocol with Triton's extensions, over the registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
from numpy.typing import NDArray

from server.errors import (
    FailedPrecondition,
    InvalidRequest,
    NotReady,
    Overloaded,
    ServingError,
    Unsupported,
)
from server.loading import Loading
from server.logs import concern
from server.metrics import Metrics
from server.model import ModelVersion
from server.pb import open_inference_pb2 as pb
from server.registry import Registry, State
from server.residency import Residency
from server.routes import Routes
from server.rpc.classification import classify
from server.rpc.codec import DecodedRequest, decode_request, encode_response
from server.rpc.description import PLATFORM, max_batch_size, model_config, model_statistics
from server.rpc.endpoint import Duplex, Service, Unary
from server.rpc.forms import Forms, InferenceRequest
from server.rpc.layouts import Layouts
from server.rpc.load_parameters import decode_load
from server.rpc.memory_calls import MemoryCalls
from server.rpc.parameters import decode_parameters
from server.rpc.status import code_of
from server.rpc.streaming import Infer, InferenceStream
from server.rpc.together import Together
from server.rpc.traced import traced
from server.shared_memory import SharedMemory
from server.timeline import Timeline
from server.waiting import Terms

if TYPE_CHECKING:
    from server.tracing import Tracing

SERVICE_NAME: Final = "inference.GRPCInferenceService"
_CLOCKS_APART_S: Final = 0.005
_REASONS: Final[dict[type[ServingError], str]] = {
    NotReady: "not_ready",
    Overloaded: "waiting_for_load",
    InvalidRequest: "invalid_address",
}
_SHARED_MEMORY: Final = "system_shared_memory"
EXTENSIONS: Final = (
    "classification",
    "model_repository",
    "model_configuration",
    "statistics",
    "binary_tensor_data",
)


class _Named(Protocol):
    """A request about one model."""

    @property
    def name(self) -> str:
        """The model."""

    @property
    def version(self) -> str:
        """Its address."""


class Inference:
    """Handlers of `inference.GRPCInferenceService`; each takes a message and a deadline."""

    def __init__(
        self,
        registry: Registry,
        routes: Routes,
        loading: Loading,
        residency: Residency,
        metrics: Metrics,
        *,
        version: str,
        strict_readiness: bool,
        memory: SharedMemory | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Answer from `registry` and count in `metrics`.

        Args:
            registry: What serves.
            routes: Opens variants that a request names.
            loading: Loads and unloads.
            residency: Opens models that were let go.
            metrics: Where is counted.
            version: Of this server, for its metadata.
            strict_readiness: Whether readiness asks for every model.
            memory: Where clients may register shared memory; None: nowhere.
            tracing: Who is told of every request; None: nobody.
        """
        self._registry = registry
        self._routes = routes
        self._loading = loading
        self._residency = residency
        self._metrics = metrics
        self._version = version
        self._strict_readiness = strict_readiness
        self._infer: Infer = (
            self.model_infer if tracing is None else traced(self.model_infer, tracing)
        )
        self._forms = Forms()
        self._layouts: dict[ModelVersion, Layouts] = {}
        together = Together(registry, lambda model: self._layouts.get(model))
        self._together = together if tracing is None else None
        self._memory = memory
        self.accepting = True
        """Whether readiness may be claimed; false while the server stops."""

    def service(self, *, model_control: bool, load_files: bool = False) -> Service:
        """The service.

        Args:
            model_control: Whether anybody may load or unload through it.
            load_files: Whether a load may bring files.
        """

        async def load(request: Any, deadline: float | None) -> pb.RepositoryModelLoadResponse:
            return await self.load(request, takes_files=load_files)

        async def refuse(request: Any, deadline: float | None) -> Any:
            raise FailedPrecondition(
                "loading and unloading is not allowed on this endpoint; start the server with "
                "--model-control explicit, or use the admin endpoint"
            )

        return Service(
            name=SERVICE_NAME,
            methods={
                "ServerLive": Unary(request=pb.ServerLiveRequest, call=self.server_live),
                "ServerReady": Unary(request=pb.ServerReadyRequest, call=self.server_ready),
                "ModelReady": Unary(request=pb.ModelReadyRequest, call=self.model_ready),
                "ServerMetadata": Unary(
                    request=pb.ServerMetadataRequest, call=self.server_metadata
                ),
                "ModelMetadata": Unary(request=pb.ModelMetadataRequest, call=self.model_metadata),
                "ModelInfer": Unary(
                    request=pb.ModelInferRequest,
                    call=self._infer,
                    read=self._forms.read,
                    is_direct=True,
                    together=self._together,
                ),
                "ModelStreamInfer": Duplex(
                    request=pb.ModelInferRequest,
                    call=self.model_stream_infer,
                    read=self._forms.read,
                ),
                "ModelConfig": Unary(request=pb.ModelConfigRequest, call=self.model_config),
                "ModelStatistics": Unary(
                    request=pb.ModelStatisticsRequest, call=self.model_statistics
                ),
                "RepositoryIndex": Unary(
                    request=pb.RepositoryIndexRequest, call=self.repository_index
                ),
                "RepositoryModelLoad": Unary(
                    request=pb.RepositoryModelLoadRequest,
                    call=load if model_control else refuse,
                ),
                "RepositoryModelUnload": Unary(
                    request=pb.RepositoryModelUnloadRequest,
                    call=self.unload if model_control else refuse,
                ),
                **MemoryCalls(self._memory).methods(),
            },
        )

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome: every model was tried; if strict, all of them serve."""
        tried = self.accepting and self._registry.tried
        return tried and (not self._strict_readiness or self._registry.ready)

    async def model_infer(
        self,
        request: InferenceRequest,
        deadline: float | None,
        timeline: Timeline | None = None,
    ) -> bytes:
        """Answer one request by the routed variant, or by the one it names.

        Args:
            request: What is asked.
            deadline: When the caller stops waiting, on the monotonic clock.
            timeline: Where to note who serves it, and when it waits and runs.

        Returns:
            A serialised ModelInferResponse.

        Raises:
            HoneError: It cannot be answered; see `rpc.status`.
        """
        start, request_id = time.perf_counter(), request.id
        try:
            try:
                model, address = self._registry.find(request.model_name, request.model_version)
            except NotReady:
                model, address = await self._residency.find(
                    request.model_name, request.model_version, len(request.content)
                )
        except ServingError as error:
            self._metrics.unaddressed(_REASONS.get(type(error), "unknown_model"))
            raise
        model.last_used_s = start
        opened = model.active
        totals = opened.metrics.version
        totals.in_flight += 1
        try:
            layouts = self._layouts.get(model) or self._new_layouts(model)
            form, timeout_s, priority = request.form, 0.0, 0
            if form is not None and form.owner is not layouts:
                form = None
            if form is not None:
                form.runs_at_once = opened.at_once is not None
                parameters = form.parameters
            else:
                parameters = decode_parameters(request.message.parameters)
            if parameters:
                address = _one_address(address, parameters.get("variant"))
                timeout_s = 1e-6 * int(parameters.get("timeout", 0))
                priority = int(parameters.get("priority", 0))
            if address:
                opened = await self._routes.opened(model, address)
            if form is not None:
                decoded = form.decoded(request.content)
            else:
                decoded = decode_request(request.message, model.signature, self._memory)
                _check_rows(model, decoded.feeds, decoded.rows)
                self._forms.learn(layouts, request, parameters, model.signature, decoded)
            request.let_go()  # its arrays are copies; while it waits, only they take memory
            if timeline is not None:
                timeline.served_by = (model.name, str(model.version), opened.variant)
            arrays = await opened.infer(
                decoded.feeds,
                decoded.rows,
                decoded.outputs,
                Terms(deadline, timeout_s, priority, timeline),
            )
            if decoded.classes or decoded.places:
                response = _special_answer(model, opened.variant, request_id, decoded, arrays)
            else:
                response = layouts.encode(
                    model_name=model.name,
                    version=model.version,
                    variant=opened.variant,
                    request_id=request_id,
                    names=decoded.outputs,
                    arrays=arrays,
                )
        except asyncio.CancelledError:
            # gRPC cancels a handler at its caller's deadline, a moment early at worst.
            late = deadline is not None and deadline <= time.monotonic() + _CLOCKS_APART_S
            code = "DEADLINE_EXCEEDED" if late else "CANCELLED"
            opened.metrics.answered(code, time.perf_counter() - start)
            raise
        except Exception as error:
            expected = code_of(type(error))
            if expected is None:
                concern(
                    error,
                    model=model.name,
                    version=model.version,
                    variant=opened.variant,
                    request_id=request_id,
                )
            code = (expected or grpc.StatusCode.INTERNAL).name
            opened.metrics.answered(code, time.perf_counter() - start)
            raise
        finally:
            totals.in_flight -= 1
        opened.metrics.answered("OK", time.perf_counter() - start)
        return response

    def model_stream_infer(
        self,
        requests: AsyncIterator[InferenceRequest],
        deadline: float | None,
        metadata: Mapping[str, str],
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """Answer the requests of a stream in the order they come; see `InferenceStream`."""
        return InferenceStream(self._infer, deadline, metadata).answers(requests)

    async def server_live(self, request: Any, deadline: float | None) -> pb.ServerLiveResponse:
        """The process answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, deadline: float | None) -> pb.ServerReadyResponse:
        """Whether requests are welcome."""
        return pb.ServerReadyResponse(ready=self.is_ready)

    async def model_ready(
        self, request: pb.ModelReadyRequest, deadline: float | None
    ) -> pb.ModelReadyResponse:
        """Whether a model serves, or would be opened for a request.

        Unknown ones are NOT_FOUND, unloaded ones UNAVAILABLE.
        """
        if not self._residency.brings(request.name):
            self._find(request)
        return pb.ModelReadyResponse(ready=True)

    async def server_metadata(
        self, request: Any, deadline: float | None
    ) -> pb.ServerMetadataResponse:
        """Name, version and the protocol extensions spoken."""
        extensions = (*EXTENSIONS, *(() if self._memory is None else (_SHARED_MEMORY,)))
        return pb.ServerMetadataResponse(name="hone", version=self._version, extensions=extensions)

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, deadline: float | None
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs with full shapes; -1 where any length fits."""
        model = await self._open(request)
        response = pb.ModelMetadataResponse(
            name=model.name,
            versions=[str(one.version) for one in self._registry.models(model.name)],
            platform=PLATFORM,
        )
        for target, specs in (
            (response.inputs, model.signature.inputs),
            (response.outputs, model.signature.outputs),
        ):
            for spec in specs:
                target.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def model_config(
        self, request: pb.ModelConfigRequest, deadline: float | None
    ) -> pb.ModelConfigResponse:
        """What is in effect, in Triton's words."""
        return pb.ModelConfigResponse(config=model_config(await self._open(request)))

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, deadline: float | None
    ) -> pb.ModelStatisticsResponse:
        """Running totals of one version, of a model's versions, or of everything."""
        if request.name and request.version:
            models = [self._find(request)]
        elif request.name:
            self._registry.find(request.name, "")
            models = self._registry.models(request.name)
        else:
            models = self._registry.models()
        return pb.ModelStatisticsResponse(
            model_stats=[
                model_statistics(model, self._metrics.statistics(model.name, model.version))
                for model in models
            ]
        )

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, deadline: float | None
    ) -> pb.RepositoryIndexResponse:
        """Every version ever tried; a model of which none was tried appears by name."""
        _refuse_repository(request.repository_name)
        response = pb.RepositoryIndexResponse()
        tried = set()
        for name, version, standing in self._registry.standings():
            tried.add(name)
            if standing.state is State.READY or not request.ready:
                response.models.add(
                    name=name, version=str(version), state=standing.state, reason=standing.reason
                )
        for entry in self._registry.entries():
            if entry.name not in tried and not request.ready:
                asked = self._registry.is_expected(entry.name)
                comes = asked and not self._registry.tried and not entry.error
                state = State.LOADING if comes else State.UNAVAILABLE
                response.models.add(name=entry.name, state=state, reason=entry.error)
        return response

    async def load(
        self, request: pb.RepositoryModelLoadRequest, *, takes_files: bool
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model as it lies in the repository, or as the request says."""
        config, files = decode_load(request.parameters, takes_files=takes_files)
        await self._loading.load(_model_name(request), config, files)
        return pb.RepositoryModelLoadResponse()

    async def unload(
        self, request: pb.RepositoryModelUnloadRequest, deadline: float | None
    ) -> pb.RepositoryModelUnloadResponse:
        """Finish what was accepted for a model and close it."""
        for key in request.parameters:
            if key != "unload_dependents":
                raise InvalidRequest(f"unknown unload parameter '{key[:64]}'")
        await self._loading.unload(_model_name(request))
        return pb.RepositoryModelUnloadResponse()

    def _new_layouts(self, model: ModelVersion) -> Layouts:
        """The forms of a version's answers; those of versions that serve no more are dropped."""
        known = self._layouts
        self._layouts = {one: known[one] for one in self._registry.models() if one in known}
        return self._layouts.setdefault(model, Layouts())

    def _find(self, request: _Named) -> ModelVersion:
        """The version that a request names; the variant it may name too must exist."""
        model, address = self._registry.find(request.name, request.version)
        model.resolve(address)
        return model

    async def _open(self, request: _Named) -> ModelVersion:
        """Like `_find`, but a model that was let go is opened for the request."""
        model, address = await self._residency.find(request.name, request.version)
        model.resolve(address)
        return model


def _one_address(address: str, variant: object) -> str:
    if not variant:
        return address
    if address and address != variant:
        raise InvalidRequest(
            f"model_version names variant '{address[:64]}' and parameter 'variant' another, "
            f"'{str(variant)[:64]}'; name one"
        )
    return str(variant)


def _check_rows(model: ModelVersion, feeds: dict[str, Any], rows: int) -> None:
    most = model.entry.config.max_batch_size
    if most and rows > most:
        raise InvalidRequest(
            f"inference request batch-size must be <= {most} for '{model.name}', got {rows}"
        )
    if len(feeds) > 1 and model.signature.has_batch_dimension:
        lengths = {name: array.shape[0] for name, array in feeds.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidRequest(
                f"inputs of '{model.name}' must have the same number of rows, got {lengths}"
            )


def _special_answer(
    model: ModelVersion,
    variant: str,
    request_id: str,
    decoded: DecodedRequest,
    arrays: list[NDArray[Any]],
) -> bytes:
    """The answer where outputs are wanted as classes or in shared memory."""
    if decoded.classes:
        arrays = _classified(model, decoded, arrays)
    return encode_response(
        model_name=model.name,
        version=model.version,
        variant=variant,
        request_id=request_id,
        names=decoded.outputs,
        arrays=arrays,
        places=decoded.places,
    ).SerializeToString()


def _classified(
    model: ModelVersion, decoded: DecodedRequest, arrays: Sequence[NDArray[Any]]
) -> list[NDArray[Any]]:
    """The outputs, those wanted as classes in that form."""
    by_row = max_batch_size(model) > 0
    return [
        classify(name, array, decoded.classes[name], model.labels(name), by_row=by_row)
        if name in decoded.classes
        else array
        for name, array in zip(decoded.outputs, arrays, strict=True)
    ]


def _refuse_repository(name: str) -> None:
    if name:
        raise Unsupported(f"this server has one repository and it has no name, got '{name[:64]}'")


def _model_name(
    request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
) -> str:
    """The model meant; KServe's clients put its name where Triton's put the repository's."""
    if not request.model_name:
        return request.repository_name
    _refuse_repository(request.repository_name)
    return request.model_name
