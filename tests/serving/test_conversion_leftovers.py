"""What a conversion leaves behind is a stranger's, and what was kept is what it was then.

The converter is a stand-in that does what code in a program could do, in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from optimizers.contract.errors import InvalidModel
from server.conversion import Conversion, ConversionLimits, Source
from tests.support import models

CONVERTS = """
import pathlib, shutil, sys
target = pathlib.Path(sys.argv[-1])
target.mkdir()
shutil.copy({model!r}, target / "model.onnx")
(target / "conversion.json").write_text('{{"batch": null, "largest_difference": 0}}')
open({ran!r}, "a").write("x")
"""


def conversion(folder: Path, script: str) -> Conversion:
    return Conversion(
        folder / "converted",
        ConversionLimits(timeout_s=60, memory_bytes=0),
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
