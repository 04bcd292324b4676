"""Candidates on their way to the machine that serves: files by their digests in the study's folder.

studies/NAME/candidates/RECIPE/candidate.json   how it came about, and which files there are
studies/NAME/candidates/RECIPE/SHA256           those files
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from optimizers.contract.below import why_not_below
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.job import Built
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.recipe import Recipe
from optimizers.search.records import recipe_key
from optimizers.search.sharing import STUDIES_FOLDER
from optimizers.search.store import Store

_DOCUMENT: Final = "candidate.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handed:
    """What is told of a candidate.

    Attributes:
        built: How it came about.
        files: Name below its directory → sha256.
    """

    built: Built
    files: dict[str, str]


_HANDED = TypeAdapter(_Handed)


class Handover:
    """The candidates of one study that lie in a store."""

    def __init__(self, store: Store, study: str) -> None:
        self._store = store
        self._home = f"{STUDIES_FOLDER}/{study}/candidates"

    def give(self, directory: Path, built: Built) -> None:
        """Store a candidate, its description last.

        Args:
            directory: Of its files.
            built: How it came about.

        Raises:
            NotSupported: The store cannot be reached or refuses.
        """
        place = self._place(built.recipe)
        files = {
            str(file.relative_to(directory)): self._store.put(file, place)
            for file in sorted(directory.rglob("*"))
            if file.is_file()
        }
        content = _HANDED.dump_json(_Handed(built=built, files=files), indent=2)
        self._store.write(f"{place}/{_DOCUMENT}", content + b"\n")

    def take(self, recipe: Recipe, target: Path) -> Built | None:
        """Fetch the candidate of a recipe into a directory that is made.

        Returns:
            How it came about; None where it does not lie there. Then `target` is absent.

        Raises:
            InvalidData: It is damaged, incomplete or another recipe's; `target` is absent.
            NotSupported: The store cannot be reached.
        """
        place = self._place(recipe)
        content = self._store.read(f"{place}/{_DOCUMENT}")
        if content is None:
            return None
        try:
            handed = _HANDED.validate_json(content)
        except (ValidationError, InvalidDocument) as error:
            raise InvalidData(f"{place}/{_DOCUMENT} in the store cannot be read") from error
        if handed.built.recipe != recipe:
            raise InvalidData(f"{place}/{_DOCUMENT} in the store is of {handed.built.recipe}")
        if MODEL_FILE not in handed.files:
            raise InvalidData(f"{place}/{_DOCUMENT} in the store names no {MODEL_FILE}")
        target.mkdir(parents=True)
        try:
            for name, sha256 in handed.files.items():
                problem = why_not_below(name, "the candidate's directory")
                if problem or not name:
                    raise InvalidData(f"{place} in the store names a file {name!r}: {problem}")
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                self._store.take(sha256, target / name, place)
        except BaseException:
            shutil.rmtree(target)
            raise
        return handed.built

    def keep_only(self, recipes: Collection[Recipe]) -> None:
        """Let go of all candidates but those of some recipes.

        Raises:
            NotSupported: The store cannot be reached or refuses.
        """
        kept = {_digest(recipe) for recipe in recipes}
        for name in self._store.folders(self._home):
            if name not in kept:
                self._store.remove(f"{self._home}/{name}")

    def _place(self, recipe: Recipe) -> str:
        return f"{self._home}/{_digest(recipe)}"


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(recipe_key(recipe).encode()).hexdigest()[:32]
