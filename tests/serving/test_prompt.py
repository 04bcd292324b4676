"""Who left word of how to go on does so when the answer comes; tasks notice no difference."""

from __future__ import annotations

import asyncio

import pytest

from server.prompt import Prompt


async def test_an_answer_is_made_use_of_before_it_is_given() -> None:
    future, seen = Prompt(), list[int]()
    future.go_on = lambda: seen.append(future.result())
    future.answer(7)
    assert seen == [7]
    await asyncio.sleep(0)
    assert seen == [7]


async def test_who_answers_does_not_fail_with_a_waiter_and_the_loop_is_told() -> None:
    loop, told = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda loop, context: told.append(str(context["exception"])))
    future = Prompt()

    def fail() -> None:
        raise ValueError("planted")

    future.go_on = fail
    future.answer(7)
    assert (future.result(), told) == (7, ["planted"])


async def test_errors_and_cancellations_come_in_a_turn_of_their_own() -> None:
    """Whoever gives them is in the middle of something."""
    failed, cancelled, seen = Prompt(), Prompt(), list[str]()
    failed.go_on = lambda: seen.append(str(failed.exception()))
    cancelled.go_on = lambda: seen.append(f"cancelled: {cancelled.cancelled()}")
    failed.set_exception(ValueError("planted"))
    assert cancelled.cancel()
    assert not cancelled.cancel()
    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["planted", "cancelled: True"]


async def test_a_task_awaits_it_like_any_other() -> None:
    async def wait(future: Prompt) -> object:
        return await future

    answered, failed, cancelled = Prompt(), Prompt(), Prompt()
    tasks = [asyncio.create_task(wait(future)) for future in (answered, failed, cancelled)]
    await asyncio.sleep(0)
    answered.answer("right")
    failed.set_exception(ValueError("planted"))
    tasks[2].cancel()
    assert await tasks[0] == "right"
    with pytest.raises(ValueError, match="planted"):
        await tasks[1]
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    assert cancelled.cancelled()
