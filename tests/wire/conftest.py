"""Every test of this folder that starts a server does so on each transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", params=["native", "grpcio"], autouse=True)
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """What carries the calls of the public endpoint."""
    name: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HONE_TRANSPORT", name)
        yield name
