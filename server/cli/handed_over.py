"""Commands that need torch, Optuna or plots: the optimisers' own process takes over."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from server.job_preparation import require_optimisers


def demo(context: typer.Context) -> None:
    """Write a demo repository: real models trained on real data."""
    require_optimisers()
    _become_optimisers("demo", context.args)


def worker(context: typer.Context) -> None:
    """Take part in a search that another machine runs: --study ADDRESS."""
    require_optimisers(searches=True)
    _become_optimisers("search-worker", context.args)


def studies(context: typer.Context) -> None:
    """Show what searches have learned and keep: --state DIRECTORY; or `studies rm NAME`."""
    require_optimisers(searches=True)
    _become_optimisers("studies", context.args)


def _become_optimisers(command: str, arguments: list[str]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-m", "optimizers", command, *arguments])
