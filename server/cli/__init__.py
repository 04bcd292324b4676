"""The `hone` command: parse, call, print, exit code."""

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Import what the commands need, and run the one that was asked for.

    Nothing that importing makes is garbage. Looking for some while it goes on, and looking through
    all of it again whenever the server does, would be a tenth of a server's start.
    """
    gc.disable()
    from server.cli.commands import run

    gc.freeze()
    gc.enable()
    run()
