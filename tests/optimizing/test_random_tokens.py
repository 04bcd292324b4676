"""The proof on random inputs looks at every row of a table, not at tokens 0 and 1 alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from optimizers.architecture.proof import random_feeds, why_different
from optimizers.architecture.tables import rows_looked_up
from optimizers.contract.signature import Signature, TensorSpec
from tests.support import models

ROWS = 40
TABLE = np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32)


def embedding(
    path: Path, table: np.ndarray, *before: tuple[str, str], kind: int = TensorProto.INT64
) -> Path:
    """y = table[ids], behind operators of one input given as name and result."""
    names = ["ids", *(result for _, result in before)]
    nodes = []
    for given, (operator, result) in zip(names, before, strict=False):
        nodes.append(helper.make_node(operator, [given], [result]))
        if operator == "Cast":
            nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.INT64))
    nodes.append(helper.make_node("Gather", ["table", names[-1]], ["y"]))
    return models.save(
        path,
        nodes,
        [("ids", kind, ["batch", "length"])],
        [("y", TensorProto.FLOAT, ["batch", "length", 8])],
        {"table": table},
    )


def test_a_row_that_differs_is_seen_beyond_the_first_two(tmp_path: Path) -> None:
    one = embedding(tmp_path / "one.onnx", TABLE)
    other = TABLE.copy()
    other[2:] *= 1.5  # rows 0 and 1 are the same
    changed = embedding(tmp_path / "other.onnx", other)
    assert why_different(one, one, tolerance=0.0, seed=0) == ""
    assert "answers differ" in why_different(one, changed, tolerance=1e-5, seed=0)


def test_an_input_is_followed_to_its_table(tmp_path: Path) -> None:
    plain = embedding(tmp_path / "plain.onnx", TABLE)
    assert rows_looked_up(plain) == {"ids": ROWS}
    behind = [("Cast", "wide"), ("Identity", "same")]
    cast = embedding(tmp_path / "cast.onnx", TABLE, *behind, kind=TensorProto.INT32)
    assert rows_looked_up(cast) == {"ids": ROWS}
    computed = embedding(tmp_path / "computed.onnx", TABLE, ("Abs", "positive"))
    assert rows_looked_up(computed) == {}, "what is computed first may be anything"
    assert rows_looked_up(models.linear(tmp_path / "linear.onnx")) == {}


def test_the_smallest_of_several_tables_counts(tmp_path: Path) -> None:
    path = models.save(
        tmp_path / "two.onnx",
        [
            helper.make_node("Gather", ["large", "ids"], ["a"]),
            helper.make_node("Gather", ["small", "ids"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        [("ids", TensorProto.INT64, ["batch", "length"])],
        [("y", TensorProto.FLOAT, ["batch", "length", 8])],
        {"large": TABLE, "small": TABLE[:7]},
    )
    assert rows_looked_up(path) == {"ids": 7}
    assert why_different(path, path, tolerance=0.0, seed=0) == ""


@pytest.mark.parametrize("datatype", ["INT8", "UINT8"])
def test_numbers_fit_a_narrow_input(datatype: str) -> None:
    spec = TensorSpec(name="ids", datatype=datatype, shape=(-1, 500))
    ids = random_feeds(Signature(inputs=(spec,), outputs=()), 0, rows={"ids": 1000})["ids"]
    assert ids.min() >= 0, "a wrapped number would count from the table's end"
    assert ids.max() > 100


def test_where_the_whole_range_does_not_run_the_first_two_are_tried(tmp_path: Path) -> None:
    path = models.save(
        tmp_path / "narrower.onnx",
        [
            helper.make_node("Gather", ["large", "ids"], ["a"]),
            helper.make_node("Abs", ["ids"], ["positive"]),
            helper.make_node("Gather", ["small", "positive"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        [("ids", TensorProto.INT64, ["batch", "length"])],
        [("y", TensorProto.FLOAT, ["batch", "length", 8])],
        {"large": TABLE, "small": TABLE[:2]},
    )
    assert rows_looked_up(path) == {"ids": ROWS}
    assert why_different(path, path, tolerance=0.0, seed=0) == ""
