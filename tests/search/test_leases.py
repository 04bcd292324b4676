"""Leases of trials: one holder at a time, and those of the dead come free. Real processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from optimizers.search.database import open_database
from optimizers.search.leases import (
    LASTS_WITH_PAUSES_S,
    Lease,
    LeaseLost,
    Leases,
    this_process,
)
from server.yielding import PauseTerms
from tests.support.postgres import new_database, postgres

TRIALS = 12
CLAIMING = """
import sys, time
from optimizers.search.database import open_database
from optimizers.search.leases import Leases, this_process

url, trials, lasts_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
leases = Leases(open_database(url), "study", owner=this_process(), lasts_s=lasts_s)
print("ready", flush=True)
sys.stdin.readline()
for trial in range(trials):
    lease = leases.claim(trial)
    if lease is not None:
        print(trial, lease.attempt, flush=True)
sys.stdin.readline()
"""
HOLDING = """
import sys, time
from optimizers.search.database import open_database
from optimizers.search.leases import Leases

leases = Leases(open_database(sys.argv[1]), "study", owner=sys.argv[2], lasts_s=float(sys.argv[3]))
lease = leases.claim(0)
with leases.kept(lease):
    print(lease.attempt, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.sqlite"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_database(url)
    yield engine
    engine.dispose()


def process(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(one: subprocess.Popen[str]) -> str:
    assert one.stdout is not None
    return one.stdout.readline().strip()


def told(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("\n")
    one.stdin.flush()


def ended(one: subprocess.Popen[str], *, kill: bool = False) -> str:
    if kill:
        one.kill()
    output, _ = one.communicate(timeout=60)
    return output


def test_of_several_processes_each_trial_has_one(url: str, engine: Engine) -> None:
    several = [process(CLAIMING, url, str(TRIALS), "60") for _ in range(3)]
    assert [line(one) for one in several] == ["ready"] * 3
    for one in several:
        told(one)
    had = [
        entry.split() for one in several for entry in ended(one).splitlines()
    ]  # their input ends as well, so that they do
    assert sorted(int(trial) for trial, _ in had) == list(range(TRIALS))
    assert {attempt for _, attempt in had} == {"1"}


def test_a_killed_holders_trial_comes_free_when_its_lease_has_run_out(
    url: str, engine: Engine
) -> None:
    holder = process(HOLDING, url, "elsewhere", "4")
    assert line(holder) == "1"
    leases = Leases(engine, "study", owner=this_process(), lasts_s=4.0)
    ended(holder, kill=True)
    assert leases.claim(0) is None
    deadline = time.monotonic() + 30
    while (lease := leases.claim(0)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert lease.attempt == 2, "the dead one's counts"


def test_a_holder_that_lives_keeps_its_trial_for_longer_than_one_lease(
    url: str, engine: Engine
) -> None:
    holder = process(HOLDING, url, "elsewhere", "4")
    assert line(holder) == "1"
    leases = Leases(engine, "study", owner=this_process(), lasts_s=4.0)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        assert leases.claim(0) is None
        time.sleep(0.2)
    ended(holder, kill=True)


def test_the_dead_of_this_machine_are_not_waited_for(url: str, engine: Engine) -> None:
    holder = process(CLAIMING, url, "1", "3600")
    assert line(holder) == "ready"
    told(holder)
    assert line(holder) == "0 1"
    elsewhere = Leases(engine, "study", owner="another-machine:1:1", lasts_s=3600)
    assert elsewhere.claim(1) is not None
    leases = Leases(engine, "study", owner=this_process())
    leases.free_the_dead()
    assert leases.claim(0) is None, "its holder lives"
    ended(holder, kill=True)
    Leases(engine, "other", owner=this_process()).free_the_dead()
    assert leases.claim(0) is None, "those of another study are none of its business"
    leases.free_the_dead()
    assert leases.claim(0) is not None
    assert leases.claim(1) is None, "nobody here can tell whether its holder lives"


def test_who_was_stopped_for_too_long_notices_that_the_trial_is_lost(engine: Engine) -> None:
    now = [1000.0]
    stopped = Leases(engine, "study", owner="stopped", lasts_s=30, clock=lambda: now[0])
    other = Leases(engine, "study", owner="other", lasts_s=30, clock=lambda: now[0])
    lease = stopped.claim(0)
    assert lease is not None
    now[0] += 31
    assert stopped.renew(lease), "nobody has taken it meanwhile"
    now[0] += 31
    taken = other.claim(0)
    assert taken is not None
    assert not stopped.renew(lease)
    stopped.release(lease, attempts=0)
    assert other.renew(taken), "what is lost cannot be let go of"
    with pytest.raises(LeaseLost), stopped.held(lease):
        raise AssertionError("it is not held")


def test_whoever_writes_holds_the_trial_until_it_is_written(url: str, engine: Engine) -> None:
    """Others who would take it wait for the end of the transaction, and then find it held."""
    now = [1000.0]
    slow = Leases(engine, "study", owner="slow", lasts_s=30, clock=lambda: now[0])
    lease = slow.claim(0)
    assert lease is not None
    now[0] += 31
    taken: list[Lease | None] = []
    elsewhere = open_database(url)
    other = Leases(elsewhere, "study", owner="other", lasts_s=30, clock=lambda: now[0])
    thread = threading.Thread(target=lambda: taken.append(other.claim(0)))
    with slow.held(lease):
        thread.start()
        thread.join(timeout=0.3)
        assert not taken
    thread.join()
    assert taken == [None]
    elsewhere.dispose()


def test_machines_that_share_a_name_do_not_take_each_others_trials(engine: Engine) -> None:
    """Machines made from one image have the same host name and the same process namespace."""
    machine, _, process_id = this_process().partition(":")
    name, _, rest = machine.partition("@")
    boot, _, namespace = rest.partition(".")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    twin = f"{name}@{uuid4()}.{namespace}:{process_id}1"
    assert Leases(engine, "study", owner=twin).claim(0) is not None
    gone = f"{machine}:{process_id}1"
    assert Leases(engine, "study", owner=gone).claim(1) is not None
    here = Leases(engine, "study", owner=this_process())
    here.free_the_dead()
    assert here.claim(0) is None
    assert here.claim(1) is not None


@pytest.mark.parametrize("wrong_by_s", [-3600.0, 3600.0])
def test_a_machine_whose_clock_is_wrong_neither_takes_trials_nor_loses_its_own(
    wrong_by_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres() as folder:
        engine = open_database(new_database(folder))
        right = Leases(engine, "study", owner="right")
        mine = right.claim(0)
        assert mine is not None
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + wrong_by_s)
        wrong = Leases(engine, "study", owner="wrong")
        assert wrong.claim(0) is None
        theirs = wrong.claim(1)
        assert theirs is not None
        monkeypatch.undo()
        assert right.claim(1) is None
        assert right.renew(mine)
        assert wrong.renew(theirs)
        short = Leases(engine, "study", owner="short", lasts_s=1e-3)
        assert short.claim(2) is not None
        time.sleep(0.01)
        assert right.claim(2) is not None
        engine.dispose()


def test_a_lease_of_a_job_outlives_the_longest_pause_and_the_work_before_it() -> None:
    terms = PauseTerms()
    assert terms.longest_s + LASTS_WITH_PAUSES_S / 4 < LASTS_WITH_PAUSES_S


def test_what_was_put_aside_does_not_count_as_an_attempt(engine: Engine) -> None:
    leases = Leases(engine, "study", owner="one")
    for _ in range(5):
        lease = leases.claim(0)
        assert lease is not None
        assert lease.attempt == 1
        leases.release(lease, attempts=lease.attempt - 1)
