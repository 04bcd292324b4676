"""What steps made, kept by what it was made of, so that the same work is not done twice.

An entry is a directory named by its key (`contract.ingredients.step_keys`): the model after a step
with its external weights, and `entry.json`, whose first line is the digest of the rest. Entries
appear whole, by a rename, and never change; several processes may share a cache.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from optimizers.contract.below import why_not_below
from optimizers.contract.digests import file_sha256
from optimizers.contract.directory import flush
from optimizers.contract.errors import InvalidData
from optimizers.contract.manifest import MODEL_FILE, StepRecord, StoredFile
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.runtime import SessionSpec

_ENTRY_FILE: Final = "entry.json"
_ABANDONED_AFTER_S: Final = 24 * 3600.0
_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY)
_MISSING: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A model after some steps of a recipe.

    Attributes:
        model: The ONNX file.
        session: How it is to be opened.
        records: What each of the steps did.
    """

    model: Path
    session: SessionSpec
    records: tuple[StepRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    key: str
    session: SessionSpec
    records: tuple[StepRecord, ...]
    files: tuple[StoredFile, ...]


_ENTRY = TypeAdapter(_Entry)


class Artefacts:
    """A cache of models after steps, bounded in bytes; what was used longest ago goes first."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        """Use `directory`, which appears with the first entry.

        Args:
            directory: Holds entries and nothing else.
            limit_bytes: Most bytes that all entries may take together.
        """
        self._directory = directory
        self._limit_bytes = limit_bytes

    def take(self, key: str, target: Path) -> Artefact | None:
        """Copy an entry's files to `target`, a directory that is made, and check the copies.

        Returns:
            None where there is no such entry; `target` is then absent.

        Raises:
            InvalidData: The entry is damaged. It is gone now, and so is `target`.
            OSError: The copy could not be written; `target` is gone.
        """
        place = self._directory / key
        target.mkdir(parents=True)
        try:
            entry = _read_entry(place / _ENTRY_FILE, key)
            for file in entry.files:
                _copy(place, target, file)
        except (*_MISSING, InvalidData) as error:
            shutil.rmtree(target)
            if not place.exists():  # none was there, or another process let it go meanwhile
                return None
            self._drop(place)
            raise InvalidData(
                f"cache entry {key[:12]} was damaged ({error}) and is gone"
            ) from error
        except OSError:
            shutil.rmtree(target, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):
            os.utime(place)
        return Artefact(model=target / MODEL_FILE, session=entry.session, records=entry.records)

    def keep(self, key: str, artefact: Artefact) -> None:
        """Store a copy, and let go of what was used longest ago where it gets too much.

        Raises:
            OSError: The disk refused; nothing is left of the entry.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        hidden = self._hidden(key)
        hidden.mkdir()
        try:
            copy_model(artefact.model, hidden)
            _write_entry(hidden, key, artefact)
            if _size_bytes(hidden) <= self._limit_bytes:
                _rename(hidden, self._directory / key)
                flush(self._directory)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        self._shrink()

    def _shrink(self) -> None:
        """Let go of the least recently used entries, and of what killed processes left."""
        entries: list[tuple[float, int, Path]] = []
        for place in self._directory.iterdir():
            with contextlib.suppress(OSError):
                used_unix_s = place.stat().st_mtime
                if not place.name.startswith("."):
                    entries.append((used_unix_s, _size_bytes(place), place))
                elif time.time() - used_unix_s > _ABANDONED_AFTER_S:
                    shutil.rmtree(place, ignore_errors=True)
        excess = sum(size for _, size, _ in entries) - self._limit_bytes
        for _, size, place in sorted(entries):
            if excess <= 0:
                return
            self._drop(place)
            excess -= size

    def _drop(self, place: Path) -> None:
        """Remove an entry so that nobody sees half of it."""
        hidden = self._hidden(place.name)
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            place.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _hidden(self, key: str) -> Path:
        return self._directory / f".{key}.{os.getpid()}.{time.monotonic_ns()}"


def copy_model(model: Path, directory: Path) -> Path:
    """Copy a model with its external weights, the model under the name that variants use."""
    file = read_onnx_file(model)
    for external in file.external:
        target = directory / external.relative_to(model.parent.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(external, target)
    return shutil.copyfile(model, directory / MODEL_FILE)


def _write_entry(directory: Path, key: str, artefact: Artefact) -> None:
    files = tuple(
        StoredFile(
            name=str(path.relative_to(directory)),
            sha256=file_sha256(path),
            size_bytes=path.stat().st_size,
        )
        for path in _files(directory)
    )
    entry = _Entry(key=key, session=artefact.session, records=artefact.records, files=files)
    content = _ENTRY.dump_json(entry)
    digest = hashlib.sha256(content).hexdigest().encode()
    (directory / _ENTRY_FILE).write_bytes(digest + b"\n" + content)
    for path in (*_files(directory), directory):
        flush(path)


def _copy(source: Path, target: Path, file: StoredFile) -> None:
    why = why_not_below(file.name, "the entry")
    if why:
        raise InvalidData(f"it names the file {file.name!r}; {why}")
    copy = target / file.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / file.name, copy)
    if file_sha256(copy) != file.sha256:
        raise InvalidData(f"the bytes of {file.name} have changed")


def _read_entry(path: Path, key: str) -> _Entry:
    digest, _, content = path.read_bytes().partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise InvalidData(f"the bytes of {path.name} have changed")
    try:
        entry = _ENTRY.validate_json(content)
    except ValidationError as error:
        raise InvalidData(f"{path.name} does not fit") from error
    if entry.key != key:
        raise InvalidData(f"it says that it is {entry.key[:12]}")
    return entry


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in _TAKEN:  # another process built the same; either will do
            raise


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _size_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in _files(directory))
