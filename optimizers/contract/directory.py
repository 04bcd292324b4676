"""Variant directories on disk: complete or absent, never half written, and checked when read."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from optimizers.contract.arrays import read_arrays, write_arrays
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import VariantDamaged
from optimizers.contract.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    StoredFile,
    manifest_to_json,
    read_manifest,
)

_INPUT, _OUTPUT = "input:", "output:"
_PRIVATE: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantDirectory:
    """A variant that lies on disk.

    Attributes:
        path: Its directory.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest

    @property
    def model_file(self) -> Path:
        """The model to open."""
        return self.path / MODEL_FILE


def variant_id(content: bytes, written: str = "") -> str:
    """The content address: digest of all that the manifest says, the files' digests included.

    Measured anew, the same model is another variant: what was proved is part of what it is.

    Args:
        content: The manifest's file.
        written: The id that stands in it, which is left out of the digest.
    """
    blank = content.replace(f'"variant": "{written}"'.encode(), b'"variant": ""', 1)
    return hashlib.sha256(blank).hexdigest()[:12]


def seal(path: Path, manifest: Manifest) -> VariantDirectory:
    """Make a directory of files a variant: digest them, write the manifest, flush to disk.

    Args:
        path: Holds `model.onnx` and whatever belongs to it; nothing else.
        manifest: Everything but `variant` and `files`, which are filled in.
    """
    files = tuple(
        StoredFile(
            name=str(file.relative_to(path)),
            sha256=file_sha256(file),
            size_bytes=file.stat().st_size,
        )
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != MANIFEST_FILE
    )
    sealed = replace(manifest, files=files, variant="")
    sealed = replace(sealed, variant=variant_id(manifest_to_json(sealed)))
    write_atomically(path / MANIFEST_FILE, manifest_to_json(sealed))
    for file in files:
        flush(path / file.name)
    flush(path)
    return VariantDirectory(path=path, manifest=sealed)


def read_variant(path: Path) -> VariantDirectory:
    """Open a variant directory and verify every digest.

    Raises:
        VariantDamaged: Something is missing or its bytes changed.
    """
    manifest = read_manifest(path / MANIFEST_FILE)
    for file in manifest.files:
        target = path / file.name
        if not target.resolve().is_relative_to(path.resolve()):
            raise VariantDamaged(f"variant {path.name} names a file outside itself: {file.name}")
        if not target.is_file() or target.stat().st_size != file.size_bytes:
            raise VariantDamaged(f"variant {path.name}: {file.name} is missing or cut short")
        if file_sha256(target) != file.sha256:
            raise VariantDamaged(f"variant {path.name}: the bytes of {file.name} have changed")
    content = (path / MANIFEST_FILE).read_bytes()
    if variant_id(content, manifest.variant) != manifest.variant:
        raise VariantDamaged(f"variant {path.name}: its manifest was edited")
    return VariantDirectory(path=path, manifest=manifest)


def adopt(source: Path, target: Path) -> VariantDirectory:
    """Move a sealed variant to its place; if it already lies there, the source is dropped.

    Raises:
        VariantDamaged: The source does not verify; the target is then untouched.
        OSError: The disk refused; the target is then absent.
    """
    read_variant(source)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except OSError:
            _copy_across(source, target)
        flush(target.parent)
    if source.exists():
        shutil.rmtree(source)
    return read_variant(target)


def write_golden(
    path: Path, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> None:
    """Store golden inputs and outputs in a variant directory that is not sealed yet."""
    arrays = {_INPUT + name: array for name, array in inputs.items()}
    arrays |= {_OUTPUT + name: array for name, array in outputs.items()}
    write_arrays(path / GOLDEN_FILE, arrays)


def read_golden(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The golden inputs and outputs of a variant directory."""
    arrays = read_arrays(path / GOLDEN_FILE)
    inputs = {n.removeprefix(_INPUT): a for n, a in arrays.items() if n.startswith(_INPUT)}
    outputs = {n.removeprefix(_OUTPUT): a for n, a in arrays.items() if n.startswith(_OUTPUT)}
    return inputs, outputs


def write_atomically(path: Path, content: bytes, *, is_private: bool = False) -> None:
    """Replace a file so that a reader sees the old bytes or the new ones, and they survive.

    Args:
        path: The file.
        content: Its new bytes.
        is_private: Whether no other user may read it.
    """
    writer = f"{os.getpid()}.{threading.get_native_id()}"
    temporary = path.with_name(f".{path.name}.{writer}.part")
    try:
        with temporary.open("wb") as file:
            if is_private:
                os.fchmod(file.fileno(), _PRIVATE)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def _copy_across(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary)
        for file in temporary.rglob("*"):
            flush(file)
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def flush(path: Path) -> None:
    """Make sure that a file's bytes, or a directory's names, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
