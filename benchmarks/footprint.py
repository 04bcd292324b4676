"""What a server with four models takes: time to start, memory, idle processor time, memory kept."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from benchmarks.contestants import Bench, Contestant, flags_of, hone, transports
from benchmarks.models import RESNET18
from benchmarks.processes import memory, processor_seconds
from benchmarks.rows import Part, Row, Table, number, spread
from server.client import Client
from server.pb import open_inference_pb2 as inference

_MB: Final = 1e6
_SETTLE_S: Final = 1.0


def measure(bench: Bench, *, starts: int, idle_s: float, reloads: int) -> Part:
    """Start again and again; then look at one that idles, and load and unload one of its models.

    Args:
        bench: Where.
        starts: With the same state; one before them, which makes it, is told apart.
        idle_s: How long the idle server is watched.
        reloads: Loads and unloads of the same model.
    """
    flags = flags_of((transports() or ("grpcio",))[0])
    times, sizes, shares = [], [], []
    for number_of_start in range(starts + 1):
        print(f"start {number_of_start} of {starts}", flush=True)
        with hone(bench, *flags, state="state-starts") as server:
            times.append(server.start_s)
            time.sleep(_SETTLE_S)
            sizes.append(memory(server.process))
            if number_of_start == starts:
                spent = processor_seconds(server.process)
                time.sleep(idle_s)
                shares.append(100 * (processor_seconds(server.process) - spent) / idle_s)
                print(f"{reloads} loads and unloads", flush=True)
                kept = asyncio.run(_reload(server, reloads))
    resident = [one.rss / _MB for one in sizes[1:]]
    growth = [100 * (kept[-1] / kept[0] - 1)]
    return Part(
        rows=[
            Row(
                figure=f"resident memory after load/unload of {RESNET18.name} {reloads} times, "
                "against after the first",
                values=growth,
                least=5,
                aim=1,
                unit="%",
            ),
            Row(
                figure="server with four models: start to ready",
                values=times[1:],
                least=1.5,
                aim=0.8,
                unit="s",
            ),
            Row(
                figure="server with four models: resident memory (Pss: what is mapped twice, as "
                "packed weights are, counts once)",
                values=[one.pss / _MB for one in sizes[1:]],
                least=280,
                aim=220,
                unit="MB",
            ),
            Row(
                figure=f"idle server with four models: share of a core over {idle_s:g} s",
                values=shares,
                least=1,
                aim=1,
                unit="%",
            ),
        ],
        tables=[
            Table(
                title="Footprint",
                note="A server with four models, each asked once; MB are 10^6 bytes.",
                heads=("what", "measured"),
                lines=[
                    ("first start, with an empty state, s", number(times[0])),
                    ("later starts, s", spread(times[1:])),
                    ("Rss MB", spread(resident)),
                    ("Pss MB", spread([one.pss / _MB for one in sizes[1:]])),
                    (
                        f"Rss MB after 1, {len(kept) // 2}, {len(kept)} loads and unloads",
                        ", ".join(
                            number(kept[one] / _MB) for one in (0, max(0, len(kept) // 2 - 1), -1)
                        ),
                    ),
                ],
            )
        ],
    )


async def _reload(server: Contestant, times: int) -> list[int]:
    """Resident bytes after each load and unload."""
    sizes = []
    async with Client(server.admin) as client:
        await unload(client, RESNET18.name)
        for _ in range(times):
            await load(client, RESNET18.name)
            await unload(client, RESNET18.name)
            sizes.append(memory(server.process).rss)
    return sizes


async def load(client: Client, model: str) -> None:
    """Load a model; returns when it serves."""
    request = inference.RepositoryModelLoadRequest(model_name=model)
    await client.call(
        "RepositoryModelLoad", request, inference.RepositoryModelLoadResponse, timeout=60
    )


async def unload(client: Client, model: str) -> None:
    """Unload a model."""
    request = inference.RepositoryModelUnloadRequest(model_name=model)
    await client.call(
        "RepositoryModelUnload", request, inference.RepositoryModelUnloadResponse, timeout=60
    )
