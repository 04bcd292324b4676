"""What is loaded: the versions that serve, who answers a request, and who may change that."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from optimizers.contract.profile import HoldVersion
from server.errors import InvalidRequest, NotReady, UnknownModel, UnknownVersion
from server.model import ModelVersion
from server.repository import ModelEntry

UNLOADED: Final = "unloaded"
"""Reason of a version that was taken out on purpose; more may follow it."""
IDLE: Final = f"{UNLOADED}: idle"
MEMORY_BUDGET: Final = f"{UNLOADED}: memory budget"
"""Reasons of versions that are opened again when a request asks for them."""

_T = TypeVar("_T")


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
    """The versions that serve. Belongs to one event loop; opens and closes nothing itself."""

    def __init__(self) -> None:
        """Nothing is loaded yet."""
        self._entries: dict[str, ModelEntry] = {}
        self._versions: dict[str, dict[int, ModelVersion]] = {}
        self._standings: dict[tuple[str, int], Standing] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._expected: set[str] = set()
        self.tried = False
        """Whether every model that is to be loaded at start has been tried once."""

    # Who answers

    def find(self, name: str, address: str) -> tuple[ModelVersion, str]:
        """The version and the variant that a request means.

        Args:
            name: The model.
            address: "" | VERSION | LABEL, each with optional @VARIANT.

        Returns:
            The version, and what stands after the `@`.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: It has no such version.
            NotReady: It is known but does not serve now.
            InvalidRequest: The address makes no sense.
        """
        versions = self._versions.get(name)
        if versions is not None and not address:
            return versions[self.default_version(name)], ""
        number, at, variant = address.partition("@")
        if at and not variant:
            raise InvalidRequest(
                f"model_version '{address[:64]}' names no variant after '@'; expected "
                "VERSION@VARIANT"
            )
        if versions is None:
            if name in self._entries:
                raise NotReady(f"Request for unknown model: '{name}' has no available versions")
            raise UnknownModel(name)
        if not number:
            return versions[self.default_version(name)], variant
        version = self._entries[name].policy.labels.get(number)
        if version is None:
            if not number.isascii() or not number.isdigit() or len(number) > 18:
                raise UnknownVersion(name, number[:64])
            version = int(number)
        model = versions.get(version)
        if model is None:
            if (name, version) in self._standings:
                raise NotReady(
                    f"Request for unknown model: '{name}' version {version} is not at ready state"
                )
            raise UnknownVersion(name, version)
        return model, variant

    def default_version(self, name: str) -> int:
        """The version that answers when none is named.

        The newest that is ready; under `hold_version: until_proven` an older one with a proven
        variant as long as the newer's profile is not decided.
        """
        versions = self._versions[name]
        if len(versions) == 1:
            return next(iter(versions))
        newest_first = sorted(versions, reverse=True)
        for number in newest_first:
            older = (versions[one] for one in newest_first if one < number)
            if not _is_held(versions[number]) or not any(
                model.active.manifest.is_proved for model in older
            ):
                return number
        return newest_first[0]

    def current(self, model: ModelVersion) -> ModelVersion:
        """What serves in the place of `model` now; ask while holding its name's lock.

        Raises:
            NotReady: Nothing does.
        """
        current = self._versions.get(model.name, {}).get(model.version)
        if current is None:
            raise NotReady(f"'{model.name}' version {model.version} was unloaded meanwhile")
        return current

    # What is there

    @property
    def ready(self) -> bool:
        """Whether every version that was asked for is ready or deliberately unloaded."""
        return all(
            standing.state is State.READY or standing.reason.startswith(UNLOADED)
            for standing in self._standings.values()
        ) and not any(
            entry.error for entry in self._entries.values() if self.is_expected(entry.name)
        )

    def is_expected(self, name: str) -> bool:
        """Whether anybody asked for a model: the start, an operator, a look at the repository."""
        return name in self._expected

    def entries(self) -> list[ModelEntry]:
        """Every model known, by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    def entry(self, name: str) -> ModelEntry | None:
        """A model as it lay in the repository when it was last looked at."""
        return self._entries.get(name)

    def models(self, name: str = "") -> list[ModelVersion]:
        """The versions that serve, all or of one model, ascending."""
        names = [name] if name else sorted(self._versions)
        return [
            versions[number]
            for model in names
            for versions in [self._versions.get(model, {})]
            for number in sorted(versions)
        ]

    def version(self, name: str, version: int) -> ModelVersion | None:
        """One version, if it serves."""
        return self._versions.get(name, {}).get(version)

    def standings(self) -> list[tuple[str, int, Standing]]:
        """Every version that was ever tried, with its state."""
        return [(*key, self._standings[key]) for key in sorted(self._standings)]

    # Who may change it

    def lock(self, name: str) -> asyncio.Lock:
        """Held while anything of a model is opened, closed, routed or removed."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def own(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` to its end even if the caller that asked for it goes away."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait until no work is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def is_known(self, name: str, version: int) -> bool:
        """Whether it was ever said where a version stands."""
        return (name, version) in self._standings

    def is_dormant(self, name: str) -> bool:
        """Whether a model is not open but would be if a request asked for it."""
        return name not in self._versions and any(
            standing.reason in (IDLE, MEMORY_BUDGET) for standing in self._standings_of(name)
        )

    def is_loading(self, name: str) -> bool:
        """Whether a model is not open but is being opened."""
        return name not in self._versions and any(
            standing.state is State.LOADING for standing in self._standings_of(name)
        )

    def _standings_of(self, name: str) -> list[Standing]:
        return [standing for key, standing in self._standings.items() if key[0] == name]

    def expect(self, names: Iterable[str]) -> None:
        """These models are to be loaded; from now on they count for strict readiness."""
        self._expected.update(names)

    def enter(self, entry: ModelEntry) -> None:
        """Know a model as it lies in the repository now."""
        self._entries[entry.name] = entry

    def install(self, model: ModelVersion) -> ModelVersion | None:
        """Let a version serve; what served in its place before."""
        versions = self._versions.setdefault(model.name, {})
        former = versions.get(model.version)
        versions[model.version] = model
        self.stand(model.name, model.version, State.READY)
        return former

    def take_out(self, name: str, version: int, reason: str = "") -> ModelVersion:
        """Stop serving a version; the caller closes it."""
        model = self._versions[name].pop(version)
        if not self._versions[name]:
            del self._versions[name]
        self.stand(name, version, State.UNLOADING, reason)
        return model

    def stand(self, name: str, version: int, state: State, reason: str = "") -> None:
        """Say where a version stands."""
        self._standings[name, version] = Standing(state=state, reason=reason)

    def forget_failures(self, name: str) -> None:
        """What could not be loaded before says nothing of the repository as it is now."""
        for key, standing in list(self._standings.items()):
            if key[0] == name and standing.state is State.UNAVAILABLE:
                del self._standings[key]

    def forget(self, name: str) -> None:
        """A model's folder is gone and so are its sessions: nobody asks for it any more."""
        del self._entries[name]
        self._expected.discard(name)
        for key in [key for key in self._standings if key[0] == name]:
            del self._standings[key]


def _is_held(model: ModelVersion) -> bool:
    """Whether a version waits for its profile's verdict, or for an operator's word."""
    policy = model.entry.policy
    held = policy.hold_version is HoldVersion.UNTIL_PROVEN and policy.serve is not None
    return held and not model.is_decided
