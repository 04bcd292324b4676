"""How much memory this process holds, as the kernel counts it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.contract.processors import aside

_MADV_DONTNEED: Final = 4
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentMemory:
    """Pages of a process that are in memory; whether shared ones count whole, who counted says.

    Attributes:
        anonymous_bytes: Heap and other private memory.
        file_bytes: Pages of mapped files, which the kernel may drop and read again.
    """

    anonymous_bytes: int
    file_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.anonymous_bytes + self.file_bytes

    def minus(self, earlier: ResidentMemory) -> ResidentMemory:
        """What was added since `earlier`; never negative."""
        return ResidentMemory(
            anonymous_bytes=max(0, self.anonymous_bytes - earlier.anonymous_bytes),
            file_bytes=max(0, self.file_bytes - earlier.file_bytes),
        )


def mapped_memory(process_id: int | None = None) -> ResidentMemory:
    """What a process holds, by default this one, at a glance: what is mapped twice counts twice.

    Unlike `resident_memory` it visits no page, and so holds nobody up who serves meanwhile; and
    it is the same whoever else has the same files mapped.

    Raises:
        OSError: The process is gone.
    """
    who = "self" if process_id is None else str(process_id)
    numbers = {}
    for line in Path(f"/proc/{who}/status").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name.startswith("Rss"):
            numbers[name] = int(rest.split()[0]) * 1024
    return ResidentMemory(
        anonymous_bytes=numbers["RssAnon"], file_bytes=numbers["RssFile"] + numbers["RssShmem"]
    )


def unmap_pages(path: Path) -> None:
    """Let go of a mapped file's pages in this process; what is still read is mapped again.

    Freeing a mapping of 100 MB takes the kernel milliseconds. An object that does so when it dies
    holds the interpreter meanwhile; here nobody waits.
    """
    with aside():
        for start, end in _mappings(path, Path("/proc/self/maps").read_bytes()):
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _mappings(path: Path, maps: bytes) -> Iterator[tuple[int, int]]:
    """Where a file is mapped: first address, and the one behind the last.

    Nothing is done for each of the thousand other lines, which would keep the interpreter.
    """
    ending = b" " + os.fsencode(path.resolve()) + b"\n"
    at = maps.find(ending)
    while at >= 0:
        line = maps[maps.rfind(b"\n", 0, at) + 1 : at]
        start, end = (int(address, 16) for address in line.split(b" ", 1)[0].split(b"-"))
        yield start, end
        at = maps.find(ending, at + 1)


def release_memory() -> None:
    """Return freed pages to the machine, which glibc would keep."""
    with aside():
        _libc.malloc_trim(0)


def resident_memory() -> ResidentMemory:
    """What this process holds of its own: a page that n processes have mapped counts as 1/n.

    It differs with what else runs. Read from `/proc/self/smaps_rollup` (proportional set size).

    Raises:
        OSError: Its numbers may not be read.
    """
    numbers = {}
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        fields = rest.split()
        if len(fields) == 2 and fields[1] == "kB":
            numbers[name] = int(fields[0]) * 1024
    return ResidentMemory(
        anonymous_bytes=numbers["Pss_Anon"],
        file_bytes=numbers["Pss_File"] + numbers.get("Pss_Shmem", 0),
    )
