"""What models hold in memory, and what they will.

What a model holds is what the process grew by when it was opened, at least the size of its files:
pages that were freed before and are used again do not show as growth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from optimizers.contract.errors import HoneError
from optimizers.contract.onnx_file import read_onnx_file
from server.conversion import PROGRAM_SUFFIX
from server.loading import Loading
from server.registry import Registry

_MEMORY_PER_FILE_BYTE: Final = 1.5
"""What a model is expected to hold before it was ever opened."""


class Footprint:
    """Remembers what each model held. Belongs to the registry's event loop."""

    def __init__(self, registry: Registry, loading: Loading) -> None:
        """Tell of the models in `registry`."""
        self._registry = registry
        self._loading = loading
        self._held: dict[str, int] = {}
        self._file_bytes: dict[str, int] = {}

    def of_all(self, names: Iterable[str]) -> int:
        """Bytes that open models hold together."""
        return sum(map(self.of, names))

    def of(self, name: str) -> int:
        """Bytes that an open model holds."""
        measured = sum(
            opened.opening.memory.total_bytes
            for model in self._registry.models(name)
            for opened in model.all_opened()
        )
        held = self._held[name] = max(measured, self._file_bytes.get(name, 0))
        return held

    async def expected_of(self, name: str) -> int:
        """Bytes that a model will hold when it is opened: what it held last, or a guess."""
        files = self._loading.files(name)
        size = await asyncio.to_thread(lambda: sum(map(_size, files)))
        self._file_bytes[name] = size
        return max(self._held.get(name) or int(_MEMORY_PER_FILE_BYTE * size), size)


def _size(file: Path) -> int:
    """Bytes of a model with its external weights; 0 if it cannot be read, as loading will say."""
    try:
        if file.suffix == PROGRAM_SUFFIX:  # its weights are most of it, and of what it becomes
            return file.stat().st_size
        return read_onnx_file(file).size_bytes
    except (HoneError, OSError):
        return 0
