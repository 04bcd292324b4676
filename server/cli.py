"""The `hone` command: parse, call, print, exit code."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn
from zipfile import BadZipFile

import numpy as np
import typer
import uvloop
from rich.console import Console

from optimizers.contract.errors import HoneError
from optimizers.contract.samples import random_feeds
from server import logs
from server.app import App, product_version, serve
from server.client import Client, as_data
from server.config import ServerConfig, server_config
from server.explained import account_lines
from server.job_preparation import require_optimisers
from server.live import show_job
from server.pb import management_pb2 as pb
from server.pb import open_inference_pb2 as inference
from server.story import tell_story
from server.terminal import (
    events_table,
    figure_line,
    job_line,
    jobs_table,
    models_table,
    variants_table,
)

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_PIPE_WIDTH = 160
_SWITCH_INTERVAL_S = 0.001  # what a thread that loads a model may keep the event loop waiting
_console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)

AdminAddress = Annotated[
    str, typer.Option("--admin", envvar="HONE_ADMIN", help="HOST:PORT of the admin endpoint.")
]
PublicAddress = Annotated[
    str, typer.Option(envvar="HONE_ADDRESS", help="HOST:PORT of the public endpoint.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[int, typer.Option("--version", min=0, help="0: the newest that is ready.")]
_DEFAULT_ADMIN = "127.0.0.1:8003"
_DEFAULT_PUBLIC = "127.0.0.1:8001"


def main() -> NoReturn:
    """Run the command line; a refusal is one line on stderr and exit code 1."""
    try:
        cli()
    except HoneError as error:
        print(f"hone: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(product_version())
        raise typer.Exit


@cli.callback()
def _hone(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """The inference server that sharpens models while it serves them."""


@cli.command("serve")
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
            try:
                await tell_story(_console, public=public, admin=admin, metrics=metrics)
            except HoneError as error:
                _console.print(f"the story ends here: {error}")

    await serve(app, ready)


@cli.command()
def models(admin: AdminAddress = _DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Show every model: what answers, how it is opened, what is wrong."""
    answer = _call(admin, "ListModels", pb.ListModelsRequest(), pb.ListModelsResponse)
    if as_json:
        _print_json(answer)
        return
    _console.print(models_table(answer.models), markup=False)
    for model in answer.models:
        for warning in model.warnings:
            _console.print(f"warning: {warning}", markup=False)


@cli.command("variants")
def variants_command(
    model: Annotated[str, typer.Argument(help="Its name; or `rm` to delete a variant.")],
    rest: Annotated[list[str] | None, typer.Argument(help="After `rm`: MODEL VARIANT.")] = None,
    version: Version = 0,
    admin: AdminAddress = _DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show a model's variants with what was measured of them; or `variants rm MODEL VARIANT`."""
    if model == "rm" and rest:
        if len(rest) != 2:
            raise typer.BadParameter("expected `hone variants rm MODEL VARIANT`")
        remove = pb.RemoveVariantRequest(model=rest[0], version=version, variant=rest[1])
        _call(admin, "RemoveVariant", remove, pb.RemoveVariantResponse)
        _console.print(f"deleted variant {rest[1]} of {rest[0]}")
        return
    if rest:
        raise typer.BadParameter(f"unexpected {' '.join(rest)}; expected one model")
    request = pb.ListVariantsRequest(model=model, version=version)
    answer = _call(admin, "ListVariants", request, pb.ListVariantsResponse)
    if as_json:
        _print_json(answer)
        return
    _console.print(variants_table(answer.variants), markup=False)
    for variant in answer.variants:
        if variant.figures:
            _console.print(f"\n{variant.id} ({variant.recipe})")
        for figure in variant.figures:
            _console.print(f"  {figure_line(figure)}", highlight=False, markup=False)
        for check in variant.checks:
            passed = (
                {True: "held", False: "broke"}[check.passed] if check.HasField("passed") else "-"
            )
            _console.print(f"  {check.gate}: {passed}: {check.text}", highlight=False, markup=False)
        for note in variant.notes:
            _console.print(f"  {note}", style="dim", highlight=False, markup=False)


@cli.command("jobs")
def jobs_command(
    action: Annotated[str | None, typer.Argument(help="`rm` or `cancel`; nothing lists.")] = None,
    job: Annotated[str | None, typer.Argument(help="Id of the job.")] = None,
    admin: AdminAddress = _DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show every job; `jobs cancel ID` ends one, `jobs rm ID` deletes what an ended one left."""
    if action is None:
        answer = _call(admin, "ListJobs", pb.ListJobsRequest(), pb.ListJobsResponse)
        if as_json:
            _print_json(answer)
        else:
            _console.print(jobs_table(answer.jobs), markup=False)
        return
    if action not in ("rm", "cancel") or job is None:
        raise typer.BadParameter("expected `hone jobs`, `hone jobs cancel ID` or `hone jobs rm ID`")
    if action == "cancel":
        cancelled = _call(admin, "CancelJob", pb.CancelJobRequest(id=job), pb.Job)
        _console.print(job_line(cancelled), markup=False)
    else:
        _call(admin, "RemoveJob", pb.RemoveJobRequest(id=job), pb.RemoveJobResponse)
        _console.print(f"deleted job {job}")


@cli.command()
def optimize(
    model: Annotated[str, typer.Argument(help="Its name.")],
    profile: Annotated[str | None, typer.Option(help="A profile of its hone.yaml.")] = None,
    profile_file: Annotated[
        Path | None, typer.Option(help="A file with `recipe` and `goal`.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the verdict.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search; another budget if it has ended.")
    ] = False,
    version: Version = 0,
    admin: AdminAddress = _DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Build and judge a profile in the background. Exit code 3: it was refused."""
    if (profile is None) == (profile_file is None):
        raise typer.BadParameter("give either --profile NAME or --profile-file FILE")
    request = pb.SubmitJobRequest(
        model=model, version=version, profile=profile or "", resume=resume
    )
    if profile_file is not None:
        try:
            request.profile_text = profile_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{profile_file} cannot be read: {error}") from error
        request.profile = profile_file.stem
    answer = _call(admin, "SubmitJob", request, pb.SubmitJobResponse)
    job = answer.job
    if not as_json:
        what = "is the same job" if answer.existed else "submitted"
        _console.print(
            f"job {job.id} {what}: {job_line(job)}", markup=False, highlight=False, soft_wrap=True
        )
    if wait:
        job = asyncio.run(_watch(admin, job.id, quiet=as_json))
    if as_json:
        _print_json(job)
    elif wait:
        _console.print(job_line(job), markup=False, highlight=False, soft_wrap=True)
        if job.HasField("search"):
            _print_account(
                _call(admin, "Explain", pb.ExplainRequest(job=job.id), pb.ExplainResponse)
            )
    if wait and job.state != "succeeded":
        raise typer.Exit(3)


@cli.command()
def explain(
    model: Annotated[str, typer.Argument(help="Its name.")],
    variant: Annotated[
        str, typer.Argument(help="An id or a profile; nothing for the newest search.")
    ] = "",
    job: Annotated[str, typer.Option(help="Id of a job instead of a variant.")] = "",
    raw: Annotated[bool, typer.Option("--json", help="Print what the search wrote.")] = False,
    version: Version = 0,
    admin: AdminAddress = _DEFAULT_ADMIN,
) -> None:
    """Tell how a variant came about, what else was tried, and why it lost."""
    request = pb.ExplainRequest(model=model, version=version, variant=variant, job=job)
    answer = _call(admin, "Explain", request, pb.ExplainResponse)
    if not raw:
        _print_account(answer)
    elif answer.explanation:
        print(answer.explanation)
    else:
        _print_json(answer)


@cli.command()
def report(
    model: Annotated[str, typer.Argument(help="Its name.")],
    variant: Annotated[
        str, typer.Argument(help="An id or a profile; nothing for the newest search.")
    ] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path(
        "report.html"
    ),
    png: Annotated[Path | None, typer.Option(help="Where the picture of the front goes.")] = None,
    job: Annotated[str, typer.Option(help="Id of a job instead of a variant.")] = "",
    version: Version = 0,
    admin: AdminAddress = _DEFAULT_ADMIN,
) -> None:
    """Write the page on a search: what was tried, the front, the winner and its certificate."""
    request = pb.ExplainRequest(model=model, version=version, variant=variant, job=job)

    async def fetch() -> list[tuple[Path, bytes]]:
        async with Client(admin) as client:
            files = [(output, await client.report(request))]
            if png is not None:
                files.append((png, await client.report(request, picture=True)))
            return files

    for file, content in asyncio.run(fetch()):
        try:
            file.write_bytes(content)
        except OSError as error:
            raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from error
        print(f"{file} is written")


@cli.command()
def promote(
    model: Annotated[str, typer.Argument(help="Its name.")],
    variant: Annotated[str, typer.Argument(help="An id, a profile's name, or `original`.")],
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Even if it is not proved here.")
    ] = False,
    version: Version = 0,
    admin: AdminAddress = _DEFAULT_ADMIN,
) -> None:
    """Let a variant answer by default."""
    request = pb.SetRouteRequest(
        model=model, version=version, variant=variant, unverified=unverified
    )
    _print_route(_call(admin, "SetRoute", request, pb.RouteResponse))


@cli.command()
def rollback(
    model: Annotated[str, typer.Argument(help="Its name.")],
    version: Version = 0,
    admin: AdminAddress = _DEFAULT_ADMIN,
) -> None:
    """Return to the variant that answered before."""
    request = pb.RollBackRequest(model=model, version=version)
    _print_route(_call(admin, "RollBack", request, pb.RouteResponse))


@cli.command()
def load(
    model: Annotated[str, typer.Argument(help="Its folder in the repository.")],
    admin: AdminAddress = _DEFAULT_ADMIN,
) -> None:
    """Load a model, or bring it up to date after its folder changed."""
    request = inference.RepositoryModelLoadRequest(model_name=model)
    _call(admin, "RepositoryModelLoad", request, inference.RepositoryModelLoadResponse)
    print(f"{model} is loaded")


@cli.command()
def unload(
    model: Annotated[str, typer.Argument(help="Its name.")],
    admin: AdminAddress = _DEFAULT_ADMIN,
) -> None:
    """Finish what was accepted for a model and close it."""
    request = inference.RepositoryModelUnloadRequest(model_name=model)
    _call(admin, "RepositoryModelUnload", request, inference.RepositoryModelUnloadResponse)
    print(f"{model} is unloaded")


@cli.command()
def events(
    model: Annotated[str, typer.Argument(help="Its name; nothing for all.")] = "",
    limit: Annotated[int, typer.Option(min=1)] = 100,
    admin: AdminAddress = _DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show what happened."""
    request = pb.ListEventsRequest(model=model, limit=limit)
    answer = _call(admin, "ListEvents", request, pb.ListEventsResponse)
    if as_json:
        _print_json(answer)
    else:
        _console.print(events_table(answer.events), markup=False)


@cli.command()
def infer(
    model: Annotated[str, typer.Argument(help="Its name.")],
    data: Annotated[
        Path | None, typer.Option(help="An .npz with one array per input; made up when left out.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many of its first items.")] = 1,
    version: Annotated[str, typer.Option(help="VERSION, @VARIANT or VERSION@VARIANT.")] = "",
    address: PublicAddress = _DEFAULT_PUBLIC,
) -> None:
    """Ask a model once and print what it answers."""

    async def ask() -> tuple[dict[str, Any], str, float]:
        async with Client(address) as client:
            signature = await client.signature(model, version)
            feeds = random_feeds(signature, rows)
            if data is not None:
                feeds = {name: stored[:rows] for name, stored in _load(data, list(feeds)).items()}
            start = time.perf_counter()
            answers, variant = await client.infer(model, feeds, version=version)
            return answers, variant, time.perf_counter() - start

    answers, variant, seconds = asyncio.run(ask())
    print(f"variant {variant} answered in {1e3 * seconds:.2f} ms")
    for name, array in answers.items():
        print(f"{name} {array.dtype} {list(array.shape)}")
        print(np.array2string(array, precision=4, threshold=64, max_line_width=100))


@cli.command()
def health(address: PublicAddress = _DEFAULT_PUBLIC) -> None:
    """Exit code 0 when the server says SERVING, 1 otherwise."""

    async def ask() -> bool:
        async with Client(address) as client:
            return await client.is_serving()

    serving = asyncio.run(ask())
    _console.print("SERVING" if serving else "NOT_SERVING")
    raise typer.Exit(0 if serving else 1)


@cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def demo(context: typer.Context) -> None:
    """Write a demo repository: real models trained on real data."""
    _become_optimisers("demo", context.args)


@cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def worker(context: typer.Context) -> None:
    """Take part in a search that another machine runs: --study ADDRESS."""
    _become_optimisers("search-worker", context.args)


@cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def studies(context: typer.Context) -> None:
    """Show what searches have learned and keep: --state DIRECTORY; or `studies rm NAME`."""
    _become_optimisers("studies", context.args)


def _become_optimisers(command: str, arguments: list[str]) -> NoReturn:
    require_optimisers()
    os.execv(sys.executable, [sys.executable, "-m", "optimizers", command, *arguments])


def _call(address: str, method: str, request: Any, response: type[Any]) -> Any:
    async def call() -> Any:
        async with Client(address) as client:
            return await client.call(method, request, response)

    return asyncio.run(call())


def _load(file: Path, names: list[str]) -> dict[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            missing = [name for name in names if name not in stored.files]
            if missing:
                raise typer.BadParameter(f"{file} holds {stored.files}; expected {names}")
            return {name: stored[name] for name in names}
    except (OSError, ValueError, BadZipFile) as error:
        raise typer.BadParameter(f"{file} cannot be read as an .npz file: {error}") from error


async def _watch(address: str, job: str, *, quiet: bool) -> pb.Job:
    async with Client(address) as client:
        return await show_job(_console, client, job, quiet=quiet)


def _print_account(answer: pb.ExplainResponse) -> None:
    for line in account_lines(answer):
        _console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_json(message: Any) -> None:
    print(json.dumps(as_data(message), indent=2))


def _print_route(route: pb.RouteResponse) -> None:
    _console.print(
        f"{route.model} version {route.version}: {route.variant} answers now"
        + (f"; before, {route.previous} did" if route.previous else ""),
        highlight=False,
    )
