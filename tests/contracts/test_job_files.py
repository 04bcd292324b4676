"""A job's files survive writing and reading, and half-written ones are not believed."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.host import this_host
from optimizers.contract.job import (
    JobResult,
    JobSpec,
    JobState,
    Progress,
    append_progress,
    job_id,
    last_progress,
    read_result,
    read_spec,
    write_result,
    write_spec,
)
from optimizers.contract.profile import Profile, Task, profile_document
from optimizers.contract.runtime import SessionSpec

PROFILE = profile_document(
    "recipe: [{static_int8: {exclude: [a, b]}}, tune_session]\n"
    'goal: {optimize: [memory], require: ["size <= 1 MB"], confidence: 0.9}\n',
    "fast.yaml",
    "fast",
)


def spec(**changes: object) -> JobSpec:
    made = JobSpec(
        id="0123456789ab",
        model="m",
        version=3,
        profile=PROFILE,
        task=Task.CLASSIFICATION,
        original_file=Path("/models/m/3/model.onnx"),
        original_name="3/model.onnx",
        original_sha256="f" * 64,
        original_session=SessionSpec(lanes=2, max_batch=8),
        data={"gate": Path("/models/m/gate.npz")},
        data_sha256={"gate": "e" * 64},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_specification_survives_its_file(tmp_path: Path) -> None:
    write_spec(tmp_path, spec())
    assert read_spec(tmp_path) == spec()


def test_a_specification_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text("of a former server")
    file.chmod(0o644)
    write_spec(tmp_path, spec())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_specification_cut_short_is_refused(tmp_path: Path) -> None:
    write_spec(tmp_path, spec())
    file = tmp_path / "spec.json"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(InvalidDocument):
        read_spec(tmp_path)


def test_only_complete_lines_of_progress_count(tmp_path: Path) -> None:
    assert last_progress(tmp_path) is None
    one = Progress(unix_s=1.0, stage="building", fraction=0.5, text="süß")
    append_progress(tmp_path, one)
    with (tmp_path / "progress.jsonl").open("ab") as file:
        file.write(b'{"unix_s": 2.0, "stage": "hal')
    assert last_progress(tmp_path) == one


def test_only_the_end_of_long_progress_is_read(tmp_path: Path) -> None:
    (tmp_path / "progress.jsonl").write_bytes(b"x" * 100_000 + b"\n")
    one = Progress(unix_s=1.0, stage="building", fraction=0.5, text="t" * 2000)
    append_progress(tmp_path, one)
    assert last_progress(tmp_path) == one


def test_a_result_is_there_or_not(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    result = JobResult(state=JobState.REFUSED, reason="slower", variant="a", finished_unix_s=3.0)
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InvalidData):
        read_result(tmp_path)


def identity(
    profile: Profile = PROFILE,
    gate: str = "e",
    original: str = "f",
    lanes: int = 1,
    models: dict[str, str] | None = None,
    price: float = 1.0,
) -> str:
    return job_id(
        model="m",
        version=3,
        profile=profile,
        task=Task.CLASSIFICATION,
        original_sha256=original * 64,
        original_session=SessionSpec(lanes=lanes),
        data_sha256={"gate": gate * 64},
        models_sha256=models or {},
        host=this_host(2),
        price=price,
    )


def test_the_same_work_is_the_same_job_and_other_work_is_not() -> None:
    other = profile_document("recipe: [tune_session]\n", "fast.yaml", "fast")
    assert identity() == identity()
    others = {identity(other), identity(gate="d"), identity(original="a"), identity(lanes=2)}
    others |= {identity(models={"teacher.onnx": one}) for one in ("a", "b")}
    others |= {identity(price=0.5)}
    assert len({identity(), *others}) == 8
