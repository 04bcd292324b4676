"""Which variant answers: opens, promotes, rolls back, adopts and removes variants."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from optimizers.contract.directory import VariantDirectory
from optimizers.contract.errors import HoneError
from optimizers.contract.manifest import ORIGINAL, Manifest
from server.errors import FailedPrecondition, GoldenMismatch, UnknownVariant
from server.journal import Route
from server.loader import Loader
from server.model import ModelVersion
from server.opened import OpenVariant
from server.registry import Registry

_EXTRA_SESSIONS: Final = 2


class Routes:
    """Changes what answers. Belongs to the registry's event loop."""

    def __init__(self, registry: Registry, loader: Loader) -> None:
        """Change the versions in `registry`."""
        self._registry = registry
        self._loader = loader

    async def opened(self, model: ModelVersion, address: str) -> OpenVariant:
        """The open session of a variant, opened now if a request is the first to name it.

        Raises:
            UnknownVariant: Nothing fits.
            NotReady: The version was unloaded meanwhile.
            HoneError: It cannot be opened.
        """
        variant = model.resolve(address)
        opened = model.opened(variant)
        if opened is None:
            opened = await self._registry.own(self._open_extra(model, variant))
        elif variant in model.extra:
            model.extra[variant] = model.extra.pop(variant)
        return opened

    async def set_route(
        self, model: ModelVersion, address: str, *, unverified: bool = False, reason: str = ""
    ) -> Route:
        """Let another variant answer by default.

        The new session is opened, warmed and checked beside the old one; then the route changes
        at once for all requests that follow, and the old session finishes and is closed.

        Raises:
            UnknownVariant: Nothing fits `address`.
            FailedPrecondition: It is not proved here, and `unverified` does not allow that.
            GoldenMismatch: It answers differently from what was proved.
            NotReady: The version was unloaded meanwhile.
        """
        text = reason or ("promoted without proof" if unverified else "promoted")
        return await self._registry.own(self._promote(model, address, unverified, text))

    async def roll_back(self, model: ModelVersion, reason: str = "") -> Route:
        """Let the variant answer that answered before the last promotion, else the original.

        Raises:
            FailedPrecondition: The original answers already and nothing answered before.
            NotReady: The version was unloaded meanwhile.
        """
        return await self._registry.own(self._roll_back(model, reason))

    async def adopt(self, source: Path) -> VariantDirectory:
        """Take a variant that a job made into the store and among its version's variants.

        Raises:
            VariantDamaged: It does not verify.
            FailedPrecondition: The disk is full.
        """
        return await self._registry.own(self._adopt(source))

    async def remove(self, model: ModelVersion, variant: str) -> None:
        """Delete a variant that neither answers by default nor did before.

        Raises:
            UnknownVariant: There is none of that id.
            FailedPrecondition: It is the original, the active or the previous one.
        """
        if variant == ORIGINAL:
            raise FailedPrecondition("the original is the operator's file; Hone never deletes it")
        await self._registry.own(self._remove(model, variant))

    def void_certificate(self, manifest: Manifest) -> str:
        """Why what was proved of a variant says nothing here; "" when it does."""
        return self._loader.void_certificate(manifest)

    def is_proved_here(self, variant: VariantDirectory) -> bool:
        """Whether a variant may be promoted without anybody's word."""
        return variant.manifest.is_proved and not self.void_certificate(variant.manifest)

    async def _open_extra(self, model: ModelVersion, variant: str) -> OpenVariant:
        async with self._registry.lock(model.name):
            model = self._registry.current(model)
            opened = model.opened(variant)
            if opened is not None:
                return opened
            if variant != ORIGINAL and variant not in model.variants:
                raise UnknownVariant(model.name, model.version, variant)
            opened = await self._loader.open(model, variant)
            model.extra[variant] = opened
            self._loader.show(model)
            while len(model.extra) > _EXTRA_SESSIONS:
                oldest = next(iter(model.extra))
                self._loader.hide(model, oldest)
                await model.extra.pop(oldest).close()
            return opened

    async def _promote(
        self, model: ModelVersion, address: str, unverified: bool, text: str
    ) -> Route:
        async with self._registry.lock(model.name):
            model = self._registry.current(model)
            variant = model.resolve(address)
            if variant != ORIGINAL and not unverified:
                self._require_proof(model, variant)
            if variant == model.active.variant:
                return await self._confirm(model, text)
            return await self._swap(model, variant, model.active.variant, "promoted", text)

    async def _roll_back(self, model: ModelVersion, reason: str) -> Route:
        async with self._registry.lock(model.name):
            model = self._registry.current(model)
            target = model.previous or ORIGINAL
            if target == model.active.variant:
                raise FailedPrecondition(
                    f"'{model.name}' version {model.version} has nothing to roll back to: "
                    f"{target} answers, and no other variant did before"
                )
            text = reason or f"rolled back from {model.active.variant}"
            return await self._swap(model, target, "", "rolled_back", text)

    async def _confirm(self, model: ModelVersion, text: str) -> Route:
        """Record that what answers already is what shall answer, unless that is known."""
        route = Route(
            model=model.name,
            version=model.version,
            variant=model.active.variant,
            previous=model.previous,
        )
        if not model.is_decided:
            await self._loader.journal.set_route(route, "confirmed", f"{route.variant}: {text}")
            model.is_decided = True
        return route

    async def _swap(
        self, model: ModelVersion, variant: str, previous: str, kind: str, text: str
    ) -> Route:
        """Open, journal, point, close; the caller holds the lock."""
        loader = self._loader
        opened = model.extra.get(variant) or await self._open_for_swap(model, variant)
        route = Route(model=model.name, version=model.version, variant=variant, previous=previous)
        try:
            await loader.journal.set_route(route, kind, f"{variant}: {text}")
        except HoneError:
            loader.count_swap(model, "failed")
            if variant not in model.extra:
                await opened.close()
            raise
        former, model.active, model.previous = model.active, opened, previous
        model.is_decided = True
        model.extra.pop(variant, None)
        model.fell_back = ""
        loader.hide(model, former.variant)
        loader.show(model)
        loader.count_swap(model, kind)
        await former.close()
        return route

    async def _open_for_swap(self, model: ModelVersion, variant: str) -> OpenVariant:
        try:
            return await self._loader.open(model, variant)
        except HoneError as error:
            result = "refused" if isinstance(error, GoldenMismatch) else "failed"
            self._loader.count_swap(model, result)
            self._loader.journal.record(
                model.name, model.version, f"swap_{result}", f"{variant}: {error}"
            )
            raise

    async def _adopt(self, source: Path) -> VariantDirectory:
        variant = await asyncio.to_thread(self._loader.store.adopt, source)
        manifest = variant.manifest
        async with self._registry.lock(manifest.model):
            model = self._registry.version(manifest.model, manifest.version)
            if model is not None and model.original.original_sha256 == manifest.original_sha256:
                model.variants[manifest.variant] = variant
        return variant

    def _require_proof(self, model: ModelVersion, variant: str) -> None:
        manifest = model.variants[variant].manifest
        evaluation = manifest.evaluation
        if not manifest.is_proved:
            verdict = "was never measured" if evaluation is None else f"is {evaluation.verdict}"
            reasons = "" if evaluation is None else f" ({'; '.join(evaluation.reasons)})"
            raise FailedPrecondition(
                f"variant {variant} {verdict}{reasons}; promote it anyway with --unverified"
            )
        void = self.void_certificate(manifest)
        if void:
            raise FailedPrecondition(
                f"the certificate of variant {variant} is not valid here: {void}; measure it "
                f"again with `hone optimize {model.name} --profile {manifest.profile}`, or "
                "promote it anyway with --unverified"
            )

    async def _remove(self, model: ModelVersion, variant: str) -> None:
        async with self._registry.lock(model.name):
            model = self._registry.current(model)
            if variant not in model.variants:
                raise UnknownVariant(model.name, model.version, variant)
            if variant in (model.active.variant, model.previous):
                active = variant == model.active.variant
                role = "answers by default" if active else "is what a roll-back returns to"
                raise FailedPrecondition(f"variant {variant} {role}; it is not deleted")
            opened = model.extra.pop(variant, None)
            if opened is not None:
                await opened.close()
            if variant == model.fell_back:
                model.fell_back = ""
            await asyncio.to_thread(self._loader.store.remove, model.variants.pop(variant))
            self._loader.metrics.forget_variant(model.name, model.version, variant)
