"""What a note says of the floats that are left in a narrow model."""

from __future__ import annotations

from pathlib import Path

import onnx

from optimizers.quantization.remaining import remaining_floats
from tests.support import models


def test_weights_in_another_file_count_and_are_not_read(tmp_path: Path) -> None:
    whole = models.perceptron(tmp_path / "net.onnx", sizes=(16, 64, 4))
    graph = onnx.load(str(whole)).graph
    floats = sum(len(one.raw_data) for one in graph.initializer if one.data_type == 1)
    apart = tmp_path / "apart.onnx"
    onnx.save(
        onnx.load(str(whole)),
        str(apart),
        save_as_external_data=True,
        location="weights",
        size_threshold=0,
    )
    weights = tmp_path / "weights"
    size = apart.stat().st_size + weights.stat().st_size
    # As large as it was, and nothing in it.
    weights.write_bytes(b"")
    with weights.open("r+b") as file:
        file.truncate(size - apart.stat().st_size)
    assert remaining_floats(apart).startswith(
        f"of the file's {size} bytes {floats} ({floats / size:.0%}) are still weights"
    )
    assert remaining_floats(whole).startswith(
        f"of the file's {whole.stat().st_size} bytes {floats} ("
    )
