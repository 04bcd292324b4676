"""Folders of images as data: right pixels, right labels, and nothing that hurts the reader."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from optimizers.calibration import load_arrays, load_in_parts
from optimizers.contract.data_files import ImageFolder, data_sha256, write_image_folder
from optimizers.contract.errors import InvalidData
from optimizers.contract.preprocessing import Colour, Layout, Preprocessing, Resampling
from optimizers.evaluation.disjoint import check_disjoint
from optimizers.evaluation.labelled import check_labelled
from optimizers.readers.decoding import decode
from optimizers.readers.pixels import prepared
from tests.support.images import folder, noise, save, takes

PLAIN = takes(3, 8, 8)
IMAGENET = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def described(tmp_path: Path, path: Path, wish: Preprocessing) -> Path:
    return write_image_folder(tmp_path, "train", ImageFolder(path=path, preprocess=wish))


def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One loop a channel, in another order of operations."""
    planes = []
    for channel, (mean, std) in enumerate(zip(IMAGENET.mean, IMAGENET.std, strict=True)):
        planes.append(pixels[:, :, channel] / (255 * std) - mean / std)
    return np.stack(planes)


def test_items_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    home = folder(tmp_path / "train", classes=3, each=4)
    images, labels = load_arrays(described(tmp_path, home, IMAGENET), PLAIN)
    assert labels is not None
    assert sorted(labels) == [0] * 4 + [1] * 4 + [2] * 4
    for label in range(3):
        theirs = [normalised(noise(label * 4 + number)) for number in range(4)]
        for item in images["image"][labels == label]:
            apart = [np.abs(item - one).max() for one in theirs]
            assert min(apart) < 1e-5
            assert sorted(apart)[1] > 1e-2, "the check would find a wrong picture"


def test_the_first_items_are_of_every_class_and_always_the_same(tmp_path: Path) -> None:
    home = folder(tmp_path / "train", classes=4, each=25)
    first, labels = load_arrays(home, PLAIN, 24)
    assert labels is not None
    assert set(labels) == {0, 1, 2, 3}, "sorted by name, all 24 would be of the first class"
    again, _ = load_arrays(home, PLAIN, 24)
    np.testing.assert_array_equal(first["image"], again["image"])
    parts = [part["image"] for part in load_in_parts(home, PLAIN, 7)]
    assert [len(part) for part in parts] == [7] * 14 + [2]
    np.testing.assert_array_equal(np.concatenate(parts)[:24], first["image"])


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"flat/{number}.JPG", noise(number))
    (tmp_path / "flat/.DS_Store").write_bytes(b"left by a file manager")
    images, labels = load_arrays(tmp_path / "flat", PLAIN)
    assert labels is None
    assert images["image"].shape == (3, 3, 8, 8)


@pytest.mark.parametrize("colour", list(Colour))
@pytest.mark.parametrize("layout", list(Layout))
def test_colour_and_layout(colour: Colour, layout: Layout) -> None:
    pixels = noise(1, 5, 7)
    image = Image.fromarray(pixels[:, :, 0] if colour is Colour.GREY else pixels)
    item = prepared(image, Preprocessing(colour=colour, layout=layout), "x")
    wanted = {Colour.RGB: pixels, Colour.BGR: pixels[:, :, ::-1], Colour.GREY: pixels[:, :, :1]}
    channels_last = item.transpose(1, 2, 0) if layout is Layout.NCHW else item
    assert item.dtype == np.uint8, "no arithmetic was asked for"
    np.testing.assert_array_equal(channels_last, wanted[colour])


def test_grey_is_repeated_for_rgb_and_rgb_is_never_made_grey() -> None:
    grey = Image.fromarray(noise(2)[:, :, 0])
    item = prepared(grey, Preprocessing(), "x")
    assert (item[0] == item[1]).all()
    assert (item[0] == item[2]).all()
    with pytest.raises(InvalidData, match=r"a.png has RGB colours, expected grey"):
        prepared(Image.fromarray(noise(2)), Preprocessing(colour=Colour.GREY), "a.png")


def test_the_shorter_side_is_resized_and_the_middle_cut_out() -> None:
    wide = Image.fromarray(noise(3, 20, 45))
    high = wide.transpose(Image.Transpose.ROTATE_90)
    whole = prepared(wide, Preprocessing(resize=10), "x")
    assert whole.shape == (3, 10, 22), "45 * 10 / 20 rounded down"
    assert prepared(high, Preprocessing(resize=10), "x").shape == (3, 22, 10)
    cut = prepared(wide, Preprocessing(resize=10, crop=(8, 8)), "x")
    np.testing.assert_array_equal(cut, whole[:, 1:9, 7:15])
    both = prepared(wide, Preprocessing(resize=(6, 30)), "x")
    assert both.shape == (3, 6, 30)
    with pytest.raises(
        InvalidData, match="x has 22 x 10 pixels after resizing, expected at least 8 x 12"
    ):
        prepared(wide, Preprocessing(resize=10, crop=(12, 8)), "x")


def test_bilinear_resizing_to_half_weighs_like_a_triangle() -> None:
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], 4, axis=0).repeat(3, 2)
    half = prepared(Image.fromarray(ramp), Preprocessing(resize=(4, 8)), "x")[0, 0]
    weights = np.array([1, 3, 3, 1]) / 8  # a triangle four pixels wide, at its middles
    inner = [weights @ ramp[0, 2 * at - 1 : 2 * at + 3, 0] for at in range(1, 7)]
    np.testing.assert_allclose(half[1:7], inner, atol=1)
    nearest = prepared(
        Image.fromarray(ramp), Preprocessing(resize=(4, 8), resampling=Resampling.NEAREST), "x"
    )[0, 0]
    assert np.abs(nearest[1:7] - np.array(inner)).max() > 1, "the check tells filters apart"


PLANTED = {
    "rgba": ("RGBA", "RGB with alpha"),
    "palette": ("P", "a palette"),
    "grey_alpha": ("LA", "grey with alpha"),
    "bits": ("1", "1 bit a pixel"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_other_kinds_of_pixels_are_refused(tmp_path: Path, kind: str) -> None:
    mode, said = PLANTED[kind]
    home = folder(tmp_path / "train")
    save(home / "class1/odd.png", noise(9), mode)
    expected = f"train/class1/odd.png has {said}, expected grey or RGB with 8 bits a channel"
    with pytest.raises(InvalidData, match=expected):
        load_arrays(home, PLAIN)


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_sixteen_bits_are_refused_which_pillow_would_halve_without_a_word(tmp_path: Path) -> None:
    rgb = tmp_path / "rgb.png"
    rgb.write_bytes(png(8, 8, 16, 2, (b"\0" + bytes(range(48))) * 8))
    with Image.open(rgb) as image:
        assert image.mode == "RGB"
    grey = tmp_path / "grey.png"
    grey.write_bytes(png(8, 8, 16, 0, (b"\0" + bytes(range(16))) * 8))
    for path in (rgb, grey):
        with pytest.raises(InvalidData, match=rf"{path.name} has 16 bits a channel, expected"):
            decode(path, path.name)


def test_a_bomb_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    for width, height in ((16_000, 16_000), (9_000, 9_000), (100_000, 2), (60_000, 60_000)):
        bomb.write_bytes(png(width, height, 8, 2, bytes(1 << 20)))
        tracemalloc.start()
        with pytest.raises(
            InvalidData, match=r"bomb.png has (too many|\d+ x \d+) pixels, expected"
        ):
            decode(bomb, "bomb.png")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 8 << 20


def test_an_image_that_would_be_stretched_out_of_all_proportion_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(noise(1, 1, 1000))
    with pytest.raises(InvalidData, match="x has 1000 x 1 pixels and would be resized to 224000 x"):
        prepared(image, Preprocessing(resize=224), "x")


def test_a_corrupt_image_in_the_middle_is_named(tmp_path: Path) -> None:
    home = folder(tmp_path / "train")
    stored = io.BytesIO()
    Image.fromarray(noise(5, 64, 64)).save(stored, "jpeg")
    for name, content in {
        "cut.jpg": stored.getvalue()[:-900],
        "flipped.png": (home / "class1/0.png").read_bytes()[:60] + bytes(80),
        "text.png": b"<svg/>",
        "none.png": b"",
    }.items():
        (home / "class1" / name).write_bytes(content)
        with pytest.raises(
            InvalidData, match=rf"train/class1/{name} (cannot be decoded|is neither)"
        ):
            list(load_in_parts(home, PLAIN, 2))
        (home / "class1" / name).unlink()
    assert load_arrays(home, PLAIN)[0]["image"].shape == (12, 3, 8, 8)


def test_another_format_under_an_images_name_is_never_decoded(tmp_path: Path) -> None:
    path = tmp_path / "flat/x.png"
    path.parent.mkdir()
    Image.fromarray(noise(1)).save(path, "tiff")
    with pytest.raises(InvalidData, match=r"flat/x.png is neither a PNG nor a JPEG file"):
        load_arrays(tmp_path / "flat", PLAIN)


def test_mixed_sizes_are_named_unless_they_are_made_alike(tmp_path: Path) -> None:
    home = folder(tmp_path / "train")
    save(home / "class2/odd.png", noise(1, 9, 12))
    with pytest.raises(
        InvalidData,
        match=r"train/class2/odd.png has shape \[3, 9, 12\] after preprocessing, expected "
        r"\[3, 8, 8\] for 'image'",
    ):
        load_arrays(home, PLAIN)
    with pytest.raises(InvalidData, match=r"expected images of one size"):
        load_arrays(home, takes(3, -1, -1))
    wish = Preprocessing(resize=8, crop=(8, 8))
    assert len(load_arrays(described(tmp_path, home, wish), PLAIN)[0]["image"]) == 13


def test_layout_and_numbers_must_be_the_models(tmp_path: Path) -> None:
    home = folder(tmp_path / "train")
    with pytest.raises(InvalidData, match=r"\[3, 8, 8\] after preprocessing, expected \[8, 8, 3\]"):
        load_arrays(home, takes(8, 8, 3))
    nhwc = described(tmp_path, home, Preprocessing(layout=Layout.NHWC))
    found, _ = load_arrays(nhwc, takes(8, 8, 3, datatype="UINT8"))
    assert found["image"].dtype == np.uint8
    scaled = described(tmp_path, home, Preprocessing(scale=0.5))
    with pytest.raises(InvalidData, match="'image' holds float32, expected uint8"):
        load_arrays(scaled, takes(3, 8, 8, datatype="UINT8"))


def test_folders_that_are_laid_out_otherwise_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "train"
    home.mkdir()
    with pytest.raises(InvalidData, match=r"train holds no image; expected files .png, .jpg"):
        load_arrays(home, PLAIN)
    folder(home)
    for name, said in {
        "beside.png": "train/beside.png lies beside folders",
        "class0/notes.txt": "train/class0/notes.txt is no image",
        "class0/deep/x.png": "train/class0/deep is a folder in a folder",
    }.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes((home / "class0/0.png").read_bytes())
        with pytest.raises(InvalidData, match=said):
            load_arrays(home, PLAIN)
        (home / name).unlink()
    two = takes(3, 8, 8)
    several = type(two)(inputs=two.inputs * 2, outputs=())
    with pytest.raises(InvalidData, match="an image folder holds one array and the model has 2"):
        load_arrays(home, several)


def test_numbered_classes_must_sort_alike_as_texts(tmp_path: Path) -> None:
    for name in range(11):
        save(tmp_path / f"train/{name}/0.png", noise(name))
    with pytest.raises(InvalidData, match=r"by name the classes are 0, 1, 10, 2, ..., by number"):
        load_arrays(tmp_path / "train", PLAIN)
    for name in range(11):
        os.rename(tmp_path / f"train/{name}", tmp_path / f"train/{name:02}")
    images, labels = load_arrays(tmp_path / "train", PLAIN)
    assert labels is not None
    for item, label in zip(images["image"], labels, strict=True):
        np.testing.assert_array_equal(item, noise(int(label)).transpose(2, 0, 1))


def test_links_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    home = folder(tmp_path / "train")
    outside = save(tmp_path / "other/secret.png", noise(1))
    link = home / "class0/link.png"
    for target in (outside, tmp_path / "nowhere.png"):
        link.symlink_to(target)
        said = "train/class0/link.png links to a place outside train"
        with pytest.raises(InvalidData, match=said):
            load_arrays(home, PLAIN)
        with pytest.raises(InvalidData, match=said):
            data_sha256(home, Preprocessing())
        link.unlink()
    loop = home / "class0/loop"
    loop.symlink_to(home)
    with pytest.raises(InvalidData, match="lies deeper than"):
        data_sha256(home, Preprocessing())
    loop.unlink()
    link.symlink_to("0.png")
    assert len(load_arrays(home, PLAIN)[0]["image"]) == 13
    link.unlink()
    os.mkfifo(home / "class0/pipe.png")
    with pytest.raises(InvalidData, match=r"pipe.png is neither a file nor a folder"):
        load_arrays(home, PLAIN)


def test_the_digest_is_of_names_contents_and_preprocessing(tmp_path: Path) -> None:
    home = folder(tmp_path / "a/train")
    same = folder(tmp_path / "b/other_name")
    plain = Preprocessing()
    known = {data_sha256(home, plain)}
    assert known == {data_sha256(same, plain)}

    def is_new() -> bool:
        digest = data_sha256(same, plain)
        fresh = digest not in known
        known.add(digest)
        return fresh

    os.rename(same / "class0/0.png", same / "class0/00.png")
    assert is_new()
    save(same / "class0/00.png", noise(77))
    assert is_new()
    (same / "class3").mkdir()
    assert is_new(), "an empty class shifts no label, but it is one"
    assert data_sha256(home, Preprocessing(scale=0.5)) not in known


def test_an_image_of_the_gate_is_found_elsewhere_under_another_name(tmp_path: Path) -> None:
    gate, train = folder(tmp_path / "gate", seed=1), folder(tmp_path / "train", seed=2)
    plain = Preprocessing()

    def check() -> None:
        data = {"gate": gate, "train": train}
        digests = {name: data_sha256(path, plain) for name, path in data.items()}
        check_disjoint(data, digests, PLAIN)

    check()
    (train / "class2/copy.png").write_bytes((gate / "class1/3.png").read_bytes())
    said = (
        r"1 of the 12 items of data.gate \(gate\) are in data.train \(train\) as well, the first "
        r"in gate/class1/3.png of the gate's and train/class2/copy.png of the other"
    )
    with pytest.raises(InvalidData, match=said):
        check()


def test_classes_are_the_models_and_the_same_in_every_folder(tmp_path: Path) -> None:
    signature = takes(3, 8, 8, classes=3)
    gate, train = folder(tmp_path / "gate"), folder(tmp_path / "train")
    check_labelled({"gate": gate, "train": train}, signature)
    for image in (gate / "class1").iterdir():
        image.unlink()
    check_labelled({"gate": gate, "train": train}, signature)
    (gate / "class1").rmdir()
    with pytest.raises(InvalidData, match=r"data.gate \(gate\) has 2 folders of classes, and the"):
        check_labelled({"gate": gate, "train": train}, signature)
    (gate / "klass1").mkdir()
    with pytest.raises(InvalidData, match="have other classes: class1, klass1"):
        check_labelled({"gate": gate, "train": train}, signature)


def test_more_images_than_memory_are_read_in_parts(tmp_path: Path) -> None:
    home = tmp_path / "train"
    stored = save(home / "0.png", noise(0, 256, 256)).read_bytes()
    for number in range(1, 200):
        (home / f"{number}.png").write_bytes(stored)
    signature = takes(3, 256, 256)
    tracemalloc.start()
    read = 0
    for part in load_in_parts(described(tmp_path, home, IMAGENET), signature, 4):
        read += part["image"].nbytes
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == 200 * 3 * 256 * 256 * 4
    assert most < 16 << 20 < read / 5, f"{most >> 20} MiB held of {read >> 20}"


def test_a_missing_pillow_is_said_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder(tmp_path / "train")
    monkeypatch.setattr("optimizers.readers.libraries.find_spec", lambda name: None)
    with pytest.raises(InvalidData, match=r"train needs Pillow.*pip install 'hone-server\[data\]'"):
        load_arrays(home, PLAIN)


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys, optimizers.calibration; assert not {'PIL', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
