"""What searches reach, as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.report import as_markdown, verdicts
from benchmarks.rows import Part, Row, Table, number, spread
from benchmarks.search.live import Live
from benchmarks.search.races import Race, Races
from benchmarks.search.replay import ALONE, DEFAULT
from benchmarks.search.score import REACHED, Yardstick, best_to_median, times_better
from benchmarks.search.sweep import BUDGET, Sweep
from optimizers.contract.described import recipe_text

_FEWEST_RECIPES: Final = 48
_LONGEST_MINUTES: Final = 60.0
_LEAST_BEST: Final = 1.3

_QUARTER: Final = f"{100 * BUDGET:g} %"
_ENOUGH: Final = f"{100 * REACHED:g} %"

_INTRODUCTION: Final = """\
# What a search reaches

Written by `make bench-search` on {when}: {machine}; {versions}. It took {minutes:.0f} minutes,
sweeps left out. {seeds} seeds a figure where chance takes part; a figure is the median over seeds,
and in brackets stand the smallest and the largest.

Every recipe of a declared grid is tried once, by the evaluator of live searches: built, and
measured on the search's data beside the original. Then searches are replayed over what was
measured, by the loop, samplers and ladder of live ones, on a clock that goes on by what each piece
of work took. A beginning that recipes share is paid for once, by the sweep as by each search. The
sweep tries the structure of each recipe and all of its training; searches pay for every level that
they try. Structures are measured in two passes over the grid, and the worse one counts: the best of
one pass would be the luckiest.

One aim: a search is worth how many times better its best recipe is than the original, by the bound
that speaks against it, among those that hold what is required. Two aims: the volume that its front
dominates, in logarithms of ratios, with the original as the corner. Both as a share of the best
that the sweep knows. Found is {reached} of that. `never`: not with all trials and any time.

Every contestant was checked to go by nothing but what it was told: over a sweep where all else was
struck out it asks for the same.

## Verdicts
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """All that is known of one model.

    Attributes:
        sweep: What every recipe came to.
        one, two: For its first aim, and for both: the best there is and who came how close; None
            where no recipe holds what is required.
        live: A live search for the first aim; None: there was none.
        no_live: Why there was none, for people.
    """

    sweep: Sweep
    one: tuple[Yardstick, Races] | None
    two: tuple[Yardstick, Races] | None
    live: Live | None
    no_live: str

    def part(self) -> Part:
        """Rows of verdicts, and the numbers behind them."""
        sweep, name = self.sweep, self.sweep.model
        took = sum(piece.building_s + piece.measuring_s for piece in sweep.pieces) / 60
        size = [float(len(sweep.recipes))]
        rows = [
            _row(f"{name}: recipes swept", size, _FEWEST_RECIPES, _FEWEST_RECIPES, ""),
            Row(
                figure=f"{name}: the whole sweep",
                values=[took],
                least=_LONGEST_MINUTES,
                aim=_LONGEST_MINUTES / 2,
                unit="min",
            ),
        ]
        if self.one is None or self.two is None:
            return Part(rows=rows, failures=[f"{name}: no recipe holds what is required"])
        best = best_to_median(sweep)
        rows.append(_row(f"{name}: the sweep's best to its median", [best], _LEAST_BEST, 1.5, "x"))
        _, races = self.one
        race = races.race(DEFAULT)
        rows += [
            _row(f"{name}: found with {_QUARTER}", _percent(race.shares), 100 * REACHED, 99, "%"),
        ]
        shares = [] if self.live is None else [self.live.share]
        found = f"{name}: found live with {_QUARTER}"
        rows.append(_row(found, _percent(shares), 100 * REACHED, 99, "%", note=self.no_live))
        unfair = {one.name for _, each in (self.one, self.two) for one in each.unfair}
        return Part(
            rows=rows,
            tables=[self._grid(took), _table(name, "one aim", *self.one), *self._rest()],
            failures=[f"{name}: {one} goes by what it was not told" for one in sorted(unfair)],
        )

    def _rest(self) -> list[Table]:
        assert self.two is not None
        return [_table(self.sweep.model, "two aims", *self.two), *self._live()]

    def _grid(self, took: float) -> Table:
        sweep = self.sweep
        items = ", ".join(f"{kind} {count:,}" for kind, count in sweep.items.items())
        assert self.one is not None
        winner = sweep.outcome(self.one[0].goal).winner
        assert winner is not None
        versions = ", ".join(f"{name} {one}" for name, one in sweep.versions.items())
        required = ", ".join(f"`{one.text}`" for one in sweep.goal.require)
        return Table(
            title=f"{sweep.model}: the grid",
            note=(
                f"{sweep.about}. Items here: {items}. Swept on {sweep.when}: {sweep.machine}; "
                f"{versions}. Aims: {' and '.join(sweep.goal.optimize)}; required: {required}. "
                f"Trying everything is charged {sweep.seconds / 60:.1f} minutes; with the levels "
                f"between, the sweep took {took:.1f}."
            ),
            heads=("recipes", "failed", "hold what is required", "best", "its first aim"),
            lines=[
                (
                    str(len(sweep.recipes)),
                    str(sum(bool(trial.reason) for trial in sweep.trials(sweep.goal))),
                    str(sum(trial.is_feasible for trial in sweep.trials(sweep.goal))),
                    recipe_text(winner.recipe),
                    f"{number(times_better(self.one[0].goal, winner))} times better",
                )
            ],
        )

    def _live(self) -> list[Table]:
        live = self.live
        if live is None:
            return []
        recipe = "none" if live.winner is None else recipe_text(live.winner.recipe)
        sweep = self.sweep
        return [
            Table(
                title=f"{sweep.model}: a live search",
                note=(
                    f"Told to stop after {sweep.search.trials} trials or "
                    f"{sweep.search.minutes:.1f} minutes, nothing built before. It ended because "
                    f"{live.ended}."
                ),
                heads=("winner", "found, live", "the same by the sweep", "trials", "minutes"),
                lines=[
                    (
                        recipe,
                        f"{100 * live.share:.1f} %",
                        f"{100 * live.swept:.1f} %",
                        str(live.trials),
                        f"{live.seconds / 60:.1f}",
                    )
                ],
            )
        ]


def render(
    sections: Sequence[Section],
    *,
    when: str,
    machine: str,
    versions: str,
    minutes: float,
    seeds: int,
) -> str:
    """The report as Markdown."""
    parts = [section.part() for section in sections]
    head = _INTRODUCTION.format(
        when=when,
        machine=machine,
        versions=versions,
        minutes=minutes,
        seeds=seeds,
        reached=_ENOUGH,
    )
    lines = [head, _readable(verdicts([row for part in parts for row in part.rows]))]
    lines += [f"\n**Failed:** {failure}" for part in parts for failure in part.failures]
    for table in (table for part in parts for table in part.tables):
        lines += ["", f"## {table.title}", "", table.note, "", _readable(as_markdown(table))]
    return "\n".join(lines) + "\n"


def _table(name: str, aims: str, stick: Yardstick, races: Races) -> Table:
    return Table(
        title=f"{name}: {aims}",
        note=(
            f"`{DEFAULT.name}` is what a search does when nothing else is said; `{ALONE.name}` is "
            f"the same with `planner: false`. The first column is of searches that may use "
            f"{_QUARTER} and know it; the others of searches that may use everything, which look "
            "at every recipe before they finish the training of many."
        ),
        heads=(
            "who proposes",
            f"found with {_QUARTER} of trials and time",
            f"trials until {_ENOUGH} is found",
            f"time until {_ENOUGH} is found",
            "never",
        ),
        lines=[_line(race) for race in races.of],
    )


def _line(race: Race) -> tuple[str, ...]:
    return (
        race.contestant.name,
        spread(_percent(race.shares), "%"),
        spread(_percent(race.trials), "%"),
        spread(_percent(race.seconds), "%"),
        f"{race.never} of {len(race.trials)}",
    )


def _row(
    figure: str, values: Sequence[float], least: float, aim: float, unit: str, *, note: str = ""
) -> Row:
    return Row(
        figure=figure,
        values=[value for value in values if not math.isnan(value)],
        least=least,
        aim=aim,
        unit=unit,
        high_is_good=True,
        note=note,
    )


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _readable(text: str) -> str:
    """Numbers without end as words."""
    return text.replace("inf %", "never").replace(" inf]", " never]").replace("[inf,", "[never,")
