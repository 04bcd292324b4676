"""English documents that Debian packages carry: fortunes, manual pages and Python's handbook."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, NamedTuple

from optimizers.contract.errors import InvalidData

_LISTS: Final = "var/lib/dpkg/info"
_INSTALL: Final = "apt-get install fortunes manpages python3-doc"


class Document(NamedTuple):
    """One text.

    Attributes:
        name: Unique, and the same on every machine with the same packages.
        text: Paragraphs with an empty line between them.
    """

    name: str
    text: str


def documents(root: Path = Path("/")) -> list[Document]:
    """Every document, sorted by name.

    A file of fortunes is a collection: each fortune has an author of its own and is a document.

    Args:
        root: Where Debian is installed.

    Raises:
        InvalidData: A package is not installed, or was installed without its documentation.
    """
    found = [
        *_read(root, "fortunes", ("fortunes", "fortunes-min"), "games/fortunes", _fortunes),
        *_read(root, "manpages", ("manpages",), "man/man", _manual_page),
        *_read(root, "python3-doc", ("python3.*-doc",), "/html/", _handbook_page),
    ]
    return sorted(found)


def _read(
    root: Path,
    package: str,
    parts: Sequence[str],
    inside: str,
    read: Callable[[Path], Iterator[Document]],
) -> list[Document]:
    """The documents of the installed files of a package's parts whose path has `inside` in it."""
    names = {
        line
        for part in parts
        for listing in (root / _LISTS).glob(f"{part}.list")
        for line in listing.read_text(encoding="utf-8").splitlines()
        if inside in line
    }
    paths = [root / name.lstrip("/") for name in sorted(names)]
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    found = [document for path in files for document in read(path)]
    if not found:
        raise InvalidData(
            f"the sentences are not all there: Debian's {package} has no documents on this "
            f"machine; run: {_INSTALL}"
        )
    return found


def _fortunes(path: Path) -> Iterator[Document]:
    if path.suffix:  # an index beside the texts
        return
    texts = re.split(r"^%$", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)
    for number, text in enumerate(texts):
        said = re.sub(r"^\s*--.*", "", text, flags=re.MULTILINE | re.DOTALL)
        yield Document(f"fortunes/{path.name}/{number}", said)


_FONTS: Final = re.compile(r"\\f(?:\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&/|^,]")
_CHARACTERS: Final = {
    r"\-": "-",
    r"\(aq": "'",
    r"\(em": " - ",
    r"\(dq": '"',
    r"\(co": "",
    r"\ ": " ",
}
_FONT_MACROS: Final = ("B", "I", "R", "SM", "SB", "BR", "RB", "BI", "IB", "IR", "RI")
_WORDS: Final = re.compile(r'"([^"]*)"|(\S+)')


def _manual_page(path: Path) -> Iterator[Document]:
    """The running text of a page in the macros of man(7), without its examples."""
    lines: list[str] = []
    is_example = False
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as page:
        for line in page:
            macro, _, rest = line.removeprefix(".").strip().partition(" ")
            if not line.startswith((".", "'")):
                lines.append("" if is_example else line.strip())
            elif macro in ("nf", "EX"):
                is_example = True
            elif macro in ("fi", "EE"):
                is_example = False
            elif macro in _FONT_MACROS and not is_example:
                parts = [quoted or plain for quoted, plain in _WORDS.findall(rest)]
                lines.append(("" if len(macro) == 2 and macro[0] != "S" else " ").join(parts))
            elif not line.startswith('.\\"'):
                lines.append("")
    text = _FONTS.sub("", "\n".join(lines))
    for written, meant in _CHARACTERS.items():
        text = text.replace(written, meant)
    yield Document(f"manpages/{path.name.removesuffix('.gz')}", text)


def _handbook_page(path: Path) -> Iterator[Document]:
    if path.suffix != ".html" or path.name.startswith(("genindex", "search", "py-modindex")):
        return
    paragraphs = _Paragraphs()
    paragraphs.feed(path.read_text(encoding="utf-8", errors="replace"))
    name = path.as_posix().partition("/html/")[2].removesuffix(".html")
    yield Document(f"python/{name}", "\n\n".join(paragraphs.found))


class _Paragraphs(HTMLParser):
    """The text of every <p>."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "p":
            self._is_inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.found[-1] += data
