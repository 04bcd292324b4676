"""What a conversion leaves behind is a stranger's, and what was kept is what it was then.

The converter is a stand-in that does what code in a program could do, in a process of its own.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from optimizers.contract.errors import InvalidModel
from server.conversion import Conversion, ConversionLimits, Source
from server.growth import is_outgrown
from tests.support import models
from tests.support.processes import gone

CONVERTS = """
import pathlib, shutil, sys
target = pathlib.Path(sys.argv[-1])
target.mkdir()
shutil.copy({model!r}, target / "model.onnx")
(target / "conversion.json").write_text('{{"batch": null, "largest_difference": 0}}')
open({ran!r}, "a").write("x")
"""


def conversion(folder: Path, script: str, *, timeout_s: float = 60) -> Conversion:
    return Conversion(
        folder / "converted",
        ConversionLimits(timeout_s=timeout_s, memory_bytes=0),
        lambda size_bytes: None,
        allowed=True,
        command=(sys.executable, "-c", script),
    )


def converts(folder: Path) -> Conversion:
    model = models.linear(folder / "made.onnx")
    return conversion(folder, CONVERTS.format(model=str(model), ran=str(folder / "ran")))


def source(made_by: Conversion, folder: Path, content: bytes = b"a program") -> Source:
    file = folder / "model.pt2"
    file.write_bytes(content)
    return made_by.find(file, "net", 1, ())


def runs(folder: Path) -> int:
    return len((folder / "ran").read_text())


async def convert(by: Conversion, what: Source) -> Path:
    await by.convert(what, lambda said: None)
    return what.model_file


@pytest.mark.parametrize("instead", ["os.symlink({secret!r}, '../log')", "os.mkfifo('../log')"])
async def test_a_link_or_a_pipe_in_the_place_of_the_log_says_nothing(
    tmp_path: Path, instead: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token=hunter2\n")
    plants = f"import os; os.unlink('../log'); {instead.format(secret=str(secret))}; os._exit(3)"
    made_by = conversion(tmp_path, plants)
    with pytest.raises(InvalidModel, match="ended with status 3: it said nothing"):
        await convert(made_by, source(made_by, tmp_path))


async def test_what_serves_stays_while_its_successors_come(tmp_path: Path) -> None:
    made_by = converts(tmp_path)
    made = [await convert(made_by, source(made_by, tmp_path, bytes([n]))) for n in range(3)]
    assert all(file.exists() for file in made)
    converts(tmp_path)
    assert [file.exists() for file in made] == [False, False, True]


@pytest.mark.parametrize("damage", ["changed", "a folder", "gone"])
async def test_what_is_not_as_it_was_kept_is_converted_again(tmp_path: Path, damage: str) -> None:
    made_by = converts(tmp_path)
    what = source(made_by, tmp_path)
    file = await convert(made_by, what)
    content = file.read_bytes()
    await convert(made_by, what)
    assert runs(tmp_path) == 1
    file.unlink()
    if damage == "changed":
        file.write_bytes(content + b"\0")
    elif damage == "a folder":
        file.mkdir()
    await convert(made_by, what)
    assert runs(tmp_path) == 2
    assert file.read_bytes() == content


async def test_nothing_is_started_once_the_server_stops(tmp_path: Path) -> None:
    made_by = converts(tmp_path)
    made_by.close()
    with pytest.raises(InvalidModel, match="the server stops"):
        await convert(made_by, source(made_by, tmp_path))
    assert not (tmp_path / "ran").exists()


async def test_at_its_limit_a_process_is_ended_with_what_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    hangs = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(started)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(1000)"
    )
    made_by = conversion(tmp_path, hangs, timeout_s=2)
    with pytest.raises(InvalidModel, match="took longer than 2 s and was ended"):
        await convert(made_by, source(made_by, tmp_path))
    await gone([int(process) for process in started.read_text().split()], within_s=10)
    assert not list((tmp_path / "converted").iterdir())


async def test_more_than_expected_in_many_files_ends_the_process_that_wrote_it(
    tmp_path: Path,
) -> None:
    fills = (
        "import os, time\n"
        "for n in range(4):\n"
        "    file = os.open(f'part{n}', os.O_CREAT | os.O_WRONLY)\n"
        "    os.posix_fallocate(file, 0, 80 << 20)\n"
        "time.sleep(1000)"
    )
    made_by = conversion(tmp_path, fills)
    with pytest.raises(InvalidModel, match="wrote more than the 256 MiB that a program"):
        await convert(made_by, source(made_by, tmp_path))
    assert not list((tmp_path / "converted").iterdir())


async def test_countless_empty_files_are_too_much_as_well(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).mkdir()
    assert is_outgrown(tmp_path, 9 * 4096)
    assert not is_outgrown(tmp_path, 10 * 4096)


async def test_a_conversion_ends_once_it_is_not_wanted_and_not_for_another_model(
    tmp_path: Path,
) -> None:
    started = tmp_path / "started"
    made_by = conversion(tmp_path, f"open({str(started)!r}, 'w'); import time; time.sleep(1000)")
    what = source(made_by, tmp_path)
    under_way = asyncio.create_task(convert(made_by, what))
    async with asyncio.timeout(60):
        while not started.exists():
            await asyncio.sleep(0.01)
    waits = asyncio.create_task(convert(made_by, made_by.find(what.file, "other", 1, ())))
    await asyncio.sleep(0.1)
    with made_by.only("net", (what.directory,), "something else is to be loaded"):
        await asyncio.sleep(0.1)
    assert not under_way.done()
    with made_by.only("other", (), "the model is unloaded"):
        with pytest.raises(InvalidModel, match="not converted: the model is unloaded"):
            await waits
        with pytest.raises(InvalidModel, match="not converted: the model is unloaded"):
            await convert(made_by, made_by.find(what.file, "other", 1, ()))
    assert not under_way.done()
    bar = made_by.only("net", (), "the model is unloaded")
    with bar, pytest.raises(InvalidModel, match="not converted: the model is unloaded"):
        await under_way
    assert not list((tmp_path / "converted").iterdir())
