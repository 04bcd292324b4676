"""What a worker process does to itself before it works."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

PARENT_VARIABLE: Final = "HONE_WORKER_PARENT"
"""Environment variable with the process id of whoever started a worker."""

_PR_SET_PDEATHSIG: Final = 1
_LOWEST: Final = 19
_AUTOGROUP: Final = Path("/proc/self/autogroup")
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int = 0) -> None:
    """Be killed when the parent ends; leave at once if it has ended already.

    Linux tells a process of its parent's death by a signal it must ask for itself; asking too
    late is noticed by comparing the parent with the one that was promised.

    Args:
        parent: Its process id; 0: what the environment says, if anything.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    promised = parent or int(os.environ.get(PARENT_VARIABLE, "0"))
    if promised and os.getppid() != promised:
        sys.exit("the process that started this worker is gone")


def lower_priority() -> None:
    """Let everything else run first; an unprivileged process cannot undo this."""
    os.nice(_LOWEST)
    lower_session()


def lower_session() -> None:
    """Let other sessions run first, and leave the order within this one as it is.

    Where the kernel groups processes by session, priorities count within a session only, and the
    session as a whole is lowered as well; not that of a terminal, which others share.
    """
    if os.getsid(0) == os.getppid():
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(_LOWEST), encoding="ascii")


def limit_memory(size_bytes: int) -> None:
    """Limit the address space; 0 sets no limit."""
    if size_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))
