"""Job directories below one folder: made, read, ended, deleted. Knows no worker and no queue."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.contract.errors import HoneError, InvalidData
from optimizers.contract.job import (
    PAUSE_FILE,
    RESULT_FILE,
    SPEC_FILE,
    JobResult,
    JobSpec,
    JobState,
    Progress,
    last_progress,
    read_result,
    read_spec,
    write_result,
    write_spec,
)
from server.errors import UnknownJob

_log = logging.getLogger(__name__)

_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """What a job's directory says.

    Attributes:
        spec: What was asked for.
        progress: The worker's newest line, if any.
        result: How it ended, if it has.
    """

    spec: JobSpec
    progress: Progress | None
    result: JobResult | None


class JobDirectories:
    """One folder with a directory a job."""

    def __init__(self, folder: Path) -> None:
        """Keep jobs in `folder`, which need not exist before `sweep`."""
        self._folder = folder
        self._unwritten: dict[str, JobResult] = {}

    def sweep(self) -> None:
        """Make the folder, and delete what is hidden or was never complete."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for stray in self._folder.iterdir():
            if stray.name.startswith(".") or not (stray / SPEC_FILE).exists():
                shutil.rmtree(stray, ignore_errors=True)

    def ids(self) -> list[str]:
        """The ids of all jobs, in no order."""
        return [path.name for path in self._folder.iterdir() if _ID.fullmatch(path.name)]

    def path(self, job_id: str) -> Path:
        """The directory of a job.

        Raises:
            UnknownJob: There is none.
        """
        path = self._folder / job_id
        if not _ID.fullmatch(job_id) or not path.is_dir():
            raise UnknownJob(job_id)
        return path

    def create(self, spec: JobSpec, prepare: Callable[[Path], None]) -> Path | None:
        """Make a directory for a worker.

        What awaits measurement keeps what was built in it, unless it is to be searched for anew.

        Args:
            spec: What to build.
            prepare: Called with the directory before it counts as complete.

        Returns:
            The former directory of that id, if there was one; hidden, and to be deleted.

        Raises:
            OSError: It cannot be written.
        """
        path, former = self._folder / spec.id, None
        if path.exists() and (spec.resume or not self._awaits_measurement(spec.id)):
            former = self.hide(spec.id)
        path.mkdir(parents=True, exist_ok=True)
        prepare(path)
        write_spec(path, spec)
        (path / RESULT_FILE).unlink(missing_ok=True)
        self._unwritten.pop(spec.id, None)
        return former

    def read(self, job_id: str) -> JobFiles:
        """What a job's directory says now; a result that cannot be read is a failure.

        Raises:
            UnknownJob: There is none of that id.
            InvalidDocument: Its specification cannot be read.
        """
        path = self.path(job_id)
        return JobFiles(
            spec=read_spec(path), progress=last_progress(path), result=self.result(job_id)
        )

    def result(self, job_id: str) -> JobResult | None:
        """How a job ended, None while it has not.

        Raises:
            UnknownJob: There is none of that id.
        """
        path = self.path(job_id)
        try:
            return read_result(path) or self._unwritten.get(job_id)
        except (InvalidData, OSError) as error:
            return JobResult(
                state=JobState.FAILED,
                reason=f"{error}; submit it again",
                finished_unix_s=(path / RESULT_FILE).stat().st_mtime,
            )

    def end(self, job_id: str, state: JobState, reason: str) -> None:
        """Write a job's result; if the disk refuses, it is remembered."""
        result = JobResult(state=state, reason=reason, finished_unix_s=time.time())
        try:
            write_result(self._folder / job_id, result)
        except OSError:  # a full disk must not leave a job that seems to wait
            self._unwritten[job_id] = result

    def pause(self, job_id: str, why: str) -> None:
        """Tell whoever works on a job to stop, and why; with an empty reason, to go on."""
        file = self._folder / job_id / PAUSE_FILE
        try:
            if why:
                file.write_text(why, encoding="utf-8")
            else:
                file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("job %s cannot be paused: %s", job_id, error)

    def hide(self, job_id: str) -> Path:
        """Rename a job's directory to where nobody looks and `sweep` finds it.

        Raises:
            UnknownJob: There is none of that id.
        """
        hidden = self._folder / f".{job_id}.{time.time_ns()}.removed"
        self.path(job_id).rename(hidden)
        self._unwritten.pop(job_id, None)
        return hidden

    def _awaits_measurement(self, job_id: str) -> bool:
        with contextlib.suppress(HoneError):
            result = self.read(job_id).result
            return result is not None and result.state is JobState.AWAITING_MEASUREMENT
        return False


def delete(directory: Path) -> None:
    """Delete a hidden directory; what refuses to go is logged and left to the next `sweep`."""
    try:
        shutil.rmtree(directory)
    except OSError as error:
        _log.warning("%s stays until the next start: %s", directory, error)
