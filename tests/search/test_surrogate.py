"""The model by which recipes are composed: its numbers against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from optimizers.contract.declaration import Choice, Range, Real
from optimizers.search.surrogate import Features, LinearModel

DIMENSIONS: dict[str, Range] = {
    "merge": Choice((False, True)),
    "place.numbers": Choice(("none", "dynamic_int8", "fp16")),
    "drop_layers.count": Choice((1, 2, 3)),
    "training.learning_rate": Real(1e-4, 1e-2, log=True),
    "training.epochs": Choice((1, 3, 9, 27)),
}


def test_a_recipe_that_asks_nothing_is_the_origin() -> None:
    assert not Features(DIMENSIONS).of({}).any()


def test_choices_have_a_column_each_and_numbers_a_place_between_their_ends() -> None:
    features = Features(DIMENSIONS)
    numbers = [features.of({"place.numbers": one}) for one in ("none", "dynamic_int8", "fp16")]
    assert np.stack(numbers).sum(axis=0).max() == 1.0
    assert all(row.sum() == 1.0 for row in numbers)

    def placed(name: str, value: float) -> list[float]:
        row = features.of({name: value})
        return row[row.nonzero()].tolist()

    assert placed("drop_layers.count", 1) == [1.0]
    assert placed("drop_layers.count", 2) == [1.0, 0.5, 0.25]
    assert placed("drop_layers.count", 3) == [1.0, 1.0, 1.0]
    assert placed("training.learning_rate", 1e-3) == pytest.approx([1.0, 0.5, 0.25])
    assert placed("training.epochs", 9) == pytest.approx([1.0, 2 / 3, 4 / 9])


def test_effects_that_add_up_are_found_and_what_was_not_tried_is_uncertain() -> None:
    rows = np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    model = LinearModel(rows, np.array([-0.3, -1.0, -1.3]), spread=1.0, noise=0.01)
    mean, deviation = model.predict(np.array([[1.0, 0, 0], [0, 0, 1], [0, 0, 0]]))
    assert mean == pytest.approx([-0.3, 0.0, 0.0], abs=1e-3)
    assert deviation[0] == pytest.approx(0.0129, abs=1e-3)
    assert deviation[1] == pytest.approx(np.hypot(1.0, 0.01))
    assert deviation[2] == pytest.approx(0.01)


def test_one_observation_gives_the_posterior_of_the_closed_form() -> None:
    # A normal prior of deviation s and one observation y with noise n: mean y s^2 / (s^2 + n^2),
    # variance s^2 n^2 / (s^2 + n^2), to which the noise of what is predicted is added.
    model = LinearModel(np.array([[1.0]]), np.array([2.0]), spread=0.5, noise=0.25)
    mean, deviation = model.predict(np.array([[1.0]]))
    assert mean == pytest.approx([2.0 * 0.25 / (0.25 + 0.0625)])
    assert deviation**2 == pytest.approx([0.25 * 0.0625 / (0.25 + 0.0625) + 0.0625])
