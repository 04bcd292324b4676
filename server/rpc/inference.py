"""The Open Inference Protocol with Triton's extensions, over the registry."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import grpc
from prometheus_client import Gauge

from optimizers.contract.signature import TensorSpec
from server.errors import FailedPrecondition, InvalidRequest, NotFound, ServingError, Unsupported
from server.metrics import Duration, Metrics, Statistics
from server.model import ModelVersion
from server.pb import model_config_pb2 as config_pb
from server.pb import open_inference_pb2 as pb
from server.registry import Registry, State
from server.rpc.codec import Limits, decode_parameters, decode_request, encode_response
from server.rpc.endpoint import Service, Unary
from server.rpc.status import code_of
from server.triton_config import DATATYPES

SERVICE_NAME: Final = "inference.GRPCInferenceService"
PLATFORM: Final = "onnxruntime_onnx"
EXTENSIONS: Final = ("model_repository", "model_configuration", "statistics", "binary_tensor_data")

_DATATYPE_NUMBERS: Final = {name: number for number, name in DATATYPES.items()}


class Inference:
    """Handlers of `inference.GRPCInferenceService`; each takes a message and a deadline."""

    def __init__(
        self, registry: Registry, metrics: Metrics, *, version: str, strict_readiness: bool
    ) -> None:
        """Answer from `registry` and count in `metrics`."""
        self._registry = registry
        self._metrics = metrics
        self._version = version
        self._strict_readiness = strict_readiness
        self._limits = Limits()
        self._in_flight: dict[tuple[str, int], Gauge] = {}
        self.accepting = True
        """Whether readiness may be claimed; false while the server stops."""

    def service(self, *, model_control: bool) -> Service:
        """The service; without `model_control` nobody may load or unload through it."""

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
                "ModelInfer": Unary(request=pb.ModelInferRequest, call=self.model_infer),
                "ModelConfig": Unary(request=pb.ModelConfigRequest, call=self.model_config),
                "ModelStatistics": Unary(
                    request=pb.ModelStatisticsRequest, call=self.model_statistics
                ),
                "RepositoryIndex": Unary(
                    request=pb.RepositoryIndexRequest, call=self.repository_index
                ),
                "RepositoryModelLoad": Unary(
                    request=pb.RepositoryModelLoadRequest,
                    call=self.load if model_control else refuse,
                ),
                "RepositoryModelUnload": Unary(
                    request=pb.RepositoryModelUnloadRequest,
                    call=self.unload if model_control else refuse,
                ),
            },
        )

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome: every model was tried; if strict, all of them serve."""
        tried = self.accepting and self._registry.tried
        return tried and (not self._strict_readiness or self._registry.ready)

    async def model_infer(
        self, request: pb.ModelInferRequest, deadline: float | None
    ) -> pb.ModelInferResponse:
        """Answer one request by the routed variant, or by the one it names."""
        start = time.perf_counter()
        try:
            model, address = self._registry.find(request.model_name, request.model_version)
        except ServingError as error:
            reason = "unknown_model" if isinstance(error, NotFound) else "not_ready"
            self._metrics.rejection("", 0, reason)
            raise
        in_flight = self._in_flight_of(model)
        in_flight.inc()
        opened = model.active
        try:
            parameters = decode_parameters(request.parameters, self._limits)
            if parameters:
                address = address or str(parameters.get("variant", ""))
                deadline = _with_timeout(deadline, parameters.get("timeout"))
            if address:
                opened = await self._registry.opened(model, address)
            decoded = decode_request(request, model.signature, self._limits)
            _check_rows(model, decoded.feeds, decoded.rows)
            arrays = await opened.infer(decoded.feeds, decoded.rows, decoded.outputs, deadline)
            response = encode_response(
                model_name=model.name,
                version=model.version,
                variant=opened.variant,
                request_id=request.id,
                names=decoded.outputs,
                arrays=arrays,
            )
        except asyncio.CancelledError:
            opened.metrics.answered("CANCELLED", time.perf_counter() - start)
            raise
        except Exception as error:
            code = code_of(type(error)) or grpc.StatusCode.INTERNAL
            opened.metrics.answered(code.name, time.perf_counter() - start)
            raise
        finally:
            in_flight.dec()
        opened.metrics.answered("OK", time.perf_counter() - start)
        return response

    async def server_live(self, request: Any, deadline: float | None) -> pb.ServerLiveResponse:
        """The process answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, deadline: float | None) -> pb.ServerReadyResponse:
        """Whether requests are welcome."""
        return pb.ServerReadyResponse(ready=self.is_ready)

    async def model_ready(
        self, request: pb.ModelReadyRequest, deadline: float | None
    ) -> pb.ModelReadyResponse:
        """Whether a model serves; unknown ones are NOT_FOUND, unloaded ones UNAVAILABLE."""
        model, address = self._registry.find(request.name, request.version)
        model.resolve(address)
        return pb.ModelReadyResponse(ready=True)

    async def server_metadata(
        self, request: Any, deadline: float | None
    ) -> pb.ServerMetadataResponse:
        """Name, version and the protocol extensions spoken."""
        return pb.ServerMetadataResponse(name="hone", version=self._version, extensions=EXTENSIONS)

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, deadline: float | None
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs with full shapes; -1 where any length fits."""
        model, _ = self._registry.find(request.name, request.version)
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
        model, _ = self._registry.find(request.name, request.version)
        policy = model.active.policy
        declared = model.entry.config.max_batch_size
        max_batch = declared if declared is not None else policy.max_batch
        batched = max_batch > 1 or bool(declared)
        config = config_pb.ModelConfig(
            name=model.name,
            platform=PLATFORM,
            backend="onnxruntime",
            max_batch_size=max_batch if batched else 0,
            default_model_filename=model.entry.config.model_file,
        )
        for tensor in model.signature.inputs:
            config.input.add(**_config_tensor(tensor, batched))
        for tensor in model.signature.outputs:
            config.output.add(**_config_tensor(tensor, batched))
        config.instance_group.add(
            name=model.name, count=policy.lanes, kind=config_pb.ModelInstanceGroup.KIND_CPU
        )
        if policy.max_batch > 1:
            config.dynamic_batching.SetInParent()
        chosen = model.entry.config.version_policy
        if chosen.specific:
            config.version_policy.specific.versions.extend(chosen.specific)
        elif chosen.newest:
            config.version_policy.latest.num_versions = chosen.newest
        else:
            config.version_policy.all.SetInParent()
        threads = model.active.manifest.session.intra_op_threads
        config.parameters["intra_op_thread_count"].string_value = str(threads)
        return pb.ModelConfigResponse(config=config)

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, deadline: float | None
    ) -> pb.ModelStatisticsResponse:
        """Running totals of one version, of a model's versions, or of everything."""
        if request.name and request.version:
            models = [self._registry.find(request.name, request.version)[0]]
        elif request.name:
            self._registry.find(request.name, "")
            models = self._registry.models(request.name)
        else:
            models = self._registry.models()
        return pb.ModelStatisticsResponse(
            model_stats=[
                _statistics(model, self._metrics.statistics(model.name, model.version))
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
                response.models.add(name=entry.name, state=State.UNAVAILABLE, reason=entry.error)
        return response

    async def load(
        self, request: pb.RepositoryModelLoadRequest, deadline: float | None
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or bring it up to date with the repository."""
        for key in request.parameters:
            if key == "config" or key.startswith("file:"):
                raise Unsupported(f"load parameter '{key[:64]}': overrides are not supported")
            raise InvalidRequest(f"unknown load parameter '{key[:64]}'")
        await self._registry.load(_model_name(request))
        return pb.RepositoryModelLoadResponse()

    async def unload(
        self, request: pb.RepositoryModelUnloadRequest, deadline: float | None
    ) -> pb.RepositoryModelUnloadResponse:
        """Finish what was accepted for a model and close it."""
        for key in request.parameters:
            if key != "unload_dependents":
                raise InvalidRequest(f"unknown unload parameter '{key[:64]}'")
        await self._registry.unload(_model_name(request))
        return pb.RepositoryModelUnloadResponse()

    def _in_flight_of(self, model: ModelVersion) -> Gauge:
        key = (model.name, model.version)
        gauge = self._in_flight.get(key)
        if gauge is None:
            labels = (model.name, str(model.version))
            gauge = self._in_flight[key] = self._metrics.in_flight.labels(*labels)
        return gauge


def _with_timeout(deadline: float | None, timeout_us: object) -> float | None:
    if not isinstance(timeout_us, int) or timeout_us == 0:
        return deadline
    own = time.monotonic() + timeout_us * 1e-6
    return own if deadline is None else min(own, deadline)


def _check_rows(model: ModelVersion, feeds: dict[str, Any], rows: int) -> None:
    most = model.entry.config.max_batch_size
    if most and rows > most:
        raise InvalidRequest(
            f"inference request batch-size must be <= {most} for '{model.name}', got {rows}"
        )
    if len(feeds) > 1 and model.active.policy.max_batch > 1:
        lengths = {name: array.shape[0] for name, array in feeds.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidRequest(
                f"inputs of '{model.name}' must have the same number of rows, got {lengths}"
            )


def _config_tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": _DATATYPE_NUMBERS[spec.datatype],
        "dims": spec.shape[1:] if batched else spec.shape,
    }


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


def _statistics(model: ModelVersion, totals: Statistics) -> pb.ModelStatistics:
    nothing = pb.StatisticDuration()
    memory = sum(opened.opening.memory.total_bytes for opened in model.all_opened())
    return pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=totals.last_unix_ms,
        inference_count=totals.rows,
        execution_count=sum(batch.count for batch in totals.by_rows.values()),
        inference_stats=pb.InferStatistics(
            success=_duration(totals.success),
            fail=_duration(totals.fail),
            queue=_duration(totals.queue),
            compute_input=nothing,
            compute_infer=_duration(totals.compute),
            compute_output=nothing,
            cache_hit=nothing,
            cache_miss=nothing,
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=nothing,
                compute_infer=_duration(totals.by_rows[rows]),
                compute_output=nothing,
            )
            for rows in sorted(totals.by_rows)
        ],
        memory_usage=[pb.MemoryUsage(type="CPU", id=0, byte_size=memory)],
    )


def _duration(total: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=total.nanoseconds)
