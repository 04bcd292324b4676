"""ONNX files that a recipe names beside the original: a teacher, a student."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optimizers.contract.distillation import Distill
from optimizers.contract.errors import InvalidData
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.recipe import Recipe


def named_models(recipe: Recipe, home: Path, said: str) -> dict[str, Path]:
    """Where the files lie that a recipe names.

    Args:
        recipe: Of a profile.
        home: The directory of the file that holds it.
        said: Who names them, for errors.

    Returns:
        Name in the recipe → absolute path.

    Raises:
        InvalidData: One is missing, or a link leads out of `home`.
    """
    names = [name for step in recipe.steps if isinstance(step, Distill) for name in step.models]
    found = {name: home.absolute() / name for name in names}
    for name, path in found.items():
        if not path.is_file():
            raise InvalidData(f"{said} names the model {name}, which is missing")
        if not path.resolve().is_relative_to(home.resolve()):
            raise InvalidData(
                f"{said} names the model {name}, which links to a place outside "
                f"{home.resolve().name}; expected a file in it"
            )
    return found


def models_sha256(models: Mapping[str, Path]) -> dict[str, str]:
    """What each is known by, external weights included.

    Raises:
        InvalidModel: One is no ONNX model, or refers to files outside its directory.
    """
    return {name: read_onnx_file(path).sha256() for name, path in models.items()}
