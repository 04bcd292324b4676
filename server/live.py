"""Shows a job on the terminal while it goes on: its progress, and what its search finds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.client import Client
from server.explained import time_left, trial_line
from server.pb import management_pb2 as pb
from server.terminal import PAUSED, has_ended, short_figure, standing

_REDRAWN_EACH_S: Final = 1.0
_FRONT: Final = 5
_FIGURES: Final = 2
_STATE_STYLES: Final = {"complete": "green", "failed": "red", "running": "bold"}


async def show_job(console: Console, client: Client, job: str, *, quiet: bool) -> pb.Job:
    """Follow a job to its end.

    Args:
        console: Where to show it: live on a terminal, line by line elsewhere.
        client: Of the admin endpoint.
        job: Its id.
        quiet: Whether nothing is shown.

    Returns:
        The job, ended.

    Raises:
        CallFailed: There is no such job, or the server went away.
    """
    if quiet:
        return [state async for state in client.watch_job(job)][-1]
    if not console.is_interactive:
        return await _tell(console, client, job)
    last = pb.Job()
    view = _View()
    with Live(view, console=console, refresh_per_second=1 / _REDRAWN_EACH_S, transient=True):
        async for last in client.watch_job(job):
            view.show(last)
    return last


async def _tell(console: Console, client: Client, job: str) -> pb.Job:
    """Print a line for each stage, for each trial that gets further, and for what is found."""
    last, stage, found = pb.Job(), "", (0, "")
    told: dict[int, tuple[str, int]] = {}
    async for last in client.watch_job(job):
        if (line := _what(last)) != stage:
            _print(console, line)
        stage = line
        for trial in last.search.newest:
            if told.get(trial.number) != (trial.state, trial.level):
                told[trial.number] = trial.state, trial.level
                _print(console, trial_line(trial))
        search, front = last.search, _front_line(last.search)
        if search.trials_done and (search.trials_done, front) != found:
            found = search.trials_done, front
            done = _done(search, search.seconds_left)
            _print(console, f"{done}; {front}" if front else done)
    return last


def _what(job: pb.Job) -> str:
    """What is done for a job, and why where nothing is."""
    where = standing(job)
    if job.position or has_ended(job):
        return where
    return f"{where}: {job.text}" if job.stage == PAUSED else f"{where} {job.stage}".rstrip()


def _done(search: pb.Search, left_s: float) -> str:
    """How much of a search's budget is used."""
    left = f", {time_left(left_s)} left" if left_s else ""
    return f"{search.trials_done} of {search.trials_total} trials{left}"


def _front_line(search: pb.Search) -> str:
    """The best trials so far, best first; "" without one."""
    trials = (
        f"trial {trial.number} ({', '.join(map(short_figure, trial.figures[:_FIGURES]))})"
        for trial in search.front[:_FRONT]
    )
    return f"front so far: {', '.join(trials)}" if search.front else ""


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


class _View:
    """What a terminal shows of a job; drawn anew every second, so that time goes on."""

    def __init__(self) -> None:
        self._job = pb.Job()
        self._shown_s = self._since_s = time.monotonic()

    def show(self, job: pb.Job) -> None:
        """Show this from now on."""
        self._job = job
        self._shown_s = time.monotonic()

    def __rich__(self) -> Group:
        job = self._job
        now_s = time.monotonic()
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(_what(job)),
            ProgressBar(total=1.0, completed=job.fraction, width=30),
            Text(time_left(now_s - self._since_s)),
        )
        if not job.HasField("search"):
            return Group(head)
        search = job.search
        gone_s = 0.0 if job.stage == PAUSED else now_s - self._shown_s
        left_s = max(0.0, search.seconds_left - gone_s)
        front = [_table("front so far", search.front[:_FRONT], search)] if search.front else []
        return Group(
            head,
            Text(_done(search, left_s)),
            _table("newest trials", search.newest, search),
            *front,
        )


def _table(title: str, trials: Iterable[pb.Trial], search: pb.Search) -> Table:
    """One line a trial, whatever the terminal's width: what is longer is cut."""
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.title, table.title_justify = title, "left"
    table.add_column(min_width=3, no_wrap=True, justify="right")
    table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column(min_width=13, no_wrap=True)
    table.add_column(ratio=6, no_wrap=True, overflow="ellipsis")
    for trial in trials:
        won = search.HasField("winner") and trial.number == search.winner
        table.add_row(
            str(trial.number),
            Text(trial.recipe),
            Text(
                "winner" if won else f"{trial.state} {trial.level}/{trial.levels}",
                style="bold green" if won else _STATE_STYLES.get(trial.state, ""),
            ),
            Text(trial.reason or ", ".join(map(short_figure, trial.figures[:_FIGURES]))),
        )
    return table
