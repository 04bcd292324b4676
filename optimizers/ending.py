"""What is told of a job while it is worked on, and how its end is told, whoever does the work."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from optimizers.contract.errors import HoneError, OutOfMemory
from optimizers.contract.job import (
    JobResult,
    JobSpec,
    JobState,
    Progress,
    append_progress,
    write_result,
)

DISK_REFUSED: Final = os.EX_IOERR
"""Exit status of a process whose disk took no more, which is no fault of what it built."""
DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Of a disk that takes no more."""


def report(directory: Path, stage: str, fraction: float, text: str) -> None:
    """Add a line of progress."""
    append_progress(
        directory, Progress(unix_s=time.time(), stage=stage, fraction=fraction, text=text)
    )


def end(directory: Path, state: JobState, reason: str = "", variant: str = "") -> JobResult:
    """Write how a job ended."""
    result = JobResult(state=state, reason=reason, variant=variant, finished_unix_s=time.time())
    write_result(directory, result)
    return result


@contextlib.contextmanager
def errors_end(directory: Path, spec: JobSpec, stage: str) -> Iterator[None]:
    """End a job as failed by what the block raises on purpose, lacks in memory or on disk."""
    try:
        yield
    except (MemoryError, OutOfMemory):
        end(directory, JobState.FAILED, _out_of_memory(spec, stage))
    except HoneError as error:
        end(directory, JobState.FAILED, str(error))
    except OSError as error:
        # A full disk may refuse this as well; then the supervisor's own attempt tells.
        name = Path(error.filename).name if isinstance(error.filename, str) else ""
        reason = f"{stage}: {error.strerror or error} {name}".rstrip()
        if error.errno == errno.ENOMEM:
            reason = _out_of_memory(spec, stage)
        end(directory, JobState.FAILED, reason)


@contextlib.contextmanager
def full_disk_exits() -> Iterator[None]:
    """Leave with `DISK_REFUSED` where the disk refuses what the block writes."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_ERRORS:
            sys.exit(DISK_REFUSED)
        raise


def _out_of_memory(spec: JobSpec, stage: str) -> str:
    limit = f"{spec.memory_limit_bytes >> 20} MiB" if spec.memory_limit_bytes else "this machine"
    return f"out of memory while running {stage}; limit: {limit}"
