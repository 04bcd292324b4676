"""Commands that need torch, Optuna or plots: the optimisers' own process takes over."""

from __future__ import annotations

import os
import sys

import typer

from server.job_preparation import require_optimisers


def demo(context: typer.Context) -> None:
    """Write a demo repository: real models trained on real data."""
    require_optimisers()
    os.execv(sys.executable, [sys.executable, "-m", "optimizers", "demo", *context.args])


def worker(context: typer.Context) -> None:
    """Take part in a search that another machine runs: --study ADDRESS."""
    require_optimisers(searches=True)
    command = [sys.executable, "-m", "optimizers", "search-worker", *context.args]
    os.execv(sys.executable, command)
