"""What a build is made of: all that decides which bytes come out of it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from optimizers.contract.host import Host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.steps import Step, step_name

_TAKES_PART: Final = (
    *("hone-server", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    *("onnx", "onnxscript", "onnx-ir", "torch", "numpy", "scipy", "pyarrow", "pillow"),
)
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """All that a recipe's steps read besides their own parameters.

    Attributes:
        task: How answers are compared.
        seed: Of everything random.
        original_sha256: Digest of the model that the recipe starts from.
        original_session: How that model is opened.
        data_sha256: calibration, train, search → digest of the data, where given; it covers how
            images are read. Never the gate's, which no step sees.
        models_sha256: Name in the recipe → digest of the ONNX file that its steps work with.
        host: The machine, as some steps and most kernels depend on it.
        versions: Name → version of the interpreter and the packages that take part.
        code_sha256: Digest of the optimisers' own source files.
    """

    task: Task
    seed: int
    original_sha256: str
    original_session: SessionSpec
    data_sha256: dict[str, str]
    models_sha256: dict[str, str]
    host: Host
    versions: dict[str, str]
    code_sha256: str


def step_keys(ingredients: Ingredients, steps: Sequence[Step]) -> tuple[str, ...]:
    """For each step, the digest of all that decides what the model is after it.

    Returns:
        Hexadecimal sha256. Recipes that begin alike share the keys of their beginning.
    """
    keys: list[str] = []
    former = _digest([_FORMAT, asdict(ingredients)])
    for step in steps:
        former = _digest([former, step_name(step), asdict(step)])
        keys.append(former)
    return tuple(keys)


def installed_versions() -> dict[str, str]:
    """Name → version of the interpreter and of every package here that takes part in building."""
    found = {"python": platform.python_version()}
    for name in _TAKES_PART:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def code_sha256() -> str:
    """Digest of the optimisers' source files, by their paths below the package."""
    home = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(home.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(home)} {content}\n".encode())
    return digest.hexdigest()


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
