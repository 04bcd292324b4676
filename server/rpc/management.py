"""Hone's own API: models, variants, jobs, routes, events. Translates; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from optimizers.contract.documents import shown
from optimizers.contract.job import JobSpec
from optimizers.contract.manifest import ORIGINAL, Manifest
from optimizers.contract.profile import profile_document
from optimizers.contract.study import EXPLANATION_FILE, FRONT_FILE, REPORT_FILE
from server.errors import InvalidRequest
from server.explanations import Account, Explanations
from server.journal import Journal
from server.model import ModelVersion
from server.optimization import Optimization
from server.pb import management_pb2 as pb
from server.registry import Registry, State
from server.residency import Residency
from server.routes import Routes
from server.rpc.endpoint import Service, Streaming, Unary
from server.rpc.messages import job_message, route_message, variant_message

SERVICE_NAME: Final = "hone.v1.Management"

_MOST_EVENTS: Final = 10_000
_PART_BYTES: Final = 256 << 10


class Management:
    """Handlers of `hone.v1.Management`; each takes a message and a deadline."""

    def __init__(
        self,
        registry: Registry,
        residency: Residency,
        routes: Routes,
        optimization: Optimization,
        journal: Journal,
        explanations: Explanations,
    ) -> None:
        """Speak for these."""
        self._registry = registry
        self._residency = residency
        self._routes = routes
        self._optimization = optimization
        self._journal = journal
        self._explanations = explanations

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
                "Explain": Unary(request=pb.ExplainRequest, call=self.explain),
                "Report": Streaming(request=pb.ReportRequest, call=self.report),
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
        job, existed = await self._optimization.submit(model, profile, resume=request.resume)
        return pb.SubmitJobResponse(job=job_message(job), existed=existed)

    async def list_jobs(
        self, request: pb.ListJobsRequest, deadline: float | None
    ) -> pb.ListJobsResponse:
        """Every job, oldest first."""
        jobs = self._optimization.jobs.all()
        return pb.ListJobsResponse(jobs=[job_message(job) for job in jobs])

    async def watch_job(
        self, request: pb.WatchJobRequest, deadline: float | None
    ) -> AsyncIterator[pb.Job]:
        """A job now and whenever it changes, until it has ended."""
        async for job in self._optimization.jobs.watch(request.id):
            yield job_message(job)

    async def cancel_job(self, request: pb.CancelJobRequest, deadline: float | None) -> pb.Job:
        """End a job that waits or runs."""
        return job_message(await self._optimization.jobs.cancel(request.id))

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
        return route_message(route)

    async def roll_back(
        self, request: pb.RollBackRequest, deadline: float | None
    ) -> pb.RouteResponse:
        """Return to the variant that answered before."""
        model = await self._version(request.model, request.version)
        return route_message(await self._routes.roll_back(model))

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

    async def explain(
        self, request: pb.ExplainRequest, deadline: float | None
    ) -> pb.ExplainResponse:
        """How a variant came about, or why a job made none."""
        model, account = await self._account(request)
        response = pb.ExplainResponse(
            job=None if account.job is None else job_message(account.job),
            variant=None
            if model is None or account.manifest is None
            else self._variant(model, account.manifest),
        )
        if account.directory is not None:
            content = await asyncio.to_thread(account.read, EXPLANATION_FILE)
            response.explanation = content.decode(errors="replace")
        return response

    async def report(
        self, request: pb.ReportRequest, deadline: float | None
    ) -> AsyncIterator[pb.ReportPart]:
        """The page that a search wrote, or its picture, in parts."""
        _, account = await self._account(request.of)
        name = FRONT_FILE if request.picture else REPORT_FILE
        content = await asyncio.to_thread(account.read, name)
        for start in range(0, len(content), _PART_BYTES):
            yield pb.ReportPart(content=content[start : start + _PART_BYTES])

    async def _account(self, request: pb.ExplainRequest) -> tuple[ModelVersion | None, Account]:
        """What a request asks to be explained, and the version it is about where that serves."""
        if request.job:
            if request.variant:
                raise InvalidRequest("name a job or a variant, not both")
            spec = self._optimization.jobs.get(request.job).spec
            _require_same(request, spec)
            model = self._registry.version(spec.model, spec.version)
            return model, self._explanations.of_job(model, request.job)
        model = await self._version(request.model, request.version)
        if request.variant:
            return model, self._explanations.of_variant(model, request.variant)
        return model, self._explanations.newest(model)

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
        message = variant_message(manifest)
        message.active = manifest.variant == model.active.variant
        message.open = model.opened(manifest.variant) is not None
        if is_original:
            message.size_bytes = _file_bytes(model.original_file)
        else:
            message.certificate_void = self._routes.void_certificate(manifest)
        return message


def _require_same(request: pb.ExplainRequest, job: JobSpec) -> None:
    """Make sure that a job is about the model and the version that are named beside it, if any.

    Raises:
        InvalidRequest: It is not.
    """
    for kind, named, right in (
        ("model", request.model, job.model),
        ("version", request.version, job.version),
    ):
        if named and named != right:
            raise InvalidRequest(f"job {job.id} is about {kind} {right}, not {shown(named)}")


def _file_bytes(path: Path) -> int:
    """The file's size; 0 when it was taken away after it was loaded."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
