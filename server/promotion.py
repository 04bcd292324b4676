"""What becomes of a job that has ended: its variant is adopted, and answers if that is wanted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path

from optimizers.contract.directory import VariantDirectory
from optimizers.contract.errors import HoneError
from optimizers.contract.job import VARIANT_DIRECTORY, JobState
from optimizers.contract.manifest import ORIGINAL
from server.jobs import Job
from server.journal import Journal
from server.model import ModelVersion
from server.registry import Registry
from server.repository import VariantStore
from server.routes import Routes

_log = logging.getLogger(__name__)


class Promotion:
    """Takes over what jobs made. Belongs to one event loop."""

    def __init__(
        self,
        *,
        registry: Registry,
        routes: Routes,
        journal: Journal,
        store: VariantStore,
        keep_variants: int,
    ) -> None:
        """Promote in `registry`.

        Args:
            registry: What serves.
            routes: Changes who answers there.
            journal: Told of all that is done and of all that fails.
            store: Where jobs lie, and what their searches wrote is kept.
            keep_variants: Variants kept for each version besides the routed and the previous one.
        """
        self._registry = registry
        self._routes = routes
        self._journal = journal
        self._store = store
        self._keep_variants = keep_variants

    async def adopt_left_behind(self, job: Job) -> None:
        """Adopt the variant of a job whose server stopped before it could."""
        if self.made_by(job).is_dir():
            await attempt(self._journal, job, "not_adopted", self._adopt(job))

    async def follow(self, job: Job) -> None:
        """Do with an ended job's verdict and variant what the version's policy asks."""
        model = self._version(job)
        if model is not None:
            await attempt(self._journal, job, "not_promoted", self.accept_refusal(model, job))
        if job.result is not None and job.result.variant:
            await attempt(self._journal, job, "not_promoted", self._put_to_use(job))
            await attempt(self._journal, job, "not_removed", self._remove_oldest(job))

    async def accept_refusal(self, model: ModelVersion, job: Job) -> None:
        """Write down that the original answers if the profile that should serve was refused.

        `hold_version: until_proven` then waits no longer, whatever becomes of the variant.
        """
        if job.state is not JobState.REFUSED or model.entry.policy.served_profile != (
            job.spec.profile
        ):
            return
        if self._journal.route(model.name, model.version) is None:
            reason = f"profile {job.spec.profile.name} was refused"
            await self._routes.set_route(model, ORIGINAL, reason=reason)

    async def _adopt(self, job: Job) -> VariantDirectory:
        """Take over the variant of a job, and what its search wrote."""
        variant = await self._routes.adopt(self.made_by(job))
        keeping = asyncio.to_thread(
            self._store.keep_explanation, self._directory(job), variant.manifest
        )
        await attempt(self._journal, job, "not_kept", keeping)
        return variant

    async def _put_to_use(self, job: Job) -> None:
        variant = await self._adopt(job)
        model = self._version(job)
        if model is None or variant.manifest.variant not in model.variants:
            return
        if not variant.manifest.is_proved:
            return
        wanted = model.entry.policy.served_profile == job.spec.profile
        if wanted or _succeeds_fallen(model, variant):
            await self._routes.set_route(
                model,
                variant.manifest.variant,
                reason=f"proved for profile {job.spec.profile.name}",
            )

    async def _remove_oldest(self, job: Job) -> None:
        model = self._version(job)
        if model is None:
            return
        kept = {model.active.variant, model.previous, model.fell_back}
        spare = sorted(
            (variant for name, variant in model.variants.items() if name not in kept),
            key=lambda variant: variant.manifest.created_unix_s,
        )
        for variant in spare[: max(0, len(spare) - self._keep_variants)]:
            await self._routes.remove(model, variant.manifest.variant)
            self._journal.record(
                *(model.name, model.version, "variant_removed"),
                f"{variant.manifest.variant}: more than {self._keep_variants} are kept "
                "only with --keep-variants",
            )

    def _version(self, job: Job) -> ModelVersion | None:
        """The version that a job is for, while it serves."""
        return self._registry.version(job.spec.model, job.spec.version)

    def made_by(self, job: Job) -> Path:
        """Where a job leaves its variant until it is adopted."""
        return self._directory(job) / VARIANT_DIRECTORY

    def _directory(self, job: Job) -> Path:
        return self._store.jobs_directory / job.spec.id


async def attempt(journal: Journal, job: Job, kind: str, work: Awaitable[object]) -> bool:
    """Do `work` for a job; if it fails, log that and record an event of `kind`.

    Returns:
        Whether it was done.
    """
    spec = job.spec
    try:
        await work
        return True
    except (HoneError, OSError) as error:
        _log.warning("job %s: %s: %s", spec.id, kind, error)
        journal.record(spec.model, spec.version, kind, f"job {spec.id}: {error}")
    except Exception as error:
        _log.exception("job %s: %s", spec.id, kind)
        journal.record(spec.model, spec.version, kind, f"job {spec.id}: unexpected: {error!r}")
    return False


def _succeeds_fallen(model: ModelVersion, variant: VariantDirectory) -> bool:
    """Whether a variant is what answered before this machine voided its certificate."""
    fallen = model.variants.get(model.fell_back)
    return fallen is not None and fallen.manifest.recipe == variant.manifest.recipe
