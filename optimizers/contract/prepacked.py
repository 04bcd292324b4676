"""A model as this host computes it: optimised, its weights packed for the kernels, ready to map.

Onnxruntime packs weights anew for every session. Written out once, the packed weights are mapped
from one file by every session of the model and by every later start, which then optimises nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from optimizers.contract.difference import largest_difference
from optimizers.contract.digests import file_crc32
from optimizers.contract.host import Host
from optimizers.contract.processors import aside
from optimizers.contract.runtime import Feeds, SessionSpec, session_options, signature_of
from optimizers.contract.samples import random_feeds

_log = logging.getLogger(__name__)

_MODEL: Final = "model.onnx"
_WEIGHTS: Final = "weights.bin"
_CHECKSUMS: Final = "crc32"
_DIGITS: Final = 24
_SMALLEST_FILE_BYTES: Final = 1 << 20
_SMALLEST_WEIGHT_BYTES: Final = 1024
_LARGEST_DIFFERENCE: Final = 1e-5
"""Relative; the same kernels on the same weights."""

_changed: Final = threading.Condition()
_under_way: Final[set[Path]] = set()
"""Directories that some thread looks at or writes."""


def prepacked_model(
    model: Path, size_bytes: int, spec: SessionSpec, directory: Path
) -> Path | None:
    """The packed form of a model, written now if it does not lie there yet. Blocks.

    Args:
        model: The file as delivered, or a variant's.
        size_bytes: Of the file with its external weights.
        spec: How it is to be opened.
        directory: Of this model on this host; see `directory_name`.

    Returns:
        A model file to be opened with graph optimisation disabled; None where there is nothing
        to gain or the runtime cannot write one.
    """
    if spec.provider != "cpu" or spec.optimization != "all" or size_bytes < _SMALLEST_FILE_BYTES:
        return None
    with _alone_with(directory):
        if directory.is_dir():
            if _is_whole(directory):
                return directory / _MODEL
            _log.warning("%s is damaged; it is written anew", directory.name)
            shutil.rmtree(directory)
        return _write_anew(model, spec, directory)


def packed_weights(packed: Path) -> Path:
    """The file that sessions of a packed model map."""
    return packed.with_name(_WEIGHTS)


def directory_name(sha256: str, host: Host) -> str:
    """Names what a packed model depends on: its bytes, the processor and the runtime."""
    return f"{sha256[:_DIGITS]}{_suffix(host)}"


def drop_packed(parent: Path, sha256: str) -> None:
    """Delete what was packed of a model that is no more."""
    for path in parent.glob(f"{sha256[:_DIGITS]}-*"):
        _delete(path)


def drop_foreign(parent: Path, host: Host) -> None:
    """Delete what was packed for another processor or runtime, or was never finished."""
    for path in parent.glob("*"):
        if path.name.startswith(".") or not path.name.removesuffix(".json").endswith(_suffix(host)):
            _delete(path)


def _suffix(host: Host) -> str:
    return f"-ort{host.onnxruntime}-{host.architecture}-{'-'.join(host.cpu_features)}"


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_whole(directory: Path) -> bool:
    """Whether every byte is as it was written; a mapped weight that flipped computes on."""
    try:
        wanted = (directory / _CHECKSUMS).read_text(encoding="ascii").split()
        return wanted == _checksums(directory)
    except OSError:
        return False


def _checksums(directory: Path) -> list[str]:
    return [file_crc32(directory / name) for name in (_MODEL, _WEIGHTS)]


@contextlib.contextmanager
def _alone_with(directory: Path) -> Iterator[None]:
    """One thread at a time: models of the same bytes are opened beside each other.

    Whoever wrote a file that another has mapped would end the process.
    """
    with _changed:
        _changed.wait_for(lambda: directory not in _under_way)
        _under_way.add(directory)
    try:
        yield
    finally:
        with _changed:
            _under_way.remove(directory)
            _changed.notify_all()


def _write_anew(model: Path, spec: SessionSpec, directory: Path) -> Path | None:
    fresh = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        _write(model, spec, fresh)
        fresh.rename(directory)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        shutil.rmtree(fresh, ignore_errors=True)
        if directory.is_dir():  # another process was sooner
            return directory / _MODEL
        _log.warning("weights of %s cannot be packed: %s", model.name, " ".join(str(error).split()))
        return None
    return directory / _MODEL


def _write(model: Path, spec: SessionSpec, directory: Path) -> None:
    """Write the packed model and make sure that it answers as the plain one does.

    Raises:
        Exception: The runtime refuses, or the answers differ.
    """
    options = session_options(spec)
    options.optimized_model_filepath = str(directory / _MODEL)
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", _WEIGHTS),
        ("session.optimized_model_external_initializers_min_size_in_bytes", _SMALLEST_WEIGHT_BYTES),
        ("session.save_external_prepacked_constant_initializers", 1),
    ):
        options.add_session_config_entry(key, str(value))
    plain = _open(model, options)
    packed = _open(directory / _MODEL, session_options(replace(spec, optimization="disabled")))
    feeds = random_feeds(signature_of(plain), 1)
    for one, other in zip(_answers(plain, feeds), _answers(packed, feeds), strict=True):
        scale = float(np.max(np.abs(one), initial=1.0)) if one.dtype.kind == "f" else 1.0
        if not largest_difference(one, other) <= _LARGEST_DIFFERENCE * scale:
            raise ValueError("the packed model answers differently")
    (directory / _CHECKSUMS).write_text("\n".join(_checksums(directory)), encoding="ascii")
    for name in (_MODEL, _WEIGHTS, _CHECKSUMS):
        with (directory / name).open("rb") as file:
            os.fsync(file.fileno())


def _open(model: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    with aside():
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _answers(session: onnxruntime.InferenceSession, feeds: Feeds) -> list[NDArray[Any]]:
    with aside():
        return [np.asarray(answer) for answer in session.run(None, feeds)]
