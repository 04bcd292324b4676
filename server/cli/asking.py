"""Commands that ask a server as any other client does."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import typer

from optimizers.contract.samples import random_feeds
from server.cli.exchange import console
from server.cli.options import DEFAULT_PUBLIC, PublicAddress
from server.client import Client


def infer(
    model: Annotated[str, typer.Argument(help="Its name.")],
    data: Annotated[
        Path | None, typer.Option(help="An .npz with one array per input; made up when left out.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many of its first items.")] = 1,
    version: Annotated[str, typer.Option(help="VERSION, @VARIANT or VERSION@VARIANT.")] = "",
    address: PublicAddress = DEFAULT_PUBLIC,
) -> None:
    """Ask a model once and print what it answers."""

    async def ask() -> tuple[dict[str, Any], str, float]:
        async with Client(address) as client:
            signature = await client.signature(model, version)
            feeds = random_feeds(signature, rows)
            if data is not None:
                feeds = {name: stored[:rows] for name, stored in _load(data, list(feeds)).items()}
            start = time.perf_counter()
            answers, variant = await client.infer(model, feeds, version=version)
            return answers, variant, time.perf_counter() - start

    answers, variant, seconds = asyncio.run(ask())
    print(f"variant {variant} answered in {1e3 * seconds:.2f} ms")
    for name, array in answers.items():
        print(f"{name} {array.dtype} {list(array.shape)}")
        print(np.array2string(array, precision=4, threshold=64, max_line_width=100))


def health(address: PublicAddress = DEFAULT_PUBLIC) -> None:
    """Exit code 0 when the server says SERVING, 1 otherwise."""

    async def ask() -> bool:
        async with Client(address) as client:
            return await client.is_serving()

    serving = asyncio.run(ask())
    console.print("SERVING" if serving else "NOT_SERVING")
    raise typer.Exit(0 if serving else 1)


def _load(file: Path, names: list[str]) -> dict[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            missing = [name for name in names if name not in stored.files]
            if missing:
                raise typer.BadParameter(f"{file} holds {stored.files}; expected {names}")
            return {name: stored[name] for name in names}
    except (OSError, ValueError, BadZipFile) as error:
        raise typer.BadParameter(f"{file} cannot be read as an .npz file: {error}") from error
