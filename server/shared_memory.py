"""Regions of POSIX shared memory that clients registered; tensors are copied from and to them.

Content is copied through the descriptor (pread, pwrite) and never by touching a mapping. Whoever
made an object can truncate it at any time: reading a mapping past the new end would kill the server
with SIGBUS, while pread just gives fewer bytes. The copy also means that what was checked is what
the model gets, whatever the client writes meanwhile. It costs about 35 µs for 602 KB where copying
from a mapping would cost 13.
"""

from __future__ import annotations

import os
import re
import stat
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optimizers.contract.documents import shown_key
from server.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound, TooLarge

_DIRECTORY: Final = "/dev/shm"
_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_NOT_FOR_CLIENTS: Final = ("hone_", "hone-", "sem.", "triton_python_backend_shm_region_")
"""Objects of ours, semaphores, and what Triton keeps for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemoryLimits:
    """What clients may register and ask for.

    Attributes:
        regions: Regions registered at once; each holds an open file.
        region_bytes: Bytes of all of them together.
        tensor_bytes: Bytes of one tensor in a region.
        name: Characters of a region's name.
    """

    regions: int = 256
    region_bytes: int = 64 << 30
    tensor_bytes: int = 64 << 20
    name: int = 256


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True, eq=False)
class Region:
    """A part of a shared memory object under a client's name; open as long as anybody holds it.

    Attributes:
        name: The client's name for it.
        key: The object's name.
        offset: Where it starts in the object, in bytes.
        byte_size: Its length.
        descriptor: The open object.
        is_writable: Whether outputs may be put there.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int
    is_writable: bool

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, offset: int, byte_size: int) -> bytes:
        """A copy of `byte_size` bytes at `offset` of this region.

        Raises:
            InvalidRequest: The object has become too small.
        """
        start = self.offset + offset
        self._require(start + byte_size)
        content = os.pread(self.descriptor, byte_size, start)
        if len(content) != byte_size:
            raise self._shrunk(start + len(content))
        return content

    def write(self, offset: int, content: memoryview) -> None:
        """Put `content`, a view of bytes, at `offset` of this region.

        An object truncated at this very moment grows again, by no more than the region's end.

        Raises:
            InvalidRequest: The object has become too small.
            FailedPrecondition: It cannot be written, for example because its disk is full.
        """
        start = self.offset + offset
        self._require(start + len(content))
        try:
            while content:
                written = os.pwrite(self.descriptor, content, start)
                start += written
                content = content[written:]
        except OSError as error:
            raise FailedPrecondition(
                f"shared memory region '{shown_key(self.name)}' cannot be written: {error.strerror}"
            ) from error

    def _require(self, end: int) -> None:
        size = os.fstat(self.descriptor).st_size
        if end > size:
            raise self._shrunk(size)

    def _shrunk(self, size: int) -> InvalidRequest:
        return InvalidRequest(
            f"shared memory region '{shown_key(self.name)}' has shrunk since it was registered: "
            f"expected {self.offset + self.byte_size} bytes in its object, got {size}; "
            "unregister it and register it anew"
        )


class SharedMemory:
    """The regions registered with this server, by name. Belongs to one event loop."""

    def __init__(self, limits: SharedMemoryLimits) -> None:
        """Nothing is registered yet.

        Raises:
            FailedPrecondition: This host has no POSIX shared memory.
        """
        if not os.path.isdir(_DIRECTORY):
            raise FailedPrecondition(
                f"shared memory cannot be allowed: this host has no {_DIRECTORY}"
            )
        self._limits = limits
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Let requests name a part of a shared memory object.

        Args:
            name: The region's name, 1 to 256 characters.
            key: The object's name as shm_open takes it, with or without its leading slash.
            offset: Where the region starts in the object, in bytes.
            byte_size: Its length, at least 1.

        Raises:
            AlreadyExists: A region of that name is registered.
            InvalidRequest: The name or key may not be used, or the object is too small.
            TooLarge: Too much would be registered.
        """
        if not 1 <= len(name) <= self._limits.name:
            raise InvalidRequest(
                f"a shared memory region's name must have 1 to {self._limits.name} characters, "
                f"got {len(name)}"
            )
        if name in self._regions:
            raise AlreadyExists(f"shared memory region '{shown_key(name)}' already in manager")
        self._check_bounds(offset, byte_size)
        descriptor, is_writable = _open(key)
        region = Region(
            name=name,
            key=key,
            offset=offset,
            byte_size=byte_size,
            descriptor=descriptor,
            is_writable=is_writable,
        )
        size = _usable_size(descriptor, key)
        if offset + byte_size > size:
            raise InvalidRequest(
                f"failed to register shared memory region '{shown_key(name)}': offset {offset} and "
                f"{byte_size} bytes end at {offset + byte_size}, but its object has {size} bytes"
            )
        self._regions[name] = region

    def unregister(self, name: str) -> None:
        """Forget a region, or all of them for ""; requests that use it keep it until they end."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def regions(self, name: str) -> Mapping[str, Region]:
        """The region of that name, or all of them for "".

        Raises:
            NotFound: There is none of that name.
        """
        return {name: self._find(name)} if name else self._regions

    def part(self, name: str, offset: int, byte_size: int) -> Region:
        """The region in which a tensor of `byte_size` bytes lies at `offset`.

        Raises:
            NotFound: There is no region of that name.
            InvalidRequest: The tensor does not lie inside it.
            TooLarge: It is beyond a limit.
        """
        region = self._find(name)
        if offset < 0 or byte_size < 0 or offset + byte_size > region.byte_size:
            raise InvalidRequest(
                f"Invalid offset + byte size for shared memory region: '{shown_key(name)}': "
                f"offset {offset} and {byte_size} bytes do not lie inside its "
                f"{region.byte_size} bytes"
            )
        if byte_size > self._limits.tensor_bytes:
            raise TooLarge(
                f"a tensor in shared memory may have at most {self._limits.tensor_bytes} bytes, "
                f"got {byte_size}; --max-message-bytes raises the limit"
            )
        return region

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{shown_key(name)}'")
        return region

    def _check_bounds(self, offset: int, byte_size: int) -> None:
        if offset < 0 or byte_size < 1:
            raise InvalidRequest(
                f"a shared memory region needs an offset of 0 or more and 1 byte or more, got "
                f"offset {offset} and {byte_size} bytes"
            )
        if len(self._regions) >= self._limits.regions:
            raise TooLarge(
                f"{len(self._regions)} shared memory regions are registered, at most "
                f"{self._limits.regions} may be; unregister one"
            )
        registered = sum(region.byte_size for region in self._regions.values())
        if registered + byte_size > self._limits.region_bytes:
            raise TooLarge(
                f"{registered} bytes of shared memory are registered, at most "
                f"{self._limits.region_bytes} may be, got {byte_size} more"
            )


def _open(key: str) -> tuple[int, bool]:
    """The object's descriptor, and whether it may be written."""
    name = key.removeprefix("/")
    if not _KEY.fullmatch(name) or name.startswith(_NOT_FOR_CLIENTS):
        raise InvalidRequest(
            f"shared memory key '{shown_key(key)}' may not be used: expected letters, digits, '_', "
            "'.', '-' after an optional slash, and no name that is kept for servers"
        )
    path = f"{_DIRECTORY}/{name}"
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            return os.open(path, os.O_RDWR | flags), True
        except PermissionError:
            return os.open(path, os.O_RDONLY | flags), False
    except OSError:
        raise _unusable(key) from None


def _usable_size(descriptor: int, key: str) -> int:
    """Bytes of an open object; only a plain one of this server's own user may be used."""
    status = os.fstat(descriptor)
    is_plain = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
    if not is_plain or status.st_uid != os.geteuid():
        raise _unusable(key)
    return status.st_size


def _unusable(key: str) -> InvalidRequest:
    """One text for every reason, so that nobody learns from it what else lies there."""
    return InvalidRequest(
        f"Unable to open shared memory region: '{shown_key(key)}'; expected a shared memory object "
        "that exists, is no link, and belongs to the user who runs the server"
    )
