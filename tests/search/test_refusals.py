"""A search that is resumed knows what the gate has refused, and by which data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.job import JobSpec
from optimizers.contract.profile import Profile
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler, Search
from optimizers.contract.study import Explanation, Trial, TrialState, write_explanation
from optimizers.search.database import open_database
from optimizers.search.explaining import why_lost
from optimizers.search.ledger import Entry, Ledger
from optimizers.search.naming import database_url
from optimizers.search.nearest_miss import nearest_miss
from optimizers.search.objectives import meets
from optimizers.search.outcome import outcome
from optimizers.search.refusals import forget_other_refusals, let_back_in, note_refusal
from tests.support import models
from tests.support.replays import exact
from tests.support.spaces import space_over
from tests.support.specs import search_spec
from tests.support.studies import sampling

GOAL = Goal(
    optimize=(FigureName.LATENCY_P50,), stop_when=(parse_requirement("latency_p50 >= 40 % better"),)
)
STUDY = "study"
WHY = "'agreement >= 0.97': by its bound agreement is at least 0.9612"


def trial(number: int, share: float) -> Trial:
    return Trial(
        number=number,
        recipe=Recipe(steps=(PruneChannels(ratio=(1 + number) / 8),)),
        origin="tpe",
        state=TrialState.COMPLETE,
        level=2,
        levels=2,
        figures=(exact(FigureName.LATENCY_P50, share, 1.0),),
    )


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    model = models.perceptron(tmp_path / "net.onnx")
    return search_spec(
        model,
        {},
        profile=Profile(name="edge", goal=GOAL, search=Search()),
        data_sha256={"gate": "a" * 64},
        studies=tmp_path / "studies",
    )


@pytest.fixture
def ledger(tmp_path: Path, spec: JobSpec) -> Iterator[Ledger]:
    """Of a search that has ended with two trials that hold the goal; the first is better."""
    url = database_url(spec, Search(), tmp_path, {})
    with closing(Ledger(open_database(url), STUDY, spec.original_sha256)) as opened:
        for one in (trial(0, 0.5), trial(1, 0.7)):
            opened.amend(Entry(trial=one))
        explanation = Explanation(
            study=STUDY, model="net", version=1, profile=spec.profile, winner=0
        )
        write_explanation(tmp_path, explanation)
        yield opened


def trials(ledger: Ledger) -> list[Trial]:
    return [entry.trial for entry in ledger.all()]


def test_what_the_gate_refused_is_no_winner_any_more_and_ends_no_search(
    tmp_path: Path, spec: JobSpec, ledger: Ledger
) -> None:
    before = outcome(GOAL, trials(ledger)).winner
    assert before is not None
    assert before.number == 0
    assert note_refusal(tmp_path, spec, WHY)
    refused, other = trials(ledger)
    best = outcome(GOAL, [refused, other])
    assert best.front == (other,)
    assert not refused.is_feasible
    assert meets(GOAL.stop_when, refused.figures)
    assert why_lost(refused, other, GOAL, best.front) == f"refused by the gate: {WHY}"


def test_other_data_of_the_gate_lets_it_back_in(
    tmp_path: Path, spec: JobSpec, ledger: Ledger
) -> None:
    note_refusal(tmp_path, spec, WHY)
    forget_other_refusals(ledger, "a" * 64)
    assert [one.is_feasible for one in trials(ledger)] == [False, True]
    forget_other_refusals(ledger, "b" * 64)
    assert trials(ledger) == [trial(0, 0.5), trial(1, 0.7)]


def test_where_nothing_else_holds_the_goal_the_refusal_is_what_is_told(
    tmp_path: Path, spec: JobSpec, ledger: Ledger
) -> None:
    note_refusal(tmp_path, spec, WHY)
    said = nearest_miss(GOAL, trials(ledger)[:1])
    assert said == f"trial 0 (prune_channels) came closest: the gate refused it: {WHY}"


def test_what_was_given_up_for_a_refused_trial_is_tried_again_and_nothing_else_is(
    tmp_path: Path, spec: JobSpec, ledger: Ledger
) -> None:
    space = space_over("prune_channels", goal=GOAL)
    study = sampling(space, Sampler.GRID)
    shares = {0: 0.5, 1: 0.7, 2: 0.6, 3: 0.8}
    asked = [study.ask() for _ in shares]
    for one, (number, share) in zip(asked, shares.items(), strict=True):
        assert one is not None
        state = TrialState.COMPLETE if number < 2 else TrialState.ABANDONED
        record = replace(trial(number, share), recipe=one.recipe, state=state)
        ledger.amend(Entry(trial=record))
        study.tell(number, [share])
    let_back_in(GOAL, ledger, study)
    assert study.ask() not in asked, "nothing was refused"
    note_refusal(tmp_path, spec, WHY)
    let_back_in(GOAL, ledger, study)
    let_back_in(GOAL, ledger, study)
    again, following = study.ask(), study.ask()
    assert again is not None
    assert asked[2] is not None
    assert again.recipe == asked[2].recipe
    assert again.origin == "given up before, for a trial that the gate refused (0)"
    assert following is not None
    assert following.origin == "grid", "trial 1 is better than trial 3, whatever was refused"


def test_a_job_without_a_search_or_a_study_knows_of_nothing(
    tmp_path: Path, spec: JobSpec, ledger: Ledger
) -> None:
    assert not note_refusal(tmp_path / "elsewhere", spec, WHY)
    recipe = replace(spec.profile, search=None, recipe=trial(0, 0.5).recipe)
    assert not note_refusal(tmp_path, replace(spec, profile=recipe), WHY)
    lost = replace(
        spec.profile, search=Search(storage="env:HONE_NO_SUCH_VARIABLE", artefacts="/mnt/shared")
    )
    assert not note_refusal(tmp_path, replace(spec, profile=lost), WHY)
    assert all(one.is_feasible for one in trials(ledger))
