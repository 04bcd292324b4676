"""A variant that is open: its session, its batcher, and the proof that it answers as it must."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.difference import largest_difference
from optimizers.contract.directory import VariantDirectory, read_golden
from optimizers.contract.errors import HoneError, InvalidModel
from optimizers.contract.manifest import Manifest
from optimizers.contract.memory import ResidentMemory, resident_memory
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.contract.samples import random_feeds
from server.batcher import Batcher, BatchPolicy, Inline
from server.errors import GoldenMismatch
from server.metrics import VariantMetrics

_INLINE_BELOW_S: Final = 100e-6
_LONGEST_INLINE_S: Final = 500e-6
_WARM_UP_RUNS: Final = 3
_BATCH_PAYS_BELOW: Final = 0.75
_ROW_DIFFERENCE: Final = 1e-3
_PROBE_ROWS: Final = 4
_PROBE_ROUNDS: Final = 5
_PROBE_S: Final = 0.25
"""Longest time for more rounds than one: a slow model shows its cost at once."""

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A session that is open, warm and checked, but does not serve yet.

    Attributes:
        session: The open session.
        inline: Which runs cost less than handing them to another thread and back.
        memory: What this process grew by while opening and warming it.
        joins: Whether requests are to be joined into one run.
        note: Why they are not.
    """

    session: Session
    inline: Inline | None
    memory: ResidentMemory
    joins: bool
    note: str = ""


class OpenVariant:
    """A variant that takes requests. Belongs to the event loop that serves it."""

    def __init__(
        self,
        manifest: Manifest,
        opening: Opening,
        metrics: VariantMetrics,
        *,
        max_queue_items: int,
        max_queue_bytes: int,
    ) -> None:
        """Serve `opening` as the variant that `manifest` describes."""
        self.manifest = manifest
        self.variant = manifest.variant
        self.opening = opening
        self.metrics = metrics
        spec = opening.session.spec
        self.policy = BatchPolicy(
            lanes=spec.lanes,
            max_batch=spec.max_batch if opening.joins else 1,
            max_queue_items=max_queue_items,
            max_queue_bytes=max_queue_bytes,
            inline=opening.inline,
        )
        self._batcher = Batcher(opening.session, self.policy, metrics)

    async def infer(
        self, feeds: Feeds, rows: int, outputs: Sequence[str], deadline: float | None
    ) -> list[NDArray[Any]]:
        """Answer one request; see `Batcher.infer`."""
        return await self._batcher.infer(feeds, rows, outputs, deadline)

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was accepted is unanswered."""
        return self._batcher.is_idle

    def terminate(self) -> None:
        """End the runs under way: nobody waits for them any more."""
        self.opening.session.terminate()

    async def close(self) -> None:
        """Let what was accepted finish, then give the memory back to the machine."""
        await self._batcher.drain()
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        self.opening.session.close()
        release_memory()


def release_memory() -> None:
    """Return freed pages to the machine, which glibc would keep."""
    _libc.malloc_trim(0)


def open_original(path: Path, spec: SessionSpec) -> Opening:
    """Open and warm the model as delivered. Blocks: call it off the event loop.

    Raises:
        InvalidModel: It does not load.
    """
    return _open(path, spec, lambda session: None)


def open_variant(variant: VariantDirectory) -> Opening:
    """Open a variant, warm it on its golden items and check its answers to them. Blocks.

    Raises:
        InvalidModel: It does not load, or has another signature than its manifest says.
        GoldenMismatch: It answers differently from what its manifest allows.
    """
    manifest = variant.manifest

    def check(session: Session) -> None:
        if not session.signature.matches(manifest.signature):
            raise InvalidModel(
                f"variant {manifest.variant} has other inputs or outputs than its manifest says"
            )
        if manifest.golden is not None:
            _check_golden(session, manifest.variant, manifest.golden.tolerance, variant.path)
        elif manifest.is_proved:
            raise InvalidModel(
                f"variant {manifest.variant} counts as proved but holds no golden answers"
            )

    return _open(variant.model_file, manifest.session, check)


def _open(path: Path, spec: SessionSpec, check: Callable[[Session], None]) -> Opening:
    before = resident_memory()
    session = Session(path, spec)
    try:
        check(session)
        inline = _warm_up(session)
        joins, note = _joins(session)
    except BaseException:
        session.close()
        release_memory()
        raise
    memory = resident_memory().minus(before)
    return Opening(session=session, inline=inline, memory=memory, joins=joins, note=note)


def _check_golden(
    session: Session, variant: str, tolerance: dict[str, float], directory: Path
) -> None:
    inputs, expected = read_golden(directory)
    answers = session.run(inputs, list(expected))
    for (name, wanted), answer in zip(expected.items(), answers, strict=True):
        difference = largest_difference(answer, wanted)
        if not difference <= tolerance.get(name, 0.0):
            raise GoldenMismatch(
                f"variant {variant}: output '{name}' of the golden items is off by "
                f"{difference:.3g}, allowed {tolerance.get(name, 0.0):.3g}; it answers "
                "differently here than where it was proved"
            )


def _warm_up(session: Session) -> Inline | None:
    """Run one made-up row and say how many such rows are cheap enough to run inline.

    None when a single one is not, or when the model refuses it, which real rows need not share.
    """
    feeds = random_feeds(session.signature, 1)
    best = float("inf")
    for _ in range(_WARM_UP_RUNS):
        start = time.perf_counter()
        try:
            session.run(feeds)
        except HoneError:
            return None
        best = min(best, time.perf_counter() - start)
    if best >= _INLINE_BELOW_S:
        return None
    # Rows in one run cost at most as much each as the first did alone.
    rows = int(_LONGEST_INLINE_S / best)
    return Inline(rows=rows, row_bytes=sum(array.nbytes for array in feeds.values()))


def _joins(session: Session) -> tuple[bool, str]:
    """Whether rows of several requests may share a run, found by trying."""
    if session.spec.max_batch == 1:
        return False, "served unbatched by its manifest or config.pbtxt"
    if not session.signature.has_batch_dimension:
        return False, "not every tensor starts with the same variable dimension"
    rows = min(_PROBE_ROWS, session.spec.max_batch)
    feeds = random_feeds(session.signature, rows, seed=1)
    try:
        alone_s, together_s, differs = _compare_rows(session, feeds, rows)
    except HoneError as error:
        return False, f"made-up rows could not be run together: {error}"
    if differs:
        return False, differs
    if together_s / rows > _BATCH_PAYS_BELOW * alone_s:
        return False, f"a row costs as much in a batch of {rows} as alone"
    return True, ""


def _compare_rows(
    session: Session, feeds: dict[str, NDArray[Any]], rows: int
) -> tuple[float, float, str]:
    """Seconds of one row alone, of all together, and how the answers differ ("" if not)."""
    together = session.run(feeds)
    for spec, answer in zip(session.signature.outputs, together, strict=True):
        if answer.ndim == 0 or answer.shape[0] != rows:
            return 0.0, 0.0, f"output '{spec.name}' does not have one row per input row"
    for row in range(rows):
        alone = session.run({name: array[row : row + 1] for name, array in feeds.items()})
        for spec, one, all_rows in zip(session.signature.outputs, alone, together, strict=True):
            wanted = all_rows[row : row + 1]
            if not _close(one, wanted):
                return 0.0, 0.0, f"output '{spec.name}' of a row depends on its neighbours"
    single = {name: array[:1] for name, array in feeds.items()}
    return *_best_s(session, single, feeds), ""


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    scale = float(np.max(np.abs(other), initial=0.0)) if other.dtype.kind == "f" else 0.0
    return largest_difference(one, other) <= _ROW_DIFFERENCE * max(scale, 1e-6)


def _best_s(session: Session, one: Feeds, other: Feeds) -> tuple[float, float]:
    """Seconds of the fastest run of each, taken in turn so that a slow moment hits both."""
    best = [float("inf"), float("inf")]
    end = time.perf_counter() + _PROBE_S
    for done in range(_PROBE_ROUNDS):
        if done and time.perf_counter() > end:
            break
        for index, feeds in enumerate((one, other)):
            start = time.perf_counter()
            session.run(feeds)
            best[index] = min(best[index], time.perf_counter() - start)
    return best[0], best[1]
