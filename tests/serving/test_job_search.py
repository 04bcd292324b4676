"""What a search shows while it goes on, read from files that several processes write."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.job import PAUSES_FILE, JobSpec
from optimizers.contract.profile import Profile, Task
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.search import Search
from optimizers.contract.study import (
    Explanation,
    Trial,
    TrialState,
    append_trial,
    write_explanation,
)
from optimizers.pausing import note_begin, note_end
from server.job_search import SearchReader, SearchState
from server.rpc.messages import trial_message

PROFILE = Profile(name="edge", search=Search(trials=40))
SUBMITTED_S = 1000.0
TOLD = Explanation(study="s", model="net", version=1, profile=PROFILE, seconds_left=60.0)


@pytest.fixture
def reader(tmp_path: Path) -> SearchReader:
    spec = JobSpec(
        id="a1",
        model="net",
        version=1,
        profile=PROFILE,
        task=Task.OTHER,
        original_file=Path("/nowhere/model.onnx"),
        original_name="1/model.onnx",
        original_sha256="0" * 64,
        original_session=SessionSpec(),
        submitted_unix_s=SUBMITTED_S,
    )
    return SearchReader(tmp_path, spec)


async def read(reader: SearchReader) -> SearchState:
    state = await reader.read()
    assert state is not None
    return state


def trial(number: int, state: TrialState = TrialState.RUNNING, level: int = 1) -> Trial:
    return Trial(
        number=number,
        recipe=Recipe(steps=(DynamicInt8(),)),
        origin="tpe",
        state=state,
        level=level,
        levels=4,
        started_unix_s=SUBMITTED_S + number,
    )


async def test_nothing_is_shown_before_the_first_trial(reader: SearchReader) -> None:
    assert await reader.read() is None


async def test_what_is_worked_on_is_shown_however_long_ago_it_began(
    tmp_path: Path, reader: SearchReader
) -> None:
    for number in range(12):
        append_trial(tmp_path, trial(number))
    assert [one.number for one in (await read(reader)).newest] == [*range(4, 12)]
    append_trial(tmp_path, trial(0, level=2))
    write_explanation(tmp_path, replace(TOLD, trials=(trial(0),)))
    newest = (await read(reader)).newest
    assert [one.number for one in newest] == [*range(5, 12), 0]
    assert newest[-1].level == 2, "what was told later counts"


async def test_trials_of_machines_elsewhere_are_shown_as_they_go_on(
    tmp_path: Path, reader: SearchReader
) -> None:
    """They write no line here: only the explanation knows them."""
    append_trial(tmp_path, trial(0))
    for state in (TrialState.RUNNING, TrialState.COMPLETE):
        write_explanation(tmp_path, replace(TOLD, trials=(trial(0), trial(1, state))))
        seen = await read(reader)
        assert (seen.newest[-1].number, seen.newest[-1].state) == (1, state)
    assert seen.trials_done == 1


async def test_why_a_trial_lost_is_what_was_found_last(
    tmp_path: Path, reader: SearchReader
) -> None:
    done = trial(0, TrialState.COMPLETE)
    append_trial(tmp_path, done)
    for reason in ("", "trial 1 is faster", "trial 2 is faster"):
        write_explanation(tmp_path, replace(TOLD, trials=(replace(done, reason=reason),)))
        assert (await read(reader)).newest[0].reason == reason


async def test_the_best_so_far_is_no_winner_before_the_end(
    tmp_path: Path, reader: SearchReader
) -> None:
    told = replace(TOLD, trials=(trial(0, TrialState.COMPLETE),), front=(0,), winner=0)
    write_explanation(tmp_path, told)
    seen = await read(reader)
    assert ([one.number for one in seen.front], seen.winner) == ([0], None)
    write_explanation(tmp_path, replace(told, ended_because="its 40 trials were used up"))
    assert (await read(reader)).winner == 0


async def test_the_time_left_stands_still_in_a_pause(tmp_path: Path, reader: SearchReader) -> None:
    write_explanation(tmp_path, replace(TOLD, trials=(trial(0),)))
    ends = (await read(reader)).ends_unix_s
    pauses = tmp_path / PAUSES_FILE
    note_begin(pauses)
    os.utime(pauses, (ends - 50, ends - 50))
    seen = await read(reader)
    assert (seen.ends_unix_s, seen.paused_unix_s) == (ends, ends - 50)
    note_end(pauses, 30.0)
    seen = await read(reader)
    assert seen.ends_unix_s == pytest.approx(ends + 30)
    assert seen.paused_unix_s == 0
    write_explanation(tmp_path, replace(TOLD, trials=(trial(0, level=2),), seconds_left=40.0))
    assert (await read(reader)).ends_unix_s == pytest.approx(ends - 20, abs=10)


async def test_a_second_budget_comes_on_top_of_what_the_first_one_tried(
    tmp_path: Path, reader: SearchReader
) -> None:
    append_trial(tmp_path, trial(40))
    assert (await read(reader)).trials_total == 40, "nobody has told yet"
    former = tuple(
        replace(trial(number, TrialState.COMPLETE), started_unix_s=1.0) for number in range(40)
    )
    write_explanation(tmp_path, replace(TOLD, trials=(*former, trial(40)), trials_total=80))
    seen = await read(reader)
    assert (seen.trials_done, seen.trials_total) == (40, 80)
    assert seen.newest[-1].number == 40


def test_what_the_goal_is_after_is_told_first_and_then_what_it_requires() -> None:
    goal = Goal(
        optimize=(FigureName.LATENCY_P50,), require=(parse_requirement("agreement >= 0.9"),)
    )
    measured = ("size", "latency_p99", "agreement", "latency_p50")
    figures = tuple(
        Figure(name=FigureName(name), unit="", samples=1, value=Estimate(value=1.0))
        for name in measured
    )
    told = trial_message(replace(trial(0), figures=figures), goal)
    named = [figure.name for figure in told.figures]
    assert named == ["latency_p50", "agreement", "size", "latency_p99"]
