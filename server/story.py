"""Tells on the terminal what a server does with its models, as one of its own clients."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from optimizers.contract.samples import random_feeds
from server.client import Client
from server.pb import management_pb2 as management
from server.terminal import figure_line, has_ended, job_line

_CALLS: Final = 20


async def tell_story(console: Console, *, public: str, admin: str, metrics: str) -> None:
    """Call the models, follow the jobs, explain each verdict, and say what to try next.

    Args:
        console: Where to write.
        public: Address of the public endpoint.
        admin: Address of the admin endpoint.
        metrics: URL of the metrics.
    """
    async with Client(public) as caller, Client(admin) as operator:
        models = await _models(operator)
        if not models:
            console.print("No model serves yet; put MODEL/1/model.onnx into the repository.")
            return
        console.rule("Every model serves at once")
        for model in models:
            console.print(await _call(caller, model.name), highlight=False)
        told: set[str] = set()
        jobs = await _jobs(operator)
        if not all(map(has_ended, jobs)):
            console.rule("Profiles are built and judged in the background")
            jobs = await _follow(console, operator)
        for model in models:
            for version in model.versions:
                await _tell_verdicts(console, operator, model.name, version.version, told)
        for job in jobs:
            if job.state not in ("succeeded", "refused"):
                console.print(job_line(job), style="red", highlight=False, markup=False)
        console.rule("Now")
        for model in models:
            console.print(await _call(caller, model.name), highlight=False)
        models = await _models(operator)
        _say_what_next(console, models, public=public, admin=admin, metrics=metrics)


async def _models(operator: Client) -> list[management.Model]:
    answer = await operator.call(
        "ListModels", management.ListModelsRequest(), management.ListModelsResponse
    )
    return [model for model in answer.models if any(v.state == "READY" for v in model.versions)]


async def _jobs(operator: Client) -> list[management.Job]:
    answer = await operator.call(
        "ListJobs", management.ListJobsRequest(), management.ListJobsResponse
    )
    return list(answer.jobs)


async def _call(caller: Client, model: str) -> str:
    """Ask a model a few times over gRPC and say who answered how fast."""
    inputs = random_feeds(await caller.signature(model), rows=1)
    seconds, variant = [], ""
    for _ in range(_CALLS):
        start = time.perf_counter()
        _, variant = await caller.infer(model, inputs)
        seconds.append(time.perf_counter() - start)
    return (
        f"  {model}: variant {variant} answered {_CALLS} calls over gRPC, "
        f"median {1e3 * float(np.median(seconds)):.2f} ms"
    )


async def _follow(console: Console, operator: Client) -> list[management.Job]:
    """Show the progress of every job until all have ended."""
    columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
    lines: dict[str, str] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}
        while True:
            jobs = await _jobs(operator)
            for job in jobs:
                if job.id not in tasks:
                    tasks[job.id] = bars.add_task(job.model, total=1.0)
                bars.update(
                    tasks[job.id],
                    completed=job.fraction,
                    description=f"{job.model}/{job.profile}: {job.state} {job.stage}",
                )
                line = f"  {job.model}/{job.profile}: {job.state} {job.stage}".rstrip()
                if not console.is_terminal and lines.get(job.id) != line:
                    console.print(line, highlight=False)
                lines[job.id] = line
            if all(map(has_ended, jobs)):
                return jobs
            await asyncio.sleep(0.3)


async def _tell_verdicts(
    console: Console, operator: Client, model: str, version: int, told: set[str]
) -> None:
    answer = await operator.call(
        "ListVariants",
        management.ListVariantsRequest(model=model, version=version),
        management.ListVariantsResponse,
    )
    for variant in answer.variants:
        if not variant.verdict or variant.id in told:
            continue
        told.add(variant.id)
        console.rule(f"{model}: {variant.recipe}")
        style = {"proved": "bold green", "refused": "bold red"}.get(variant.verdict, "bold yellow")
        role = ", swapped in while it served" if variant.active else ""
        console.print(
            f"  [{style}]{variant.verdict}[/{style}]{role}: variant {variant.id}, "
            f"profile {variant.profile}",
            highlight=False,
        )
        for reason in variant.reasons:
            console.print(f"  because {reason}", highlight=False, markup=False)
        for figure in variant.figures:
            console.print(f"    {figure_line(figure)}", highlight=False, markup=False)
        for note in variant.notes:
            console.print(f"    {note}", style="dim", highlight=False, markup=False)


def _say_what_next(
    console: Console, models: list[management.Model], *, public: str, admin: str, metrics: str
) -> None:
    sharpened = (m.name for m in models if m.versions[0].active_variant != "original")
    name = next(sharpened, models[0].name)
    flag = "" if admin.endswith(":8003") else f" --admin {admin}"
    address = "" if public.endswith(":8001") else f" --address {public}"
    console.rule("What to try next")
    for what, how in (
        ("ask a model (any Triton or KServe client can)", f"hone infer {name}{address}"),
        ("see what answers", f"hone models{flag}"),
        ("see the numbers behind a verdict", f"hone variants {name}{flag}"),
        ("build another profile", f"hone optimize {name} --profile tuned --wait{flag}"),
        ("return to what answered before", f"hone rollback {name}{flag}"),
        ("read what happened", f"hone events {name}{flag}"),
        ("watch latency and memory", metrics),
    ):
        console.print(f"  {what}: [bold]{how}[/bold]", highlight=False)
    console.print("  stop with Ctrl-C; the next start is up in seconds", highlight=False)
