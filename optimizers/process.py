"""What a worker process does to itself before it works."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import Final

PARENT_VARIABLE: Final = "HONE_WORKER_PARENT"
"""Environment variable with the process id of whoever started a worker."""

_PR_SET_PDEATHSIG: Final = 1
_LOWEST: Final = 19
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Be killed when the parent ends; leave at once if it has ended already.

    Linux tells a process of its parent's death by a signal it must ask for itself; asking too
    late is noticed by comparing the parent with the one that was promised.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    promised = os.environ.get(PARENT_VARIABLE)
    if promised is not None and os.getppid() != int(promised):
        sys.exit("the process that started this worker is gone")


def lower_priority() -> None:
    """Let everything else run first; an unprivileged process cannot undo this."""
    os.nice(_LOWEST)


def leave_one_processor(cpus: int) -> dict[str, str]:
    """Environment in which numpy and torch start one thread fewer than there are processors.

    However low their priority, busy threads on every processor delay whoever answers requests:
    its 99th percentile rose from 1 to 6 ms on two processors, a bare handler's from 0.8 to 4 ms.
    """
    most = str(max(1, cpus - 1))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), most)


def limit_memory(size_bytes: int) -> None:
    """Limit the address space; 0 sets no limit."""
    if size_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))
