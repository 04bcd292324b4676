"""The command that serves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop

from optimizers.contract.errors import HoneError
from server import logs
from server.app import App, serve
from server.config import ServerConfig, server_config

_SWITCH_INTERVAL_S: Final = 0.0001
"""What a thread that loads a model may keep the event loop waiting, of which others notice more."""


def serve_command(
    repository: Annotated[Path, typer.Argument(help="Model repository in Triton's layout.")],
    state: Annotated[Path | None, typer.Option(help="Where Hone keeps what it makes.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of gRPC and metrics.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="0: any free one. Default 8001.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Default 8002.")] = None,
    triton_metrics: Annotated[
        bool | None, typer.Option(help="Metrics under Triton's names (nv_*) too.")
    ] = None,
    admin_host: Annotated[str | None, typer.Option(help="Address of the admin endpoint.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Default 8003.")] = None,
    model_control: Annotated[
        str | None,
        typer.Option(help="none | poll: follow the repository | explicit: load what is asked for."),
    ] = None,
    load_model: Annotated[
        list[str] | None,
        typer.Option(help="Load at start under explicit control; * for all. Repeatable."),
    ] = None,
    poll_seconds: Annotated[float | None, typer.Option(help="Between looks. Default 15.")] = None,
    load_threads: Annotated[
        int | None, typer.Option(help="Models loaded at once. Default: processors, at most 2.")
    ] = None,
    allow_shared_memory: Annotated[
        bool | None, typer.Option(help="Clients may pass tensors in this host's shared memory.")
    ] = None,
    allow_pt2: Annotated[
        bool | None,
        typer.Option(help="Convert model.pt2 (PyTorch). Code in it may run as this user."),
    ] = None,
    convert_seconds: Annotated[
        float | None, typer.Option(help="Longest conversion. Default 600.")
    ] = None,
    convert_memory_bytes: Annotated[
        str | None, typer.Option(help="Limit of a conversion; 0: none. Default 8GiB.")
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="For all open models, like 2GiB; 0: no bound.")
    ] = None,
    idle_unload_seconds: Annotated[
        float | None, typer.Option(help="Unload what is not asked for; 0: never.")
    ] = None,
    keep_loaded_seconds: Annotated[
        float | None, typer.Option(help="Least time open under the budget. Default 10.")
    ] = None,
    strict_readiness: Annotated[
        bool | None, typer.Option(help="Ready only when every model is.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Jobs at once. Default 1.")] = None,
    keep_variants: Annotated[int | None, typer.Option(help="Per version. Default 5.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Processors to use; 0: all.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="auto | cpu | cuda | tensorrt | openvino. Default cpu.")
    ] = None,
    gpu: Annotated[int | None, typer.Option(help="Number of the GPU. Default 0.")] = None,
    gpu_memory_bytes: Annotated[
        int | None, typer.Option(help="Limit of each model on the GPU; 0: none.")
    ] = None,
    cuda_graphs: Annotated[
        bool | None, typer.Option(help="Capture a CUDA graph for each set of shapes.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Rows joined into one run.")] = None,
    max_queue_items: Annotated[int | None, typer.Option(help="Waiting requests.")] = None,
    max_queue_bytes: Annotated[int | None, typer.Option(help="Waiting bytes.")] = None,
    max_queue_seconds: Annotated[
        float | None, typer.Option(help="Longest expected wait accepted. Default 10.")
    ] = None,
    max_total_queue_items: Annotated[
        int | None, typer.Option(help="Waiting requests, all models.")
    ] = None,
    max_total_queue_bytes: Annotated[
        int | None, typer.Option(help="Waiting bytes, all models.")
    ] = None,
    cache_bytes: Annotated[
        int | None, typer.Option(help="Answers kept for models with response_cache. Default 0.")
    ] = None,
    max_message_bytes: Annotated[int | None, typer.Option(help="Largest message.")] = None,
    triton_codes: Annotated[
        bool | None, typer.Option(help="A full queue is UNAVAILABLE, as in Triton.")
    ] = None,
    response_compression: Annotated[
        bool | None, typer.Option(help="Callers may ask for gzip or deflate by metadata.")
    ] = None,
    transport: Annotated[
        str | None, typer.Option(help="auto | native | grpcio: what carries public calls.")
    ] = None,
    max_streams: Annotated[int | None, typer.Option(help="Calls on one connection.")] = None,
    keepalive_seconds: Annotated[
        float | None, typer.Option(help="How often a silent client is pinged.")
    ] = None,
    keepalive_timeout_seconds: Annotated[
        float | None, typer.Option(help="How long its answer may take.")
    ] = None,
    min_ping_interval_seconds: Annotated[
        float | None, typer.Option(help="How often a client may ping. Default 10.")
    ] = None,
    max_connection_age_seconds: Annotated[
        float | None, typer.Option(help="Close older connections; 0: never.")
    ] = None,
    max_connection_age_grace_seconds: Annotated[
        float | None, typer.Option(help="What their calls may still take.")
    ] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Grace when stopping.")] = None,
    measure_seconds: Annotated[
        float | None, typer.Option(help="How long a job waits for stable measurements.")
    ] = None,
    measure_retry_seconds: Annotated[
        float | None, typer.Option(help="When unstable measurements are tried again.")
    ] = None,
    job_memory_bytes: Annotated[int | None, typer.Option(help="Limit of a worker.")] = None,
    job_cache_bytes: Annotated[
        int | None, typer.Option(help="What is kept of steps that were run; 0: nothing.")
    ] = None,
    job_build_seconds: Annotated[
        float | None, typer.Option(help="How long a job may build; 0: any time.")
    ] = None,
    job_stall_seconds: Annotated[
        float | None, typer.Option(help="A worker silent for longer is ended.")
    ] = None,
    latency_budget: Annotated[
        str | None,
        typer.Option(help="Pause jobs while a model's p99 is above it, like '20 ms'; 0: never."),
    ] = None,
    trace_endpoint: Annotated[
        str | None, typer.Option(help="URL of an OpenTelemetry collector (OTLP over HTTP).")
    ] = None,
    trace_ratio: Annotated[
        float | None, typer.Option(help="Share of requests that begin a trace. Default 1.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text | json. Default text.")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug | info | warning | error. Default info.")
    ] = None,
    story: Annotated[bool, typer.Option(help="Tell what happens, on the terminal.")] = False,
) -> None:
    """Serve a model repository until Ctrl-C or SIGTERM."""
    flags = {name: value for name, value in locals().items() if name != "story"}
    config = server_config(**flags)
    logs.configure(config.log_format, config.log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvloop.run(_serve(config, story))


async def _serve(config: ServerConfig, story: bool) -> None:
    app = App(config)

    async def ready() -> None:
        public, admin = f"{config.host}:{app.public.port}", f"{config.admin_host}:{app.admin.port}"
        metrics = f"http://{config.host}:{app.metrics_port}/metrics"
        print(f"Ready grpc={public} metrics={metrics} admin={admin}", flush=True)
        if story:
            from server.cli.exchange import console  # nobody else needs it, nor what it imports
            from server.story import tell_story

            try:
                await tell_story(console, public=public, admin=admin, metrics=metrics)
            except HoneError as error:
                console.print(f"the story ends here: {error}")

    await serve(app, ready)
