"""Which study a search goes on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.contract.job import JobSpec
from optimizers.contract.profile import Profile, Task
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.search import Sampler, Search
from optimizers.search.database import STUDIES
from optimizers.search.naming import study_name
from tests.support.spaces import evidence, space_over

HOST = evidence("Conv").host
SPACE = space_over("merge", "dynamic_int8")


@pytest.fixture
def spec() -> JobSpec:
    return JobSpec(
        id="job",
        model="net",
        version=1,
        profile=Profile(name="edge", search=Search()),
        task=Task.OTHER,
        original_file=Path("model.onnx"),
        original_name="model.onnx",
        original_sha256="0" * 64,
        original_session=SessionSpec(),
        data_sha256={"search": "1" * 64, "gate": "2" * 64},
        cpus=1,
    )


def test_a_study_goes_on_with_another_budget_sampler_or_gate(spec: JobSpec) -> None:
    search = Search(trials=7, minutes=3.0, sampler=Sampler.RANDOM, workers=2, seed=3)
    other = replace(spec, data_sha256={**spec.data_sha256, "gate": "3" * 64})
    assert study_name(spec, Search(), HOST, SPACE) == study_name(other, search, HOST, SPACE)


def test_other_files_machines_or_steps_make_another_study(spec: JobSpec) -> None:
    names = [
        study_name(spec, Search(), HOST, SPACE),
        study_name(replace(spec, original_sha256="4" * 64), Search(), HOST, SPACE),
        study_name(spec, Search(), replace(HOST, cpu_features=("avx512_vnni",)), SPACE),
        study_name(spec, Search(), HOST, space_over("merge", "static_int8")),
    ]
    assert len(set(names)) == len(names)


def test_the_longest_names_make_one_that_every_database_and_store_takes(spec: JobSpec) -> None:
    """A model's name has up to 128 characters, a version's 18, a profile's 64."""
    longest = replace(
        spec,
        model="m" * 127 + "a",
        version=10**18 - 1,
        profile=Profile(name="p" * 64, search=Search()),
    )
    name = study_name(longest, Search(), HOST, SPACE)
    assert len(name) <= STUDIES.c.study.type.length
    other = replace(longest, model="m" * 127 + "b")
    assert study_name(other, Search(), HOST, SPACE) != name
