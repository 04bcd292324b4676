"""PyTorch programs (`model.pt2`) become ONNX models, in a process that is thrown away.

Reading a program can run code that is in it. The serving process never does; it starts another
one, trusts nothing that this leaves behind, and ends it when its time is up. This contains
mistakes and is no sandbox: code in a program runs with the rights of the server's user.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import optimizers
from optimizers.contract.converted import REPORT_FILE, ConversionReport, read_report
from optimizers.contract.digests import file_sha256
from optimizers.contract.directory import flush
from optimizers.contract.errors import HoneError, InvalidModel
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.packages import how_to_install_optimisers, missing_packages
from optimizers.contract.processors import beside_a_worker, processors_for_workers
from server.child_process import end_of, kill_group, start_process
from server.errors import FailedPrecondition
from server.growth import is_outgrown, outgrown
from server.wanted import Attempt, Wanted

_log = logging.getLogger(__name__)

PROGRAM_SUFFIX: Final = ".pt2"
CONVERTER: Final = (sys.executable, "-m", "optimizers", "convert")
"""The command that converts; source, folder and limits are appended."""

WAITING: Final = "waits for another conversion from PyTorch"
CONVERTING: Final = "is being converted from PyTorch"

_FORM: Final = 1
"""Counts what changes here in how programs are converted; what was made before is made anew."""
_NEEDED_PACKAGES: Final = ("torch", "onnx", "onnxscript", "onnx_ir", "scipy")
_DECIDING_PACKAGES: Final = ("torch", "onnxscript", "onnx-ir", "onnx")
_KEPT_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""All that a converting process sees of the server's environment."""
_WRITTEN_PER_SOURCE_BYTE: Final = 4
_WRITTEN_MARGIN_BYTES: Final = 256 << 20
"""Of one file and of all that lies in the working folder at one time."""
_DISK_PER_SOURCE_BYTE: Final = 2
_WEIGHTS_FILE: Final = f"{MODEL_FILE}.data"
_MADE: Final = (MODEL_FILE, _WEIGHTS_FILE, REPORT_FILE)
"""All that a conversion should leave behind."""
_DIGESTS_FILE: Final = "sha256.json"
_LONGEST_REASON: Final = 700
_LOG_TAIL_BYTES: Final = 1 << 14
_WORKING: Final = ".work-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionLimits:
    """Where a conversion ends.

    Attributes:
        timeout_s: How long its process may take.
        memory_bytes: Private memory of its process; 0 for no limit.
    """

    timeout_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A program in the repository, and where its model lies once it is converted.

    Attributes:
        model: The name of the model that it is a version of.
        file: The program.
        sha256: Of its bytes.
        output_names: Names for its outputs, in order; empty for the usual ones.
        directory: The folder of the converted model.
    """

    model: str
    file: Path
    sha256: str
    output_names: tuple[str, ...]
    directory: Path

    @property
    def model_file(self) -> Path:
        """The converted model; there once it was converted."""
        return self.directory / MODEL_FILE


class Conversion:
    """Converts programs, one at a time, and keeps what came of them. Belongs to the event loop."""

    def __init__(
        self,
        directory: Path,
        limits: ConversionLimits,
        require_free_disk: Callable[[int], None],
        *,
        allowed: bool,
        command: Sequence[str] = CONVERTER,
    ) -> None:
        """Keep converted models below `directory`, which is this server's alone.

        Args:
            directory: Made when it is needed; what an interrupted conversion left is removed, and
                of each version's models all but the newest.
            limits: For each conversion.
            require_free_disk: Raises `FailedPrecondition` if so many bytes cannot be written.
            allowed: Whether programs are converted at all.
            command: Converts a source into a folder.
        """
        self._directory = directory
        self._limits = limits
        self._require_free_disk = require_free_disk
        self._allowed = allowed
        self._command = tuple(command)
        self._turn = asyncio.Lock()
        self._wanted = Wanted()
        for left in directory.glob(f"{_WORKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        # Only now: later an older one may serve while its successors fail.
        for version_folder in directory.glob("[!.]*/*"):
            for old in sorted(version_folder.iterdir(), key=_age_ns)[:-1]:
                shutil.rmtree(old, ignore_errors=True)

    def find(
        self, file: Path, model: str, version_number: int, output_names: tuple[str, ...]
    ) -> Source:
        """A program of the repository, digested; blocks.

        Raises:
            FailedPrecondition: Programs are not to be converted here.
            InvalidModel: It cannot be read.
        """
        place = f"{model}/{version_number}"
        if not self._allowed:
            raise FailedPrecondition(
                f"{place} holds {file.name}, a PyTorch program, and expected is {MODEL_FILE}: "
                "loading a program can run code that is in it, so this server does not; start it "
                "with --allow-pt2 if you trust whoever wrote the file, or export the model to ONNX"
            )
        try:
            sha256 = file_sha256(file)
        except OSError as error:
            raise InvalidModel(f"{place}/{file.name} cannot be read: {error.strerror}") from error
        made_by = {name: _version_of(name) for name in _DECIDING_PACKAGES}
        key = hashlib.sha256(
            json.dumps([_FORM, sha256, made_by, output_names], sort_keys=True).encode()
        ).hexdigest()
        directory = self._directory / model / str(version_number) / key[:32]
        return Source(
            model=model,
            file=file,
            sha256=sha256,
            output_names=output_names,
            directory=directory,
        )

    async def convert(self, source: Source, tell: Callable[[str], None]) -> ConversionReport:
        """Have the converted model in `source.directory`, made now if it is not there.

        Args:
            source: What to convert.
            tell: Called with what happens while there is something to wait for.

        Raises:
            FailedPrecondition: This installation cannot convert, or has no room.
            InvalidModel: The conversion failed or was ended; the text says why.
        """
        with contextlib.suppress(HoneError, OSError, ValueError):
            return await asyncio.to_thread(_read_kept, source.directory)
        missing = missing_packages(_NEEDED_PACKAGES)
        if missing:
            raise FailedPrecondition(
                f"{source.file.name} cannot be converted: {how_to_install_optimisers(missing)}"
            )
        with self._wanted.attempt(source.model, source.directory) as attempt:
            if self._turn.locked():
                tell(WAITING)
            async with self._turn_of(attempt):
                if attempt.why:
                    raise InvalidModel(f"{source.file.name} was not converted: {attempt.why}")
                tell(CONVERTING)
                return await self._convert(source, attempt)

    def only(
        self, model: str, directories: Collection[Path], why: str
    ) -> contextlib.AbstractContextManager[None]:
        """As long as the context lasts, end what converts a model, but into `directories`."""
        return self._wanted.only(model, directories, why)

    def close(self) -> None:
        """End the conversion under way; what waits for it fails."""
        self._wanted.close("the server stops")

    @contextlib.asynccontextmanager
    async def _turn_of(self, attempt: Attempt) -> AsyncIterator[None]:
        """Alone among conversions; entered at once, and not alone, when the attempt is unwanted."""
        turn = asyncio.create_task(self._turn.acquire())
        unwanted = asyncio.create_task(attempt.unwanted())
        try:
            await asyncio.wait((turn, unwanted), return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            unwanted.cancel()
            turn.cancel()
            await asyncio.wait((turn,))
            if not turn.cancelled():
                self._turn.release()

    async def _convert(self, source: Source, attempt: Attempt) -> ConversionReport:
        try:
            size = (await asyncio.to_thread(source.file.stat)).st_size
        except OSError as error:
            raise InvalidModel(f"{source.file.name} is gone: {error.strerror}") from error
        await asyncio.to_thread(self._require_free_disk, _DISK_PER_SOURCE_BYTE * size)
        work = await asyncio.to_thread(self._working_folder)
        try:
            failure = await self._run(source, work, size, attempt)
            if failure:
                raise InvalidModel(f"{source.file.name} was not converted: {failure}")
            made = await asyncio.to_thread(_regular_files, work)
            try:
                report = await asyncio.to_thread(_read, made)
            except HoneError as error:
                raise InvalidModel(f"{source.file.name} was not converted: {error}") from error
            if await asyncio.to_thread(file_sha256, source.file) != source.sha256:
                raise InvalidModel(
                    f"{source.file.name} changed while it was converted; load the model again"
                )
            await asyncio.to_thread(_keep, made, source.directory)
        except OSError as error:
            raise InvalidModel(
                f"{source.file.name} was not converted: {error.strerror or error}"
            ) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)
        _log.info(
            "%s was converted to ONNX; answers differ by %.1e of their magnitude at most",
            source.file,
            report.largest_difference,
        )
        return report

    def _working_folder(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_WORKING, dir=self._directory))
        (work / "temporary").mkdir()
        return work

    async def _run(self, source: Source, work: Path, size_bytes: int, attempt: Attempt) -> str:
        """Run the converter; why there is no model, "" when there is one."""
        log = work / "log"
        most = _WRITTEN_PER_SOURCE_BYTE * size_bytes + _WRITTEN_MARGIN_BYTES
        names = [part for name in source.output_names for part in ("--output-name", name)]
        process = await start_process(
            [
                *self._command,
                f"--memory-bytes={self._limits.memory_bytes}",
                f"--file-bytes={most}",
                *names,
                "--",
                str(source.file),
                str(work / "model"),
            ],
            environment=_environment(work / "temporary"),
            log=log,
            folder=work / "temporary",
        )
        ended = asyncio.create_task(end_of(process))
        grown = asyncio.create_task(outgrown(work, most))
        unwanted = asyncio.create_task(attempt.unwanted())
        try:
            with beside_a_worker():
                done, _ = await asyncio.wait(
                    (ended, unwanted, grown),
                    timeout=self._limits.timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            unwanted.cancel()
            grown.cancel()
            kill_group(process.pid)
            await ended
        if attempt.why:
            return attempt.why
        if grown in done or await asyncio.to_thread(is_outgrown, work, most):
            return (
                f"its process wrote more than the {most >> 20} MiB that a program of "
                f"{size_bytes >> 20} MiB may need, and was ended"
            )
        if not done:
            return (
                f"its process took longer than {self._limits.timeout_s:g} s and was ended; "
                "raise --convert-seconds if it needs longer"
            )
        return await asyncio.to_thread(self._why, process.returncode, log)

    def _why(self, return_code: int, log: Path) -> str:
        if return_code == 0:
            return ""
        last = _last_line(log)
        memory = f"{self._limits.memory_bytes >> 20} MiB"
        if return_code < 0:
            return (
                f"its process was ended by {_signal_name(-return_code)}; expected it to need no "
                f"more than the memory there is and --convert-memory-bytes ({memory})"
            )
        if last.startswith("hone: "):
            return last.removeprefix("hone: ")
        return f"its process ended with status {return_code}: {last or 'it said nothing'}"


def _environment(temporary: Path) -> dict[str, str]:
    """No secret of the server's: what is needed to start, and folders that will be removed."""
    folder = str(Path(optimizers.__path__[0]).parent)
    found = (folder, os.environ.get("PYTHONPATH", ""))
    return {
        **{name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        **processors_for_workers(),
        "PYTHONPATH": os.pathsep.join(path for path in found if path),
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "HONE_WORKER_PARENT": str(os.getpid()),
    }


def _read(directory: Path) -> ConversionReport:
    """A converted model's report, if the model is one that may be opened; blocks.

    Raises:
        InvalidModel: It is not.
    """
    file = directory / MODEL_FILE
    for found in read_onnx_file(file).files():
        if found not in (file, directory / _WEIGHTS_FILE):
            raise InvalidModel(f"the converted model refers to '{found.name}'; expected no file")
    return read_report(directory)


def _read_kept(directory: Path) -> ConversionReport:
    """The same of a model that was kept; it is what it was then.

    Raises:
        InvalidModel: It is not.
        OSError: Something of it is missing.
    """
    digests = json.loads((directory / _DIGESTS_FILE).read_bytes())
    if digests != _digests(directory):
        raise InvalidModel(f"{directory.name} was changed since it was converted")
    return _read(directory)


def _digests(directory: Path) -> dict[str, str]:
    return {name: file_sha256(directory / name) for name in _MADE if (directory / name).exists()}


def _age_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


def _regular_files(work: Path) -> Path:
    """A folder with what a conversion should leave behind, and neither links, pipes nor others."""
    made = work / "made"
    made.mkdir()
    for name in _MADE:
        path = work / "model" / name
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISREG(path.lstat().st_mode):
                path.rename(made / name)
    return made


def _keep(made: Path, target: Path) -> None:
    """Take over a converted model: files first, then the name under which they are found."""
    (made / _DIGESTS_FILE).write_text(json.dumps(_digests(made)), encoding="ascii")
    for path in made.iterdir():
        flush(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
    flush(target.parent)


def _last_line(log: Path) -> str:
    """The last thing that a process said, cut and without what a terminal would obey.

    It may have put a link or a pipe in the place of its log.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return ""
            file.seek(max(0, status.st_size - _LOG_TAIL_BYTES))
            said = file.read(_LOG_TAIL_BYTES).decode("utf-8", "replace")
        for line in reversed(said.splitlines()):
            if line.strip():
                text = "".join(c if c.isprintable() else " " for c in line.strip())
                return text[:_LONGEST_REASON]
    return ""


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
