"""What is tried first on published networks, by what their own profiles say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import Goal
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.search import Search
from optimizers.planner import propose
from tests.support.profiled import look, told_of_data
from tests.support.published import published

LONG = Search(minutes=60)
"""On a slow machine a ResNet-50 learns nothing in the 20 minutes that a search takes by default."""

pytestmark = pytest.mark.alone  # times are measured

NETWORKS = ("resnet50", "squeezenet", "shufflenet")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Evidence]:
    """Of every network; with data for what most steps need, as far as the planner is told."""
    folder = tmp_path_factory.mktemp("published")
    files = {name: published(name, folder / f"{name}.onnx") for name in NETWORKS}
    return {
        name: told_of_data(look(file, SessionSpec(max_batch=1))) for name, file in files.items()
    }


def proposals(evidence: Evidence, search: Search | None = None) -> Mapping[str, str]:
    """Recipe → why."""
    return {str(one.recipe): one.reason for one in propose(evidence, Goal(), search or Search())}


@pytest.mark.parametrize("name", ["resnet50", "squeezenet"])
def test_convolutions_are_quantised_first_for_the_share_that_they_have(
    name: str, evidence: Mapping[str, Evidence]
) -> None:
    first, why = next(iter(proposals(evidence[name]).items()))

    assert first == "static_int8"
    assert f"convolutions are {evidence[name].share_of('Conv'):.0%}".replace("%", " %") in why


@pytest.mark.parametrize(
    ("share", "first"), [(0.05, "static_int8"), (0.15, "prune_channels → distill")]
)
def test_depthwise_convolutions_that_take_long_are_made_narrower_first(
    share: float, first: str, evidence: Mapping[str, Evidence]
) -> None:
    """A ShuffleNet itself is so near the limit of 10 % that looks fall on either side of it."""
    seen = evidence["shufflenet"]
    taken = sum(one.share for one in seen.layers if one.is_depthwise)

    scaled = [
        replace(one, share=one.share * share / taken) if one.is_depthwise else one
        for one in seen.layers
    ]

    assert next(iter(proposals(replace(seen, layers=tuple(scaled))))) == first


def test_only_what_has_residual_blocks_may_lose_some(evidence: Mapping[str, Evidence]) -> None:
    drops = {
        name: [why for recipe, why in proposals(one, LONG).items() if "drop_layers" in recipe]
        for name, one in evidence.items()
    }

    assert [why.split(",")[0] for why in drops["resnet50"]] == ["2 of 12 residual blocks left out"]
    assert drops["squeezenet"] == []
    assert all("of 13 residual blocks" in why for why in drops["shufflenet"])


def test_batch_normalisation_is_merged_where_there_is_some(
    evidence: Mapping[str, Evidence],
) -> None:
    speaks = {
        name: "batch normalisation is left" in proposals(one)["simplify → merge"]
        for name, one in evidence.items()
    }

    assert speaks == {"resnet50": True, "squeezenet": False, "shufflenet": True}


def test_less_is_learned_by_what_takes_longer(evidence: Mapping[str, Evidence]) -> None:
    """An item of a ResNet-50 takes some eight times as long as one of a SqueezeNet."""
    slow, fast = (
        next(why for recipe, why in proposals(evidence[name], LONG).items() if "distill" in recipe)
        for name in ("resnet50", "squeezenet")
    )

    assert epochs(slow) < epochs(fast)


def epochs(reason: str) -> int:
    return int(reason.split("distilled, ")[1].split()[0])
