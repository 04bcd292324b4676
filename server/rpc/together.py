"""Requests that came together and need not wait: one run, and no coroutine for any of them.

What one request of a small model costs is mostly what is done for it besides the run; here that is
done once for all that came in one burst. Only what nothing stands against goes this way: requests
of a known form without parameters, to a variant whose runs are short and for which nobody waits.
All others are answered one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from optimizers.contract.errors import RunFailed, SessionClosed
from server.batcher import Batcher
from server.errors import ServingError
from server.model import ModelVersion
from server.registry import Registry
from server.rpc.forms import Form, InferenceRequest
from server.rpc.layouts import Layouts
from server.waiting import Arrays


class Together:
    """Answers bursts."""

    def __init__(
        self, registry: Registry, layouts: Callable[[ModelVersion], Layouts | None]
    ) -> None:
        """Answer from `registry`.

        Args:
            registry: What serves.
            layouts: A version's layouts, which own the forms of its requests; None: it has none.
        """
        self._registry = registry
        self._layouts = layouts

    def answer(self, requests: Sequence[InferenceRequest]) -> list[bytes | None]:
        """The serialised answer to each request; None for those that must go the usual way."""
        answers: list[bytes | None] = [None] * len(requests)
        places: dict[Form, list[int]] = {}
        for place, request in enumerate(requests):
            form = request.form
            if form is not None and not form.parameters:
                places.setdefault(form, []).append(place)
        for form, theirs in places.items():
            found = self._of_one_form(form, [requests[place] for place in theirs])
            for place, answer in zip(theirs, found, strict=False):
                answers[place] = answer
        return answers

    def _of_one_form(self, form: Form, requests: Sequence[InferenceRequest]) -> list[bytes]:
        """Answers to the first few of them; to all, as a rule."""
        try:
            model, address = self._registry.find(form.model_name, form.model_version)
        except ServingError:
            return []
        layouts, opened = self._layouts(model), model.active
        if address or layouts is not form.owner or layouts is None or opened.at_once is None:
            return []
        answers: list[bytes] = []
        while left := len(requests) - len(answers):
            start = time.perf_counter()
            count = opened.at_once.most_at_once(form.alike, left)
            part = requests[len(answers) : len(answers) + count]
            arrays = _run(opened.at_once, form, part) if count else None
            if arrays is None:
                break
            answers += layouts.encode_each(
                model_name=model.name,
                version=model.version,
                variant=opened.variant,
                request_ids=[request.id for request in part],
                names=form.alike.outputs,
                arrays=arrays,
            )
            model.last_used_s = start
            opened.metrics.succeeded([time.perf_counter() - start] * count)
        return answers


def _run(batcher: Batcher, form: Form, requests: Sequence[InferenceRequest]) -> Arrays | None:
    """What one run gives for all of them; None where each must be answered by itself."""
    count = len(requests)
    try:
        feeds = form.joined([request.content for request in requests])
        arrays = batcher.infer_at_once(feeds, form.alike, count)
    except (RunFailed, SessionClosed):
        return None
    rows = form.alike.rows * count
    for array in arrays:
        is_split = count == 1 or (array.ndim > 0 and array.shape[0] == rows)
        if not is_split or array.dtype.hasobject:
            return None
    return arrays
