"""Where a model's data lies, what it is known by, and how a folder of images is to be read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from optimizers.contract.digests import file_sha256
from optimizers.contract.directory import write_atomically
from optimizers.contract.errors import InvalidData
from optimizers.contract.preprocessing import Preprocessing

FOLDER_SUFFIX: Final = ".images"
"""Of a file that says which folder of images is meant and how they are read."""

_DEEPEST_FOLDER: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """A folder of images, and what is done to each.

    Attributes:
        path: The folder, absolute.
        preprocess: What is done to every image.
    """

    path: Path
    preprocess: Preprocessing = field(default_factory=Preprocessing)


_FOLDER = TypeAdapter(ImageFolder)


def require_data(path: Path, home: Path, said: str) -> None:
    """Make sure that declared data is there and lies in its model's directory.

    Args:
        path: A file or a folder.
        home: The model's directory.
        said: Who names the path, for errors.

    Raises:
        InvalidData: It is missing, or a link leads out of `home`.
    """
    if not path.is_file() and not path.is_dir():
        raise InvalidData(f"{said}: {path.relative_to(home)}, which is missing")
    if not path.resolve().is_relative_to(home.resolve()):
        raise InvalidData(
            f"{said}: {path.relative_to(home)}, which links to a place outside the model's "
            "directory; expected data that lies in it"
        )


def data_sha256(path: Path, preprocess: Preprocessing) -> str:
    """What data is known by: other contents, or another way of reading them, other digest.

    For a file it is the sha256 of its bytes, as nothing is done to arrays. For a folder it is the
    sha256 of `preprocess` and, in the order of their names relative to the folder, of all names
    and contents below it; folders count as well, since their names are the classes.

    Raises:
        InvalidData: Something in a folder cannot be read, links out of it or is no file.
    """
    if not path.is_dir():
        return file_sha256(path)
    digest = hashlib.sha256(json.dumps(preprocess.to_data(), sort_keys=True).encode())
    for name, file in entries_below(path):
        try:
            content = "folder" if file.is_dir() else file_sha256(file)
        except OSError as error:
            raise InvalidData(f"{path.name}/{name} cannot be read: {error.strerror}") from error
        digest.update(json.dumps([name, content]).encode())
    return digest.hexdigest()


def entries_below(folder: Path) -> list[tuple[str, Path]]:
    """Name relative to the folder → path of every file and folder below it, sorted by name.

    Names that begin with a dot are left out, and what lies in such folders.

    Raises:
        InvalidData: An entry links out of the folder, is neither file nor folder, has a name that
            is not UTF-8, or lies too deep.
    """
    found: list[tuple[str, Path]] = []
    _collect(folder, folder.resolve(), "", found)
    return sorted(found)


def _collect(folder: Path, home: Path, prefix: str, found: list[tuple[str, Path]]) -> None:
    shown = f"{home.name}/{prefix}".rstrip("/")
    if prefix.count("/") > _DEEPEST_FOLDER:
        raise InvalidData(f"{shown} lies deeper than {_DEEPEST_FOLDER} folders")
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise InvalidData(f"{shown} cannot be read: {error.strerror}") from error
    for name in names:
        path = folder / name
        _check_entry(path, home, f"{shown}/{name}")
        found.append((f"{prefix}{name}", path))
        if path.is_dir():
            _collect(path, home, f"{prefix}{name}/", found)


def _check_entry(path: Path, home: Path, shown: str) -> None:
    if not path.name.isprintable():
        raise InvalidData(f"{shown!r}: expected a name of printable UTF-8 characters")
    if path.is_symlink() and not path.resolve().is_relative_to(home):
        raise InvalidData(f"{shown} links to a place outside {home.name}; expected a file in it")
    if not path.is_file() and not path.is_dir():
        raise InvalidData(f"{shown} is neither a file nor a folder, or links to nothing")


def write_image_folder(directory: Path, purpose: str, folder: ImageFolder) -> Path:
    """Write which folder is meant, and how it is read, to `directory`; returns the file."""
    path = directory / f"{purpose}{FOLDER_SUFFIX}"
    write_atomically(path, _FOLDER.dump_json(folder, indent=2) + b"\n")
    return path


def read_image_folder(path: Path) -> ImageFolder:
    """Read what `write_image_folder` wrote.

    Raises:
        InvalidData: It cannot be read or does not fit.
    """
    try:
        return _FOLDER.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidData(f"{path.name} cannot be read as the place of an image folder") from error
