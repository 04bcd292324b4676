"""A model computes where it was asked to, or it is not opened and the nodes are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from pydantic import TypeAdapter

from optimizers.contract.errors import InvalidDocument, InvalidModel, NotSupported
from optimizers.contract.placement import RECORD_PLACEMENT, misplaced, named, placed_nodes
from optimizers.contract.provider_options import (
    ENGINE_CACHE,
    EXECUTION_PROVIDERS,
    Provider,
    ProviderOptions,
    arguments,
    device_name,
    engine_cache,
    profile_shapes,
)
from optimizers.contract.providers import SMALL_MODEL, settle_provider, try_provider
from optimizers.contract.runtime import Session, SessionSpec
from tests.support import models

CPU = EXECUTION_PROVIDERS["cpu"]
AVAILABLE = onnxruntime.get_available_providers()


def needs(provider: Provider) -> pytest.MarkDecorator:
    """Skip, loudly, where this installation of onnxruntime or its device is missing."""
    try:
        try_provider(provider, ProviderOptions())
        reason = ""
    except NotSupported as error:
        reason = str(error)
    return pytest.mark.skipif(bool(reason), reason=f"NOT TESTED ON {provider.upper()}: {reason}")


def missing() -> Provider:
    """A provider that this onnxruntime does not know."""
    return next(ours for ours, theirs in EXECUTION_PROVIDERS.items() if theirs not in AVAILABLE)


def half_supported(path: Path) -> Path:
    """One product any provider can compute, a set and a determinant that few can."""
    return models.save(
        path,
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"], name="product"),
            helper.make_node("Unique", ["product"], ["values"], name="unique"),
            helper.make_node("Det", ["x"], ["determinant"], name="determinant"),
        ],
        [("x", TensorProto.FLOAT, [3, 3])],
        [("values", TensorProto.FLOAT, ["n"]), ("determinant", TensorProto.FLOAT, [])],
        {"weight": np.eye(3, dtype=np.float32)},
    )


def shape_work(path: Path) -> Path:
    """y = x flattened by a shape that is computed, then doubled by a product."""
    return models.save(
        path,
        [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Gather", ["shape", "first"], ["rows"], name="rows"),
            helper.make_node("Concat", ["rows", "rest"], ["flat"], name="flat", axis=0),
            helper.make_node("Reshape", ["x", "flat"], ["h"], name="reshape"),
            helper.make_node("MatMul", ["h", "weight"], ["y"], name="product"),
        ],
        [("x", TensorProto.FLOAT, ["batch", 2, 2])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {
            "first": np.array([0]),
            "rest": np.array([-1]),
            "weight": 2 * np.eye(4, dtype=np.float32),
        },
    )


def recorded(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    return onnxruntime.InferenceSession(str(path), options, providers=[CPU])


def test_the_small_model_is_one_product() -> None:
    graph = onnx.load_model_from_string(SMALL_MODEL).graph
    assert [node.op_type for node in graph.node] == ["MatMul"]
    try_provider("cpu", ProviderOptions())


def test_a_provider_that_is_not_installed_is_refused_with_what_to_install() -> None:
    with pytest.raises(NotSupported, match=r"pip install 'hone-server\[\w+\]'"):
        settle_provider(missing(), ProviderOptions())


def test_a_model_does_not_open_on_the_processor_instead(tmp_path: Path) -> None:
    path = models.linear(tmp_path / "model.onnx")
    with pytest.raises(NotSupported, match=EXECUTION_PROVIDERS[missing()]):
        Session(path, SessionSpec(provider=missing()))


def test_auto_says_what_it_took_and_why_not_the_others() -> None:
    choice = settle_provider("auto", ProviderOptions())
    assert choice.provider in EXECUTION_PROVIDERS
    try_provider(choice.provider, ProviderOptions())
    if choice.provider == "cpu":
        assert "cuda" in choice.why
        assert "openvino" in choice.why
    else:
        assert "computed a small model" in choice.why


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_an_installed_provider_without_its_device_is_refused(
    tmp_path: Path, provider: Provider
) -> None:
    if EXECUTION_PROVIDERS[provider] not in AVAILABLE:
        pytest.skip(f"NOT TESTED: needs an onnxruntime built with {EXECUTION_PROVIDERS[provider]}")
    options = ProviderOptions(device=999)
    with pytest.raises(NotSupported, match="does not work here"):
        settle_provider(provider, options)
    path = models.linear(tmp_path / "model.onnx")
    with pytest.raises(NotSupported):
        Session(path, SessionSpec(provider=provider, provider_options=options))


def test_every_node_is_told_with_its_provider(tmp_path: Path) -> None:
    nodes = placed_nodes(recorded(half_supported(tmp_path / "model.onnx")))
    assert {(node.name, node.operator, node.provider) for node in nodes} == {
        ("product", "MatMul", CPU),
        ("unique", "Unique", CPU),
        ("determinant", "Det", CPU),
    }


def test_a_model_that_fell_back_as_a_whole_is_misplaced_even_if_all_of_it_is_light(
    tmp_path: Path,
) -> None:
    nodes = placed_nodes(recorded(models.two_inputs(tmp_path / "model.onnx")))
    assert all(node.is_light for node in nodes)
    assert misplaced(nodes, EXECUTION_PROVIDERS["cuda"]) == nodes
    assert misplaced(nodes, CPU) == []


def test_work_on_shapes_may_stay_on_the_processor_and_a_product_may_not(tmp_path: Path) -> None:
    nodes = placed_nodes(recorded(shape_work(tmp_path / "model.onnx")))
    cuda = EXECUTION_PROVIDERS["cuda"]
    on_gpu = [replace(node, provider=cuda) if node.name == "product" else node for node in nodes]
    assert misplaced(on_gpu, cuda) == []
    elsewhere = [replace(node, provider=cuda) if node.name == "shape" else node for node in nodes]
    assert [node.name for node in misplaced(elsewhere, cuda)] == ["product"]


def test_what_tensorrt_leaves_to_cuda_is_accepted(tmp_path: Path) -> None:
    nodes = placed_nodes(recorded(half_supported(tmp_path / "model.onnx")))
    tensorrt, cuda = EXECUTION_PROVIDERS["tensorrt"], EXECUTION_PROVIDERS["cuda"]
    where = {"product": tensorrt, "unique": cuda, "determinant": CPU}
    placed = [replace(node, provider=where[node.name]) for node in nodes]
    assert [node.name for node in misplaced(placed, tensorrt, [cuda])] == ["determinant"]


def test_operators_of_other_domains_are_never_light() -> None:
    path_nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft", name="gelu")]
    graph = helper.make_graph(
        path_nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    [node] = placed_nodes(session)
    assert (node.operator, node.is_light) == ("com.microsoft.Gelu", False)


def test_many_nodes_are_named_by_the_first_few_and_their_number(tmp_path: Path) -> None:
    nodes = placed_nodes(recorded(models.perceptron(tmp_path / "m.onnx", sizes=(4,) * 6)))
    text = named(nodes)
    assert "'matmul0' (MatMul)" in text
    assert text.endswith(f"and {len(nodes) - 5} more")
    assert named(placed_nodes(recorded(models.two_inputs(tmp_path / "n.onnx")))) == (
        "a Add without a name, a Sub without a name"
    )


def test_a_damaged_model_is_the_models_fault(tmp_path: Path) -> None:
    path = models.linear(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(path))
    with pytest.raises(InvalidModel, match="NoSuchOperator"):
        Session(path, SessionSpec())


@needs("openvino")
def test_openvino_answers_as_the_processor_does(tmp_path: Path) -> None:
    path = models.convolutional(tmp_path / "model.onnx")
    feeds = {"x": np.random.default_rng(0).random((3, 1, 12, 12), np.float32)}
    [wanted] = Session(path, SessionSpec()).run(feeds)
    [answer] = Session(path, SessionSpec(provider="openvino", lanes=2)).run(feeds)
    np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5)


@needs("openvino")
def test_nodes_that_openvino_leaves_to_the_processor_are_named(tmp_path: Path) -> None:
    path = half_supported(tmp_path / "model.onnx")
    with pytest.raises(NotSupported, match=r"2 of its 3 nodes went to CPU.*'unique' \(Unique\)"):
        Session(path, SessionSpec(provider="openvino"))
    allowed = ProviderOptions(allow_fallback=True)
    session = Session(path, SessionSpec(provider="openvino", provider_options=allowed))
    values, determinant = session.run({"x": 2 * np.eye(3, dtype=np.float32)})
    assert (values.tolist(), float(determinant)) == ([0, 2], 8)


def test_every_provider_is_told_strings_and_never_searches_exhaustively() -> None:
    options = ProviderOptions(device=1, memory_limit_bytes=1 << 30, graphs=True)
    told = {one: arguments(one, options, threads=2, lanes=3) for one in EXECUTION_PROVIDERS}
    assert told["cpu"] == {}
    assert told["cuda"] == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1",
        "gpu_mem_limit": str(1 << 30),
    }
    assert told["tensorrt"]["trt_fp16_enable"] == "False"
    assert told["tensorrt"]["trt_max_workspace_size"] == str(1 << 30)
    assert told["openvino"]["num_of_threads"] == "6"
    assert told["openvino"]["num_streams"] == "3"
    assert arguments("openvino", options, threads=1, lanes=64)["num_streams"] == "8"
    assert [device_name(one, options) for one in ("cpu", "cuda", "openvino")] == [
        "cpu",
        "gpu:1",
        "cpu",
    ]


def test_one_engine_serves_every_batch_unless_another_dimension_varies() -> None:
    image = SimpleNamespace(name="image", shape=["batch", 3, 8, 8])
    scale = SimpleNamespace(name="scale", shape=["batch"])
    fixed = SimpleNamespace(name="fixed", shape=[4, 4])
    text = SimpleNamespace(name="ids", shape=["batch", "length"])
    assert profile_shapes([image, scale, fixed], 16) == {
        "trt_profile_min_shapes": "image:1x3x8x8,scale:1",
        "trt_profile_opt_shapes": "image:16x3x8x8,scale:16",
        "trt_profile_max_shapes": "image:16x3x8x8,scale:16",
    }
    assert profile_shapes([fixed], 16) == {}
    assert profile_shapes([image, text], 16) == {}


def test_engines_are_kept_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENGINE_CACHE, raising=False)
    assert engine_cache() == {}
    folder = tmp_path / "state/engines"
    monkeypatch.setenv(ENGINE_CACHE, os.fspath(folder))
    assert engine_cache()["trt_engine_cache_path"] == os.fspath(folder)
    assert folder.is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv(ENGINE_CACHE, os.fspath(tmp_path / "file/engines"))
    assert engine_cache() == {}


def test_a_spec_from_before_there_were_options_is_read_and_a_new_one_survives() -> None:
    adapter = TypeAdapter(SessionSpec)
    old = {"provider": "cpu", "intra_op_threads": 1, "lanes": 2, "max_batch": 8}
    assert adapter.validate_json(json.dumps(old)) == SessionSpec(lanes=2, max_batch=8)
    options = ProviderOptions(device=2, graphs=True, allow_fallback=True)
    new = SessionSpec(provider="tensorrt", provider_options=options)
    assert adapter.validate_json(adapter.dump_json(new)) == new


@pytest.mark.parametrize("wrong", [{"device": -1}, {"device": 1 << 40}, {"memory_limit_bytes": -1}])
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidDocument):
        ProviderOptions(**wrong)  # type: ignore[arg-type]


TOO_LITTLE = """
import resource, sys
from pathlib import Path
from optimizers.contract.errors import OutOfMemory
from optimizers.contract.runtime import Session, SessionSpec

Session(Path(sys.argv[1]), SessionSpec()).close()  # whatever the runtime needs of its own
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (96 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    Session(Path(sys.argv[2]), SessionSpec())
except OutOfMemory as error:
    print(error)
"""


def test_a_model_that_does_not_fit_into_memory_is_no_broken_model(tmp_path: Path) -> None:
    small = models.perceptron(tmp_path / "small.onnx", sizes=(4, 4))
    large = models.perceptron(tmp_path / "large.onnx", sizes=(4096, 4096))
    command = [sys.executable, "-c", TOO_LITTLE, str(small), str(large)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "onnxruntime cannot load large.onnx" in done.stdout, done.stderr
