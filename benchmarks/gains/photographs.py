"""Photographs that are at hand on Debian: wallpapers, and what a children's programme teaches with.

Drawings, renderings and patterns of the same packages are left out: they are not what the model
was made for, and its answers to them are close calls.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from PIL import Image

from benchmarks.gains.qt_resources import resources
from optimizers.contract.errors import InvalidData

PACKAGES: Final = (
    "gcompris-qt-data",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "palapeli-data",
    "plasma-workspace-wallpapers",
)
"""Debian's, which hold nothing but data."""

_SHARE: Final = Path("/usr/share")

_LOMIRI: Final = (
    "Bridge_by_Sander_Klootwijk",
    "Dragonfly_by_Bolly",
    "Kleiber_by_Lukas_Baubkus",
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "free_by_Peter_Nerlich",
    "friends_by_Aitzol_Berasategi",
    "greentock_by_Peter_Nerlich",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
)
_MATE: Final = (
    "Aqua",
    "Blinds",
    "Dune",
    "FreshFlower",
    "Garden",
    "GreenMeadow",
    "LadyBird",
    "RainDrops",
    "Storm",
    "TwoWings",
    "Wood",
    "YellowFlower",
)
_PLASMA: Final = (
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "summer_1am",
)
_PUZZLES: Final = (
    "castle-maintenon",
    "cincinnati-bridge",
    "citrus-fruits",
    "european-honey-bee",
    "panther-chameleon-female",
)

_LESSONS: Final = {
    "erase": ("",),
    "explore_farm_animals": ("animals",),
    "explore_monuments": ("",),
    "explore_world_animals": ("animals",),
    "explore_world_music": ("music",),
    "categorization": ("images/fishes", "images/others", "images/renewable", "images/tools"),
}
"""Archive → its folders of photographs; the monuments of categorization are those of
explore_monuments again."""

_LEAST_SIDE: Final = 200
_LEAST_BYTES: Final = 6000
"""Smaller files are things cut out on white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """One photograph.

    Attributes:
        name: Where it comes from and what its file is called; every photograph has its own.
        encoded: The file's content.
    """

    name: str
    encoded: bytes

    def picture(self) -> Image.Image:
        """Its pixels as RGB."""
        return Image.open(io.BytesIO(self.encoded)).convert("RGB")


def photographs() -> list[Photograph]:
    """All of them, by name.

    Raises:
        InvalidData: A package is missing; the text says how to get it.
    """
    try:
        found = [*_wallpapers(), *_lessons(), *_samples()]
    except FileNotFoundError as error:
        raise InvalidData(
            f"{error.filename} is missing; the photographs come from Debian: "
            f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        ) from error
    return sorted(found, key=lambda one: one.name)


def _wallpapers() -> Iterator[Photograph]:
    files = [_SHARE / "backgrounds" / f"{name}.jpg" for name in _LOMIRI]
    files += [_SHARE / "backgrounds/mate/nature" / f"{name}.jpg" for name in _MATE]
    files += [_SHARE / "palapeli/collection" / f"{name}.jpg" for name in _PUZZLES]
    for file in files:
        yield Photograph(name=f"{file.parent.name}/{file.stem}", encoded=file.read_bytes())
    for name in _PLASMA:
        file = _SHARE / "wallpapers" / name / "contents/images/2560x1600.jpg"
        yield Photograph(name=f"plasma/{name}", encoded=file.read_bytes())


def _lessons() -> Iterator[Photograph]:
    for archive, folders in _LESSONS.items():
        file = _SHARE / "gcompris-qt/rcc" / f"{archive}.rcc"
        for path, content in resources(file):
            _, _, within = path.partition("/resource/")
            if not path.endswith(".webp") or not within.startswith(folders):
                continue
            if len(content) >= _LEAST_BYTES and _least_side(content) >= _LEAST_SIDE:
                yield Photograph(name=f"{archive}/{within.removesuffix('.webp')}", encoded=content)


def _least_side(encoded: bytes) -> int:
    return min(Image.open(io.BytesIO(encoded)).size)


def _samples() -> Iterator[Photograph]:
    """Those that scikit-learn's package carries."""
    try:
        package = distribution("scikit-learn")
    except PackageNotFoundError as error:
        raise InvalidData(
            "scikit-learn, two of whose files are photographs, is missing: "
            "pip install --no-deps scikit-learn"
        ) from error
    for name in ("china", "flower"):
        file = Path(str(package.locate_file(f"sklearn/datasets/images/{name}.jpg")))
        yield Photograph(name=f"sklearn/{name}", encoded=file.read_bytes())
