"""The peers' environments: one virtual environment each under `.peers/`, from pinned requirements.

usage: python -m benchmarks.peers.environments

MLServer and KServe must install; PyTriton and LitServe take part where they do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parents[1] / ".peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server that others use.

    Attributes:
        name: Of its environment, requirements and server file.
        product: What the tables say.
        is_grpc: Otherwise HTTP/1.1.
        is_required: Whether the benchmarks are incomplete without it.
    """

    name: str
    product: str
    is_grpc: bool = True
    is_required: bool = False

    @property
    def requirements(self) -> Path:
        """Every package of its environment, pinned."""
        return _HERE / f"{self.name}.txt"

    @property
    def environment(self) -> Path:
        """Where it is installed."""
        return _ROOT / self.name

    @property
    def command(self) -> list[str]:
        """Starts it, short of its arguments."""
        return [str(self.environment / "bin/python"), str(_HERE / f"{self.name}_server.py")]

    @property
    def is_installed(self) -> bool:
        """Whether its environment is there and of these requirements."""
        mark = self.environment / "requirements.txt"
        return mark.exists() and mark.read_bytes() == self.requirements.read_bytes()


PEERS: Final = (
    Peer(name="kserve", product="KServe python 0.21", is_required=True),
    Peer(name="mlserver", product="MLServer 1.7.1", is_required=True),
    Peer(name="pytriton", product="PyTriton 0.7"),
    Peer(name="litserve", product="LitServe 0.2 (HTTP)", is_grpc=False),
)


def installed() -> tuple[Peer, ...]:
    """Those whose environments are there."""
    return tuple(one for one in PEERS if one.is_installed)


def build(peer: Peer) -> bool:
    """Make its environment; whether that went well, with pip's words where it did not."""
    shutil.rmtree(peer.environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(peer.environment)], check=True)
    done = subprocess.run(
        [
            *(str(peer.environment / "bin/python"), "-m", "pip", "install", "--quiet"),
            *("--disable-pip-version-check", "--no-deps", "-r", str(peer.requirements)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return False
    shutil.copy(peer.requirements, peer.environment / "requirements.txt")
    return True


def main() -> None:
    """Build what is not there yet.

    Raises:
        SystemExit: A required peer does not install.
    """
    for peer in PEERS:
        if peer.is_installed:
            print(f"{peer.product}: installed in {peer.environment}")
            continue
        print(f"{peer.product}: installing into {peer.environment}", flush=True)
        if build(peer):
            continue
        if peer.is_required:
            raise SystemExit(f"{peer.product} does not install; the peers' rows need it")
        print(f"{peer.product} does not install here and is left out", flush=True)


if __name__ == "__main__":
    main()
