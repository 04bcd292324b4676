"""Follows what changes in the model repository while the server runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from optimizers.contract.errors import HoneError
from server.errors import UnknownModel
from server.loading import Loading
from server.repository import ModelRepository

_log = logging.getLogger(__name__)

_DEEPEST: Final = 4
_MOST_FILES: Final = 10_000

Stamp = tuple[str, int, int, int, int]
"""A file: its path in the model's folder, size, times of change (content and inode), inode."""

Stamps = tuple[Stamp, ...]


class RepositoryWatch:
    """Loads what is new or changed and unloads what is gone. Belongs to the registry's loop.

    Nobody tells when a writer is done: what changed is acted on once it has stayed as it is from
    one look to the next. What fails to load is not tried again until it changes again.
    """

    def __init__(self, repository: ModelRepository, loading: Loading) -> None:
        """Follow `repository`."""
        self._repository = repository
        self._loading = loading
        self._acted_on: dict[str, Stamps] = {}
        self._seen: dict[str, Stamps] = {}

    async def remember(self) -> None:
        """Take the repository as it is now for what is about to be loaded."""
        try:
            self._acted_on = self._seen = await asyncio.to_thread(_look, self._repository)
        except HoneError as error:
            _log.warning("%s", error)

    async def follow(self, interval_s: float) -> None:
        """Look every `interval_s` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.look()
            except HoneError as error:
                _log.warning("%s; what serves goes on", error)
            except Exception:
                _log.exception("the model repository could not be followed")

    async def look(self) -> None:
        """Look once and act on what has changed before the last look and not since.

        Raises:
            FailedPrecondition: The repository cannot be listed.
        """
        found = await asyncio.to_thread(_look, self._repository)
        former, self._seen = self._seen, found
        changed = []
        for name in sorted(self._acted_on.keys() | found.keys()):
            stamps = found.get(name)
            if stamps == self._acted_on.get(name) or stamps != former.get(name):
                continue
            if stamps is None:
                del self._acted_on[name]
                await self._unload(name)
            else:
                self._acted_on[name] = stamps
                _log.info("model %s has changed in the repository", name)
                changed.append(name)
        await asyncio.gather(*(self._loading.begin(name) for name in changed))

    async def _unload(self, name: str) -> None:
        _log.info("model %s is gone from the repository", name)
        try:
            await self._loading.unload(name)
        except UnknownModel:
            _log.debug("model %s was gone already", name)


def _look(repository: ModelRepository) -> dict[str, Stamps]:
    """What lies in every model's folder.

    Raises:
        FailedPrecondition: The repository cannot be listed.
    """
    return {folder.name: tuple(sorted(_stamps(folder))) for folder in repository.folders()}


def _stamps(folder: Path) -> Iterator[Stamp]:
    """Every file that may decide how a model is served; data files of hone.yaml are not read."""
    count = 0
    for directory, folders, files in os.walk(folder):
        depth = len(Path(directory).relative_to(folder).parts)
        if depth == 0:
            folders[:] = [name for name in folders if name.isdigit() or name == "warmup"]
        elif depth >= _DEEPEST:
            folders.clear()
        for name in (*files, *folders):
            path = os.path.join(directory, name)
            count += 1
            if count > _MOST_FILES:
                return
            try:
                status = os.stat(path)
            except OSError:
                continue
            is_file = name in files
            yield (
                os.path.relpath(path, folder),
                status.st_size if is_file else 0,
                status.st_mtime_ns if is_file else 0,
                status.st_ctime_ns if is_file else 0,
                status.st_ino,
            )
