"""Building a variant again from its manifest, and saying whether the same bytes came out."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from optimizers.contract.data_files import data_sha256
from optimizers.contract.digests import file_sha256
from optimizers.contract.directory import read_variant
from optimizers.contract.errors import InvalidData, InvalidModel, NotSupported
from optimizers.contract.host import this_host
from optimizers.contract.ingredients import Ingredients, code_sha256, installed_versions
from optimizers.contract.job import CANDIDATE_DIRECTORY, JobSpec, write_spec
from optimizers.contract.manifest import GOLDEN_FILE, Manifest
from optimizers.contract.named_models import models_sha256, named_models
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.preprocessing import Preprocessing
from optimizers.contract.recipe import Recipe
from optimizers.worker import build_only


def rebuild(
    variant: Path,
    model: Path,
    data: dict[str, Path],
    output: Path,
    *,
    preprocess: Preprocessing,
    home: Path,
    say: Callable[[str], None],
) -> bool:
    """Run the recipe of a variant again and compare what comes out; nothing is judged.

    Args:
        variant: The variant's directory.
        model: The original.
        data: calibration, train, search → the data that it was built with.
        output: Where the files that come out go.
        preprocess: What is done to every image of an image folder.
        home: Directory of the models that the recipe names, as that of its profile was.
        say: Takes lines for people: what differs here from when it was built, and the outcome.

    Returns:
        Whether every file has the digest that the manifest says.

    Raises:
        VariantDamaged: The variant does not verify.
        NotSupported: Its manifest does not say what it was made from.
        InvalidModel: The model, or one that the recipe names, is not what it was made from.
        InvalidData: The same of the data; or a model that the recipe names is missing.
        HoneError: A step failed.
    """
    manifest = read_variant(variant).manifest
    former = manifest.made_from
    if former is None or manifest.judged_by is None:
        raise NotSupported(f"variant {manifest.variant} does not say what it was made from")
    if read_onnx_file(model).sha256() != former.original_sha256:
        raise InvalidModel(f"{model.name} is not the model that {manifest.variant} was made from")
    _check_data(former, data, preprocess)
    models = _models(former, manifest.recipe, home)
    for line in differences(former):
        say(line)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".hone-rebuild-") as name:
        directory = Path(name)
        write_spec(
            directory,
            JobSpec(
                id=manifest.job,
                model=manifest.model,
                version=manifest.version,
                profile=replace(manifest.judged_by, recipe=manifest.recipe, search=None),
                task=former.task,
                original_file=model.resolve(),
                original_name=manifest.original_file,
                original_sha256=former.original_sha256,
                original_session=former.original_session,
                data=data,
                data_sha256=former.data_sha256,
                preprocess=preprocess,
                models=models,
                models_sha256=former.models_sha256,
                cpus=former.host.cpus,
                seed=former.seed,
                submitted_unix_s=time.time(),
            ),
        )
        build_only(directory)
        is_same = _compare(manifest, directory / CANDIDATE_DIRECTORY, say)
        shutil.move(directory / CANDIDATE_DIRECTORY, output)
    return is_same


def differences(former: Ingredients) -> Iterator[str]:
    """In what this installation and machine differ from those that something was made with."""
    versions = installed_versions()
    for name in sorted(former.versions.keys() | versions.keys()):
        then, now = (known.get(name, "absent") for known in (former.versions, versions))
        if then != now:
            yield f"{name} was {then}, is {now}"
    if code_sha256() != former.code_sha256:
        yield "the optimisers' own code has changed"
    host = this_host(former.host.cpus)
    difference = former.host.difference(host)
    if difference:
        yield difference
    elif host.processor != former.host.processor:
        yield f"the processor was {former.host.processor}, is {host.processor}"


def _check_data(former: Ingredients, data: dict[str, Path], preprocess: Preprocessing) -> None:
    for purpose, digest in former.data_sha256.items():
        if purpose not in data:
            raise InvalidData(f"it was built with data.{purpose}; name that data")
        if data_sha256(data[purpose], preprocess) != digest:
            raise InvalidData(
                f"data.{purpose} ({data[purpose].name}) is not what it was built with, or its "
                "images are read in another way"
            )
    for purpose in data.keys() - former.data_sha256.keys():
        raise InvalidData(f"it was built without data.{purpose}")


def _models(former: Ingredients, recipe: Recipe, home: Path) -> dict[str, Path]:
    models = named_models(recipe, home, "the variant's recipe")
    for name, digest in models_sha256(models).items():
        if digest != former.models_sha256[name]:
            raise InvalidModel(f"{name} is not the model that it was built with")
    return models


def _compare(manifest: Manifest, candidate: Path, say: Callable[[str], None]) -> bool:
    expected = {file.name: file.sha256 for file in manifest.files if file.name != GOLDEN_FILE}
    found = {
        str(path.relative_to(candidate)): file_sha256(path)
        for path in candidate.rglob("*")
        if path.is_file()
    }
    for name in sorted(expected.keys() | found.keys()):
        then, now = (known.get(name, "absent") for known in (expected, found))
        say(f"{name}: {now[:12]}" + (" as before" if then == now else f", was {then[:12]}"))
    return found == expected
