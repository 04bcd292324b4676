"""What an operator may write of a search, and what he is told about mistakes."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from optimizers.contract.declaration import Choice, Real
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.profile import StoredProfile, profile_document
from optimizers.contract.search import Sampler, Search

WHOLE = """\
goal: {optimize: [cost, accuracy], stop_when: ["cost >= 30 % better"]}
search:
  sampler: nsga2
  trials: 12
  minutes: 2.5
  workers: 3
  steps: [prune_channels, distill]
  values:
    prune_channels.ratio: [0.25, 0.5]
    prune_channels.round_to: 8
    distill.training.learning_rate: {low: 0.0001, high: 0.01, log: true}
  planner: false
  hyperband: true
  seed: 7
"""


def read(text: str) -> Search | None:
    return profile_document(text, "edge.yaml", "edge").search


def test_everything_that_may_be_written_is_read() -> None:
    assert read(WHOLE) == Search(
        sampler=Sampler.NSGA2,
        trials=12,
        minutes=2.5,
        workers=3,
        steps=("prune_channels", "distill"),
        values={
            "prune_channels.ratio": Choice((0.25, 0.5)),
            "prune_channels.round_to": Choice((8,)),
            "distill.training.learning_rate": Real(0.0001, 0.01, log=True),
        },
        planner=False,
        hyperband=True,
        seed=7,
    )


def test_a_search_that_says_nothing_has_its_defaults() -> None:
    assert read("search: {}") == Search()


def test_a_stored_search_is_read_back() -> None:
    adapter = TypeAdapter(StoredProfile)
    profile = profile_document(WHOLE, "edge.yaml", "edge")
    assert adapter.validate_json(adapter.dump_json(profile)) == profile


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sampler: tpee", "expected one of grid, random, tpe, nsga2"),
        ("trials: 0", r"trials must be in \[1, 10000\], got 0"),
        ("trials: 2.5", "expected a whole number"),
        ("minutes: 0", "minutes must be above 0"),
        ("minutes: .nan", "expected a number"),
        ("minutes: .inf", "expected a number"),
        ("minutes: 1000000", "at most 525600, got 1e\\+06"),
        ("workers: true", "expected a whole number"),
        ("hyperband: yes please", "expected true or false"),
        ("steps: [prune_chanels]", "prune_channels"),
        ("values: {prune_channels.ratios: [0.5]}", "ratio"),
        ("{steps: [merge], values: {prune_channels.ratio: [0.5]}}", "not among the search's steps"),
        ("values: {prune_channels.ratio: []}", "expected a list of values"),
        ("values: {distill.weight: {low: 0.5}}", "a range needs high"),
        ("values: {distill.weight: {low: 0.5, high: .inf}}", "expected a number"),
        ("values: {distill.weight: {low: 0.5, high: 0.5}}", "expected low below high"),
        ("values: {distill.weight: {low: 0, high: 0.5, log: true}}", "expected low below high"),
        ("storage: a file", "the address of a database"),
        ("storage: postgresql://h/x", "artefacts must name a place"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_was_expected(text: str, said: str) -> None:
    body = text if text.startswith("{") else "{" + text + "}"
    with pytest.raises(InvalidDocument, match=said) as caught:
        read(f"goal: {{optimize: [size]}}\nsearch: {body}\n")
    assert "edge.yaml" in str(caught.value)
