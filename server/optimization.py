"""The bridge between what serves and what is built: submit jobs, adopt and promote variants."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from optimizers.contract.directory import VariantDirectory
from optimizers.contract.errors import HoneError, InvalidData
from optimizers.contract.evaluation import Verdict
from optimizers.contract.host import Host, memory_available_bytes
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    GATE_OPENED_FILE,
    VARIANT_DIRECTORY,
    Built,
    JobSpec,
    JobState,
    job_id,
    write_built,
)
from optimizers.contract.manifest import GOLDEN_FILE, MANIFEST_FILE
from optimizers.contract.onnx_file import file_sha256, read_onnx_file
from optimizers.contract.profile import Profile
from server.config import ServerConfig
from server.errors import FailedPrecondition, UnknownProfile
from server.jobs import Job, Jobs, can_be_resubmitted
from server.journal import Journal
from server.metrics import Metrics
from server.model import ModelVersion
from server.registry import Registry
from server.repository import VariantStore

_log = logging.getLogger(__name__)

_DISK_PER_MODEL_BYTE: Final = 4
_MEMORY_PER_MODEL_BYTE: Final = 4
_MEMORY_MARGIN_BYTES: Final = 512 << 20
_NEEDED_PACKAGES: Final = ("onnx", "onnx_ir", "scipy", "torch")
_INSTALL_LINE: Final = "pip install 'hone-server[cpu,optimize]'"


class Optimization:
    """Jobs and what becomes of them. Belongs to one event loop."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: VariantStore,
        journal: Journal,
        metrics: Metrics,
        config: ServerConfig,
        host: Host,
    ) -> None:
        """Build for the versions of `registry` and keep the results in `store`."""
        self._registry = registry
        self._store = store
        self._journal = journal
        self._metrics = metrics
        self._config = config
        self._host = host
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.jobs = Jobs(
            store.jobs_directory,
            parallel=config.jobs,
            stall_timeout_s=config.job_stall_seconds,
            on_end=self._job_ended,
            on_change=self._count_jobs,
        )

    async def start(self) -> None:
        """Mark interrupted jobs, adopt what a former server did not get to, follow new loads."""
        for job in self.jobs.recover():
            self._journal.record(
                job.spec.model, job.spec.version, "job_interrupted", f"job {job.spec.id}"
            )
        for job in self.jobs.all():
            if (self._directory(job) / VARIANT_DIRECTORY).is_dir():
                with contextlib.suppress(HoneError, OSError):
                    await self._registry.adopt(self._directory(job) / VARIANT_DIRECTORY)
        self._registry.on_load(self.consider)

    async def close(self) -> None:
        """End every worker."""
        for retry in self._retries.values():
            retry.cancel()
        for task in self._tasks:
            task.cancel()
        await self.jobs.close()

    def profile(self, model: ModelVersion, name: str) -> Profile:
        """A profile of the model's hone.yaml.

        Raises:
            UnknownProfile: It defines none of that name.
        """
        profiles = model.entry.policy.profiles
        if name not in profiles:
            raise UnknownProfile(model.name, name, list(profiles))
        return profiles[name]

    async def submit(self, model: ModelVersion, profile: Profile) -> tuple[Job, bool]:
        """Queue the building and judging of a profile.

        Returns:
            The job, and whether the same one was there already.

        Raises:
            FailedPrecondition: The optimisers are not installed, or disk or memory is short.
            InvalidData: A data file that hone.yaml names is missing.
        """
        require_optimisers()
        spec = await self._specify(model, profile)
        former = self.jobs.find(spec.id)
        if former is not None and not can_be_resubmitted(former.state):
            return former, True
        size = await asyncio.to_thread(lambda: read_onnx_file(model.original_file).size_bytes)
        self._store.require_free_disk(_DISK_PER_MODEL_BYTE * size)
        _require_memory(_MEMORY_PER_MODEL_BYTE * size + _MEMORY_MARGIN_BYTES)
        spec = replace(spec, gate_use=self._gate_use(spec, former))
        retry = self._retries.pop(spec.id, None)
        if retry is not None:
            retry.cancel()
        again = model.variants.get(model.fell_back)
        if again is not None and again.manifest.recipe == profile.recipe:
            job, existed = self.jobs.submit(spec, lambda directory: _reuse(again, directory))
        else:
            job, existed = self.jobs.submit(spec)
        if not existed:
            self._journal.record(
                model.name, model.version, "job_submitted", f"job {spec.id}: profile {profile.name}"
            )
        return job, existed

    async def consider(self, model: ModelVersion) -> None:
        """Do what `serve: PROFILE` asks for a version that has just become ready."""
        name = model.entry.policy.serve
        again = model.variants.get(model.fell_back)
        if name is None and again is None:
            return
        try:
            if name is not None and await self._promote_ready_made(model, name):
                return
            wanted = name if again is None else again.manifest.profile
            if wanted not in model.entry.policy.profiles:
                return
            await self.submit(model, model.entry.policy.profiles[wanted])
        except HoneError as error:
            _log.warning(
                "%s version %d: profile %s is not built, the original answers: %s",
                *(model.name, model.version, name, error),
            )
            self._journal.record(model.name, model.version, "not_built", f"profile {name}: {error}")

    async def remove_job(self, job: str) -> None:
        """Delete an ended job's directory."""
        await asyncio.to_thread(self.jobs.remove, job)

    async def _promote_ready_made(self, model: ModelVersion, profile: str) -> bool:
        """Whether a variant of this profile is already proved here; routes to it if none was."""
        proved = [
            variant
            for variant in model.variants.values()
            if variant.manifest.profile == profile and self._registry.is_proved_here(variant)
        ]
        if not proved:
            return False
        newest = max(proved, key=lambda variant: variant.manifest.created_unix_s)
        if self._journal.route(model.name, model.version) is None:
            await self._registry.set_route(
                model, newest.manifest.variant, reason=f"proved for profile {profile}"
            )
        if not missing_packages():
            spec = await self._specify(model, model.entry.policy.profiles[profile])
            return any(variant.manifest.job == spec.id for variant in proved)
        return True

    async def _specify(self, model: ModelVersion, profile: Profile) -> JobSpec:
        entry = model.entry
        declared = {
            name: entry.directory / path
            for name in ("calibration", "train", "search", "gate")
            for path in [getattr(entry.policy.data, name)]
            if path is not None
        }
        for name, path in declared.items():
            if not path.is_file():
                raise InvalidData(
                    f"{entry.name}/hone.yaml names data.{name}: "
                    f"{path.relative_to(entry.directory)}, which is missing"
                )
        digests = await asyncio.to_thread(
            lambda: {name: file_sha256(path) for name, path in declared.items()}
        )
        identity = job_id(
            model=model.name,
            version=model.version,
            profile=profile,
            task=entry.policy.task,
            original_sha256=model.original.original_sha256,
            data_sha256=digests,
            host=self._host,
        )
        return JobSpec(
            id=identity,
            model=model.name,
            version=model.version,
            profile=profile,
            task=entry.policy.task,
            original_file=model.original_file,
            original_name=model.original.original_file,
            original_sha256=model.original.original_sha256,
            original_session=model.original.session,
            data=declared,
            data_sha256=digests,
            cpus=self._host.cpus,
            memory_limit_bytes=self._config.job_memory_bytes,
            measure_timeout_s=self._config.measure_seconds,
            submitted_unix_s=time.time(),
        )

    def _gate_use(self, spec: JobSpec, former: Job | None) -> int:
        """How often the gate data will have been used; a job that never looked spends nothing."""
        gate = spec.data_sha256.get("gate")
        if gate is None:
            return 1
        if former is not None:
            looked = (self._directory(former) / GATE_OPENED_FILE).exists()
            if former.state is JobState.AWAITING_MEASUREMENT or not looked:
                return former.spec.gate_use
        return self._journal.spend_gate(gate, spec.model)

    async def _job_ended(self, job: Job) -> None:
        if job.result is None:
            return
        self._metrics.job_duration.labels(job.state).observe(
            max(0.0, job.result.finished_unix_s - job.spec.submitted_unix_s)
        )
        self._count_jobs()
        spec = job.spec
        self._journal.record(
            *(spec.model, spec.version, f"job_{job.state}"),
            f"job {spec.id}: profile {spec.profile.name}"
            + (f": {job.result.reason}" if job.result.reason else ""),
        )
        if job.state is JobState.AWAITING_MEASUREMENT:
            self._retry_later(job)
        if not job.result.variant:
            return
        try:
            variant = await self._registry.adopt(self._directory(job) / VARIANT_DIRECTORY)
            await self._put_to_use(job, variant)
        except (HoneError, OSError) as error:
            _log.warning("job %s: what it made is not used: %s", spec.id, error)
            self._journal.record(
                spec.model, spec.version, "not_promoted", f"job {spec.id}: {error}"
            )

    async def _put_to_use(self, job: Job, variant: VariantDirectory) -> None:
        models = self._registry.models(job.spec.model)
        model = next((one for one in models if one.version == job.spec.version), None)
        manifest = variant.manifest
        if model is None or manifest.variant not in model.variants:
            return
        evaluation = manifest.evaluation
        wanted = model.entry.policy.serve == job.spec.profile.name or (
            model.fell_back and model.variants[model.fell_back].manifest.recipe == manifest.recipe
        )
        if wanted and evaluation is not None and evaluation.verdict is Verdict.PROVED:
            await self._registry.set_route(
                model, manifest.variant, reason=f"proved for profile {job.spec.profile.name}"
            )
        await self._forget_oldest(model)

    async def _forget_oldest(self, model: ModelVersion) -> None:
        kept = {model.active.variant, model.previous, model.fell_back}
        spare = sorted(
            (variant for name, variant in model.variants.items() if name not in kept),
            key=lambda variant: variant.manifest.created_unix_s,
        )
        for variant in spare[: max(0, len(spare) - self._config.keep_variants)]:
            await self._registry.remove_variant(model, variant.manifest.variant)
            self._journal.record(
                model.name,
                model.version,
                "variant_removed",
                f"{variant.manifest.variant}: more than {self._config.keep_variants} are kept "
                "only with --keep-variants",
            )

    def _retry_later(self, job: Job) -> None:
        def retry() -> None:
            self._retries.pop(job.spec.id, None)
            task = asyncio.create_task(self._retry(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop = asyncio.get_running_loop()
        self._retries[job.spec.id] = loop.call_later(self._config.measure_retry_seconds, retry)

    async def _retry(self, job: Job) -> None:
        for model in self._registry.models(job.spec.model):
            if model.version == job.spec.version:
                with contextlib.suppress(HoneError):
                    await self.submit(model, job.spec.profile)

    def _directory(self, job: Job) -> Path:
        return self._store.jobs_directory / job.spec.id

    def _count_jobs(self) -> None:
        counts = dict.fromkeys(JobState, 0)
        for job in self.jobs.all():
            counts[job.state] += 1
        for state, count in counts.items():
            self._metrics.jobs.labels(state).set(count)


def require_optimisers() -> None:
    """Make sure that a worker could run here.

    Raises:
        FailedPrecondition: It could not; the text says what to install.
    """
    missing = missing_packages()
    if missing:
        raise FailedPrecondition(
            f"the optimisers are not installed here ({', '.join(missing)} missing); "
            f"run: {_INSTALL_LINE}"
        )


def missing_packages() -> list[str]:
    """What a worker needs and this installation lacks."""
    return [name for name in _NEEDED_PACKAGES if importlib.util.find_spec(name) is None]


def _reuse(variant: VariantDirectory, directory: Path) -> None:
    """Give a job a variant that was built before, so that it only measures it."""
    candidate = directory / CANDIDATE_DIRECTORY
    shutil.copytree(
        variant.path, candidate, ignore=shutil.ignore_patterns(MANIFEST_FILE, GOLDEN_FILE)
    )
    manifest = variant.manifest
    built = Built(
        session=manifest.session,
        records=manifest.records,
        built_with=manifest.built_with or {},
    )
    write_built(directory, built)


def _require_memory(needed: int) -> None:
    available = memory_available_bytes()
    if available < needed:
        raise FailedPrecondition(
            f"{available >> 20} MiB of memory are available and a build of this model needs about "
            f"{needed >> 20} MiB"
        )
