"""Packed weights: written once, checked when used, gone with their model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizers.contract.host import this_host
from optimizers.contract.memory import mapped_memory
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.prepacked import (
    directory_name,
    drop_foreign,
    drop_packed,
    prepacked_model,
)
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.width import widen_if_faster
from tests.support import models
from tests.support.calls import floats

SPEC = SessionSpec(lanes=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.slow(tmp_path / "model.onnx", width=768, rounds=400)


def pack(model: Path, directory: Path, spec: SessionSpec = SPEC) -> Path | None:
    return prepacked_model(model, read_onnx_file(model).size_bytes, spec, directory)


def test_a_packed_model_answers_like_the_plain_one_narrow_and_wide(
    model: Path, tmp_path: Path
) -> None:
    packed = pack(model, tmp_path / "packed")
    assert packed is not None
    x = floats(2, 768)
    with closing(Session(model, SPEC)) as plain, closing(Session(model, SPEC, packed)) as quick:
        [wanted] = plain.run({"x": x})
        np.testing.assert_allclose(quick.run({"x": x})[0], wanted, rtol=1e-5)
        quick.widen(2)
        np.testing.assert_allclose(quick.run({"x": x}, wide=True)[0], wanted, rtol=1e-5)


def test_it_is_written_once_and_anew_when_a_byte_flipped(model: Path, tmp_path: Path) -> None:
    packed = pack(model, tmp_path / "packed")
    assert packed is not None
    weights = packed.with_name("weights.bin")
    written = weights.stat().st_mtime_ns
    assert pack(model, tmp_path / "packed") == packed
    assert weights.stat().st_mtime_ns == written
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert pack(model, tmp_path / "packed") == packed
    assert weights.read_bytes() != content


def test_threads_that_need_it_at_once_find_it_whole(model: Path, tmp_path: Path) -> None:
    # Whoever wrote what another had mapped would end the process, this one.
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(_packed_answers, model, tmp_path / "packed") for _ in range(8)]
        answers = [one.result() for one in found]
    with closing(Session(model, SPEC)) as plain:
        [wanted] = plain.run({"x": floats(2, 768)})
    for answer in answers:
        np.testing.assert_allclose(answer, wanted, rtol=1e-5)
    assert [one.name for one in tmp_path.glob("*packed*")] == ["packed"]


def _packed_answers(model: Path, directory: Path) -> NDArray[Any]:
    packed = pack(model, directory)
    assert packed is not None
    with closing(Session(model, SPEC, packed)) as session:
        return session.run({"x": floats(2, 768)})[0]


@pytest.mark.parametrize("missing", ["weights.bin", "crc32", "model.onnx"])
def test_what_was_not_finished_is_written_anew(model: Path, tmp_path: Path, missing: str) -> None:
    packed = pack(model, tmp_path / "packed")
    assert packed is not None
    packed.with_name(missing).unlink()
    assert pack(model, tmp_path / "packed") == packed
    assert packed.with_name(missing).exists()


def test_there_is_nothing_to_gain_for_small_models_other_levels_and_providers(
    model: Path, tmp_path: Path
) -> None:
    small = models.linear(tmp_path / "small.onnx")
    assert pack(small, tmp_path / "one") is None
    assert pack(model, tmp_path / "two", replace(SPEC, optimization="basic")) is None
    assert pack(model, tmp_path / "three", replace(SPEC, provider="cuda")) is None
    assert not [name for name in ("one", "two", "three") if (tmp_path / name).exists()]


def test_a_model_that_cannot_be_packed_is_served_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model" * (1 << 18))
    assert prepacked_model(broken, broken.stat().st_size, SPEC, tmp_path / "packed") is None
    assert "weights of broken.onnx cannot be packed" in caplog.text
    assert list(tmp_path.iterdir()) == [broken]


def test_what_was_packed_goes_with_its_model_and_with_its_host(tmp_path: Path) -> None:
    host = this_host(2)
    ours, others = "a" * 64, "b" * 64
    foreign = replace(host, onnxruntime="0.0.1")
    for name in (
        directory_name(ours, host),
        directory_name(others, host),
        directory_name(others, foreign),
        f".{directory_name(others, host)}.123",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.json").touch()
    drop_foreign(tmp_path, host)
    kept = {directory_name(sha256, host) for sha256 in (ours, others)}
    assert {path.name for path in tmp_path.iterdir()} == {
        *kept,
        *(f"{name}.json" for name in kept),
    }
    drop_packed(tmp_path, ours)
    left = directory_name(others, host)
    assert {path.name for path in tmp_path.iterdir()} == {left, f"{left}.json"}


def test_a_caller_who_is_alone_is_answered_where_the_packed_model_is_gone(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / directory_name("a" * 64, this_host(2))
    with closing(Session(model, SPEC, pack(model, directory))) as session:
        feeds = {"x": floats(1, 768)}
        [wanted] = session.run(feeds)
        session.widen(2)
        drop_packed(tmp_path, "a" * 64)
        np.testing.assert_array_equal(session.submit(feeds, wide=True).result()[0], wanted)
        assert session.wide_threads == 0
        assert "gets no more threads for a caller who is alone" in caplog.text


def test_a_lone_request_of_many_rows_holds_no_memory_after_the_next(tmp_path: Path) -> None:
    path = models.slow(tmp_path / "model.onnx", width=768, rounds=2)
    many = floats(1 << 14, 768)
    with closing(Session(path, SPEC)) as session:
        session.widen(2)
        held = []
        for rows in (many[:1], many, many[:1]):
            session.submit({"x": rows}, wide=True).result()
            held.append(mapped_memory().anonymous_bytes)
    assert held[1] - held[0] > many.nbytes / 2, "its answer lies in the arena still"
    assert held[2] - held[0] < many.nbytes / 4


def test_a_second_session_is_kept_only_where_it_is_faster(model: Path) -> None:
    with closing(Session(model, SPEC)) as session:
        feeds = {"x": floats(1, 768)}
        session.run(feeds)
        assert widen_if_faster(session, feeds, 1) == 1.0
        assert session.wide_threads == 0
        ratio = widen_if_faster(session, feeds, 2)
        assert (session.wide_threads == 2) is (ratio < 1.0)
