"""What is read of a data file, and what must not stand in two of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimizers.calibration import load_arrays, load_drawn
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.evaluation.disjoint import check_disjoint


def inputs(**datatypes: str) -> Signature:
    return Signature(
        inputs=tuple(
            TensorSpec(name=name, datatype=datatype, shape=(-1, 4))
            for name, datatype in datatypes.items()
        ),
        outputs=(),
    )


IMAGES = inputs(x="FP32")


def random(items: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((items, 4), np.float32)


def check(signature: Signature, **files: Path) -> None:
    check_disjoint(files, {name: file_sha256(path) for name, path in files.items()}, signature)


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, allow_pickle=True, **arrays)
    return path


def test_the_first_items_are_read_alike_and_nothing_else_is_held(tmp_path: Path) -> None:
    wide = Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 1 << 18)),), outputs=()
    )
    many = np.zeros((256, 1 << 18), np.float32)
    many[:, 0] = np.arange(256)
    path = saved(tmp_path / "many.npz", x=many, labels=np.arange(256))
    del many
    tracemalloc.start()
    some, labels = load_arrays(path, wide, items=8)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 << 20, "256 MiB lie in the file, 8 MiB were asked for"
    assert labels is not None
    np.testing.assert_array_equal(some["x"][:, 0], np.arange(8))
    np.testing.assert_array_equal(labels, np.arange(8))
    assert len(load_arrays(path, wide)[0]["x"]) == 256


@pytest.mark.parametrize("items", [None, 3, 100])
def test_arrays_of_every_layout_are_read(tmp_path: Path, items: int | None) -> None:
    signature = inputs(x="FP32", columns="FP32", words="BYTES")
    words = np.array([[f"wort{row}{column}" for column in range(4)] for row in range(20)])
    stored = {"x": random(20).astype(np.float16), "columns": np.asfortranarray(random(20))}
    path = saved(tmp_path / "data.npz", **stored, words=words)
    found, labels = load_arrays(path, signature, items)
    assert labels is None
    for name, array in {**stored, "words": words}.items():
        np.testing.assert_array_equal(found[name], array[:items])


@pytest.mark.parametrize(
    ("datatype", "number"),
    [
        ("INT8", np.uint8(200)),
        ("INT32", np.int64(2**40 + 5)),
        ("INT64", np.uint64(2**63 + 1)),
        ("UINT8", np.uint16(256)),
        ("INT8", np.int16(-129)),
    ],
)
def test_whole_numbers_that_the_input_cannot_hold_are_named(
    tmp_path: Path, datatype: str, number: np.integer
) -> None:
    values = np.ones((3, 4), number.dtype)
    path = saved(tmp_path / "large.npz", x=values)
    assert load_arrays(path, inputs(x=datatype))[0]["x"].tolist() == values.tolist()
    values[1, 2] = number
    saved(path, x=values)
    text = f"^large.npz: 'x' holds {number} in row 1, which does not fit {datatype}$"
    with pytest.raises(InvalidData, match=text):
        load_arrays(path, inputs(x=datatype))


def test_files_of_unequal_lengths_are_refused_even_if_the_first_items_are_there(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "data.npz", x=random(20), labels=np.arange(19))
    with pytest.raises(InvalidData, match="the same number of items"):
        load_arrays(path, IMAGES, items=4)


@pytest.mark.parametrize("items", [None, 4])
def test_pickles_and_rubbish_are_refused(tmp_path: Path, items: int | None) -> None:
    pickled = saved(tmp_path / "pickled.npz", x=np.array([{}, {}], dtype=object))
    rubbish = tmp_path / "rubbish.npz"
    rubbish.write_bytes(b"PK\x03\x04 and nothing more")
    for path in (pickled, rubbish):
        with pytest.raises(InvalidData, match=r"cannot be read as an \.npz file"):
            load_arrays(path, IMAGES, items)


def test_data_that_overlaps_the_gates_is_refused_with_both_names_and_a_count(
    tmp_path: Path,
) -> None:
    gate = saved(tmp_path / "gate.npz", x=random(50))
    for seen_by in ("calibration", "train", "search"):
        shared = np.concatenate([random(30, seed=1), random(50)[10:17]])
        path = saved(tmp_path / f"{seen_by}.npz", x=shared.astype(np.float64).astype(np.float32))
        said = rf"7 of the 50 items of data\.gate \(gate\.npz\) are in data\.{seen_by} \({seen_by}"
        with pytest.raises(InvalidData, match=said):
            check(IMAGES, gate=gate, **{seen_by: path})


def test_the_same_file_under_two_names_is_refused(tmp_path: Path) -> None:
    gate = saved(tmp_path / "gate.npz", x=random(50))
    copy = tmp_path / "copy.npz"
    copy.write_bytes(gate.read_bytes())
    with pytest.raises(
        InvalidData, match=r"data\.gate \(gate\.npz\) and data\.train \(copy\.npz\)"
    ):
        check(IMAGES, gate=gate, train=copy)


def test_an_item_is_what_goes_into_all_inputs(tmp_path: Path) -> None:
    signature = inputs(x="FP32", words="BYTES")
    words = np.array([[f"{row}", "b", "c", "d"] for row in range(20)])
    gate = saved(tmp_path / "gate.npz", x=random(20), words=words)
    other = saved(tmp_path / "train.npz", x=random(20), words=np.roll(words, 1, axis=0))
    check(signature, gate=gate, train=other)
    some = saved(tmp_path / "train.npz", x=random(20)[:12], words=words[:12])
    with pytest.raises(InvalidData, match="12 of the 20 items"):
        check(signature, gate=gate, train=some)


def test_data_without_a_gate_or_apart_from_it_is_fine(tmp_path: Path) -> None:
    gate = saved(tmp_path / "gate.npz", x=random(50))
    other = saved(tmp_path / "other.npz", x=random(50, seed=1))
    check(IMAGES, calibration=other, train=other)
    check(IMAGES, gate=gate)
    check(IMAGES, gate=gate, calibration=other, train=other)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
def test_items_are_drawn_from_all_of_the_data_in_its_order(tmp_path: Path, suffix: str) -> None:
    x = np.repeat(np.arange(1000, dtype=np.float32), 4).reshape(1000, 4)
    path = tmp_path / f"many{suffix}"
    match suffix:
        case ".npz":
            saved(path, x=x)
        case ".npy":
            np.save(path, x)
        case _:
            pq.write_table(pa.table({"x": x.tolist()}), path)
    rows = load_drawn(path, IMAGES, 100, seed=1)["x"][:, 0]
    assert len(set(rows)) == 100
    assert list(rows) == sorted(rows)
    assert np.histogram(rows, 4, (0, 1000))[0].min() > 10, "as many here as there"
    np.testing.assert_array_equal(load_drawn(path, IMAGES, 100, seed=1)["x"][:, 0], rows)
    assert set(load_drawn(path, IMAGES, 100, seed=2)["x"][:, 0]) != set(rows)
    np.testing.assert_array_equal(load_drawn(path, IMAGES, 1000, seed=1)["x"], x)
    assert len(load_drawn(path, IMAGES, 1, seed=3)["x"]) == 1


def test_the_last_item_of_a_data_file_can_be_drawn(tmp_path: Path) -> None:
    path = saved(tmp_path / "few.npz", x=random(65))
    last = {len(load_drawn(path, IMAGES, 64, seed)["x"]) for seed in range(20)}
    assert last == {64}
    found = {load_drawn(path, IMAGES, 1, seed)["x"].tobytes() for seed in range(400)}
    assert random(65)[64:].tobytes() in found
