"""Documents out of the packages of a Debian that is laid out here."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from benchmarks.gains.documents import documents
from benchmarks.gains.sentences import sentences
from optimizers.contract.errors import InvalidData

MANUAL_PAGE = r"""
.\" A remark.
.TH pipe 7
.SH DESCRIPTION
Pipes provide a channel
.RI "between " processes ,
see
.BR pipe (2)
for \fIall\fP of it \- an
.I example
follows.
.PP
.EX
This is an example in code.
.EE
Any process may open a FIFO.
"""
PAGE = """<html><h1>Not this heading either</h1><p>The <code>bisect</code> module keeps
lists sorted.</p><pre>It is not this.</pre><p class="topless">A second paragraph is here.</p>"""
FILES = {
    "usr/share/games/fortunes/wisdom": (
        "A bug in the code is worth two.\n\t\t-- Somebody Who Said It\n%\nThe second one is here.\n"
    ),
    "usr/share/games/fortunes/wisdom.dat": "This is no text at all.",
    "usr/share/man/man7/pipe.7.gz": MANUAL_PAGE,
    "usr/share/doc/python3.11/html/library/bisect.html": PAGE,
    "usr/share/doc/python3.11/html/genindex.html": "<p>This one is an index.</p>",
}
LISTS = {"fortunes": "games", "manpages": "man7", "python3.11-doc": "html"}


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = text.encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    lists = tmp_path / "var/lib/dpkg/info"
    lists.mkdir(parents=True)
    for package, inside in LISTS.items():
        lines = [f"/{name}" for name in FILES if inside in name]
        (lists / f"{package}.list").write_text("\n".join(lines))
    return tmp_path


def test_running_text_is_read_and_nothing_else(debian: Path) -> None:
    found = {one.name: list(sentences(one.text)) for one in documents(debian)}
    assert found == {
        "fortunes/wisdom/0": ["A bug in the code is worth two."],
        "fortunes/wisdom/1": ["The second one is here."],
        "manpages/pipe.7": [
            "Pipes provide a channel between processes, see pipe(2) for all of it - an example "
            "follows.",
            "Any process may open a FIFO.",
        ],
        "python/library/bisect": [
            "The bisect module keeps lists sorted.",
            "A second paragraph is here.",
        ],
    }


@pytest.mark.parametrize("package", LISTS)
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    debian: Path, package: str
) -> None:
    (debian / f"var/lib/dpkg/info/{package}.list").unlink()
    named = package.replace("3.11", "3")
    wanted = f"Debian's {named} has no documents.*apt-get install fortunes manpages python3-doc"
    with pytest.raises(InvalidData, match=wanted):
        documents(debian)
