"""Which processes a worker lowers together with itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import hostile_program

GROUP = Path("/proc/self/autogroup")
TELL = "print(os.nice(0), pathlib.Path('/proc/self/autogroup').read_text().split()[-1])\n"
LOWER = (
    "import os, pathlib\n"
    "from optimizers.process import lower_priority\n"
    "lower_priority(os.{leader}(), {niceness})\n"
)
BY_PARENT = LOWER.format(leader="getppid", niceness=19) + TELL
BY_ITSELF = LOWER.format(leader="getpid", niceness=10) + TELL
TEN_LOWER = str(min(19, os.nice(0) + 10))
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
def test_a_session_is_lowered_by_whom_it_is_there_for_only() -> None:
    assert priorities(START, BY_PARENT) == ["19", "19"]
    assert priorities(START, START, BY_PARENT) == ["19", "0"]
    assert priorities(BY_ITSELF) == [TEN_LOWER, "10"]
    assert priorities(START, BY_ITSELF) == [TEN_LOWER, "0"]


def test_a_conversion_runs_at_a_low_priority(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = hostile_program(
        tmp_path / "model.pt2", f"import os; open({str(seen)!r}, 'w').write(str(os.nice(0)))"
    )
    command = [sys.executable, "-m", "optimizers", "convert", str(program), str(tmp_path / "made")]
    subprocess.run(command, capture_output=True, timeout=150, check=False)
    assert seen.read_text() == TEN_LOWER
