"""Raw calls to a server: what it answers, or its status code and text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.client import CallFailed, Client, inference_request
from server.pb import management_pb2 as management
from server.pb import open_inference_pb2 as inference


async def infer(
    address: str, request: inference.ModelInferRequest, timeout: float = 30
) -> inference.ModelInferResponse:
    """Send one request as it is."""
    async with Client(address) as client:
        return await client.call(
            "ModelInfer", request, inference.ModelInferResponse, timeout=timeout
        )


async def refusal(address: str, request: Any, method: str = "ModelInfer") -> tuple[str, str]:
    """Send a request that must be refused; the name of the code and the text."""
    answers = {
        "ModelInfer": inference.ModelInferResponse,
        "ModelReady": inference.ModelReadyResponse,
        "ModelMetadata": inference.ModelMetadataResponse,
        "RepositoryModelLoad": inference.RepositoryModelLoadResponse,
        "RepositoryModelUnload": inference.RepositoryModelUnloadResponse,
        "SetRoute": management.RouteResponse,
        "RollBack": management.RouteResponse,
        "SubmitJob": management.SubmitJobResponse,
        "RemoveVariant": management.RemoveVariantResponse,
        "Explain": management.ExplainResponse,
    }
    async with Client(address) as client:
        try:
            await client.call(method, request, answers[method], timeout=30)
        except CallFailed as error:
            return error.code.name, str(error)
    raise AssertionError(f"{method} was not refused")


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Random float32 in [0, 1)."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def linear_request(rows: int = 1, **changes: Any) -> inference.ModelInferRequest:
    """A right request to `tests.support.models.linear`."""
    return inference_request("linear", {"x": floats(rows, 4)}, **changes)


async def variants(admin: str, model: str, version: int = 0) -> list[management.Variant]:
    """The variants of a model as the server tells them."""
    request = management.ListVariantsRequest(model=model, version=version)
    async with Client(admin) as client:
        answer = await client.call("ListVariants", request, management.ListVariantsResponse)
    return list(answer.variants)


async def events(admin: str, model: str = "") -> list[management.Event]:
    """The events the server has journalled."""
    request = management.ListEventsRequest(model=model, limit=1000)
    async with Client(admin) as client:
        answer = await client.call("ListEvents", request, management.ListEventsResponse)
    return list(answer.events)


async def jobs(admin: str) -> list[management.Job]:
    """Every job the server knows, oldest first."""
    async with Client(admin) as client:
        answer = await client.call(
            "ListJobs", management.ListJobsRequest(), management.ListJobsResponse
        )
    return list(answer.jobs)


async def promote(
    admin: str, model: str, variant: str, *, unverified: bool = False
) -> management.RouteResponse:
    """Let a variant answer by default."""
    request = management.SetRouteRequest(model=model, variant=variant, unverified=unverified)
    async with Client(admin) as client:
        return await client.call("SetRoute", request, management.RouteResponse)


async def who_answers(public: str, model: str, **inputs: NDArray[Any]) -> str:
    """The variant that answers a call which names none."""
    async with Client(public) as client:
        _, variant = await client.infer(model, inputs)
    return variant


async def submit(admin: str, model: str, profile_text: str, name: str = "wish") -> management.Job:
    """Submit a profile given as text."""
    request = management.SubmitJobRequest(model=model, profile=name, profile_text=profile_text)
    async with Client(admin) as client:
        answer = await client.call("SubmitJob", request, management.SubmitJobResponse)
    return answer.job


async def ended(admin: str, job: str) -> management.Job:
    """Wait for a job's end."""
    async with Client(admin) as client:
        return [state async for state in client.watch_job(job)][-1]


async def index(address: str) -> dict[tuple[str, str], tuple[str, str]]:
    """What the repository index tells: (model, version) → (state, reason)."""
    async with Client(address) as client:
        answer = await client.call(
            "RepositoryIndex",
            inference.RepositoryIndexRequest(),
            inference.RepositoryIndexResponse,
        )
    return {(one.name, one.version): (one.state, one.reason) for one in answer.models}
