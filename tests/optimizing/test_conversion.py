"""Programs of torch.export become ONNX models that answer the same, or a reason why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from optimizers.contract.converted import read_report
from optimizers.contract.errors import InvalidModel, NotSupported
from optimizers.conversion.comparison import compare, relative_difference
from optimizers.conversion.convert import convert
from optimizers.conversion.program import read_program
from tests.support import models
from tests.support.programs import ROWS, hostile_program, save_program, small_network


class Awkward(nn.Module):
    """A weight named like an input, an output that is an input, one output twice, keyword input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: torch.Tensor, *, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        total = x * self.weight + weight
        return {"total": total, "echo": x, "again": total, "val_0": total.sum(1)}


class Numbers(nn.Module):
    """Two outputs in a tuple."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x.argmax(1)


class Outside(nn.Module):
    """What ONNX has no operator for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)  # type: ignore[no-any-return]


class Random(nn.Module):
    """Never the same answer twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def session(directory: Path) -> Any:
    return onnxruntime.InferenceSession(
        str(directory / "model.onnx"), providers=["CPUExecutionProvider"]
    )


def rows(*lengths: int) -> torch.Tensor:
    return torch.rand(*lengths, generator=torch.Generator().manual_seed(1))


def test_inputs_and_outputs_have_the_programs_names_whatever_else_has_them(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    shapes = {"x": {0: ROWS}, "weight": {0: ROWS}}
    module = Awkward().eval()
    program = torch.export.export(
        module, (rows(2, 4),), {"weight": rows(2, 4)}, dynamic_shapes=shapes
    )
    torch.export.save(program, path)
    convert(path, tmp_path)
    opened = session(tmp_path)
    assert [(one.name, one.shape[1:]) for one in opened.get_inputs()] == [
        ("x", [4]),
        ("weight", [4]),
    ]
    assert isinstance(opened.get_inputs()[0].shape[0], str)
    x, weight = rows(3, 4), rows(3, 4) + 1
    names = ["total", "echo", "again", "val_0"]
    assert [one.name for one in opened.get_outputs()] == names
    answers = opened.run(names, {"x": x.numpy(), "weight": weight.numpy()})
    with torch.no_grad():
        expected = module(x, weight=weight)
    for name, answer in zip(names, answers, strict=True):
        np.testing.assert_allclose(answer, expected[name].numpy(), rtol=1e-6)


def test_outputs_without_names_are_numbered_or_named_by_the_caller(tmp_path: Path) -> None:
    path = save_program(tmp_path / "model.pt2", Numbers(), (rows(2, 4),), ({0: ROWS},))
    convert(path, tmp_path)
    assert [one.name for one in session(tmp_path).get_outputs()] == ["output_0", "output_1"]
    convert(path, tmp_path, ["next", "best"])
    assert [one.name for one in session(tmp_path).get_outputs()] == ["next", "best"]
    with pytest.raises(InvalidModel, match=r"names 1 outputs .one.*program returns 2"):
        convert(path, tmp_path, ["one"])
    with pytest.raises(InvalidModel, match="x would name two tensors"):
        convert(path, tmp_path, ["x", "best"])


def test_a_batch_is_free_where_the_program_has_it_free(tmp_path: Path) -> None:
    convert(small_network(tmp_path / "free.pt2"), tmp_path)
    assert read_report(tmp_path).batch is None
    convert(small_network(tmp_path / "fixed.pt2", fixed_rows=3), tmp_path)
    assert read_report(tmp_path).batch == 3
    assert session(tmp_path).get_inputs()[0].shape == [3, 1, 8, 8]


def test_what_is_no_program_is_said_to_be_none(tmp_path: Path) -> None:
    path = small_network(tmp_path / "model.pt2")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(
        InvalidModel, match=r"model.pt2 cannot be read as a program of torch.export"
    ):
        convert(path, tmp_path)
    models.linear(tmp_path / "other.pt2")
    with pytest.raises(InvalidModel, match=r"expected a file written by torch.export.save"):
        convert(tmp_path / "other.pt2", tmp_path)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    path = save_program(tmp_path / "model.pt2", Outside(), (rows(2, 4),))
    with pytest.raises(NotSupported, match=r"operator prims.bessel_j0 has no counterpart"):
        convert(path, tmp_path)


def test_a_program_that_takes_numbers_is_refused(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, factor: int) -> torch.Tensor:
            return x * factor

    path = save_program(tmp_path / "model.pt2", Scaled(), (rows(2, 4), 3))
    with pytest.raises(NotSupported, match="input 'factor' is no tensor; expected tensors only"):
        convert(path, tmp_path)


def test_a_model_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    path = save_program(tmp_path / "model.pt2", Random(), (rows(2, 4),), ({0: ROWS},))
    with pytest.raises(InvalidModel, match=r"with 1 rows output 'output_0' differs by"):
        convert(path, tmp_path)
    # A model of the same form with other weights is told apart.
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    first = save_program(tmp_path / "a.pt2", nn.Linear(4, 2), (rows(2, 4),), ({0: ROWS},))
    second = save_program(tmp_path / "b.pt2", nn.Linear(4, 2), (rows(2, 4),), ({0: ROWS},))
    convert(first, ours)
    convert(second, theirs)
    program = read_program(first)
    assert compare(program, ours / "model.onnx") < 1e-6
    with pytest.raises(InvalidModel, match="answers otherwise"):
        compare(program, theirs / "model.onnx")


def test_differences_are_shares_of_the_largest_magnitude() -> None:
    one, other = np.array([1.0, 20.5]), np.array([1.0, 20.0])
    assert relative_difference(one, other) == pytest.approx(0.025)
    assert relative_difference(one / 100, other / 100) == pytest.approx(0.005)


def command(source: Path, target: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optimizers", "convert", *flags, str(source), str(target)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_conversion_keeps_to_its_limits_and_says_so(tmp_path: Path) -> None:
    greedy = hostile_program(tmp_path / "greedy.pt2", "x = bytearray(4 << 30)")
    done = command(greedy, tmp_path / "model", f"--memory-bytes={3 << 30}")
    assert done.returncode == 1
    assert "MemoryError" in done.stderr or "memory" in done.stderr
    assert "Traceback" not in done.stderr.splitlines()[-1]
    code = "import os; os.write(os.open({!r}, os.O_CREAT | os.O_WRONLY), bytes(2 << 20))"
    written = tmp_path / "written"
    hostile = hostile_program(tmp_path / "writes.pt2", code.format(str(written)))
    command(hostile, tmp_path / "model", f"--file-bytes={1 << 20}")
    assert written.stat().st_size <= 1 << 20
