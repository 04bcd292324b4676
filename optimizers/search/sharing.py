"""A search that several machines share: what it is about lies in a store, files by their digests.

studies/NAME/spec.json    what is searched for, and which files that takes
studies/NAME/ended.json   why the search has ended, once it has
blobs/SHA256              those files

Data that judges the winner is not among them, nor are passwords.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from optimizers.contract.addresses import without_password
from optimizers.contract.below import why_not_below
from optimizers.contract.data_files import data_sha256, entries_below
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import (
    InvalidData,
    InvalidDocument,
    InvalidModel,
    NotSupported,
)
from optimizers.contract.host import Host
from optimizers.contract.ingredients import code_sha256, installed_versions
from optimizers.contract.job import JobSpec
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.study import Explanation
from optimizers.search.store import Store

STUDIES_FOLDER: Final = "studies"

_ENDED: Final = "ended.json"
_SPEC: Final = "spec.json"
_FOLDER: Final = ""
"""In place of a digest: a folder, whose name may say which class its images are of."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What is searched for, for machines that know nothing else of it.

    Attributes:
        version: Of Hone, where the search runs.
        code_sha256: Digest of the optimisers' source files there.
        host: The machine that serves; what is measured elsewhere only ranks.
        spec: The job's; its paths are names in `files`, and it has neither the gate's data nor
            passwords.
        frame: What does not change while the search goes on: its name, evidence, proposals.
        files: Name below a folder → sha256, or "" for a folder.
    """

    version: str
    code_sha256: str
    host: Host
    spec: JobSpec
    frame: Explanation
    files: dict[str, str]


_SHARED = TypeAdapter(Shared)


def publish(
    store: Store,
    spec: JobSpec,
    frame: Explanation,
    host: Host,
    went_on: Callable[[], None] = lambda: None,
) -> None:
    """Put all that a search takes into a store, its description last.

    Args:
        store: Where to.
        spec: The job's, without the gate's data; paths as on this machine.
        frame: See `Shared`.
        host: This machine.
        went_on: Called again and again while it takes long.

    Raises:
        NotSupported: The store cannot be reached or refuses.
    """
    placed = dict(_placed(spec))
    files = {
        name: _FOLDER if path.is_dir() else store.put(path, went_on=went_on)
        for name, path in placed.items()
    }
    names = {path: Path(name) for name, path in placed.items()}
    shared = Shared(
        version=_version(),
        code_sha256=code_sha256(),
        host=host,
        spec=replace(
            spec,
            profile=spec.profile.without_secrets(),
            original_file=names[spec.original_file],
            data={purpose: names[path] for purpose, path in spec.data.items()},
            models={name: names[path] for name, path in spec.models.items()},
            cache=None,
            studies=None,
        ),
        frame=replace(frame, profile=frame.profile.without_secrets()),
        files=files,
    )
    store.remove(_of(frame.study, _ENDED))
    store.write(_of(frame.study, _SPEC), _SHARED.dump_json(shared, indent=2) + b"\n")


def read_shared(store: Store, study: str) -> Shared:
    """What a store says of a study.

    Raises:
        InvalidData: There is no such study, or what is said cannot be read.
        NotSupported: Another Hone began it, or the store cannot be reached.
    """
    _require_name(study)
    shown = without_password(store.address)
    content = store.read(_of(study, _SPEC))
    if content is None:
        there = ", ".join(store.folders(STUDIES_FOLDER)) or "none"
        raise InvalidData(
            f"the store {shown} has no study {study}; studies there: {there}; start the search "
            "first, with this place as its search.artefacts"
        )
    try:
        said = json.loads(content)
        _require_same_code(str(said["version"]), str(said["code_sha256"]), study)
        shared = _SHARED.validate_python(said)
        if shared.frame.study != study:  # a name is a folder of the store, and is checked above
            raise ValueError(f"it is of {shared.frame.study!r}")
    except (InvalidDocument, KeyError, TypeError, ValueError) as error:
        raise InvalidData(
            f"{_SPEC} of study {study} in the store {shown} cannot be read; start the search "
            "again, which writes it anew"
        ) from error
    return shared


def end_study(store: Store, study: str, because: str) -> None:
    """Tell all machines that a search has ended.

    Raises:
        NotSupported: The store cannot be reached or refuses.
    """
    store.write(_of(study, _ENDED), json.dumps({"because": because}).encode() + b"\n")


def why_study_ended(store: Store, study: str) -> str:
    """Why a search has ended; "" while it goes on.

    Raises:
        NotSupported: The store cannot be reached.
    """
    content = store.read(_of(study, _ENDED))
    if content is None:
        return ""
    try:
        return str(json.loads(content)["because"])
    except (KeyError, TypeError, ValueError):
        return f"{_ENDED} is there, though it cannot be read"


def remove_study(store: Store, study: str) -> None:
    """Remove a study from a store, with those files that no other one there takes.

    Raises:
        InvalidData: Another study there cannot be read, so that nobody knows what it takes; or
            that is no name.
        NotSupported: The store cannot be reached or refuses.
    """
    _require_name(study)
    mine = _files_taken(store, study)
    others = [name for name in store.folders(STUDIES_FOLDER) if name != study]
    for sha256 in sorted(mine.difference(*(_files_taken(store, name) for name in others))):
        store.drop(sha256)
    store.remove(f"{STUDIES_FOLDER}/{study}")


def _files_taken(store: Store, study: str) -> frozenset[str]:
    content = store.read(_of(study, _SPEC))
    if content is None:
        return frozenset()
    try:
        return frozenset(json.loads(content)["files"].values()) - {_FOLDER}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        shown = without_password(store.address)
        raise InvalidData(
            f"{_SPEC} of study {study} in the store {shown} cannot be read"
        ) from error


def localised(store: Store, shared: Shared, home: Path) -> JobSpec:
    """Fetch a study's files; returns its job with paths of this machine.

    Args:
        store: Where the files lie.
        shared: What the store says of the study.
        home: Directory that gets the files; those that are there already and whole stay.

    Raises:
        InvalidData: A file is missing, damaged, or named outside of `home`.
        InvalidModel: The files do not make the model that the search is about.
        NotSupported: The store cannot be reached.
    """
    for name, sha256 in shared.files.items():
        problem = why_not_below(name, "the study's folder")
        if problem or not name:
            raise InvalidData(f"the study names a file {name!r}: {problem or 'expected a name'}")
        try:
            _fetch(store, sha256, home / name)
        except OSError as error:
            raise InvalidData(
                f"{name} of the study cannot be put into {home}: {error.strerror}"
            ) from error
    spec = shared.spec
    placed = replace(
        spec,
        original_file=_placed_at(home, spec.original_file),
        data={purpose: _placed_at(home, path) for purpose, path in spec.data.items()},
        models={name: _placed_at(home, path) for name, path in spec.models.items()},
    )
    _check(placed)
    return placed


def _fetch(store: Store, sha256: str, target: Path) -> None:
    if sha256 == _FOLDER:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file() or file_sha256(target) != sha256:
        store.take(sha256, target)


def _placed(spec: JobSpec) -> Iterator[tuple[str, Path]]:
    """Name in the study → path, for every file that a search takes, and folders of images."""
    yield from _model_files("model", spec.original_file)
    for purpose, path in spec.data.items():
        place = f"data/{purpose}/{path.name}"
        yield place, path
        if path.is_dir():
            yield from ((f"{place}/{name}", entry) for name, entry in entries_below(path))
    for index, path in enumerate(spec.models.values()):
        yield from _model_files(f"models/{index}", path)


def _model_files(place: str, model: Path) -> Iterator[tuple[str, Path]]:
    yield f"{place}/{model.name}", model
    for file in read_onnx_file(model).external:
        yield f"{place}/{file.relative_to(model.parent.resolve())}", file


def _placed_at(home: Path, name: Path) -> Path:
    problem = why_not_below(str(name), "the study's folder")
    if problem:
        raise InvalidData(f"the study names {str(name)!r}: {problem}")
    return home / name


def _check(spec: JobSpec) -> None:
    """Make sure that files which came from a store are those that the search is about."""
    if read_onnx_file(spec.original_file).sha256() != spec.original_sha256:
        raise InvalidModel(f"{spec.original_name} from the store is not the study's model")
    for name, path in spec.models.items():
        if read_onnx_file(path).sha256() != spec.models_sha256.get(name):
            raise InvalidModel(f"{name} from the store is not what the study names so")
    for purpose, path in spec.data.items():
        if data_sha256(path, spec.preprocess) != spec.data_sha256.get(purpose):
            raise InvalidData(f"data.{purpose} from the store is not the study's")


def _require_same_code(version: str, code: str, study: str) -> None:
    if (version, code) != (_version(), code_sha256()):
        raise NotSupported(
            f"study {study} was begun by Hone {version} (code {code[:12]}), this is Hone "
            f"{_version()} (code {code_sha256()[:12]}); install the same here, or start the "
            "search again with this one"
        )


def _require_name(study: str) -> None:
    if not _NAME.fullmatch(study):
        raise InvalidData(f"{study!r} is no name of a study; expected letters, digits, '-' or '_'")


def _version() -> str:
    return installed_versions().get("hone-server", "unknown")


def _of(study: str, name: str) -> str:
    return f"{STUDIES_FOLDER}/{study}/{name}"
