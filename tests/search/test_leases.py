"""Leases of trials: one holder at a time, and those of the dead come free. Real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from optimizers.search.database import open_database
from optimizers.search.leases import Leases, this_process

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
    assert lease.is_lost
    stopped.release(lease, attempts=0)
    assert other.renew(taken), "what is lost cannot be let go of"


def test_what_was_put_aside_does_not_count_as_an_attempt(engine: Engine) -> None:
    leases = Leases(engine, "study", owner="one")
    for _ in range(5):
        lease = leases.claim(0)
        assert lease is not None
        assert lease.attempt == 1
        leases.release(lease, attempts=lease.attempt - 1)
