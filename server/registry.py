"""What is loaded: loads, unloads, changes routes, and tells who answers a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from optimizers.contract.directory import VariantDirectory
from optimizers.contract.errors import HoneError, InvalidModel
from optimizers.contract.evaluation import Verdict
from optimizers.contract.manifest import ORIGINAL, Manifest
from optimizers.contract.profile import HoldVersion
from server.errors import (
    FailedPrecondition,
    GoldenMismatch,
    InvalidRequest,
    NotReady,
    UnknownModel,
    UnknownVariant,
    UnknownVersion,
)
from server.journal import Route
from server.loader import Loader, proved_here
from server.model import ModelVersion
from server.opened import OpenVariant
from server.repository import ModelEntry, ModelRepository

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_EXTRA_SESSIONS: Final = 2
_DECIDED: Final = (Verdict.PROVED, Verdict.REFUSED)


class State(StrEnum):
    """Where a model version stands; Triton's words."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The state of one version, and why it is not ready."""

    state: State
    reason: str = ""


class Registry:
    """The versions that serve. Belongs to one event loop."""

    def __init__(self, repository: ModelRepository, loader: Loader) -> None:
        """Serve out of `repository`; nothing is loaded yet."""
        self._repository = repository
        self._loader = loader
        self._entries: dict[str, ModelEntry] = {}
        self._versions: dict[str, dict[int, ModelVersion]] = {}
        self._standings: dict[tuple[str, int], Standing] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._listeners: list[Callable[[ModelVersion], Awaitable[None]]] = []
        self.tried = False
        """Whether every model in the repository has been tried once."""

    def on_load(self, listener: Callable[[ModelVersion], Awaitable[None]]) -> None:
        """Call `listener` with every version that becomes ready."""
        self._listeners.append(listener)

    async def load_all(self) -> None:
        """Load every model; what cannot be loaded is logged and stays unavailable."""
        for name in await asyncio.to_thread(self._repository.scan):
            try:
                await self.load(name)
            except HoneError as error:
                _log.error("model %s is not served: %s", name, error)
        self.tried = True

    async def load(self, name: str) -> None:
        """Load a model, or bring it up to date with the repository.

        A version that serves keeps serving until its successor does.

        Raises:
            UnknownModel: The repository has none of that name.
            HoneError: A version that should serve does not; the text says why.
        """
        await self._owned(self._load(name))

    async def unload(self, name: str) -> None:
        """Finish what was accepted for a model and close it.

        Raises:
            UnknownModel: Nothing of that name was ever loaded.
        """
        await self._owned(self._unload(name))

    async def close(self) -> None:
        """Close everything; the caller has stopped sending requests."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for name in list(self._versions):
            for model in self._versions.pop(name).values():
                await self._close(model)

    # Who answers

    def find(self, name: str, address: str) -> tuple[ModelVersion, str]:
        """The version and the variant that a request means.

        Args:
            name: The model.
            address: "" | VERSION, each with optional @VARIANT.

        Returns:
            The version, and what stands after the `@`.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: It has no such version.
            NotReady: It is known but does not serve now.
            InvalidRequest: The address makes no sense.
        """
        number, at, variant = address.partition("@")
        if at and not variant:
            raise InvalidRequest(
                f"model_version '{address}' names no variant after '@'; expected VERSION@VARIANT"
            )
        versions = self._versions.get(name)
        if versions is None:
            if name in self._entries:
                raise NotReady(f"Request for unknown model: '{name}' has no available versions")
            raise UnknownModel(name)
        if not number:
            return versions[self.default_version(name)], variant
        if not number.isascii() or not number.isdigit() or len(number) > 18:
            raise UnknownVersion(name, number[:64])
        model = versions.get(int(number))
        if model is None:
            if (name, int(number)) in self._standings:
                raise NotReady(
                    f"Request for unknown model: '{name}' version {int(number)} is not at ready "
                    "state"
                )
            raise UnknownVersion(name, int(number))
        return model, variant

    async def opened(self, model: ModelVersion, address: str) -> OpenVariant:
        """The open session of a variant, opened now if a request is the first to name it.

        Raises:
            UnknownVariant: Nothing fits.
            HoneError: It cannot be opened.
        """
        variant = model.resolve(address)
        opened = model.opened(variant)
        if opened is None:
            opened = await self._owned(self._open_extra(model, variant))
        elif variant in model.extra:
            model.extra[variant] = model.extra.pop(variant)
        return opened

    def default_version(self, name: str) -> int:
        """The version that answers when none is named.

        The newest that is ready; under `hold_version: until_proven` an older one with a proven
        variant as long as the newer's profile is not decided.
        """
        versions = self._versions[name]
        newest_first = sorted(versions, reverse=True)
        for number in newest_first:
            model = versions[number]
            if not _is_held(model):
                return number
            if not any(_is_proven(versions[older]) for older in newest_first if older < number):
                return number
        return newest_first[0]

    # What is there

    @property
    def ready(self) -> bool:
        """Whether every known version is ready or deliberately unloaded."""
        return all(
            standing.state is State.READY or standing.reason == "unloaded"
            for standing in self._standings.values()
        ) and not any(entry.error for entry in self._entries.values())

    def entries(self) -> list[ModelEntry]:
        """Every model known, by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    def models(self, name: str = "") -> list[ModelVersion]:
        """The versions that serve, all or of one model, ascending."""
        names = [name] if name else sorted(self._versions)
        return [
            versions[number]
            for model in names
            for versions in [self._versions.get(model, {})]
            for number in sorted(versions)
        ]

    def standings(self) -> list[tuple[str, int, Standing]]:
        """Every version that was ever tried, with its state."""
        return [(*key, self._standings[key]) for key in sorted(self._standings)]

    # Routes

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
        """
        variant = model.resolve(address)
        if variant != ORIGINAL and not unverified:
            self._require_proof(model, variant)
        text = reason or ("promoted without proof" if unverified else "promoted")
        return await self._owned(self._swap(model, variant, model.active.variant, "promoted", text))

    async def roll_back(self, model: ModelVersion, reason: str = "") -> Route:
        """Let the variant answer that answered before the last promotion, else the original.

        Raises:
            FailedPrecondition: The original answers already and nothing answered before.
        """
        target = model.previous or ORIGINAL
        if target == model.active.variant:
            raise FailedPrecondition(
                f"'{model.name}' version {model.version} has nothing to roll back to: "
                f"{target} answers, and no other variant did before"
            )
        text = reason or f"rolled back from {model.active.variant}"
        return await self._owned(self._swap(model, target, "", "rolled_back", text))

    async def adopt(self, source: Path) -> VariantDirectory:
        """Take a variant that a job made into the store and among its version's variants.

        Raises:
            VariantDamaged: It does not verify.
            FailedPrecondition: The disk is full.
        """
        variant = await asyncio.to_thread(self._loader.store.adopt, source)
        manifest = variant.manifest
        model = self._versions.get(manifest.model, {}).get(manifest.version)
        if model is not None and model.original.original_sha256 == manifest.original_sha256:
            model.variants[manifest.variant] = variant
        return variant

    async def remove_variant(self, model: ModelVersion, variant: str) -> None:
        """Delete a variant that neither answers by default nor did before.

        Raises:
            UnknownVariant: There is none of that id.
            FailedPrecondition: It is the original, the active or the previous one.
        """
        if variant == ORIGINAL:
            raise FailedPrecondition("the original is the operator's file; Hone never deletes it")
        if variant not in model.variants:
            raise UnknownVariant(model.name, model.version, variant)
        await self._owned(self._remove_variant(model, variant))

    def void_certificate(self, manifest: Manifest) -> str:
        """Why what was proved of a variant says nothing here; "" when it does."""
        return self._loader.void_certificate(manifest)

    def is_proved_here(self, variant: VariantDirectory) -> bool:
        """Whether a variant may be promoted without anybody's word."""
        return proved_here(variant, self._loader.host)

    # How it is done

    async def _owned(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` to its end even if the caller that asked for it goes away."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _load(self, name: str) -> None:
        entry = await asyncio.to_thread(self._repository.entry, name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            self._entries[name] = entry
            for warning in entry.warnings:
                _log.warning("%s", warning)
            if entry.error:
                raise InvalidModel(entry.error)
            wanted = self._wanted_versions(entry)
            if not wanted:
                raise InvalidModel(
                    f"the version policy of '{name}' chooses none of its versions "
                    f"{list(entry.versions)}"
                )
            problems = []
            for version in wanted:
                try:
                    await self._load_version(entry, version)
                except HoneError as error:
                    problems.append(f"version {version}: {error}")
            for version in set(self._versions.get(name, {})) - set(wanted):
                await self._unload_version(name, version)
            if problems:
                raise InvalidModel(f"'{name}': {'; '.join(problems)}")

    def _wanted_versions(self, entry: ModelEntry) -> tuple[int, ...]:
        chosen = entry.config.version_policy.choose(tuple(entry.versions))
        if entry.policy.hold_version is HoldVersion.NEVER or not chosen:
            return chosen
        routed = [
            version
            for version in entry.versions
            if version < max(chosen) and self._has_variant_route(entry.name, version)
        ]
        return tuple(sorted({*chosen, *routed[-1:]}))

    def _has_variant_route(self, name: str, version: int) -> bool:
        route = self._loader.journal.route(name, version)
        return route is not None and route.variant != ORIGINAL

    async def _load_version(self, entry: ModelEntry, version: int) -> None:
        key = (entry.name, version)
        former = self._versions.get(entry.name, {}).get(version)
        if former is None:
            self._standings[key] = Standing(state=State.LOADING)
        try:
            model = await self._loader.load(entry, version)
        except HoneError as error:
            if former is None:
                self._standings[key] = Standing(state=State.UNAVAILABLE, reason=str(error))
            raise
        except Exception as error:
            _log.exception("model %s version %d could not be loaded", *key)
            if former is None:
                self._standings[key] = Standing(state=State.UNAVAILABLE, reason=str(error))
            raise InvalidModel(f"unexpected error while loading: {error}") from error
        self._versions.setdefault(entry.name, {})[version] = model
        self._standings[key] = Standing(state=State.READY)
        if former is not None:
            await self._close(former)
            self._loader.show(model)
        for listener in self._listeners:
            await listener(model)

    async def _unload(self, name: str) -> None:
        if name not in self._entries:
            raise UnknownModel(name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            for version in list(self._versions.get(name, {})):
                await self._unload_version(name, version)

    async def _unload_version(self, name: str, version: int) -> None:
        model = self._versions[name].pop(version)
        if not self._versions[name]:
            del self._versions[name]
        self._standings[name, version] = Standing(state=State.UNLOADING)
        await self._close(model)
        self._standings[name, version] = Standing(state=State.UNAVAILABLE, reason="unloaded")

    async def _close(self, model: ModelVersion) -> None:
        async with model.lock:
            for opened in model.all_opened():
                self._loader.hide(model, opened.variant)
                await opened.close()

    async def _open_extra(self, model: ModelVersion, variant: str) -> OpenVariant:
        async with model.lock:
            opened = model.opened(variant)
            if opened is not None:
                return opened
            opened = await self._loader.open(model, variant)
            model.extra[variant] = opened
            self._loader.show(model)
            while len(model.extra) > _EXTRA_SESSIONS:
                oldest = next(iter(model.extra))
                self._loader.hide(model, oldest)
                await model.extra.pop(oldest).close()
            return opened

    async def _swap(
        self, model: ModelVersion, variant: str, previous: str, kind: str, text: str
    ) -> Route:
        async with model.lock:
            if self._versions.get(model.name, {}).get(model.version) is not model:
                raise NotReady(f"'{model.name}' version {model.version} was unloaded meanwhile")
            route = Route(
                model=model.name, version=model.version, variant=variant, previous=previous
            )
            if variant == model.active.variant:
                return Route(
                    model=model.name,
                    version=model.version,
                    variant=variant,
                    previous=model.previous,
                )
            swaps = self._loader.metrics.swaps
            try:
                opened = model.extra.get(variant) or await self._loader.open(model, variant)
            except HoneError as error:
                result = "refused" if isinstance(error, GoldenMismatch) else "failed"
                swaps.labels(model.name, str(model.version), result).inc()
                self._loader.journal.record(
                    model.name, model.version, f"swap_{result}", f"{variant}: {error}"
                )
                raise
            self._loader.journal.set_route(route, kind, f"{variant}: {text}")
            former, model.active, model.previous = model.active, opened, previous
            model.extra.pop(variant, None)
            model.fell_back = ""
            self._loader.hide(model, former.variant)
            self._loader.show(model)
            swaps.labels(model.name, str(model.version), kind).inc()
            await former.close()
            return route

    def _require_proof(self, model: ModelVersion, variant: str) -> None:
        manifest = model.variants[variant].manifest
        evaluation = manifest.evaluation
        if evaluation is None or evaluation.verdict is not Verdict.PROVED:
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

    async def _remove_variant(self, model: ModelVersion, variant: str) -> None:
        async with model.lock:
            if variant in (model.active.variant, model.previous):
                active = variant == model.active.variant
                role = "answers by default" if active else "is what a roll-back returns to"
                raise FailedPrecondition(f"variant {variant} {role}; it is not deleted")
            opened = model.extra.pop(variant, None)
            if opened is not None:
                await opened.close()
            await asyncio.to_thread(self._loader.store.remove, model.variants.pop(variant))
            self._loader.metrics.forget_variant(model.name, model.version, variant)


def _is_held(model: ModelVersion) -> bool:
    """Whether a version waits for its profile's verdict."""
    policy = model.entry.policy
    if policy.hold_version is HoldVersion.NEVER or policy.serve is None:
        return False
    return not any(
        variant.manifest.profile == policy.serve
        and variant.manifest.evaluation is not None
        and variant.manifest.evaluation.verdict in _DECIDED
        for variant in model.variants.values()
    )


def _is_proven(model: ModelVersion) -> bool:
    evaluation = model.active.manifest.evaluation
    return evaluation is not None and evaluation.verdict is Verdict.PROVED
