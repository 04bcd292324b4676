"""What a job needs before a worker sees it: its specification, room, and what was built before."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from optimizers.contract.data_files import data_sha256, require_data
from optimizers.contract.directory import VariantDirectory
from optimizers.contract.errors import InvalidData
from optimizers.contract.host import Host, memory_available_bytes
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    Built,
    JobSpec,
    job_id,
    read_built,
    write_built,
)
from optimizers.contract.manifest import GOLDEN_FILE, MANIFEST_FILE
from optimizers.contract.named_models import models_sha256, named_models
from optimizers.contract.packages import how_to_install_optimisers, missing_packages
from optimizers.contract.profile import Profile
from server.config import ServerConfig
from server.errors import FailedPrecondition
from server.model import ModelVersion
from server.repository import VariantStore

_DISK_PER_MODEL_BYTE: Final = 4
_MEMORY_PER_MODEL_BYTE: Final = 4
_MEMORY_MARGIN_BYTES: Final = 512 << 20
_NEEDED_PACKAGES: Final = ("onnx", "onnx_ir", "scipy", "torch")
_NEEDED_BY_SEARCHES: Final = ("optuna", "jinja2", "matplotlib")


async def specify(
    model: ModelVersion,
    profile: Profile,
    host: Host,
    config: ServerConfig,
    *,
    resume: bool = False,
) -> JobSpec:
    """Everything a worker needs to know to build `profile` for a version.

    Args:
        model: The version.
        profile: What is wanted.
        host: This machine.
        config: The server's.
        resume: Whether a search that has ended gets another budget.

    Raises:
        InvalidData: Data or a model that hone.yaml names is missing, links elsewhere or cannot be
            read; or a profile searches and no data is declared for that.
        InvalidModel: A file that the recipe names is no ONNX model.
    """
    entry = model.entry
    declared = {
        name: entry.directory / path
        for name, path in asdict(entry.policy.data).items()
        if path is not None
    }
    if profile.search is not None and "search" not in declared:
        raise InvalidData(
            f"{entry.name}/hone.yaml: data.search is missing: profile '{profile.name}' searches "
            "for its recipe, and recipes are compared on items that are used for nothing else; "
            "declare, for example, data: {search: data/search.npz}"
        )
    for name, path in declared.items():
        require_data(path, entry.directory, f"{entry.name}/hone.yaml names data.{name}")
    models = named_models(profile.recipe, entry.directory, f"{entry.name}/hone.yaml")
    digests = await asyncio.to_thread(
        lambda: {
            name: data_sha256(path, entry.policy.preprocess) for name, path in declared.items()
        }
    )
    digests_of_models = await asyncio.to_thread(models_sha256, models)
    identity = job_id(
        model=model.name,
        version=model.version,
        profile=profile,
        task=entry.policy.task,
        original_sha256=model.original.original_sha256,
        original_session=model.original.session,
        data_sha256=digests,
        models_sha256=digests_of_models,
        host=host,
        price=entry.policy.price,
    )
    return JobSpec(
        id=identity,
        model=model.name,
        version=model.version,
        profile=profile,
        task=entry.policy.task,
        original_file=model.original_file,
        original_name=model.original.original_file,
        original_sha256=model.original.original_sha256,
        original_session=model.original.session,
        data=declared,
        data_sha256=digests,
        preprocess=entry.policy.preprocess,
        models=models,
        models_sha256=digests_of_models,
        cpus=host.cpus,
        memory_limit_bytes=config.job_memory_bytes,
        build_timeout_s=config.job_build_seconds,
        measure_timeout_s=config.measure_seconds,
        price=entry.policy.price,
        cache=config.state.absolute() / "artefacts" if config.job_cache_bytes else None,
        cache_limit_bytes=config.job_cache_bytes,
        studies=config.state.absolute() / "studies",
        resume=resume,
        submitted_unix_s=time.time(),
    )


def require_optimisers(*, searches: bool = False) -> None:
    """Make sure that a worker could run here, on a search if that is wanted.

    Raises:
        FailedPrecondition: It could not; the text says what to install.
    """
    missing = missing_packages(_NEEDED_PACKAGES + (_NEEDED_BY_SEARCHES if searches else ()))
    if missing:
        raise FailedPrecondition(how_to_install_optimisers(missing))


def has_optimisers() -> bool:
    """Whether a worker could run here."""
    return not missing_packages(_NEEDED_PACKAGES)


def is_same_study(one: JobSpec, other: JobSpec) -> bool:
    """Whether two searches go by the same trials: they may differ in what they spend and how."""
    return one.profile.search is not None and _study(one) == _study(other)


def _study(spec: JobSpec) -> tuple[object, ...]:
    """What recipes are tried for, on which data, and which there are; see `search.naming`."""
    search = spec.profile.search
    return (
        *(spec.model, spec.version, spec.profile.name, spec.profile.goal, spec.task, spec.price),
        *(spec.original_sha256, spec.original_session, spec.models_sha256),
        {purpose: digest for purpose, digest in spec.data_sha256.items() if purpose != "gate"},
        None if search is None else (search.steps, search.values),
    )


def would_come_out_again(variant: VariantDirectory, spec: JobSpec) -> bool:
    """Whether a job would build what was built before: the same steps of the same files.

    Of a variant that does not say what it was made from, only the steps are known.
    """
    manifest = variant.manifest
    former = manifest.made_from
    if manifest.recipe != spec.profile.recipe:
        return False
    if former is None:
        return not spec.models_sha256
    given = {purpose: digest for purpose, digest in spec.data_sha256.items() if purpose != "gate"}
    return (former.data_sha256, former.models_sha256) == (given, spec.models_sha256)


def reuse(variant: VariantDirectory, directory: Path) -> None:
    """Give a job a variant that was built before, so that it only measures it."""
    if read_built(directory) is not None:
        return
    shutil.copytree(
        variant.path,
        directory / CANDIDATE_DIRECTORY,
        ignore=shutil.ignore_patterns(MANIFEST_FILE, GOLDEN_FILE),
        copy_function=_link_or_copy,
    )
    manifest = variant.manifest
    built = Built(
        recipe=manifest.recipe,
        session=manifest.session,
        records=manifest.records,
        built_with=manifest.built_with or {},
        made_from=manifest.made_from,
    )
    write_built(directory, built)


def _link_or_copy(source: str, target: str) -> None:
    """Share a file that never changes; copy it where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def require_room(store: VariantStore, model_bytes: int) -> None:
    """Make sure that there is disk and memory enough to build something of a model.

    Raises:
        FailedPrecondition: There is not.
    """
    store.require_free_disk(_DISK_PER_MODEL_BYTE * model_bytes)
    needed = _MEMORY_PER_MODEL_BYTE * model_bytes + _MEMORY_MARGIN_BYTES
    available = memory_available_bytes()
    if available < needed:
        raise FailedPrecondition(
            f"{available >> 20} MiB of memory are available and a build of this model needs about "
            f"{needed >> 20} MiB"
        )
