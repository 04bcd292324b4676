"""The libraries that only some kinds of data need, and how to get them."""

from __future__ import annotations

from importlib.util import find_spec

from optimizers.contract.errors import InvalidData

INSTALL = "pip install 'hone-server[data]'"


def require_library(module: str, package: str, file: str) -> None:
    """Make sure that a library is installed before it is imported.

    Args:
        module: Its import name.
        package: Its name in the registry.
        file: What needs it.

    Raises:
        InvalidData: It is not; the text says how to get it.
    """
    if find_spec(module) is None:
        raise InvalidData(f"{file} needs {package}, which is not installed; run: {INSTALL}")
