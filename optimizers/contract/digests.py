"""Digests of files, computed so that those who answer requests get their turn.

What was read is not read again as long as the kernel says that the file is the same: a model that
is opened once more, by a swap, a rollback or a reload, costs its callers' neighbours no second pass
over hundreds of megabytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from optimizers.contract.processors import aside

_PART_BYTES: Final = 1 << 19
"""A third of a millisecond's work."""

_SETTLED_NS: Final = 2 * 10**9
"""A file that was changed this short ago may be changed again and look the same: clocks tick."""

_MOST_KNOWN: Final = 4096
_known: Final[dict[tuple[object, ...], str]] = {}


def file_state(status: os.stat_result) -> tuple[int, ...]:
    """What changes with a file's bytes; nobody can set back when it was last changed."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def file_sha256(path: Path) -> str:
    """Which bytes these are: the same digest, the same file. In hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    return _digest(path, _sha256)


def file_crc32(path: Path) -> str:
    """Whether bytes are still what was written, in half the time of a sha256. In hexadecimal.

    It finds damage. It does not tell files apart, nor does it find what somebody changed on
    purpose.

    Raises:
        OSError: It cannot be read.
    """
    return _digest(path, _crc32)


def _sha256(file: io.FileIO) -> str:
    digest = hashlib.sha256()
    for part in _parts(file):
        digest.update(part)
    return digest.hexdigest()


def _crc32(file: io.FileIO) -> str:
    checksum = 0
    for part in _parts(file):
        checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"


def _digest(path: Path, of: Callable[[io.FileIO], str]) -> str:
    with path.open("rb", buffering=0) as file:
        now, status = time.time_ns(), os.fstat(file.fileno())
        key = (of, *file_state(status))
        if (known := _known.get(key)) is not None:
            return known
        with aside():
            found = of(file)
        is_settled = now - status.st_ctime_ns > _SETTLED_NS
        if is_settled and (of, *file_state(os.fstat(file.fileno()))) == key:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[key] = found
        return found


def _parts(file: io.FileIO) -> Iterator[memoryview]:
    """A file part by part; others run after each.

    A kernel that does not preempt lets a busy thread run for milliseconds before those get their
    turn that answer requests on the same processor.
    """
    part = memoryview(bytearray(_PART_BYTES))
    while size := file.readinto(part):
        yield part[:size]
        os.sched_yield()
