"""The process that has the tools loaded, and its child that builds one recipe."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Final

from optimizers.contract.errors import HoneError
from optimizers.process import PARENT_VARIABLE
from optimizers.search.evaluator import CannotTry

_COMMAND: Final = (sys.executable, "-m", "optimizers.building")


class NotBuilt(HoneError):
    """A recipe made nothing that can be used; the text says why."""


class Builder:
    """Starts children that build, one at a time; see `building.serve_trials`. Close it.

    It ends with this process, and its child with it.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _COMMAND,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._child = 0

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, so that another one is needed."""
        return self._process.poll() is not None

    def begin(self, order: Sequence[str | float]) -> None:
        """Start a child; `order` is what `building.build_trial` takes.

        Raises:
            CannotTry: The process that should start it did not come up, or cannot.
        """
        try:
            _pipe(self._process.stdin).write(json.dumps(order).encode() + b"\n")
            self._child = self._number()
        except (BrokenPipeError, NotBuilt) as error:
            raise CannotTry(_NEVER_THERE) from error

    def has_ended(self, wait_s: float) -> bool:
        """Whether the child has ended, or does within some seconds."""
        return bool(select.select([_pipe(self._process.stdout)], [], [], wait_s)[0])

    def stand_still(self, *, still: bool) -> None:
        """Stop the child that has not yet ended, or let it go on."""
        self._send(signal.SIGSTOP if still else signal.SIGCONT)

    def kill(self) -> None:
        """End the child that has not yet ended."""
        self._send(signal.SIGKILL)
        self._number()

    def exit_code(self) -> int:
        """Of the child that has ended; negative for a signal.

        Raises:
            NotBuilt: The process that started it is gone.
        """
        return self._number()

    def close(self) -> None:
        """End the process and its child."""
        self._process.kill()
        self._process.communicate()

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself just now
            os.kill(self._child, number)

    def _number(self) -> int:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise NotBuilt(_GONE)
        return int(line)


_NEVER_THERE: Final = (
    "the process that builds recipes does not come up on this machine; what it said before it "
    "ended is in the log"
)
_GONE: Final = "the process that builds has ended; see the job's log"


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
