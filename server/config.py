"""The server's settings: flags over `HONE_*` environment over `hone-server.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from optimizers.contract.documents import cut, read_text, shown, shown_key, unknown_key
from optimizers.contract.errors import InvalidDocument
from server.logs import Format, Level

SETTINGS_FILE: Final = "hone-server.toml"
_Text = TypeVar("_Text", str, Path)

_MOST_BYTES: Final = (1 << 63) - 1
_MOST: Final = (1 << 31) - 1
_MOST_PROCESSORS: Final = 4096


def _without_zero_byte(value: _Text) -> _Text:
    if "\0" in str(value):
        raise ValueError("must not hold a zero byte")
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1, le=_MOST)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Folder = Annotated[Path, AfterValidator(_without_zero_byte)]
Address = Annotated[str, AfterValidator(_without_zero_byte)]


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
    model_control: str = Field(default="none", pattern="^(none|explicit)$")
    """`explicit` lets public clients load and unload models."""
    strict_readiness: bool = False
    """Whether the server is ready only when every model is."""
    jobs: Positive = 1
    """Jobs that run at once; others wait in order."""
    keep_variants: Positive = 5
    """Variants kept for each version besides the routed and the previous one."""
    cpus: Annotated[int, Field(ge=0, le=_MOST_PROCESSORS)] = 0
    """Processors to use; 0 for all that this process may use."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Where models compute; a model's instance_group of KIND_CPU keeps it on the processor."""
    max_batch: Positive = 32
    """Most rows joined into one run where `config.pbtxt` does not say."""
    max_queue_items: Positive = 1024
    """Requests that may wait for one variant."""
    max_queue_bytes: Annotated[int, Field(ge=1, le=_MOST_BYTES)] = 256 << 20
    """Bytes of inputs that may wait for one variant."""
    cache_bytes: Annotated[int, Field(ge=0, le=_MOST_BYTES)] = 0
    """Most bytes of answers kept for models whose `config.pbtxt` asks for it; 0: none."""
    max_message_bytes: Positive = 64 << 20
    """Largest gRPC message taken or given."""
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """How long accepted requests may take after SIGTERM."""
    measure_seconds: Seconds = 120.0
    """How long a job waits for quiet and stable measurements."""
    measure_retry_seconds: Seconds = 300.0
    """How long after a job ended without stable measurements it is tried again."""
    job_memory_bytes: Annotated[int, Field(ge=0, le=_MOST_BYTES)] = 0
    """Address space of a job's worker; 0 for no limit."""
    job_stall_seconds: Seconds = 900.0
    """A worker silent for longer is ended."""

    trace_endpoint: str = Field(default="", pattern=r"^(https?://[!-~]+)?$")
    """URL of an OpenTelemetry collector (OTLP over HTTP); nothing is traced without one."""
    trace_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of requests that begin a trace; a caller's own trace decides for itself."""
    log_format: Format = "text"
    """How records are written to standard error."""
    log_level: Level = "info"
    """The least level that is written."""

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
        return ServerConfig(**given)  # type: ignore[arg-type]
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
