"""Every command by its name, and how the process ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from optimizers.contract.errors import HoneError
from server.version import product_version

_LOOK: Final[dict[str, Any]] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}
_COMMANDS: Final = {
    "serve": "serving:serve_command",
    "models": "models:models",
    "variants": "models:variants_command",
    "jobs": "jobs:jobs_command",
    "optimize": "jobs:optimize",
    "explain": "searches:explain",
    "report": "searches:report",
    "promote": "models:promote",
    "rollback": "models:rollback",
    "load": "models:load",
    "unload": "models:unload",
    "events": "models:events",
    "infer": "asking:infer",
    "health": "asking:health",
}
"""Where each is found below `server.cli`."""

_HANDED_OVER: Final = {
    "demo": "handed_over:demo",
    "worker": "handed_over:worker",
    "studies": "handed_over:studies",
}
"""The process that takes over reads the rest of the line."""

_UNREAD: Final[dict[str, Any]] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}


def main() -> NoReturn:
    """Run the command line; a refusal is one line on stderr and exit code 1."""
    try:
        cli()
    except HoneError as error:
        print(f"hone: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


class _Commands(TyperGroup):
    """Imports what a command needs when it is asked for, not what all others need."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name) for name in (*_COMMANDS, *_HANDED_OVER)}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None if there is none."""
        place = _COMMANDS.get(cmd_name) or _HANDED_OVER.get(cmd_name)
        if place is None:
            return None
        alone = typer.Typer(**_LOOK)
        settings = _UNREAD if cmd_name in _HANDED_OVER else {}
        alone.command(cmd_name, **settings)(_imported(place))
        return typer.main.get_command(alone)


def _imported(place: str) -> Callable[..., None]:
    """A command and all that it needs.

    Nothing that importing makes is garbage. Looking for some while it goes on, and looking through
    all of it again whenever the server does, would be a tenth of a server's start.
    """
    gc.disable()
    try:
        function: Callable[..., None] = resolve_name(f"server.cli.{place}")
    finally:
        gc.freeze()
        gc.enable()
    return function


cli = typer.Typer(cls=_Commands, no_args_is_help=True, **_LOOK)


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
