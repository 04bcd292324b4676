"""Variant directories are complete or refused, whatever happens to their bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.arrays import read_arrays, write_arrays
from optimizers.contract.directory import (
    VariantDirectory,
    adopt,
    read_golden,
    read_variant,
    write_atomically,
)
from optimizers.contract.errors import VariantDamaged
from optimizers.contract.manifest import MANIFEST_FILE, manifest_to_json, read_manifest
from tests.support import models
from tests.support.calls import floats
from tests.support.variants import make_variant


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    original = models.linear(tmp_path / "original.onnx")
    return make_variant(
        tmp_path / "state",
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
    )


def test_what_is_sealed_is_read_back_equal(variant: VariantDirectory) -> None:
    assert read_variant(variant.path) == variant
    inputs, outputs = read_golden(variant.path)
    assert (inputs["x"] == floats(2, 4)).all()
    assert outputs["y"].shape == (2, 3)
    assert len(variant.manifest.variant) == 12


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_changed_bit_is_noticed(variant: VariantDirectory, name: str) -> None:
    content = bytearray((variant.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (variant.path / name).write_bytes(content)
    with pytest.raises(VariantDamaged, match=f"the bytes of {name} have changed"):
        read_variant(variant.path)


def test_a_missing_file_is_noticed(variant: VariantDirectory) -> None:
    (variant.path / "golden.npz").unlink()
    with pytest.raises(VariantDamaged, match="missing or cut short"):
        read_variant(variant.path)


@pytest.mark.parametrize(
    ("before", "after"),
    [('"lanes": 2', '"lanes": 64'), ('"onnxruntime": "1', '"onnxruntime": "2')],
)
def test_an_edited_manifest_is_noticed(variant: VariantDirectory, before: str, after: str) -> None:
    path = variant.path / MANIFEST_FILE
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(VariantDamaged, match="its manifest was edited"):
        read_variant(variant.path)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"[1]"])
def test_a_broken_manifest_is_refused(variant: VariantDirectory, content: bytes) -> None:
    (variant.path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(VariantDamaged, match="does not fit"):
        read_variant(variant.path)


def test_a_manifest_survives_its_file(variant: VariantDirectory, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest_to_json(variant.manifest))
    assert read_manifest(path) == variant.manifest


def test_adopting_moves_and_is_done_once(variant: VariantDirectory, tmp_path: Path) -> None:
    target = tmp_path / "store" / variant.manifest.variant
    assert adopt(variant.path, target).manifest == variant.manifest
    assert not variant.path.exists()
    assert read_variant(target).manifest == variant.manifest


def test_texts_and_numbers_survive_a_file_without_pickling(tmp_path: Path) -> None:
    texts = np.array([["süß", ""], ["a\x00b", "x" * 1000]], dtype=np.object_)
    write_arrays(tmp_path / "arrays.npz", {"t": texts, "n": np.arange(3)})
    found = read_arrays(tmp_path / "arrays.npz")
    assert (found["t"] == texts).all()
    assert (found["n"] == np.arange(3)).all()


def test_threads_that_replace_a_file_at_once_leave_one_of_them_whole(tmp_path: Path) -> None:
    contents = [bytes([letter]) * (1 << 16) for letter in b"ab"]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(50):
            for done in [
                threads.submit(write_atomically, tmp_path / "file", content) for content in contents
            ]:
                done.result()
            assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
