"""A place that several machines reach, for files by their digests and a few small documents.

blobs/SHA256     bytes of a file; whoever takes them out checks that they have that digest
anything else    documents, replaced whole
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from optimizers.contract.addresses import without_password
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import HoneError, InvalidData, NotSupported
from optimizers.contract.packages import how_to_install_cluster, missing_packages

_BLOBS: Final = "blobs"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PART_BYTES: Final = 1 << 20


class Store:
    """What lies below one address, by any file system that fsspec knows."""

    def __init__(self, address: str) -> None:
        """Reach a store; nothing is made before something is put in.

        Args:
            address: A path, or a URL such as `s3://bucket/folder` or `file:///folder`.

        Raises:
            NotSupported: fsspec, or what it needs for this address, is not installed, or the
                address is none.
        """
        missing = missing_packages(("fsspec",))
        if missing:
            raise NotSupported(f"search.artefacts needs {how_to_install_cluster(missing)}")
        from fsspec.core import url_to_fs  # part of an extra

        self.address = address
        with self._reached():
            self._files, root = url_to_fs(address)
            self._root = str(root).rstrip("/")

    def put(
        self, file: Path, below: str = _BLOBS, went_on: Callable[[], None] = lambda: None
    ) -> str:
        """Store a file's bytes; returns their sha256.

        Args:
            file: On this machine.
            below: Folder of the store that it goes to.
            went_on: Called after every part that was written.

        Raises:
            NotSupported: The store cannot be reached or refuses.
        """
        sha256, size_bytes = file_sha256(file), file.stat().st_size
        target = self._path(f"{below}/{sha256}")
        with self._reached():
            is_there = self._files.exists(target) and self._files.size(target) == size_bytes
            if not is_there:
                with file.open("rb") as source, self._replaced(target) as stored:
                    while part := source.read(_PART_BYTES):
                        stored.write(part)
                        went_on()
        return sha256

    def take(self, sha256: str, target: Path, below: str = _BLOBS) -> None:
        """Copy bytes out, and check them.

        Args:
            sha256: What they are known by.
            target: File on this machine, replaced only by what was asked for.
            below: Folder of the store that they lie in.

        Raises:
            InvalidData: They are missing, or have another digest.
            NotSupported: The store cannot be reached.
        """
        self._require_digest(sha256)
        hidden = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}")
        digest = hashlib.sha256()
        try:
            with (
                self._reached(may_lack=True),
                self._files.open(self._path(f"{below}/{sha256}"), "rb") as stored,
                hidden.open("wb") as copy,
            ):
                while part := stored.read(_PART_BYTES):
                    digest.update(part)
                    copy.write(part)
            if digest.hexdigest() != sha256:
                raise InvalidData(
                    f"{below}/{sha256} in {self._shown} is damaged: its bytes have the sha256 "
                    f"{digest.hexdigest()}; remove it there and start the search again"
                )
            hidden.replace(target)
        except FileNotFoundError as error:
            raise InvalidData(
                f"{below}/{sha256} is missing in {self._shown}; start the search again, which "
                "puts it there"
            ) from error
        finally:
            hidden.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Put a document in, in place of a former one.

        Raises:
            NotSupported: The store cannot be reached or refuses.
        """
        with self._reached(), self._replaced(self._path(name)) as stored:
            stored.write(content)

    def read(self, name: str) -> bytes | None:
        """A document; None where there is none.

        Raises:
            NotSupported: The store cannot be reached.
        """
        try:
            with self._reached(may_lack=True), self._files.open(self._path(name), "rb") as stored:
                content: bytes = stored.read()
        except FileNotFoundError:
            return None
        return content

    def folders(self, below: str) -> tuple[str, ...]:
        """Names of the folders in a folder, sorted; none where it is missing.

        Raises:
            NotSupported: The store cannot be reached.
        """
        try:
            with self._reached(may_lack=True):
                found = self._files.ls(self._path(below), detail=True, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        kept = [one["name"] for one in found if one["type"] == "directory"]
        return tuple(sorted(str(name).rstrip("/").rpartition("/")[2] for name in kept))

    def remove(self, name: str) -> None:
        """Remove a document, or a folder with all that it holds; there may be none.

        Raises:
            NotSupported: The store cannot be reached or refuses.
        """
        with contextlib.suppress(FileNotFoundError), self._reached(may_lack=True):
            self._files.rm(self._path(name), recursive=True)

    def drop(self, sha256: str) -> None:
        """Remove a file's bytes; they may be missing.

        Raises:
            InvalidData: That is no digest.
            NotSupported: The store cannot be reached or refuses.
        """
        self._require_digest(sha256)
        self.remove(f"{_BLOBS}/{sha256}")

    @property
    def _shown(self) -> str:
        return f"the store {without_password(self.address)}"

    def _require_digest(self, sha256: str) -> None:
        if not _SHA256.fullmatch(sha256):
            raise InvalidData(f"{self._shown} names a file by {sha256!r}; expected a sha256")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _replaced(self, target: str) -> Iterator[IO[bytes]]:
        """A file that takes the place of `target` once it is whole."""
        hidden = f"{target}.{uuid.uuid4().hex}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        try:
            with self._files.open(hidden, "wb") as stored:
                yield stored
            self._files.mv(hidden, target)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm(hidden)
            raise

    @contextlib.contextmanager
    def _reached(self, *, may_lack: bool = False) -> Iterator[None]:
        """Say where and why when a file system of whatever kind fails.

        Args:
            may_lack: Whether it is left to the caller that something is not there.
        """
        try:
            yield
        except HoneError:
            raise
        except ImportError as error:
            raise NotSupported(
                f"{self._shown} needs a package that is not installed here: "
                f"{without_password(str(error))}"
            ) from error
        except Exception as error:  # every file system has errors of its own
            if may_lack and isinstance(error, FileNotFoundError | NotADirectoryError):
                raise
            raise NotSupported(
                f"{self._shown} cannot be used: {type(error).__name__}: "
                f"{without_password(_first_line(error))}; expected a path or URL that this "
                "machine reaches and may write to"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
