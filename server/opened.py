"""A variant that is open: its session, its batcher, and the proof that it answers as it must."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from optimizers.contract.difference import largest_difference
from optimizers.contract.directory import VariantDirectory, read_golden
from optimizers.contract.errors import InvalidModel
from optimizers.contract.manifest import Manifest
from optimizers.contract.memory import ResidentMemory, mapped_memory, release_memory, unmap_pages
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.padding import PaddingPolicy
from optimizers.contract.prepacked import packed_weights, prepacked_model
from optimizers.contract.processors import aside
from optimizers.contract.runtime import Arrays, Feeds, Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.contract.width import FASTER_BELOW, widen
from server.batcher import Batcher
from server.cache import VariantCache
from server.cost import Costs
from server.errors import GoldenMismatch
from server.found import Found, keep, recall
from server.padding import Lengths, Padding
from server.policy import BatchPolicy
from server.probe import Findings, probe
from server.room import Room
from server.totals import VariantMetrics
from server.triton_batching import Batching
from server.waiting import NO_TERMS, Terms

_INLINE_BELOW_S: Final = 100e-6
"""A row that takes less than this costs less than to let its request wait for another thread."""

_LONGEST_INLINE_S: Final = 1e-3
"""How long the event loop may be held up by one run."""

_SMALL_BYTES: Final = 1 << 20
"""Of a model whose weights may lie in memory twice."""

_BREATH_S: Final = 0.02
"""Between the parts of closing. Each keeps callers of other models waiting for a millisecond, by
the interpreter, by the allocator or by the kernel's map of pages; nobody is to wait for all."""

_ONE_MEASURES: Final = threading.Lock()
"""Models are opened beside each other, but what runs cost is found out by one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a variant is opened.

    Attributes:
        packed: Directory of its packed weights; see `prepacked_model`.
        threads: Processors that the server hands out.
        padding: Which inputs may be filled up.
    """

    packed: Path
    threads: int
    padding: PaddingPolicy = field(default_factory=PaddingPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """How much may wait for one variant, and where that is counted.

    Attributes:
        items: Requests.
        size_bytes: Bytes of their inputs.
        seconds: Longest expected wait.
        room: What may wait for all variants together.
    """

    items: int
    size_bytes: int
    seconds: float
    room: Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A session that is open, warm and checked, but does not serve yet.

    Attributes:
        session: The open session.
        findings: What made-up rows showed.
        wide_ratio: A wide run's time over a narrow one's; None where runs are never wide.
        memory: What this process grew by while opening and warming it.
        padding: Fills up inputs, where that was shown to change no answer; None: nothing does.
        weights: The file of packed weights that the session maps; None where there is none.
    """

    session: Session
    findings: Findings
    wide_ratio: float | None
    memory: ResidentMemory
    padding: Padding | None = None
    weights: Path | None = None


class OpenVariant:
    """A variant that takes requests. Belongs to the event loop that serves it."""

    def __init__(
        self,
        manifest: Manifest,
        opening: Opening,
        metrics: VariantMetrics,
        bounds: QueueBounds,
        batching: Batching,
        cache: VariantCache | None = None,
    ) -> None:
        """Serve `opening` as the variant that `manifest` describes.

        Args:
            manifest: What it is.
            opening: Its session.
            metrics: Where it counts.
            bounds: How much may wait.
            batching: What the model's `config.pbtxt` says of waiting and joining.
            cache: Where it keeps its answers, if it does.
        """
        self.manifest = manifest
        self.variant = manifest.variant
        self.opening = opening
        self.metrics = metrics
        findings, spec = opening.findings, opening.session.spec
        row_s = findings.measured.cheapest_row_s(_LONGEST_INLINE_S, findings.max_batch)
        self.policy = BatchPolicy(
            lanes=spec.lanes,
            max_batch=findings.max_batch,
            max_queue_items=bounds.items,
            max_queue_bytes=bounds.size_bytes,
            max_queue_s=bounds.seconds,
            inline_s=_LONGEST_INLINE_S if row_s < _INLINE_BELOW_S else 0.0,
            batching=batching,
        )
        self._batcher = Batcher(
            opening.session,
            self.policy,
            Costs(findings.measured, findings.max_batch, min(opening.wide_ratio or 1.0, 1.0)),
            metrics,
            bounds.room,
        )
        self._padding, self._cache = opening.padding, cache
        self._compute = self._batcher.infer if opening.padding is None else self._pad_and_infer
        self.infer = self._compute if cache is None else self._look_up_or_infer
        """Answers one request; see `Batcher.infer`."""
        plain = opening.padding is None and cache is None and batching == Batching()
        self.at_once = self._batcher if plain and self.policy.inline_s else None
        """Answers several that came together, where nothing but a short run is to be done."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was accepted is unanswered."""
        return self._batcher.is_idle

    def terminate(self) -> None:
        """End the runs under way: nobody waits for them any more."""
        self.opening.session.terminate()

    async def close(self) -> None:
        """Let what was accepted finish, then give the memory back to the machine."""
        if self._cache is not None:
            self._cache.close()
        await self._batcher.drain()
        for part in (self._unmap, self.opening.session.close, release_memory):
            await asyncio.to_thread(part)
            await asyncio.sleep(_BREATH_S)

    async def _look_up_or_infer(
        self,
        feeds: Feeds,
        rows: int,
        outputs: tuple[str, ...],
        terms: Terms = NO_TERMS,
    ) -> Arrays:
        """Answer from the cache, else compute and keep the answer."""
        assert self._cache is not None
        key, kept = self._cache.look_up(feeds, outputs)
        if kept is not None:
            return kept
        arrays = await self._compute(feeds, rows, outputs, terms)
        self._cache.put(key, arrays)
        return arrays

    async def _pad_and_infer(
        self,
        feeds: Feeds,
        rows: int,
        outputs: tuple[str, ...],
        terms: Terms = NO_TERMS,
    ) -> Arrays:
        """Fill a request up, unless it makes a full run by itself; cut its answer back."""
        assert self._padding is not None
        lengths: Lengths = {}
        if rows < self.policy.max_batch:
            feeds, lengths = self._padding.pad(feeds)
        arrays = await self._batcher.infer(feeds, rows, outputs, terms)
        return self._padding.trim(arrays, outputs, lengths) if lengths else arrays

    def _unmap(self) -> None:
        if self.opening.weights is not None:
            unmap_pages(self.opening.weights)


def open_original(path: Path, spec: SessionSpec, place: Place) -> Opening:
    """Open and warm the model as delivered. Blocks: call it off the event loop.

    Args:
        path: The model file.
        spec: How to open it.
        place: Where it serves.

    Raises:
        InvalidModel: It does not load.
    """
    return _open(path, spec, place, lambda session: None)


def open_variant(variant: VariantDirectory, place: Place) -> Opening:
    """Open a variant, warm it on its golden items and check its answers to them. Blocks.

    Args:
        variant: What to open.
        place: Where it serves.

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

    return _open(variant.model_file, manifest.session, place, check)


def _open(path: Path, spec: SessionSpec, place: Place, check: Callable[[Session], None]) -> Opening:
    before = mapped_memory()
    size_bytes = read_onnx_file(path).size_bytes
    packed = prepacked_model(path, size_bytes, spec, place.packed)
    session = Session(path, spec, packed)
    try:
        check(session)
        padding = Padding(place.padding, session.signature) if place.padding else None
        is_cheap = packed is not None or size_bytes < _SMALL_BYTES
        found = _find_out(session, place, padding, may_widen=is_cheap)
    except BaseException:
        session.close()
        release_memory()
        raise
    memory = mapped_memory().minus(before)
    return Opening(
        session=session,
        findings=found.findings,
        wide_ratio=found.wide_ratio,
        memory=memory,
        padding=padding if found.findings.pads else None,
        weights=None if packed is None else packed_weights(packed),
    )


def _find_out(session: Session, place: Place, padding: Padding | None, *, may_widen: bool) -> Found:
    """What runs cost, and who may share one: recalled from an earlier opening, or found now."""
    file = place.packed.with_name(f"{place.packed.name}.json")
    found = recall(file, session.spec, place.threads, place.padding)
    if found is not None:
        # Nothing is run: it would hold up callers of other models for longer than it would save
        # the first caller of this one, whose weights lie ready to be mapped.
        session.widen(place.threads if found.wide_ratio is not None else 0)
        return found
    with _ONE_MEASURES:
        with aside():
            findings, wide_ratio = probe(session, padding), None
        if may_widen and findings.measured.shapes is not None:
            feeds = random_feeds(session.signature, 1)
            wide_ratio = widen(session, feeds, place.threads)
            if wide_ratio is not None and wide_ratio >= FASTER_BELOW:
                # Others may have been in its way: it is tried again when a caller is alone.
                session.widen(place.threads)
    found = Found(
        spec=session.spec,
        threads=place.threads,
        findings=findings,
        wide_ratio=wide_ratio,
        padding=place.padding,
    )
    if may_widen:  # others are found out in no time
        keep(file, found)
    return found


def _check_golden(
    session: Session, variant: str, tolerance: dict[str, float], directory: Path
) -> None:
    inputs, expected = read_golden(directory)
    with aside():
        answers = session.run(inputs, list(expected))
    for (name, wanted), answer in zip(expected.items(), answers, strict=True):
        difference = largest_difference(answer, wanted)
        if not difference <= tolerance.get(name, 0.0):
            raise GoldenMismatch(
                f"variant {variant}: output '{name}' of the golden items is off by "
                f"{difference:.3g}, allowed {tolerance.get(name, 0.0):.3g}; it answers "
                "differently here than where it was proved"
            )
