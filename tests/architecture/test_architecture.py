"""The floors of ARCHITECTURE.md, and nothing dead."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "optimizers")


def sources() -> list[Path]:
    return [
        path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if "pb" not in path.parts
    ]


def test_every_import_goes_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_nothing_is_unpickled() -> None:
    for path in sources():
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        assert "torch.load" not in text, path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_function_and_class_is_used_or_tested(package: str) -> None:
    everything = "\n".join(
        path.read_text()
        for folder in (*PACKAGES, "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    )
    unused = []
    for path in (ROOT / package).rglob("*.py"):
        if "pb" in path.parts:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                marks = [ast.unparse(mark) for mark in node.decorator_list]
                # A command, or an operator of ONNX, is found by what it is registered as.
                registered = any("cli" in mark or mark.startswith("operator(") for mark in marks)
                if everything.count(node.name) < 2 and not registered:
                    unused.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not unused


def test_no_file_is_named_for_nothing() -> None:
    banned = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert not [path for path in sources() if path.name in banned]
