"""The steps on what torch exports: plain or optimised, with branches, residuals and attention."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from optimizers.contract.architecture import DropHeads, DropLayers, Grow, LowRank, Merge, Simplify
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.goal import Goal
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.steps import Step
from optimizers.demo.networks import export
from optimizers.graph import count_operators
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models

CHANNELS = 8


class Branches(nn.Module):
    """RepVGG's block: three normalised branches added up."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.small = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = self.norms
        return torch.relu(first(self.large(x)) + second(self.small(x)) + third(x))


class Images(nn.Module):
    """A stem, a residual block, two blocks of branches, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.inner = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        )
        self.branches = nn.Sequential(Branches(), Branches())
        self.head = nn.Linear(CHANNELS, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = self.branches(x + self.inner(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class Layer(nn.Module):
    """A transformer's layer with an activation that adds x to its cube.

    Attention is written out, or torch's own, which is exported with Reshapes between its products.
    """

    def __init__(self, width: int, heads: int, *, written_out: bool) -> None:
        super().__init__()
        self.heads, self.written_out = heads, written_out
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        items, tokens, width = x.shape

        def split(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(items, tokens, self.heads, -1).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        if self.written_out:
            weighed = torch.softmax(query @ key.transpose(-1, -2) / 2.0, -1) @ value
        else:
            weighed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(weighed.transpose(1, 2).reshape(items, tokens, width))
        hidden = self.up(x)
        hidden = torch.tanh(hidden + 0.04 * hidden * hidden * hidden)
        result: torch.Tensor = x + self.down(hidden)
        return result


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = (Layer(16, 4, written_out=True), Layer(16, 4, written_out=False))
        self.layers = nn.Sequential(nn.Linear(6, 16), *layers)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(x).mean(1))
        return logits


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "images": (Images, (3, 10, 10)),
    "tokens": (Tokens, (5, 6)),
}


def values(name: str, items: int = 6) -> NDArray[np.float32]:
    shape = (items, *SHAPES[name][1])
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def network(name: str, idle: float = 0.01) -> nn.Module:
    """Random weights, and statistics of random batches.

    Args:
        name: Of `SHAPES`.
        idle: How much of what they did is left to head 2 of the first attention, 1 of the second.
    """
    torch.manual_seed(0)
    made = SHAPES[name][0]().train()
    with torch.no_grad():
        made(2 * torch.from_numpy(values(name, 64)) + 1)
        for each in made.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.weight.uniform_(0.5, 1.5)
                each.bias.normal_()
        layers = [each for each in made.modules() if isinstance(each, Layer)]
        for layer, head in zip(layers, (2, 1), strict=False):
            layer.out.weight[:, 4 * head : 4 * (head + 1)] *= idle
    return made.eval()


def export_plainly(made: nn.Module, example: NDArray[np.float32], path: Path) -> None:
    """As torch writes it down: shapes computed at run time, weights behind Transposes."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            made,
            (torch.from_numpy(example[:2]),),
            str(path),
            dynamo=True,
            optimize=False,
            external_data=False,
            verbose=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for name in SHAPES:
        made = network(name)
        if name == "images":
            export(made, values(name), folder / f"{name}.onnx", ("x", "y"))
        export_plainly(made, values(name), folder / f"{name}_plain.onnx")
        np.savez(folder / f"{name}.npz", x=values(name, 32))
    return folder


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return StepContext(
        work_directory=tmp_path,
        original=tmp_path / "model.onnx",
        host=this_host(2),
        session=SessionSpec(),
        goal=Goal(),
        task=Task.OTHER,
        data={},
        seed=0,
        report=lambda share, text: None,
    )


def run(model: Path, given: NDArray[np.float32]) -> NDArray[np.float32]:
    session = Session(model, SessionSpec())
    [answer] = session.run({"x": given})
    session.close()
    return np.asarray(answer, dtype=np.float32)


def in_turn(model: Path, steps: list[Step], context: StepContext) -> tuple[Path, list[str]]:
    """Apply steps one after the other; the last model, and all notes."""
    notes: list[str] = []
    for index, step in enumerate(steps):
        work = context.work_directory / str(index)
        work.mkdir(exist_ok=True)
        result = apply_step(model, step, replace(context, work_directory=work))
        model, notes = result.model, [*notes, *result.notes]
    return model, notes


@pytest.mark.parametrize("suffix", ["", "_plain"])
def test_branches_of_an_export_become_plain_convolutions(
    exported: Path, context: StepContext, suffix: str
) -> None:
    model = exported / f"images{suffix}.onnx"
    made, notes = in_turn(model, [Simplify(), Merge()], context)
    assert count_operators(made, "Conv") == 5
    assert count_operators(made, "BatchNormalization", "Expand", "Shape", "CastLike") == 0
    assert "4 parallel branches went into one convolution" in notes
    wanted = network("images")(torch.from_numpy(values("images"))).detach().numpy()
    np.testing.assert_allclose(run(made, values("images")), wanted, atol=1e-5)


def test_attention_of_a_plain_export_gets_one_product(exported: Path, context: StepContext) -> None:
    made, notes = in_turn(exported / "tokens_plain.onnx", [Simplify(), Merge()], context)
    assert "4 products went into a wider one of the same input" in notes
    for items in (1, 6):
        given = values("tokens", items)
        wanted = network("tokens")(torch.from_numpy(given)).detach().numpy()
        np.testing.assert_allclose(run(made, given), wanted, atol=1e-5)


@pytest.mark.parametrize(("name", "blocks"), [("images", 1), ("tokens", 4)])
def test_residual_blocks_of_an_export_are_found(
    exported: Path, context: StepContext, name: str, blocks: int
) -> None:
    """The activation x + 0.04 x^3 is not one of them."""
    context = replace(context, data={"calibration": exported / f"{name}.npz"})
    _, notes = in_turn(exported / f"{name}_plain.onnx", [Simplify(), DropLayers()], context)
    assert any(note.startswith(f"left out 1 of {blocks} residual blocks: ") for note in notes)


def test_the_least_important_heads_go(exported: Path, context: StepContext) -> None:
    context = replace(context, data={"calibration": exported / "tokens.npz"})
    made, notes = in_turn(exported / "tokens_plain.onnx", [Simplify(), DropHeads()], context)
    assert ["heads, by share of importance: 2 (" in note for note in notes[-2:]] == [True, False]
    assert ["heads, by share of importance: 1 (" in note for note in notes[-2:]] == [False, True]
    wanted = network("tokens", idle=0.0)(torch.from_numpy(values("tokens"))).detach().numpy()
    np.testing.assert_allclose(run(made, values("tokens")), wanted, atol=1e-5)
    shapes = [tuple(each.dims) for each in onnx.load(str(made)).graph.initializer]
    assert shapes.count((16, 12)) == 6
    assert shapes.count((12, 16)) == 2


def test_all_but_one_head_may_go(exported: Path, context: StepContext) -> None:
    context = replace(context, data={"calibration": exported / "tokens.npz"})
    made, notes = in_turn(exported / "tokens_plain.onnx", [Simplify(), DropHeads(count=3)], context)
    assert sum("left out 3 of 4 heads" in note for note in notes) == 2
    assert run(made, values("tokens", 1)).shape == (1, 4)
    _, notes = in_turn(exported / "tokens_plain.onnx", [Simplify(), DropHeads(count=4)], context)
    assert notes[-1] == "no attention with more than 4 heads was found"


def test_heads_cut_in_the_wrong_place_are_refused(
    exported: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: numbers that are not the head's own."""
    context = replace(context, data={"calibration": exported / "tokens.npz"})
    start, _ = in_turn(exported / "tokens_plain.onnx", [Simplify()], context)
    monkeypatch.setattr(
        "optimizers.structure.attention.columns",
        lambda heads, width: np.arange(len(heads) * width),
    )
    result = apply_step(start, DropHeads(), context)
    assert (result.modified, result.model) == (False, start)
    assert result.notes[0].startswith("left as it was: without silent heads, answers differ by")


def test_heads_need_calibration_data(exported: Path, context: StepContext) -> None:
    start, _ = in_turn(exported / "tokens_plain.onnx", [Simplify()], context)
    with pytest.raises(InvalidData, match=r"drop_heads needs calibration data: name an .npz"):
        apply_step(start, DropHeads(), context)
    with pytest.raises(InvalidDocument, match=r"drop_heads.count must be at least 1, got 0"):
        DropHeads(count=0)


STEPS: list[Step] = [Simplify(), Merge(), LowRank(keep=0.5), DropLayers(), Grow(noise=0.1)]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_same_seed_gives_the_same_bytes(
    exported: Path, context: StepContext, step: Step
) -> None:
    context = replace(context, data={"calibration": exported / "images.npz"})
    before = STEPS[: min(2, STEPS.index(step))]
    start, _ = in_turn(exported / "images_plain.onnx", before, context)
    made = []
    for turn in ("one", "other"):
        work = context.work_directory / turn
        work.mkdir()
        result = apply_step(start, step, replace(context, work_directory=work))
        assert result.modified or isinstance(step, LowRank), result.notes
        made.append(hashlib.sha256(result.model.read_bytes()).hexdigest())
    assert made[0] == made[1]


def test_weights_beside_the_model_are_read_and_left_alone(
    exported: Path, context: StepContext
) -> None:
    folder = context.work_directory / "delivered"
    folder.mkdir()
    model = onnx.load(str(exported / "images_plain.onnx"))
    onnx.save(
        model,
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made, _ = in_turn(folder / "model.onnx", [Simplify(), Merge()], context)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    wanted = run(exported / "images_plain.onnx", values("images"))
    np.testing.assert_allclose(run(made, values("images")), wanted, atol=1e-5)


def test_a_model_with_a_loop_stays_right(tmp_path: Path, context: StepContext) -> None:
    model = models.slow(tmp_path / "model.onnx", width=8, rounds=3)
    made, _ = in_turn(model, [Simplify(), Merge(), LowRank(keep=0.5)], context)
    given = np.ones((2, 8), np.float32)
    np.testing.assert_allclose(run(made, given), run(model, given))
