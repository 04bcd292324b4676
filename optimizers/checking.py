"""Whether a job's model and data are what was submitted, and how steps may open the data."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from optimizers.contract.data_files import ImageFolder, data_sha256, write_image_folder
from optimizers.contract.errors import InvalidData, InvalidModel
from optimizers.contract.job import DATA_DIRECTORY, JobSpec
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.disjoint import check_disjoint
from optimizers.evaluation.labelled import check_labelled
from optimizers.evaluation.named import check_models


def checked_data(directory: Path, spec: JobSpec) -> dict[str, Path]:
    """Make sure that model and data are what was submitted, and that the gate's is its own.

    Returns:
        See `data_of`.

    Raises:
        InvalidModel: The original was overwritten, or a model that the recipe names; or such a
            model does not fit.
        InvalidData: A data file changed, does not fit, or shares items with the gate's.
    """
    if read_onnx_file(spec.original_file).sha256() != spec.original_sha256:
        raise InvalidModel(
            f"{spec.original_name} was overwritten since the job was submitted; submit it again"
        )
    for name, path in spec.data.items():
        if not path.exists() or data_sha256(path, spec.preprocess) != spec.data_sha256[name]:
            raise InvalidData(
                f"data.{name} ({path.name}) changed since the job was submitted; submit it again"
            )
    for name, path in spec.models.items():
        if not path.exists() or read_onnx_file(path).sha256() != spec.models_sha256[name]:
            raise InvalidModel(f"{name} changed since the job was submitted; submit it again")
    with closing(Session(spec.original_file, SessionSpec())) as original:
        signature = original.signature
    check_models(spec.profile.recipe, spec.models, signature)
    data = data_of(directory, spec)
    if spec.task is Task.CLASSIFICATION:
        check_labelled(data, signature)
    check_disjoint(data, spec.data_sha256, signature)
    return data


def data_of(directory: Path, spec: JobSpec) -> dict[str, Path]:
    """Purpose → what a step may open: a file as it is, a folder by how its images are read."""
    home = directory / DATA_DIRECTORY
    home.mkdir(exist_ok=True)
    return {
        name: write_image_folder(home, name, ImageFolder(path=path, preprocess=spec.preprocess))
        if path.is_dir()
        else path
        for name, path in spec.data.items()
    }
