"""What a variant that was just opened does with made-up rows: its cost, and who may share a run.

Whether filling inputs up changes answers is asked of `padding_proof`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from optimizers.contract.difference import are_close
from optimizers.contract.errors import HoneError
from optimizers.contract.host import memory_available_bytes
from optimizers.contract.runtime import Feeds, Session
from optimizers.contract.samples import random_feeds
from server.cost import CostCurve, Measured
from server.padding import Padding
from server.padding_proof import harm_of_padding

_UNKNOWN_RUN_S: Final = 0.001
_PROBE_ROWS: Final = 4
_HEAVY_RUN_S: Final = 0.01
_ROUNDS: Final = 9
"""The quickest counts: what else goes on while models are opened only adds to a run's time."""
_PROBE_S: Final = 0.25
"""Longest time for timing a light model at all numbers of rows."""

_SHARE_OF_MEMORY: Final = 0.25
"""Of the memory available: what one run may need at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found.

    Attributes:
        measured: What runs took.
        max_batch: Most rows in one run; 1 where requests may not be joined.
        note: Why they are not joined; "" where they are.
        pads: Whether inputs are filled up.
        padding_note: Why they are not though `hone.yaml` asks for it; "" where it is followed, does
            not ask, or nothing is joined.
    """

    measured: Measured
    max_batch: int
    note: str = ""
    pads: bool = False
    padding_note: str = ""

    @property
    def notes(self) -> str:
        """Everything that is not done, for people; "" where all is."""
        return "; ".join(filter(None, (self.note, self.padding_note)))


def probe(session: Session, padding: Padding | None = None) -> Findings:
    """Run made-up rows, alone and together. Blocks; a heavy model is asked for six rows only.

    Args:
        session: What to ask.
        padding: Fills up inputs; it is then asked for a few more, to see whether that is right.
    """
    try:
        feeds = random_feeds(session.signature, 1)
        session.run(feeds)
        seconds = {1: _seconds(session, feeds)}
    except HoneError as error:
        unknown = Measured(seconds={1: _UNKNOWN_RUN_S}, row_bytes=1, shapes=None)
        return Findings(
            measured=unknown, max_batch=1, note=f"made-up rows could not be run: {error}"
        )
    max_batch, note = _rows_that_may_join(session, seconds)
    if seconds[1] < _HEAVY_RUN_S:
        _measure(session, max_batch, seconds)
    measured = Measured(
        seconds=seconds,
        row_bytes=sum(array.nbytes for array in feeds.values()),
        shapes=tuple(array.shape[1:] for array in feeds.values()),
    )
    if not note and CostCurve(seconds, max_batch, is_observed=True).knee == 1:
        note = "a row costs as much in company as alone"
    pads, padding_note = False, ""
    if padding is not None and max_batch > 1:
        wrong = harm_of_padding(session, padding, max_batch)
        pads, padding_note = not wrong, wrong and f"inputs are not padded: {wrong}"
    return Findings(
        measured=measured, max_batch=max_batch, note=note, pads=pads, padding_note=padding_note
    )


def _rows_that_may_join(session: Session, seconds: dict[int, float]) -> tuple[int, str]:
    """Most rows of several requests in one run, found by trying; 1 with the reason where none.

    What the runs took is added to `seconds`.
    """
    most = session.spec.max_batch
    if most == 1:
        return 1, "served unbatched by its manifest or config.pbtxt"
    if not session.signature.has_batch_dimension:
        return 1, "not every tensor starts with the same variable dimension"
    rows = min(2 if seconds[1] > _HEAVY_RUN_S else _PROBE_ROWS, most)
    feeds = random_feeds(session.signature, rows, seed=1)
    try:
        with _Peak() as peak:
            start = time.perf_counter()
            together = session.run(feeds)
            seconds[rows] = time.perf_counter() - start
        differs = _difference_alone(session, feeds, together, seconds)
    except HoneError as error:
        return 1, f"made-up rows could not be run together: {error}"
    if differs:
        return 1, differs
    if peak.size_bytes:
        most = min(most, int(_SHARE_OF_MEMORY * memory_available_bytes() / peak.size_bytes * rows))
    return max(1, most), ""


def _difference_alone(
    session: Session, feeds: Feeds, together: list[NDArray[Any]], seconds: dict[int, float]
) -> str:
    """How the answers of rows together differ from those of each alone; "" if they do not."""
    rows = len(next(iter(feeds.values())))
    for spec, answer in zip(session.signature.outputs, together, strict=True):
        if answer.ndim == 0 or answer.shape[0] != rows:
            return f"output '{spec.name}' does not have one row per input row"
    for row in range(rows):
        start = time.perf_counter()
        alone = session.run({name: array[row : row + 1] for name, array in feeds.items()})
        seconds[1] = min(seconds[1], time.perf_counter() - start)
        for spec, one, all_rows in zip(session.signature.outputs, alone, together, strict=True):
            if not are_close(one, all_rows[row : row + 1]):
                return f"output '{spec.name}' of a row depends on its neighbours"
    return ""


def _measure(session: Session, max_batch: int, seconds: dict[int, float]) -> None:
    """Time ever more rows in turn, so that a slow moment hits all, until the time is up."""
    end = time.perf_counter() + _PROBE_S
    sizes = [1 << power for power in range(max_batch.bit_length())]
    feeds = {rows: random_feeds(session.signature, rows) for rows in sizes}
    for _ in range(_ROUNDS):
        for rows in sizes:
            took = _seconds(session, feeds[rows])
            seconds[rows] = min(seconds.get(rows, took), took)
            if time.perf_counter() > end:
                return


class _Peak:
    """By how much the process grew at most; 0 where nobody tells."""

    def __enter__(self) -> _Peak:
        self._before = self.size_bytes = 0
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the last peak
            self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            self.size_bytes = max(0, _status_bytes("VmHWM") - self._before)


def _status_bytes(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(name))


def _seconds(session: Session, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start
