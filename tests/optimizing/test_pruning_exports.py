"""Graphs as torch's two exporters write them, with shapes computed at run time."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from optimizers.graph import load_with_constants
from optimizers.macs import count_macs
from optimizers.pruning.cut import cut
from optimizers.pruning.groups import find_groups
from tests.support.pruning import answers, flow_of, half_of_every_group, masked


class Layer(nn.Module):
    """Attention and two full layers, as wide as what they are given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        items, length, width = x.shape
        parts = [
            layer(x).view(items, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = functional.scaled_dot_product_attention(*parts)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(items, length, width)))
        answer: torch.Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return answer


class Encoder(nn.Module):
    """Transformer layers over tokens, both the items and their length free."""

    def __init__(self, layers: int, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, width), nn.Linear(width, 5)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.layers(self.table(tokens)).mean(1))
        return answer


class Images(nn.Module):
    """Two convolutions, flattened by the number of items."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.full, self.head = nn.Linear(32 * 4 * 4, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.norm(self.conv1(x)).relu(), 2)
        x = functional.max_pool2d(self.conv2(x).relu(), 2)
        answer: torch.Tensor = self.head(self.full(x.view(x.size(0), -1)).relu())
        return answer


def exported(path: Path, name: str, *, dynamo: bool) -> onnx.ModelProto:
    torch.manual_seed(0)
    network: nn.Module = Encoder(1 if dynamo else 2) if name == "encoder" else Images()
    example = torch.randint(0, 50, (2, 7)) if name == "encoder" else torch.randn(2, 3, 16, 16)
    free = {0: "items", 1: "length"} if name == "encoder" else {0: "items"}
    shapes = ({axis: torch.export.Dim(text) for axis, text in free.items()},)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            network.eval(),
            (example,),
            str(path),
            dynamo=dynamo,
            external_data=False,
            verbose=False,
            input_names=["given"],
            output_names=["answer"],
            dynamic_shapes=shapes if dynamo else None,
            dynamic_axes=None if dynamo else {"given": free},
        )
    return load_with_constants(path)


@pytest.mark.parametrize(
    ("name", "dynamo", "widths"),
    [
        ("encoder", True, [(4, 8), (128, 1)]),
        ("encoder", False, [(4, 8), (128, 1), (4, 8), (128, 1)]),
        ("images", False, [(16, 1), (32, 1), (64, 1)]),
    ],
    ids=["encoder, dynamo", "encoder, script", "images, script"],
)
def test_exported_graphs_lose_channels_and_heads(
    tmp_path: Path, name: str, widths: list[tuple[int, int]], dynamo: bool
) -> None:
    model = exported(tmp_path / "model.onnx", name, dynamo=dynamo)
    flow = flow_of(model)
    assert [(group.count, group.width) for group in find_groups(flow)] == widths
    removed = half_of_every_group(flow)
    pruned, zeros = cut(model, flow, removed), masked(model, flow, removed)
    onnx.checker.check_model(pruned, full_check=True)
    assert count_macs(pruned) < 0.8 * count_macs(model)
    for items, length in ((1, 1), (3, 9)):
        wanted = answers(zeros, items, length)
        found = answers(pruned, items, length)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    lost = np.abs(answers(model, items, length) - wanted).max()
    assert lost > 0.001 * np.abs(wanted).max()


def test_an_exporters_notes_on_its_source_go_with_the_channels(tmp_path: Path) -> None:
    model = exported(tmp_path / "model.onnx", "encoder", dynamo=True)
    noted = sum(one.ByteSize() for node in model.graph.node for one in node.metadata_props)
    assert noted > 1000, "this exporter writes none"
    flow = flow_of(model)
    pruned = cut(model, flow, half_of_every_group(flow))
    assert not any(node.metadata_props for node in pruned.graph.node)
    assert not pruned.graph.metadata_props
