"""Commands on what a search has found: told on the terminal, and as a page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from server.cli.exchange import call, console, print_json
from server.cli.options import DEFAULT_ADMIN, AdminAddress, Version
from server.client import Client
from server.explained import account_lines
from server.pb import management_pb2 as pb

Found = Annotated[str, typer.Argument(help="An id or a profile; nothing for the newest search.")]
OfJob = Annotated[str, typer.Option(help="Id of a job instead of a variant.")]


def explain(
    model: Annotated[str, typer.Argument(help="Its name.")],
    variant: Found = "",
    job: OfJob = "",
    raw: Annotated[bool, typer.Option("--json", help="Print what the search wrote.")] = False,
    version: Version = 0,
    admin: AdminAddress = DEFAULT_ADMIN,
) -> None:
    """Tell how a variant came about, what else was tried, and why it lost."""
    request = pb.ExplainRequest(model=model, version=version, variant=variant, job=job)
    answer = call(admin, "Explain", request, pb.ExplainResponse)
    if not raw:
        print_account(answer)
    elif answer.explanation:
        print(answer.explanation)
    else:
        print_json(answer)


def report(
    model: Annotated[str, typer.Argument(help="Its name.")],
    variant: Found = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path(
        "report.html"
    ),
    png: Annotated[Path | None, typer.Option(help="Where the picture of the front goes.")] = None,
    job: OfJob = "",
    version: Version = 0,
    admin: AdminAddress = DEFAULT_ADMIN,
) -> None:
    """Write the page on a search: what was tried, the front, the winner and its certificate."""
    request = pb.ExplainRequest(model=model, version=version, variant=variant, job=job)

    async def fetch() -> list[tuple[Path, bytes]]:
        async with Client(admin) as client:
            files = [(output, await client.report(request))]
            if png is not None:
                files.append((png, await client.report(request, picture=True)))
            return files

    for file, content in asyncio.run(fetch()):
        try:
            file.write_bytes(content)
        except OSError as error:
            raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from error
        print(f"{file} is written")


def print_account(answer: pb.ExplainResponse) -> None:
    """Tell all that there is to say, line by line."""
    for line in account_lines(answer):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
