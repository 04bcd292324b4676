"""A space holds the recipes that can help, each once, and nothing else."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.contract.architecture import DropLayers, Grow, Merge
from optimizers.contract.declaration import Choice, Range, Real, Value
from optimizers.contract.distillation import Distill
from optimizers.contract.documents import Document
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import DynamicInt8, QuantizeAware, StaticInt8
from optimizers.contract.recipe import Recipe, recipe_from_data
from optimizers.contract.search import Search
from optimizers.contract.steps import STEPS_BY_NAME, misplaced, step_name
from optimizers.contract.training import Training
from optimizers.planner import propose
from optimizers.search.space import Space, space_of
from tests.support.spaces import FAST, FAST_AND_TRUE, evidence, space_over

WIDEST = evidence(
    *("Conv", "MatMul", "Gemm"),
    residual_blocks=4,
    attention_heads=(8, 8),
    embedding_bytes=1000,
    provider="cuda",
)
TRAINING = 3 * 3 * 2 * 3 * 3  # learning rate, batch size, optimizer, schedule, epochs


def test_a_grid_is_the_product_of_what_each_step_may_be() -> None:
    space = space_over("merge", "prune_channels", "static_int8", "tune_session")
    prune_channels = 5 * 3 * 3  # ratio, importance, round_to
    static_int8 = 3 * 2 * 2 * 2  # calibration, skip_first, equalize, correct_bias
    with_original = 2 * (1 + prune_channels) * (1 + static_int8) * 2
    assert sum(1 for _ in space.grid()) == with_original - 1


def test_how_a_session_is_opened_is_a_dimension_like_any_other() -> None:
    space = space_over("set_session", "tune_session", "fp16")
    assert space.dimensions == {
        "place.numbers": Choice(("none", "fp16")),
        "place.session": Choice(("none", "set_session", "tune_session")),
        "set_session.threads": Choice((1, 2)),  # there are two processors
        "set_session.lanes": Choice((0, 1)),
        "set_session.arena": Choice((False, True)),
        "set_session.optimization": Choice(("all", "extended")),
    }
    set_session = 2 * 2 * 2 * 2
    assert sum(1 for _ in space.grid()) == 2 * (1 + set_session + 1) - 1
    narrowed = space_over("set_session", values={"set_session.threads": Choice((2,))})
    assert sum(1 for _ in narrowed.grid()) == 2 * 2 * 2


def test_steps_of_one_place_are_one_choice() -> None:
    space = space_over("static_int8", "dynamic_int8", "fp16", values=EMBEDDINGS_OFF)
    static_int8, dynamic_int8, fp16 = 3 * 2 * 2 * 2, 2, 1
    assert sum(1 for _ in space.grid()) == static_int8 + dynamic_int8 + fp16
    assert all(len(recipe.steps) == 1 for recipe in space.grid())


EMBEDDINGS_OFF: dict[str, Choice | Real] = {"dynamic_int8.embeddings": Choice((False,))}


def test_what_makes_room_for_training_comes_only_with_training() -> None:
    space = space_over("finetune", "grow")
    grow = 3  # wider
    assert sum(1 for _ in space.grid()) == TRAINING * (1 + grow)
    assert all("finetune" in str(recipe) for recipe in space.grid())


def test_what_prepares_a_cut_comes_only_with_a_cut() -> None:
    few = {f"sparsify.{name}": Choice((value,)) for name, value in ONE_TRAINING.items()}
    space = space_over(
        "sparsify", "prune_channels", values={**few, "prune_channels.ratio": Choice((0.5,))}
    )
    importance_and_round_to = 3 * 3
    penalty_and_strength = 2 * 3
    assert sum(1 for _ in space.grid()) == importance_and_round_to * (1 + penalty_and_strength)


ONE_TRAINING: dict[str, Value] = {
    "training.learning_rate": 1e-3,
    "training.batch_size": 64,
    "training.optimizer": "adamw",
    "training.schedule": "cosine",
    "training.epochs": 1,
}


def test_every_recipe_of_a_grid_is_there_once_and_in_a_fixed_order() -> None:
    space = space_over("merge", "prune_channels", "dynamic_int8", "static_int8")
    recipes = [str(recipe.to_data()) for recipe in space.grid()]
    assert len(recipes) == len(set(recipes))
    assert recipes == [str(recipe.to_data()) for recipe in space.grid()]


def test_a_huge_grid_begins_at_once() -> None:
    space = space_of(WIDEST, FAST_AND_TRUE, Search())
    assert len(list(islice(space.grid(), 100))) == 100


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_parameters_are_the_inverse_of_composing(data: st.DataObject) -> None:
    space = space_of(WIDEST, FAST_AND_TRUE, Search())
    answers: dict[str, Value] = {}

    def choose(name: str, one: Range) -> Value:
        if isinstance(one, Real):
            answers[name] = data.draw(st.floats(one.low, one.high))
        else:
            answers[name] = data.draw(st.sampled_from(one.values))
        return answers[name]

    recipe = space.recipe(choose)
    assert misplaced(recipe.steps) is None
    read_back = recipe_from_data(recipe.to_data(), Document("", "test"))
    assert read_back == recipe
    assert space.parameters(read_back) == (answers if recipe.steps else None)
    assert answers.keys() <= space.dimensions.keys()


def test_what_was_not_asked_stays_at_the_steps_own_default() -> None:
    space = space_over("quantize_aware", values={"quantize_aware.training.epochs": Choice((4,))})
    answers: dict[str, Value] = {}

    def choose(name: str, one: Range) -> Value:
        default: Value = one.low if isinstance(one, Real) else one.values[-1]
        answers[name] = default
        return default

    [step] = space.recipe(choose).steps
    assert isinstance(step, QuantizeAware)
    assert step.training.epochs == 4
    assert step.training.weight_decay == QuantizeAware().training.weight_decay
    assert "quantize_aware.training.epochs" not in answers


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (DynamicInt8(exclude=("a",)),),
        (PruneChannels(ratio=0.51),),
        (Grow(),),
        (PruneChannels(), Merge()),
        (Merge(which=("linear",)),),
        (Merge(), Merge()),
        (Distill(training=Training(learning_rate=0.5)),),
    ],
    ids=str,
)
def test_a_recipe_outside_has_no_parameters(steps: tuple[Any, ...]) -> None:
    space = space_over("merge", "prune_channels", "dynamic_int8", "distill")
    assert space.parameters(Recipe(steps=(Merge(), PruneChannels(), Distill(), DynamicInt8())))
    assert space.parameters(Recipe(steps=steps)) is None


@pytest.mark.parametrize(
    ("step", "changes", "why"),
    [
        ("drop_layers", {"residual_blocks": 0}, "0 blocks"),
        ("drop_heads", {"attention_heads": ()}, "at most 0 heads"),
        ("drop_heads", {"attention_heads": (1, 1)}, "at most 1 heads"),
        ("drop_layers", {"data": {"train": 9}}, "needs calibration data"),
        ("static_int8", {"data": {"calibration": 0}}, "needs calibration data"),
        ("distill", {"data": {"calibration": 9}}, "needs training data"),
        ("finetune", {"has_labels": False}, "needs labels"),
        ("quantize_aware", {"data": {"calibration": 9}}, "needs training data"),
        ("bf16", {"provider": "cpu"}, "needs a CUDA"),
        ("dynamic_int8", {"layers": evidence("Conv").layers}, "no MatMul or Gemm"),
        ("weights_nbits", {"layers": evidence("Conv").layers}, "no MatMul or Gemm"),
        ("binarize", {"layers": evidence("Conv").layers}, "no MatMul or Gemm"),
        ("ternarize", {"layers": evidence("Conv").layers}, "no MatMul or Gemm"),
        ("low_rank", {"layers": ()}, "no Conv or MatMul or Gemm"),
        ("static_int8", {"layers": ()}, "no Conv or MatMul or Gemm"),
    ],
)
def test_a_step_that_cannot_do_anything_here_is_left_out(
    step: str, changes: dict[str, Any], why: str
) -> None:
    goal = Goal(
        optimize=(FigureName.LATENCY_P50, FigureName.SIZE),
        require=(parse_requirement("agreement >= 0.9"),),
    )
    kinds = ("Conv", "MatMul", "Gemm")
    can = {"residual_blocks": 4, "attention_heads": (8,), "provider": "cuda"}
    assert step in space_of(evidence(*kinds, **can), goal, Search()).steps
    space = space_of(evidence(*kinds, **{**can, **changes}), goal, Search())
    assert step not in space.steps
    assert why in space.left_out[step]


def test_every_step_takes_part_or_has_a_reason() -> None:
    space = space_of(WIDEST, FAST, Search())
    assert {*space.steps} ^ {*space.left_out} == STEPS_BY_NAME.keys()
    assert all(space.left_out.values())


def test_a_step_that_betters_nothing_of_the_goal_is_left_out_unless_it_is_named() -> None:
    assert "prune_weights" not in space_of(WIDEST, FAST, Search()).steps
    assert "binarize" not in space_of(WIDEST, FAST, Search()).steps
    assert "binarize" in space_of(WIDEST, Goal(optimize=(FigureName.SIZE,)), Search()).steps
    assert space_over("prune_weights").steps == ("prune_weights",)


@pytest.mark.parametrize("step", ["finetune", "distill", "grow"])
def test_steps_that_win_answers_back_are_for_goals_that_ask_for_answers(step: str) -> None:
    lossless = Search(steps=("merge", "simplify"))
    accurate = Goal(optimize=(FigureName.ACCURACY,))
    assert step not in space_of(WIDEST, FAST, Search()).steps
    assert step in space_of(WIDEST, FAST_AND_TRUE, Search()).steps
    assert step in space_of(WIDEST, accurate, Search()).steps
    assert step not in space_of(WIDEST, FAST_AND_TRUE, lossless).steps
    nothing_is_lost = evidence("Relu", data={"train": 9}, layers=(), operators=())
    quick = Goal(
        optimize=(FigureName.THROUGHPUT,), require=(parse_requirement("accuracy <= 1 point worse"),)
    )
    left_out = space_of(nothing_is_lost, quick, Search()).left_out[step]
    assert left_out == "no other step changes the answers"


def test_values_that_do_nothing_here_are_not_tried() -> None:
    without = space_over("prune_channels", "dynamic_int8", data={"train": 9})
    assert without.dimensions["prune_channels.importance"] == Choice(("l2", "l1"))
    assert "dynamic_int8.embeddings" not in without.dimensions
    table = space_over("dynamic_int8", embedding_bytes=100)
    assert table.dimensions["dynamic_int8.embeddings"] == Choice((False, True))
    short = space_over("drop_layers", residual_blocks=2)
    assert short.dimensions["drop_layers.count"] == Choice((1, 2))


def test_an_operators_values_take_the_place_of_declared_ones() -> None:
    space = space_over(
        "prune_channels",
        "distill",
        values={
            "prune_channels.ratio": Choice((0.3, 0.4, 0.3)),
            "distill.weight": Choice((1,)),
            "distill.training.learning_rate": Real(1e-3, 2e-3),
        },
    )
    assert space.dimensions["prune_channels.ratio"] == Choice((0.3, 0.4))
    assert space.dimensions["distill.training.learning_rate"] == Real(1e-3, 2e-3)
    [distill] = next(recipe for recipe in space.grid() if str(recipe) == "distill").steps
    assert isinstance(distill, Distill)
    assert distill.weight == 1.0
    assert type(distill.weight) is float


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("prune_channels.ratio", Choice(("0.5",))),
        ("prune_channels.ratio", Choice((1.5,))),
        ("prune_channels.ratio", Choice((True,))),
        ("prune_channels.round_to", Choice((8, 7))),
        ("prune_channels.round_to", Real(4, 16)),
        ("prune_channels.ratio", Real(0.5, 1.5)),
        ("prune_channels.importance", Choice(("l2", 1))),
        ("distill.training.epochs", Choice((2.5,))),
        ("distill.training.epochs", Choice((True,))),
        ("distill.training.epochs", Real(1.0, 8.0)),
        ("distill.training.optimizer", Choice(("adam",))),
        ("distill.training.batch_size", Choice((0,))),
        ("static_int8.equalize", Choice((1,))),
        ("static_int8.equalize", Choice(("yes",))),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(key: str, wrong: Choice | Real) -> None:
    with pytest.raises(InvalidDocument, match=key.replace(".", r"\.")):
        space_over("prune_channels", "distill", "static_int8", values={key: wrong})


def test_a_space_without_a_step_says_what_is_missing() -> None:
    with pytest.raises(InvalidDocument, match="static_int8: needs calibration data") as caught:
        space_of(evidence("Conv", data={}), FAST, Search(steps=("static_int8", "drop_layers")))
    assert "drop_layers: " in str(caught.value)
    assert "merge" not in str(caught.value)


def test_blocks_go_before_channels_and_channels_before_factors() -> None:
    space = space_of(WIDEST, FAST_AND_TRUE, Search())
    shaping = ("drop_layers", "drop_heads", "prune_channels", "low_rank", "grow")
    assert tuple(name for name in space.steps if name in shaping) == shaping
    recipe = Recipe(steps=(DropLayers(), PruneChannels(), StaticInt8()))
    assert space.parameters(recipe) is not None


@pytest.mark.parametrize(
    "aim", [FigureName.LATENCY_P50, FigureName.SIZE, FigureName.MEMORY, FigureName.ACCURACY]
)
def test_what_the_planner_proposes_lies_in_the_space(aim: FigureName) -> None:
    goal = Goal(optimize=(aim,), require=(parse_requirement("agreement >= 0.95"),))
    space = space_of(WIDEST, goal, Search())
    proposals = propose(WIDEST, goal, Search())
    assert proposals
    for one in proposals:
        assert space.parameters(one.recipe) is not None, one.recipe.to_data()


def test_a_space_needs_no_evidence_to_be_made() -> None:
    space = Space({"merge": {}}, {})
    assert [str(recipe) for recipe in space.grid()] == ["merge"]
    assert [step_name(step) for recipe in space.grid() for step in recipe.steps] == ["merge"]
