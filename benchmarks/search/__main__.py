"""What searches reach of an exhaustive sweep: `python -m benchmarks.search`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.search.grounds import GROUNDS, Ground, job_of, quick
from benchmarks.search.live import search_live
from benchmarks.search.page import Section, render
from benchmarks.search.races import Races, races
from benchmarks.search.score import Yardstick, of_one_aim, yardstick
from benchmarks.search.sweep import Sweep
from benchmarks.search.sweeping import PACKAGES, Sweeper, machine_of
from optimizers.contract.errors import InvalidData
from optimizers.contract.goal import Goal
from optimizers.contract.host import cpu_budget, this_host

_SEEDS = 20
_LIVE = "caffe_lenet"
"""The one that is searched live."""


def main() -> None:
    """Sweep what was not swept yet, replay everybody, search once live, print the page.

    Raises:
        SystemExit: Data is missing, a sweep is of something else, or the numbers cannot be trusted.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUNDS, default=list(GROUNDS), help="models")
    parser.add_argument("--seeds", type=int, default=_SEEDS, help="replays of each contestant")
    parser.add_argument("--no-live", action="store_true", help="leave the live search out")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke run over three recipes a model: numbers mean nothing, and fail nothing",
    )
    parser.add_argument("--work", type=Path, default=Path(".gains"), help="where models are kept")
    parser.add_argument(
        "--sweeps",
        type=Path,
        default=Path(__file__).with_name("sweeps"),
        help="where sweeps are kept; one that is there is not carried out again",
    )
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    host = this_host(max(1, int(cpu_budget())))
    seeds = 2 if options.quick else options.seeds
    sections, replaying_s = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        sweeps = Path(name) if options.quick else options.sweeps
        for model in options.only:
            ground = quick(GROUNDS[model]) if options.quick else GROUNDS[model]
            try:
                sweep = _swept(ground, options.work.resolve(), sweeps, options.quick)
                start = time.perf_counter()
                is_live = model == _LIVE and not options.no_live
                sections.append(
                    _section(ground, sweep, options.work.resolve(), seeds, is_live=is_live)
                )
                replaying_s += time.perf_counter() - start
            except InvalidData as error:
                sys.exit(str(error))
    page = render(
        sections,
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        machine=machine_of(host),
        versions=", ".join(f"{package} {version(package)}" for package in PACKAGES),
        minutes=replaying_s / 60,
        seeds=seeds,
    )
    print(page)
    if options.output:
        options.output.write_text(page, encoding="utf-8")
    failures = [failure for section in sections for failure in section.part().failures]
    if failures and not options.quick:
        sys.exit("\n".join(failures))


def _swept(ground: Ground, work: Path, sweeps: Path, is_quick: bool) -> Sweep:
    """A complete sweep: the one that is there, or what is missing of it tried now."""
    about, spec = job_of(ground, work, _tell)
    home = (sweeps if is_quick else work) / ground.model / "sweep"
    file = sweeps / f"{ground.model}.jsonl"
    return Sweeper(spec=spec, about=about, file=file, home=home, tell=_tell).run()


def _section(ground: Ground, sweep: Sweep, work: Path, seeds: int, *, is_live: bool) -> Section:
    one = _raced(sweep, of_one_aim(sweep), seeds)
    live, no_live = None, "one model is searched live"
    if is_live and one is not None:
        if sweep.machine == machine_of(this_host(sweep.evidence.host.cpus)):
            _, spec = job_of(ground, work, _tell)
            live = search_live(spec, sweep, one[0], work / ground.model / "live")
        else:
            no_live = "swept on another machine"
    return Section(
        sweep=sweep,
        one=one,
        two=_raced(sweep, sweep.goal, seeds),
        live=live,
        no_live=no_live,
    )


def _raced(sweep: Sweep, goal: Goal, seeds: int) -> tuple[Yardstick, Races] | None:
    stick = yardstick(sweep, goal)
    if stick is None:
        return None
    _tell(f"{sweep.model}: replaying for {', '.join(goal.optimize)}")
    return stick, races(sweep, stick, seeds=seeds)


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
