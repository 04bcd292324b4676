"""The loop of a search, over results that are replayed and a clock that is set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from optimizers.contract.declaration import Choice, Real
from optimizers.contract.errors import InvalidData
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import Trial, TrialState
from optimizers.search.database import LEASES, TRIALS, open_database
from optimizers.search.evaluator import CannotTry, Level, Measured
from optimizers.search.explaining import why_lost
from optimizers.search.ladder import Ladder, Standing
from optimizers.search.ledger import Entry, Ledger
from optimizers.search.outcome import outcome
from optimizers.search.pieces import Memory
from optimizers.search.space import Space
from optimizers.search.study import CUT, WAITED, Limits, Study
from tests.support.replays import Clock, Replay, agreement, close, exact, study_of, trials
from tests.support.spaces import space_over

GOAL = Goal(optimize=(FigureName.LATENCY_P50,), require=(parse_requirement("agreement >= 0.9"),))
VALUES: dict[str, Choice | Real] = {
    "prune_channels.ratio": Choice((0.25, 0.5, 0.75)),
    "prune_channels.importance": Choice(("l2",)),
    "prune_channels.round_to": Choice((8,)),
    "static_int8.calibration": Choice(("minmax",)),
    "static_int8.skip_first": Choice((False,)),
    "static_int8.equalize": Choice((False,)),
    "static_int8.correct_bias": Choice((False,)),
}
PLENTY = Limits(trials=100, seconds=1e6)


def space() -> Space:
    """No pruning or one of three ratios, with int8 or without: 7 recipes."""
    return space_over("prune_channels", "static_int8", values=VALUES, goal=GOAL)


def ratio(recipe: Recipe) -> float:
    return sum(step.ratio for step in recipe.steps if isinstance(step, PruneChannels))


def latency(recipe: Recipe) -> float:
    """Half with int8, less what is pruned."""
    quantised = len(recipe.steps) > (ratio(recipe) > 0)
    return (1 - 0.8 * ratio(recipe)) * (0.5 if quantised else 1.0)


def truth(recipe: Recipe) -> float:
    """Agreement holds up to half of the channels."""
    return 0.99 if ratio(recipe) <= 0.5 else 0.5


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replay(clock: Clock) -> Replay:
    return Replay(clock, latency, truth)


@pytest.fixture
def open_studies() -> Iterator[list[Memory]]:
    opened: list[Memory] = []
    yield opened
    for memory in opened:
        close(memory)


def test_the_fastest_that_holds_what_is_required_wins(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    assert study.run() == "every recipe of the space was tried"
    study.settle()
    found = trials(memory)
    assert len(found) == 7
    assert not memory.sampling.running()
    best = outcome(GOAL, found).winner
    assert best is not None
    assert (ratio(best.recipe), len(best.recipe.steps)) == (0.5, 2)
    by_hand = min(latency(trial.recipe) for trial in found if truth(trial.recipe) >= 0.9)
    assert latency(best.recipe) == by_hand


def test_what_cannot_win_any_more_is_abandoned_with_the_bound_that_says_so(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    best = outcome(GOAL, trials(memory)).winner
    assert best is not None
    for trial in trials(memory):
        if trial.state is TrialState.ABANDONED:
            assert latency(trial.recipe) >= latency(best.recipe)
            assert (trial.level, len(trial.figures)) == (1, 1)
            assert "latency_p50" in trial.reason
    assert any(trial.state is TrialState.ABANDONED for trial in trials(memory))


def test_it_ends_once_a_trial_is_good_enough(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    goal = Goal(
        optimize=GOAL.optimize,
        require=GOAL.require,
        stop_when=(parse_requirement("latency_p50 >= 55 % better"),),
    )
    study, memory = study_of(tmp_path, space(), goal, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    ended = study.run()
    found = trials(memory)
    assert ended == f"trial {found[-1].number} is good enough: 'latency_p50 >= 55 % better'"
    assert latency(found[-1].recipe) <= 0.45
    assert found[-1].is_feasible
    assert all(latency(trial.recipe) > 0.45 or not trial.is_feasible for trial in found[:-1])


def test_a_fast_trial_that_breaks_a_requirement_is_not_good_enough(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    goal = Goal(
        optimize=GOAL.optimize,
        require=GOAL.require,
        stop_when=(parse_requirement("latency_p50 >= 55 % better"),),
    )
    replay = Replay(clock, latency, lambda recipe: 0.5)
    study, memory = study_of(tmp_path, space(), goal, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    assert study.run() == "every recipe of the space was tried"
    assert outcome(goal, trials(memory)).winner is None


def test_no_more_recipes_are_tried_than_the_budget_has(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    limits = Limits(trials=3, seconds=1e6)
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=limits, clock=clock)
    open_studies.append(memory)
    assert study.run() == "its 3 trials were used up"
    assert len(trials(memory)) == 3
    assert len({recipe for recipe, _ in replay.pieces}) == 3


def test_a_second_budget_comes_on_top_of_what_the_first_one_asked_for(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    limits = Limits(trials=3, seconds=1e6)
    for submission, before in (("first", 0), ("first", 0), ("second", 3)):
        study, memory = study_of(
            *(tmp_path, space(), GOAL, replay),
            limits=limits,
            clock=clock,
            submission=submission,
            another=submission == "second",
        )
        open_studies.append(memory)
        assert memory.ledger.asked_before(memory.budget) == before
        assert study.run() == "its 3 trials were used up"
    assert len(trials(memory)) == 6


def test_a_trial_that_runs_when_time_is_up_is_cut_and_gone_on_with_later(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    short = Limits(trials=100, seconds=210.0)  # three pieces of a minute, and half of a fourth
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=short, clock=clock)
    assert study.run() == "its 3.5 minutes were used up"
    study.settle()
    cut = trials(memory)[-1]
    assert len(replay.pieces) == 4
    assert (cut.state, cut.reason, cut.seconds) == (TrialState.RUNNING, CUT, 60.0)
    before = replay.pieces[-1]
    close(memory)

    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=short, clock=clock)
    open_studies.append(memory)
    assert study.run() == "its 3.5 minutes were used up", "the budget was spent already"
    assert len(replay.pieces) == 4
    close(open_studies.pop())
    study, memory = study_of(
        *(tmp_path, space(), GOAL, replay),
        limits=short,
        clock=clock,
        submission="second",
        another=True,
    )
    open_studies.append(memory)
    study.run()
    assert replay.pieces[4] == before, "what was cut comes first"
    finished = memory.ledger.read(cut.number)
    assert finished is not None
    assert finished.trial.state is not TrialState.RUNNING


def test_what_was_told_is_not_tried_again(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    few = Limits(trials=3, seconds=1e6)
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=few, clock=clock)
    study.run()
    before = trials(memory)
    close(memory)
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    assert trials(memory)[:3] == before
    assert len(replay.pieces) == len(set(replay.pieces)), "no recipe was at a level twice"


TRAINED: dict[str, Choice | Real] = {
    **{name: one for name, one in VALUES.items() if name.startswith("prune_channels")},
    "distill.temperature": Choice((4.0,)),
    "distill.weight": Choice((0.5,)),
    "distill.training.learning_rate": Choice((1e-3, 3e-3, 1e-2)),
    "distill.training.batch_size": Choice((64,)),
    "distill.training.optimizer": Choice(("adamw",)),
    "distill.training.schedule": Choice(("one_cycle",)),
    "distill.training.epochs": Choice((9,)),
}


def trained_space() -> Space:
    """Three ratios, each untrained or trained in one of three ways, and training alone."""
    return space_over("prune_channels", "distill", values=TRAINED, goal=GOAL)


def alike(recipe: Recipe) -> float:
    """All are as fast, so that nobody can be given up for another one."""
    return 0.5


def test_what_waits_when_the_time_ends_is_gone_on_with_by_a_search_that_is_resumed(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    replay = Replay(clock, alike, truth)
    # Time for 9 pieces: the first trial is done, the second one is cut, the third one waits.
    short = Limits(trials=100, seconds=9.5 * 60.0)
    study, memory = study_of(tmp_path, trained_space(), GOAL, replay, limits=short, clock=clock)
    assert study.run() == "its 9.5 minutes were used up"
    study.settle()
    first, cut, halved = trials(memory)
    assert (first.state, cut.reason) == (TrialState.COMPLETE, CUT)
    assert (halved.state, halved.level, halved.levels) == (TrialState.HALVED, 2, 4)
    before = len(replay.pieces)
    close(memory)
    study, memory = study_of(
        *(tmp_path, trained_space(), GOAL, replay),
        limits=PLENTY,
        clock=clock,
        submission="second",
        another=True,
    )
    open_studies.append(memory)
    assert study.run() == "every recipe of the space was tried"
    study.settle()
    levels = [level for recipe, level in replay.pieces[before:] if recipe == halved.recipe]
    assert levels == [3, 4]
    assert {one.state for one in trials(memory)} == {TrialState.COMPLETE}
    assert not memory.sampling.running()


def test_who_was_overtaken_while_it_waited_is_given_up_before_it_is_trained_on(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, trained_space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    overtaken = [
        one for one in trials(memory) if one.state is TrialState.ABANDONED and one.level > 1
    ]
    assert overtaken
    for one in overtaken:
        assert one.reason
        levels = [level for recipe, level in replay.pieces if recipe == one.recipe]
        assert levels == list(range(1, one.level + 1)), "no level after the one it waited at"


def waiting(memory: Memory, value: float) -> Trial:
    """A trial that was measured with a ninth of its training, and waits."""
    asked = memory.sampling.ask()
    assert asked is not None
    levels = Ladder().levels(asked.number, asked.recipe)
    trial = Trial(
        number=asked.number,
        recipe=asked.recipe,
        origin=asked.origin,
        state=TrialState.RUNNING,
        level=2,
        levels=len(levels),
    )
    standings = (
        Standing(number=trial.number, level=level, values=(value,)) for level in levels[:2]
    )
    memory.ledger.write(Entry(trial=trial, standings=tuple(standings)))
    return trial


def test_who_was_next_when_the_search_ended_is_told_so_and_not_that_others_were_better(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, trained_space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    best, worse = waiting(memory, -0.7), waiting(memory, -0.5)
    study.settle()
    reasons = {one.number: (one.state, one.reason) for one in trials(memory)}
    assert reasons[best.number] == (TrialState.HALVED, WAITED)
    assert reasons[worse.number] == (TrialState.HALVED, "")


def test_who_was_recorded_and_not_told_when_the_search_ended_keeps_its_end(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, space(), GOAL, Broken(), limits=PLENTY, clock=clock)
    open_studies.append(memory)
    asked = memory.sampling.ask()
    assert asked is not None
    trial = Trial(
        number=asked.number,
        recipe=asked.recipe,
        origin=asked.origin,
        state=TrialState.FAILED,
        level=1,
        levels=2,
        reason="no channels",
    )
    memory.ledger.write(Entry(trial=trial))
    study.settle()
    assert trials(memory) == [trial]
    assert [one.reason for one in memory.sampling.told()] == ["no channels"]


class Disturbed(Replay):
    """Others used the machine whenever a trial was timed."""

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        measured = super().evaluate(recipe, level)
        return replace(measured, figures=()) if level.is_structure else measured


def test_nothing_is_trained_that_could_not_be_timed(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    disturbed = Disturbed(clock, latency, truth)
    study, memory = study_of(tmp_path, trained_space(), GOAL, disturbed, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    assert {level for _, level in disturbed.pieces} == {1}
    assert {(one.state, one.reason) for one in trials(memory)} == {
        (
            TrialState.ABANDONED,
            "latency_p50 could not be judged: not measured, or without a bound, "
            "and no later level measures it",
        )
    }


class Broken:
    """Every recipe fails."""

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        return Measured(figures=(), seconds=1.0, broken="step prune_channels failed: no channels")


def test_a_recipe_that_fails_is_a_trial_with_its_reason_and_ends_nothing(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, space(), GOAL, Broken(), limits=PLENTY, clock=clock)
    open_studies.append(memory)
    assert study.run() == "every recipe of the space was tried"
    found = trials(memory)
    assert len(found) == 7
    assert {trial.state for trial in found} == {TrialState.FAILED}
    assert {trial.reason for trial in found} == {"step prune_channels failed: no channels"}


class TimedByNobody:
    """Others use the machine whenever something is timed."""

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        if level.is_structure:
            missing = {FigureName.LATENCY_P50: "others used the machine"}
            return Measured(figures=(), seconds=1.0, missing=missing)
        return Measured(figures=(agreement(1.0),), seconds=1.0)


def test_why_something_could_not_be_measured_is_kept_to_the_end(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, space(), GOAL, TimedByNobody(), limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    found = [trial for trial in trials(memory) if trial.state is TrialState.ABANDONED]
    assert found
    for trial in found:
        said = why_lost(trial, None, GOAL, [])
        assert "latency_p50 could not be judged: others used the machine" in said


class WorseElsewhere:
    """With more training another output comes off worst, and better than the first did."""

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        if level.is_structure:
            figures = (exact(FigureName.LATENCY_P50, 0.5, 1.0),)
        else:
            early = level.training_share < 1
            found = agreement(0.5 if early else 0.99)
            figures = (replace(found, condition=f"output '{'a' if early else 'b'}'"),)
        return Measured(figures=figures, seconds=1.0)


def test_what_is_measured_again_replaces_what_was_known_under_whichever_condition(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    steps = space_over(
        "finetune",
        "dynamic_int8",
        values={
            "finetune.training.learning_rate": Choice((1e-3,)),
            "finetune.training.batch_size": Choice((64,)),
            "finetune.training.optimizer": Choice(("sgd",)),
            "finetune.training.schedule": Choice(("constant",)),
            "finetune.training.epochs": Choice((9,)),
            "dynamic_int8.per_channel": Choice((True,)),
        },
    )
    study, memory = study_of(tmp_path, steps, GOAL, WorseElsewhere(), limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    found = [trial for trial in trials(memory) if trial.levels > 2 and trial.is_feasible]
    assert found
    for trial in found:
        assert [figure.value.value for figure in trial.figures] == [0.5, 0.99]


class Dying:
    """The process ends in the middle of a recipe, as far as anybody can see."""

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        raise KeyboardInterrupt


def died(directory: Path, clock: Clock, owner: str) -> None:
    study, memory = study_of(
        *(directory, space(), GOAL, Dying()),
        limits=PLENTY,
        clock=clock,
        owner=owner,
        lasts_s=1e-3,
    )
    with pytest.raises(KeyboardInterrupt):
        study.run()
    close(memory)


def test_a_recipe_that_ends_its_process_is_retried_twice_and_then_given_up(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    for owner in ("a", "b"):
        died(tmp_path, clock, owner)
    died(tmp_path, clock, "c")
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    first, *rest = trials(memory)
    assert (first.state, first.reason) == (
        TrialState.FAILED,
        "given up: 3 processes ended while they worked on it",
    )
    assert not any(trial.state is TrialState.FAILED for trial in rest)


def test_a_recipe_that_two_processes_died_at_may_still_win(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    for owner in ("a", "b"):
        died(tmp_path, clock, owner)
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    assert trials(memory)[0].state is not TrialState.FAILED


class WithoutRoom:
    """This machine can try nothing for the time being."""

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        raise CannotTry("the disk takes no more")


def test_a_machine_that_can_try_nothing_costs_no_trial_however_often_it_is_started(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    for _ in range(5):
        study, memory = study_of(tmp_path, space(), GOAL, WithoutRoom(), limits=PLENTY, clock=clock)
        with pytest.raises(CannotTry, match="takes no more"):
            study.run()
        close(memory)
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    assert not any(trial.state is TrialState.FAILED for trial in trials(memory))


class TakenMeanwhile:
    """This process is stopped until another one has taken its trial, and measured it."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        replay = Replay(self._clock, latency, truth)
        other, memory = study_of(
            *(self._directory, space(), GOAL, replay),
            limits=PLENTY,
            clock=self._clock,
            owner="other",
        )
        _run_out_leases(self._directory)
        other.run()
        close(memory)
        return Measured(figures=(exact(FigureName.LATENCY_P50, 1e-3, 1.0),), seconds=1.0)


def _run_out_leases(directory: Path) -> None:
    engine = open_database(f"sqlite:///{directory}/study.sqlite")
    with engine.begin() as connection:
        connection.execute(update(LEASES).values(expires=0.0))
    engine.dispose()


def test_who_was_stopped_until_others_had_his_trial_tells_nothing_of_it(
    tmp_path: Path, clock: Clock, open_studies: list[Memory]
) -> None:
    stopped = TakenMeanwhile(tmp_path, clock)
    study, memory = study_of(tmp_path, space(), GOAL, stopped, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    assert study.run() == "every recipe of the space was tried"
    found = trials(memory)
    assert {trial.worker for trial in found} == {"other"}
    assert all(trial.state is not TrialState.RUNNING for trial in found)
    figures = [trial.figure(FigureName.LATENCY_P50) for trial in found]
    assert all(one is not None and one.value.value > 1e-3 for one in figures)


def test_what_somebody_still_works_on_is_left_to_him_at_the_end(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    short = Limits(trials=100, seconds=210.0)
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=short, clock=clock)
    open_studies.append(memory)
    study.run()
    cut = trials(memory)[-1]
    assert cut.reason == CUT
    lease = memory.leases.claim(cut.number)
    assert lease is not None
    entry = memory.ledger.read(cut.number)
    assert entry is not None
    working = replace(entry, trial=replace(cut, reason=""))
    memory.keep(working, lease)
    study.settle()
    assert memory.ledger.read(cut.number) == working
    memory.leases.release(lease, attempts=0)
    study.settle()
    assert trials(memory)[-1].reason == CUT


def test_a_trial_of_another_hone_teaches_nothing_and_stops_nothing(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    study.run()
    known = trials(memory)
    close(memory)
    engine = open_database(f"sqlite:///{tmp_path}/study.sqlite")
    with engine.begin() as connection:
        unknown = connection.execute(
            select(TRIALS.c.record).where(TRIALS.c.trial == 0)
        ).scalar_one()
        changed = unknown.replace(f'"state":"{known[0].state}"', '"state":"from the future"')
        assert changed != unknown
        connection.execute(update(TRIALS).where(TRIALS.c.trial == 0).values(record=changed))
    other = Ledger(engine, "other", "original")
    assert other.of_other_studies() == tuple(known[1:])
    with pytest.raises(InvalidData, match="study one cannot be read; another Hone wrote it"):
        Ledger(engine, "one", "original").all()
    other.close()


def test_a_crash_between_record_and_sampler_is_mended_without_trying_again(
    tmp_path: Path,
    clock: Clock,
    replay: Replay,
    open_studies: list[Memory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, memory = study_of(
        tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock, lasts_s=1e-3
    )

    def crash(number: int, values: object, violation: float = 0.0) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(memory.sampling, "tell", crash)
        with pytest.raises(KeyboardInterrupt):
            study.run()
    recorded = [trial for trial in trials(memory) if trial.state is not TrialState.RUNNING]
    assert recorded, "something had come to an end"
    tried = len(replay.pieces)
    close(memory)
    study, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study.run()
    told = {one.number for one in memory.sampling.told()}
    assert {trial.number for trial in recorded} <= told
    assert not {piece[0] for piece in replay.pieces[tried:]} & {one.recipe for one in recorded}


def test_everything_new_of_a_trial_is_passed_on(
    tmp_path: Path, clock: Clock, replay: Replay, open_studies: list[Memory]
) -> None:
    seen: list[Trial] = []
    _, memory = study_of(tmp_path, space(), GOAL, replay, limits=PLENTY, clock=clock)
    open_studies.append(memory)
    study = Study(
        *(GOAL, Limits(trials=1, seconds=1e6), memory, Ladder(), replay),
        worker="w",
        clock=clock,
        changed=seen.append,
    )
    study.run()
    assert [(one.state, one.level, one.worker) for one in seen] == [
        (TrialState.RUNNING, 1, "w"),
        (TrialState.RUNNING, 1, "w"),
        (TrialState.RUNNING, 2, "w"),
        (TrialState.COMPLETE, 2, "w"),
    ]
