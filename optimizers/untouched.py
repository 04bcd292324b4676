"""Files that a build reads for hours stay what they were when it began.

What a step makes is known by the digests that were submitted: of a file that was overwritten under
it, it would be taken for something that it is not, by the manifest and by the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from optimizers.contract.errors import InvalidData
from optimizers.contract.job import JobSpec
from optimizers.contract.onnx_file import read_onnx_file

_State = tuple[int, ...]


class Untouched:
    """What a job's steps may read: the original, named models, and data but for the gate's.

    Of a folder of images only the list of how they are read is looked at.
    """

    def __init__(self, spec: JobSpec) -> None:
        """Remember the state of every file; they have the digests that `spec` says."""
        self._spec = spec
        self._states = dict(self._now())

    def check(self) -> None:
        """Make sure that all are as they were.

        Raises:
            InvalidData: One is not.
        """
        now = dict(self._now())
        for path, state in self._states.items():
            if now.get(path) != state:
                raise InvalidData(f"{path.name} was changed while it was used; submit it again")

    def _now(self) -> Iterator[tuple[Path, _State | None]]:
        for model in (self._spec.original_file, *self._spec.models.values()):
            yield from ((path, _state(path)) for path in (model, *_external(model)))
        for purpose, path in self._spec.data.items():
            if purpose != "gate":
                yield path, _state(path)


def _external(model: Path) -> tuple[Path, ...]:
    return read_onnx_file(model).external if model.is_file() else ()


def _state(path: Path) -> _State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns  # links change ctime
