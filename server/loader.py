"""Makes a version servable: opens its original or its routed variant from disk."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import Final

from optimizers.contract.errors import HoneError, InvalidModel
from optimizers.contract.host import Host, memory_available_bytes
from optimizers.contract.manifest import ORIGINAL, Manifest
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.prepacked import directory_name
from optimizers.contract.provider_options import ON_GPU
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from server.cache import ResponseCache
from server.config import ServerConfig
from server.errors import FailedPrecondition, NotEnoughMemory
from server.journal import Journal, Route
from server.metrics import Metrics
from server.model import ModelVersion
from server.opened import Opening, OpenVariant, Place, QueueBounds, open_original, open_variant
from server.repository import ModelEntry, VariantStore
from server.room import Room
from server.triton_config import ModelConfig
from server.warm_up import WARM_UP_FOLDER, warm_up

_log = logging.getLogger(__name__)

_MEMORY_PER_FILE_BYTE: Final = 2.0
_MEMORY_MARGIN_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Opens sessions for model versions and shows them in the metrics."""

    config: ServerConfig
    host: Host
    store: VariantStore
    journal: Journal
    metrics: Metrics
    room: Room
    cache: ResponseCache | None = None

    async def load(self, entry: ModelEntry, version: int) -> ModelVersion:
        """Open a version: its routed variant if that may serve here, else its original.

        Raises:
            HoneError: The original cannot be opened; the text says why.
        """
        file = entry.versions.get(version)
        if file is None:
            raise InvalidModel(f"{entry.name} has no version folder {version}")
        if not file.is_file():
            raise InvalidModel(f"{entry.name}/{version} has no {file.name}; expected an ONNX model")
        started = time.monotonic()
        self.metrics.expect_version(entry.name, version)
        if entry.config.cached and self.cache is None:
            _log.warning("%s asks for a response cache; --cache-bytes gives none", entry.name)
        spec = original_session(entry.config, self.config, self.host)
        sha256 = await asyncio.to_thread(lambda: read_onnx_file(file).sha256())
        opening = await asyncio.to_thread(open_original, file, spec, self._place(sha256, entry))
        try:
            mismatch = entry.config.mismatch(opening.session.signature)
            if mismatch:
                raise InvalidModel(mismatch)
            await self._warm_up(opening, entry)
            manifest = Manifest(
                variant=ORIGINAL,
                model=entry.name,
                version=version,
                original_sha256=sha256,
                original_file=f"{version}/{file.name}",
                recipe=Recipe(),
                session=spec,
                signature=opening.session.signature,
                created_unix_s=time.time(),
            )
            model = ModelVersion(
                entry=entry,
                version=version,
                original_file=file,
                original=manifest,
                active=self._serve(entry, manifest, opening),
            )
            if await asyncio.to_thread(self._find_variants, model):
                text = "the model file was overwritten; variants made of the former are detached"
                _log.warning("%s version %d: %s", entry.name, version, text)
                self.journal.record(entry.name, version, "original_changed", text)
            await self._follow_route(model)
        except BaseException:
            await asyncio.to_thread(opening.session.close)
            raise
        self.show(model)
        self.metrics.loaded(entry.name, version, time.monotonic() - started)
        return model

    async def open(self, model: ModelVersion, variant: str) -> OpenVariant:
        """Open one variant of a loaded version, warm and checked.

        Raises:
            FailedPrecondition: There is not enough memory, or the original changed on disk.
            HoneError: It cannot be opened, or does not reproduce its golden outputs.
        """
        manifest = model.manifest(variant)
        if variant == ORIGINAL:
            file = model.original_file
            found = await asyncio.to_thread(read_onnx_file, file)
            _require_memory(found.size_bytes)
            if await asyncio.to_thread(found.sha256) != manifest.original_sha256:
                raise FailedPrecondition(
                    f"the original of '{model.name}' version {model.version} was overwritten "
                    "since it was loaded; load the model again"
                )
            place = self._place(manifest.original_sha256, model.entry)
            opening = await asyncio.to_thread(open_original, file, manifest.session, place)
        else:
            _require_memory(manifest.size_bytes)
            place = self._place(variant, model.entry)
            opening = await asyncio.to_thread(open_variant, model.variants[variant], place)
        try:
            await self._warm_up(opening, model.entry)
        except BaseException:
            await asyncio.to_thread(opening.session.close)
            raise
        return self._serve(model.entry, manifest, opening)

    async def close(self, model: ModelVersion) -> None:
        """Let what a version accepted finish, then close its sessions."""
        opened_here = model.all_opened()
        model.extra.clear()
        for opened in opened_here:
            self.hide(model, opened.variant)
            await opened.close()

    def count_swap(self, model: ModelVersion, result: str) -> None:
        """Count a change of a route, or an attempt at one."""
        self.metrics.swaps.labels(model.name, str(model.version), result).inc()

    def show(self, model: ModelVersion) -> None:
        """Bring the gauges of a version up to date."""
        for opened in model.all_opened():
            self.metrics.show_variant(
                model.name,
                model.version,
                opened.variant,
                active=opened is model.active,
                memory=opened.opening.memory,
                lanes=opened.policy.lanes,
                threads=opened.opening.session.spec.intra_op_threads,
                wide_threads=opened.opening.session.wide_threads,
            )

    def hide(self, model: ModelVersion, variant: str) -> None:
        """Take a closed variant out of the gauges."""
        self.metrics.hide_variant(model.name, model.version, variant)

    def void_certificate(self, manifest: Manifest) -> str:
        """Why what was proved of a variant says nothing here; "" when it does."""
        if manifest.evaluation is None:
            return "it was never measured"
        return manifest.evaluation.certificate.host.difference(self.host)

    def _serve(self, entry: ModelEntry, manifest: Manifest, opening: Opening) -> OpenVariant:
        if opening.findings.padding_note:
            text = f"{manifest.variant} of version {manifest.version}"
            _log.warning("%s, %s: %s", entry.name, text, opening.findings.padding_note)
        metrics = self.metrics.of_variant(manifest.model, manifest.version, manifest.variant)
        cache = None
        if self.cache is not None and entry.config.cached:
            cache = self.cache.of_variant(metrics.cached())
        return OpenVariant(
            manifest,
            opening,
            metrics,
            QueueBounds(
                items=entry.config.batching.default_policy.max_items or self.config.max_queue_items,
                size_bytes=self.config.max_queue_bytes,
                seconds=self.config.max_queue_seconds,
                room=self.room,
            ),
            entry.config.batching,
            cache,
        )

    def _place(self, content: str, entry: ModelEntry) -> Place:
        """Where a model is opened whose bytes are named by `content`, a digest."""
        return Place(
            packed=self.store.packed_directory / directory_name(content, self.host),
            threads=self.host.cpus,
            padding=entry.policy.padding,
        )

    async def _warm_up(self, opening: Opening, entry: ModelEntry) -> None:
        """Run the samples that the model declares, so that no caller pays for a first time."""
        if entry.config.warm_up:
            samples, directory = entry.config.warm_up, entry.directory / WARM_UP_FOLDER
            await asyncio.to_thread(warm_up, opening.session, samples, directory)

    def _find_variants(self, model: ModelVersion) -> bool:
        """Attach what was made of this original; whether another one lay here before."""
        manifest = model.original
        changed = self.store.replace_original(manifest)
        model.variants, problems = self.store.variants(
            model.name, model.version, manifest.original_sha256
        )
        for problem in problems:
            _log.warning("%s", problem)
        return changed

    async def _follow_route(self, model: ModelVersion) -> None:
        route = self.journal.route(model.name, model.version)
        if route is None:
            return
        model.is_decided = True
        model.previous = route.previous if route.previous in {ORIGINAL, *model.variants} else ""
        if route.variant == ORIGINAL:
            return
        try:
            if route.variant not in model.variants:
                raise FailedPrecondition(
                    f"variant {route.variant} does not lie in the state directory for this "
                    "original: it was deleted or damaged, or the original was overwritten"
                )
            void = self.void_certificate(model.variants[route.variant].manifest)
            if void:
                raise FailedPrecondition(f"the certificate of {route.variant} is void here: {void}")
            opened = await self.open(model, route.variant)
        except HoneError as error:
            await self._fall_back(model, route, error)
            return
        original, model.active = model.active, opened
        await original.close()

    async def _fall_back(self, model: ModelVersion, route: Route, reason: HoneError) -> None:
        """Let the original answer; where memory is short for now, the route stays for later."""
        for_now = isinstance(reason, NotEnoughMemory)
        until = " for now" if for_now else ""
        text = f"{route.variant} does not serve{until}, the original answers: {reason}"
        _log.warning("%s version %d: %s", model.name, model.version, text)
        if for_now:
            self.journal.record(model.name, model.version, "fell_back", text)
            self.count_swap(model, "fell_back")
            return
        original = Route(model=model.name, version=model.version, variant=ORIGINAL, previous="")
        await self.journal.set_route(original, "fell_back", text)
        self.count_swap(model, "fell_back")
        model.previous = ""
        if route.variant in model.variants:
            model.fell_back = route.variant


def original_session(config: ModelConfig, server: ServerConfig, host: Host) -> SessionSpec:
    """How an original is opened: narrow runs on every processor unless `config.pbtxt` says."""
    # The app has settled what `auto` means before anything is loaded.
    provider = "cpu" if config.stays_on_cpu or server.provider == "auto" else server.provider
    threads = min(config.threads or 1, host.cpus)
    usual = 1 if provider in ON_GPU else host.cpus
    lanes = min(config.lanes or usual, max(1, host.cpus // threads))
    if config.max_batch_size is None:
        max_batch = server.max_batch
    else:
        max_batch = config.max_batch_size if config.joins else 1
    return SessionSpec(
        provider=provider,
        intra_op_threads=threads,
        lanes=lanes,
        max_batch=max_batch,
        provider_options=replace(
            server.provider_options, allow_fallback=config.allow_provider_fallback
        ),
    )


def _require_memory(file_bytes: int) -> None:
    needed = int(_MEMORY_PER_FILE_BYTE * file_bytes) + _MEMORY_MARGIN_BYTES
    available = memory_available_bytes()
    if available < needed:
        raise NotEnoughMemory(
            f"{available >> 20} MiB of memory are available and about {needed >> 20} MiB are "
            "needed to open this beside what serves"
        )
