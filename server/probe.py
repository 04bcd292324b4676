"""What a variant that was just opened does with made-up rows: its cost, and who may share a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.difference import largest_difference
from optimizers.contract.errors import HoneError
from optimizers.contract.host import memory_available_bytes
from optimizers.contract.runtime import Feeds, Session
from optimizers.contract.samples import random_feeds
from server.cost import CostCurve, Measured

_UNKNOWN_RUN_S: Final = 0.001
_ROW_DIFFERENCE: Final = 1e-3
_PROBE_ROWS: Final = 4
_HEAVY_RUN_S: Final = 0.01
_ROUNDS: Final = 3
_PROBE_S: Final = 0.25
"""Longest time for more rows and more rounds: a slow model shows its cost at once."""

_CHEAPER_BY: Final = 0.97
_SHARE_OF_MEMORY: Final = 0.25
"""Of the memory available: what one run may need at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found.

    Attributes:
        measured: What runs took.
        max_batch: Most rows in one run; 1 where requests may not be joined.
        note: Why they are not joined; "" where they are.
    """

    measured: Measured
    max_batch: int
    note: str = ""


def probe(session: Session) -> Findings:
    """Run made-up rows, alone and together. Blocks, for about half a second at most.

    A heavy model is run a few times only.
    """
    try:
        feeds = random_feeds(session.signature, 1)
        session.run(feeds)
        alone_s = _seconds(session, feeds)
    except HoneError as error:
        unknown = Measured(seconds={1: _UNKNOWN_RUN_S}, row_bytes=1, shapes=None)
        return Findings(
            measured=unknown, max_batch=1, note=f"made-up rows could not be run: {error}"
        )
    seconds = {1: alone_s}
    max_batch, note = _rows_that_may_join(session, alone_s)
    if max_batch > 1:
        max_batch = min(max_batch, _rows_in_memory(session, max_batch))
        _measure(session, max_batch, seconds)
    elif alone_s < _HEAVY_RUN_S:
        seconds[1] = min(alone_s, *(_seconds(session, feeds) for _ in range(_ROUNDS)))
    measured = Measured(
        seconds=seconds,
        row_bytes=sum(array.nbytes for array in feeds.values()),
        shapes=tuple(array.shape[1:] for array in feeds.values()),
    )
    if not note and CostCurve(seconds, max_batch, is_observed=True).knee == 1:
        note = "a row costs as much in company as alone"
    return Findings(measured=measured, max_batch=max_batch, note=note)


def _rows_that_may_join(session: Session, alone_s: float) -> tuple[int, str]:
    """Most rows of several requests in one run, found by trying; 1 with the reason where none."""
    if session.spec.max_batch == 1:
        return 1, "served unbatched by its manifest or config.pbtxt"
    if not session.signature.has_batch_dimension:
        return 1, "not every tensor starts with the same variable dimension"
    rows = min(2 if alone_s > _HEAVY_RUN_S else _PROBE_ROWS, session.spec.max_batch)
    try:
        differs = _compare_rows(session, random_feeds(session.signature, rows, seed=1), rows)
    except HoneError as error:
        return 1, f"made-up rows could not be run together: {error}"
    return (1, differs) if differs else (session.spec.max_batch, "")


def _compare_rows(session: Session, feeds: Feeds, rows: int) -> str:
    """How the answers of rows together differ from those of each alone; "" if they do not."""
    together = session.run(feeds)
    for spec, answer in zip(session.signature.outputs, together, strict=True):
        if answer.ndim == 0 or answer.shape[0] != rows:
            return f"output '{spec.name}' does not have one row per input row"
    for row in range(rows):
        alone = session.run(_rows(feeds, row, row + 1))
        for spec, one, all_rows in zip(session.signature.outputs, alone, together, strict=True):
            if not _close(one, all_rows[row : row + 1]):
                return f"output '{spec.name}' of a row depends on its neighbours"
    return ""


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    scale = float(np.max(np.abs(other), initial=0.0)) if other.dtype.kind == "f" else 0.0
    return largest_difference(one, other) <= _ROW_DIFFERENCE * max(scale, 1e-6)


def _measure(session: Session, max_batch: int, seconds: dict[int, float]) -> None:
    """Add the cost of more rows to `seconds`, until a row gets no cheaper or time is up."""
    end = time.perf_counter() + _PROBE_S
    sizes = [1]
    while 2 * sizes[-1] <= max_batch:
        rows = 2 * sizes[-1]
        seconds[rows] = _seconds(session, random_feeds(session.signature, rows))
        sizes.append(rows)
        before = seconds[rows // 2] / (rows // 2)
        if time.perf_counter() > end or (
            seconds[1] > _HEAVY_RUN_S and seconds[rows] / rows > _CHEAPER_BY * before
        ):
            break
    feeds = {rows: random_feeds(session.signature, rows) for rows in sizes}
    for _ in range(_ROUNDS):
        if time.perf_counter() > end:
            break
        for rows in sizes:  # in turn, so that a slow moment hits all
            seconds[rows] = min(seconds[rows], _seconds(session, feeds[rows]))


def _rows_in_memory(session: Session, max_batch: int) -> int:
    """Most rows whose run leaves most of the available memory to others."""
    rows = min(2, max_batch)
    feeds = random_feeds(session.signature, rows)
    needed = _peak_of(lambda: session.run(feeds))
    if not needed:
        return max_batch
    return max(1, int(_SHARE_OF_MEMORY * memory_available_bytes() / needed * rows))


def _peak_of(work: Callable[[], object]) -> int:
    """Bytes by which the process grew at most while it did `work`; 0 where nobody tells."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the former peak
        before = _status_bytes("VmRSS")
        work()
        return max(0, _status_bytes("VmHWM") - before)
    except OSError:
        return 0


def _status_bytes(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(name))


def _rows(feeds: Feeds, start: int, end: int) -> dict[str, NDArray[Any]]:
    return {name: array[start:end] for name, array in feeds.items()}


def _seconds(session: Session, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start
