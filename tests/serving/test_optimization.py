"""What is submitted and what follows from a job's end, in a server that nobody can call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from optimizers.contract.digests import file_sha256
from optimizers.contract.directory import VariantDirectory
from optimizers.contract.evaluation import Verdict
from optimizers.contract.host import this_host
from optimizers.contract.ingredients import Ingredients
from optimizers.contract.job import JobState
from optimizers.contract.manifest import ORIGINAL
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec
from server.app import App
from server.config import ServerConfig
from server.jobs import Job
from server.model import ModelVersion
from server.optimization import Optimization
from tests.support import models
from tests.support.calls import floats
from tests.support.data import policy, write_data
from tests.support.variants import make_variant
from tests.support.workers import ENDLESS, result, worker

SIZES = (16, 64, 64, 4)
FAST = "  fast: {recipe: [{dynamic_int8: {}}], goal: {optimize: [size]}}"


@dataclass(frozen=True, slots=True)
class Workshop:
    """A server's inside with one model, `net`, that nobody can call."""

    app: App
    optimization: Optimization

    @property
    def model(self) -> ModelVersion:
        [model] = self.app.registry.models("net")
        return model

    async def events(self) -> list[str]:
        return [event.kind for event in await self.app.journal.events()]

    async def submit(self) -> tuple[Job, bool]:
        return await self.optimization.submit(
            self.model, self.optimization.profile(self.model, "fast")
        )

    async def ended(self, job: Job) -> Job:
        """Wait until a job has ended and all that follows is done."""
        async with asyncio.timeout(30):
            async for now in self.optimization.jobs.watch(job.spec.id):
                job = now
            return await self.optimization.jobs.cancel(job.spec.id)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    model = models.perceptron(tmp_path / "models/net/1/model.onnx", sizes=SIZES)
    write_data(tmp_path / "models/net/data", model, gate_items=8, calibration_items=8)
    (tmp_path / "models/net/hone.yaml").write_text(policy(FAST))
    return model


@contextlib.asynccontextmanager
async def workshop(directory: Path, script: str, **settings: Any) -> AsyncIterator[Workshop]:
    config = ServerConfig(
        repository=directory / "models", state=directory / "state", cpus=2, **settings
    )
    app = App(config)
    optimization = Optimization(
        registry=app.registry,
        routes=app.routes,
        loading=app.loading,
        store=app.store,
        journal=app.journal,
        metrics=app.metrics,
        config=config,
        host=app.host,
        worker=worker(script),
    )
    try:
        await optimization.start()
        await app.loading.scan()
        await app.loading.load_all()
        yield Workshop(app, optimization)
    finally:
        await optimization.close()
        await app.loading.close()
        app.journal.close()
        app.store.close()


def variant(state: Path, original: Path, *, seed: int = 1, **changes: Any) -> VariantDirectory:
    return make_variant(
        state,
        original,
        "net",
        lambda path: models.perceptron(path, sizes=SIZES, seed=seed),
        golden_inputs={"x": floats(2, SIZES[0])},
        **changes,
    )


def hands_over(made: VariantDirectory, state: JobState = JobState.SUCCEEDED) -> str:
    """A worker's script that delivers a variant made before."""
    return f"cp -r {made.path} $1/variant; {result(state, made.manifest.variant)}"


async def test_equal_submits_at_the_same_time_are_one_job_and_one_use_of_the_gate(
    tmp_path: Path, original: Path
) -> None:
    async with workshop(tmp_path, ENDLESS) as shop:
        answers = await asyncio.gather(*(shop.submit() for _ in range(3)))
        assert sorted(existed for _, existed in answers) == [False, True, True]
        [job] = shop.optimization.jobs.all()
        assert {one.spec.id for one, _ in answers} == {job.spec.id}
        assert job.spec.gate_use == 1
        gate = file_sha256(tmp_path / "models/net/data/gate.npz")
        assert await shop.app.journal.spend_gate(gate, "net") == 2
        assert await shop.events() == ["job_submitted"]


async def test_who_gives_up_a_submit_has_spent_the_gate_for_a_job_that_is_there(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workshop(tmp_path, ENDLESS) as shop:
        spend = shop.app.journal.spend_gate
        spent, given_up = asyncio.Event(), asyncio.Event()

        async def spend_and_wait(gate: str, model: str) -> int:
            uses = await spend(gate, model)
            spent.set()
            await given_up.wait()
            return uses

        monkeypatch.setattr(shop.app.journal, "spend_gate", spend_and_wait)
        submit = asyncio.create_task(shop.submit())
        await spent.wait()
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        given_up.set()
        job, existed = await shop.submit()
        assert existed
        assert job.spec.gate_use == 1
        gate = file_sha256(tmp_path / "models/net/data/gate.npz")
        assert await spend(gate, "net") == 2
        assert await shop.events() == ["job_submitted"]


async def test_a_job_knows_the_price_that_stands_beside_the_model(
    tmp_path: Path, original: Path
) -> None:
    (tmp_path / "models/net/hone.yaml").write_text(policy(FAST) + "\nprice: 0.25\n")
    async with workshop(tmp_path, ENDLESS) as shop:
        job, _ = await shop.submit()
        assert job.spec.price == 0.25


async def test_a_proved_variant_of_the_profile_to_serve_answers(
    tmp_path: Path, original: Path
) -> None:
    (tmp_path / "models/net/hone.yaml").write_text(policy(FAST, serve="fast"))
    made = variant(tmp_path / "elsewhere", original)
    async with workshop(tmp_path, hands_over(made)) as shop:
        [job] = shop.optimization.jobs.all()
        await shop.ended(job)
        assert shop.model.active.variant == made.manifest.variant
        assert await shop.events() == ["job_submitted", "job_succeeded", "promoted"]


@pytest.mark.parametrize("leaves_variant", [True, False])
async def test_the_refusal_of_the_profile_to_serve_is_a_decision_that_stays(
    tmp_path: Path, original: Path, leaves_variant: bool
) -> None:
    (tmp_path / "models/net/hone.yaml").write_text(policy(FAST, serve="fast", hold=True))
    refused = variant(tmp_path / "elsewhere", original, verdict=Verdict.REFUSED)
    script = result(JobState.REFUSED)
    if leaves_variant:
        script = hands_over(refused, JobState.REFUSED)
    async with workshop(tmp_path, script) as shop:
        assert shop.app.journal.route("net", 1) is None
        [job] = shop.optimization.jobs.all()
        await shop.ended(job)
        route = shop.app.journal.route("net", 1)
        assert route is not None
        assert route.variant == ORIGINAL
        assert (refused.manifest.variant in shop.model.variants) == leaves_variant
        assert "profile fast was refused" in (await shop.app.journal.events())[-1].text


async def test_a_refusal_that_the_former_server_did_not_write_down_is_written_at_the_next_load(
    tmp_path: Path, original: Path
) -> None:
    async with workshop(tmp_path, result(JobState.REFUSED)) as shop:
        job, _ = await shop.submit()
        await shop.ended(job)
        assert shop.app.journal.route("net", 1) is None
    (tmp_path / "models/net/hone.yaml").write_text(policy(FAST, serve="fast", hold=True))
    async with workshop(tmp_path, ENDLESS) as shop:
        assert shop.app.journal.route("net", 1) is not None


async def test_a_variant_that_fell_back_and_was_deleted_does_not_disturb_the_next(
    tmp_path: Path, original: Path
) -> None:
    oldest = variant(tmp_path / "state", original, seed=2)
    made = variant(tmp_path / "elsewhere", original)
    async with workshop(tmp_path, hands_over(made), keep_variants=1) as shop:
        shop.model.fell_back = "0123456789ab"
        job, _ = await shop.submit()
        await shop.ended(job)
        assert list(shop.model.variants) == [made.manifest.variant]
        assert not oldest.path.exists()
        assert await shop.events() == ["job_submitted", "job_succeeded", "variant_removed"]


async def test_an_unexpected_error_while_promoting_is_an_event_and_the_next_job_runs(
    tmp_path: Path,
    original: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = variant(tmp_path / "elsewhere", original)

    async def adopt(source: Path) -> VariantDirectory:
        raise KeyError("a bug")

    async with workshop(tmp_path, hands_over(made)) as shop:
        monkeypatch.setattr(shop.app.routes, "adopt", adopt)
        job, _ = await shop.submit()
        await shop.ended(job)
        assert "not_promoted" in await shop.events()
        assert any(record.exc_info for record in caplog.records)
        await shop.optimization.remove_job(job.spec.id)
        again, existed = await shop.submit()
        assert not existed
        assert (await shop.ended(again)).state is JobState.SUCCEEDED


async def test_what_cannot_be_adopted_at_the_start_is_an_event(
    tmp_path: Path, original: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = variant(tmp_path / "elsewhere", original)
    async with workshop(tmp_path, hands_over(made)) as shop:
        job, _ = await shop.submit()
        await shop.ended(job)
    (tmp_path / "state/jobs" / job.spec.id / "variant").mkdir()
    async with workshop(tmp_path, ENDLESS) as shop:
        assert (await shop.events())[-1] == "not_adopted"
        assert any("not_adopted" in record.getMessage() for record in caplog.records)


async def test_a_measurement_that_cannot_be_tried_again_is_an_event(
    tmp_path: Path, original: Path
) -> None:
    gate = tmp_path / "models/net/data/gate.npz"
    script = f"rm {gate}; {result(JobState.AWAITING_MEASUREMENT)}"
    async with workshop(tmp_path, script, measure_retry_seconds=0.05) as shop:
        await shop.submit()
        while "not_retried" not in await shop.events():
            await asyncio.sleep(0.01)
        event = (await shop.app.journal.events())[-1]
        assert "data/gate.npz, which is missing" in event.text


async def test_a_variant_to_be_measured_anew_shares_its_bytes_with_the_job(
    tmp_path: Path, original: Path
) -> None:
    foreign = variant(tmp_path / "state", original, host=replace(this_host(2), onnxruntime="1.0.0"))
    async with workshop(tmp_path, result(JobState.AWAITING_MEASUREMENT)) as shop:
        shop.model.fell_back = foreign.manifest.variant
        job, _ = await shop.submit()
        for _ in range(2):
            waiting = await shop.ended(job)
            assert waiting.state is JobState.AWAITING_MEASUREMENT
            candidate = tmp_path / "state/jobs" / job.spec.id / "candidate"
            assert (candidate / "model.onnx").samefile(foreign.model_file)
            assert sorted(path.name for path in candidate.iterdir()) == ["model.onnx"]
            job, existed = await shop.submit()
            assert not existed


@pytest.mark.parametrize("is_teacher", [False, True])
async def test_a_variant_of_other_files_is_built_anew_and_not_only_measured(
    tmp_path: Path, original: Path, is_teacher: bool
) -> None:
    """Somebody brought other calibration data, or another teacher, since it was built."""
    host = replace(this_host(2), onnxruntime="1.0.0")
    data = tmp_path / "models/net/data/calibration.npz"
    made_from = Ingredients(
        task=Task.CLASSIFICATION,
        seed=0,
        original_sha256=file_sha256(original),
        original_session=SessionSpec(),
        data_sha256={"calibration": file_sha256(data)},
        models_sha256={},
        host=host,
        versions={},
        code_sha256="",
    )
    same = variant(tmp_path / "state", original, host=host, made_from=made_from)
    if is_teacher:
        made_from = replace(made_from, models_sha256={"teacher.onnx": "0" * 64})
    else:
        made_from = replace(made_from, data_sha256={"calibration": "0" * 64})
    other = variant(tmp_path / "state", original, seed=2, host=host, made_from=made_from)
    async with workshop(tmp_path, result(JobState.AWAITING_MEASUREMENT)) as shop:
        for fallen, is_reused in ((other, False), (same, True)):
            shop.model.fell_back = fallen.manifest.variant
            job, _ = await shop.submit()
            await shop.ended(job)
            candidate = tmp_path / "state/jobs" / job.spec.id / "candidate/model.onnx"
            assert candidate.exists() == is_reused
