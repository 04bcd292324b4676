"""Which steps of a recipe were run before, and what the manifest says of that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optimizers.artefacts import Artefact, Artefacts
from optimizers.contract.errors import InvalidData
from optimizers.contract.job import JobSpec
from optimizers.contract.manifest import StepRecord
from optimizers.contract.stage import Stage


class Reuse:
    """One build's use of its job's cache, if it has one.

    Steps of the last stage are always run: they choose by measuring, and no measurement is kept.
    That leaves the goal to no step whose outcome is kept.
    """

    def __init__(self, spec: JobSpec, keys: Sequence[str]) -> None:
        """Use the cache that `spec` names; `keys` are the steps', in order."""
        lasting = [step.stage < Stage.SESSION for step in spec.profile.recipe.steps]
        self._keys = [key for key, lasts in zip(keys, lasting, strict=True) if lasts]
        self._cache = Artefacts(spec.cache, spec.cache_limit_bytes) if spec.cache else None
        self._spec = spec
        self.notes: dict[int, list[str]] = defaultdict(list)
        """Index of a step → what the manifest says of it besides what the step says."""

    def longest(self, target: Path) -> Artefact:
        """What the most steps in a row made before: copied to `target`, or the original."""
        if self._cache is not None:
            for index, key in reversed(list(enumerate(self._keys))):
                try:
                    found = self._cache.take(key, target)
                except InvalidData as error:
                    self.notes[index].append(f"{error}; built again")
                    continue
                except OSError as error:  # a full disk must not cost the build
                    why = error.strerror or error
                    self.notes[index].append(f"not taken from the cache: {why}; built again")
                    continue
                if found is not None:
                    self.notes[index].append(f"built earlier, taken from the cache, key {key[:12]}")
                    return found
        return Artefact(
            model=self._spec.original_file, session=self._spec.original_session, records=()
        )

    def keep(self, index: int, made: Artefact) -> None:
        """Store what the steps up to `index` made, unless that is the original still."""
        is_new = made.model != self._spec.original_file
        if self._cache is None or index >= len(self._keys) or not is_new:
            return
        try:
            self._cache.keep(self._keys[index], made)
        except OSError as error:  # a cache that is full must not cost the build
            self.notes[index].append(f"not kept in the cache: {error.strerror or error}")

    def noted(self, records: Sequence[StepRecord]) -> tuple[StepRecord, ...]:
        """The steps' records with what is to be said of the cache."""
        return tuple(
            replace(record, notes=(*record.notes, *self.notes.get(index, ())))
            for index, record in enumerate(records)
        )
