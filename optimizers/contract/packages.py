"""What an installation lacks, and how to get it; imports nothing that could be missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec


def missing_packages(needed: Sequence[str]) -> list[str]:
    """Those of `needed` that cannot be imported here."""
    return [name for name in needed if find_spec(name) is None]


def how_to_install_optimisers(missing: Sequence[str]) -> str:
    """What to tell somebody whose installation lacks some of the optimisers' packages."""
    return (
        f"the optimisers are not installed here ({', '.join(missing)} missing); "
        "run: pip install 'hone-server[cpu,optimize]'"
    )


def how_to_install_cluster(missing: Sequence[str]) -> str:
    """What to tell somebody whose installation lacks what machines share a search with."""
    return (
        f"{', '.join(missing)} is not installed here; "
        "run: pip install 'hone-server[cpu,optimize,cluster]'"
    )
