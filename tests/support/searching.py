"""A worker that stands for a search: it writes what a search writes, and a variant of its own.

`python -m tests.support.searching JOB_DIR`. The profile's name decides how it ends: `edge` finds
a winner, `barren` none. After its first trial it waits for a file `go` in the model's folder. The
optimisers are not asked; a profile with a recipe gets a variant as well.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.job import (
    JobResult,
    JobSpec,
    JobState,
    Progress,
    append_progress,
    read_spec,
    write_result,
)
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import (
    FRONT_FILE,
    REPORT_FILE,
    Explanation,
    Trial,
    TrialState,
    append_trial,
    write_explanation,
)
from optimizers.process import die_with_parent
from tests.support import models
from tests.support.calls import floats
from tests.support.variants import make_variant

SIZES = (16, 64, 64, 4)
PAGE = "<!doctype html><title>A search</title>" + "x" * (1 << 20)
PICTURE = b"\x89PNG\r\n\x1a\n of a front"
LOST = "its latency_p50 is 0.9 of the original's, trial 1's is 0.5"
MISS = "trial 1 misses agreement >= 0.97 by 0.02"


def main(directory: Path) -> None:
    die_with_parent()
    spec = read_spec(directory)
    if spec.profile.search is None:
        deliver(directory, spec)
    else:
        search(directory, spec)


def search(directory: Path, spec: JobSpec) -> None:
    """Try three recipes, tell of each, and end."""
    first = Trial(
        number=0,
        recipe=Recipe(steps=(PruneChannels(ratio=0.25),)),
        origin="tpe",
        state=TrialState.RUNNING,
        level=1,
        levels=3,
        started_unix_s=time.time(),
    )
    append_trial(directory, first)
    told = Explanation(
        study=f"study-{spec.id}",
        model=spec.model,
        version=spec.version,
        profile=spec.profile.without_secrets(),
        data={"search": 100, "gate": 400},
        trials=(first,),
        seconds=1.0,
        seconds_left=100.0,
    )
    write_explanation(directory, told)
    append_progress(directory, Progress(unix_s=time.time(), stage="search", fraction=0.1))
    first = replace(
        first, state=TrialState.ABANDONED, figures=(latency(0.9),), reason=LOST, seconds=1.5
    )
    append_trial(directory, first)
    told = replace(told, trials=(first,), seconds=2.0)
    write_explanation(directory, told)
    second = replace(
        first,
        number=1,
        recipe=Recipe(steps=(DynamicInt8(),)),
        origin="MatMul is 90 % of the time",
        state=TrialState.RUNNING,
        figures=(),
        reason="",
        started_unix_s=time.time(),
    )
    append_trial(directory, second)
    while not (spec.original_file.parents[1] / "go").exists():
        time.sleep(0.02)
    barren = spec.profile.name == "barren"
    second = replace(
        second,
        state=TrialState.COMPLETE,
        level=3,
        figures=(latency(0.5),),
        violation=0.02 if barren else 0.0,
        reason=MISS if barren else "",
    )
    append_trial(directory, second)
    told = replace(
        told,
        trials=(first, second),
        front=(1,),
        winner=None if barren else 1,
        nearest_miss=MISS if barren else "",
        ended_because="its 2 trials are spent",
        seconds_left=0.0,
    )
    write_explanation(directory, told)
    (directory / REPORT_FILE).write_text(PAGE)
    (directory / FRONT_FILE).write_bytes(PICTURE)
    if barren:
        end(directory, JobState.REFUSED, f"no recipe holds the goal: {MISS}")
    else:
        deliver(directory, spec)


def latency(ratio: float) -> Figure:
    return Figure(
        name=FigureName.LATENCY_P50,
        unit="s",
        samples=16,
        value=Estimate(value=1e-3 * ratio),
        original=Estimate(value=1e-3),
        ratio=Estimate(value=ratio, lower=ratio - 0.01, upper=ratio + 0.01),
    )


def deliver(directory: Path, spec: JobSpec) -> None:
    """Leave a sealed and proved variant."""
    made = make_variant(
        directory / "made",
        spec.original_file,
        spec.model,
        lambda path: models.perceptron(path, sizes=SIZES, seed=1),
        profile=spec.profile.name,
        judged_by=spec.profile.without_secrets(),
        job=spec.id,
        golden_inputs={"x": floats(2, SIZES[0])},
    )
    made.path.rename(directory / "variant")
    end(directory, JobState.SUCCEEDED, variant=made.manifest.variant)


def end(directory: Path, state: JobState, reason: str = "", variant: str = "") -> None:
    result = JobResult(state=state, reason=reason, variant=variant, finished_unix_s=time.time())
    write_result(directory, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
