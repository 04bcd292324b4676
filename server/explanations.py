"""Finds what there is to say on how a variant came about, or on why a job made none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optimizers.contract.manifest import ORIGINAL, Manifest
from optimizers.contract.study import EXPLANATION_FILE
from server.errors import FailedPrecondition, InvalidRequest
from server.jobs import Job, Jobs
from server.model import ModelVersion
from server.repository import VariantStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What there is to say; a job, a variant or both.

    Attributes:
        job: Who did it; None where its directory was deleted.
        manifest: Of what it made; None where it made nothing, or that was deleted.
        directory: Where its search wrote; None where nothing was searched, or not got so far.
    """

    job: Job | None
    manifest: Manifest | None
    directory: Path | None

    def read(self, name: str) -> bytes:
        """The content of a file that its search wrote.

        Raises:
            FailedPrecondition: There is none, or it cannot be read.
        """
        if self.directory is None:
            raise FailedPrecondition(
                f"{self._named()} made no search, or its search has not got so far; there is a "
                "report of searches only, and `hone explain` tells what there is"
            )
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            raise FailedPrecondition(self._why_missing(name)) from None
        except OSError as error:
            raise FailedPrecondition(f"{name} cannot be read: {error.strerror}") from error

    def _why_missing(self, name: str) -> str:
        if self.job is None or not self.job.has_ended:
            return f"{self._named()} has written no {name} yet"
        return (
            f"{self._named()} has ended as {self.job.state} and left no {name}, which is written "
            "when a search comes to its end; `hone explain` tells what there is, its worker.log why"
        )

    def _named(self) -> str:
        """The job, or the variant where the job is gone."""
        if self.job is not None:
            return f"job {self.job.spec.id}"
        return "what is named" if self.manifest is None else f"variant {self.manifest.variant}"


class Explanations:
    """Looks among jobs and variants. Belongs to the event loop."""

    def __init__(self, store: VariantStore, jobs: Jobs) -> None:
        """Look among `jobs`, and in what `store` keeps on variants whose jobs are gone."""
        self._store = store
        self._jobs = jobs

    def of_job(self, model: ModelVersion | None, job_id: str) -> Account:
        """What there is to say on a job.

        Args:
            model: Its version, where it serves.
            job_id: Its id.

        Raises:
            UnknownJob: There is none of that id.
        """
        return self._of_job(model, self._jobs.get(job_id))

    def of_variant(self, model: ModelVersion, address: str) -> Account:
        """What there is to say on a variant.

        Raises:
            UnknownVariant: Nothing fits `address`.
            InvalidRequest: It is the original.
        """
        variant = model.resolve(address)
        if variant == ORIGINAL:
            raise InvalidRequest(
                f"the original of '{model.name}' came as it is: there is nothing to explain"
            )
        manifest = model.variants[variant].manifest
        job = self._jobs.find(manifest.job)
        kept = self._store.explanation_directory(manifest)
        if (kept / EXPLANATION_FILE).exists():
            return Account(job=job, manifest=manifest, directory=kept)
        # A job that runs again has left what it wrote on this variant.
        made = job is not None and job.result is not None and job.result.variant == variant
        directory = self._searched(job) if made else None
        return Account(job=job, manifest=manifest, directory=directory)

    def newest(self, model: ModelVersion) -> Account:
        """What there is to say on a version's newest search, else on its newest job or variant.

        Raises:
            FailedPrecondition: Nothing was built of it yet.
        """
        jobs = [
            job
            for job in reversed(self._jobs.all())
            if (job.spec.model, job.spec.version) == (model.name, model.version)
        ]
        searches = [job for job in jobs if job.spec.profile.search is not None]
        if searches:
            return self._of_job(model, searches[0])
        variants = sorted(
            (variant.manifest for variant in model.variants.values()),
            key=lambda manifest: manifest.created_unix_s,
            reverse=True,
        )
        accounts = [self.of_variant(model, manifest.variant) for manifest in variants]
        searched = [account for account in accounts if account.directory is not None]
        if searched:
            return searched[0]
        if jobs:
            return self._of_job(model, jobs[0])
        if accounts:
            return accounts[0]
        raise FailedPrecondition(
            f"nothing was built of '{model.name}' version {model.version} yet; "
            f"`hone optimize {model.name} --profile PROFILE` does that"
        )

    def _of_job(self, model: ModelVersion | None, job: Job) -> Account:
        made = model.variants.get(job.result.variant) if model and job.result else None
        return Account(
            job=job,
            manifest=None if made is None else made.manifest,
            directory=self._searched(job),
        )

    def _searched(self, job: Job | None) -> Path | None:
        """A job's directory, if its search has written there."""
        if job is None:
            return None
        directory = self._store.jobs_directory / job.spec.id
        return directory if (directory / EXPLANATION_FILE).exists() else None
