"""Studies stay until somebody removes them, and then nothing of them stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from optimizers.contract.errors import InvalidData, InvalidDocument, NotSupported
from optimizers.search.database import open_database
from optimizers.search.kept import databases, forget, kept_studies
from optimizers.search.leases import Leases
from optimizers.search.ledger import Ledger
from optimizers.search.store import Store
from tests.support.postgres import new_database, postgres
from tests.support.studies import conditional, sampling

ROOT = Path(__file__).parents[2]


def begun(url: str, name: str) -> None:
    """A study of that name with one recipe that nobody works on."""
    study = sampling(conditional(), storage=url, study=name)
    assert study.ask() is not None
    study.close()
    engine = open_database(url)
    ledger = Ledger(engine, name, "original")
    ledger.spend(ledger.budget("first", another=False), 90.0)
    leases = Leases(engine, name, owner="one")
    lease = leases.claim(0)
    assert lease is not None
    leases.release(lease, attempts=0)
    ledger.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with studies of two originals."""
    (tmp_path / "studies").mkdir()
    for name, file in (("a-1-edge-0", "0"), ("a-1-fast-0", "0"), ("b-1-edge-1", "1")):
        begun(f"sqlite:///{tmp_path}/studies/{file}.sqlite", name)
    return tmp_path


def test_studies_of_a_state_directory_are_shown_and_removed_one_by_one(state: Path) -> None:
    command = [sys.executable, "-m", "optimizers", "studies"]

    def said(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments, "--state", str(state)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert said().splitlines() == [
        "a-1-edge-0: 0 trials, 2 min",
        "a-1-fast-0: 0 trials, 2 min",
        "b-1-edge-1: 0 trials, 2 min",
    ]
    assert said("rm", "a-1-edge-0") == "removed study a-1-edge-0\n"
    places = databases(state, "", {})
    assert [one.name for one in kept_studies(places)] == ["a-1-fast-0", "b-1-edge-1"]
    again = sampling(conditional(), storage=places[0], study="a-1-edge-0")
    assert again.running() == (), "it begins anew"
    again.close()
    forget(places, "b-1-edge-1", None)
    assert not (state / "studies" / "1.sqlite").exists(), "nothing was left in it"
    assert (state / "studies" / "0.sqlite").exists()
    with pytest.raises(InvalidData, match="no study b-1-edge-1"):
        forget(databases(state, "", {}), "b-1-edge-1", None)


def test_what_somebody_works_on_is_not_removed() -> None:
    with postgres() as folder:
        url = new_database(folder)
        assert kept_studies([url]) == (), "an empty database has none"
        begun(url, "one")
        engine = open_database(url)
        leases = Leases(engine, "one", owner="elsewhere")
        lease = leases.claim(0)
        assert lease is not None
        with pytest.raises(NotSupported, match="somebody works on study one"):
            forget([url], "one", None)
        leases.release(lease, attempts=0)
        engine.dispose()
        forget([url], "one", None)
        assert kept_studies([url]) == ()


def test_files_that_another_study_takes_stay_in_the_store(state: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    digests = {}
    for name in ("model", "data", "shared"):
        (tmp_path / name).write_text(name)
        digests[name] = store.put(tmp_path / name)
    for study, names in (("a-1-edge-0", ("model", "shared")), ("b-1-edge-1", ("data", "shared"))):
        files = {"images": "", **{name: digests[name] for name in names}}
        store.write(f"studies/{study}/spec.json", json.dumps({"files": files}).encode())
        store.write(f"studies/{study}/candidates/1/candidate.json", b"{}")
    places = databases(state, "", {})
    forget(places, "a-1-edge-0", store)
    left = {file.name for file in (tmp_path / "store/blobs").iterdir()}
    assert left == {digests["data"], digests["shared"]}
    assert store.folders("studies") == ("b-1-edge-1",)
    store.write("studies/other/spec.json", b"{}")
    with pytest.raises(InvalidData, match="study other"):
        forget(places, "b-1-edge-1", store)
    assert "b-1-edge-1" in {one.name for one in kept_studies(places)}


def test_a_place_without_studies_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="no state directory"):
        databases(tmp_path / "nowhere", "", {})
    with pytest.raises(InvalidDocument, match="expected --state DIRECTORY"):
        databases(None, "", {})
    with pytest.raises(NotSupported, match="NOWHERE"):
        databases(None, "env:NOWHERE", {})
