"""One recipe on one model: built, judged by the gates, read back."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gains.recipes import Row
from benchmarks.gains.subject import Subject
from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.manifest import Manifest, read_manifest
from optimizers.contract.profile import Task

_PROFILE: Final = """\
recipe: {recipe}
goal:
  optimize: [{optimize}]
  require: [{require}]
"""
_OF_EMBEDDINGS: Final = '"cosine >= -1", "sqnr >= -100 dB"'
_OF_CLASSES: Final = '"agreement >= 0", "sqnr >= -100 dB"'
_OF_LABELLED_CLASSES: Final = f'"accuracy <= 100 points worse", {_OF_CLASSES}'
_MEASURE_S: Final = 60
_PROVED: Final = 0
_NOT_PROVED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one recipe made of a model.

    Attributes:
        row: The recipe.
        manifest: Of the variant; None where none was made.
        ending: The last line of the build: its verdict, or why there is none.
    """

    row: Row
    manifest: Manifest | None
    ending: str

    def figure(self, name: FigureName, condition: str | None = None) -> Figure | None:
        """One of the variant's figures, under its usual conditions or the one that is named."""
        if self.manifest is None or self.manifest.evaluation is None:
            return None
        named = [one for one in self.manifest.evaluation.figures if one.name is name]
        return next((one for one in named if condition in (None, one.condition)), None)


def profile_text(row: Row, task: Task, *, is_labelled: bool = True) -> str:
    """The row as an operator would write it."""
    of_classes = _OF_LABELLED_CLASSES if is_labelled else _OF_CLASSES
    require = _OF_EMBEDDINGS if task is Task.EMBEDDING else of_classes
    return _PROFILE.format(recipe=row.recipe, optimize=row.optimize, require=require)


def measure(subject: Subject, row: Row, cache: Path) -> Gain:
    """Build and judge; nothing is required, so that every figure is measured.

    Args:
        subject: The model and its data.
        row: The recipe.
        cache: Where what steps made is kept: a run of the benchmark need not train twice.
    """
    with tempfile.TemporaryDirectory() as name:
        profile, output = Path(name) / "gains.yaml", Path(name) / "variant"
        text = profile_text(row, subject.task, is_labelled=subject.is_labelled)
        profile.write_text(text, encoding="utf-8")
        command = [
            *(sys.executable, "-m", "optimizers", "build", str(subject.model)),
            *("--profile-file", str(profile), "--output", str(output), "--task", subject.task),
            *("--measure-seconds", str(_MEASURE_S)),
            *("--cache", str(cache)),
        ]
        for part, path in subject.data.items():
            command += [f"--{part}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout if done.returncode in (_PROVED, _NOT_PROVED) else done.stderr
        lines = said.strip().splitlines()
        manifest = read_manifest(output / "manifest.json") if output.is_dir() else None
    return Gain(row=row, manifest=manifest, ending=lines[-1] if lines else "it said nothing")
