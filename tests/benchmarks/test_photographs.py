"""Photographs are found, dealt out and cropped as the gains say they are."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.gains.crops import SIDE, Part, crops_of, split
from benchmarks.gains.photographs import Photograph
from benchmarks.gains.qt_resources import resources
from optimizers.contract.errors import InvalidData


def photograph(name: str, left: int, right: int) -> Photograph:
    """A dark and a bright half, twice as wide as it is high."""
    pixels = np.full((300, 600, 3), left, np.uint8)
    pixels[:, 300:] = right
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return Photograph(name=name, encoded=stream.getvalue())


def test_every_photograph_is_dealt_to_one_part_and_the_last_gets_the_rest() -> None:
    part = Part(photographs=3, crops=1, least_area=0.5, mirrored=False)
    some = [Photograph(name=str(number), encoded=b"") for number in range(10)]
    dealt = split(some, {"gate": part, "search": part, "train": part}, seed=1)
    assert [len(one) for one in dealt.values()] == [3, 3, 4]
    assert {one.name for group in dealt.values() for one in group} == set(map(str, range(10)))
    assert dealt == split(some, {"gate": part, "search": part, "train": part}, seed=1)


def test_crops_are_scaled_as_the_model_expects_and_carry_their_photograph() -> None:
    part = Part(photographs=2, crops=3, least_area=0.5, mirrored=False)
    crops, names = crops_of([photograph("a", 127, 127), photograph("b", 0, 255)], part, seed=0)
    assert crops.shape == (6, 3, SIDE, SIDE)
    assert crops.dtype == np.float32
    assert sorted(names) == ["a", "a", "a", "b", "b", "b"]
    assert list(names) != sorted(names), "the first so many are of several photographs"
    grey, halves = crops[names == "a"], crops[names == "b"]
    assert np.all(grey == 0), "(127 - 127) / 128"
    assert halves.min() == np.float32(-127 / 128)
    assert halves.max() == np.float32(1)
    assert not np.array_equal(halves[0], halves[1]), "each crop is another one"


def test_only_mirrored_crops_are_turned_round() -> None:
    """The photograph is dark on the left."""
    for mirrored, turned in ((False, 0), (True, 1)):
        part = Part(photographs=1, crops=12, least_area=0.9, mirrored=mirrored)
        crops, _ = crops_of([photograph("b", 0, 255)], part, seed=0)
        left, right = crops[..., : SIDE // 2].mean(), crops[..., SIDE // 2 :].mean()
        dark_on_the_right = (crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).sum()
        assert (dark_on_the_right > 0) == bool(turned), (left, right)


def archive(version: int) -> bytes:
    """`/pictures/a.webp`, stored, and `/pictures/b.webp`, compressed."""
    names, places = b"", []
    for name in ("pictures", "a.webp", "b.webp"):
        places.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    contents = struct.pack(">I", 4) + b"webp" + struct.pack(">I", 1) + b"z"
    time = bytes(8) if version > 1 else b""
    entries = (
        struct.pack(">IHII", 0, 2, 1, 1) + time,
        struct.pack(">IHII", places[0], 2, 2, 2) + time,
        struct.pack(">IHHHI", places[1], 0, 0, 0, 0) + time,
        struct.pack(">IHHHI", places[2], 1, 0, 0, 8) + time,
    )
    tree = b"".join(entries)
    header = struct.pack(
        ">4sIIII", b"qres", version, 20, 20 + len(tree), 20 + len(tree) + len(contents)
    )
    return header + tree + contents + names


@pytest.mark.parametrize("version", [1, 2])
def test_a_resource_archive_gives_its_stored_files(tmp_path: Path, version: int) -> None:
    file = tmp_path / "lesson.rcc"
    file.write_bytes(archive(version))
    assert list(resources(file)) == [("/pictures/a.webp", b"webp")]


@pytest.mark.parametrize("content", [b"", b"RIFF" + bytes(40), archive(1)[:4] + bytes(30)])
def test_what_is_no_resource_archive_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "lesson.rcc"
    file.write_bytes(content)
    with pytest.raises(InvalidData, match=r"lesson\.rcc is no Qt resource archive"):
        list(resources(file))
