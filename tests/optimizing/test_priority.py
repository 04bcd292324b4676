"""Which processes a worker lowers together with itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GROUP = Path("/proc/self/autogroup")
LOWER = (
    "import os, pathlib\n"
    "from optimizers.process import lower_priority\n"
    "lower_priority()\n"
    "print(os.nice(0), pathlib.Path('/proc/self/autogroup').read_text().split()[-1])\n"
)
START = "import subprocess, sys\nsys.exit(subprocess.call([sys.executable, '-c', *sys.argv[1:]]))"


def priorities(*generations: str) -> list[str]:
    """Own and session's priority of the last of several processes; the first leads a session."""
    done = subprocess.run(
        [sys.executable, "-c", *generations],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        start_new_session=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(
    not GROUP.exists(), reason="NOT TESTED: this kernel does not group processes by session"
)
def test_a_session_is_lowered_by_the_child_of_its_leader_only() -> None:
    assert priorities(START, LOWER) == ["19", "19"]
    assert priorities(START, START, LOWER) == ["19", "0"]
