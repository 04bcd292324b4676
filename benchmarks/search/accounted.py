"""Which artefacts were made by the pieces of a sweep that are written.

A sweep that is ended in the middle of a piece leaves artefacts that nobody was charged for: found
in the cache when that piece is repeated, they would make it cheap. So what is there is noted before
each piece, and what is there beyond that goes before the piece is repeated.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounted:
    """What is known of one sweep's cache.

    Attributes:
        file: Where it is noted: a line for each piece that was begun.
        cache: Holds an entry for each beginning of a recipe that was made.
    """

    file: Path
    cache: Path

    def note(self, pieces: int) -> None:
        """Note what is there now that so many pieces are written and the next one begins."""
        known = {name for _, names in self._lines() for name in names}
        with self.file.open("a", encoding="utf-8") as target:
            target.write(json.dumps([pieces, sorted(self._entries() - known)]) + "\n")

    def forget_unwritten(self, pieces: int) -> None:
        """Let go of what a piece has made that was begun after so many, and never written."""
        lines = self._lines()
        if pieces not in {count for count, _ in lines}:
            return
        kept = {name for count, names in lines if count <= pieces for name in names}
        for name in self._entries() - kept:
            shutil.rmtree(self.cache / name)

    def _entries(self) -> set[str]:
        return {entry.name for entry in self.cache.iterdir()} if self.cache.exists() else set()

    def _lines(self) -> list[tuple[int, list[str]]]:
        if not self.file.exists():
            return []
        whole = self.file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        return [(count, names) for count, names in map(json.loads, whole)]
