"""Digests: the right ones, and no file is read twice for the same."""

import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from optimizers.contract import digests
from optimizers.contract.digests import file_crc32, file_sha256

SIZE_BYTES = 1 << 20


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def crc32(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


@pytest.fixture
def changed_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", 0)


def bytes_read() -> int:
    """By this process so far, whether from a disk or from memory."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize(("of", "expected"), [(file_sha256, sha256), (file_crc32, crc32)])
def test_a_file_that_stays_as_it_is_is_read_once(
    of: Callable[[Path], str],
    expected: Callable[[bytes], str],
    tmp_path: Path,
    changed_long_ago: None,
) -> None:
    path = tmp_path / "weights"
    content = os.urandom(SIZE_BYTES)
    path.write_bytes(content)
    assert of(path) == expected(content)
    before = bytes_read()
    assert of(path) == expected(content)
    assert bytes_read() - before < SIZE_BYTES // 2


def test_a_file_that_changed_is_read_again_whatever_its_date_says(
    tmp_path: Path, changed_long_ago: None
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * SIZE_BYTES)
    assert file_sha256(path) == sha256(b"a" * SIZE_BYTES)
    date = path.stat()
    path.write_bytes(b"b" * SIZE_BYTES)
    os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert file_sha256(path) == sha256(b"b" * SIZE_BYTES)


def test_another_file_of_the_same_name_is_another_file(
    tmp_path: Path, changed_long_ago: None
) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(b"a" * SIZE_BYTES)
    other.write_bytes(b"b" * SIZE_BYTES)
    assert file_crc32(path) == crc32(b"a" * SIZE_BYTES)
    other.replace(path)
    assert file_crc32(path) == crc32(b"b" * SIZE_BYTES)


def test_what_was_changed_just_now_is_not_believed_to_stay(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for turn in range(300):  # several within one tick of the file system's clock
        content = bytes([turn % 251]) * 64
        path.write_bytes(content)
        assert file_sha256(path) == sha256(content)
    assert not any(path.stat().st_ino == key[2] for key in digests._known)


def test_what_is_known_of_files_has_a_limit(
    tmp_path: Path, changed_long_ago: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_MOST_KNOWN", 8)
    for number in range(50):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]))
        assert file_crc32(path) == crc32(bytes([number]))
        assert len(digests._known) <= 8
