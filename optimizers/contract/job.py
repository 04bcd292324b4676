"""A job is a directory: `spec.json` goes in, `progress.jsonl` grows, `result.json` comes out.

spec.json        what to build, written once by whoever submits; may hold a password
progress.jsonl   one line per step of the work, appended by the worker
data/            for each image folder, where it lies and how its images are read
candidate/       what the recipe made, before it was judged
built.json       written when the candidate is complete: what each step did
gate.opened      the worker has looked at the gate data
pause            there while the job must not use the processor; says why
pauses           grows whenever a pause begins and ends
variant/         the sealed variant, proved or refused
result.json      written last, atomically; its presence means that the job has ended
worker.log       what the worker printed
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from optimizers.contract.directory import write_atomically
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.host import Host
from optimizers.contract.ingredients import Ingredients
from optimizers.contract.manifest import StepRecord
from optimizers.contract.preprocessing import Preprocessing
from optimizers.contract.profile import StoredProfile, Task
from optimizers.contract.recipe import StoredRecipe
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.stored import adapter

SPEC_FILE: Final = "spec.json"
PROGRESS_FILE: Final = "progress.jsonl"
RESULT_FILE: Final = "result.json"
DATA_DIRECTORY: Final = "data"
CANDIDATE_DIRECTORY: Final = "candidate"
BUILT_FILE: Final = "built.json"
GATE_OPENED_FILE: Final = "gate.opened"
PAUSE_FILE: Final = "pause"
PAUSES_FILE: Final = "pauses"
PAUSE_BEGINS: Final = "begins"
"""A line of `pauses`; one for the end is how many seconds it took."""
VARIANT_DIRECTORY: Final = "variant"
LOG_FILE: Final = "worker.log"
CACHE_LIMIT_BYTES: Final = 4 << 30
_NEWEST_BYTES: Final = 1 << 13
"""Of the end of a worker's progress, which is read again and again; longer lines are not seen."""


class JobState(StrEnum):
    """Where a job stands. All but the first two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    AWAITING_MEASUREMENT = "awaiting_measurement"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """Everything a worker needs to know; it reads nothing else but the files named here.

    Attributes:
        id: Digest of what is to be built; the same work has the same id.
        model: Name in the repository.
        version: Version folder.
        profile: What is wanted.
        task: How answers are compared.
        original_file: The model to start from, absolute.
        original_name: The same path relative to its model's directory.
        original_sha256: Its digest when the job was submitted.
        original_session: How the server opens the original.
        data: calibration, train, search, gate → absolute path of a file or an image folder, where
            declared.
        data_sha256: Digests of the same data, of `data_files.data_sha256`.
        preprocess: What is done to every image of an image folder.
        models: Name in the recipe → absolute path of an ONNX file that its steps work with.
        models_sha256: Digests of the same files, external weights included.
        gate_use: How often the gate data will have been used for this model, this job included;
            use k may spend (1 - confidence) / 2^k.
        cpus: Processors that the server hands out.
        memory_limit_bytes: Address space a worker may use; 0 for no limit.
        build_timeout_s: How long building may take before the job has failed; 0: any time.
        measure_timeout_s: How long measuring waits for quiet and stable windows.
        cache: Where models after steps are kept for later builds, absolute; None: nowhere.
        cache_limit_bytes: Most bytes kept there.
        studies: Where searches keep what they have learned, absolute; None: in the job's directory.
        resume: Whether a search goes on with another budget where a former one has ended.
        price: Of a processor second, for the figure `cost`, in whatever currency; above 0.
        seed: Of everything random.
        submitted_unix_s: When it was submitted.
    """

    id: str
    model: str
    version: int
    profile: StoredProfile
    task: Task
    original_file: Path
    original_name: str
    original_sha256: str
    original_session: SessionSpec
    data: dict[str, Path] = field(default_factory=dict)
    data_sha256: dict[str, str] = field(default_factory=dict)
    preprocess: Preprocessing = field(default_factory=Preprocessing)
    models: dict[str, Path] = field(default_factory=dict)
    models_sha256: dict[str, str] = field(default_factory=dict)
    gate_use: int = 1
    cpus: int = 1
    memory_limit_bytes: int = 0
    build_timeout_s: float = 0.0
    measure_timeout_s: float = 120.0
    cache: Path | None = None
    cache_limit_bytes: int = CACHE_LIMIT_BYTES
    studies: Path | None = None
    resume: bool = False
    price: float = 1.0
    seed: int = 0
    submitted_unix_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of a worker's progress.

    Attributes:
        unix_s: When.
        stage: What is being done, one or two words.
        fraction: Share of the whole job that is done, in [0, 1].
        text: What a person would want to know.
    """

    unix_s: float
    stage: str
    fraction: float
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job ended.

    Attributes:
        state: A final state.
        reason: Why, for people; "" when it succeeded.
        variant: Id of the variant in `variant/`; "" when none was made.
        finished_unix_s: When.
    """

    state: JobState
    reason: str = ""
    variant: str = ""
    finished_unix_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A finished candidate: what lies in `candidate/` and how it came about.

    Attributes:
        recipe: What was built.
        session: How it is to be opened.
        records: What each step did.
        built_with: Name → version of what took part.
        made_from: All that decided the outcome; None where that is not known.
    """

    recipe: StoredRecipe
    session: SessionSpec
    records: tuple[StepRecord, ...]
    built_with: dict[str, str]
    made_from: Ingredients | None = None


def job_id(
    *,
    model: str,
    version: int,
    profile: StoredProfile,
    task: Task,
    original_sha256: str,
    original_session: SessionSpec,
    data_sha256: dict[str, str],
    models_sha256: dict[str, str],
    host: Host,
    price: float = 1.0,
) -> str:
    """The id of the work: equal for the same model, profile and data on the same machine.

    The price of a processor second is part of it where there is one: it decides what cost is.
    Where a search is kept is none, so that a new password asks for no new work.
    """
    wanted = profile
    if profile.search is not None:
        wanted = replace(profile, search=replace(profile.search, storage="", artefacts=""))
    content = [
        *(model, version, wanted.to_data(), str(task), original_sha256, data_sha256),
        *(host.architecture, host.cpu_features, host.cpus, host.onnxruntime, host.gpus),
        *(asdict(original_session), models_sha256),
        *(() if price == 1.0 else (price,)),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def write_spec(directory: Path, spec: JobSpec) -> None:
    """Write a job's specification into its directory, for nobody else to read.

    An address that an operator wrote with a password stands there with it.
    """
    content = adapter(JobSpec).dump_json(spec, indent=2) + b"\n"
    write_atomically(directory / SPEC_FILE, content, is_private=True)


def read_spec(directory: Path) -> JobSpec:
    """Read a job's specification.

    Raises:
        InvalidDocument: It is missing or does not fit.
    """
    try:
        return adapter(JobSpec).validate_json((directory / SPEC_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidDocument(f"job {directory.name}: {SPEC_FILE} cannot be read") from error


def write_built(directory: Path, built: Built) -> None:
    """Say that the candidate in a job's directory is complete."""
    write_atomically(directory / BUILT_FILE, adapter(Built).dump_json(built, indent=2) + b"\n")


def read_built(directory: Path) -> Built | None:
    """What was built, or None while the candidate is not complete."""
    try:
        return adapter(Built).validate_json((directory / BUILT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def append_progress(directory: Path, progress: Progress) -> None:
    """Add one line of progress."""
    with (directory / PROGRESS_FILE).open("ab") as file:
        file.write(adapter(Progress).dump_json(progress) + b"\n")


def last_progress(directory: Path) -> Progress | None:
    """The newest complete line of progress, or None before the first."""
    try:
        with (directory / PROGRESS_FILE).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _NEWEST_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return None
    for line in reversed(lines):
        if line.endswith(b"\n"):
            try:
                return adapter(Progress).validate_json(line)
            except ValidationError:
                continue
    return None


def pauses_of(directory: Path) -> tuple[float, float]:
    """How long a job's pauses took that are over, and when the present one began.

    Returns:
        Seconds, and Unix time by the file system's clock; 0 where it is not paused.
    """
    try:
        with (directory / PAUSES_FILE).open("rb") as file:
            content = file.read().decode("ascii", "replace")
            changed_s = os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0, 0.0
    lines = content[: content.rfind("\n") + 1].splitlines()
    is_paused = bool(lines) and lines[-1] == PAUSE_BEGINS
    over_s = sum(float(line) for line in lines if line != PAUSE_BEGINS)
    return over_s, changed_s if is_paused else 0.0


def write_result(directory: Path, result: JobResult) -> None:
    """Write how a job ended."""
    write_atomically(
        directory / RESULT_FILE, adapter(JobResult).dump_json(result, indent=2) + b"\n"
    )


def read_result(directory: Path) -> JobResult | None:
    """How a job ended, or None while it has not.

    Raises:
        InvalidData: The file is there but is not a result.
    """
    try:
        content = (directory / RESULT_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return adapter(JobResult).validate_json(content)
    except ValidationError as error:
        raise InvalidData(f"job {directory.name}: {RESULT_FILE} cannot be read") from error
