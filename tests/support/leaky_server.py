"""A server that forgets nothing: what the leak test must find, or it finds nothing at all.

Started as `python -m tests.support.leaky_server COMMAND`, where COMMAND starts a right server.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from server.batcher import Batcher
from server.cli import main
from server.opened import OpenVariant

kept: list[Any] = []


def plant() -> None:
    """Keep a copy of the inputs of every request, and the file of every model that is closed."""
    infer, close = Batcher.infer, OpenVariant.close

    async def keep_inputs(batcher: Batcher, feeds: Any, *others: Any) -> Any:
        kept.append([np.array(array) for array in feeds.values()])
        return await infer(batcher, feeds, *others)

    async def keep_file(opened: OpenVariant) -> None:
        kept.append(opened.opening.session.path.read_bytes())
        await close(opened)

    Batcher.infer = keep_inputs  # type: ignore[method-assign, assignment]
    OpenVariant.close = keep_file  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    plant()
    sys.argv = ["hone", *sys.argv[sys.argv.index("serve") :]]
    main()
