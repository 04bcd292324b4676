"""Values of the domain as messages of Hone's own API."""

from __future__ import annotations

import time

from optimizers.contract.described import recipe_text
from optimizers.contract.evaluation import Certificate, Check, Estimate, Figure
from optimizers.contract.goal import Goal
from optimizers.contract.manifest import Manifest
from optimizers.contract.study import Trial
from server.job_search import SearchState
from server.jobs import Job
from server.journal import Route
from server.pb import management_pb2 as pb


def job_message(job: Job) -> pb.Job:
    """A job as it stands now."""
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
        search=None if job.search is None else _search(job.search, job),
    )


def variant_message(manifest: Manifest) -> pb.Variant:
    """What a manifest says of a variant; who answers and what is open is left out."""
    message = pb.Variant(
        model=manifest.model,
        version=manifest.version,
        id=manifest.variant,
        profile=manifest.profile,
        recipe=str(manifest.recipe),
        notes=[f"{record.step}: {note}" for record in manifest.records for note in record.notes],
        size_bytes=manifest.size_bytes,
        created_unix_s=manifest.created_unix_s,
    )
    evaluation = manifest.evaluation
    if evaluation is not None:
        message.verdict = evaluation.verdict
        message.reasons.extend(evaluation.reasons)
        message.figures.extend(figure_message(figure) for figure in evaluation.figures)
        message.checks.extend(_check(check) for check in evaluation.checks)
        message.certificate.CopyFrom(_certificate(evaluation.certificate))
    return message


def figure_message(figure: Figure) -> pb.Figure:
    """A measured quantity beside the original's."""
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


def trial_message(trial: Trial, goal: Goal) -> pb.Trial:
    """One recipe of a search; what the goal is after comes first, then what it requires."""
    order = {name: index for index, name in enumerate(goal.figures)}
    figures = sorted(
        trial.figures,
        key=lambda one: (bool(one.condition), order.get(one.name, len(order))),
    )
    return pb.Trial(
        number=trial.number,
        recipe=recipe_text(trial.recipe),
        origin=trial.origin,
        state=trial.state,
        level=trial.level,
        levels=trial.levels,
        figures=[figure_message(figure) for figure in figures],
        violation=trial.violation,
        reason=trial.reason,
        seconds=trial.seconds,
    )


def route_message(route: Route) -> pb.RouteResponse:
    """Who answers, and who did before."""
    return pb.RouteResponse(
        model=route.model, version=route.version, variant=route.variant, previous=route.previous
    )


def _search(search: SearchState, job: Job) -> pb.Search:
    goal = job.spec.profile.goal
    now = search.paused_unix_s or time.time()
    return pb.Search(
        trials_done=search.trials_done,
        trials_total=search.trials_total,
        seconds_left=0.0 if job.has_ended else max(0.0, search.ends_unix_s - now),
        newest=[trial_message(trial, goal) for trial in search.newest],
        front=[trial_message(trial, goal) for trial in search.front],
        winner=search.winner,
        ended_because=search.ended_because,
    )


def _certificate(certificate: Certificate) -> pb.Certificate:
    host = certificate.host
    return pb.Certificate(
        host=f"{host.processor} ({host.architecture}), {host.cpus} processors",
        cpu_features=host.cpu_features,
        gpus=host.gpus,
        onnxruntime=host.onnxruntime,
        provider=certificate.provider,
        issued_unix_s=certificate.issued_unix_s,
        confidence=certificate.confidence,
        gate_use=certificate.gate_use,
        gate_sha256=certificate.gate_sha256,
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
