"""The recipes whose gains are measured are ones that an operator could write."""

from __future__ import annotations

from benchmarks.gains.measure import profile_text
from benchmarks.gains.recipes import ROWS
from optimizers.contract.profile import Task, profile_document
from optimizers.contract.steps import STEPS_BY_NAME, step_name


def test_every_recipe_is_accepted_and_the_tutorial_net_meets_every_step() -> None:
    met = set()
    for subject, rows in ROWS.items():
        task = Task.EMBEDDING if subject == "minilm" else Task.CLASSIFICATION
        for row in rows:
            profile = profile_document(profile_text(row, task), row.title, "gains")
            met |= {step_name(step) for step in profile.recipe.steps if rows is ROWS["tutorial"]}
    assert met == set(STEPS_BY_NAME)
