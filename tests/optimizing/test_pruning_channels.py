"""Channels leave the graph together, and what is left computes as if they were zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneChannels
from optimizers.graph import load_with_constants
from optimizers.macs import count_macs
from optimizers.pruning import prune_channels
from optimizers.pruning.cut import cut, kept_places
from optimizers.pruning.flow.use import Flow
from optimizers.pruning.groups import Group, find_groups, kept_for_a_reason
from optimizers.pruning.importance import activation_importance, weight_importance
from optimizers.pruning.sensitivity import Probe
from optimizers.step import StepContext
from tests.support import models, networks
from tests.support.contexts import step_context
from tests.support.data import write_data
from tests.support.pruning import answers, flow_of, half_of_every_group, masked

NETWORKS: dict[str, Callable[[Path], Path]] = {
    "lenet": networks.lenet,
    "resnet": networks.resnet,
    "mobilenet": networks.mobilenet,
    "densenet": networks.densenet,
    "perceptron": networks.perceptron,
    "transformer": networks.transformer,
    "packed transformer": partial(networks.transformer, packed=True),
}


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path, task=Task.CLASSIFICATION)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_model_computes_what_it_would_with_zeros(tmp_path: Path, name: str) -> None:
    model = load_with_constants(NETWORKS[name](tmp_path / "model.onnx"))
    flow = flow_of(model)
    removed = half_of_every_group(flow)
    pruned = cut(model, flow, removed)
    onnx.checker.check_model(pruned, full_check=True)
    wanted = answers(masked(model, flow, removed))
    np.testing.assert_allclose(answers(pruned), wanted, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(wanted - answers(model)).max() > 0.01 * np.abs(wanted).max(), "nothing was lost"
    assert count_macs(pruned) < 0.75 * count_macs(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_comparison_with_zeros_notices_a_wrong_column(tmp_path: Path, name: str) -> None:
    """Planted: the next layer loses columns of other channels than the ones that went."""
    model = load_with_constants(NETWORKS[name](tmp_path / "model.onnx"))
    flow = flow_of(model)
    removed = half_of_every_group(flow)
    pruned = cut(model, flow, removed)
    reads = {(layer.weight, layer.reads[2]) for layer in flow.layers}
    wrong = reads & set(kept_places(flow, removed))
    for tensor in pruned.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        for axis in range(value.ndim):
            if (tensor.name, axis) in wrong:
                value = np.roll(value, 1, axis)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    wanted = answers(masked(model, flow, removed))
    assert np.abs(answers(pruned) - wanted).max() > 1e-3 * np.abs(wanted).max()


def test_groups_are_what_a_reader_of_the_graph_would_couple(tmp_path: Path) -> None:
    flow = flow_of(load_with_constants(networks.resnet(tmp_path / "model.onnx")))
    found = {group.name: group.count for group in find_groups(flow)}
    assert found == {
        "stem+block0.2": 16,
        "block0.1": 16,
        "block1.1": 32,
        "block1.2+block1.skip": 32,
        "block2.1": 64,
        "block2.2+block2.skip": 64,
    }
    flow = flow_of(load_with_constants(networks.transformer(tmp_path / "model.onnx", packed=True)))
    heads = next(group for group in find_groups(flow) if group.name == "qkv")
    assert (heads.count, heads.width) == (4, 3 * 8), "heads go as a whole, in all three"


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("lenet", "fc3", "the model's output y"),
        ("transformer", "embed", "attended (LayerNormalization), which needs all of them"),
        ("resnet", "block0.1", "block0.1 is to be left alone"),
    ],
)
def test_what_cannot_go_is_named_with_its_reason(
    tmp_path: Path, name: str, layer: str, reason: str
) -> None:
    model = load_with_constants(NETWORKS[name](tmp_path / "model.onnx"))
    kept = dict(kept_for_a_reason(flow_of(model, exclude=("block0.1",))))
    assert reason in kept[layer]


def one_convolution(path: Path, *after: onnx.NodeProto, **weights: NDArray[Any]) -> Path:
    """x [batch, 3, 8, 8] → Conv to h [batch, 16, 8, 8] → nodes → r → Conv to y."""
    random = np.random.default_rng(0)
    kernels = {
        "one": random.standard_normal((16, 3, 1, 1)).astype(np.float32),
        "two": random.standard_normal((5, 16, 1, 1)).astype(np.float32),
    }
    make = onnx.helper.make_node
    return models.save(
        path,
        [
            make("Conv", ["x", "one"], ["h"], name="first"),
            *after,
            make("Conv", ["r", "two"], ["y"], name="second"),
        ],
        [("x", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [("y", onnx.TensorProto.FLOAT, ["batch", 5, 8, 8])],
        {**kernels, **weights},
    )


NODE = onnx.helper.make_node


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([NODE("LRN", ["h"], ["r"], size=3)], "(LRN), which is an operator that is not understood"),
        ([NODE("Softmax", ["h"], ["r"], axis=1)], "(Softmax), which needs all of them"),
        (
            [NODE("ConstantOfShape", ["full"], ["o"]), NODE("Add", ["h", "o"], ["r"])],
            "(Add), which reads something beside them",
        ),
        (
            [
                NODE("Shape", ["h"], ["n"]),
                NODE("Mul", ["n", "ones"], ["o"]),
                NODE("Reshape", ["h", "o"], ["r"]),
            ],
            "(Mul), which computes with how many there are",
        ),
        (
            [
                NODE("Shape", ["h"], ["n"]),
                NODE("Reshape", ["n", "four"], ["m"]),
                NODE("ReduceMax", ["m"], ["o"]),
                NODE("Cast", ["o"], ["c"], to=onnx.TensorProto.FLOAT),
                NODE("Div", ["h", "c"], ["r"]),
            ],
            "(ReduceMax), which computes with how many there are",
        ),
        (
            [NODE("Reshape", ["h", "mixed"], ["o"]), NODE("Reshape", ["o", "shape"], ["r"])],
            "(Reshape), which mixes axes",
        ),
    ],
    ids=["LRN", "Softmax", "Add", "computed Reshape", "counted", "mixing Reshape"],
)
def test_what_is_not_understood_keeps_its_channels(
    tmp_path: Path, context: StepContext, nodes: list[onnx.NodeProto], reason: str
) -> None:
    shapes = {
        "full": np.array([1, 16, 8, 8]),
        "shape": np.array([-1, 16, 8, 8]),
        "mixed": np.array([-1, 5, 7]),
        "ones": np.array([1, 1, 1, 1]),
        "four": np.array([4]),
    }
    model = one_convolution(tmp_path / "model.onnx", *nodes, **shapes)
    result = prune_channels.apply(model, PruneChannels(), context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0].startswith("left alone: first, they reach ")
    assert reason in result.notes[0]
    assert result.notes[-1] == "no channel was taken out"


def halves(first: str, second: str) -> list[onnx.NodeProto]:
    return [NODE("Relu", [first], ["r1"]), NODE("Concat", ["r1", second], ["r"], axis=1)]


@pytest.mark.parametrize(
    "nodes",
    [
        [NODE("Pad", ["h", "pads"], ["p"]), NODE("MaxPool", ["p"], ["r"], kernel_shape=[3, 3])],
        [NODE("Resize", ["h", "", "scales"], ["p"]), NODE("Slice", ["p", "z", "e", "a"], ["r"])],
        [NODE("Unsqueeze", ["h", "one_"], ["p"]), NODE("Squeeze", ["p", "one_"], ["r"])],
        [NODE("PRelu", ["h", "slope"], ["r"])],
        [NODE("InstanceNormalization", ["h", "scale", "shift"], ["r"])],
        [NODE("Softmax", ["h"], ["s"], axis=2), NODE("Mul", ["s", "h"], ["r"])],
        [NODE("Split", ["h"], ["p", "q"], axis=1, num_outputs=2), *halves("p", "q")],
        [NODE("Split", ["h", "uneven"], ["p", "q"], axis=1), *halves("p", "q")],
        [NODE("ConvTranspose", ["h", "square"], ["r"])],
        [NODE("Conv", ["h", "grouped"], ["r"], group=4)],
        [NODE("Conv", ["h", "doubled"], ["p"], group=16), NODE("Conv", ["p", "wide"], ["r"])],
        [NODE("Reshape", ["h", "flat"], ["p"]), NODE("Reshape", ["p", "image"], ["r"])],
        [NODE("Reshape", ["h", "parts"], ["p"]), NODE("Reshape", ["p", "image"], ["r"])],
        [
            NODE("Reshape", ["h", "parts"], ["p"]),
            NODE("Transpose", ["p"], ["q"], perm=[0, 2, 1, 3, 4]),
            NODE("Reshape", ["q", "image"], ["r"]),
        ],
        [NODE("ReduceMax", ["h", "a"], ["p"]), NODE("Sub", ["h", "p"], ["r"])],
    ],
    ids=lambda nodes: "-".join(node.op_type for node in nodes),
)
def test_channels_are_followed_through(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    random = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {
        "slope": (16, 1, 1),
        "scale": (16,),
        "shift": (16,),
        "square": (16, 16, 1, 1),
        "grouped": (24, 4, 1, 1),
        "doubled": (32, 1, 1, 1),
        "wide": (16, 32, 1, 1),
    }
    numbers = {
        "pads": [0, 0, 1, 1, 0, 0, 1, 1],
        "z": [0, 0],
        "e": [8, 8],
        "a": [2, 3],
        "one_": [2],
        "uneven": [5, 11],
        "flat": [0, 16 * 64],
        "image": [0, 16, 8, 8],
        "parts": [-1, 4, 4, 8, 8],
    }
    constants: dict[str, NDArray[Any]] = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    constants |= {name: np.array(value) for name, value in numbers.items()}
    constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    read = {name for node in nodes for name in node.input}
    used = {name: value for name, value in constants.items() if name in read}
    if "grouped" in used:
        used["two"] = random.standard_normal((5, 24, 1, 1)).astype(np.float32)
    model = load_with_constants(one_convolution(tmp_path / "model.onnx", *nodes, **used))
    flow = flow_of(model)
    removed = half_of_every_group(flow)
    pruned = cut(model, flow, removed)
    onnx.checker.check_model(pruned, full_check=True)
    wanted = answers(silenced(model, flow, removed))
    np.testing.assert_allclose(answers(pruned), wanted, atol=1e-5 * np.abs(wanted).max())
    assert count_macs(pruned) < 0.8 * count_macs(model)


def silenced(model: onnx.ModelProto, flow: Flow, removed: NDArray[np.int64]) -> onnx.ModelProto:
    """The whole model, with zeros where layers read the removed channels."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    places = kept_places(flow, removed)
    reads = {(layer.weight, layer.reads[2]) for layer in flow.layers}
    for tensor in result.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).copy()
        for axis in range(value.ndim):
            if (tensor.name, axis) in reads & set(places):
                np.moveaxis(value, axis, 0)[~places[tensor.name, axis]] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return result


def test_weights_that_callers_may_replace_are_left_alone(
    tmp_path: Path, context: StepContext
) -> None:
    path = one_convolution(tmp_path / "model.onnx", NODE("Relu", ["h"], ["r"], name="relu"))
    model = onnx.load(str(path))
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("one", onnx.TensorProto.FLOAT, [16, 3, 1, 1])
    )
    onnx.save(model, str(path))
    assert not prune_channels.apply(path, PruneChannels(), context).modified


def test_a_length_that_a_model_reads_from_what_is_pruned_follows_by_itself(
    tmp_path: Path,
) -> None:
    nodes = [
        NODE("Shape", ["h"], ["n"]),
        NODE("Reshape", ["h", "flat"], ["p"]),
        NODE("Reshape", ["p", "n"], ["r"]),
    ]
    path = one_convolution(tmp_path / "model.onnx", *nodes, flat=np.array([0, 16 * 64]))
    model = load_with_constants(path)
    flow = flow_of(model)
    removed = half_of_every_group(flow)
    pruned = cut(model, flow, removed)
    wanted = answers(silenced(model, flow, removed))
    np.testing.assert_allclose(answers(pruned), wanted, atol=1e-5 * np.abs(wanted).max())
    assert [node.op_type for node in pruned.graph.node] == [
        node.op_type for node in model.graph.node
    ]


def test_a_zero_in_a_shape_stands_for_an_axis_that_must_lose_the_same(tmp_path: Path) -> None:
    """The 0 copies the length of the third axis, which is not where the channels go."""
    nodes = [
        NODE("Reshape", ["h", "split"], ["p"]),
        NODE("Transpose", ["p"], ["t"], perm=[0, 2, 1, 3]),
        NODE("Reshape", ["t", "copied"], ["q"]),
        NODE("Reshape", ["q", "image"], ["r"]),
    ]
    shapes = {"split": [0, 8, 2, 64], "copied": [-1, 4, 0, 32], "image": [-1, 16, 8, 8]}
    path = one_convolution(
        tmp_path / "model.onnx", *nodes, **{name: np.array(one) for name, one in shapes.items()}
    )
    model = load_with_constants(path)
    assert answers(model).shape == (3, 5, 8, 8)
    flow = flow_of(model)
    [reason] = [why for name, why in kept_for_a_reason(flow) if name == "first"]
    assert find_groups(flow) == []
    assert "(Reshape), which reads something beside them" in reason


def test_no_part_of_a_split_loses_all_its_channels(tmp_path: Path, context: StepContext) -> None:
    """The first half of the channels is the weaker one, and would go as a whole."""
    nodes = [NODE("Split", ["h"], ["p", "q"], axis=1, num_outputs=2, name="split")]
    nodes += halves("p", "q")
    kernel = np.random.default_rng(0).standard_normal((16, 3, 1, 1)).astype(np.float32)
    kernel[:8] /= 100
    path = one_convolution(tmp_path / "model.onnx", *nodes, one=kernel)
    result = prune_channels.apply(path, PruneChannels(round_to=0), context)
    graph = onnx.load(str(result.model)).graph
    sizes = next(tensor for tensor in graph.initializer if tensor.name == "p_widths")
    assert onnx.numpy_helper.to_array(sizes).tolist() == [4, 4]
    assert np.isfinite(answers(onnx.load(str(result.model)))).all()


def test_a_graph_inside_a_node_keeps_what_it_reads(tmp_path: Path) -> None:
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    branch = onnx.helper.make_graph(
        [make("Identity", ["h"], ["inner"])],
        "branch",
        [],
        [info("inner", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [
        make("If", ["always"], ["unused"], name="if", then_branch=branch, else_branch=branch),
        make("Relu", ["h"], ["r"], name="relu"),
    ]
    path = one_convolution(tmp_path / "model.onnx", *nodes, always=np.array(True))
    flow = flow_of(load_with_constants(path))
    assert find_groups(flow) == []
    assert "the inner graph of if" in dict(kept_for_a_reason(flow))["first"]


def test_a_weight_that_two_layers_share_loses_what_both_can_lose(tmp_path: Path) -> None:
    """One reads the image and so must keep its columns; rows may still go in both."""
    random = np.random.default_rng(0)
    make = onnx.helper.make_node
    path = models.save(
        tmp_path / "model.onnx",
        [
            make("MatMul", ["x", "w"], ["a"], name="one"),
            make("Relu", ["a"], ["h"], name="relu"),
            make("MatMul", ["h", "w"], ["b"], name="two"),
            make("MatMul", ["b", "v"], ["y"], name="three"),
        ],
        [("x", onnx.TensorProto.FLOAT, ["batch", 16])],
        [("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        {
            "w": random.standard_normal((16, 16)).astype(np.float32),
            "v": random.standard_normal((16, 3)).astype(np.float32),
        },
    )
    groups = find_groups(flow_of(load_with_constants(path)))
    assert groups == [], "rows of w are its columns the next time"


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_importance_is_the_sum_of_norms_over_all_members(
    tmp_path: Path, norm: Literal["l1", "l2"], power: int
) -> None:
    model = load_with_constants(networks.resnet(tmp_path / "model.onnx"))
    flow = flow_of(model)
    group = next(one for one in find_groups(flow) if one.name == "block1.1")
    found = weight_importance(flow, group, norm)
    rows, columns = flow.constants["block1.1.w"], flow.constants["block1.2.w"]
    scale = flow.constants["block1.bn1.scale"]
    for channel in range(32):
        parts = [rows[channel], columns[:, channel], scale[channel]]
        wanted = sum(float((np.abs(part) ** power).sum()) ** (1 / power) for part in parts)
        assert found[channel] == pytest.approx(wanted, rel=1e-5)


def test_activation_importance_is_what_a_channel_adds_to_its_reader(
    tmp_path: Path, context: StepContext
) -> None:
    path = one_convolution(
        tmp_path / "model.onnx", onnx.helper.make_node("Relu", ["h"], ["r"], name="relu")
    )
    write_data(tmp_path / "data", path, calibration_items=20)
    model = load_with_constants(path)
    flow = flow_of(model)
    [group] = find_groups(flow)
    probe = Probe(path, tmp_path / "data/calibration.npz", 20, context.work_directory, 0)
    found = activation_importance(flow, group, probe.strengths(model, flow))
    x = np.load(tmp_path / "data/calibration.npz")["x"]
    read = np.maximum(np.einsum("oi,nihw->nohw", flow.constants["one"][:, :, 0, 0], x), 0)
    root_mean_square = np.sqrt((read**2).mean(axis=(0, 2, 3)))
    wanted = root_mean_square * np.linalg.norm(flow.constants["two"][:, :, 0, 0], axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_activation_importance_asks_for_data(tmp_path: Path, context: StepContext) -> None:
    model = networks.perceptron(tmp_path / "model.onnx")
    with pytest.raises(InvalidData, match=r"name an \.npz as data.calibration in hone.yaml"):
        prune_channels.apply(model, PruneChannels(importance="activation"), context)


def test_a_channel_that_nobody_hears_goes_first_and_is_not_missed(
    tmp_path: Path, context: StepContext
) -> None:
    """Its weights are large, so only activations tell that it is always silent."""
    path = networks.perceptron(tmp_path / "model.onnx")
    model = load_with_constants(path)
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name in ("fc1.w", "fc1.b"):
            value[..., ::2] = -99 if tensor.name == "fc1.b" else 5 * value[..., ::2]
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, str(path))
    write_data(tmp_path / "data", path)
    context = replace(context, data={"calibration": tmp_path / "data/calibration.npz"})
    step = PruneChannels(importance="activation", exclude=("fc2",), sensitivity=False)
    result = prune_channels.apply(path, step, context)
    assert result.modified
    wanted = answers(onnx.load(str(path)))
    np.testing.assert_allclose(answers(onnx.load(str(result.model))), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "width", "ratio", "round_to", "kept"),
    [
        (64, 1, 0.3, 0, 45),
        (64, 1, 0.3, 8, 48),
        (32, 1, 0.3, 16, 16),
        (16, 1, 0.7, 8, 8),  # rounding down to nothing would leave the group whole
        (16, 1, 0.3, 8, 8),
        (16, 1, 0.2, 8, 16),
        (6, 1, 0.5, 8, 6),
        (12, 1, 0.5, 8, 8),
        (24, 1, 0.5, 8, 8),
        (40, 1, 0.5, 8, 16),
        (4, 8, 0.5, 8, 2),
        (4, 12, 0.5, 8, 2),
        (3, 1, 0.99, 0, 1),
    ],
)
def test_widths_are_the_nearest_multiple(
    count: int, width: int, ratio: float, round_to: int, kept: int
) -> None:
    group = Group(layers=(), roots=np.arange(count), width=width, members=())
    assert group.kept(ratio, round_to) == kept


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_widths_fit_the_blocks_that_convolutions_are_computed_in(
    tmp_path: Path, context: StepContext, ratio: float
) -> None:
    """At 11, 22 and 44 channels a network is slower than at 16, 32 and 64."""
    model = networks.resnet(tmp_path / "model.onnx")
    result = prune_channels.apply(model, PruneChannels(ratio=ratio), context)
    assert set(widths(result.model)) <= {8, 16, 24, 32, 40, 48}
    loose = prune_channels.apply(model, PruneChannels(ratio=0.3, round_to=0), context)
    assert set(widths(loose.model)) == {11, 22, 45}


def widths(model: Path) -> list[int]:
    tensors = onnx.load(str(model)).graph.initializer
    return [tensor.dims[0] for tensor in tensors if len(tensor.dims) == 4]


@pytest.mark.parametrize("name", NETWORKS)
def test_work_and_bytes_really_fall(tmp_path: Path, context: StepContext, name: str) -> None:
    path = NETWORKS[name](tmp_path / "model.onnx")
    result = prune_channels.apply(path, PruneChannels(), context)
    before, after = (infer(one) for one in (path, result.model))
    assert after < 0.6 * before
    assert result.model.stat().st_size < 0.6 * path.stat().st_size
    assert f"{before} → {after} MACs" in result.notes[0]
    assert answers(onnx.load(str(result.model))).shape == (3, 10)


def infer(path: Path) -> int:
    return count_macs(load_with_constants(path))


def test_macs_are_counted_as_by_hand(tmp_path: Path) -> None:
    conv1, conv2 = 12 * 12 * 16 * 25, 6 * 6 * 24 * 16 * 9
    perceptron = infer(networks.perceptron(tmp_path / "model.onnx"))
    assert perceptron == 64 * 96 + 96 * 64 + 64 * 10
    lenet = infer(networks.lenet(tmp_path / "model.onnx"))
    full = 216 * 48 + 48 * 32 + 32 * 10
    assert lenet == conv1 + conv2 + full
    attention = 4 * 6 * 32 * 32 + 2 * 6 * 6 * 32
    other = 6 * 8 * 32 + 2 * 6 * 32 * 64 + 32 * 10
    assert infer(networks.transformer(tmp_path / "model.onnx")) == attention + other


def test_a_group_too_narrow_to_round_is_named(tmp_path: Path, context: StepContext) -> None:
    model = models.convolutional(tmp_path / "model.onnx", channels=6)
    result = prune_channels.apply(model, PruneChannels(), context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0] == "left whole by round_to 8: conv0 (6)"
    assert prune_channels.apply(model, PruneChannels(round_to=0), context).modified


def test_layers_that_matter_more_keep_more(tmp_path: Path, context: StepContext) -> None:
    """The second block's branch is all but silent, so it gives up more than the others."""
    path = networks.resnet(tmp_path / "model.onnx")
    model = load_with_constants(path)
    for tensor in model.graph.initializer:
        if tensor.name == "block1.2.w":
            value = onnx.numpy_helper.to_array(tensor) * np.float32(1e-3)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, str(path))
    write_data(tmp_path / "data", path)
    context = replace(context, data={"calibration": tmp_path / "data/calibration.npz"})
    result = prune_channels.apply(path, PruneChannels(round_to=0), context)
    assert "block1.1: 32 → 8 channels" in result.notes
    assert "groups that move them more lost less" in result.notes
    moved = next(note for note in result.notes if note.startswith("the answers to 64 items moved"))
    found, wanted = (run(one, tmp_path / "data/calibration.npz") for one in (result.model, path))
    distance = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert float(moved.split(" by ")[1].split()[0]) == pytest.approx(distance, rel=0.01)
    even = prune_channels.apply(path, PruneChannels(round_to=0, sensitivity=False), context)
    assert "block1.1: 32 → 16 channels" in even.notes


def run(model: Path, data: Path) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(model))
    result: NDArray[np.float32] = session.run(None, {"x": np.load(data)["x"]})[0]
    return result


def test_excluded_names_must_exist(tmp_path: Path, context: StepContext) -> None:
    model = networks.perceptron(tmp_path / "model.onnx")
    with pytest.raises(InvalidDocument, match="exclude names fc9"):
        prune_channels.apply(model, PruneChannels(exclude=("fc9",)), context)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"ratio": 0.0}, r"prune_channels.ratio must be in \(0, 1\), got 0.0"),
        ({"samples": 0}, "prune_channels.samples must be at least 1, got 0"),
    ],
)
def test_parameters_are_checked(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidDocument, match=text):
        PruneChannels(**wrong)


def test_what_pruning_is_measured_on_is_drawn_from_all_of_the_data(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["x"], ["y"])], "abs", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "model.onnx"))
    # Class after class, as data is often written.
    np.savez(tmp_path / "sorted.npz", x=np.arange(1000, dtype=np.float32).reshape(-1, 1))
    probe = Probe(tmp_path / "model.onnx", tmp_path / "sorted.npz", 64, tmp_path, seed=0)
    assert probe.count == 64
    seen = np.concatenate(probe.answers(model))
    assert seen.min() < 250
    assert seen.max() > 750
