"""Spans of inference requests, sent to an OpenTelemetry collector. Imported only when asked for.

Each sampled request gives three spans: itself, its wait in the queue and its run. They are made
from its timeline when it is over, so that nothing is measured twice and nothing stays open.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from optimizers.contract.documents import cut
from server.timeline import Timeline

METHOD: Final = "inference.GRPCInferenceService/ModelInfer"
_PATH: Final = "/v1/traces"
_SERVED_BY: Final = ("hone.model", "hone.version", "hone.variant")
_LONGEST_VALUE: Final = 256
_MOST_LINKS: Final = 32
_SEND_SECONDS: Final = 5
_CARRIED: Final = ("traceparent", "tracestate")
_OUR_FAULT: Final = frozenset(
    ("DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN")
)
"""Codes that mark a server's span as failed; the others are the caller's own doing."""


class Tracing:
    """Makes spans and sends them from a thread of its own."""

    def __init__(self, endpoint: str, *, ratio: float, version: str) -> None:
        """Send to a collector.

        Args:
            endpoint: Its URL for OTLP over HTTP; `/v1/traces` is added where it names no path.
            ratio: Share of requests that begin a trace, 0 to 1; a caller's own trace decides
                for itself.
            version: Of this server.
        """
        address = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + _PATH
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": "hone", "service.version": version}),
        )
        exporter = OTLPSpanExporter(endpoint=address, timeout=_SEND_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hone", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(
        self, metadata: Iterable[tuple[str, str | bytes]], *, model: str, request_id: str
    ) -> TracedRequest | None:
        """Begin the span of a request; None when this one is not sampled.

        Args:
            metadata: Of its call; `traceparent` there makes it part of the caller's trace.
            model: The model it names.
            request_id: Its id.
        """
        carried = {
            key: value for key, value in metadata if key in _CARRIED and isinstance(value, str)
        }
        span = self._tracer.start_span(
            METHOD,
            context=self._propagator.extract(carried),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": METHOD,
                "hone.model": cut(model, _LONGEST_VALUE),
                "hone.request_id": cut(request_id, _LONGEST_VALUE),
            },
        )
        return TracedRequest(self, span) if span.is_recording() else None

    def child(
        self,
        parent: Span,
        name: str,
        start: float,
        end: float,
        attributes: Mapping[str, str | int],
        links: list[Link] | None = None,
    ) -> None:
        """Record what is over already; `start` and `end` are on the monotonic clock."""
        zero_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            name,
            context=set_span_in_context(parent),
            attributes=attributes,
            links=links,
            start_time=zero_ns + int(start * 1e9),
        )
        span.end(zero_ns + int(end * 1e9))

    def close(self) -> None:
        """Send what is left; blocks for some seconds at most."""
        self._provider.shutdown()


class TracedRequest:
    """One request that is sampled.

    Attributes:
        timeline: To be filled while it waits and runs.
    """

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self.timeline = Timeline(span.get_span_context())

    def end(self, code: str) -> None:
        """The request is over, with the gRPC status code of that name."""
        span, timeline = self._span, self.timeline
        served: dict[str, str | int] = dict(zip(_SERVED_BY, timeline.served_by, strict=False))
        span.set_attributes({**served, "rpc.response.status_code": code})
        if code in _OUR_FAULT:
            span.set_status(Status(StatusCode.ERROR, code))
        if timeline.queued_at is not None:
            started = timeline.started_at
            left = time.monotonic() if started is None else started
            attributes = {**served, "hone.ran": started is not None}
            self._tracing.child(span, "queue", timeline.queued_at, left, attributes)
        if timeline.started_at is not None and timeline.ended_at is not None:
            others = [one.identity for one in timeline.together if one is not timeline]
            attributes = {
                **served,
                "hone.batch.rows": timeline.rows,
                "hone.batch.traced_requests": len(timeline.together),
            }
            links = [Link(identity) for identity in others[:_MOST_LINKS]]
            run = (timeline.started_at, timeline.ended_at)
            self._tracing.child(span, "run", *run, attributes, links)
        timeline.together = ()
        span.end()
