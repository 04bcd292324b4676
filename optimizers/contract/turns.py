"""Threads that compute for long let those run at once who wake for a moment.

Linux gives a thread that wakes the processor as soon as its turn would end before that of whoever
has it. Turns are as long as each asks for (Linux 6.12 and later; 1.4 ms on two processors where
nobody asks), so whoever asks for long ones has no smaller share, only later ends. A thread that
loads a model and had not asked kept those who answer beside it waiting until the next tick, up to
4 ms. Whoever asks for a short one has the processor soon after he wakes. Older kernels do not look
at what is asked for.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

_LONGEST_NS: Final = 100_000_000
_SHORTEST_NS: Final = 100_000
"""The kernel takes no more, and no less."""

_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
"""Number of the system call, which the C library of today's distributions does not name."""

_RESET_ON_FORK: Final = 0x01

_libc: Final = ctypes.CDLL(None)


class _Attributes(ctypes.Structure):
    """`struct sched_attr` of linux/sched/types.h, version 0."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def take_long_turns() -> None:
    """Let others interrupt the calling thread; threads that it starts are as if it had not asked.

    It fails, and changes nothing, where the machine's processor is of another kind or a sandbox
    forbids it.
    """
    _ask_for(_LONGEST_NS)


def take_short_turns() -> None:
    """Let the calling thread interrupt others; for the rest like `take_long_turns`."""
    _ask_for(_SHORTEST_NS)


def _ask_for(turn_ns: int) -> None:
    if _SCHED_SETATTR is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    wanted = _Attributes(
        size=ctypes.sizeof(_Attributes),
        policy=os.SCHED_OTHER,
        flags=_RESET_ON_FORK,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        runtime_ns=turn_ns,
    )
    _libc.syscall(_SCHED_SETATTR, 0, ctypes.byref(wanted), 0)
