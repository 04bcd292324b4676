"""A study outlives its processes, in SQLite and in PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from math import inf
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError, OperationalError

from optimizers.contract.distillation import Distill
from optimizers.contract.errors import InvalidDocument, NotSupported
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.database import open_database
from optimizers.search.leases import Leases
from optimizers.search.ledger import Ledger
from optimizers.search.sampling import Asked
from optimizers.search.storage import (
    end_abandoned_transactions,
    engine_address,
    engine_arguments,
    open_storage,
    wait_for_restarts,
)
from tests.support.postgres import new_database, postgres, start, stop
from tests.support.studies import conditional, cost, sampling, small

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return new_database(request.getfixturevalue("server"))


@pytest.mark.parametrize("sampler", [Sampler.RANDOM, Sampler.TPE, Sampler.NSGA2])
def test_the_same_seed_and_history_propose_the_same(sampler: Sampler, tmp_path: Path) -> None:
    def proposals(storage: str, opened_again: bool) -> list[Asked]:
        found = []
        study = sampling(conditional(), sampler, seed=7, storage=storage)
        for index in range(13):
            if opened_again and index == 6:
                study.close()
                study = sampling(conditional(), sampler, seed=7, storage=storage)
            asked = study.ask()
            assert asked is not None
            study.tell(asked.number, [cost(asked.recipe)])
            found.append(asked)
        study.close()
        return found

    kept = proposals(f"sqlite:///{tmp_path}/study.db", opened_again=True)
    assert kept == proposals("", opened_again=False)
    other = sampling(conditional(), sampler, seed=8).ask()
    assert other is not None
    assert other.recipe != kept[0].recipe


def test_the_worst_is_infinite(storage: str) -> None:
    study = sampling(conditional(), storage=storage)
    for _ in range(12):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, [inf], inf)
    assert {one.values for one in study.told()} == {(inf,)}
    study.close()


HELD = """
import sys
from tests.support.studies import conditional, cost, sampling
study = sampling(conditional(), seed=5, storage=sys.argv[1])
for _ in range(3):
    asked = study.ask()
    study.tell(asked.number, [cost(asked.recipe)], 0.5)
print(study.ask().number, flush=True)
sys.stdin.read()
"""


def test_a_study_that_is_killed_loses_only_the_trial_that_ran(storage: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HELD, storage],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    study = sampling(conditional(), seed=5, storage=storage)
    told = study.told()
    assert [one.values for one in told] == [(cost(one.recipe),) for one in told]
    assert {one.violation for one in told} == {0.5}
    assert len(told) == 3
    [lost] = study.running()
    assert lost.number == number
    assert study.resume(number)
    assert not study.resume(told[0].number)
    study.tell(number, [cost(lost.recipe)])
    assert study.running() == ()
    assert len(study.told()) == 4
    following = study.ask()
    assert following is not None
    assert following.recipe not in [one.recipe for one in study.told()]
    study.close()


@pytest.mark.parametrize("sampler", [Sampler.TPE, Sampler.NSGA2])
def test_a_trial_whose_process_was_gone_before_its_parameters_were_written_still_teaches(
    sampler: Sampler, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = sampling(conditional(), sampler, storage=storage)
    recipe = Recipe(steps=(PruneChannels(ratio=0.25), Distill()))
    study.enqueue(recipe, "a guess")
    opened = open_storage(storage)
    assert isinstance(opened, RDBStorage)
    # What Optuna does first when it is asked; a process may end right after it.
    optuna.load_study(study_name="one", storage=opened).ask()
    [left] = study.running()
    assert study.resume(left.number)
    study.tell(left.number, [1.0])
    study.close()
    [trial] = optuna.load_study(study_name="one", storage=opened).trials
    opened.remove_session()
    opened.engine.dispose()
    assert trial.values == [1.0]
    answers = conditional().parameters(recipe)
    assert answers is not None
    assert answers.items() <= trial.params.items()


SHARED = """
import sys
from tests.support.studies import sampling, small
study = sampling(small(), seed=5, storage=sys.argv[1])
while (asked := study.ask()) is not None:
    study.tell(asked.number, [0.0])
    print(asked.recipe.to_data(), flush=True)
study.close()
"""


def test_two_that_begin_at_once_share_the_work(storage: str) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SHARED, storage],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    recipes = "".join(outputs).splitlines()
    assert sorted(recipes) == sorted(str(recipe.to_data()) for recipe in small().grid())


def test_a_database_that_is_started_again_is_waited_for(server: str) -> None:
    url = new_database(server)
    study, engine = sampling(conditional(), storage=url), open_database(url)
    ledger = Ledger(engine, "one", "original")
    leases = Leases(engine, "one", owner="me")
    asked, lease = study.ask(), leases.claim(0)
    assert asked is not None
    assert lease is not None
    stop(server)
    starting = threading.Timer(1.0, start, [server])
    starting.start()
    try:
        assert leases.renew(lease)
        study.tell(asked.number, [cost(asked.recipe)])
        assert len(study.told()) == 1
        assert ledger.all() == ()
    finally:
        starting.join()
        study.close()
        ledger.close()


def test_a_database_that_stays_away_is_told_in_the_end(server: str) -> None:
    engine = create_engine(engine_address(url := new_database(server)), **engine_arguments(url))
    with engine.connect():
        wait_for_restarts(engine, longest_s=0.5)
    stop(server)
    try:
        with pytest.raises(OperationalError), engine.connect():
            pass
    finally:
        start(server)
        engine.dispose()


def test_who_stands_still_amid_a_transaction_keeps_others_waiting_for_a_bounded_time(
    server: str,
) -> None:
    """A machine that was suspended holds its locks, and nobody is there to let them go."""
    url = new_database(server)
    elsewhere = open_database(url)
    suspended = create_engine(engine_address(url), **engine_arguments(url))
    end_abandoned_transactions(suspended, after_s=1)
    leases = Leases(suspended, "one", owner="suspended", lasts_s=1e-3)
    lease = leases.claim(0)
    assert lease is not None
    try:
        with pytest.raises(DBAPIError), leases.held(lease):
            assert Leases(elsewhere, "one", owner="other").claim(0) is not None
    finally:
        suspended.dispose()
        elsewhere.dispose()


def test_another_space_is_no_way_to_go_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    sampling(small(), storage=storage).close()
    with pytest.raises(InvalidDocument, match=r"prune_channels\.importance"):
        sampling(conditional(), storage=storage)
    with pytest.raises(InvalidDocument, match="figures to optimise"):
        sampling(small(), objectives=2, storage=storage)


@pytest.mark.parametrize(
    "storage",
    ["sqlite:////nowhere/at/all/study.db", "nonsense://host/name", "postgresql://127.0.0.1:1/hone"],
)
def test_a_database_out_of_reach_is_named(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizers.search.storage._PAUSE_S", 0.0)
    with pytest.raises(NotSupported, match=r"search\.storage cannot be opened"):
        sampling(small(), storage=storage)


def test_addresses_name_the_driver_that_is_there() -> None:
    assert engine_address("postgresql://u@h/n") == "postgresql+psycopg://u@h/n"
    assert engine_address("postgresql+psycopg2://u@h/n") == "postgresql+psycopg2://u@h/n"
    assert engine_address("sqlite:////a/b.db") == "sqlite:////a/b.db"
