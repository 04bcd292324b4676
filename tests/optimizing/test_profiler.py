"""Evidence of real models: where time goes, what they are made of, what is tried first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimizers import saving
from optimizers.contract.errors import RunFailed
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import Goal
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.quantization import Fp16, StaticInt8
from optimizers.contract.runtime import Optimization, SessionSpec
from optimizers.contract.search import Search
from optimizers.contract.steps import Step
from optimizers.demo.networks import TutorialNet, export
from optimizers.evaluation.node_times import run_nodes
from optimizers.planner import propose
from optimizers.structure.editing import read_model
from optimizers.structure.residual import residual_blocks
from optimizers.techniques import apply_step
from tests.support import models, networks
from tests.support.contexts import step_context
from tests.support.data import write_data
from tests.support.encoders import TOKENS, WORDS, encoder
from tests.support.profiled import SPEC, look, told_of_data

pytestmark = pytest.mark.alone  # times are measured


def tutorial(path: Path) -> Path:
    export(TutorialNet().eval(), np.zeros((2, 3, 32, 32), np.float32), path, names=("x", "y"))
    return path


def residual(path: Path) -> Path:
    return networks.resnet(path, widths=(64, 128, 256))


def wide(path: Path) -> Path:
    return models.perceptron(path, sizes=(784, 1024, 1024, 10))


def tiny(path: Path) -> Path:
    return models.perceptron(path, sizes=(64, 64, 10))


NETS: dict[str, Callable[[Path], Path]] = {
    "residual": residual,
    "mobile": networks.mobilenet,
    "encoder": encoder,
    "perceptron": wide,
    "tutorial": tutorial,
    "tiny": tiny,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    return {name: make(folder / f"{name}.onnx") for name, make in NETS.items()}


@pytest.fixture(scope="module")
def evidence(files: dict[str, Path]) -> dict[str, Evidence]:
    """Of every net; with data for what most steps need, as far as the planner is told."""
    return {name: told_of_data(look(file)) for name, file in files.items()}


@pytest.mark.parametrize("name", NETS)
def test_shares_are_of_all_nodes_and_named_as_in_the_model(
    name: str, evidence: dict[str, Evidence], files: dict[str, Path]
) -> None:
    one = evidence[name]
    graph = onnx.load(str(files[name])).graph
    operators = {node.op_type for node in graph.node} - {"Constant"}

    assert sum(share.share for share in one.operators) == pytest.approx(1)
    assert {share.operator for share in one.operators} == operators
    assert [share.share for share in one.operators] == sorted(
        (share.share for share in one.operators), reverse=True
    )
    assert sum(share.nodes for share in one.operators) == sum(
        node.op_type != "Constant" for node in graph.node
    )
    assert 0 <= one.outside_share < 1
    assert 0 < one.item_s < 1
    assert one.batch == 8


@pytest.mark.parametrize("name", NETS)
def test_every_layer_is_found_in_what_ran(name: str, evidence: dict[str, Evidence]) -> None:
    one = evidence[name]

    assert all(layer.share > 0 for layer in one.layers)
    for operator in ("Conv", "Gemm", "MatMul"):
        shares = sum(layer.share for layer in one.layers if layer.operator == operator)
        assert shares <= one.share_of(operator) + 1e-9


def test_a_convolutional_net_spends_its_time_in_convolutions(
    evidence: dict[str, Evidence],
) -> None:
    assert evidence["residual"].operators[0].operator == "Conv"
    assert evidence["residual"].share_of("Conv") > 0.5
    assert evidence["encoder"].operators[0].operator == "MatMul"
    assert evidence["encoder"].share_of("MatMul") > 0.5
    assert evidence["perceptron"].operators[0].operator == "MatMul"
    assert evidence["perceptron"].share_of("MatMul") > 0.5


def test_products_without_weights_are_no_layers(evidence: dict[str, Evidence]) -> None:
    """Those of queries and keys, and of shares and values, run under names of their own or not."""
    sentences = evidence["encoder"]

    assert len(sentences.layers) == 4 * 6
    assert sum(layer.share for layer in sentences.layers) < 0.98 * sentences.share_of("MatMul")


def test_threads_inside_a_run_change_nothing_of_what_is_found(
    files: dict[str, Path], evidence: dict[str, Evidence]
) -> None:
    one = look(files["residual"], replace(SPEC, intra_op_threads=2))

    assert {share.operator for share in one.operators} == {
        share.operator for share in evidence["residual"].operators
    }
    assert all(layer.share > 0 for layer in one.layers)


def test_what_a_net_is_made_of(evidence: dict[str, Evidence]) -> None:
    residual, mobile, sentences = (evidence[one] for one in ("residual", "mobile", "encoder"))

    assert (residual.has_batch_norm, sentences.has_batch_norm) == (True, False)
    assert sentences.attention_heads == (6,) * 4
    assert sentences.residual_blocks == 8  # attention and feed-forward of four layers
    assert residual.residual_blocks == 1  # the other two change the shape on the way around
    assert sentences.embedding_bytes == WORDS * 192 * 4
    assert residual.embedding_bytes == 0
    groups = [layer.groups for layer in mobile.layers if layer.groups > 1]
    assert groups == [48, 48]
    shapes = {layer.name: layer.weight_shape for layer in residual.layers}
    assert shapes["stem"] == (64, 3, 3, 3)
    assert shapes["block1.skip"] == (128, 64, 1, 1)


def test_weights_and_activations_are_counted(evidence: dict[str, Evidence]) -> None:
    perceptron = evidence["perceptron"]

    numbers = 784 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10
    assert perceptron.weight_bytes == 4 * numbers
    [stored] = [one for one in perceptron.operators if one.operator == "MatMul"]
    assert stored.weight_bytes == 4 * (784 * 1024 + 1024 * 1024 + 1024 * 10)
    # product, sum and Relu of two layers, and the last product: its sum is the answer
    assert perceptron.activation_bytes == 4 * (2 * 3 * 1024 + 10)


def test_the_planner_tells_the_nets_apart(evidence: dict[str, Evidence]) -> None:
    first = {
        name: str(propose(found, Goal(), Search())[0].recipe) for name, found in evidence.items()
    }

    assert first["residual"] == "static_int8"
    assert first["encoder"] == "merge → dynamic_int8"
    assert first["perceptron"] == "dynamic_int8"
    assert first["tiny"] == "simplify → merge"


def test_items_are_counted_and_the_gate_is_left_alone(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "model.onnx")
    write_data(tmp_path, model, calibration_items=64, train_items=200)
    (tmp_path / "gate.npz").write_bytes(b"nobody may look here")

    purposes = ("calibration", "train", "gate")
    one = look(model, data={name: tmp_path / f"{name}.npz" for name in purposes})

    assert one.data == {"calibration": 64, "train": 200}
    assert one.has_labels


def test_training_items_without_labels_are_told_apart(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "model.onnx")
    np.savez(tmp_path / "train.npz", x=np.zeros((20, 16), np.float32))

    assert not look(model, data={"train": tmp_path / "train.npz"}).has_labels


def test_real_items_are_run_where_there_are_some(tmp_path: Path) -> None:
    """A number beyond the table ends the run; made-up ones are 0 and 1."""
    model = encoder(tmp_path / "model.onnx", layers=1)
    np.savez(tmp_path / "good.npz", x=np.full((10, TOKENS), WORDS - 1))
    np.savez(tmp_path / "bad.npz", x=np.full((10, TOKENS), WORDS))
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"

    for purpose in ("search", "calibration", "train"):
        with pytest.raises(RunFailed):
            look(model, data={purpose: bad})
    assert look(model, data={"search": good, "calibration": bad}).data["search"] == 10
    assert look(model, data={"calibration": good, "train": bad, "gate": bad}).data == {
        "calibration": 10,
        "train": 10,
    }


def test_a_batch_written_into_a_graph_is_run_and_shared_out(tmp_path: Path) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Relu", ["x"], ["h"], name="relu"),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="product"),
        ],
        [("x", TensorProto.FLOAT, [4, 32])],
        [("y", TensorProto.FLOAT, [4, 8])],
        {"w": np.ones((32, 8), np.float32)},
    )

    one = look(model)

    assert one.activation_bytes == 32 * 4
    assert (one.batch, one.batch_item_s) == (1, one.item_s)


def test_nothing_is_joined_where_the_server_joins_nothing(tmp_path: Path) -> None:
    one = look(models.linear(tmp_path / "model.onnx"), SessionSpec())

    assert (one.batch, one.batch_item_s) == (1, one.item_s)


def test_what_runs_inside_of_a_node_is_not_counted_twice(tmp_path: Path) -> None:
    model = models.slow(tmp_path / "model.onnx", width=64, rounds=50)

    ran = run_nodes(model, SPEC, {"x": np.zeros((1, 64), np.float32)}, 2)
    assert [node.operator for node in ran] == ["Loop"]
    assert look(model).share_of("Loop") == pytest.approx(1)


@pytest.mark.parametrize("optimization", ["all", "extended", "basic", "disabled"])
def test_layers_are_found_at_every_level_of_optimisation(
    optimization: Optimization, tmp_path: Path
) -> None:
    spec = replace(SPEC, optimization=optimization)
    one = look(networks.resnet(tmp_path / "model.onnx"), spec)

    assert all(layer.share > 0 for layer in one.layers)
    assert sum(share.share for share in one.operators) == pytest.approx(1)


@pytest.mark.parametrize("step", [StaticInt8(), StaticInt8(scheme="s8s8"), Fp16()])
def test_layers_of_narrow_numbers_are_found(step: Step, tmp_path: Path) -> None:
    """The runtime puts them into another layout, or casts them, and names them anew."""
    images = np.random.default_rng(0).random((32, 3, 16, 16), np.float32)
    np.savez(tmp_path / "calibration.npz", x=images)
    context = step_context(tmp_path, data={"calibration": tmp_path / "calibration.npz"})
    made = apply_step(networks.resnet(tmp_path / "model.onnx"), step, context)

    one = look(made.model)

    assert all(layer.share > 0 for layer in one.layers)
    assert len(one.layers) == 10
    assert "QLinearConv" not in {share.operator for share in one.operators}


def test_a_model_without_names_is_led_back_as_well(tmp_path: Path) -> None:
    model = onnx.load(str(networks.resnet(tmp_path / "named.onnx")))
    for node in model.graph.node:
        node.ClearField("name")
    onnx.save(model, str(tmp_path / "model.onnx"))

    one = look(tmp_path / "model.onnx")

    assert one.share_of("Conv") > 0.5
    assert all(layer.share > 0 for layer in one.layers)


def one_node(path: Path) -> Path:
    return models.identity(path, TensorProto.FLOAT)


def texts(path: Path) -> Path:
    return models.identity(path, TensorProto.STRING)


def sequences(path: Path) -> Path:
    """A sequence between nodes, and results that nobody wants."""
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["values", "places"], axis=1),
        helper.make_node("SplitToSequence", ["x", "one"], ["parts"], axis=1),
        helper.make_node("SequenceAt", ["parts", "zero"], ["part"]),
        helper.make_node("Cast", ["places"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["part", "wide"], ["y"]),
    ]
    return models.save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 1])],
        {
            "k": np.array([1], np.int64),
            "one": np.array(1, np.int64),
            "zero": np.array(0, np.int64),
        },
    )


def branches(path: Path) -> Path:
    """A product inside an If."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["then"])],
        "then",
        [],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, ["batch", 4])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["other"])],
        "other",
        [],
        [helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", 4])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["is"], to=TensorProto.BOOL),
        helper.make_node("If", ["is"], ["y"], then_branch=then, else_branch=other),
    ]
    return models.save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {"w": np.eye(4, dtype=np.float32)},
    )


@pytest.mark.parametrize("make", [one_node, texts, sequences, branches])
def test_odd_models_are_looked_at_and_left_as_they_are(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    one = look(make(tmp_path / "model.onnx"))
    found = propose(replace(one, data={"calibration": 9, "train": 9}), Goal(), Search())

    assert sum(share.share for share in one.operators) == pytest.approx(1)
    assert {str(proposal.recipe) for proposal in found} == {
        *("simplify → merge", "simplify → merge → tune_session", "tune_session")
    }


@pytest.mark.parametrize(
    ("kind", "bits", "size"), [(np.float32, 32, 4 * 128), (np.float16, 16, 2 * 128)]
)
def test_the_width_of_weights_is_known(kind: type, bits: int, size: int, tmp_path: Path) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = models.save(
        tmp_path / "model.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", element, ["batch", 32])],
        [("y", element, ["batch", 4])],
        {"w": np.ones((32, 4), kind)},
    )

    one = look(model)

    assert (one.weight_bits, one.weight_bytes) == (bits, size)
    assert one.share_of("MatMul") > 0.3


def test_numbers_that_share_a_byte_are_counted_so(tmp_path: Path) -> None:
    codes = helper.make_tensor("codes", TensorProto.INT4, [32, 4], [1] * 128)
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 32])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {"scale": np.array(0.5, np.float32)},
        opset=21,
    )
    loaded = onnx.load(str(model))
    loaded.graph.initializer.append(codes)
    onnx.save(loaded, str(model))

    one = look(model)

    assert (one.weight_bits, one.weight_bytes) == (4, 64 + 4)
    assert len(propose(one, Goal(), Search())) == 3, "what came in integers stays in them"


def test_a_model_too_large_for_one_file_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = models.perceptron(tmp_path / "small.onnx", sizes=(16, 128, 128, 4))
    monkeypatch.setattr(saving, "LARGEST_FILE_BYTES", 2048)
    large = tmp_path / "large" / "model.onnx"
    large.parent.mkdir()
    saving.save(onnx.load(str(small)), large)
    assert read_onnx_file(large).external

    one, other = look(large), look(small)

    assert one.weight_bytes == other.weight_bytes
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    assert all(layer.share > 0 for layer in one.layers)


def test_thousands_of_blocks_are_found_in_seconds(tmp_path: Path) -> None:
    """The planted fault walks all of the graph for every addition."""
    count = 1500
    nodes = []
    for index in range(count):
        nodes += [
            helper.make_node("MatMul", [f"h{index}", "w"], [f"p{index}"]),
            helper.make_node("Add", [f"p{index}", f"h{index}"], [f"h{index + 1}"]),
        ]
    model = models.save(
        tmp_path / "model.onnx",
        nodes,
        [("h0", TensorProto.FLOAT, ["batch", 4])],
        [(f"h{count}", TensorProto.FLOAT, ["batch", 4])],
        {"w": np.eye(4, dtype=np.float32)},
    )
    graph = read_model(model).graph
    began = time.process_time()

    assert len(residual_blocks(graph)) == count
    assert time.process_time() - began < 3


def test_a_sum_of_two_ends_a_block_as_well(tmp_path: Path) -> None:
    model = onnx.load(str(networks.resnet(tmp_path / "added.onnx")))
    for node in model.graph.node:
        if node.op_type == "Add":
            node.op_type = "Sum"
    onnx.save(model, str(tmp_path / "model.onnx"))

    assert look(tmp_path / "model.onnx").residual_blocks == 1
