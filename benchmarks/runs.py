"""Windows of many contestants, interleaved: one of each a round, every other round backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.contestants import Contestant
from benchmarks.load import Window
from benchmarks.models import Model
from benchmarks.rows import Table, spread

Quantity = Callable[[Window], float]
QUANTITIES: tuple[Quantity, ...] = (
    lambda one: one.rate,
    lambda one: one.cpu_ms,
    lambda one: one.p50_ms,
    lambda one: one.p99_ms,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A window and what it was of."""

    model: str
    server: str
    in_flight: int
    found: Window


class Runs:
    """What has been measured so far."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def measure(
        self,
        contestants: Sequence[Contestant],
        model: Model,
        in_flight: int,
        *,
        seconds: float,
        turn: int = 0,
    ) -> None:
        """One window of each contestant; backwards in every odd `turn`."""
        for one in contestants if turn % 2 == 0 else reversed(contestants):
            found = one.window(model, in_flight, seconds)
            self._runs.append(
                Run(model=model.name, server=one.name, in_flight=in_flight, found=found)
            )

    def values(self, model: str, server: str, in_flight: int, quantity: Quantity) -> list[float]:
        """One number for each round, in order; none where it did not take part."""
        return [
            quantity(run.found)
            for run in self._runs
            if (run.model, run.server, run.in_flight) == (model, server, in_flight)
        ]

    def best(self, model: str, servers: Iterable[str], in_flight: int) -> str | None:
        """The server with the highest median rate."""
        rates = {one: self.values(model, one, in_flight, lambda f: f.rate) for one in servers}
        there = {one: median(values) for one, values in rates.items() if values}
        return max(there, key=lambda one: there[one]) if there else None

    def table(self, title: str, note: str) -> Table:
        """Everything measured."""
        keys = dict.fromkeys((run.model, run.in_flight, run.server) for run in self._runs)
        return Table(
            title=title,
            note=note,
            heads=(
                *("model", "in flight", "server", "requests/s", "server CPU ms/request"),
                *("p50 ms", "p99 ms"),
            ),
            lines=[
                (
                    *(model, str(in_flight), server),
                    *(
                        spread(self.values(model, server, in_flight, quantity))
                        for quantity in QUANTITIES
                    ),
                )
                for model, in_flight, server in sorted(keys, key=lambda key: (key[0], key[1]))
            ],
        )
