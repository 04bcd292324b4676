"""A future whose waiter goes on in the turn of the loop in which the answer comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Prompt(asyncio.Future[Any]):
    """Like any other future for who awaits it in a task.

    Who does without a task may leave word of how to go on instead. Between an answer and its waiter
    there is then no turn of the loop, in which the interpreter goes to whatever thread wants it.

    Attributes:
        go_on: Called as soon as there is an answer, and soon after an error or a cancellation.
    """

    go_on: Callable[[], object] | None = None

    def answer(self, result: Any) -> None:
        """Set the result, of which the waiter has made use when this returns.

        What goes wrong there is told to the loop, as for any callback; whoever answers has others
        to answer too.
        """
        self.set_result(result)
        if self.go_on is None:
            return
        try:
            self.go_on()
        except Exception as error:
            said = {"message": "a waiter could not go on", "exception": error, "future": self}
            self.get_loop().call_exception_handler(said)

    def set_exception(self, error: type | BaseException, /) -> None:
        """As any future does."""
        super().set_exception(error)
        self._go_on_soon()

    def cancel(self, msg: Any = None) -> bool:
        """As any future does."""
        is_new = super().cancel(msg)
        if is_new:
            self._go_on_soon()
        return is_new

    def _go_on_soon(self) -> None:
        if self.go_on is not None:
            self.get_loop().call_soon(self.go_on)
