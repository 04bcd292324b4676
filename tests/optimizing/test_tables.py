"""Parquet and `.npy` as data, and what is said of rows that do not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from optimizers.calibration import load_arrays, load_in_parts
from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.evaluation.labelled import check_labelled

COLUMNS = {"x.1": ("FP32", (-1, 3, 4)), "ids": ("INT64", (-1, -1)), "words": ("BYTES", (-1,))}


def takes(columns: dict[str, tuple[str, tuple[int, ...]]], classes: int = 0) -> Signature:
    inputs = tuple(
        TensorSpec(name=name, datatype=datatype, shape=shape)
        for name, (datatype, shape) in columns.items()
    )
    outputs = (TensorSpec(name="y", datatype="FP32", shape=(-1, classes)),) if classes else ()
    return Signature(inputs=inputs, outputs=outputs)


VECTOR = takes({"x": ("FP32", (-1, 2))})


def values(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).random((rows, 3, 4), np.float32)


def written(path: Path, columns: dict[str, Any], group: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def table(path: Path, rows: int, group: int) -> Path:
    columns = {
        "words": [f"wört{row}" for row in range(rows)],
        "x.1": values(rows).tolist(),
        "labels": [row % 5 for row in range(rows)],
        "ids": pa.array([[row, row + 1] for row in range(rows)], pa.list_(pa.int32(), 2)),
    }
    return written(path, columns, group)


@pytest.mark.parametrize("items", [None, 1, 7, 25, 700, 5000])
@pytest.mark.parametrize("group", [7, 1000])
def test_columns_become_arrays(tmp_path: Path, items: int | None, group: int) -> None:
    path = table(tmp_path / "train.parquet", 700, group)
    found, labels = load_arrays(path, takes(COLUMNS), items)
    assert labels is not None
    count = min(700, items or 700)
    np.testing.assert_array_equal(found["x.1"], values(700)[:count])
    np.testing.assert_array_equal(found["ids"], np.arange(700)[:count, None] + [0, 1])
    assert list(found["words"]) == [f"wört{row}" for row in range(count)]
    np.testing.assert_array_equal(labels, np.arange(700)[:count] % 5)
    assert [found[name].dtype.kind for name in COLUMNS] == ["f", "i", "O"]


@pytest.mark.parametrize("items", [1, 64, 300])
def test_parts_together_are_the_whole(tmp_path: Path, items: int) -> None:
    path = table(tmp_path / "train.parquet", 310, group=33)
    parts = [part["x.1"] for part in load_in_parts(path, takes(COLUMNS), items)]
    assert {len(part) for part in parts[:-1]} <= {items}
    np.testing.assert_array_equal(np.concatenate(parts), values(310))


def test_a_npy_holds_the_items_of_the_only_input(tmp_path: Path) -> None:
    path = tmp_path / "train.npy"
    for array in (values(9), np.asfortranarray(values(9))):
        np.save(path, array)
        found, labels = load_arrays(path, takes({"x": ("FP32", (-1, 3, 4))}), 5)
        assert labels is None
        np.testing.assert_array_equal(found["x"], values(9)[:5])
    with pytest.raises(InvalidData, match=r"an .npy holds one array and the model has 3 inputs"):
        load_arrays(path, takes(COLUMNS))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidData, match=r"train.npy cannot be read as an .npy file: "):
        load_arrays(path, takes({"x": ("FP32", (-1, 3, 4))}))


def test_a_header_that_promises_more_than_there_is_reserves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train.npy"
    np.save(path, np.zeros((7, 2), np.float32))
    content = (
        path.read_bytes()
        .replace(b"(7, 2), }", b"(1 << 40)")
        .replace(b"(1 << 40)", b"(7000000000000, 2), }")
    )
    path.write_bytes(content[: 128 + 12] + content[-56:])
    with pytest.raises(InvalidData, match=r"is said to hold 56000000000000 bytes and has 196"):
        load_arrays(path, VECTOR)


ODD_ROWS: dict[str, tuple[Any, str]] = {
    "nan": ([[1.0, 2.0]] * 5 + [[1.0, float("nan")]], "'x' holds nan in row 5, expected a number"),
    "infinite": ([[1.0, 2.0]] * 3 + [[float("-inf"), 0.0]], "'x' holds -inf in row 3"),
    "too_large": ([[1.0, 2.0]] * 3 + [[1e300, 0.0]], "'x' holds inf in row 3"),
    "null": ([[1.0, 2.0], [1.0, None]], "'x' holds null in row 1, expected a value"),
    "no_list": ([[1.0, 2.0], [0.0, 0.0], None], "'x' holds null in row 2, expected a value"),
    "longer": ([[1.0, 2.0]] * 4 + [[1.0] * 3], "'x' has 3 values in a list of row 4 and 2 before"),
    "long": ([[1.0] * 3] * 4, r"'x' has shape \[4, 3\], expected items x \[2\]"),
    "texts": ([["a", "b"]], "'x' holds <U1, expected float32"),
}


@pytest.mark.parametrize("kind", ODD_ROWS)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, kind: str) -> None:
    rows, said = ODD_ROWS[kind]
    path = written(tmp_path / "train.parquet", {"x": rows})
    with pytest.raises(InvalidData, match=f"train.parquet: {said}"):
        load_arrays(path, VECTOR)


@pytest.mark.parametrize("kind", ["nan", "null", "longer"])
def test_a_row_keeps_its_number_when_read_in_parts(tmp_path: Path, kind: str) -> None:
    rows, _ = ODD_ROWS[kind]
    good: list[Any] = [[1.0, 2.0]] * 60
    path = written(tmp_path / "train.parquet", {"x": good + rows}, group=13)
    with pytest.raises(InvalidData, match=rf" row {60 + len(rows) - 1}\b"):
        list(load_in_parts(path, VECTOR, 10))


def test_nan_is_named_in_numpy_files_too(tmp_path: Path) -> None:
    array = np.zeros((50, 2), np.float32)
    array[37, 1] = np.nan
    np.savez(tmp_path / "train.npz", x=array, labels=np.arange(50))
    np.save(tmp_path / "train.npy", array)
    for name in ("train.npz", "train.npy"):
        with pytest.raises(InvalidData, match=f"{name}: 'x' holds nan in row 37"):
            list(load_in_parts(tmp_path / name, VECTOR, 8))
        assert len(load_arrays(tmp_path / name, VECTOR, 37)[0]["x"]) == 37


ODD_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "struct": ({"x": [{"a": 1.0}]}, "column 'x' holds struct<a: double>; expected 1 levels of"),
    "flat": ({"x": [1.0]}, "column 'x' holds double; expected 1 levels of lists around numbers"),
    "deep": ({"x": [[[1.0, 2.0]]]}, "column 'x' holds list<.*>>; expected 1 levels"),
    "map": (
        {"x": pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float64()))},
        "column 'x' holds map<string, double.*>; expected 1 levels of lists",
    ),
    "bytes": ({"x": [[b"png"]]}, "column 'x' holds list<element: binary>; expected 1 levels"),
    "other": ({"y": [[1.0, 2.0]]}, r"holds the columns \['y'\]; expected one column per input"),
    "more": ({"x": [[1.0, 2.0]], "id": [1]}, r"holds the columns \['id', 'x'\]; expected one"),
    "empty": ({"x": pa.array([], pa.list_(pa.float32()))}, "holds no rows, expected at least 1"),
    "labels": ({"x": [[1.0, 2.0]], "labels": ["cat"]}, "labels must be numbers, got <U3"),
    "no_label": ({"x": [[1.0, 2.0]] * 2, "labels": [1, None]}, "'labels' holds null in row 1"),
}


@pytest.mark.parametrize("kind", ODD_COLUMNS)
def test_columns_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    columns, said = ODD_COLUMNS[kind]
    path = written(tmp_path / "train.parquet", columns)
    with pytest.raises(InvalidData, match=f"train.parquet:? {said}"):
        load_arrays(path, VECTOR)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    whole = table(tmp_path / "whole.parquet", 50, 10).read_bytes()
    path = tmp_path / "train.parquet"
    for content in (
        b"",
        b"PAR1 and nothing more",
        whole[:-30],
        whole[:200] + bytes(400) + whole[600:],
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidData, match=r"train.parquet cannot be read as a Parquet file"):
            load_arrays(path, takes(COLUMNS))
    with pytest.raises(InvalidData, match=r"train.csv is of no known kind; expected .npz, .npy"):
        load_arrays(tmp_path / "train.csv", VECTOR)


def test_a_few_bytes_that_stand_for_very_many_numbers_are_refused(tmp_path: Path) -> None:
    zeros = pa.array(np.zeros(1 << 25, np.float32))
    offsets = pa.array([0, 2, 1 << 25], pa.int32())
    path = written(tmp_path / "train.parquet", {"x": pa.ListArray.from_arrays(offsets, zeros)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InvalidData, match=r"'x' holds 33554432 values in row group 0, expected 4"):
        load_arrays(path, VECTOR)


def test_labels_are_the_models_classes(tmp_path: Path) -> None:
    signature = takes({"x": ("FP32", (-1, 2))}, classes=3)
    rows = {"x": [[1.0, 2.0]] * 6}
    path = tmp_path / "train.parquet"
    written(path, rows | {"labels": [0, 1, 2, 0, 1, 2]})
    check_labelled({"train": path}, signature)
    written(path, rows | {"labels": [0, 1, 2, 0, 3, 2]})
    said = r"data.train \(train.parquet\): the label of row 4 is 3, expected 0..2"
    with pytest.raises(InvalidData, match=said):
        check_labelled({"train": path}, signature)
    written(path, rows | {"labels": [0, 1, 2, 0, 3, -1]})
    with pytest.raises(InvalidData, match="the label of row 5 is -1, expected 0 or more"):
        check_labelled({"train": path}, takes({"x": ("FP32", (-1, 2))}))
    written(path, rows | {"labels": [0.0] * 6})
    with pytest.raises(InvalidData, match="labels must be one whole number per item, got float64"):
        check_labelled({"train": path}, signature)


PEAK = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from optimizers.calibration import load_in_parts
from optimizers.contract.signature import Signature, TensorSpec
spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4096))
parts = load_in_parts(Path(sys.argv[1]), Signature(inputs=(spec,), outputs=()), 32)
def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
next(parts)
before, read = most(), 0
for part in parts: read += part["x"].nbytes
print(read >> 20, most() - before)
"""


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_more_rows_than_memory_are_read_in_parts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"train.{kind}"
    many = np.random.default_rng(0).random((2048, 4096), np.float32)
    if kind == "npy":
        np.save(path, many)
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(many.reshape(-1)), 4096)
        pq.write_table(pa.table({"x": column}), path, row_group_size=2048, compression="none")
    del many
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    read, more = map(int, done.stdout.split())
    assert read == 31
    assert more < 12, f"{more} MiB more were held while {read} were read"


def test_a_missing_pyarrow_is_said_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizers.readers.libraries.find_spec", lambda name: None)
    said = r"train.parquet needs pyarrow, .*pip install 'hone-server\[data\]'"
    with pytest.raises(InvalidData, match=said):
        load_arrays(tmp_path / "train.parquet", VECTOR)
