"""The planner: which recipe is tried first follows from the evidence, the goal and the search."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from optimizers.contract.architecture import DropHeads, DropLayers, Merge
from optimizers.contract.declaration import ONE_OF_A_PLACE, Choice, Effect, Need, Real
from optimizers.contract.evidence import Evidence, Proposal
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import DynamicInt8, StaticInt8, WeightsNbits
from optimizers.contract.search import Search
from optimizers.contract.steps import STEPS_BY_NAME, Step, misplaced, step_name
from optimizers.contract.tuning import TuneSession
from optimizers.planner import MOST, propose
from tests.support.evidence import (
    ARM,
    AVX2,
    VNNI,
    encoder,
    mobile_net,
    operator,
    residual_net,
    tiny_net,
    wide_perceptron,
)

FAST = Goal()
SMALL = Goal(optimize=(FigureName.SIZE,))
FRUGAL = Goal(optimize=(FigureName.MEMORY,))
NETS: tuple[Callable[..., Evidence], ...] = (
    *(residual_net, mobile_net, encoder, wide_perceptron, tiny_net),
)


def wishing(*sentences: str, optimize: FigureName = FigureName.LATENCY_P50) -> Goal:
    return Goal(optimize=(optimize,), require=tuple(map(parse_requirement, sentences)))


def recipes(
    evidence: Evidence, goal: Goal = FAST, search: Search | None = None
) -> list[tuple[Step, ...]]:
    return [one.recipe.steps for one in propose(evidence, goal, search or Search())]


def named(steps: tuple[Step, ...]) -> list[str]:
    return [step_name(step) for step in steps]


def names(evidence: Evidence, goal: Goal = FAST, search: Search | None = None) -> list[list[str]]:
    return [named(steps) for steps in recipes(evidence, goal, search)]


def only(steps: tuple[Step, ...], kind: type[Any]) -> Any:
    [found] = [step for step in steps if isinstance(step, kind)]
    return found


# What takes the time decides what comes first.


def test_a_convolutional_net_gets_static_int8_then_narrower_layers() -> None:
    found = names(residual_net())

    assert found[0] == ["static_int8"]
    assert found[1] == ["prune_channels", "distill"]
    assert ["prune_channels", "distill", "static_int8"] in found


def test_a_residual_net_may_lose_a_block() -> None:
    assert ["drop_layers", "prune_channels", "distill"] in names(residual_net())
    assert not any("drop_layers" in one for one in names(residual_net(residual_blocks=0)))


def test_a_net_of_depthwise_convolutions_is_narrowed_before_it_is_quantised() -> None:
    found = names(mobile_net())

    assert found[:3] == [
        ["prune_channels", "distill"],
        ["prune_channels", "distill", "static_int8"],
        ["static_int8"],
    ]
    assert only(recipes(mobile_net())[2], StaticInt8).correct_bias


def test_gates_alone_make_a_net_one_of_those() -> None:
    plain = mobile_net().layers
    ungrouped = tuple(replace(layer, groups=1) for layer in plain)

    assert names(mobile_net(layers=ungrouped))[0] == ["prune_channels", "distill"]


def test_an_encoder_gets_dynamic_int8_with_its_products_merged() -> None:
    found = names(encoder())

    assert found[:2] == [["merge", "dynamic_int8"], ["dynamic_int8"]]
    assert ["drop_layers", "distill"] in found
    assert not any("static_int8" in one for one in found)
    assert not any("prune_channels" in one for one in found)


def test_heads_are_left_out_only_where_there_are_some_to_spare() -> None:
    [steps] = [one for one in recipes(encoder()) if "drop_heads" in named(one)]
    assert only(steps, DropHeads).count == 2

    alone = names(encoder(attention_heads=(1,) * 6))
    assert not any("drop_heads" in one for one in alone)


def test_more_blocks_go_where_there_are_more() -> None:
    def cut(blocks: int) -> int:
        found = recipes(encoder(residual_blocks=blocks))
        count: int = only(
            next(one for one in found if "drop_layers" in named(one)), DropLayers
        ).count
        return count

    assert [cut(blocks) for blocks in (2, 12, 48)] == [1, 2, 3]


def test_a_net_that_mostly_reads_weights_gets_them_in_few_bits_too() -> None:
    assert names(wide_perceptron())[0] == ["dynamic_int8"]
    assert ["weights_nbits"] in names(wide_perceptron())
    assert ["weights_nbits"] not in names(wide_perceptron(activation_bytes=10_000_000))


def test_a_tiny_net_gets_nothing_but_fewer_nodes_and_another_session() -> None:
    assert names(tiny_net()) == [
        ["simplify", "merge"],
        ["simplify", "merge", "tune_session"],
        ["tune_session"],
    ]


def test_a_tiny_net_is_no_launch_bound_one_where_batches_are_what_counts() -> None:
    goal = Goal(optimize=(FigureName.THROUGHPUT,))

    assert names(tiny_net(batch_item_s=5e-6), goal)[0] == ["static_int8"]
    assert names(tiny_net(batch_item_s=22e-6), goal)[0] == ["simplify", "merge"]


def test_a_tiny_net_is_quantised_where_size_counts() -> None:
    assert names(tiny_net(), SMALL)[0] == ["static_int8"]


def test_batch_normalisation_that_is_left_is_merged() -> None:
    [merged] = [
        one
        for one in propose(residual_net(has_batch_norm=True), FAST, Search())
        if named(one.recipe.steps) == ["simplify", "merge"]
    ]

    assert only(merged.recipe.steps, Merge)
    assert "batch normalisation is left" in merged.reason


def test_a_net_that_came_in_integers_is_left_in_them() -> None:
    quantised = (*residual_net().operators, operator("QuantizeLinear", 0.0))

    assert names(residual_net(operators=quantised)) == [
        ["tune_session"],
        ["simplify", "merge"],
        ["simplify", "merge", "tune_session"],
    ]


def test_a_net_that_came_in_half_precision_is_not_halved_again() -> None:
    def is_halved(evidence: Evidence, goal: Goal) -> bool:
        return any("fp16" in one for one in names(evidence, goal))

    assert is_halved(residual_net(provider="cuda"), FAST)
    assert not is_halved(residual_net(provider="cuda", weight_bits=16), FAST)
    assert is_halved(residual_net(), SMALL)
    assert not is_halved(residual_net(weight_bits=16), SMALL)


def test_a_net_whose_weights_are_computed_is_left_alone_as_well() -> None:
    assert names(residual_net(layers=())) == names(residual_net(operators=()))
    assert ["static_int8"] not in names(residual_net(layers=()))


def test_a_gpu_gets_half_precision_first_and_no_int8() -> None:
    found = names(residual_net(provider="cuda"))

    assert found[0] == ["fp16"]
    assert not any("int8" in step for one in found for step in one)


# What the goal asks for decides, too.


@pytest.mark.parametrize(
    ("sentence", "ratio"),
    [
        # 1 - 0.83 + 0.83 (1 - r)^2 <= share left, so r >= 1 - sqrt((left - 0.17) / 0.83)
        ("latency_p50 >= 30 % better", 0.25),  # r >= 0.201
        ("latency_p50 >= 50 % better", 0.375),  # r >= 0.369
        ("latency_p50 >= 66 % better", 0.625),  # r >= 0.547
        ("latency_p50 >= 90 % better", 0.75),  # out of reach
        ("latency_p50 <= 2 ms", 0.375),  # half of 4 ms
        ("latency_p50 >= 2 ms better", 0.375),
        ("throughput >= 100 % better", 0.375),
        ("throughput >= 10 items/s", 0.5),  # says nothing of a gain
    ],
)
def test_as_many_channels_go_as_the_goal_needs(sentence: str, ratio: float) -> None:
    found = recipes(residual_net(), wishing(sentence))

    pruned = next(one for one in found if named(one) == ["prune_channels", "distill"])
    assert only(pruned, PruneChannels).ratio == ratio


def test_stop_when_counts_as_a_wish() -> None:
    goal = Goal(stop_when=(parse_requirement("latency_p50 >= 66 % better"),))
    first = recipes(residual_net(), goal)[0]

    assert named(first) == ["prune_channels", "distill"]
    assert only(first, PruneChannels).ratio == 0.625


def test_what_int8_is_known_to_reach_comes_by_int8() -> None:
    goal = wishing("latency_p50 >= 40 % better")

    assert names(residual_net(host=VNNI), goal)[0] == ["static_int8"]
    assert names(residual_net(host=AVX2), goal)[0] == ["prune_channels", "distill"]


@pytest.mark.parametrize("evidence", [residual_net(), encoder()])
@pytest.mark.parametrize(
    "sentence", ["accuracy <= 0 points worse", "agreement >= 1", "cosine >= 1"]
)
def test_a_goal_that_tolerates_nothing_gets_what_loses_nothing_first(
    evidence: Evidence, sentence: str
) -> None:
    first, *others = recipes(evidence, wishing(sentence))

    assert {step.declares.effect for step in first} == {Effect.LOSSLESS}
    assert any(step.declares.effect is not Effect.LOSSLESS for one in others for step in one)


def test_a_goal_with_some_tolerance_does_not() -> None:
    [first, *_] = recipes(residual_net(), wishing("accuracy <= 1 point worse"))

    assert named(first) == ["static_int8"]


def test_memory_gets_int8_with_the_session_weighed_then_the_session_alone() -> None:
    found = names(residual_net(), FRUGAL)

    assert found[0] == ["static_int8", "tune_session"]
    assert ["tune_session"] in found
    assert all(steps[-1] == "tune_session" for steps in found)
    assert "arena off" in propose(residual_net(), FRUGAL, Search())[0].reason


def test_tables_of_embeddings_are_narrowed_where_size_counts_and_they_matter() -> None:
    def has_tables(evidence: Evidence, goal: Goal) -> bool:
        int8 = next(one for one in recipes(evidence, goal) if named(one) == ["dynamic_int8"])
        return bool(only(int8, DynamicInt8).embeddings)

    assert has_tables(encoder(), SMALL)
    assert has_tables(encoder(), wishing("size >= 3 MB better"))
    assert not has_tables(encoder(), FAST)
    assert not has_tables(encoder(embedding_bytes=1_000_000), SMALL)


def test_size_of_an_encoder_comes_down_by_few_bits() -> None:
    found = recipes(encoder(), SMALL)

    bits = [only(one, WeightsNbits).bits for one in found if named(one) == ["weights_nbits"]]
    assert bits == [4, 8]


def test_a_size_beyond_int8_is_reached_by_both() -> None:
    assert names(residual_net(), wishing("size >= 90 % better", optimize=FigureName.SIZE))[0] == [
        *("prune_channels", "distill", "static_int8"),
    ]


def test_accuracy_is_learned_from_labels() -> None:
    goal = Goal(optimize=(FigureName.ACCURACY,))

    assert names(residual_net(), goal) == [["finetune"], ["grow", "finetune"]]
    assert names(residual_net(has_labels=False), goal) == []


# What there is, and what may be tried.


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("goal", [FAST, SMALL, FRUGAL])
def test_without_training_data_no_recipe_trains(net: Callable[..., Evidence], goal: Goal) -> None:
    found = recipes(net(data={"calibration": 100, "search": 100}), goal)

    assert found
    assert all(Need.TRAINING not in step.declares.needs for one in found for step in one)
    assert not any("prune_channels" in named(one) for one in found)


def test_without_calibration_data_nothing_is_calibrated() -> None:
    found = names(residual_net(data={"train": 5000}))

    assert found[0] == ["prune_channels", "distill"]
    assert not any({"static_int8", "drop_layers"} & {*one} for one in found)


def test_only_the_steps_of_the_search_take_part() -> None:
    search = Search(steps=("prune_channels", "distill", "tune_session"))
    found = names(residual_net(), FAST, search)

    assert found == [["prune_channels", "distill"], ["tune_session"]]
    assert names(residual_net(), FAST, Search(steps=("fp16",))) == []


def test_a_recipe_may_go_without_its_lossless_parts() -> None:
    assert names(encoder(), FAST, Search(steps=("dynamic_int8",))) == [["dynamic_int8"]]


def test_values_that_the_search_narrows_are_kept_to() -> None:
    search = Search(
        values={
            "prune_channels.ratio": Choice((0.3, 0.45)),
            "prune_channels.importance": Choice(("activation",)),
            "distill.training.learning_rate": Real(1e-4, 1e-3, log=True),
            "distill.training.epochs": Choice((1, 3)),
        }
    )
    steps = recipes(residual_net(), FAST, search)[1]
    prune, distill = steps
    assert isinstance(prune, PruneChannels)

    assert (prune.ratio, prune.importance) == (0.45, "activation")
    training = only(steps, type(distill)).training
    assert (training.learning_rate, training.epochs) == (1e-3, 1)  # 3 take 315 of 300 s


def test_values_that_no_step_takes_are_not_proposed() -> None:
    search = Search(values={"weights_nbits.bits": Choice((5,))})

    assert not any("weights_nbits" in one for one in names(encoder(), SMALL, search))


@pytest.mark.parametrize(
    ("items", "minutes", "epochs"),
    [
        # 6 runs of 3.5 ms an item and epoch, a quarter of the time: 300 s of 20 minutes
        (1000, 20, 8),  # 168 s
        (3000, 20, 4),  # 8 take 504 s, 4 take 252 s
        (100_000, 20, 2),  # none fits
        (3000, 60, 8),
    ],
)
def test_as_many_epochs_as_fit(items: int, minutes: float, epochs: int) -> None:
    evidence = residual_net(data={"calibration": 10, "train": items})
    [distill] = [
        step
        for step in recipes(evidence, FAST, Search(minutes=minutes))[1]
        if step_name(step) == "distill"
    ]

    assert only((distill,), type(distill)).training.epochs == epochs


@pytest.mark.parametrize(
    ("host", "channels", "round_to"),
    [(AVX2, (64, 256), 8), (VNNI, (64, 256), 16), (VNNI, (16, 32), 8), (AVX2, (6, 16), 4)],
)
def test_channels_are_rounded_to_the_blocks_of_the_processor(
    host: Any, channels: tuple[int, int], round_to: int
) -> None:
    known = residual_net().layers
    layers = tuple(
        replace(layer, weight_shape=(width, *layer.weight_shape[1:]))
        for layer, width in zip(known[:2], channels, strict=True)
    )
    pruned = recipes(residual_net(host=host, layers=layers))[1]

    assert only(pruned, PruneChannels).round_to == round_to


def test_reasons_state_the_numbers() -> None:
    int8, pruned, *_ = propose(residual_net(), FAST, Search())

    assert "83 %" in int8.reason
    assert "no VNNI" in int8.reason
    assert "channels 64…256" in pruned.reason
    assert "5000 items" in pruned.reason
    assert "S8S8" in propose(residual_net(host=ARM), FAST, Search())[0].reason
    assert "no VNNI" not in propose(residual_net(host=VNNI), FAST, Search())[0].reason


@pytest.mark.parametrize(
    ("evidence", "goal", "search", "claim"),
    [
        (encoder(), FAST, Search(steps=("dynamic_int8",)), "attentions"),
        (encoder(), SMALL, Search(values={"weights_nbits.bits": Choice((8,))}), "in 4 bits"),
        (
            residual_net(),
            FAST,
            Search(values={"static_int8.skip_first": Choice((False,))}),
            "the first layer in floating point",
        ),
        (residual_net(), FRUGAL, Search(steps=("static_int8",)), "arena"),
        (
            encoder(),
            FAST,
            Search(values={"low_rank.keep": Choice((0.8,))}),
            "95 % of their energy",
        ),
    ],
)
def test_a_reason_speaks_of_nothing_that_the_search_keeps_out(
    evidence: Evidence, goal: Goal, search: Search, claim: str
) -> None:
    assert any(claim in one.reason for one in propose(evidence, goal, Search()))
    found = propose(evidence, goal, search)
    assert found
    assert not any(claim in one.reason for one in found)


def test_where_bytes_count_reasons_speak_of_bytes() -> None:
    int8 = propose(residual_net(), SMALL, Search())[0]

    assert "convolutions and products hold 3.81 MiB of 3.81 MiB of weights" in int8.reason
    assert "of the time" not in int8.reason


def test_training_that_takes_longer_than_it_may_is_told_so() -> None:
    evidence = residual_net(data={"calibration": 10, "train": 100_000})
    pruned = propose(evidence, FAST, Search())[1]

    assert "2 epochs of 100000 items, about 70 of 20 minutes" in pruned.reason


def test_the_session_is_tuned_by_measuring_everything() -> None:
    [tuned] = [one for one in recipes(residual_net()) if named(one) == ["tune_session"]]

    assert tuned == (TuneSession(),)


# What holds of every proposal.

_GOALS = some.builds(
    Goal,
    optimize=some.lists(some.sampled_from(list(FigureName)), min_size=1, max_size=2).map(tuple),
    require=some.lists(
        some.sampled_from(
            [
                parse_requirement(one)
                for one in (
                    *("accuracy <= 0 points worse", "agreement >= 0.97", "size >= 50 % better"),
                    *("latency_p50 >= 66 % better", "latency_p99 <= 1 us", "memory <= 1 MiB"),
                )
            ]
        ),
        max_size=2,
    ).map(tuple),
)
_SEARCHES = some.builds(
    Search,
    minutes=some.floats(0.1, 1000),
    steps=some.one_of(
        some.just(()), some.lists(some.sampled_from(sorted(STEPS_BY_NAME)), unique=True).map(tuple)
    ),
)
_SHARE = some.floats(0, 1)
_EVIDENCE = some.builds(
    lambda net, given: net(**given),
    some.sampled_from(NETS),
    some.fixed_dictionaries(
        {},
        optional={
            "host": some.sampled_from([AVX2, VNNI, ARM]),
            "data": some.dictionaries(
                some.sampled_from(["calibration", "train", "search", "gate"]),
                some.integers(0, 100_000),
            ),
            "has_labels": some.booleans(),
            "provider": some.sampled_from(["cpu", "cuda", "tensorrt", "openvino"]),
            "outside_share": _SHARE,
            "item_s": some.floats(1e-6, 10),
            "batch_item_s": some.floats(1e-6, 10),
            "attention_heads": some.lists(some.integers(1, 32), max_size=3).map(tuple),
            "residual_blocks": some.integers(0, 100),
            "has_batch_norm": some.booleans(),
            "weight_bytes": some.integers(0, 10**10),
            "embedding_bytes": some.integers(0, 10**9),
            "activation_bytes": some.integers(0, 10**9),
            "operators": some.just(()),
            "layers": some.just(()),
        },
    ),
)


@given(evidence=_EVIDENCE, goal=_GOALS, search=_SEARCHES)
@settings(max_examples=200, deadline=None)
def test_every_proposal_is_a_recipe_that_can_be_tried(
    evidence: Evidence, goal: Goal, search: Search
) -> None:
    proposals = propose(evidence, goal, search)

    assert len(proposals) <= MOST
    assert proposals == propose(evidence, goal, search)
    steps = [one.recipe.steps for one in proposals]
    assert all(steps.count(one) == 1 for one in steps)
    for one in proposals:
        _check(one, evidence, search)


def _check(proposal: Proposal, evidence: Evidence, search: Search) -> None:
    steps = proposal.recipe.steps
    assert steps
    assert misplaced(steps) is None
    assert proposal.reason
    assert not re.search(r"\d\.\d{8,}|\b0\.0+\b|\d[eE][-+]?\d|nan|\binf\b|-\d", proposal.reason)
    places = [step.declares.place for step in steps]
    assert places == sorted(places)
    assert all(places.count(place) <= 1 for place in ONE_OF_A_PLACE)
    for step in steps:
        assert not search.steps or step_name(step) in search.steps
        for need in step.declares.needs:
            assert {
                Need.CALIBRATION: evidence.data.get("calibration", 0) > 0,
                Need.TRAINING: evidence.data.get("train", 0) > 0,
                Need.LABELS: evidence.has_labels,
                Need.CUDA: evidence.provider in ("cuda", "tensorrt"),
            }[need]
        _check_parameters(step)


def _check_parameters(step: Step) -> None:
    """A search can only compose what is declared: all else stays as it is by default."""
    plain: Step = type(step)()
    for key, allowed in step.declares.ranges.items():
        value, where = step, key.split(".")
        holder: Any = plain
        for part in where[:-1]:
            value, holder = getattr(value, part), getattr(holder, part)
        value = getattr(value, where[-1])
        if isinstance(allowed, Real):
            assert allowed.low <= value <= allowed.high
        else:
            assert value in allowed.values
        plain = _replaced(plain, where, value)
    assert plain == step


def _replaced(one: Any, keys: list[str], value: Any) -> Any:
    first, *rest = keys
    inner = _replaced(getattr(one, first), rest, value) if rest else value
    return replace(one, **{first: inner})
