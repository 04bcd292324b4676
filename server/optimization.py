"""The bridge between what serves and what is built: which job is submitted, and when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from optimizers.contract.directory import VariantDirectory
from optimizers.contract.errors import HoneError
from optimizers.contract.host import Host
from optimizers.contract.job import GATE_OPENED_FILE, JobSpec, JobState
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Profile
from server.config import ServerConfig
from server.errors import FailedPrecondition, InvalidRequest, UnknownProfile
from server.job_preparation import (
    has_optimisers,
    is_same_study,
    require_optimisers,
    require_room,
    reuse,
    specify,
    would_come_out_again,
)
from server.job_worker import WORKER
from server.jobs import Job, Jobs, build_afresh, can_be_resubmitted
from server.journal import Journal
from server.loading import Loading
from server.metrics import Metrics
from server.model import ModelVersion
from server.promotion import Promotion, attempt
from server.registry import Registry
from server.repository import VariantStore
from server.routes import Routes

_log = logging.getLogger(__name__)

_CUT_SHORT: Final = frozenset({JobState.INTERRUPTED, JobState.CANCELLED, JobState.FAILED})
"""States of jobs whose searches may have something left of their budgets."""


class Optimization:
    """Jobs and what becomes of them. Belongs to one event loop."""

    def __init__(
        self,
        *,
        registry: Registry,
        routes: Routes,
        loading: Loading,
        store: VariantStore,
        journal: Journal,
        metrics: Metrics,
        config: ServerConfig,
        host: Host,
        worker: Sequence[str] = WORKER,
    ) -> None:
        """Build for the versions of `registry` and keep the results in `store`.

        `worker` is the command that works on the job directory given as its last argument.
        """
        self._registry = registry
        self._routes = routes
        self._loading = loading
        self._store = store
        self._journal = journal
        self._metrics = metrics
        self._config = config
        self._host = host
        self._promotion = Promotion(
            registry=registry,
            routes=routes,
            journal=journal,
            store=store,
            keep_variants=config.keep_variants,
        )
        self._queueing = asyncio.Lock()
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.jobs = Jobs(
            store.jobs_directory,
            parallel=config.jobs,
            stall_timeout_s=config.job_stall_seconds,
            on_end=self._job_ended,
            on_change=self._count_jobs,
            worker=worker,
        )

    async def start(self) -> None:
        """Mark interrupted jobs, adopt what a former server did not get to, follow new loads."""
        for job in self.jobs.recover():
            self._journal.record(
                job.spec.model, job.spec.version, "job_interrupted", f"job {job.spec.id}"
            )
        for job in self.jobs.all():
            await self._promotion.adopt_left_behind(job)
            if job.state is JobState.AWAITING_MEASUREMENT:
                self._retry_later(job)
        self._loading.on_load(self.consider)

    async def close(self) -> None:
        """End every worker and wait for all that follows from jobs that have ended."""
        await self.jobs.close()
        for job in list(self._retries):
            self._cancel_retry(job)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def profile(self, model: ModelVersion, name: str) -> Profile:
        """A profile of the model's hone.yaml.

        Raises:
            UnknownProfile: It defines none of that name.
        """
        profiles = model.entry.policy.profiles
        if name not in profiles:
            raise UnknownProfile(model.name, name, list(profiles))
        return profiles[name]

    async def submit(
        self, model: ModelVersion, profile: Profile, *, resume: bool = False
    ) -> tuple[Job, bool]:
        """Queue the building and judging of a profile.

        A search that was cut short goes on where it stopped, with what is left of its budget.

        Args:
            model: The version it is for.
            profile: What is wanted.
            resume: Whether a search that came to its end gets another budget for the same study.

        Returns:
            The job, and whether the same one was there already.

        Raises:
            InvalidRequest: `resume` is asked for a profile that searches for nothing.
            FailedPrecondition: The optimisers are not installed, disk or memory is short, or there
                is no search to be resumed.
            InvalidData: A data file that hone.yaml names is missing, or a search has none.
        """
        if resume and profile.search is None:
            raise InvalidRequest(
                f"profile '{profile.name}' has a recipe; only a search can be resumed"
            )
        require_optimisers(searches=profile.search is not None)
        spec = await specify(model, profile, self._host, self._config, resume=resume)
        size = await asyncio.to_thread(lambda: read_onnx_file(model.original_file).size_bytes)
        return await self._registry.own(self._queue(model, spec, size))

    async def _queue(self, model: ModelVersion, spec: JobSpec, size: int) -> tuple[Job, bool]:
        """Queue a job unless the same one is there already, one after another.

        Args:
            model: The version it is for.
            spec: What to build.
            size: Of the original, in bytes.
        """
        async with self._queueing:  # of several equal submits one spends the gate data
            former = self.jobs.find(spec.id)
            if spec.resume:
                self._require_study(model, spec)
                if former is not None and former.state in _CUT_SHORT:
                    spec = replace(spec, resume=False)
            again = spec.resume and former is not None and former.has_ended
            anew = again or (former is not None and self._is_lost(model, former))
            if former is not None and not anew and not can_be_resubmitted(former.state):
                return former, True
            require_room(self._store, size)
            self._cancel_retry(spec.id)
            spec = replace(spec, gate_use=await self._gate_use(spec, former))
            prepare: Callable[[Path], None] = build_afresh
            fallen = model.variants.get(model.fell_back)
            if fallen is not None and would_come_out_again(fallen, spec):
                prepare = partial(reuse, fallen)
            job, _ = await self.jobs.submit(spec, prepare, anew=anew)
            self._journal.record(
                *(model.name, model.version, "job_submitted"),
                f"job {spec.id}: profile {spec.profile.name}",
            )
            return job, False

    async def consider(self, model: ModelVersion) -> None:
        """Do what `serve: PROFILE` asks for a version that has just become ready.

        A variant that may not answer here any more is measured again first, by what it was
        judged by; nothing is searched for that.
        """
        served = model.entry.policy.served_profile
        fallen = model.variants.get(model.fell_back)
        wanted = _as_built(fallen) if fallen is not None else None
        profile = wanted or served
        if profile is None:
            return
        try:
            if profile == served and await self._promote_ready_made(model, profile):
                return
            job, _ = await self.submit(model, profile)
            await self._promotion.accept_refusal(model, job)
        except (HoneError, OSError) as error:
            text = f"profile {profile.name} is not built: {error}"
            _log.warning("%s version %d: %s", model.name, model.version, text)
            self._journal.record(model.name, model.version, "not_built", text)

    async def remove_job(self, job: str) -> None:
        """Delete an ended job's directory; what waits for another measurement gets none."""
        await self.jobs.remove(job)
        self._cancel_retry(job)

    async def _promote_ready_made(self, model: ModelVersion, profile: Profile) -> bool:
        """Whether this very profile is already proved here; routes to its variant if none is."""
        proved = [
            variant
            for variant in model.variants.values()
            if variant.manifest.judged_by == profile and self._routes.is_proved_here(variant)
        ]
        if not proved:
            return False
        newest = max(proved, key=lambda variant: variant.manifest.created_unix_s)
        if self._journal.route(model.name, model.version) is None:
            await self._routes.set_route(
                model, newest.manifest.variant, reason=f"proved for profile {profile.name}"
            )
        if has_optimisers():
            spec = await specify(model, profile, self._host, self._config)
            return any(variant.manifest.job == spec.id for variant in proved)
        return True

    def _require_study(self, model: ModelVersion, spec: JobSpec) -> None:
        """Make sure that the search of a job has been begun, with whatever budget.

        Raises:
            FailedPrecondition: Nothing is left of it.
        """
        made = any(variant.manifest.job == spec.id for variant in model.variants.values())
        if not made and not any(is_same_study(job.spec, spec) for job in self.jobs.all()):
            raise FailedPrecondition(
                f"there is no search of {model.name} for profile '{spec.profile.name}' that could "
                "be resumed: none was begun with this model, this goal and this data; leave out "
                "--resume to begin one"
            )

    def _is_lost(self, model: ModelVersion, job: Job) -> bool:
        """Whether a job succeeded but nothing is left of what it made."""
        if job.state is not JobState.SUCCEEDED or job.result is None:
            return False
        if not self.jobs.is_settled(job.spec.id):
            return False
        adopted = job.result.variant in model.variants
        return not adopted and not self._promotion.made_by(job).is_dir()

    async def _gate_use(self, spec: JobSpec, former: Job | None) -> int:
        """How often the gate data will have been used; a job that never looked spends nothing."""
        gate = spec.data_sha256.get("gate")
        if gate is None:
            return 1
        if former is not None:
            looked = (self._directory(former) / GATE_OPENED_FILE).exists()
            waits = former.state is JobState.AWAITING_MEASUREMENT and not spec.resume
            if waits or not looked:
                return former.spec.gate_use
        return await self._journal.spend_gate(gate, spec.model)

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
        await self._promotion.follow(job)

    def _retry_later(self, job: Job) -> None:
        def retry() -> None:
            self._retries.pop(job.spec.id, None)
            task = asyncio.create_task(self._retry(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop = asyncio.get_running_loop()
        self._retries[job.spec.id] = loop.call_later(self._config.measure_retry_seconds, retry)

    def _cancel_retry(self, job: str) -> None:
        retry = self._retries.pop(job, None)
        if retry is not None:
            retry.cancel()

    async def _retry(self, job: Job) -> None:
        model = self._registry.version(job.spec.model, job.spec.version)
        if model is None:
            return
        submitted = await attempt(
            self._journal, job, "not_retried", self.submit(model, job.spec.profile)
        )
        if not submitted and self.jobs.find(job.spec.id) is not None:
            self._retry_later(job)

    def _directory(self, job: Job) -> Path:
        return self._store.jobs_directory / job.spec.id

    def _count_jobs(self) -> None:
        counts = dict.fromkeys(JobState, 0)
        for job in self.jobs.all():
            counts[job.state] += 1
        for state, count in counts.items():
            self._metrics.jobs.labels(state).set(count)


def _as_built(variant: VariantDirectory) -> Profile | None:
    """What a variant was judged by, with the recipe that it has; None where nobody knows."""
    profile = variant.manifest.judged_by
    if profile is None or profile.search is None:
        return profile
    return Profile(name=profile.name, recipe=variant.manifest.recipe, goal=profile.goal)
