"""What a converting process forbids itself before it opens a file that may hold code.

This contains mistakes: runaway memory, files without end, dumps. It is no sandbox: code in the
file runs with the rights of the server's user, and can read, write and connect as that user can.
"""

from __future__ import annotations

import ctypes
import resource
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_libc: Final = ctypes.CDLL(None)


def confine(*, memory_bytes: int, file_bytes: int) -> None:
    """Take limits that this process and what it starts cannot raise again, unless they are root.

    Args:
        memory_bytes: Most private memory; 0 for no limit. The address space is not limited,
            because torch reserves far more of it than it uses.
        file_bytes: Largest file that may be written; 0 for no limit.
    """
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
