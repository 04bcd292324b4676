"""What a job of a search is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimizers.contract.digests import file_sha256
from optimizers.contract.job import JobSpec
from optimizers.contract.profile import Profile, Task
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.search import Search


def search_spec(model: Path, data: dict[str, Path], **changes: Any) -> JobSpec:
    """A search for something better than a classifier, the file `net.onnx`."""
    settings: dict[str, Any] = {
        "id": "job",
        "model": "net",
        "version": 1,
        "profile": Profile(name="edge", search=Search()),
        "task": Task.CLASSIFICATION,
        "original_file": model,
        "original_name": "net.onnx",
        "original_sha256": file_sha256(model),
        "original_session": SessionSpec(),
        "data": data,
        "data_sha256": {name: file_sha256(path) for name, path in data.items()},
    }
    return JobSpec(**settings | changes)
