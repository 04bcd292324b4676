"""How much lies below a folder that somebody else fills."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 0.25
_LEAST_BYTES: Final = 4096
"""What a file or folder counts at least, so that countless empty ones are too much as well."""


async def outgrown(folder: Path, most_bytes: int) -> None:
    """Wait until more than `most_bytes` lie below a folder, as `is_outgrown` counts."""
    while not await asyncio.to_thread(is_outgrown, folder, most_bytes):
        await asyncio.sleep(_LOOK_EVERY_S)


def is_outgrown(folder: Path, most_bytes: int) -> bool:
    """Whether more than `most_bytes` of the disk are taken by what lies below a folder.

    Links are not followed. A file that was removed and is still open is not seen.
    """
    total, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += max(_LEAST_BYTES, _taken(entry))
                    if total > most_bytes:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:  # it went while it was looked at
            continue
    return False


def _taken(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        return 0
