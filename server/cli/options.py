"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated, Final

import typer

AdminAddress = Annotated[
    str, typer.Option("--admin", envvar="HONE_ADMIN", help="HOST:PORT of the admin endpoint.")
]
PublicAddress = Annotated[
    str, typer.Option(envvar="HONE_ADDRESS", help="HOST:PORT of the public endpoint.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[int, typer.Option("--version", min=0, help="0: the newest that is ready.")]
DEFAULT_ADMIN: Final = "127.0.0.1:8003"
DEFAULT_PUBLIC: Final = "127.0.0.1:8001"
