"""Shows a job on the terminal while it goes on: its progress, and what its search finds."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.client import Client
from server.explained import time_left, trial_line
from server.pb import management_pb2 as pb
from server.terminal import figure_line

_REDRAWN_EACH_S = 1.0
_STATE_STYLES = {"complete": "green", "failed": "red", "running": "bold"}


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
    if not console.is_terminal:
        return await _tell(console, client, job)
    last = pb.Job()
    view = _View()
    with Live(view, console=console, refresh_per_second=1 / _REDRAWN_EACH_S, transient=True):
        async for last in client.watch_job(job):
            view.show(last)
    return last


async def _tell(console: Console, client: Client, job: str) -> pb.Job:
    """Print a line for each stage and for each trial that begins or ends."""
    last, stage = pb.Job(), ""
    told: dict[int, str] = {}
    async for last in client.watch_job(job):
        line = f"{last.state} {last.stage}".rstrip()
        if line != stage:
            _print(console, f"{line}: {last.text}" if last.stage == "paused" else line)
        stage = line
        for trial in last.search.newest:
            if told.get(trial.number) != trial.state:
                told[trial.number] = trial.state
                _print(console, trial_line(trial))
    return last


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
        what = f"{job.state} {job.stage}".rstrip()
        head.add_row(
            Text(f"{what}: {job.text}" if job.stage == "paused" else what),
            ProgressBar(total=1.0, completed=job.fraction, width=30),
            Text(time_left(now_s - self._since_s)),
        )
        if not job.HasField("search"):
            return Group(head)
        search = job.search
        left_s = max(0.0, search.seconds_left - (now_s - self._shown_s))
        done = f"{search.trials_done} of {search.trials_total} trials"
        return Group(
            head,
            Text(f"{done}, {time_left(left_s)} left" if left_s else done),
            _trials("newest trials", search.newest, search),
            *([_trials("front so far", search.front, search)] if search.front else []),
        )


def _trials(title: str, trials: Iterable[pb.Trial], search: pb.Search) -> Table:
    table = Table(
        *("", "recipe", "state", "figures", "why"),
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for trial in trials:
        won = search.HasField("winner") and trial.number == search.winner
        table.add_row(
            str(trial.number),
            Text(trial.recipe),
            Text(
                "winner" if won else f"{trial.state} {trial.level}/{trial.levels}",
                style="bold green" if won else _STATE_STYLES.get(trial.state, ""),
            ),
            Text("\n".join(figure_line(figure) for figure in trial.figures[:2])),
            Text(trial.reason),
        )
    return table
