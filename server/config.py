"""The server's settings: flags over `HONE_*` environment over `hone-server.toml`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from optimizers.contract.documents import cut, read_text, shown, shown_key, unknown_key
from optimizers.contract.duration import duration_s
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.job import CACHE_LIMIT_BYTES
from optimizers.contract.provider_options import MOST_DEVICES, Provider, ProviderOptions
from server.logs import Format, Level

SETTINGS_FILE: Final = "hone-server.toml"
_Text = TypeVar("_Text", str, Path)

_MOST_BYTES: Final = (1 << 63) - 1
_MOST: Final = (1 << 31) - 1
_MOST_PROCESSORS: Final = 4096
_SIZE: Final = re.compile(r"([0-9]{1,18}) ?(B|KiB|MiB|GiB|TiB)?")
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _without_zero_byte(value: _Text) -> _Text:
    if "\0" in str(value):
        raise ValueError("must not hold a zero byte")
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1, le=_MOST)]
Bytes = Annotated[int, Field(ge=0, le=_MOST_BYTES)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Folder = Annotated[Path, AfterValidator(_without_zero_byte)]
Address = Annotated[str, AfterValidator(_without_zero_byte)]


def _bytes(value: object) -> object:
    """A number of bytes, or a text like `512MiB`."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"expected a whole number, alone or with one of {', '.join(_UNITS)}")
    return int(match[1]) * _UNITS[match[2] or "B"]


def _duration(value: object) -> object:
    """A text like `20 ms`, or 0."""
    try:
        return duration_s(value)
    except InvalidDocument as error:
        raise ValueError(str(error)) from error


def _names(value: object) -> object:
    """A list of names, or a text with commas between them as the environment holds it."""
    return [name for name in value.split(",") if name] if isinstance(value, str) else value


class ServerConfig(BaseSettings):
    """Everything `hone serve` can be told. A port of 0 means any free one."""

    model_config = SettingsConfigDict(env_prefix="HONE_", extra="forbid", frozen=True)

    repository: Folder
    """The model repository, in Triton's layout; may be read-only."""
    state: Folder = Path("hone-state")
    """Where variants, jobs, routes and events are kept."""
    host: Address = "127.0.0.1"
    """Address of the public endpoint and of the metrics."""
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    triton_metrics: bool = False
    """Whether the metrics are told under Triton's names (`nv_*`) too."""
    admin_host: Address = "127.0.0.1"
    """Address of the admin endpoint, which may change what is served."""
    admin_port: Port = 8003
    model_control: Literal["none", "poll", "explicit"] = "none"
    """`none` loads every model at start; `poll` also follows what changes in the repository;
    `explicit` loads what `load_model` names and lets public clients load and unload models."""
    load_model: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ()
    """Models loaded at start under `explicit`; `*` for all."""
    poll_seconds: Seconds = 15.0
    """How often `poll` looks; what it acts on has not changed since its last look."""
    load_threads: Annotated[int, Field(ge=0, le=_MOST_PROCESSORS)] = 0
    """Models loaded at once; 0 for as many as there are processors, at most 2."""
    allow_shared_memory: bool = False
    """Whether public clients may name this host's shared memory as inputs and outputs."""
    allow_pt2: bool = False
    """Whether `model.pt2` is converted: code in such a file may run as the server's user."""
    convert_seconds: Seconds = 600.0
    """How long a conversion may take."""
    convert_memory_bytes: Annotated[Bytes, BeforeValidator(_bytes)] = 8 << 30
    """Private memory of a converting process, for example `8GiB`; 0 for no limit."""
    memory_budget: Annotated[Bytes, BeforeValidator(_bytes)] = 0
    """Bytes that open models may hold together, for example `2GiB`; 0 for no bound. Models that
    do not fit are opened when a request asks for them, and the least recently used ones go."""
    idle_unload_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """A model that was not asked for so long is unloaded until it is; 0 for never."""
    keep_loaded_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """How long a model stays open at least before the memory budget makes it go."""
    strict_readiness: bool = False
    """Whether the server is ready only when every model is."""
    jobs: Positive = 1
    """Jobs that run at once; others wait in order."""
    keep_variants: Positive = 5
    """Variants kept for each version besides the routed and the previous one."""
    cpus: Annotated[int, Field(ge=0, le=_MOST_PROCESSORS)] = 0
    """Processors to use; 0 for all that this process may use."""
    provider: Literal["auto", Provider] = "cpu"
    """Where models compute; a model's instance_group of KIND_CPU keeps it on the processor."""
    gpu: Annotated[int, Field(ge=0, lt=MOST_DEVICES)] = 0
    """Number of the GPU, for cuda and tensorrt."""
    gpu_memory_bytes: Annotated[int, Field(ge=0, le=_MOST_BYTES)] = 0
    """Most that each model keeps on the GPU for tensors; 0 for no limit."""
    cuda_graphs: bool = False
    """Whether cuda captures a graph for each set of input shapes."""
    max_batch: Positive = 32
    """Most rows joined into one run where `config.pbtxt` does not say."""
    max_queue_items: Positive = 1024
    """Requests that may wait for one variant."""
    max_queue_bytes: Annotated[int, Field(ge=1, le=_MOST_BYTES)] = 256 << 20
    """Bytes of inputs that may wait for one variant."""
    max_queue_seconds: Seconds = 10.0
    """Longest expected wait for a lane with which a request is accepted."""
    max_total_queue_items: Positive = 4096
    """Requests that may wait for all variants together."""
    max_total_queue_bytes: Annotated[int, Field(ge=1, le=_MOST_BYTES)] = 1 << 30
    """Bytes of inputs that may wait for all variants together."""
    cache_bytes: Annotated[int, Field(ge=0, le=_MOST_BYTES)] = 0
    """Most bytes of answers kept for models whose `config.pbtxt` asks for it; 0: none."""
    max_message_bytes: Positive = 64 << 20
    """Largest gRPC message taken or given."""
    transport: Literal["auto", "native", "grpcio"] = "auto"
    """What carries the calls of the public endpoint; `auto`: the native one where it can serve."""
    max_streams: Positive = 1024
    """Calls under way on one connection."""
    keepalive_seconds: Seconds = 7200.0
    """How often a silent client is pinged."""
    keepalive_timeout_seconds: Seconds = 20.0
    """How long the answer to such a ping may take."""
    min_ping_interval_seconds: Seconds = 10.0
    """How often a client may ping; grpcio closes the connection of one that does so more often."""
    max_connection_age_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """When a connection is closed so that its client connects anew; 0: never."""
    max_connection_age_grace_seconds: Seconds = 30.0
    """How long calls under way on such a connection may take."""
    triton_codes: bool = False
    """Whether a full queue is UNAVAILABLE, as Triton says it, and not RESOURCE_EXHAUSTED."""
    response_compression: bool = False
    """Whether callers may ask for compressed answers by the metadata `response-compression`."""
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """How long accepted requests may take after SIGTERM."""
    measure_seconds: Seconds = 120.0
    """How long a job waits for quiet and stable measurements."""
    measure_retry_seconds: Seconds = 300.0
    """How long after a job ended without stable measurements it is tried again."""
    job_memory_bytes: Annotated[int, Field(ge=0, le=_MOST_BYTES)] = 0
    """Address space of a job's worker; 0 for no limit."""
    job_cache_bytes: Annotated[int, Field(ge=0, le=_MOST_BYTES)] = CACHE_LIMIT_BYTES
    """Most bytes kept of what steps made, so that the same step is not run twice; 0: none."""
    job_build_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How long a job may build before it is ended as failed; 0 for no limit."""
    job_stall_seconds: Seconds = 900.0
    """A worker silent for longer is ended."""
    latency_budget: Annotated[float, BeforeValidator(_duration)] = 0.0
    """What 99 of 100 requests of a model may take, for example `20 ms`, before jobs are paused for
    them; for models whose `hone.yaml` names no `latency_budget`. 0: jobs are never paused."""

    trace_endpoint: str = Field(default="", pattern=r"^(https?://[!-~]+)?$")
    """URL of an OpenTelemetry collector (OTLP over HTTP); nothing is traced without one."""
    trace_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of requests that begin a trace; a caller's own trace decides for itself."""
    log_format: Format = "text"
    """How records are written to standard error."""
    log_level: Level = "info"
    """The least level that is written."""

    @property
    def provider_options(self) -> ProviderOptions:
        """What the provider is told for every model."""
        return ProviderOptions(
            device=self.gpu, memory_limit_bytes=self.gpu_memory_bytes, graphs=self.cuda_graphs
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file."""
        file_settings = InitSettingsSource(settings_cls, _settings_file())
        return init_settings, env_settings, file_settings


def server_config(**flags: object) -> ServerConfig:
    """Settle the configuration; flags that were not given are None.

    Raises:
        InvalidDocument: A value does not fit; the text names where it came from and what fits.
    """
    try:
        given = {name: value for name, value in flags.items() if value is not None}
        config = ServerConfig(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            problem = unknown_key(name, ServerConfig.model_fields)
            raise InvalidDocument(f"{SETTINGS_FILE}: {shown_key(name)}: {problem}") from error
        option = "--" + name.replace("_", "-")
        raise InvalidDocument(
            f"{option} (or HONE_{name.upper()}, or {name} in {SETTINGS_FILE}): "
            f"{first['msg']}, got {shown(first['input'])}"
        ) from error
    if config.load_model and config.model_control != "explicit":
        raise InvalidDocument(
            f"--load-model needs --model-control explicit, got {config.model_control}, which "
            "loads every model"
        )
    return config


def _settings_file() -> dict[str, Any]:
    """What the file in the working directory says; nothing where there is none.

    Raises:
        InvalidDocument: It is no file, cannot be read, or is not TOML.
    """
    text = read_text(Path(SETTINGS_FILE), SETTINGS_FILE)
    try:
        return tomllib.loads(text or "")
    except RecursionError as error:
        raise InvalidDocument(f"{SETTINGS_FILE}: values are nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, and numbers that Python refuses to read
        raise InvalidDocument(f"{SETTINGS_FILE}: {cut(str(error))}") from error
