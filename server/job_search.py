"""What a search shows while it goes on, read from its job's directory."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.contract.errors import InvalidData
from optimizers.contract.job import PAUSES_FILE, JobSpec, pauses_of
from optimizers.contract.study import (
    EXPLANATION_FILE,
    TRIALS_FILE,
    Explanation,
    Trial,
    TrialState,
    read_explanation,
    trials_since,
)

_NEWEST: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchState:
    """Where a search stands.

    Attributes:
        trials_done: How many have ended.
        trials_total: How many there will be at most.
        ends_unix_s: When its time ends, pauses from now on left aside; 0: it has ended, or has not
            said yet.
        paused_unix_s: Since when it stands still; 0: it does not.
        newest: The trials that changed last, at most 8, the newest last.
        front: The trials that no other is better than, best first aim first.
        winner: Number of the trial that goes to the final gate; None while the search goes on.
        ended_because: Why no further trial is started; "" while the search goes on.
    """

    trials_done: int
    trials_total: int
    ends_unix_s: float
    paused_unix_s: float
    newest: tuple[Trial, ...]
    front: tuple[Trial, ...]
    winner: int | None
    ended_because: str


class SearchReader:
    """Follows one search for whoever watches its job. Files are read when they have changed."""

    def __init__(self, directory: Path, spec: JobSpec) -> None:
        """Follow the search of `spec`, whose job lies in `directory`."""
        self._directory = directory
        self._spec = spec
        self._trials: dict[int, Trial] = {}
        self._changes: dict[int, int] = {}
        self._counted = 0
        self._offset = 0
        self._explanation: Explanation | None = None
        self._explained = 0
        self._paused_before_s = 0.0
        self._seen: tuple[int, ...] = ()
        self._state: SearchState | None = None

    async def read(self) -> SearchState | None:
        """The state now, the same object as before if nothing changed; None without a trial."""
        files = (TRIALS_FILE, EXPLANATION_FILE, PAUSES_FILE)
        seen = tuple(_changed_ns(self._directory / name) for name in files)
        if seen != self._seen:
            self._seen = seen
            # Reading hundreds of trials takes longer than callers of the server should wait.
            self._state = await asyncio.to_thread(self._read)
        return self._state

    def _read(self) -> SearchState | None:
        search = self._spec.profile.search
        if search is None:
            return None
        explained = _changed_ns(self._directory / EXPLANATION_FILE)
        paused_s, paused_unix_s = pauses_of(self._directory)
        if explained != self._explained:
            self._explained, self._paused_before_s = explained, paused_s
        with contextlib.suppress(InvalidData, OSError):
            self._explanation = read_explanation(self._directory)
        told, self._offset = trials_since(self._directory, self._offset)
        if not told and not self._trials and self._explanation is None:
            return None
        explanation = self._explanation or Explanation(
            study="", model=self._spec.model, version=self._spec.version, profile=self._spec.profile
        )
        for trial in explanation.trials:
            self._note(trial, is_news=False)
        for trial in told:
            self._note(trial, is_news=True)
        trials = sorted(self._trials.values(), key=self._when_changed)
        left_s = explanation.seconds_left
        ends_unix_s = explained / 1e9 + left_s + paused_s - self._paused_before_s
        return SearchState(
            trials_done=sum(one.state is not TrialState.RUNNING for one in trials),
            trials_total=max(explanation.trials_total or search.trials, len(trials)),
            ends_unix_s=ends_unix_s if left_s else 0.0,
            paused_unix_s=paused_unix_s,
            newest=tuple(trials[-_NEWEST:]),
            front=tuple(self._trials[number] for number in explanation.front),
            winner=explanation.winner if explanation.ended_because else None,
            ended_because=explanation.ended_because,
        )

    def _note(self, trial: Trial, *, is_news: bool) -> None:
        """Take over what is told of a trial, unless more is known of it already.

        Args:
            trial: As it was at some time.
            is_news: Whether that it is told means that it has changed. What machines elsewhere do
                is in the explanation only, which says all there is each time it is written.
        """
        known = self._trials.setdefault(trial.number, trial)
        if _how_far(trial) < _how_far(known):
            return
        began_here = known is trial and trial.started_unix_s >= self._spec.submitted_unix_s
        if is_news or began_here or _how_far(trial) > _how_far(known):
            self._counted += 1
            self._changes[trial.number] = self._counted
        self._trials[trial.number] = trial

    def _when_changed(self, trial: Trial) -> tuple[int, float, int]:
        return self._changes.get(trial.number, 0), trial.started_unix_s, trial.number


def _how_far(trial: Trial) -> tuple[bool, int, float]:
    """Grows whenever something is done for a trial."""
    return trial.state is not TrialState.RUNNING, trial.level, trial.seconds


def _changed_ns(file: Path) -> int:
    """When a file was last written, by the file system's clock; 0 where there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
