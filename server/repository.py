"""What lies on disk: the model repository and the variant store. Opens no session."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from optimizers.contract.directory import VariantDirectory, adopt, read_variant, write_atomically
from optimizers.contract.documents import read_text, shown_key
from optimizers.contract.errors import HoneError, InvalidDocument, InvalidModel, VariantDamaged
from optimizers.contract.manifest import MANIFEST_FILE, Manifest, manifest_to_json, read_manifest
from optimizers.contract.prepacked import drop_packed
from optimizers.contract.profile import ModelPolicy, model_policy
from optimizers.contract.study import EXPLANATION_FILE, FRONT_FILE, REPORT_FILE
from server.errors import FailedPrecondition, UnknownModel
from server.file_names import is_version
from server.labels import read_labels
from server.overrides import Override
from server.triton_config import ModelConfig, model_config

_log = logging.getLogger(__name__)

_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CONFIG_FILE: Final = "config.pbtxt"
_POLICY_FILE: Final = "hone.yaml"
_LABELS_FILE: Final = "labels.txt"
_PROGRAM_FILE: Final = "model.pt2"
_EXPLANATION_FILES: Final = (EXPLANATION_FILE, REPORT_FILE, FRONT_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model as it lies in the repository.

    Attributes:
        name: Its folder's name.
        directory: Its folder.
        config: What `config.pbtxt` says, or all defaults.
        policy: What `hone.yaml` says, or all defaults.
        versions: Version → its model file, or the PyTorch program that lies in its place,
            ascending; the file need not exist.
        labels: Output's name → names of its classes; "" stands for the only output of a model that
            has one.
        error: Why no version can be served; "" when they can be tried.
        warnings: What is ignored or odd, for people.
    """

    name: str
    directory: Path
    config: ModelConfig = field(default_factory=ModelConfig)
    policy: ModelPolicy = field(default_factory=ModelPolicy)
    versions: dict[int, Path] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""
    warnings: tuple[str, ...] = ()


class ModelRepository:
    """A folder of models in Triton's layout; only ever read."""

    def __init__(self, directory: Path) -> None:
        """Look at `directory`.

        Raises:
            FailedPrecondition: It is not a directory that can be read.
        """
        if not directory.is_dir():
            raise FailedPrecondition(
                f"the model repository '{directory}' is not a directory; expected a folder that "
                "holds MODEL/VERSION/model.onnx"
            )
        self._directory = directory.resolve()

    def scan(self) -> dict[str, ModelEntry]:
        """Every model by name; what is wrong with one is in its entry and never raised.

        Raises:
            FailedPrecondition: The repository itself cannot be listed.
        """
        folders, others = self._list()
        for folder in others:
            _log.warning(
                "folder %r is not served: a model's name is letters, digits, '_', '.', '-'",
                folder.name,
            )
        return {folder.name: _read_entry(folder) for folder in folders}

    def folders(self) -> list[Path]:
        """The folder of every model, by name.

        Raises:
            FailedPrecondition: The repository itself cannot be listed.
        """
        return self._list()[0]

    def entry(self, name: str, override: Override | None = None) -> ModelEntry:
        """One model, read afresh.

        Args:
            name: The model.
            override: What counts in the place of what lies there. A model whose version folders
                it brings needs no folder of its own.

        Raises:
            UnknownModel: The repository has no folder of that name.
        """
        folder = self._directory / name
        has_files = override is not None and override.directory is not None
        if not _MODEL_NAME.fullmatch(name) or not (has_files or _is_folder(folder)):
            raise UnknownModel(name)
        return _read_entry(folder, override)

    def _list(self) -> tuple[list[Path], list[Path]]:
        """The folders of models, and those whose name no model can have."""
        try:
            found = sorted(self._directory.iterdir())
        except OSError as error:
            raise FailedPrecondition(
                f"the model repository '{self._directory}' cannot be listed: {error.strerror}"
            ) from error
        folders = [path for path in found if not path.name.startswith(".") and _is_folder(path)]
        named = [path for path in folders if _MODEL_NAME.fullmatch(path.name)]
        return named, [path for path in folders if path not in named]


class VariantStore:
    """The state directory: originals' manifests, variants, jobs. One server at a time owns it."""

    def __init__(self, directory: Path, min_free_bytes: int = 256 << 20) -> None:
        """Take the directory, creating it if need be.

        Args:
            directory: The state directory.
            min_free_bytes: What must stay free on its disk after anything is added.

        Raises:
            FailedPrecondition: Another server holds it, or it cannot be written.
        """
        self.directory = directory.resolve()
        self._min_free_bytes = min_free_bytes
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / "lock").open("a+")
        except OSError as error:
            raise FailedPrecondition(
                f"the state directory '{directory}' cannot be written: {error.strerror}; "
                "choose another with --state"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise FailedPrecondition(
                f"another server (process {owner}) uses the state directory '{directory}'; "
                "stop it, or choose another directory with --state"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    @property
    def journal_file(self) -> Path:
        """Where routes and events are kept."""
        return self.directory / "journal.sqlite"

    @property
    def jobs_directory(self) -> Path:
        """Where job directories lie."""
        return self.directory / "jobs"

    @property
    def packed_directory(self) -> Path:
        """Where packed weights lie: made by this host for itself, lost without harm."""
        return self.directory / "packed"

    @property
    def converted_directory(self) -> Path:
        """Where models lie that were converted from PyTorch; lost without harm."""
        return self.directory / "converted"

    @property
    def overrides_directory(self) -> Path:
        """Where files lie that came with a load; nothing there survives a start."""
        return self.directory / "overrides"

    def close(self) -> None:
        """Let another server have the directory."""
        self._lock.close()

    def replace_original(self, manifest: Manifest) -> bool:
        """Store an original's manifest.

        Returns:
            Whether another file lay under this version number before.
        """
        path = self.directory / "originals" / manifest.model / str(manifest.version) / MANIFEST_FILE
        try:
            former = read_manifest(path)
        except VariantDamaged:
            former = None
        if former is not None and _same_original(former, manifest):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, manifest_to_json(manifest))
        if former is None or former.original_sha256 == manifest.original_sha256:
            return False
        drop_packed(self.packed_directory, former.original_sha256)
        return True

    def variants(
        self, model: str, version: int, original_sha256: str
    ) -> tuple[dict[str, VariantDirectory], list[str]]:
        """The variants made of this original, by id, and what was wrong with others.

        A damaged directory is moved to quarantine; one made of another original is left alone.
        """
        found: dict[str, VariantDirectory] = {}
        problems: list[str] = []
        parent = self._variants_of(model, version)
        if not parent.is_dir():
            return found, problems
        for directory in sorted(parent.iterdir()):
            if directory.name.startswith("."):
                shutil.rmtree(directory, ignore_errors=True)
                continue
            try:
                variant = read_variant(directory)
            except HoneError as error:
                self._quarantine(directory)
                problems.append(f"{error}; moved to quarantine")
                continue
            if variant.manifest.original_sha256 == original_sha256:
                found[variant.manifest.variant] = variant
        return found, problems

    def adopt(self, source: Path) -> VariantDirectory:
        """Take over a sealed variant that a job made.

        Raises:
            VariantDamaged: It does not verify.
            FailedPrecondition: There is not enough free disk.
        """
        manifest = read_manifest(source / MANIFEST_FILE)
        target = self._variants_of(manifest.model, manifest.version) / manifest.variant
        if source.resolve() != target:
            self.require_free_disk(0)
        return adopt(source, target)

    def remove(self, variant: VariantDirectory) -> None:
        """Delete a variant: out of sight first, then its bytes."""
        drop_packed(self.packed_directory, variant.manifest.variant)
        shutil.rmtree(self.explanation_directory(variant.manifest), ignore_errors=True)
        hidden = variant.path.with_name(f".{variant.path.name}.removed")
        variant.path.rename(hidden)
        shutil.rmtree(hidden)

    def explanation_directory(self, manifest: Manifest) -> Path:
        """Where what a search wrote on a variant lies, if one made it."""
        home = self.directory / "explanations" / manifest.model / str(manifest.version)
        return home / manifest.variant

    def keep_explanation(self, job_directory: Path, manifest: Manifest) -> None:
        """Keep what a search wrote on a variant for as long as the variant; nothing if none did.

        It lies beside the variants: what a variant is made of is sealed.

        Raises:
            OSError: The disk refused.
        """
        target = self.explanation_directory(manifest)
        for name in _EXPLANATION_FILES:
            source = job_directory / name
            if source.is_file():
                target.mkdir(parents=True, exist_ok=True)
                write_atomically(target / name, source.read_bytes())

    def require_free_disk(self, needed_bytes: int) -> None:
        """Make sure that `needed_bytes` more can be written.

        Raises:
            FailedPrecondition: They cannot.
        """
        free = shutil.disk_usage(self.directory).free
        if free < needed_bytes + self._min_free_bytes:
            raise FailedPrecondition(
                f"{free >> 20} MiB are free on the state directory's disk, "
                f"{(needed_bytes + self._min_free_bytes) >> 20} MiB are needed; make room, for "
                "example with `hone variants rm` or `hone jobs rm`"
            )

    def _variants_of(self, model: str, version: int) -> Path:
        return self.directory / "variants" / model / str(version)

    def _quarantine(self, directory: Path) -> None:
        target = self.directory / "quarantine" / f"{directory.name}-{time.time_ns()}"
        target.parent.mkdir(exist_ok=True)
        directory.rename(target)


def _same_original(one: Manifest, other: Manifest) -> bool:
    return (one.original_sha256, one.original_file, one.session, one.signature) == (
        other.original_sha256,
        other.original_file,
        other.session,
        other.signature,
    )


def _is_folder(path: Path) -> bool:
    """Whether a folder lies there, or something of which only reading it can tell what is wrong."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _read_entry(folder: Path, override: Override | None = None) -> ModelEntry:
    """One model, whatever lies in its folder; nothing there may keep other models from loading."""
    try:
        return _parse_entry(folder, override)
    except HoneError as error:
        problem = str(error)
    except Exception as error:
        _log.exception("model %s cannot be read", folder.name)
        kind = type(error).__name__
        problem = f"{folder.name} cannot be read: unexpected {kind}; the server's log has more"
    return ModelEntry(name=folder.name, directory=folder, error=problem)


def _parse_entry(folder: Path, override: Override | None) -> ModelEntry:
    """Read a model's folder.

    Raises:
        InvalidDocument: A configuration file is wrong.
        InvalidModel: The folder cannot be looked into.
    """
    name = folder.name
    config = _read_config(folder) if override is None else override.config
    if config.name not in ("", name):
        raise InvalidDocument(
            f"{name}/{_CONFIG_FILE}: name is '{shown_key(config.name)}', but the folder is '{name}'"
        )
    policy = _read_policy(folder)
    warnings = []
    if override is not None:
        warnings.append(f"{name}/{_CONFIG_FILE}: the last load brought a configuration instead")
    if config.ignored:
        warnings.append(f"{name}/{_CONFIG_FILE}: no effect here: {', '.join(config.ignored)}")
    source = folder if override is None else override.directory or folder
    versions = _find_versions(source, config.model_file)
    problem = ""
    if not versions:
        problem = f"{name} has no version folder; expected {name}/1/{config.model_file}"
    return ModelEntry(
        name=name,
        directory=folder,
        config=config,
        policy=policy,
        versions=versions,
        labels=_read_labels(folder, config),
        error=problem,
        warnings=tuple(warnings),
    )


def _read_config(folder: Path) -> ModelConfig:
    source = f"{folder.name}/{_CONFIG_FILE}"
    text = read_text(folder / _CONFIG_FILE, source)
    if text is None:
        return ModelConfig()
    return model_config(text, source)


def _read_policy(folder: Path) -> ModelPolicy:
    source = f"{folder.name}/{_POLICY_FILE}"
    text = read_text(folder / _POLICY_FILE, source)
    return ModelPolicy() if text is None else model_policy(text, source)


def _read_labels(folder: Path, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The class names of a model's outputs, as `ModelEntry.labels` has them.

    Raises:
        InvalidDocument: A file that `config.pbtxt` names is not there, or holds no labels.
    """
    named = {}
    for output, file in config.label_files.items():
        source = f"{folder.name}/{file}"
        labels = read_labels(folder / file, source)
        if labels is None:
            raise InvalidDocument(f"{source}: config.pbtxt names it, but it is not there")
        named[output] = labels
    usual = read_labels(folder / _LABELS_FILE, f"{folder.name}/{_LABELS_FILE}")
    return named if usual is None else {"": usual, **named}


def _find_versions(folder: Path, model_file: str) -> dict[int, Path]:
    try:
        versions = {
            int(child.name): _model_or_program(child, model_file)
            for child in folder.iterdir()
            if is_version(child.name) and child.is_dir()
        }
    except OSError as error:
        raise InvalidModel(f"{folder.name} cannot be looked into: {error.strerror}") from error
    return dict(sorted(versions.items()))


def _model_or_program(folder: Path, model_file: str) -> Path:
    """The model file, unless only a PyTorch program lies in its place."""
    model, program = folder / model_file, folder / _PROGRAM_FILE
    return program if not model.exists() and program.is_file() else model
