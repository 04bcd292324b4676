"""A server takes as many processors as it was given, and shows how it splits them."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from optimizers.contract.host import cpu_budget
from server.rpc.transport import io_threads
from tests.support import models
from tests.support.servers import Server, hone, running

_CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    return tmp_path / "models"


@pytest.fixture(params=["below", "above"])
def quota(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A control group that may use one and a half processors, by its own limit or one above."""
    unified = (_CGROUPS / "cgroup.controllers").is_file()
    outer = (_CGROUPS if unified else _CGROUPS / "cpu") / f"hone-test-{os.getpid()}"
    inner = outer / "inner"
    limited = inner if request.param == "below" else outer
    limit = {"cpu.max": "150000 100000"} if unified else {"cpu.cfs_quota_us": "150000"}
    try:
        outer.mkdir()
        inner.mkdir()
        if unified:
            for group in (_CGROUPS, outer):
                (group / "cgroup.subtree_control").write_text("+cpu")
        for file, text in limit.items():
            (limited / file).write_text(text)
        yield inner
    except OSError as error:
        pytest.skip(f"NOT TESTED UNDER A QUOTA: needs control groups to write to: {error}")
    finally:
        for group in (inner, outer):
            with suppress(OSError):
                group.rmdir()


def gauges(server: Server) -> dict[str, float]:
    """Name → value of the gauges without labels or with those of a variant."""
    with urllib.request.urlopen(server.metrics) as answer:
        text = answer.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.type == "gauge"
    }


def split(server: Server) -> tuple[float, float, float]:
    """Processors, lanes, threads inside one run."""
    shown = gauges(server)
    return shown["hone_cpu_budget"], shown["hone_session_lanes"], shown["hone_session_threads"]


def test_one_processor_makes_one_lane(repository: Path, tmp_path: Path) -> None:
    taskset = shutil.which("taskset")
    if taskset is None:
        pytest.skip("NOT TESTED ON ONE PROCESSOR: needs taskset (Debian: util-linux)")
    one = str(min(os.sched_getaffinity(0)))
    with running(repository, tmp_path / "state", under=(taskset, "-c", one)) as server:
        assert split(server) == (1, 1, 1)
        listed = hone("models", admin=server.admin).stdout.splitlines()
        words = [set(line.replace("│", " ").split()) for line in listed]
        assert any({"cpu", "1x1"} <= line for line in words), listed


def test_one_and_a_half_processors_make_one_lane(
    repository: Path, tmp_path: Path, quota: Path
) -> None:
    join = ("sh", "-c", f'echo $$ > {quota}/cgroup.procs && exec "$@"', "sh")
    with running(repository, tmp_path / "state", under=join) as server:
        assert split(server) == (1, 1, 1)


@pytest.mark.parametrize(("threads", "lanes"), [(1, 2), (2, 1), (8, 1)])
def test_lanes_and_threads_stay_within_the_budget(
    repository: Path, tmp_path: Path, threads: int, lanes: int
) -> None:
    (repository / "linear/config.pbtxt").write_text(
        "instance_group [ { count: 16 kind: KIND_CPU } ] "
        f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}'
    )
    with running(repository, tmp_path / "state", "--cpus", "2") as server:
        assert split(server) == (2, lanes, min(threads, 2))
        assert f"{lanes}x{min(threads, 2)}" in hone("models", admin=server.admin).stdout


def test_few_processors_have_one_thread_that_reads_and_writes(
    repository: Path, tmp_path: Path
) -> None:
    assert [io_threads(processors) for processors in (1, 1.5, 2, 2.5, 64)] == [1, 1, 1, 2, 2]
    pytest.importorskip("pygrpc_native")
    with running(repository, tmp_path / "state", "--transport", "native") as server:
        tasks = Path(f"/proc/{server.process.pid}/task").glob("*/comm")
        names = [file.read_text(encoding="utf-8").strip() for file in tasks]
    assert names.count("grpc-native-io") == io_threads(cpu_budget())


def test_a_closed_variant_leaves_the_split(repository: Path, tmp_path: Path) -> None:
    with running(repository, tmp_path / "state") as server:
        assert "hone_session_lanes" in gauges(server)
        assert hone("unload", "linear", admin=server.admin).returncode == 0
        assert "hone_session_lanes" not in gauges(server)
        assert "hone_session_threads" not in gauges(server)
