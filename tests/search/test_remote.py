"""A search on several machines: a real database, real processes, a store of files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import onnx
import psycopg
import pytest
from optuna.storages import RDBStorage

from optimizers.artefacts import Artefacts
from optimizers.contract.data_files import data_sha256
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import HoneError, InvalidData, NotSupported
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import this_host
from optimizers.contract.ingredients import Ingredients, code_sha256, step_keys
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    PROGRESS_FILE,
    SPEC_FILE,
    Built,
    JobSpec,
    read_built,
    write_spec,
)
from optimizers.contract.manifest import StepRecord
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.contract.study import Explanation, TrialState, read_explanation
from optimizers.contract.tuning import TuneSession
from optimizers.remote import Dismissal, Invitation, take_part
from optimizers.search.candidates import Candidate
from optimizers.search.database import open_database
from optimizers.search.delivering import Delivery
from optimizers.search.evaluator import Level, Measured
from optimizers.search.handover import Handover
from optimizers.search.ladder import Ladder
from optimizers.search.leases import Leases
from optimizers.search.leaving import Leaving
from optimizers.search.ledger import Entry, Ledger
from optimizers.search.levels import at_level
from optimizers.search.outcome import outcome
from optimizers.search.sharing import (
    end_study,
    localised,
    publish,
    read_shared,
    remove_study,
    why_study_ended,
)
from optimizers.search.storage import open_storage
from optimizers.search.store import Store
from optimizers.search.study import Limits, Study
from optimizers.search.working_time import TimeIsUp
from tests.support.postgres import PASSWORD, new_database, postgres
from tests.support.replays import Clock, Replay, close, study_of, trials
from tests.support.searches import GOAL, SEARCH, search_spec
from tests.support.spaces import space_over
from tests.support.studies import cost

STORAGE: Final = "HONE_TEST_STORAGE"
TRIALS: Final = 6
HISTORY: Final = """
CREATE TABLE lease_history (
    id serial, trial int, old_owner text, owner text, old_expires float8, expires float8);
CREATE FUNCTION note_lease() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO lease_history (trial, old_owner, owner, old_expires, expires)
    VALUES (NEW.trial, OLD.owner, NEW.owner, OLD.expires, NEW.expires); RETURN NULL; END $$;
CREATE TRIGGER note_lease AFTER UPDATE ON hone_leases FOR EACH ROW EXECUTE FUNCTION note_lease();
CREATE TABLE told (number int, state text);
CREATE FUNCTION note_told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.state <> NEW.state AND NEW.state IN ('COMPLETE', 'PRUNED', 'FAIL')
    THEN INSERT INTO told VALUES (NEW.number, NEW.state::text); END IF; RETURN NULL; END $$;
CREATE TRIGGER note_told AFTER UPDATE ON trials FOR EACH ROW EXECUTE FUNCTION note_told();
"""
"""What the database itself sees of who holds which trial, and of what is told."""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database, with its password."""
    with postgres() as folder:
        yield new_database(folder)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    return search_spec(
        tmp_path_factory.mktemp("files"),
        goal=replace(GOAL, stop_when=()),
        search=replace(SEARCH, trials=TRIALS),
    )


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def _shared_by(spec: JobSpec, storage: str, artefacts: str) -> JobSpec:
    search = spec.profile.search
    assert search is not None
    search = replace(search, storage=storage, artefacts=artefacts)
    return replace(spec, profile=replace(spec.profile, search=search))


def _until(holds: Callable[[], object], *watched: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        assert all(process.poll() is None for process in watched), "a process ended too early"
        time.sleep(0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """Starts the processes of a search."""

    running: list[subprocess.Popen[bytes]]
    log: Path
    database: str

    def __call__(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", STORAGE: self.database}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "optimizers", *arguments],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        return process

    def kill_with_a_trial(self, process: subprocess.Popen[bytes]) -> None:
        """End a process by force while it holds a trial."""
        _until(lambda: self._stopped_with_a_trial(process), process)
        process.kill()
        process.wait()

    def _stopped_with_a_trial(self, process: subprocess.Popen[bytes]) -> bool:
        if not self._holds_a_trial(process):
            return False
        process.send_signal(signal.SIGSTOP)
        if self._holds_a_trial(process):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    def _holds_a_trial(self, process: subprocess.Popen[bytes]) -> bool:
        with psycopg.connect(self.database) as connection:
            query = (
                "SELECT 1 FROM hone_leases WHERE trial >= 0 AND expires > 0"
                " AND split_part(owner, ':', 2) = %s"
            )
            return connection.execute(query, [str(process.pid)]).fetchone() is not None


def test_machines_share_a_search_and_two_of_them_may_die_while_they_hold_a_trial(
    spec: JobSpec,
    database: str,
    processes: list[subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    job, home = tmp_path / "job", tmp_path / "elsewhere"
    job.mkdir()
    address = f"file://{tmp_path}/store"
    write_spec(job, _shared_by(spec, database, address))
    open_database(database).dispose()
    storage = open_storage(database)
    assert isinstance(storage, RDBStorage)
    storage.remove_session()
    storage.engine.dispose()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(HISTORY)
    start = Starting(running=processes, log=tmp_path / "log", database=database)
    serving = ["worker", str(job), "--stage", "search"]
    elsewhere = ["search-worker", "--study", address, "--storage", f"env:{STORAGE}"]
    elsewhere += ["--home", str(home)]

    first = start(*serving)
    _until(lambda: list(tmp_path.glob("store/studies/*/spec.json")), first)
    start.kill_with_a_trial(first)
    one, other = start(*elsewhere), start(*elsewhere)
    start.kill_with_a_trial(one)
    second = start(*serving)
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert second.wait(timeout=120) == 0, said
    assert other.wait(timeout=60) == 0, said

    told = read_explanation(job)
    assert told is not None
    assert told.ended_because == f"its {TRIALS} trials were used up"
    assert len(told.trials) == TRIALS
    assert all(trial.state is not TrialState.RUNNING for trial in told.trials)
    _check_history(database, dead={first.pid, one.pid})
    workers = {int(trial.worker.rpartition(":")[2]) for trial in told.trials}
    assert other.pid in workers

    assert told.winner is not None
    built = read_built(job)
    assert built is not None
    assert built.recipe == told.trial(told.winner).recipe
    arrived = file_sha256(job / CANDIDATE_DIRECTORY / "model.onnx")
    assert list(tmp_path.glob(f"store/studies/{told.study}/candidates/*/{arrived}"))
    assert "the winner, trial" not in (job / PROGRESS_FILE).read_text(encoding="utf-8")

    secret = PASSWORD.encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != job / SPEC_FILE]
    assert len(files) > 20
    assert not [path for path in files if secret in path.read_bytes()]
    assert not list(tmp_path.rglob("gate*"))


def _check_history(database: str, dead: set[int]) -> None:
    """No trial was in two hands, those of the dead were retried, and each was told once."""
    with psycopg.connect(database, autocommit=True) as connection:
        history = connection.execute(
            "SELECT trial, old_owner, owner, old_expires, expires FROM lease_history"
            " WHERE trial >= 0 ORDER BY id"
        ).fetchall()
        told = Counter(number for (number,) in connection.execute("SELECT number FROM told"))
    assert set(told.values()) == {1}
    retried = []
    for trial, old_owner, owner, old_expires, expires in history:
        if owner and owner != old_owner:
            assert old_expires == 0, f"trial {trial} was taken from {old_owner}, who held it"
        if owner and not expires:
            assert int(str(owner).split(":")[1]) in dead, f"{owner} lost trial {trial}"
            retried.append(trial)
    assert len(retried) == len(dead)
    assert set(retried) <= told.keys()


@pytest.fixture(scope="module")
def published(spec: JobSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobSpec, Path]:
    """A study in a store that goes on, and whose database nobody has begun."""
    home = tmp_path_factory.mktemp("store")
    shared = _shared_by(spec, "postgresql://hone:secret@127.0.0.1:1/none", str(home))
    shared = replace(
        shared,
        data={name: path for name, path in spec.data.items() if name != "gate"},
        data_sha256={name: one for name, one in spec.data_sha256.items() if name != "gate"},
    )
    frame = Explanation(study="one", model="digits", version=1, profile=shared.profile)
    publish(Store(str(home)), shared, frame, this_host(spec.cpus))
    return shared, home


def _asked(study: str, storage: str = "", environment: dict[str, str] | None = None) -> str:
    """What somebody is told who cannot take part."""
    with pytest.raises(HoneError) as refused:
        take_part(
            Invitation(study=study, storage=storage, home=Path("nowhere"), minutes=0.0),
            environment or {},
            print,
        )
    assert "secret" not in str(refused.value)
    return str(refused.value)


def test_a_worker_that_cannot_take_part_says_what_was_expected(
    published: tuple[JobSpec, Path], database: str, tmp_path: Path
) -> None:
    _, home = published
    assert "hone:secret" not in (home / "studies/one/spec.json").read_text(encoding="utf-8")
    assert "no study goes on in the store" in _asked(str(tmp_path / "nothing"))
    assert "has no study other; studies there: one" in _asked(f"{home}/studies/other")
    assert "env:NOWHERE" in _asked(str(home), "env:NOWHERE")
    unreachable = _asked(str(home), "env:HERE", {"HERE": "postgresql://hone:secret@127.0.0.1:1/n"})
    assert "postgresql://hone:***@127.0.0.1:1/n" in unreachable
    assert "onnection" in unreachable
    assert "password" in _asked(str(home), database.replace(PASSWORD, "secret"))
    empty = _asked(str(home), f"sqlite:///{tmp_path}/empty.sqlite")
    assert "has no study one; expected the one that the search keeps it in" in empty
    assert "Protocol not known: nonsense" in _asked("nonsense://hone:secret@host/path")


def test_what_the_dead_left_goes_and_what_the_living_have_stays(
    published: tuple[JobSpec, Path], tmp_path: Path
) -> None:
    """Whoever lives holds a lock on his directory, in whatever container he is."""
    _, store = published
    empty = tmp_path / "store"
    shutil.copytree(store, empty, ignore=shutil.ignore_patterns("blobs"))
    url = f"sqlite:///{tmp_path}/study.sqlite"
    Ledger(open_database(url), "one", "original").close()
    home = tmp_path / "home"
    for name in ("process-1", "process-2"):
        (home / name / "files").mkdir(parents=True)
    living = os.open(home / "process-1", os.O_RDONLY)
    fcntl.flock(living, fcntl.LOCK_EX)
    invitation = Invitation(study=str(empty), storage=url, home=home, minutes=0.0)
    with pytest.raises(InvalidData, match="is missing in the store"):
        take_part(invitation, {}, print)
    os.close(living)
    assert [entry.name for entry in home.iterdir()] == ["process-1"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotSupported, match=r"--home .*file cannot be used"):
        take_part(replace(invitation, home=tmp_path / "file"), {}, print)


def test_another_hone_is_refused_and_a_store_with_several_studies_asks_which(
    published: tuple[JobSpec, Path], tmp_path: Path
) -> None:
    _, home = published
    content = json.loads((home / "studies/one/spec.json").read_bytes())
    store = Store(f"local://{tmp_path}")
    content["version"] = "0.0.9"
    store.write("studies/old/spec.json", json.dumps(content).encode())
    assert "was begun by Hone 0.0.9" in _asked(str(tmp_path))
    store.write("studies/new/spec.json", b"{}")
    assert f"{tmp_path}/studies/new, {tmp_path}/studies/old" in _asked(str(tmp_path))
    assert "cannot be read" in _asked(f"{tmp_path}/studies/new")
    (tmp_path / "studies/new/ended.json").write_bytes(b'{"because": ')
    assert "was begun by Hone 0.0.9" in _asked(str(tmp_path))
    with pytest.raises(InvalidData, match="no name of a study"):
        read_shared(store, "../new")
    content = json.loads((home / "studies/one/spec.json").read_bytes())
    content["frame"]["study"] = "../../elsewhere"
    store.write("studies/other/spec.json", json.dumps(content).encode())
    with pytest.raises(InvalidData, match="cannot be read"):
        read_shared(store, "other")


def test_what_comes_from_a_store_is_checked_by_its_digests(
    published: tuple[JobSpec, Path], tmp_path: Path
) -> None:
    spec, home = published
    store = Store(str(home))
    shared = read_shared(store, "one")
    assert shared.spec.data.keys() == {"calibration", "train", "search"}
    there = localised(store, shared, tmp_path / "a")
    assert file_sha256(there.original_file) == spec.original_sha256
    assert there.data["search"].read_bytes() == spec.data["search"].read_bytes()

    outside = replace(shared, files={"../outside": spec.original_sha256})
    with pytest.raises(InvalidData, match="expected a path below"):
        localised(store, outside, tmp_path / "b")
    assert not (tmp_path / "outside").exists()
    other = replace(shared, files={**shared.files, "model/model.onnx": spec.data_sha256["train"]})
    with pytest.raises(HoneError):
        localised(store, other, tmp_path / "c")
    nested = replace(shared, files={**shared.files, "model/model.onnx/x": spec.original_sha256})
    with pytest.raises(InvalidData, match="cannot be put into"):
        localised(store, nested, tmp_path / "e")
    blob = home / "blobs" / spec.data_sha256["search"]
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InvalidData, match="is damaged"):
        localised(store, shared, tmp_path / "d")
    blob.unlink()
    with pytest.raises(InvalidData, match="is missing"):
        localised(store, shared, tmp_path / "d")
    blob.write_bytes(whole)


def test_folders_of_images_and_weights_beside_a_model_are_shared_by_their_names(
    published: tuple[JobSpec, Path], tmp_path: Path
) -> None:
    spec, _ = published
    model = tmp_path / "here" / "model.onnx"
    (model.parent / "weights").mkdir(parents=True)
    onnx.save(
        onnx.load(spec.original_file),
        model,
        save_as_external_data=True,
        location="weights/all.bin",
        size_threshold=0,
    )
    images = tmp_path / "here" / "photographs"
    for name in ("cats/one.png", "dogs/one.png", "dogs/two.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(name.encode())
    (images / "birds").mkdir()
    spec = replace(
        spec,
        original_file=model,
        original_sha256=read_onnx_file(model).sha256(),
        data={"train": images},
        data_sha256={"train": data_sha256(images, spec.preprocess)},
    )
    frame = Explanation(study="two", model="digits", version=1, profile=spec.profile)
    store = Store(str(tmp_path / "store"))
    publish(store, spec, frame, this_host(spec.cpus))
    there = localised(store, read_shared(store, "two"), tmp_path / "there")
    assert there.original_file.is_relative_to(tmp_path / "there")
    assert read_onnx_file(there.original_file).sha256() == spec.original_sha256
    assert (there.data["train"] / "dogs/two.png").read_bytes() == b"dogs/two.png"
    assert (there.data["train"] / "birds").is_dir()


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_candidates_arrive_whole_or_not_at_all(
    scheme: str, published: tuple[JobSpec, Path], tmp_path: Path
) -> None:
    spec, _ = published
    made = tmp_path / "made"
    (made / "weights").mkdir(parents=True)
    (made / "model.onnx").write_bytes(b"model")
    (made / "weights" / "w.bin").write_bytes(b"weights")
    recipe = Recipe(steps=(DynamicInt8(),))
    built = Built(recipe=recipe, session=spec.original_session, records=(), built_with={})
    handover = Handover(Store(f"{scheme}{tmp_path}/store"), "one")
    assert handover.take(recipe, tmp_path / "none") is None
    handover.give(made, built)
    assert handover.take(recipe, tmp_path / "arrived") == built
    assert (tmp_path / "arrived/weights/w.bin").read_bytes() == b"weights"
    for file in tmp_path.glob(f"store/studies/one/candidates/*/{file_sha256(made / 'model.onnx')}"):
        file.write_bytes(b"medol")
    with pytest.raises(InvalidData, match="is damaged"):
        handover.take(recipe, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()
    for content in (b'{"built": ', _without_model(tmp_path)):
        next(tmp_path.glob("store/studies/one/candidates/*/candidate.json")).write_bytes(content)
        with pytest.raises(InvalidData, match=r"cannot be read|names no model\.onnx"):
            handover.take(recipe, tmp_path / "unread")
    handover.keep_only([recipe])
    assert list(tmp_path.glob("store/studies/one/candidates/*"))
    handover.keep_only([])
    assert handover.take(recipe, tmp_path / "gone") is None


def test_who_waits_for_a_large_file_hears_that_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    store, heard = Store(str(tmp_path / "store")), Counter[str]()
    for _ in range(2):
        store.put(tmp_path / "large", went_on=lambda: heard.update(["part"]))
    assert heard["part"] == 3, "what is there already is not written again"


def test_a_store_of_objects_does_as_a_file_system_does(
    published: tuple[JobSpec, Path], tmp_path: Path
) -> None:
    """One that knows no rename, and folders only by what is in them, as those of clouds."""
    spec, _ = published
    store = Store(f"memory://{uuid4().hex}/hone")
    frame = Explanation(study="one", model="digits", version=1, profile=spec.profile)
    for _ in range(2):
        publish(store, spec, frame, this_host(spec.cpus))
        assert why_study_ended(store, "one") == ""
        end_study(store, "one", "done")
        assert why_study_ended(store, "one") == "done"
    there = localised(store, read_shared(store, "one"), tmp_path / "there")
    assert file_sha256(there.original_file) == spec.original_sha256
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.onnx").write_bytes(b"model")
    recipe = Recipe(steps=(DynamicInt8(),))
    built = Built(recipe=recipe, session=spec.original_session, records=(), built_with={})
    handover = Handover(store, "one")
    for _ in range(2):
        handover.give(tmp_path / "made", built)
    assert handover.take(recipe, tmp_path / "arrived") == built
    handover.keep_only([])
    assert handover.take(recipe, tmp_path / "gone") is None
    remove_study(store, "one")
    assert store.folders("studies") == ()
    with pytest.raises(InvalidData, match="is missing"):
        store.take(spec.original_sha256, tmp_path / "none")


def _without_model(directory: Path) -> bytes:
    [document] = directory.glob("store/studies/one/candidates/*/candidate.json")
    content = json.loads(document.read_bytes())
    del content["files"]["model.onnx"]
    return json.dumps(content).encode()


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotSupported, match="cannot be used"):
        Store(f"{tmp_path}/file/below").write("name", b"")


def test_a_worker_leaves_when_told_when_its_time_is_over_and_when_the_search_ends(
    tmp_path: Path,
) -> None:
    former = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    store = Store(str(tmp_path))
    (tmp_path / "studies/one").mkdir(parents=True)
    try:
        assert Dismissal(store, "one", minutes=1e-9)() == "its 1e-09 minutes here are over"
        leave = Dismissal(store, "one", minutes=0)
        assert leave() == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert leave() == "it was told to by SIGTERM"
        os.mkfifo(tmp_path / "studies/one/ended.json")
        told = threading.Thread(target=_told_amid_a_look, args=[tmp_path])
        leave = Dismissal(store, "one", minutes=0)
        told.start()
        assert leave() == "it was told to by SIGTERM"
        told.join()
        (tmp_path / "studies/one/ended.json").unlink()
        end_study(store, "one", "trial 3 is good enough")
        assert Dismissal(store, "one", minutes=0)() == "trial 3 is good enough"
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


def _told_amid_a_look(store: Path) -> None:
    """The look waits for somebody to open the other end."""
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    (store / "studies/one/ended.json").open("wb").close()


def test_a_worker_leaves_once_nobody_has_run_the_search_for_long(tmp_path: Path) -> None:
    now = [1000.0]
    engine = open_database(f"sqlite:///{tmp_path}/study.sqlite")
    main, guest = (
        Leases(engine, "one", owner=name, clock=lambda: now[0]) for name in ("main", "guest")
    )
    told: list[str] = []

    def asked() -> str:
        return Leaving(lambda: "".join(told), guest, patience_s=600.0)()

    assert asked() == "", "nobody has begun it, and nothing is known"
    with ExitStack() as killed:
        killed.enter_context(main.running_the_search())
        now[0] += 629
        assert asked() == "", "its lease of 30 s has run out, but it may be taken up again"
        now[0] += 2
        assert "nobody runs the search" in asked()
        with main.running_the_search():
            assert asked() == ""
            guest.free_the_dead()
            assert not guest.others_hold(), "it is no trial"
        assert "nobody runs the search" in asked(), "it was let go of"
    told.append("told to")
    assert asked() == "told to"
    engine.dispose()


def test_who_leaves_gives_his_trial_back_and_says_how_his_machine_differs(tmp_path: Path) -> None:
    told: list[str] = []

    class ToldMeanwhile:
        def evaluate(self, recipe: Recipe, level: Level) -> Measured:
            told.append("it was told to")
            raise TimeIsUp

    clock, space = Clock(), space_over("simplify", "dynamic_int8")
    limits = Limits(trials=10, seconds=1e6)
    _, memory = study_of(tmp_path, space, GOAL, ToldMeanwhile(), limits=limits, clock=clock)
    try:
        study = Study(
            GOAL,
            limits,
            memory,
            Ladder(),
            ToldMeanwhile(),
            worker="elsewhere:1",
            differs="CPU features differ: avx512_vnni",
            clock=clock,
            leave=lambda: "".join(told),
        )
        assert study.run() == "it was told to"
        (trial,) = trials(memory)
        assert (trial.state, trial.worker) == (TrialState.RUNNING, "elsewhere:1")
        assert trial.differs == "CPU features differ: avx512_vnni"
        lease = memory.leases.claim(trial.number)
        assert lease is not None
        assert lease.attempt == 1
    finally:
        close(memory)


def test_only_candidates_that_may_win_or_are_new_stay(tmp_path: Path, spec: JobSpec) -> None:
    seen: list[Recipe] = []

    def faster_and_faster(recipe: Recipe) -> float:
        seen.append(recipe)
        return 1 / (1 + len(seen))

    def truest_at_first(recipe: Recipe) -> float:
        return 0.99 if recipe == seen[0] else 0.95

    goal = Goal(optimize=(FigureName.LATENCY_P50, FigureName.AGREEMENT))
    clock, space = Clock(), space_over("merge", "prune_channels", goal=goal)
    replay = Replay(clock, faster_and_faster, truest_at_first)
    limits = Limits(trials=8, seconds=1e6)
    study, memory = study_of(
        tmp_path, space, goal, replay, limits=limits, clock=clock, sampler=Sampler.RANDOM
    )
    try:
        handover = Handover(Store(f"{tmp_path}/store"), "one")
        delivery = Delivery(handover, goal, memory.ledger)
        study.run()
        ended = [one for one in trials(memory) if one.state is TrialState.COMPLETE]
        for one in ended:
            recipe = at_level(one.recipe, Level(index=2, training_share=1.0))
            (tmp_path / "made").mkdir(exist_ok=True)
            (tmp_path / "made" / "model.onnx").write_bytes(str(one.number).encode())
            made = Built(recipe=recipe, session=spec.original_session, records=(), built_with={})
            delivery.give(Candidate(model=tmp_path / "made" / "model.onnx", built=made))
        best = outcome(goal, ended).front
        assert best == (ended[-1], ended[0])
        missed = replace(ended[-2], violation=0.1)
        memory.ledger.amend(Entry(trial=missed))
        delivery.tidy()
        stay = {one.number for one in (ended[0], ended[-4], ended[-3], ended[-1])}
        cache = Artefacts(tmp_path / "cache", 1 << 20)
        for one in ended:
            arrived = delivery.fetch(one.recipe, tmp_path / "arrived", spec, cache)
            assert (arrived is not None) == (one.number in stay)
    finally:
        close(memory)


def test_how_a_model_is_opened_is_chosen_where_it_is_served(tmp_path: Path, spec: JobSpec) -> None:
    clock, space = Clock(), space_over("simplify", "dynamic_int8")
    replay, limits = Replay(clock, cost, lambda recipe: 0.99), Limits(trials=1, seconds=1e6)
    _, memory = study_of(tmp_path, space, GOAL, replay, limits=limits, clock=clock)
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.onnx").write_bytes(spec.original_file.read_bytes())
    recipe, whole = Recipe(steps=(DynamicInt8(),)), Recipe(steps=(DynamicInt8(), TuneSession()))
    made_from = Ingredients(
        task=spec.task,
        seed=0,
        original_sha256=spec.original_sha256,
        original_session=spec.original_session,
        data_sha256={name: one for name, one in spec.data_sha256.items() if name != "gate"},
        models_sha256={},
        host=this_host(1),
        versions={},
        code_sha256=code_sha256(),
    )
    built = Built(
        recipe=recipe,
        session=spec.original_session,
        records=(StepRecord(step="dynamic_int8", modified=True, notes=()),),
        built_with={},
        made_from=made_from,
    )
    try:
        delivery = Delivery(Handover(Store(f"{tmp_path}/store"), "one"), GOAL, memory.ledger)
        delivery.give(Candidate(model=made / "model.onnx", built=built))
        original = replace(built, recipe=Recipe())
        delivery.give(Candidate(model=spec.original_file, built=original))
        assert len(list(tmp_path.glob("store/studies/one/candidates/*"))) == 1
        cache = Artefacts(tmp_path / "cache", 1 << 30)
        assert delivery.fetch(whole, tmp_path / "arrived", spec, cache) is None
        assert not (tmp_path / "arrived").exists()
        key = step_keys(made_from, whole.steps)[0]
        taken = cache.take(key, tmp_path / "taken")
        assert taken is not None
        assert file_sha256(taken.model) == spec.original_sha256

        foreign = replace(made_from, original_sha256="0" * 64)
        delivery.give(Candidate(model=made / "model.onnx", built=replace(built, made_from=foreign)))
        assert delivery.fetch(whole, tmp_path / "arrived", spec, cache) is None
        assert cache.take(step_keys(foreign, whole.steps)[0], tmp_path / "other") is None
        assert delivery.fetch(recipe, tmp_path / "arrived", spec, cache) is None
    finally:
        close(memory)
