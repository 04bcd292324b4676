"""A random walk of loads, swaps and unloads under traffic: no answer is lost, none is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from optimizers.contract.runtime import Session, SessionSpec
from server.client import CallFailed, Client, inference_request
from server.pb import management_pb2 as management
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import floats
from tests.support.ledger import Changing
from tests.support.servers import Server, running
from tests.support.variants import make_variant

STEPS = 70
CALLERS = 3
SIZES = (16, 32, 4)
PROBES = floats(8, SIZES[0])
ORIGINAL = "original"
LABELS = {"stable": 1, "canary": 2}
REASONS = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE}


class World:
    """A repository with its server, and what a right server would do with it.

    Version 1 has variants; version 2 comes, changes and goes. Both serve, the newer by default.
    """

    def __init__(self, directory: Path) -> None:
        self.repository, self.state = directory / "models", directory / "state"
        self.folder = self.repository / "net"
        original = models.perceptron(self.folder / "1/model.onnx", sizes=SIZES)
        (self.folder / "config.pbtxt").write_text("version_policy: { all {} }")
        (self.folder / "hone.yaml").write_text("labels: {stable: 1, canary: 2}\n")
        self.answers = {(1, ORIGINAL): answers_of(original)}
        for seed in (1, 2, 3, 4):
            sealed = make_variant(
                self.state,
                original,
                "net",
                lambda path, seed=seed: models.perceptron(path, sizes=SIZES, seed=seed),
                profile=f"profile{seed}",
                golden_inputs={"x": PROBES[:1]},
            )
            self.answers[1, sealed.manifest.variant] = answers_of(sealed.model_file)
        self.variants = {
            variant: Changing(True) for version, variant in self.answers if variant != ORIGINAL
        }
        self.active: Changing[str | None] = Changing(ORIGINAL)
        """The variant of version 1 that answers; None while the model is unloaded."""
        self.routed, self.previous = ORIGINAL, ""
        self.second: Changing[int | None] = Changing(None)
        """Which content of version 2 answers."""
        self.on_disk: int | None = None

    # What the operator does, and what must come of it

    async def promote(self, operator: Client, random: np.random.Generator) -> None:
        variant = str(random.choice([ORIGINAL, *self.variants]))
        exists = variant == ORIGINAL or self.variants[variant].value
        request = management.SetRouteRequest(model="net", version=1, variant=variant)
        if self.active.value is None or not exists:
            await refused(operator, "SetRoute", request, management.RouteResponse)
            return
        with self.active.becoming(variant):
            await operator.call("SetRoute", request, management.RouteResponse)
        if variant != self.routed:
            self.routed, self.previous = variant, self.routed

    async def roll_back(self, operator: Client, random: np.random.Generator) -> None:
        request = management.RollBackRequest(model="net", version=1)
        target = self.previous or ORIGINAL
        if self.active.value is None or target == self.routed:
            await refused(operator, "RollBack", request, management.RouteResponse)
            return
        with self.active.becoming(target):
            await operator.call("RollBack", request, management.RouteResponse)
        self.routed, self.previous = target, ""

    async def remove(self, operator: Client, random: np.random.Generator) -> None:
        variant = str(random.choice([*self.variants]))
        request = management.RemoveVariantRequest(model="net", version=1, variant=variant)
        stays = variant in (self.routed, self.previous) or not self.variants[variant].value
        if self.active.value is None or stays:
            await refused(operator, "RemoveVariant", request, management.RemoveVariantResponse)
            return
        with self.variants[variant].becoming(False):
            await operator.call("RemoveVariant", request, management.RemoveVariantResponse)

    async def load(self, operator: Client, random: np.random.Generator) -> None:
        request = inference.RepositoryModelLoadRequest(model_name="net")
        with ExitStack() as changes:
            changes.enter_context(self.active.becoming(self.routed))
            changes.enter_context(self.second.becoming(self.on_disk))
            await operator.call(
                "RepositoryModelLoad", request, inference.RepositoryModelLoadResponse
            )

    async def unload(self, operator: Client, random: np.random.Generator) -> None:
        request = inference.RepositoryModelUnloadRequest(model_name="net")
        with self.active.becoming(None), self.second.becoming(None):
            await operator.call(
                "RepositoryModelUnload", request, inference.RepositoryModelUnloadResponse
            )

    async def change_repository(self, operator: Client, random: np.random.Generator) -> None:
        """Deliver another version 2, or take it away; nothing changes before the next load."""
        if self.on_disk is not None and random.random() < 0.4:
            shutil.rmtree(self.folder / "2")
            self.on_disk = None
        else:
            content = len(self.answers) + 100
            fresh = models.perceptron(self.folder / "fresh", sizes=SIZES, seed=content)
            self.answers[2, str(content)] = answers_of(fresh)
            (self.folder / "2").mkdir(exist_ok=True)
            os.replace(fresh, self.folder / "2/model.onnx")
            self.on_disk = content
        if random.random() < 0.8:
            await self.load(operator, random)

    # What a caller may see

    def require_right(self, address: str, sent: float, answer: Any, probe: int) -> None:
        """The answer is that of something which served between `sent` and now."""
        version, variant = int(answer.model_version), answer.parameters["variant"].string_param
        wanted, named = meant(address)
        first, second = self.active.since(sent), self.second.since(sent)
        assert wanted in (0, version), "another version answered than the one named"
        if not wanted and version == 1:
            assert None in second, "the newest version answers where none is named"
        assert not named or variant == named, "another variant answered than the one named"
        if version == 1:
            assert named or variant in first, f"{variant} was not active: {first}"
            right = [self.answers[1, variant]]
        else:
            assert variant == ORIGINAL
            right = [self.answers[2, str(one)] for one in second if one is not None]
        got = np.frombuffer(answer.raw_output_contents[0], np.float32)
        assert any(np.allclose(got, one[probe], atol=1e-4) for one in right), "a wrong answer"

    def require_reason(self, address: str, sent: float, error: CallFailed) -> None:
        """It was refused because what it asked for may have been away."""
        version, named = meant(address)
        may_be_away = None in (self.second if version == 2 else self.active).since(sent)
        if named and named != ORIGINAL:
            may_be_on_second = not version and any(self.second.since(sent))
            may_be_away |= False in self.variants[named].since(sent) or may_be_on_second
        assert error.code in REASONS, f"{address!r}: {error.code}: {error}"
        assert may_be_away, f"{address!r} was refused for nothing: {error}"


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_is_done_to_a_model_every_answer_is_one_that_it_could_give(
    tmp_path: Path, seed: int
) -> None:
    world, random = World(tmp_path), np.random.default_rng(seed)
    steps = [world.promote] * 4 + [world.roll_back] * 2 + [world.change_repository] * 3
    steps += [world.load] * 2 + [world.unload, world.remove]
    taken: Counter[str] = Counter()
    ledger: Counter[str] = Counter()
    over = asyncio.Event()
    with running(world.repository, world.state, "--cpus", "2") as server:
        async with AsyncExitStack() as stack:
            operator = await stack.enter_async_context(Client(server.admin))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for number in range(CALLERS):
                group.create_task(keep_asking(world, server, ledger, over, 10 * seed + number))
            for _ in range(STEPS):
                step = steps[random.integers(len(steps))]
                await step(operator, random)
                taken[step.__name__] += 1
                if world.active.value is None:
                    await asyncio.sleep(0.02)
                    await world.load(operator, random)
                await asyncio.sleep(0.02)
            over.set()
    assert len(taken) == len(set(steps)), f"not everything was done: {taken}"
    assert ledger["sent"] == ledger["answered"] + ledger["refused"]
    assert ledger["answered"] > 10 * STEPS, f"too little was asked: {ledger}"


async def keep_asking(
    world: World, server: Server, ledger: Counter[str], over: asyncio.Event, seed: int
) -> None:
    """One request after another, each by one of the addresses there are."""
    random = np.random.default_rng(seed)
    named = [f"{number}@{one}" for number in ("", "1", "stable") for one in world.variants]
    plain = ["", "1", "2", "stable", "canary", "1@original", "@original"]
    async with Client(server.public) as client:
        while not over.is_set():
            address = str(random.choice(named if random.random() < 0.15 else plain))
            probe = int(random.integers(len(PROBES)))
            request = inference_request("net", {"x": PROBES[probe : probe + 1]}, version=address)
            sent = time.monotonic()
            ledger["sent"] += 1
            try:
                answer = await client.call(
                    "ModelInfer", request, inference.ModelInferResponse, timeout=30
                )
            except CallFailed as error:
                world.require_reason(address, sent, error)
                ledger["refused"] += 1
            else:
                world.require_right(address, sent, answer, probe)
                ledger["answered"] += 1


def meant(address: str) -> tuple[int, str]:
    """The version and the variant that an address names; 0 and "" where it names none."""
    number, _, named = address.partition("@")
    return LABELS.get(number) or int(number or 0), named


async def refused(client: Client, method: str, request: Any, response: Any) -> None:
    with pytest.raises(CallFailed):
        await client.call(method, request, response)


def answers_of(file: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a model file answers to every probe."""
    session = Session(file, SessionSpec())
    answers = session.run({"x": PROBES})[0]
    session.close()
    return np.asarray(answers, np.float32)
