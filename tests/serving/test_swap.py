"""Routes change under load without a failed request, a wrong answer, or memory left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from optimizers.contract.evaluation import Verdict
from optimizers.contract.host import this_host
from optimizers.contract.memory import mapped_memory
from optimizers.contract.runtime import Session, SessionSpec
from server.client import Client, inference_request
from server.pb import management_pb2 as management
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import (
    events,
    floats,
    linear_request,
    promote,
    refusal,
    variants,
    who_answers,
)
from tests.support.servers import running
from tests.support.variants import make_variant

SIZES = (64, 512, 512, 8)
CALLERS = 4
ROUNDS = 30
TOLERANCE = 1e-3


async def test_fifty_swaps_under_load_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    original = models.perceptron(tmp_path / "models/net/1/model.onnx", sizes=SIZES)
    state = tmp_path / "state"
    probes = floats(16, SIZES[0])
    sealed = make_variant(
        state,
        original,
        "net",
        lambda path: models.perceptron(path, sizes=SIZES, seed=1),
        golden_inputs={"x": probes[:2]},
        tolerance=TOLERANCE,
    )
    files = {"original": original, sealed.manifest.variant: sealed.model_file}
    expected = {}
    for name, file in files.items():
        session = Session(file, SessionSpec())
        expected[name] = [session.run({"x": probes[i : i + 1]})[0] for i in range(len(probes))]
        session.close()
    apart = [np.abs(one - other).max() for one, other in zip(*expected.values(), strict=True)]
    assert min(apart) > 10 * TOLERANCE, "the variants are too much alike to be told apart"

    answered = dict.fromkeys(files, 0)
    over = asyncio.Event()

    async def caller(address: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        async with Client(address) as client:
            while not over.is_set():
                item = int(random.integers(len(probes)))
                answers, variant = await client.infer("net", {"x": probes[item : item + 1]})
                difference = np.abs(answers["logits"] - expected[variant][item]).max()
                assert difference <= TOLERANCE, f"{variant} answered like another variant"
                answered[variant] += 1

    with running(tmp_path / "models", state, "--cpus", "2") as server:
        async with asyncio.TaskGroup() as group:
            for seed in range(CALLERS):
                group.create_task(caller(server.public, seed))
            async with Client(server.admin) as operator:
                route = management.SetRouteRequest(model="net", variant=sealed.manifest.variant)
                back = management.RollBackRequest(model="net")
                settled = 0
                for turn in range(ROUNDS):
                    await operator.call("SetRoute", route, management.RouteResponse)
                    await asyncio.sleep(0.02)
                    await operator.call("RollBack", back, management.RouteResponse)
                    await asyncio.sleep(0.02)
                    if turn == ROUNDS // 3:
                        settled = mapped_memory(server.process.pid).total_bytes
                await asyncio.sleep(0.5)
                after = mapped_memory(server.process.pid).total_bytes
            over.set()
        still_open = [one.id for one in await variants(server.admin, "net") if one.open]
        told = [event.kind for event in await events(server.admin, "net")]
    assert min(answered.values()) > ROUNDS, f"not every variant was asked often enough: {answered}"
    assert told.count("promoted") == told.count("rolled_back") == ROUNDS
    assert still_open == ["original"]
    assert abs(after - settled) <= 0.05 * settled, f"{settled >> 20} MiB became {after >> 20} MiB"


async def test_a_variant_that_does_not_reproduce_its_golden_answers_is_not_swapped_in(
    tmp_path: Path,
) -> None:
    original = models.linear(tmp_path / "models/linear/1/model.onnx")
    state = tmp_path / "state"
    sealed = make_variant(
        state,
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
        spoil_golden=0.01,
    )
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        request = management.SetRouteRequest(model="linear", variant=sealed.manifest.variant)
        code, text = await refusal(server.admin, request, "SetRoute")
        assert (code, "answers differently here" in text) == ("FAILED_PRECONDITION", True), text
        answered = await who_answers(server.public, "linear", x=floats(1, 4))
        assert answered == "original"
        assert [event.kind for event in await events(server.admin)] == ["swap_refused"]


async def test_variants_are_addressed_by_id_profile_and_original(tmp_path: Path) -> None:
    original = models.linear(tmp_path / "models/linear/1/model.onnx")
    state = tmp_path / "state"
    sealed = make_variant(
        state,
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
    )
    identity = sealed.manifest.variant
    (tmp_path / "models/linear/hone.yaml").write_text("labels: {stable: 1, canary: 2}\n")
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        request = linear_request(version="canary")
        code, text = await refusal(server.public, request)
        assert (code, "version 2 is not found" in text) == ("NOT_FOUND", True), text
        async with Client(server.public) as client:
            for address, expected in (
                ("stable", "original"),
                ("stable@fast", identity),
                ("", "original"),
                ("1", "original"),
                ("@fast", identity),
                (f"1@{identity}", identity),
                ("1@original", "original"),
            ):
                _, answered = await client.infer("linear", {"x": floats(1, 4)}, version=address)
                assert answered == expected, address


async def test_only_what_is_proved_here_is_promoted_without_force(tmp_path: Path) -> None:
    original = models.linear(tmp_path / "models/linear/1/model.onnx")
    state = tmp_path / "state"
    elsewhere = replace(this_host(2), cpu_features=("sse",))

    def make(seed: int, verdict: Verdict, away: bool) -> str:
        sealed = make_variant(
            state,
            original,
            "linear",
            lambda path: models.linear(path, seed=seed),
            golden_inputs={"x": floats(2, 4)},
            verdict=verdict,
            host=elsewhere if away else None,
        )
        return sealed.manifest.variant

    refused = make(1, Verdict.REFUSED, away=False)
    foreign = make(2, Verdict.PROVED, away=True)
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        for variant, part in ((refused, "is refused"), (foreign, "not valid here")):
            request = management.SetRouteRequest(model="linear", variant=variant)
            code, text = await refusal(server.admin, request, "SetRoute")
            assert (code, part in text) == ("FAILED_PRECONDITION", True), text
            await promote(server.admin, "linear", variant, unverified=True)
    # A route to a variant whose certificate says nothing here does not survive a restart.
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        answered = await who_answers(server.public, "linear", x=floats(1, 4))
        told = [event for event in await events(server.admin) if event.kind == "fell_back"]
    assert answered == "original"
    assert [foreign in event.text for event in told] == [True]


async def test_a_damaged_variant_is_quarantined_and_the_original_answers(tmp_path: Path) -> None:
    original = models.linear(tmp_path / "models/linear/1/model.onnx")
    state = tmp_path / "state"
    sealed = make_variant(
        state,
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
    )
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        await promote(server.admin, "linear", "fast")
    content = bytearray(sealed.model_file.read_bytes())
    content[len(content) // 2] ^= 1
    sealed.model_file.write_bytes(content)
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        answered = await who_answers(server.public, "linear", x=floats(1, 4))
        assert answered == "original"
        assert "fell_back" in [event.kind for event in await events(server.admin)]
    assert list((state / "quarantine").iterdir())


async def test_promotions_reloads_and_named_variants_at_once_leave_one_truth(
    tmp_path: Path,
) -> None:
    original = models.perceptron(tmp_path / "models/net/1/model.onnx", sizes=SIZES)
    state = tmp_path / "state"
    probe = floats(1, SIZES[0])
    names = [
        make_variant(
            state,
            original,
            "net",
            lambda path, seed=seed: models.perceptron(path, sizes=SIZES, seed=seed),
            profile=f"profile{seed}",
            golden_inputs={"x": probe},
        ).manifest.variant
        for seed in (1, 2, 3)
    ]
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        load = inference.RepositoryModelLoadRequest(model_name="net")
        async with Client(server.public) as caller, Client(server.admin) as operator:

            async def reload() -> None:
                await operator.call(
                    "RepositoryModelLoad", load, inference.RepositoryModelLoadResponse
                )

            for turn in range(6):
                promoted = names[turn % 3]
                asking = [caller.infer("net", {"x": probe}, version=f"@{name}") for name in names]
                promoting = promote(server.admin, "net", promoted)
                await asyncio.gather(reload(), promoting, reload(), *asking)
                assert await who_answers(server.public, "net", x=probe) == promoted
            unload = inference.RepositoryModelUnloadRequest(model_name="net")
            asking = [caller.infer("net", {"x": probe}, version=f"@{name}") for name in names]
            unloading = operator.call(
                "RepositoryModelUnload", unload, inference.RepositoryModelUnloadResponse
            )
            await asyncio.gather(*asking, unloading, return_exceptions=True)
            page = await asyncio.to_thread(lambda: urlopen(server.metrics).read().decode())
            assert "hone_variant_info{" not in page
            assert open_model_files(server.process.pid) == 0
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        assert await who_answers(server.public, "net", x=probe) == promoted


def open_model_files(process: int) -> int:
    """Sessions still alive in a process, counted by the threads of their lanes."""
    names = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/comm")]
    return sum(name.startswith("lane") for name in names)


async def test_who_asks_for_another_variant_than_the_active_one_is_not_joined_by_its_rules(
    tmp_path: Path,
) -> None:
    original = models.free_widths(tmp_path / "models/widths/1/model.onnx")
    state = tmp_path / "state"
    alone = make_variant(
        state,
        original,
        "widths",
        models.free_widths,
        golden_inputs={"a": floats(1, 2), "b": floats(1, 2)},
        max_batch=1,
    )
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        await promote(server.admin, "widths", alone.manifest.variant)
        request = inference_request("widths", {"a": floats(1, 2), "b": floats(3, 2)})
        request.model_version = "@original"
        code, text = await refusal(server.public, request)
        assert (code, "same number of rows" in text) == ("INVALID_ARGUMENT", True), text


async def test_an_overwritten_original_detaches_its_variants(tmp_path: Path) -> None:
    file = tmp_path / "models/linear/1/model.onnx"
    original = models.linear(file)
    state = tmp_path / "state"
    make_variant(
        state,
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
    )
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        await promote(server.admin, "linear", "fast")
    models.linear(file, seed=5)
    with running(tmp_path / "models", state, "--cpus", "2") as server:
        answered = await who_answers(server.public, "linear", x=floats(1, 4))
        kinds = [event.kind for event in await events(server.admin)]
        listed = [one.id for one in await variants(server.admin, "linear")]
    assert answered == "original"
    assert {"original_changed", "fell_back"} <= set(kinds)
    assert listed == ["original"]
