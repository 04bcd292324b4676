"""What a model's callers notice of what happens to other models of the same server."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from benchmarks.contestants import Bench, Contestant, flags_of, hone, transports
from benchmarks.footprint import load, unload
from benchmarks.load import Answer, offered, percentile
from benchmarks.models import MINILM, RESNET18, TINY, file_of
from benchmarks.rows import Part, Row, Table, ratios, spread
from server.client import CallFailed, Client
from server.pb import management_pb2 as management
from tests.support.variants import make_variant

RATE: Final = 300
_IN_FLIGHT: Final = 64
_PROFILE: Final = """\
recipe: [{dynamic_int8: {per_channel: true}}]
goal:
  optimize: [latency_p50]
"""
_ENDED: Final = frozenset(
    {"succeeded", "refused", "failed", "cancelled", "interrupted", "awaiting_measurement"}
)
_RELOAD_EVERY_S: Final = 0.15
_SWAP_EVERY_S: Final = 0.6
_LEAD_S: Final = 0.3
_JOB_S: Final = 90
_STATE: Final = "state-neighbour"
_LIMITS: Final = {
    "loaded and unloaded": (1.5, 1.1),
    "swapped": (1.5, 1.1),
    "optimised": (2.0, 1.3),
}
Deed = Callable[[float], Awaitable[tuple[float, float]]]
"""Does something for about so many seconds; when it began and ended, seconds since the epoch."""


def measure(bench: Bench, *, seconds: float, rounds: int) -> Part:
    """p99 of tiny, steadily asked, while the others are worked on, over p99 while they are not."""
    steady: dict[str, list[float]] = {what: [] for what in _LIMITS}
    busy: dict[str, list[float]] = {what: [] for what in _LIMITS}
    deeds: dict[str, int] = dict.fromkeys(_LIMITS, 0)
    flags = (*flags_of((transports() or ("grpcio",))[0]), "--measure-seconds", "5")
    variant = _variant(bench)
    with hone(bench, *flags, state=_STATE) as server:
        others = Others(server, variant)
        for turn in range(rounds):
            for what, deed in (
                ("optimised", others.optimise),
                ("loaded and unloaded", others.reload),
                ("swapped", others.swap),
            ):
                print(f"neighbour {what}: round {turn + 1} of {rounds}", flush=True)
                before = others.done
                steady[what].append(_p99_ms(server, _nothing, seconds))
                busy[what].append(_p99_ms(server, deed, seconds))
                deeds[what] += others.done - before
    return Part(
        rows=[
            Row(
                figure=f"p99 of a neighbour model while another is {what}, against steady",
                values=ratios(busy[what], steady[what]),
                least=least,
                aim=aim,
                unit="x",
            )
            for what, (least, aim) in _LIMITS.items()
        ],
        tables=[
            Table(
                title="Neighbours",
                note=f"tiny at {RATE} requests/s, which h2load sends in bursts every 10 ms. "
                f"Loaded and unloaded: {RESNET18.name}, every {_RELOAD_EVERY_S:g} s. Swapped: "
                f"{MINILM.name} to a variant and back, every {_SWAP_EVERY_S:g} s, or without "
                "pause where it takes longer. Optimised: while a job builds a dynamic int8 variant "
                f"of {MINILM.name} and tries to measure it.",
                heads=("another is", "times", "steady p99 ms", "p99 ms meanwhile"),
                lines=[
                    (what, str(deeds[what]), spread(steady[what]), spread(busy[what]))
                    for what in _LIMITS
                ],
            )
        ],
    )


def _variant(bench: Bench) -> str:
    """A variant of minilm that the server will find and can be told to promote; its id."""
    original = file_of(bench.repository, MINILM.name)
    made = make_variant(
        bench.directory / _STATE,
        original,
        MINILM.name,
        lambda path: shutil.copy(original, path),
        golden_inputs={"x": MINILM.example(1)},
        tolerance=1e-3,
    )
    return made.manifest.variant


class Others:
    """What is done to the other models of a server.

    Attributes:
        done: Loads, swaps and jobs so far.
    """

    def __init__(self, server: Contestant, variant: str) -> None:
        self._admin = server.admin
        self._variant = variant
        self.done = 0

    async def reload(self, seconds: float) -> tuple[float, float]:
        """Unload and load again and again."""

        async def once(client: Client) -> None:
            await unload(client, RESNET18.name)
            await load(client, RESNET18.name)

        return await self._again_and_again(once, _RELOAD_EVERY_S, seconds)

    async def swap(self, seconds: float) -> tuple[float, float]:
        """Promote and roll back again and again."""

        async def once(client: Client) -> None:
            await client.call(
                "SetRoute",
                management.SetRouteRequest(
                    model=MINILM.name, variant=self._variant, unverified=True
                ),
                management.RouteResponse,
                timeout=60,
            )
            await client.call(
                "RollBack",
                management.RollBackRequest(model=MINILM.name),
                management.RouteResponse,
                timeout=60,
            )

        return await self._again_and_again(once, _SWAP_EVERY_S, seconds)

    async def _again_and_again(
        self, once: Callable[[Client], Awaitable[None]], every_s: float, seconds: float
    ) -> tuple[float, float]:
        """At a steady pace, or without pause where it takes longer: haste is not to cost more."""
        start = time.time()
        async with Client(self._admin) as client:
            due = start
            while time.time() < start + seconds:
                await once(client)
                self.done += 1
                due = max(due + every_s, time.time())
                await asyncio.sleep(due - time.time())
        return start, time.time()

    async def optimise(self, seconds: float) -> tuple[float, float]:
        """Run a job to its end, whatever its verdict: beside load it is seldom measured."""
        async with Client(self._admin) as client:
            start = time.time()
            submitted = await client.call(
                "SubmitJob",
                management.SubmitJobRequest(
                    model=MINILM.name, profile=f"bench{self.done}", profile_text=_PROFILE
                ),
                management.SubmitJobResponse,
                timeout=60,
            )
            job = submitted.job
            with suppress(TimeoutError):
                async with asyncio.timeout(_JOB_S):
                    async for job in client.watch_job(submitted.job.id):
                        if job.state in _ENDED:
                            break
            end = time.time()
            with suppress(CallFailed):
                await client.call(
                    "CancelJob", management.CancelJobRequest(id=job.id), management.Job, timeout=60
                )
        if job.state == "failed":
            raise SystemExit(f"the job failed: {job.reason}")
        self.done += 1
        return start, end


async def _nothing(seconds: float) -> tuple[float, float]:
    start = time.time()
    await asyncio.sleep(seconds)
    return start, time.time()


def _p99_ms(server: Contestant, deed: Deed, seconds: float) -> float:
    """Of the requests sent while the deed was done."""
    start, end, answers = asyncio.run(_watched(server, deed, seconds))
    taken = [one.latency_s for one in answers if start <= one.start_s < end]
    return 1e3 * percentile(taken, 0.99)


async def _watched(
    server: Contestant, deed: Deed, seconds: float
) -> tuple[float, float, list[Answer]]:
    """The deed, and load from before it until after it; one run of load outlasts most deeds."""
    target, over = await asyncio.to_thread(server.target, TINY), asyncio.Event()
    answers: list[Answer] = []

    def offer() -> None:
        with offered(target, seconds + 1, in_flight=_IN_FLIGHT, rate=RATE) as load:
            pass
        answers.extend(load.answers)

    async def keep_offering() -> None:
        while not over.is_set():
            await asyncio.to_thread(offer)

    offering = asyncio.create_task(keep_offering())
    await asyncio.sleep(_LEAD_S)
    try:
        start, end = await deed(seconds)
    finally:
        over.set()
        await offering
    return start, end, answers
