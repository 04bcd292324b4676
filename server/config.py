"""The server's settings: flags over `HONE_*` environment over `hone-server.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from optimizers.contract.documents import unknown_key
from optimizers.contract.errors import InvalidDocument

SETTINGS_FILE: Final = "hone-server.toml"

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]


class ServerConfig(BaseSettings):
    """Everything `hone serve` can be told. A port of 0 means any free one."""

    model_config = SettingsConfigDict(
        env_prefix="HONE_", toml_file=SETTINGS_FILE, extra="forbid", frozen=True
    )

    repository: Path
    """The model repository, in Triton's layout; may be read-only."""
    state: Path = Path("hone-state")
    """Where variants, jobs, routes and events are kept."""
    host: str = "127.0.0.1"
    """Address of the public endpoint and of the metrics."""
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    admin_host: str = "127.0.0.1"
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
    cpus: Annotated[int, Field(ge=0)] = 0
    """Processors to use; 0 for all that this process may use."""
    max_batch: Positive = 32
    """Most rows joined into one run where `config.pbtxt` does not say."""
    max_queue_items: Positive = 1024
    """Requests that may wait for one variant."""
    max_queue_bytes: Positive = 256 << 20
    """Bytes of inputs that may wait for one variant."""
    max_message_bytes: Positive = 64 << 20
    """Largest gRPC message taken or given."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long accepted requests may take after SIGTERM."""
    measure_seconds: Annotated[float, Field(gt=0)] = 120.0
    """How long a job waits for quiet and stable measurements."""
    measure_retry_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How long after a job ended without stable measurements it is tried again."""
    job_memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Address space of a job's worker; 0 for no limit."""
    job_stall_seconds: Annotated[float, Field(gt=0)] = 900.0
    """A worker silent for longer is ended."""

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
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


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
            raise InvalidDocument(
                f"{SETTINGS_FILE}: {name}: {unknown_key(name, ServerConfig.model_fields)}"
            ) from error
        option = "--" + name.replace("_", "-")
        raise InvalidDocument(
            f"{option} (or HONE_{name.upper()}, or {name} in {SETTINGS_FILE}): "
            f"{first['msg']}, got {first['input']!r}"
        ) from error
