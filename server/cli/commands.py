"""Every command by its name, and how the process ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Final, NoReturn

import typer

from optimizers.contract.errors import HoneError
from server.app import product_version
from server.cli import asking, handed_over, jobs, models, searches, serving

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def run() -> NoReturn:
    """Run the command line; a refusal is one line on stderr and exit code 1."""
    try:
        cli()
    except HoneError as error:
        print(f"hone: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(product_version())
        raise typer.Exit


@cli.callback()
def _hone(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """The inference server that sharpens models while it serves them."""


_COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "serve": serving.serve_command,
    "models": models.models,
    "variants": models.variants_command,
    "jobs": jobs.jobs_command,
    "optimize": jobs.optimize,
    "explain": searches.explain,
    "report": searches.report,
    "promote": models.promote,
    "rollback": models.rollback,
    "load": models.load,
    "unload": models.unload,
    "events": models.events,
    "infer": asking.infer,
    "health": asking.health,
}
for _name, _function in _COMMANDS.items():
    cli.command(_name)(_function)
_HANDED_OVER: Final[dict[str, Callable[[typer.Context], None]]] = {
    "demo": handed_over.demo,
    "worker": handed_over.worker,
    "studies": handed_over.studies,
}
for _name, _command in _HANDED_OVER.items():
    cli.command(
        _name,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        add_help_option=False,
    )(_command)
