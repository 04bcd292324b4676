"""Hone's own API: models, variants, jobs, routes, events. Translates; decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from optimizers.contract.evaluation import Check, Estimate, Figure
from optimizers.contract.manifest import ORIGINAL, Manifest
from optimizers.contract.profile import profile_document
from server.errors import InvalidRequest
from server.jobs import Job
from server.journal import Journal, Route
from server.model import ModelVersion
from server.optimization import Optimization
from server.pb import management_pb2 as pb
from server.registry import Registry, State
from server.residency import Residency
from server.routes import Routes
from server.rpc.endpoint import Service, Streaming, Unary

SERVICE_NAME: Final = "hone.v1.Management"

_MOST_EVENTS: Final = 10_000


class Management:
    """Handlers of `hone.v1.Management`; each takes a message and a deadline."""

    def __init__(
        self,
        registry: Registry,
        residency: Residency,
        routes: Routes,
        optimization: Optimization,
        journal: Journal,
    ) -> None:
        """Speak for these."""
        self._registry = registry
        self._residency = residency
        self._routes = routes
        self._optimization = optimization
        self._journal = journal

    def service(self) -> Service:
        """The service, to be mounted on the admin endpoint."""
        return Service(
            name=SERVICE_NAME,
            methods={
                "ListModels": Unary(request=pb.ListModelsRequest, call=self.list_models),
                "ListVariants": Unary(request=pb.ListVariantsRequest, call=self.list_variants),
                "SubmitJob": Unary(request=pb.SubmitJobRequest, call=self.submit_job),
                "ListJobs": Unary(request=pb.ListJobsRequest, call=self.list_jobs),
                "WatchJob": Streaming(request=pb.WatchJobRequest, call=self.watch_job),
                "CancelJob": Unary(request=pb.CancelJobRequest, call=self.cancel_job),
                "RemoveJob": Unary(request=pb.RemoveJobRequest, call=self.remove_job),
                "SetRoute": Unary(request=pb.SetRouteRequest, call=self.set_route),
                "RollBack": Unary(request=pb.RollBackRequest, call=self.roll_back),
                "RemoveVariant": Unary(request=pb.RemoveVariantRequest, call=self.remove_variant),
                "ListEvents": Unary(request=pb.ListEventsRequest, call=self.list_events),
            },
        )

    async def list_models(
        self, request: pb.ListModelsRequest, deadline: float | None
    ) -> pb.ListModelsResponse:
        """Every model with its versions, ready or not."""
        response = pb.ListModelsResponse()
        standings = self._registry.standings()
        for entry in self._registry.entries():
            message = response.models.add(
                name=entry.name, error=entry.error, warnings=entry.warnings
            )
            ready = {model.version: model for model in self._registry.models(entry.name)}
            for name, version, standing in standings:
                if name != entry.name:
                    continue
                line = message.versions.add(
                    version=version, state=standing.state, reason=standing.reason
                )
                if standing.state is State.READY and version in ready:
                    self._describe_version(ready[version], line)
        return response

    async def list_variants(
        self, request: pb.ListVariantsRequest, deadline: float | None
    ) -> pb.ListVariantsResponse:
        """The variants of one version, the original first, then by age."""
        model = await self._version(request.model, request.version)
        manifests = sorted(
            (variant.manifest for variant in model.variants.values()),
            key=lambda manifest: manifest.created_unix_s,
        )
        return pb.ListVariantsResponse(
            variants=[self._variant(model, manifest) for manifest in (model.original, *manifests)]
        )

    async def submit_job(
        self, request: pb.SubmitJobRequest, deadline: float | None
    ) -> pb.SubmitJobResponse:
        """Queue a profile of hone.yaml, or one whose text comes along."""
        model = await self._version(request.model, request.version)
        if request.profile_text:
            name = request.profile or "unnamed"
            profile = profile_document(request.profile_text, "the profile file", name)
        elif request.profile:
            profile = self._optimization.profile(model, request.profile)
        else:
            raise InvalidRequest("name a profile, or send the text of a profile file")
        job, existed = await self._optimization.submit(model, profile)
        return pb.SubmitJobResponse(job=_job(job), existed=existed)

    async def list_jobs(
        self, request: pb.ListJobsRequest, deadline: float | None
    ) -> pb.ListJobsResponse:
        """Every job, oldest first."""
        return pb.ListJobsResponse(jobs=[_job(job) for job in self._optimization.jobs.all()])

    async def watch_job(
        self, request: pb.WatchJobRequest, deadline: float | None
    ) -> AsyncIterator[pb.Job]:
        """A job now and whenever it changes, until it has ended."""
        async for job in self._optimization.jobs.watch(request.id):
            yield _job(job)

    async def cancel_job(self, request: pb.CancelJobRequest, deadline: float | None) -> pb.Job:
        """End a job that waits or runs."""
        return _job(await self._optimization.jobs.cancel(request.id))

    async def remove_job(
        self, request: pb.RemoveJobRequest, deadline: float | None
    ) -> pb.RemoveJobResponse:
        """Delete an ended job's directory; what it made stays."""
        await self._optimization.remove_job(request.id)
        return pb.RemoveJobResponse()

    async def set_route(
        self, request: pb.SetRouteRequest, deadline: float | None
    ) -> pb.RouteResponse:
        """Promote a variant."""
        model = await self._version(request.model, request.version)
        if not request.variant:
            raise InvalidRequest("name the variant to promote: an id, a profile or `original`")
        route = await self._routes.set_route(model, request.variant, unverified=request.unverified)
        return _route(route)

    async def roll_back(
        self, request: pb.RollBackRequest, deadline: float | None
    ) -> pb.RouteResponse:
        """Return to the variant that answered before."""
        model = await self._version(request.model, request.version)
        return _route(await self._routes.roll_back(model))

    async def remove_variant(
        self, request: pb.RemoveVariantRequest, deadline: float | None
    ) -> pb.RemoveVariantResponse:
        """Delete a variant that is neither routed nor what a roll-back returns to."""
        model = await self._version(request.model, request.version)
        await self._routes.remove(model, model.resolve(request.variant))
        return pb.RemoveVariantResponse()

    async def list_events(
        self, request: pb.ListEventsRequest, deadline: float | None
    ) -> pb.ListEventsResponse:
        """The newest events, oldest first."""
        limit = min(request.limit or 100, _MOST_EVENTS)
        return pb.ListEventsResponse(
            events=[
                pb.Event(
                    id=event.id,
                    unix_s=event.unix_s,
                    model=event.model,
                    version=event.version,
                    kind=event.kind,
                    text=event.text,
                )
                for event in await self._journal.events(request.model, limit)
            ]
        )

    async def _version(self, name: str, version: int) -> ModelVersion:
        """The version named, opened if it was let go; 0 is the newest that is ready."""
        if version:
            return (await self._residency.find(name, str(version)))[0]
        await self._residency.find(name, "")
        return self._registry.models(name)[-1]

    def _describe_version(self, model: ModelVersion, line: Any) -> None:
        policy = model.entry.policy
        line.is_default = self._registry.default_version(model.name) == model.version
        line.active_variant = model.active.variant
        line.previous_variant = model.previous
        session = model.active.manifest.session
        line.provider = session.provider
        line.lanes = model.active.policy.lanes
        line.threads = session.intra_op_threads
        line.wide_threads = model.active.opening.session.wide_threads
        line.max_batch = model.active.policy.max_batch
        line.batching_note = model.active.opening.findings.notes
        line.profiles.extend(policy.profiles)
        line.serve = policy.serve or ""
        line.task = policy.task
        line.memory_bytes = sum(opened.opening.memory.total_bytes for opened in model.all_opened())

    def _variant(self, model: ModelVersion, manifest: Manifest) -> pb.Variant:
        is_original = manifest.variant == ORIGINAL
        message = pb.Variant(
            model=model.name,
            version=model.version,
            id=manifest.variant,
            profile=manifest.profile,
            recipe=str(manifest.recipe),
            notes=[
                f"{record.step}: {note}" for record in manifest.records for note in record.notes
            ],
            active=manifest.variant == model.active.variant,
            open=model.opened(manifest.variant) is not None,
            size_bytes=_file_bytes(model.original_file) if is_original else manifest.size_bytes,
            created_unix_s=manifest.created_unix_s,
            certificate_void="" if is_original else self._routes.void_certificate(manifest),
        )
        evaluation = manifest.evaluation
        if evaluation is not None:
            message.verdict = evaluation.verdict
            message.reasons.extend(evaluation.reasons)
            message.figures.extend(figure_message(figure) for figure in evaluation.figures)
            message.checks.extend(_check(check) for check in evaluation.checks)
        return message


def _file_bytes(path: Path) -> int:
    """The file's size; 0 when it was taken away after it was loaded."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _job(job: Job) -> pb.Job:
    progress, result = job.progress, job.result
    return pb.Job(
        id=job.spec.id,
        model=job.spec.model,
        version=job.spec.version,
        profile=job.spec.profile.name,
        state=job.state,
        stage=progress.stage if progress else "",
        fraction=1.0 if job.has_ended else (progress.fraction if progress else 0.0),
        text=progress.text if progress else "",
        reason=result.reason if result else "",
        variant=result.variant if result else "",
        submitted_unix_s=job.spec.submitted_unix_s,
        finished_unix_s=result.finished_unix_s if result else 0.0,
        position=job.position,
    )


def _route(route: Route) -> pb.RouteResponse:
    return pb.RouteResponse(
        model=route.model, version=route.version, variant=route.variant, previous=route.previous
    )


def figure_message(figure: Figure) -> pb.Figure:
    """A figure as clients get it."""
    return pb.Figure(
        name=figure.name,
        unit=figure.unit,
        samples=figure.samples,
        value=_estimate(figure.value),
        original=_estimate(figure.original),
        difference=_estimate(figure.difference),
        ratio=_estimate(figure.ratio),
        method=figure.method,
        condition=figure.condition,
        of_items=figure.of_items,
    )


def _check(check: Check) -> pb.Check:
    message = pb.Check(gate=check.gate, text=check.text)
    if check.passed is not None:
        message.passed = check.passed
    return message


def _estimate(estimate: Estimate | None) -> pb.Estimate | None:
    if estimate is None:
        return None
    return pb.Estimate(value=estimate.value, lower=estimate.lower, upper=estimate.upper)
