"""A recipe is measured as far as a level says, and told apart from one that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from optimizers.contract.architecture import Merge
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import this_host
from optimizers.contract.profile import Profile
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Search
from optimizers.contract.tuning import TuneSession
from optimizers.evaluation.limits import measured
from optimizers.evaluation.quiet import Usage
from optimizers.search.assessment import Assessor, Terms
from optimizers.search.candidates import Candidates
from optimizers.search.evaluator import Level
from optimizers.search.measuring import Measuring
from optimizers.search.turns import Turns
from tests.support import models
from tests.support.data import write_data
from tests.support.specs import search_spec

WHOLE = Level(index=2, training_share=1.0)
GOAL = Goal(optimize=(FigureName.SIZE,), require=(parse_requirement("agreement >= 0.9"),))


def undisturbed() -> Usage:
    return Usage(clock=0.0, busy=0.0, stolen=0.0, own=0.0, processors=2)


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measuring]:
    home = tmp_path_factory.mktemp("measuring")
    model = models.perceptron(home / "net.onnx")
    write_data(home, model)
    spec = search_spec(
        model,
        {"search": home / "gate.npz"},
        profile=Profile(name="edge", goal=GOAL, search=Search()),
        cache=home / "artefacts",
    )
    terms = Terms(
        original=model,
        original_session=spec.original_session,
        goal=GOAL,
        task=spec.task,
        data=spec.data["search"],
        host=this_host(1),
    )
    (home / "recipes").mkdir()
    turns = Turns(home / "turns", 1)
    with (
        Assessor(terms, undisturbed) as assessor,
        Candidates(
            *(replace(spec, data={}, data_sha256={}), home, home / "recipes", turns),
            status=lambda: (0.0, ""),
        ) as candidates,
    ):
        yield Measuring(candidates, assessor, turns, lambda: 1e9)


@pytest.mark.parametrize(
    "steps", [(TuneSession(),), (Merge(), TuneSession())], ids=["alone", "after nothing"]
)
def test_what_only_chooses_how_the_model_is_opened_is_measured_to_its_end(
    measuring: Measuring, steps: tuple[TuneSession | Merge, ...]
) -> None:
    found = measuring.evaluate(Recipe(steps=steps), WHOLE)
    assert found.broken == ""
    agreement = measured(found.figures, FigureName.AGREEMENT)
    assert agreement is not None
    assert agreement.value.value == 1


def test_a_recipe_that_changes_nothing_is_told_so(measuring: Measuring) -> None:
    found = measuring.evaluate(Recipe(steps=(Merge(),)), WHOLE)
    assert found.broken.startswith("the recipe changes nothing: ")
    assert not found.figures
