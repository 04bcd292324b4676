"""One search that runs live, with a share of what the sweep took."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.search.score import Yardstick, of_one_aim
from benchmarks.search.sweep import Sweep
from optimizers.contract.job import JobSpec, read_result, write_spec
from optimizers.contract.profile import Profile
from optimizers.contract.study import Trial, read_explanation
from optimizers.searching import search_job


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What came of a live search.

    Attributes:
        winner: As it was measured live; None where none holds what is required.
        share: What the winner is worth as measured live, as a share of the sweep's best.
        swept: What the sweep measured of the same recipe, likewise.
        trials: How many recipes were begun.
        seconds: It took, by its own clock.
        ended: Why, for people.
    """

    winner: Trial | None
    share: float
    swept: float
    trials: int
    seconds: float
    ended: str


def search_live(spec: JobSpec, sweep: Sweep, stick: Yardstick, home: Path) -> Live:
    """Search on this machine, for one aim, with nothing built before.

    Args:
        spec: What the sweep was made of.
        sweep: Complete.
        stick: Of the sweep's first aim.
        home: The job's directory, which is emptied.
    """
    profile = Profile(name="live", goal=of_one_aim(sweep), search=sweep.search)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    spec = replace(spec, id="live", profile=profile)
    write_spec(home, spec)
    search_job(home, spec, 1.0)
    told, result = read_explanation(home), read_result(home)
    if told is None:
        raise AssertionError(f"the search left no explanation: {result}")
    winner = None if told.winner is None else told.trial(told.winner)
    again = [
        trial
        for trial in sweep.trials(stick.goal)
        if winner is not None and trial.recipe == winner.recipe
    ]
    return Live(
        winner=winner,
        share=0.0 if winner is None else stick.share([winner]),
        swept=stick.share([trial for trial in again if trial.is_feasible]),
        trials=len(told.trials),
        seconds=told.seconds,
        ended=told.ended_because,
    )
