"""What the final gate has refused, so that a search that is resumed sends something else there.

That a trial was refused is all that a search gets to know of the gate's data, no figure and no
answer. Who goes there next follows from the search's own data and from all before having been
refused, so it is settled before the gate's data is looked at; with each use spending half of what
is left of alpha, a bad variant passes any of them with probability at most 1 - confidence.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from optimizers.contract.errors import HoneError
from optimizers.contract.goal import Goal
from optimizers.contract.job import JobSpec
from optimizers.contract.study import TrialState, read_explanation
from optimizers.search.database import open_database
from optimizers.search.ledger import Ledger
from optimizers.search.naming import database_url
from optimizers.search.objectives import why_given_up
from optimizers.search.outcome import outcome
from optimizers.search.sampling import Sampling
from optimizers.search.storage import failures_told

_log = logging.getLogger(__name__)


def note_refusal(directory: Path, spec: JobSpec, reason: str) -> bool:
    """Have the study of a job's search know that the gate refused its winner.

    Args:
        directory: The job's, with the search's explanation.
        spec: What it says, with the digest of the gate's data.
        reason: What the gate found.

    Returns:
        Whether it is known now. Where there was no search, or its study cannot be reached, it is
        not; then a search that is resumed may bring the same winner again.
    """
    try:
        return _noted(directory, spec, reason)
    except HoneError as error:
        _log.warning("the study of job %s does not know of the refusal: %s", spec.id, error)
        return False


def forget_other_refusals(ledger: Ledger, gate_sha256: str) -> None:
    """Let trials back in that other data than this refused."""
    for entry in ledger.all():
        if entry.trial.refused and entry.trial.refused_by != gate_sha256:
            let_in = replace(entry.trial, refused="", refused_by="")
            ledger.amend(replace(entry, trial=let_in))


def let_back_in(goal: Goal, ledger: Ledger, sampling: Sampling) -> None:
    """Have tried again what was given up for nothing but a trial that the gate has refused since.

    Args:
        goal: With the task's floors.
        ledger: Of a study that goes on.
        sampling: Of the same.
    """
    trials = [entry.trial for entry in ledger.all()]
    refused = [str(one.number) for one in trials if one.refused]
    if not refused:
        return
    front = outcome(goal, trials).front
    origin = f"given up before, for a trial that the gate refused ({', '.join(refused)})"
    for one in trials:
        if one.state is TrialState.ABANDONED and not why_given_up(goal, one, front):
            sampling.enqueue(one.recipe, origin, instead_of=one.number)


def _noted(directory: Path, spec: JobSpec, reason: str) -> bool:
    search, told = spec.profile.search, read_explanation(directory)
    if search is None or told is None or told.winner is None:
        return False
    url = database_url(spec, search, directory, os.environ)
    with (
        failures_told(url),
        closing(Ledger(open_database(url), told.study, spec.original_sha256)) as ledger,
    ):
        entry = ledger.read(told.winner)
        if entry is None:
            return False
        gate = spec.data_sha256.get("gate", "")
        refused = replace(entry.trial, refused=reason, refused_by=gate)
        ledger.amend(replace(entry, trial=refused))
    return True
