"""Requests that came together and need not wait: one run, and no coroutine for any of them.

What one request of a small model costs is mostly what is done for it besides the run; here that is
done once for all that came in one burst. Only what nothing stands against goes this way: requests
of a known form without parameters, to a variant whose runs are short and for which nobody waits.
All others go the usual way, where they may still share runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from optimizers.contract.errors import HoneError
from server.batcher import Batcher
from server.model import ModelVersion
from server.registry import Registry
from server.rpc.forms import Form, InferenceRequest
from server.rpc.layouts import Layouts

_LONGEST_S: Final = 0.005
"""For a burst; what is left by then waits in line, where deadlines are looked at."""


class Together:
    """Answers bursts."""

    def __init__(
        self, registry: Registry, layouts: Callable[[ModelVersion], Layouts | None]
    ) -> None:
        """Answer from `registry`.

        Args:
            registry: What serves.
            layouts: A version's layouts, for which its requests' forms were learned; None: it has
                none yet.
        """
        self._registry = registry
        self._layouts = layouts

    def takes(self, request: InferenceRequest) -> bool:
        """Whether a request may be answered together with others."""
        form = request.form
        return (
            form is not None and form.runs_at_once and not form.parameters and not form.gives_texts
        )

    def answer(self, requests: Sequence[InferenceRequest]) -> list[bytes | None]:
        """The serialised answer to each request; None for those that go the usual way."""
        start = time.perf_counter()
        answers: list[bytes | None] = [None] * len(requests)
        places: dict[Form, list[int]] = {}
        for place, request in enumerate(requests):
            if request.form is not None:
                places.setdefault(request.form, []).append(place)
        for form, theirs in places.items():
            found = self._of_one_form(form, [requests[place] for place in theirs], start)
            for place, answer in zip(theirs, found, strict=False):
                answers[place] = answer
        return answers

    def _of_one_form(
        self, form: Form, requests: Sequence[InferenceRequest], start: float
    ) -> list[bytes]:
        """Answers to the first few of them; to all, as a rule."""
        answers: list[bytes] = []
        try:
            model, address = self._registry.find(form.model_name, form.model_version)
            layouts, batcher = self._layouts(model), model.active.at_once
            if address or layouts is None or layouts is not form.owner or batcher is None:
                return []
            while len(answers) < len(requests) and time.perf_counter() < start + _LONGEST_S:
                left = requests[len(answers) :]
                count = batcher.most_at_once(form.alike, len(left))
                if not count:
                    break
                answers += _run(model, batcher, layouts, form, left[:count], start)
        except HoneError:
            # Each finds out by itself what is wrong, and whether with it or with another one.
            return answers
        return answers


def _run(
    model: ModelVersion,
    batcher: Batcher,
    layouts: Layouts,
    form: Form,
    requests: Sequence[InferenceRequest],
    start: float,
) -> list[bytes]:
    """Answer requests by one run; they came at `start`.

    Raises:
        HoneError: It failed.
    """
    count, opened = len(requests), model.active
    totals = opened.metrics.version
    totals.in_flight += count
    try:
        feeds = form.joined([request.content for request in requests])
        waited_s = time.perf_counter() - start
        arrays = batcher.infer_at_once(feeds, form.alike, count, waited_s)
        answers = layouts.encode_each(
            model_name=model.name,
            version=model.version,
            variant=opened.variant,
            request_ids=[request.id for request in requests],
            names=form.alike.outputs,
            arrays=arrays,
        )
    finally:
        totals.in_flight -= count
    model.last_used_s = start
    opened.metrics.succeeded([time.perf_counter() - start] * count)
    return answers
