"""Which study a job's search belongs to, and in which database it is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from optimizers.contract.addresses import resolved_address
from optimizers.contract.host import Host
from optimizers.contract.job import JobSpec
from optimizers.contract.search import Search
from optimizers.search.space import Space
from optimizers.search.suggesting import plain

_LONGEST_MODEL: Final = 100
"""Characters of a model's name, so that a study's has no more than its database and store take."""


def study_name(spec: JobSpec, search: Search, host: Host, space: Space) -> str:
    """The name of a study: equal where the same is tried for the same, on the same data and host.

    How many trials there are, who proposes them and what judges the winner take no part: a study
    goes on where these are changed. One whose space is another's, as steps of a newer Hone have
    other values, is another study; so is one that begins to train elsewhere, for that says what a
    level is.
    """
    data = {purpose: digest for purpose, digest in spec.data_sha256.items() if purpose != "gate"}
    content = [
        *(spec.model, spec.version, spec.profile.to_data()["goal"], str(spec.task), spec.price),
        *(spec.original_sha256, asdict(spec.original_session), data, spec.models_sha256),
        *(search.to_data()["steps"], search.to_data()["values"], plain(space)),
        search.hyperband,
        *(host.architecture, host.cpu_features, host.cpus, host.onnxruntime, host.gpus),
    ]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    model = spec.model[:_LONGEST_MODEL]
    return f"{model}-{spec.version}-{spec.profile.name}-{digest[:12]}"


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
