"""One model version: its variants and the route between them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from optimizers.contract.directory import VariantDirectory
from optimizers.contract.manifest import ORIGINAL, Manifest
from optimizers.contract.signature import Signature
from server.errors import UnknownVariant
from server.opened import OpenVariant
from server.repository import ModelEntry


@dataclass(slots=True, kw_only=True, eq=False)
class ModelVersion:
    """A version of a model while it is served. Belongs to the event loop.

    Attributes:
        entry: What the repository says of the model.
        version: The version folder.
        original_file: The model as delivered.
        original: Manifest of the original.
        variants: What was made of it, by id; the original is not among them.
        active: The variant that answers by default.
        previous: The variant that answered before, for rolling back; "" when there was none.
        extra: Variants opened because a request named them, least recently used first.
        fell_back: The variant that was routed to but may not serve here; "" when there is none.
        is_decided: Whether anybody has said who answers: a verdict or an operator.
        opened_s: When it was opened, by `time.perf_counter`.
        last_used_s: When a request last asked for it, by the same clock.
    """

    entry: ModelEntry
    version: int
    original_file: Path
    original: Manifest
    active: OpenVariant
    variants: dict[str, VariantDirectory] = field(default_factory=dict)
    previous: str = ""
    extra: dict[str, OpenVariant] = field(default_factory=dict)
    fell_back: str = ""
    is_decided: bool = False
    opened_s: float = field(default_factory=time.perf_counter)
    last_used_s: float = field(default_factory=time.perf_counter)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.entry.name

    @property
    def signature(self) -> Signature:
        """The same for every variant of this version."""
        return self.original.signature

    def labels(self, output: str) -> tuple[str, ...]:
        """The class names of an output; none where nobody gave any."""
        named = self.entry.labels.get(output)
        if named is None and len(self.signature.outputs) == 1:
            named = self.entry.labels.get("")
        return named or ()

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was accepted for it is unanswered."""
        return all(opened.is_idle for opened in self.all_opened())

    def resolve(self, address: str) -> str:
        """The id of the variant that `address` means.

        Args:
            address: "" for the active one, a variant's id, a profile's name, or `original`.

        Raises:
            UnknownVariant: Nothing fits.
        """
        if not address:
            return self.active.variant
        if address == ORIGINAL or address in self.variants:
            return address
        built = [v for v in self.variants.values() if v.manifest.profile == address]
        if not built:
            raise UnknownVariant(self.name, self.version, address)
        return max(built, key=lambda v: v.manifest.created_unix_s).manifest.variant

    def manifest(self, variant: str) -> Manifest:
        """The manifest of a variant named by id or `original`."""
        return self.original if variant == ORIGINAL else self.variants[variant].manifest

    def opened(self, variant: str) -> OpenVariant | None:
        """The variant's open session, if it has one."""
        if variant == self.active.variant:
            return self.active
        return self.extra.get(variant)

    def all_opened(self) -> list[OpenVariant]:
        """Every open session of this version."""
        return [self.active, *self.extra.values()]
