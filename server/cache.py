"""Answers kept for requests that are equal to the last byte.

One `ResponseCache` bounds what the whole server keeps; each open variant has a `VariantCache` in
it, which nobody shares: what one opening of a file answered is never given by another. Equal
requests that come at the same time are each computed.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from struct import pack
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.runtime import Arrays, Feeds
from server.totals import CacheTotals

_KEY_BYTES: Final = 32
_ENTRY_BYTES: Final = 512
"""What Python adds to each entry, and the key."""
_ARRAY_BYTES: Final = 128
_TEXT_BYTES: Final = 64


class ResponseCache:
    """What all variants keep together. Belongs to the event loop."""

    def __init__(self, limit_bytes: int) -> None:
        """Keep at most `limit_bytes`; what was not asked for longest goes first."""
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._variants = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def of_variant(self, totals: CacheTotals) -> VariantCache:
        """The part of a variant that was just opened; hits and misses count in `totals`."""
        self._variants += 1
        return VariantCache(self, self._variants, totals)

    def get(self, key: bytes) -> Arrays | None:
        """The answer kept under a key, which is now the youngest."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.arrays

    def put(self, key: bytes, arrays: Arrays, owner: VariantCache) -> None:
        """Keep an answer for `owner`, unless it is larger than everything together may be."""
        self.drop(key)
        size = _ENTRY_BYTES + sum(map(_size_bytes, arrays))
        if size > self._limit_bytes:
            return
        self._entries[key] = _Entry([_own_copy(array) for array in arrays], size, owner)
        owner.keys.add(key)
        self.size_bytes += size
        while self.size_bytes > self._limit_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: bytes) -> None:
        """Forget one answer, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes
            entry.owner.keys.discard(key)


class VariantCache:
    """What one open variant keeps.

    Attributes:
        keys: Under which its answers are kept.
    """

    def __init__(self, cache: ResponseCache, number: int, totals: CacheTotals) -> None:
        self.keys: set[bytes] = set()
        self._cache = cache
        self._number = pack("<Q", number)
        self._totals = totals
        self._is_open = True

    def look_up(self, feeds: Feeds, outputs: Sequence[str]) -> tuple[bytes, Arrays | None]:
        """Look for an answer to a request.

        Args:
            feeds: One array per input, in the signature's order.
            outputs: Names of the outputs wanted.

        Returns:
            The key to `put` an answer under, and the answer if it is kept: read-only arrays, one
            per name in `outputs`.
        """
        start = time.perf_counter()
        key = self.key(feeds, outputs)
        arrays = self._cache.get(key)
        found = self._totals.misses if arrays is None else self._totals.hits
        found.add(time.perf_counter() - start)
        return key, arrays

    def key(self, feeds: Feeds, outputs: Sequence[str]) -> bytes:
        """A strong hash of everything that an answer depends on.

        Each part goes in with its length before it, so that no two requests read the same.
        """
        digest = hashlib.blake2b(self._number, digest_size=_KEY_BYTES)
        digest.update(pack("<QQ", len(outputs), len(feeds)))
        for name in outputs:
            _add_text(digest, name.encode())
        for name, array in feeds.items():
            _add_text(digest, name.encode())
            _add_text(digest, array.dtype.str.encode())
            digest.update(pack(f"<{array.ndim + 1}q", array.ndim, *array.shape))
            if array.dtype == np.object_:
                _add_texts(digest, array)
            else:
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.digest()

    def put(self, key: bytes, arrays: Arrays) -> None:
        """Keep an answer under the key that `look_up` gave; nothing happens once this is closed."""
        if self._is_open:
            self._cache.put(key, arrays, self)

    def close(self) -> None:
        """Drop every answer: the variant is closed."""
        self._is_open = False
        for key in list(self.keys):
            self._cache.drop(key)


class _Entry:
    __slots__ = ("arrays", "owner", "size_bytes")

    def __init__(self, arrays: Arrays, size_bytes: int, owner: VariantCache) -> None:
        self.arrays = arrays
        self.size_bytes = size_bytes
        self.owner = owner


def _own_copy(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that nobody can change; the rows of a joined run would keep all of the run alive."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _add_text(digest: hashlib.blake2b, text: bytes) -> None:
    digest.update(pack("<Q", len(text)))
    digest.update(text)


def _add_texts(digest: hashlib.blake2b, array: NDArray[Any]) -> None:
    """Every element with its kind: the runtime may tell bytes and text apart."""
    parts = [
        item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
        for item in array.flat
    ]
    digest.update(bytes(isinstance(item, str) for item in array.flat))
    digest.update(pack(f"<{len(parts)}Q", *map(len, parts)))
    digest.update(b"".join(parts))


def _size_bytes(array: NDArray[Any]) -> int:
    size = _ARRAY_BYTES + array.nbytes
    if array.dtype == np.object_:
        size += sum(len(text) + _TEXT_BYTES for text in array.flat)
    return size
