"""An ONNX graph trained in place: read, train, write back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from optimizers.contract.errors import InvalidData, InvalidDocument, InvalidModel, NotSupported
from optimizers.contract.training import Training
from optimizers.trainable import (
    TrainableGraph,
    read_trainable,
    reestimate_batch_norm,
    write_trainable,
)
from optimizers.training import train
from tests.support.exported_networks import Encoder, MobileNet, ResidualNet, export
from tests.support.models import convolutional, linear, perceptron, save, slow
from tests.support.published import LIGHT, published

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

Feeds = dict[str, Tensor]


def images(batch: int) -> Feeds:
    return {"image": torch.randn(batch, 3, 16, 16)}


def sentences(batch: int) -> Feeds:
    mask = torch.ones(batch, batch + 3, dtype=torch.int64)
    mask[0, 2:] = 0
    return {"tokens": torch.randint(0, 50, mask.shape), "mask": mask}


KINDS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[int], Feeds], bool, int]] = {
    "residual-dynamo-20": (ResidualNet, images, True, 20),
    "residual-script-13": (ResidualNet, images, False, 13),
    "mobile-dynamo-18": (MobileNet, images, True, 18),
    "mobile-script-9": (MobileNet, images, False, 9),
    "encoder-dynamo-20": (Encoder, sentences, True, 20),
    "encoder-script-13": (Encoder, sentences, False, 13),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors on many threads wait for each other where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a network, exported when it is first asked for."""
    directory = tmp_path_factory.mktemp("exported")

    def get(name: str) -> Path:
        build, feeds, dynamo, opset = KINDS[name]
        path = directory / f"{name}.onnx"
        if not path.exists():
            torch.manual_seed(0)
            export(build(), feeds(3), path, dynamo=dynamo, opset=opset)
        return path

    return get


def run(path: Path, feeds: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: one.numpy() for name, one in feeds.items()}))


def difference(graph: TrainableGraph, path: Path, feeds: Mapping[str, Tensor]) -> float:
    """Largest difference between torch and onnxruntime, relative to the largest answer."""
    graph.eval()
    with torch.no_grad():
        given = graph(feeds)
    return max(
        float(np.abs(given[name].numpy() - right).max() / np.abs(right).max())
        for name, right in zip(graph.outputs, run(path, feeds), strict=True)
    )


def descend(graph: TrainableGraph, feeds: Feeds, *, rate: float = 0.05) -> tuple[float, float]:
    """Loss before and after 30 steps towards random answers."""
    torch.manual_seed(1)
    graph.train()
    name = graph.outputs[0]
    wanted = torch.randn_like(graph(feeds)[name])
    optimizer = torch.optim.SGD(graph.parameters(), lr=rate)
    losses = []
    for _ in range(31):
        optimizer.zero_grad()
        loss = (graph(feeds)[name] - wanted).square().mean()
        torch.autograd.backward(loss)
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses[0], losses[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_network_is_computed_trained_and_written_back(
    kind: str, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    path, feeds = exported(kind), KINDS[kind][1]
    before = path.read_bytes()
    graph = read_trainable(path)
    assert all(difference(graph, path, feeds(batch)) < 1e-4 for batch in (2, 5))

    first, last = descend(graph, feeds(5))
    target = tmp_path / "trained.onnx"
    write_trainable(graph, target)

    assert last < 0.95 * first
    onnx.checker.check_model(str(target), full_check=True)
    assert all(difference(graph, target, feeds(batch)) < 1e-4 for batch in (2, 5))
    # What the file was read from is another function by now, so the check above can fail.
    assert difference(graph, path, feeds(5)) > 1e-2
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["encoder-dynamo-20", "encoder-script-13", "mobile-script-9"])
def test_every_parameter_of_the_network_is_one_of_the_graph(
    kind: str, exported: Callable[[str], Path]
) -> None:
    network = KINDS[kind][0]()
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    # Exporters fold batch normalisation into the convolution before it.
    folded = sum(len(one.weight) + len(one.bias) for one in norms)

    graph = read_trainable(exported(kind))

    count = sum(one.numel() for one in network.parameters())
    assert sum(one.numel() for one in graph.parameters()) == count - folded
    assert set(graph.weight_names().values()) <= {"weight", "bias", "scale", "table"}


@pytest.mark.parametrize("kind", ["encoder-dynamo-20", "encoder-script-13", "mobile-script-9"])
def test_an_accelerator_is_never_asked_for_a_number(
    kind: str, exported: Callable[[str], Path]
) -> None:
    graph = read_trainable(exported(kind)).to("meta")
    feeds = {name: one.to("meta") for name, one in KINDS[kind][1](4).items()}

    # Tensors on this device have shapes and no numbers: reading one fails, as does mixing devices.
    torch.autograd.backward(graph(feeds)["answer"].sum())

    assert all(one.grad is not None for one in graph.parameters())


def test_only_weights_change(exported: Callable[[str], Path], tmp_path: Path) -> None:
    path = exported("mobile-dynamo-18")
    graph = read_trainable(path)
    descend(graph, images(4))
    write_trainable(graph, tmp_path / "trained.onnx")

    before, after = onnx.load(str(path)), onnx.load(str(tmp_path / "trained.onnx"))

    weights = graph.weight_names()
    changed = set()
    old = {one.name: numpy_helper.to_array(one) for one in before.graph.initializer}
    for one in after.graph.initializer:
        if not np.array_equal(old[one.name], numpy_helper.to_array(one)):
            changed.add(one.name)
    assert changed == set(weights)
    del before.graph.initializer[:], after.graph.initializer[:]
    assert before == after


def merged_biases(path: Path) -> Path:
    """Three layers that read one bias."""
    proto = onnx.load(str(perceptron(path, sizes=(4, 4, 4, 4))))
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = "b0" if name in ("b1", "b2") else name
    onnx.save(proto, str(path))
    return path


def test_merged_weights_are_trained_apart(tmp_path: Path) -> None:
    model = merged_biases(tmp_path / "model.onnx")
    feeds = {"x": torch.randn(6, 4)}
    graph = read_trainable(model)
    assert difference(graph, model, feeds) < 1e-5

    descend(graph, feeds)
    write_trainable(graph, tmp_path / "trained.onnx")

    biases = [name for name, role in graph.weight_names().items() if role == "bias"]
    values = [graph.weight(name).detach() for name in biases]
    assert biases == ["b0", "b0_2", "b0_3"]
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])
    assert difference(graph, tmp_path / "trained.onnx", feeds) < 1e-5


def test_without_untying_there_is_one_bias_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizers.trainable.reading.untie", lambda graph: {})

    graph = read_trainable(merged_biases(tmp_path / "model.onnx"))

    assert [name for name, role in graph.weight_names().items() if role == "bias"] == ["b0"]


def test_merged_weights_behind_an_identity_are_trained_apart(tmp_path: Path) -> None:
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Identity", ["ones"], ["others"]),
            helper.make_node("LayerNormalization", ["x", "ones"], ["h"]),
            helper.make_node("LayerNormalization", ["h", "others"], ["y"]),
        ],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 4])],
        {"ones": np.ones(4, np.float32)},
    )

    graph = read_trainable(path)

    assert graph.weight_names() == {"ones": "scale", "ones_2": "scale"}
    assert difference(graph, path, {"x": torch.randn(3, 4)}) < 1e-5


def test_a_table_that_is_the_last_layer_too_stays_one(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Gather", ["table", "tokens"], ["x"]),
            helper.make_node("Transpose", ["table"], ["turned"]),
            helper.make_node("MatMul", ["x", "turned"], ["y"]),
        ],
        [("tokens", INT64, ["batch", "n"])],
        [("y", FLOAT, ["batch", "n", 9])],
        {"table": table},
    )
    graph = read_trainable(path)
    feeds = {"tokens": torch.tensor([[1, 2], [3, 4]])}

    first, last = descend(graph, feeds)
    write_trainable(graph, tmp_path / "trained.onnx")

    assert graph.weight_names() == {"table": "table"}
    assert last < first
    assert difference(graph, tmp_path / "trained.onnx", feeds) < 1e-5


def test_constants_are_no_weights(tmp_path: Path) -> None:
    vector = np.array([0.4, 0.5, 0.6], np.float32)
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Sub", ["x", "mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "spread"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["sum"]),
            helper.make_node("Mul", ["sum", "temperature"], ["warm"]),
            helper.make_node("Add", ["warm", "epsilon"], ["y"]),
        ],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        {
            "mean": vector,
            "spread": vector,
            "weight": np.eye(3, dtype=np.float32),
            "bias": vector,
            "temperature": np.array(0.125, np.float32),
            "epsilon": np.array([1e-5], np.float32),
        },
    )

    assert read_trainable(path).weight_names() == {"weight": "weight", "bias": "bias"}


def test_a_bias_of_one_element_is_a_weight(tmp_path: Path) -> None:
    graph = read_trainable(perceptron(tmp_path / "model.onnx", sizes=(4, 8, 1)))

    assert graph.weight_names()["b1"] == "bias"


def test_weights_in_constant_nodes_are_trained(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 3])],
    )
    graph = read_trainable(path)

    first, last = descend(graph, {"x": torch.randn(5, 4)})
    write_trainable(graph, tmp_path / "trained.onnx")

    assert last < first
    assert difference(graph, tmp_path / "trained.onnx", {"x": torch.randn(5, 4)}) < 1e-5


def test_a_refusal_names_everything_at_once(tmp_path: Path) -> None:
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Hardmax", ["x"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("FusedMatMul", ["b", "b"], ["c"], domain="com.microsoft"),
            helper.make_node("Hardmax", ["c"], ["d"]),
            helper.make_node("StringNormalizer", ["d"], ["y"]),
        ],
        [("x", FLOAT, [3, 3])],
        [("y", FLOAT, [3, 3])],
    )

    with pytest.raises(NotSupported) as refused:
        read_trainable(path)

    text = str(refused.value)
    assert "Hardmax (2 nodes), StringNormalizer (1 node), com.microsoft.FusedMatMul" in text
    assert "Relu" not in text


def test_a_loop_and_a_datatype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="Loop"):
        read_trainable(slow(tmp_path / "loop.onnx"))
    path = linear(tmp_path / "model.onnx")
    proto = onnx.load(str(path))
    proto.graph.initializer.append(helper.make_tensor("odd", TensorProto.BFLOAT16, [1], [1.0]))
    onnx.save(proto, str(path))
    with pytest.raises(NotSupported, match="tensor 'odd' of datatype BFLOAT16"):
        read_trainable(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")

    with pytest.raises(InvalidModel):
        read_trainable(tmp_path / "model.onnx")


def test_an_old_operator_set_is_converted_and_a_new_one_refused(tmp_path: Path) -> None:
    def relu(opset: int) -> Path:
        return save(
            tmp_path / f"{opset}.onnx",
            [helper.make_node("Relu", ["x"], ["y"])],
            [("x", FLOAT, ["batch", 3])],
            [("y", FLOAT, ["batch", 3])],
            opset=opset,
        )

    old, new = relu(8), relu(24)

    assert difference(read_trainable(old), old, {"x": torch.randn(2, 3)}) == 0
    with pytest.raises(NotSupported, match="operator set 24; up to 23"):
        read_trainable(new)


def test_any_tensor_can_be_wanted_and_no_more_is_computed(tmp_path: Path) -> None:
    graph = read_trainable(convolutional(tmp_path / "model.onnx"))
    x = torch.randn(2, 1, 12, 12)
    whole = graph({"x": x}, ["h0", "k0", "logits"])

    assert list(whole) == ["h0", "k0", "logits"]
    assert torch.equal(whole["h0"], torch.relu(graph({"x": x}, ["s0"])["s0"]))
    assert whole["k0"] is graph.weight("k0")
    with pytest.raises(InvalidDocument, match="no tensor nothing"):
        graph({"x": x}, ["nothing"])
    with pytest.raises(InvalidData, match="no value for input x"):
        graph({})
    with pytest.raises(InvalidDocument, match="no weight 's0'"):
        graph.weight("s0")


def test_a_given_tensor_counts_instead_of_the_one_in_the_graph(tmp_path: Path) -> None:
    graph = read_trainable(convolutional(tmp_path / "model.onnx"))
    x = torch.randn(2, 1, 12, 12)
    whole = graph({"x": x}, ["h0", "logits"])
    masked = graph.weight("w1") * 0

    assert torch.equal(graph({"h0": whole["h0"]})["logits"], whole["logits"])
    assert torch.equal(graph({"h0": whole["h0"] * 0})["logits"], torch.zeros(2, 4))
    assert torch.equal(graph({"x": x, "w1": masked})["logits"], torch.zeros(2, 4))
    assert not torch.equal(graph({"x": x})["logits"], torch.zeros(2, 4))
    with pytest.raises(InvalidData, match="no tensor y to give"):
        graph({"x": x, "y": x})


def batch_norm(path: Path) -> Path:
    """y = norm(x W), two norms whose statistics the exporter merged."""
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    norm = ["ones", "zeros", "zeros", "ones"]
    return save(
        path,
        [
            helper.make_node("BatchNormalization", ["x", *norm], ["h"], momentum=0.8),
            helper.make_node("BatchNormalization", ["h", *norm], ["y"], momentum=0.8),
        ],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        {"zeros": zeros, "ones": ones},
    )


def test_batch_norm_trains_as_in_torch(tmp_path: Path) -> None:
    graph = read_trainable(batch_norm(tmp_path / "model.onnx")).train()
    reference = nn.Sequential(nn.BatchNorm1d(3, momentum=0.2), nn.BatchNorm1d(3, momentum=0.2))
    x = torch.randn(16, 3) * 3 + 1

    for _ in range(3):
        given, right = graph({"x": x})["y"], reference(x)
        assert torch.allclose(given, right, atol=1e-6)
    write_trainable(graph, tmp_path / "trained.onnx")

    expected = reference.eval()(x).detach().numpy()
    np.testing.assert_allclose(run(tmp_path / "trained.onnx", {"x": x})[0], expected, atol=1e-5)
    assert sorted(graph.weight_names().values()) == ["bias", "bias", "scale", "scale"]


def test_statistics_are_estimated_anew(tmp_path: Path) -> None:
    graph = read_trainable(batch_norm(tmp_path / "model.onnx")).eval()
    x = torch.randn(48, 3) * 3 + 1
    batches = [{"x": x[:32]}, {"x": x[32:]}]

    assert reestimate_batch_norm(graph, iter(batches)) == 48

    assert not graph.training
    values = graph({"x": x}, graph.statistics_names())
    first_mean, first_variance = list(values.values())[:2]
    assert torch.allclose(first_mean, x.mean(0), atol=1e-5)
    variance = (x[:32].var(0) * 32 + x[32:].var(0) * 16) / 48
    assert torch.allclose(first_variance, variance, atol=1e-4)
    y = graph({"x": x})["y"]
    assert torch.allclose(y.std(0), torch.ones(3), atol=0.1)


def test_without_batch_norm_nothing_is_estimated(tmp_path: Path) -> None:
    graph = read_trainable(linear(tmp_path / "model.onnx"))

    assert reestimate_batch_norm(graph, [{"x": torch.randn(2, 4)}]) == 0


def fake_quantised(path: Path) -> Path:
    """y = q(x) q(W), where q rounds to int8 and back."""
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    nodes = [
        node
        for name in ("x", "weight")
        for node in (
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_r"]),
        )
    ]
    return save(
        path,
        [*nodes, helper.make_node("MatMul", ["x_r", "weight_r"], ["y"])],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 3])],
        {"weight": weight, "scale": np.array(0.05, np.float32), "zero": np.array(0, np.int8)},
    )


def test_a_weight_is_trained_through_its_rounding(tmp_path: Path) -> None:
    path, feeds = fake_quantised(tmp_path / "model.onnx"), {"x": torch.randn(8, 4)}
    graph = read_trainable(path)
    assert graph.weight_names() == {"weight": "weight"}
    assert difference(graph, path, feeds) < 1e-5

    first, last = descend(graph, feeds)
    write_trainable(graph, tmp_path / "trained.onnx")

    assert last < 0.95 * first
    assert difference(graph, tmp_path / "trained.onnx", feeds) < 1e-5


def test_weights_stored_as_integers_are_run_and_not_trained(tmp_path: Path) -> None:
    model = perceptron(tmp_path / "model.onnx", sizes=(8, 16, 4))
    graph = onnx.load(str(model))
    stored = {one.name: one for one in graph.graph.initializer}
    weight = np.round(numpy_helper.to_array(stored["w0"]) / 0.01).clip(-127, 127).astype(np.int8)
    stored["w0"].CopyFrom(numpy_helper.from_array(weight, "w0"))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(0.01, np.float32), "scale"))
    graph.graph.node[0].input[1] = "real"
    node = helper.make_node("DequantizeLinear", ["w0", "scale"], ["real"])
    graph.graph.node.insert(0, node)
    onnx.save(graph, str(model))

    trainable = read_trainable(model)

    assert "w0" not in trainable.weight_names()
    assert difference(trainable, model, {"x": torch.randn(3, 8)}) < 1e-4


def test_external_data_stays_external(tmp_path: Path) -> None:
    model = perceptron(tmp_path / "inline.onnx")
    proto = onnx.load(str(model))
    source, target = tmp_path / "model.onnx", tmp_path / "trained.onnx"
    onnx.save(proto, str(source), save_as_external_data=True, location="w", size_threshold=1000)
    graph = read_trainable(source)
    descend(graph, {"x": torch.randn(3, 16)})

    for _ in range(2):
        write_trainable(graph, target)

    data = tmp_path / "trained.onnx.data"
    assert data.stat().st_size == (tmp_path / "w").stat().st_size
    assert target.stat().st_size < 3000
    assert difference(graph, target, {"x": torch.randn(3, 16)}) < 1e-5


def test_the_training_loop_trains_a_graph_and_a_copy_stays(tmp_path: Path) -> None:
    graph = read_trainable(convolutional(tmp_path / "model.onnx"))
    teacher = copy.deepcopy(graph).eval()
    x, labels = torch.randn(64, 1, 12, 12), torch.randint(0, 4, (64,))

    def loss_of(items: Tensor) -> Tensor:
        logits = graph({"x": x[items]})["logits"]
        return nn.functional.cross_entropy(logits, labels[items])

    training = Training(epochs=8, batch_size=16, patience=8, learning_rate=1e-2)
    trained = train(graph, 64, loss_of, training, seed=0, report=lambda share, text: None)

    assert trained.after <= trained.before
    assert difference(teacher, tmp_path / "model.onnx", {"x": x[:5]}) < 1e-5


@pytest.mark.parametrize(
    "name", ["densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet"]
)
def test_the_light_models_with_random_weights(name: str, tmp_path: Path) -> None:
    path = published(name, tmp_path / "model.onnx")
    graph = read_trainable(path)
    name_of_input = graph.inputs[0]

    feeds = {name_of_input: torch.rand(1, 3, 224, 224)}

    assert difference(graph, path, feeds) < 1e-4
    assert len(graph.weight_names()) > 40


@pytest.mark.parametrize("name", ["bvlc_alexnet", "zfnet512"])
def test_the_light_models_as_they_are(name: str) -> None:
    path = LIGHT / f"light_{name}.onnx"
    graph = read_trainable(path)

    assert difference(graph, path, {graph.inputs[0]: torch.rand(1, 3, 224, 224)}) < 1e-4
