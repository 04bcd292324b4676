"""Work that can wait keeps off one processor, and hands nothing of that to those who serve."""

from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.digests import file_sha256
from optimizers.contract.memory import mapped_memory, unmap_pages
from optimizers.contract.processors import (
    PROCESSORS_VARIABLE,
    answering_threads_are,
    aside,
    beside_a_worker,
    everywhere,
    keep_aside,
)
from optimizers.contract.runtime import Session, SessionSpec
from server.aside import executor_aside
from tests.support import models

ALL = os.sched_getaffinity(0)
needs_two = pytest.mark.skipif(len(ALL) < 2, reason="NOT TESTED: NEEDS TWO PROCESSORS")


@needs_two
def test_what_is_aside_keeps_off_one_processor_but_for_a_while() -> None:
    seen = []

    def work() -> None:
        keep_aside()
        seen.append(os.sched_getaffinity(0))
        with everywhere():
            seen.append(os.sched_getaffinity(0))
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    rest = ALL - {min(ALL)}
    assert seen == [rest, ALL, rest]
    assert os.sched_getaffinity(0) == ALL


@needs_two
def test_nobody_stands_aside_where_nobody_answers() -> None:
    with aside():
        assert os.sched_getaffinity(0) == ALL


@needs_two
def test_a_worker_knows_the_processors_of_whoever_started_it() -> None:
    told = ",".join(map(str, sorted(ALL)))
    code = (
        "import os; from optimizers.contract.processors import everywhere\n"
        "with everywhere(): print(sorted(os.sched_getaffinity(0)))"
    )
    one = str(min(ALL))
    command = ["taskset", "-c", one, sys.executable, "-c", code]
    environment = {**os.environ, PROCESSORS_VARIABLE: told}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(sorted(ALL))


@needs_two
async def test_while_something_is_done_aside_the_loop_has_a_processor_of_its_own(
    tmp_path: Path,
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(4, 4, 2))
    session = Session(model, SessionSpec(lanes=2))
    begun, over = threading.Event(), threading.Event()

    def work() -> tuple[set[int], set[int], set[int]]:
        before = os.sched_getaffinity(0)
        with aside():
            there = os.sched_getaffinity(0)
            begun.set()
            over.wait(10)
        return before, there, os.sched_getaffinity(0)

    executor = executor_aside()
    try:
        done = asyncio.wrap_future(executor.submit(work))
        assert begun.wait(10)
        assert os.sched_getaffinity(0) == {min(ALL)}
        await asyncio.wrap_future(session.submit({"x": np.zeros((1, 4), np.float32)}))
        lane = next(one for one in threading.enumerate() if one.name.startswith("lane"))
        assert lane.native_id is not None
        assert os.sched_getaffinity(lane.native_id) == ALL, "lanes run everywhere"
        started = asyncio.wrap_future(executor.submit(os.sched_getaffinity, 0))
        assert await started == ALL, "and so do threads that were started meanwhile"
        over.set()
        assert await done == (ALL, ALL - {min(ALL)}, ALL)
        assert os.sched_getaffinity(0) == ALL
    finally:
        over.set()
        executor.shutdown()
        session.close()
        answering_threads_are(())


@needs_two
def test_a_models_digest_is_taken_aside(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    with file.open("wb") as written:
        written.truncate(1 << 26)
    answering_threads_are((threading.get_native_id(),))
    try:
        with ThreadPoolExecutor(1) as others:
            digest, seen = others.submit(file_sha256, file), set()
            while not digest.done():
                seen.add(frozenset(os.sched_getaffinity(0)))
                time.sleep(0.001)
        assert frozenset({min(ALL)}) in seen
        assert os.sched_getaffinity(0) == ALL
    finally:
        answering_threads_are(())


@needs_two
async def test_the_native_transports_threads_step_aside_with_the_loop() -> None:
    server = pytest.importorskip("server.rpc.native").NativeServer()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    executor = executor_aside()
    try:
        [dispatch] = [one for one in threading.enumerate() if "native-dispatch" in one.name]
        assert dispatch.native_id is not None
        with aside():
            assert os.sched_getaffinity(dispatch.native_id) == {min(ALL)}
        assert os.sched_getaffinity(dispatch.native_id) == ALL
    finally:
        executor.shutdown()
        answering_threads_are(())
        await server.stop(0)


@needs_two
def test_beside_a_worker_who_answers_keeps_to_the_processor_that_it_leaves() -> None:
    answering_threads_are((threading.get_native_id(),))
    try:
        with beside_a_worker():
            assert os.sched_getaffinity(0) == ({min(ALL)} if len(ALL) == 2 else ALL)
        assert os.sched_getaffinity(0) == ALL
    finally:
        answering_threads_are(())


@needs_two
def test_who_answers_is_left_alone_until_the_last_has_come_back() -> None:
    answering_threads_are((threading.get_native_id(),))
    try:
        with ThreadPoolExecutor(4) as others:
            turns = [others.submit(_stand_aside) for _ in range(200)]
            for turn in turns:
                turn.result()
        assert os.sched_getaffinity(0) == ALL
    finally:
        answering_threads_are(())


def _stand_aside() -> None:
    with aside():
        pass


def test_pages_of_a_mapped_file_are_let_go_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * (1 << 16))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert sum(view[:: mmap.PAGESIZE]) == 0
        before = mapped_memory().file_bytes
        unmap_pages(path)
        assert before - mapped_memory().file_bytes > (1 << 23)
        assert view[513] == 1
