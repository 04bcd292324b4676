"""What a search tried and what came of it: trials, the front, the winner, and why others lost.

A search writes these below its job's directory:

trials.jsonl       one line whenever a trial begins, gets further or ends; the last one of a number
                   counts
explanation.json   written after every trial and once more at the end
report.html        one page, without the network
front.png          the front as a picture
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from optimizers.contract.directory import write_atomically
from optimizers.contract.errors import HoneError, InvalidData
from optimizers.contract.evaluation import Figure
from optimizers.contract.evidence import Evidence, Proposal
from optimizers.contract.goal import FigureName
from optimizers.contract.profile import StoredProfile
from optimizers.contract.recipe import StoredRecipe
from optimizers.contract.stored import adapter

TRIALS_FILE: Final = "trials.jsonl"
EXPLANATION_FILE: Final = "explanation.json"
REPORT_FILE: Final = "report.html"
FRONT_FILE: Final = "front.png"

MOST_ATTEMPTS: Final = 3
"""A trial that so many processes died at is given up."""


class TrialState(StrEnum):
    """Where a trial stands. All but the first are how it ended.

    Attributes:
        RUNNING: A worker is on it.
        COMPLETE: Everything that the goal asks for was measured.
        ABANDONED: A bound proved that it cannot win, so it was not taken further.
        HALVED: It was not among the best of its rung, or its turn did not come, so it got no more
            training before the search ended; a search that is resumed may go on with it.
        FAILED: A step failed, or the model it made cannot be used.
    """

    RUNNING = "running"
    COMPLETE = "complete"
    ABANDONED = "abandoned"
    HALVED = "halved"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One recipe of a search.

    Attributes:
        number: In the study, from 0; the original is no trial.
        recipe: What was done.
        origin: Who proposed it and why: a planner's reason, or the sampler's name.
        state: Where it stands.
        level: How far it was taken, counted from 1, of `levels`.
        levels: How far it could have been taken.
        figures: What was measured on the search's data, with bounds, beside the original.
        missing: Figures that were wanted and not had, or not with a bound, and why.
        violation: By how much it misses what is required, summed over requirements as shares of
            their limits; 0: it misses nothing.
        reason: Why it lost, for people; "" for the winner and while it runs.
        seconds: Spent on it by all workers together.
        worker: Who had it last: the name of a machine and a process id.
        differs: How a machine that measured it differs from the one that serves, in what decides
            times and memory; "" where it does not. Its ratios are to the original on that machine.
        started_unix_s: When.
        refused: What the final gate refused it for; "" where it was not there, or not refused.
        refused_by: sha256 of the gate's data that it was refused on.
    """

    number: int
    recipe: StoredRecipe
    origin: str
    state: TrialState
    level: int
    levels: int
    figures: tuple[Figure, ...] = ()
    missing: dict[FigureName, str] = field(default_factory=dict)
    violation: float = 0.0
    reason: str = ""
    seconds: float = 0.0
    worker: str = ""
    differs: str = ""
    started_unix_s: float = 0.0
    refused: str = ""
    refused_by: str = ""

    @property
    def is_feasible(self) -> bool:
        """Whether it was measured to the end, misses nothing, and no gate refused it."""
        return self.state is TrialState.COMPLETE and not self.violation and not self.refused

    def figure(self, name: FigureName) -> Figure | None:
        """The first figure of that name on items as they are, if it was measured."""
        return next((one for one in self.figures if one.name == name and not one.under), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a search did and why its winner won.

    Attributes:
        study: Name of the study; the same work has the same name.
        model: Name in the repository.
        version: Version folder.
        profile: What was wanted.
        evidence: What the planner went by.
        proposals: What it proposed.
        data: calibration, train, search, gate → how many items. No item of search is in the first
            two, and none of gate in any other.
        trials: In the order of their numbers.
        front: Numbers of the trials that no other is better than, best first aim first.
        winner: Number of the trial that went to the final gate, while the search goes on of the
            best so far; None: no trial holds the goal.
        nearest_miss: Where there is no winner, the trial that came closest, and what it misses.
        ended_because: Why no further trial was started; "" while the search goes on.
        seconds: From the search's start until now, without pauses of the whole search.
        seconds_left: Until its time ends; 0 when it has ended.
        trials_total: Most trials that there are when its budget is used up, those of the study's
            former budgets included; 0 where that is not told.
        unsatisfiable: Requirements that no recipe can meet, and why; found before any trial.
    """

    study: str
    model: str
    version: int
    profile: StoredProfile
    evidence: Evidence | None = None
    proposals: tuple[Proposal, ...] = ()
    data: dict[str, int] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    front: tuple[int, ...] = ()
    winner: int | None = None
    nearest_miss: str = ""
    ended_because: str = ""
    seconds: float = 0.0
    seconds_left: float = 0.0
    trials_total: int = 0
    unsatisfiable: tuple[str, ...] = ()

    def trial(self, number: int) -> Trial:
        """The trial of a number.

        Raises:
            KeyError: There is none.
        """
        for trial in self.trials:
            if trial.number == number:
                return trial
        raise KeyError(number)


def append_trial(directory: Path, trial: Trial) -> None:
    """Add one line on a trial."""
    with (directory / TRIALS_FILE).open("ab") as file:
        file.write(adapter(Trial).dump_json(trial) + b"\n")


def trials_since(directory: Path, offset: int = 0) -> tuple[tuple[Trial, ...], int]:
    """What was written on trials behind `offset` bytes; lines that cannot be read are left out.

    Returns:
        The trials of complete lines, oldest first, and the offset to go on from.
    """
    try:
        with (directory / TRIALS_FILE).open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return (), 0
    complete = content[: content.rfind(b"\n") + 1]
    found = []
    for line in complete.splitlines():
        with suppress(ValidationError, HoneError):
            found.append(adapter(Trial).validate_json(line))
    return tuple(found), offset + len(complete)


def write_explanation(directory: Path, explanation: Explanation) -> None:
    """Write what is known of a search into its job's directory."""
    content = adapter(Explanation).dump_json(explanation, indent=2)
    write_atomically(directory / EXPLANATION_FILE, content + b"\n")


def read_explanation(directory: Path) -> Explanation | None:
    """What is known of a job's search; None where there was none or it has not got so far.

    Raises:
        InvalidData: The file is there but is no explanation.
    """
    try:
        content = (directory / EXPLANATION_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return explanation_from_json(content, f"job {directory.name}: {EXPLANATION_FILE}")


def explanation_from_json(content: bytes | str, source: str) -> Explanation:
    """What `write_explanation` wrote.

    Raises:
        InvalidData: It is no explanation; the text names `source`.
    """
    try:
        return adapter(Explanation).validate_json(content)
    except (ValidationError, HoneError) as error:
        raise InvalidData(f"{source} cannot be read") from error
