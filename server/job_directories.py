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
    BUILT_FILE,
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

    def stage(self, spec: JobSpec, prepare: Callable[[Path], None]) -> Path:
        """Write all that a worker needs to where nobody looks; on disk when this returns.

        Args:
            spec: What to build.
            prepare: Called with the directory before it counts as complete.

        Returns:
            The hidden directory.

        Raises:
            OSError: It cannot be written; nothing is left of it.
        """
        staged = self._hidden(spec.id, "new")
        staged.mkdir(parents=True)
        try:
            prepare(staged)
            write_spec(staged, spec)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return staged

    def place(self, staged: Path, spec: JobSpec) -> Path | None:
        """Put what was staged to where a worker finds it.

        What awaits measurement keeps what was built in it, unless it is to be searched for anew.

        Returns:
            What is not needed any more, hidden, and to be deleted: the former directory of that
            id, or the staged one.

        Raises:
            OSError: The disk refused.
        """
        path, left = self._folder / spec.id, None
        if not spec.resume and self._is_built_only(spec.id):
            (staged / SPEC_FILE).replace(path / SPEC_FILE)
            (path / RESULT_FILE).unlink(missing_ok=True)
            left = staged
        else:
            if path.exists():
                left = self.hide(spec.id)
            staged.rename(path)
        self._unwritten.pop(spec.id, None)
        return left

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
        hidden = self._hidden(job_id, "removed")
        self.path(job_id).rename(hidden)
        self._unwritten.pop(job_id, None)
        return hidden

    def _hidden(self, job_id: str, why: str) -> Path:
        return self._folder / f".{job_id}.{time.time_ns()}.{why}"

    def _is_built_only(self, job_id: str) -> bool:
        with contextlib.suppress(HoneError):
            result = self.result(job_id)
            awaits = result is not None and result.state is JobState.AWAITING_MEASUREMENT
            return awaits and (self._folder / job_id / BUILT_FILE).exists()
        return False


def delete(directory: Path) -> None:
    """Delete a hidden directory; what refuses to go is logged and left to the next `sweep`."""
    try:
        shutil.rmtree(directory)
    except OSError as error:
        _log.warning("%s stays until the next start: %s", directory, error)
