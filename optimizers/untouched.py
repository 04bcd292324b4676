"""Files that a build reads for hours stay what they were when it began.

What a step makes is known by the digests that were submitted: of a file that was overwritten under
it, it would be taken for something that it is not, by the manifest and by the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from optimizers.contract.data_files import entries_below
from optimizers.contract.errors import InvalidData
from optimizers.contract.job import JobSpec
from optimizers.contract.onnx_file import read_onnx_file

_State = tuple[int, ...]


class Untouched:
    """What a job's steps may read: the original, named models, and data but for the gate's.

    A file is known by its place on disk, size and time of change, a folder of images by those of
    every file below it and by the names of all folders. A write that leaves size and time as they
    were is not seen.
    """

    def __init__(self, spec: JobSpec) -> None:
        """Remember the state of every file; they have the digests that `spec` says.

        Args:
            spec: As it was submitted: data that is a folder is named as that folder.

        Raises:
            InvalidData: Something in a folder cannot be looked at.
        """
        self._spec = spec
        self._states = dict(self._now())

    def check(self) -> None:
        """Make sure that all are as they were.

        Raises:
            InvalidData: One is not.
        """
        now = dict(self._now())
        for path in self._states | now:
            if now.get(path) != self._states.get(path):
                raise InvalidData(f"{path.name} was changed while it was used; submit it again")

    def _now(self) -> Iterator[tuple[Path, _State | None]]:
        for model in (self._spec.original_file, *self._spec.models.values()):
            yield from ((path, _state(path)) for path in (model, *_external(model)))
        for purpose, path in self._spec.data.items():
            if purpose != "gate":
                yield path, _state(path)
                if path.is_dir():
                    yield from ((below, _state(below)) for _, below in entries_below(path))


def _external(model: Path) -> tuple[Path, ...]:
    return read_onnx_file(model).external if model.is_file() else ()


def _state(path: Path) -> _State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if path.is_dir():  # others may come and go in it that are no data: their names begin with a dot
        return status.st_dev, status.st_ino
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns  # links change ctime
