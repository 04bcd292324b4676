"""Arrays that a GPU copies from at full speed, from the CUDA runtime that onnxruntime loaded."""

from __future__ import annotations

import ctypes
import math
import weakref
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_FOR_EVERY_CONTEXT: Final = 1
_LIBRARY: Final = "libcudart.so"


def page_locked(shape: tuple[int, ...], dtype: np.dtype[Any], device: int) -> NDArray[Any] | None:
    """An uninitialised array whose pages stay in memory; freed with its last view.

    Args:
        shape: Its lengths.
        dtype: Of numbers or truth values.
        device: Number of the GPU that will copy.

    Returns:
        None where there is no CUDA runtime in this process, or it has no such memory left: any
        array serves then, only slower.
    """
    size = math.prod(shape) * dtype.itemsize
    cuda = _cuda_runtime()
    if cuda is None or size == 0:
        return None
    address = ctypes.c_void_p()
    if cuda.cudaSetDevice(device) != 0:
        return None
    if cuda.cudaHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), _FOR_EVERY_CONTEXT) != 0:
        return None
    assert address.value is not None
    memory = (ctypes.c_byte * size).from_address(address.value)
    freed = weakref.finalize(memory, cuda.cudaFreeHost, address)
    freed.atexit = False  # CUDA is gone by then, and its memory with it
    return np.frombuffer(memoryview(memory), dtype).reshape(shape)


def _cuda_runtime() -> ctypes.CDLL | None:
    """The CUDA runtime that is loaded already: another copy would have contexts of its own."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    for line in maps.splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(_LIBRARY):
            return ctypes.CDLL(path)
    return None
