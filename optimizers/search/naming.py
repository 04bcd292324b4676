"""Which study a job's search belongs to, and in which database it is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from optimizers.contract.addresses import resolved_address
from optimizers.contract.host import Host
from optimizers.contract.job import JobSpec
from optimizers.contract.search import Search


def study_name(spec: JobSpec, search: Search, host: Host) -> str:
    """The name of a study: equal where recipes are tried for the same, on the same data and host.

    How many trials there are, who proposes them and what judges the winner take no part: a study
    goes on where these are changed. Where they begin to train does: it says what a level is.
    """
    data = {purpose: digest for purpose, digest in spec.data_sha256.items() if purpose != "gate"}
    content = [
        *(spec.model, spec.version, spec.profile.to_data()["goal"], str(spec.task), spec.price),
        *(spec.original_sha256, asdict(spec.original_session), data, spec.models_sha256),
        *(search.to_data()["steps"], search.to_data()["values"], search.hyperband),
        *(host.architecture, host.cpu_features, host.cpus, host.onnxruntime, host.gpus),
    ]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{spec.model}-{spec.version}-{spec.profile.name}-{digest[:12]}"


def database_url(
    spec: JobSpec, search: Search, directory: Path, environment: Mapping[str, str]
) -> str:
    """Where a study is kept; studies of one original share a file, to learn from each other.

    Args:
        spec: Of the search's job.
        search: What its profile says.
        directory: The job's, for one that keeps what it learns to itself.
        environment: Of this process, for a storage that is `env:NAME`.

    Raises:
        NotSupported: That variable is not set.
    """
    if search.storage:
        return resolved_address(search.storage, environment, "search.storage")
    home = directory if spec.studies is None else spec.studies
    home.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home.resolve() / spec.original_sha256[:16]}.sqlite"
