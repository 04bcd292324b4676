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
LOWEST: Final = 19
"""Niceness of what may take as long as it takes: beside a busy process it gets a fiftieth."""
LOW: Final = 10
"""Niceness of what somebody waits for, up to a limit of time: it gets a tenth."""
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


def lower_priority(leader: int, niceness: int = LOWEST) -> None:
    """Let everything else run first; an unprivileged process cannot undo this.

    Args:
        leader: See `lower_session`.
        niceness: How much lower than it is, up to `LOWEST`.
    """
    os.nice(niceness)
    lower_session(leader, niceness)


def lower_session(leader: int, niceness: int = LOWEST) -> None:
    """Let other sessions run first, and leave the order within this one as it is.

    Where the kernel groups processes by session, priorities count within a session only, and the
    session as a whole is lowered as well; not that of a terminal, which others share.

    Args:
        leader: Id of the process that leads the session if the session is there for this work.
        niceness: How much lower than it is, up to `LOWEST`.
    """
    if os.getsid(0) == leader:
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(niceness), encoding="ascii")


def limit_memory(size_bytes: int) -> None:
    """Limit the address space; 0 sets no limit."""
    if size_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))
