"""The `hone` command: parse, call, print, exit code."""

from server.cli.commands import main

__all__ = ["main"]
