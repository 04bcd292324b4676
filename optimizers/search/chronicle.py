"""Writes down what a search does while it does it: `trials.jsonl` and `explanation.json`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optimizers.contract.goal import Goal
from optimizers.contract.study import (
    Explanation,
    Trial,
    TrialState,
    append_trial,
    write_explanation,
)
from optimizers.search.explaining import why_lost
from optimizers.search.ledger import Ledger
from optimizers.search.nearest_miss import nearest_miss
from optimizers.search.outcome import outcome


class Chronicle:
    """Keeps the files of a search in its job's directory up to date; several processes may."""

    def __init__(self, directory: Path, frame: Explanation, goal: Goal, ledger: Ledger) -> None:
        """Write to `directory`.

        Args:
            directory: The job's.
            frame: All of the explanation that stays the same: study, model, profile, evidence.
            goal: With the task's floors.
            ledger: The study's trials.
        """
        self._directory = directory
        self._frame = frame
        self._goal = goal
        self._ledger = ledger

    def note(self, trial: Trial, *, seconds: float, seconds_left: float) -> None:
        """Write what is new of a trial, while the search goes on."""
        append_trial(self._directory, trial)
        self.refresh(seconds=seconds, seconds_left=seconds_left)

    def refresh(self, *, seconds: float, seconds_left: float) -> None:
        """Write what others have found, while the search goes on."""
        told = replace(self._told(), seconds=seconds, seconds_left=seconds_left)
        write_explanation(self._directory, told)

    def close(self, ended_because: str, *, seconds: float) -> Explanation:
        """Write why the search has ended, and what it has come to."""
        told = replace(self._told(), ended_because=ended_because, seconds=seconds)
        write_explanation(self._directory, told)
        return told

    def _told(self) -> Explanation:
        trials = tuple(entry.trial for entry in self._ledger.all())
        best = outcome(self._goal, trials)

        def reason(trial: Trial) -> str:
            if trial.state is TrialState.RUNNING:
                return trial.reason
            return why_lost(trial, best.winner, self._goal, best.front)

        return replace(
            self._frame,
            trials=tuple(replace(trial, reason=reason(trial)) for trial in trials),
            front=tuple(trial.number for trial in best.front),
            winner=None if best.winner is None else best.winner.number,
            nearest_miss="" if best.front else nearest_miss(self._goal, trials),
        )
