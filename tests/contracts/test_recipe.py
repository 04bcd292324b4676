"""Recipes are checked when they are written, not after an hour."""

from __future__ import annotations

import pytest

from optimizers.contract.documents import Document
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.recipe import recipe_from_data

TEXT = """\
- tune_session: {threads: [1]}
- dynamic_int8: {}
"""


def test_what_has_to_come_last_is_told_by_line_and_step() -> None:
    document = Document(TEXT, "hone.yaml")
    with pytest.raises(InvalidDocument) as caught:
        recipe_from_data(document.data, document)
    assert str(caught.value) == (
        "hone.yaml:2: 1.dynamic_int8: tune_session has to come last; put dynamic_int8 before it"
    )


def test_steps_of_one_stage_come_in_any_order() -> None:
    document = Document("[static_int8, dynamic_int8, tune_session]", "hone.yaml")
    assert len(recipe_from_data(document.data, document).steps) == 3
