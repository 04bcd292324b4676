"""Bound buffers give the answers that plain runs give, on any device and from any thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from optimizers.contract.cuda import CudaRunner, device_runner
from optimizers.contract.errors import NotSupported
from optimizers.contract.page_locked import page_locked
from optimizers.contract.provider_options import ProviderOptions
from optimizers.contract.providers import try_provider
from optimizers.contract.runtime import Session, SessionSpec
from tests.support import models


@pytest.fixture(params=[False, True], ids=["pooled", "graphs"])
def graphs(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def opened(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def bound(path: Path, graphs: bool = False) -> CudaRunner:
    """A runner whose device is the processor: the same binding, copies and bookkeeping."""
    options = ProviderOptions(graphs=graphs)
    spec = SessionSpec(provider="cuda", provider_options=options)
    return CudaRunner(opened(path), spec, device="cpu")


def run(runner: CudaRunner, feeds: dict[str, NDArray[Any]], *names: str) -> list[NDArray[Any]]:
    return runner.run(feeds, names or None, onnxruntime.RunOptions())


@pytest.fixture
def convolutional(tmp_path: Path) -> Path:
    return models.convolutional(tmp_path / "model.onnx")


def images(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(seed).random((rows, 1, 12, 12), np.float32)}


def test_answers_are_those_of_plain_runs(convolutional: Path, graphs: bool) -> None:
    plain = opened(convolutional)
    with closing(bound(convolutional, graphs)) as runner:
        for seed in range(4):
            for rows in (1, 3, 1, 8):
                feeds = images(rows, seed)
                np.testing.assert_array_equal(run(runner, feeds)[0], plain.run(None, feeds)[0])


def test_an_answer_is_not_overwritten_by_the_next_run(convolutional: Path, graphs: bool) -> None:
    with closing(bound(convolutional, graphs)) as runner:
        run(runner, images(2, 7))
        first = run(runner, images(2, 0))[0]
        before = first.copy()
        run(runner, images(2, 1))
        np.testing.assert_array_equal(first, before)


def test_outputs_come_in_the_order_asked_for(tmp_path: Path, graphs: bool) -> None:
    feeds = {"a": np.ones((2, 3), np.float32), "b": np.full((2, 3), 4, np.float32)}
    with closing(bound(models.two_inputs(tmp_path / "model.onnx"), graphs)) as runner:
        for _ in range(3):
            difference, total = run(runner, feeds, "difference", "sum")
            assert (difference[0, 0], total[0, 0]) == (-3, 5)
            assert [float(one[0, 0]) for one in run(runner, feeds)] == [5, -3]
            assert [float(one[0, 0]) for one in run(runner, feeds, "difference")] == [-3]


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        (TensorProto.BOOL, np.array([[True, False, True]])),
        (TensorProto.INT64, np.array([[1, -2, 1 << 60]])),
        (TensorProto.UINT8, np.array([[0, 255, 7]], np.uint8)),
        (TensorProto.FLOAT16, np.array([[0.5, -2, np.inf]], np.float16)),
        (TensorProto.DOUBLE, np.zeros((0, 3))),
        (TensorProto.FLOAT, np.ones((6, 6), np.float32)[::3, ::2]),
    ],
    ids=["bool", "int64", "uint8", "float16", "no rows", "strided"],
)
def test_any_numbers_and_shapes_pass(
    tmp_path: Path, graphs: bool, kind: int, array: NDArray[Any]
) -> None:
    with closing(bound(models.identity(tmp_path / "model.onnx", kind), graphs)) as runner:
        for _ in range(3):
            [answer] = run(runner, {"x": array})
            assert answer.dtype == array.dtype
            np.testing.assert_array_equal(answer, array)


def test_outputs_whose_shape_depends_on_the_data_are_right(tmp_path: Path) -> None:
    path = models.save(
        tmp_path / "model.onnx",
        [helper.make_node("NonZero", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [4])],
        [("y", TensorProto.INT64, [1, "n"])],
    )
    with closing(bound(path)) as runner:
        for x in ([1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]):
            [answer] = run(runner, {"x": np.array(x, np.float32)})
            np.testing.assert_array_equal(answer, np.nonzero(np.array(x)))


def test_threads_do_not_share_buffers(convolutional: Path, graphs: bool) -> None:
    plain = opened(convolutional)
    wanted = {seed: plain.run(None, images(4, seed))[0] for seed in range(8)}
    start = threading.Barrier(8)

    with closing(bound(convolutional, graphs)) as runner, ThreadPoolExecutor(8) as threads:

        def many(seed: int) -> None:
            start.wait()
            for _ in range(50):
                np.testing.assert_array_equal(run(runner, images(4, seed))[0], wanted[seed])

        list(threads.map(many, range(8)))


def test_more_shapes_than_are_kept_still_answer(tmp_path: Path, graphs: bool) -> None:
    with closing(bound(models.linear(tmp_path / "model.onnx"), graphs)) as runner:
        for rows in (*range(1, 60), *range(1, 60)):
            [answer] = run(runner, {"x": np.zeros((rows, 4), np.float32)})
            assert answer.shape == (rows, 3)


def test_every_layout_has_a_graph_of_its_own(convolutional: Path) -> None:
    def graph(runner: CudaRunner, rows: int) -> str:
        options = onnxruntime.RunOptions()
        runner.run(images(rows), None, options)
        return str(options.get_run_config_entry("gpu_graph_id"))

    with closing(bound(convolutional, graphs=True)) as runner:
        assert [graph(runner, rows) for rows in (1, 1, 2, 1, 2)] == ["-1", "1", "-1", "1", "2"]
        for rows in range(3, 30):
            graph(runner, rows)
        assert graph(runner, 16) == "16"
        assert graph(runner, 17) == "-1"  # graphs hold memory: their number has an end


def test_a_refused_run_harms_no_later_one(convolutional: Path, graphs: bool) -> None:
    with closing(bound(convolutional, graphs)) as runner:
        wanted = run(runner, images(1))[0]
        for _ in range(3):
            with pytest.raises(Exception, match="dimension"):
                run(runner, {"x": np.zeros((1, 1, 5, 5), np.float32)})
            np.testing.assert_array_equal(run(runner, images(1))[0], wanted)


def test_the_processor_and_texts_need_no_runner(tmp_path: Path) -> None:
    text = models.identity(tmp_path / "text.onnx", TensorProto.STRING)
    number = models.linear(tmp_path / "number.onnx")
    for path, provider, expected in (
        (number, "cpu", False),
        (number, "openvino", False),
        (number, "cuda", True),
        (number, "tensorrt", True),
        (text, "cuda", False),
    ):
        with closing(Session(path, SessionSpec())) as session:
            signature = session.signature
        spec = SessionSpec(provider=provider)  # type: ignore[arg-type]
        assert (device_runner(opened(path), spec, signature) is not None) is expected


def test_without_cuda_no_memory_is_locked() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("NOT TESTED: needs an onnxruntime without CUDA")
    assert page_locked((4, 4), np.dtype(np.float32), 0) is None


@pytest.fixture
def cuda() -> None:
    try:
        try_provider("cuda", ProviderOptions())
    except NotSupported as error:
        pytest.skip(f"NOT TESTED ON A GPU: {error}")


@pytest.mark.usefixtures("cuda")
def test_a_gpu_answers_as_the_processor_does(convolutional: Path, graphs: bool) -> None:
    options = ProviderOptions(graphs=graphs, memory_limit_bytes=1 << 30)
    plain = opened(convolutional)
    spec = SessionSpec(provider="cuda", provider_options=options)
    with closing(Session(convolutional, spec)) as session:
        for seed in range(6):
            for rows in (1, 8, 3):
                feeds = images(rows, seed)
                [answer] = session.submit(feeds).result()
                np.testing.assert_allclose(answer, plain.run(None, feeds)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("cuda")
def test_page_locked_memory_is_memory() -> None:
    memory = page_locked((3, 5), np.dtype(np.float32), 0)
    assert memory is not None
    memory[:] = 7
    assert float(memory.sum()) == 105
