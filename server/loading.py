"""Brings models out of the repository into the registry and back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from optimizers.contract.errors import HoneError, InvalidModel
from optimizers.contract.manifest import MODEL_FILE, ORIGINAL
from optimizers.contract.profile import HoldVersion
from server.conversion import PROGRAM_SUFFIX, Conversion, Source
from server.errors import UnknownModel
from server.loader import Loader
from server.model import ModelVersion
from server.overrides import Override, OverrideFiles
from server.registry import UNLOADED, Registry, State
from server.repository import ModelEntry, ModelRepository
from server.triton_config import ModelConfig

_log = logging.getLogger(__name__)

_REPLACED: Final = "what is to be loaded has changed"
_UNLOADED: Final = "the model is unloaded"
"""Why a conversion is ended."""

_TO_BE_CONVERTED: Final = "is to be converted from PyTorch"


class Loading:
    """Loads and unloads models. Belongs to the registry's event loop."""

    def __init__(
        self,
        registry: Registry,
        repository: ModelRepository,
        loader: Loader,
        conversion: Conversion,
        *,
        parallel: int,
    ) -> None:
        """Load out of `repository` into `registry`, at most `parallel` models at once."""
        self._registry = registry
        self._repository = repository
        self._loader = loader
        self._conversion = conversion
        self._converting: set[asyncio.Task[bool]] = set()
        self._slots = asyncio.Semaphore(parallel)
        self._telling = asyncio.Lock()
        self._overrides: dict[str, Override] = {}
        self._files = OverrideFiles(loader.store.overrides_directory)
        self._listeners: list[Callable[[ModelVersion], Awaitable[None]]] = []

    def on_load(self, listener: Callable[[ModelVersion], Awaitable[None]]) -> None:
        """Call `listener` with every version that becomes ready, one at a time."""
        self._listeners.append(listener)

    async def scan(self) -> None:
        """Learn what the repository holds, so that a model not loaded yet is known."""
        entries = await asyncio.to_thread(self._repository.scan)
        for entry in entries.values():
            self._registry.enter(entry)

    async def load_all(self, names: Collection[str] | None = None) -> None:
        """Load models, by default every one known; what cannot be loaded stays unavailable."""
        if names is None:
            names = [entry.name for entry in self._registry.entries()]
        self._registry.expect(names)
        await asyncio.gather(*(self.begin(name) for name in sorted(names)))
        self._registry.tried = True

    async def begin(self, name: str) -> None:
        """Like `attempt`, but a model that has to be converted first keeps nobody waiting."""
        attempt = asyncio.create_task(self.attempt(name))
        if unconverted := await asyncio.to_thread(self._unconverted, name):
            self._converting.add(attempt)
            attempt.add_done_callback(self._converting.discard)
            for version in unconverted:
                if not attempt.done() and not self._registry.is_known(name, version):
                    self._registry.stand(name, version, State.LOADING, _TO_BE_CONVERTED)
        else:
            await attempt

    async def attempt(self, name: str) -> bool:
        """Load a model like `reload`, but log what is wrong with it; whether nothing was."""
        try:
            await self.reload(name)
        except HoneError as error:
            _log.error("model %s is not served as it lies there: %s", name, error)
        except Exception:
            _log.exception("model %s is not served as it lies there", name)
        else:
            return True
        return False

    async def load(
        self,
        name: str,
        config: ModelConfig | None = None,
        files: Mapping[tuple[int, str], bytes] | None = None,
    ) -> None:
        """Load a model, or bring it up to date with the repository.

        A version that serves keeps serving until its successor does.

        Args:
            name: The model.
            config: Counts in the place of its `config.pbtxt`, until the next load.
            files: (version, file name) → content in the place of its version folders, until the
                next load; only together with `config`.

        Raises:
            UnknownModel: The repository has none of that name.
            HoneError: A version that should serve does not; the text says why.
        """
        await self._registry.own(self._load_as(name, config, files or {}))

    async def reload(self, name: str) -> None:
        """Like `load`, but what the last load brought still counts.

        Raises:
            UnknownModel: The repository has none of that name.
            HoneError: A version that should serve does not; the text says why.
        """
        await self._registry.own(self._load(name, self._overrides.get(name)))

    async def unload(self, name: str) -> None:
        """Finish what was accepted for a model and close it; forget it if its folder is gone.

        Raises:
            UnknownModel: Nothing of that name was ever loaded.
        """
        await self._registry.own(self._unload(name))

    async def set_aside(self, name: str, reason: str) -> bool:
        """Unload a model that answers nothing now, if it does not; `reload` brings it back."""
        return await self._registry.own(self._set_aside(name, reason))

    def put_off(self, name: str, reason: str) -> bool:
        """Leave a model unopened for now; False if it must be tried to know what is wrong."""
        entry = self._registry.entry(name)
        wanted = () if entry is None or entry.error else self._wanted_versions(entry)
        for version in wanted:
            self._registry.stand(name, version, State.UNAVAILABLE, reason)
        return bool(wanted)

    def files(self, name: str) -> list[Path]:
        """The model files that loading a model would open."""
        entry = self._registry.entry(name)
        if entry is None:
            return []
        return [entry.versions[version] for version in self._wanted_versions(entry)]

    async def close(self) -> None:
        """Close everything; nobody waits for an answer any more, so runs under way are ended."""
        self._conversion.close()
        await asyncio.gather(*self._converting)
        await self._registry.settle()
        for model in self._registry.models():
            for opened in model.all_opened():
                opened.terminate()
            self._registry.take_out(model.name, model.version)
            await self._loader.close(model)

    async def _load_as(
        self, name: str, config: ModelConfig | None, files: Mapping[tuple[int, str], bytes]
    ) -> None:
        if config is None:
            await self._load(name, None)
            return
        directory = None
        if files:
            await asyncio.to_thread(
                self._loader.store.require_free_disk, sum(map(len, files.values()))
            )
            directory = await asyncio.to_thread(self._files.write, files)
        override = Override(config=config, directory=directory)
        try:
            await self._load(name, override)
        finally:
            if self._overrides.get(name) is not override:
                await asyncio.to_thread(self._files.remove, override)

    async def _load(self, name: str, override: Override | None) -> None:
        async with self._held(name, await self._replacing(name, override)):
            loaded, problems = await self._load_versions(name, override)
            if loaded:
                await self._remember(name, override)
        async with self._telling:
            for model in loaded:
                for listener in self._listeners:
                    await listener(model)
        if problems:
            raise InvalidModel(f"'{name}': {'; '.join(problems)}")

    @contextlib.asynccontextmanager
    async def _held(
        self, name: str, waiting: contextlib.AbstractContextManager[None]
    ) -> AsyncIterator[None]:
        """Hold a model's lock; be within `waiting` until it is there."""
        lock = self._registry.lock(name)
        with waiting:
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    async def _replacing(
        self, name: str, override: Override | None
    ) -> contextlib.AbstractContextManager[None]:
        """What ends the conversions under way that loading a model now makes vain."""
        if not self._registry.lock(name).locked():
            return contextlib.nullcontext()
        needed = await asyncio.to_thread(self._to_convert, name, override)
        return self._conversion.only(name, needed.values(), _REPLACED)

    async def _remember(self, name: str, override: Override | None) -> None:
        """What the last load brought counts until the next; the caller holds the lock."""
        former = self._overrides.pop(name, None)
        if override is not None:
            self._overrides[name] = override
        if former is not override:
            await asyncio.to_thread(self._files.remove, former)

    async def _load_versions(
        self, name: str, override: Override | None
    ) -> tuple[list[ModelVersion], list[str]]:
        """The versions that became ready, and what was wrong with others."""
        entry = await asyncio.to_thread(self._repository.entry, name, override)
        self._registry.expect([name])
        if entry.error:
            # What serves goes on by what was said before.
            former = self._registry.entry(name) or entry
            self._registry.enter(replace(former, error=entry.error))
            raise InvalidModel(entry.error)
        self._registry.enter(entry)
        for warning in entry.warnings:
            _log.warning("%s", warning)
        wanted = self._wanted_versions(entry)
        if not wanted:
            raise InvalidModel(
                f"the version policy of '{name}' chooses none of its versions "
                f"{list(entry.versions)}"
            )
        entry, failures = await self._as_onnx(entry, wanted)
        async with self._slots:
            return await self._load_wanted(entry, wanted, failures)

    async def _load_wanted(
        self, entry: ModelEntry, wanted: Collection[int], failures: Mapping[int, HoneError]
    ) -> tuple[list[ModelVersion], list[str]]:
        """Like `_load_versions`, after what `failures` has against some versions."""
        self._registry.forget_failures(entry.name)
        loaded, problems = [], []
        for version in wanted:
            try:
                loaded.append(await self._load_version(entry, version, failures.get(version)))
            except HoneError as error:
                problems.append(f"version {version}: {error}")
        if not problems:  # a version that serves goes when its successor is there
            for model in self._registry.models(entry.name):
                if model.version not in wanted:
                    await self._unload_version(entry.name, model.version)
        return loaded, problems

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

    async def _load_version(
        self, entry: ModelEntry, version: int, failure: HoneError | None
    ) -> ModelVersion:
        registry, name = self._registry, entry.name
        serves = registry.version(name, version) is not None
        if not serves:
            registry.stand(name, version, State.LOADING)
        try:
            if failure is not None:
                raise failure
            model = await self._loader.load(entry, version)
        except Exception as error:
            if not serves:
                registry.stand(name, version, State.UNAVAILABLE, str(error))
            if isinstance(error, HoneError):
                raise
            _log.exception("model %s version %d could not be loaded", name, version)
            raise InvalidModel(f"unexpected error while loading: {error}") from error
        former = registry.install(model)
        if former is not None:
            await self._loader.close(former)
            self._loader.show(model)
        return model

    async def _as_onnx(
        self, entry: ModelEntry, wanted: Collection[int]
    ) -> tuple[ModelEntry, dict[int, HoneError]]:
        """The entry with converted models in the place of PyTorch programs, and what failed."""
        failures: dict[int, HoneError] = {}
        for version in wanted:
            if not _is_program(entry, version):
                continue
            try:
                entry = await self._converted(entry, version)
            except HoneError as error:
                failures[version] = error
            except Exception as error:
                _log.exception("model %s version %d could not be converted", entry.name, version)
                failures[version] = InvalidModel(f"unexpected error while converting: {error}")
        return entry, failures

    async def _converted(self, entry: ModelEntry, version: int) -> ModelEntry:
        """The entry with the converted model in the place of one version's program.

        Raises:
            HoneError: The program may not or cannot be converted.
        """
        name = entry.name

        def tell(what: str) -> None:
            if self._registry.version(name, version) is None:
                self._registry.stand(name, version, State.LOADING, what)

        source = await asyncio.to_thread(self._source, entry, version)
        report = await self._conversion.convert(source, tell)
        versions = {**entry.versions, version: source.model_file}
        warnings = entry.warnings
        if report.batch is not None:
            warning = (
                f"{name}/{version}: exported for {report.batch} rows exactly, and so it answers; "
                "export it with a dynamic first dimension (torch.export.Dim) to have others"
            )
            _log.warning("%s", warning)
            warnings = (*warnings, warning)
            known = self._registry.entry(name) or entry
            self._registry.enter(replace(known, warnings=(*known.warnings, warning)))
        return replace(entry, versions=versions, warnings=warnings)

    def _source(self, entry: ModelEntry, version: int) -> Source:
        outputs = tuple(spec.name for spec in entry.config.outputs)
        return self._conversion.find(entry.versions[version], entry.name, version, outputs)

    def _unconverted(self, name: str) -> list[int]:
        """The versions of a model that would have to be converted; blocks."""
        folders = self._to_convert(name, self._overrides.get(name))
        return [
            version for version, folder in folders.items() if not (folder / MODEL_FILE).is_file()
        ]

    def _to_convert(self, name: str, override: Override | None) -> dict[int, Path]:
        """Where the programs that loading a model needs lie once they are converted; blocks."""
        with contextlib.suppress(HoneError):
            entry = self._repository.entry(name, override)
            programs = [v for v in self._wanted_versions(entry) if _is_program(entry, v)]
            return {version: self._source(entry, version).directory for version in programs}
        return {}

    async def _unload(self, name: str) -> None:
        registry = self._registry
        if registry.entry(name) is None:
            raise UnknownModel(name)
        async with self._held(name, self._conversion.only(name, (), _UNLOADED)):
            registry.forget_failures(name)
            for model in registry.models(name):
                await self._unload_version(name, model.version)
            try:
                await asyncio.to_thread(self._repository.entry, name)
            except UnknownModel:
                registry.forget(name)
                await self._remember(name, None)

    async def _set_aside(self, name: str, reason: str) -> bool:
        registry = self._registry
        async with registry.lock(name):
            models = registry.models(name)
            if not models or not all(model.is_idle for model in models):
                return False
            for model in models:
                registry.take_out(name, model.version, reason)
            for model in models:
                await self._loader.close(model)
                registry.stand(name, model.version, State.UNAVAILABLE, reason)
        return True

    async def _unload_version(self, name: str, version: int) -> None:
        await self._loader.close(self._registry.take_out(name, version))
        self._registry.stand(name, version, State.UNAVAILABLE, UNLOADED)


def _is_program(entry: ModelEntry, version: int) -> bool:
    file = entry.versions.get(version)
    return file is not None and file.suffix == PROGRAM_SUFFIX and file.is_file()
