"""The manifest of a variant: what it is, what it was made of, and what was proved of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from optimizers.contract.errors import HoneError, VariantDamaged
from optimizers.contract.evaluation import Evaluation, Verdict
from optimizers.contract.ingredients import Ingredients
from optimizers.contract.profile import StoredProfile
from optimizers.contract.recipe import StoredRecipe
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.signature import Signature

FORMAT: Final = 1
MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.onnx"
GOLDEN_FILE: Final = "golden.npz"
ORIGINAL: Final = "original"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a variant.

    Attributes:
        name: Path below the variant's directory.
        sha256: Digest of its bytes.
        size_bytes: Its length.
    """

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What one step did.

    Attributes:
        step: Its name.
        modified: Whether it changed the model or the session.
        notes: What it did, what it skipped and why.
    """

    step: str
    modified: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """How closely the server must reproduce the stored golden outputs.

    Attributes:
        items: How many golden items are stored.
        tolerance: Output name → largest absolute difference allowed.
    """

    items: int
    tolerance: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that is known of one variant; never changed once written.

    Attributes:
        format: Version of this file's layout.
        variant: Content-addressed id, or `original`.
        model: Name in the repository.
        version: Version folder.
        original_sha256: Digest of the model it was made from.
        original_file: The original's path, relative to its model's directory.
        judged_by: The whole profile: what was required and what was to become better; None for
            the original.
        profile: Name of the profile it was built for; "" for the original.
        job: Id of the job that built it; "" for the original.
        recipe: The steps.
        records: What each step did.
        session: How it is opened.
        signature: What it takes and gives.
        files: Its files and their digests; empty for the original, which lies elsewhere.
        golden: Tolerance of the golden check; None for the original.
        evaluation: What the gates found; None for the original.
        created_unix_s: When it was written.
        built_with: Name → version of what took part in building.
        made_from: All that decided which bytes came out, so that it can be built again; None for
            the original and for variants of before it was kept.
        largest_batch_difference: Output name → largest difference seen between an item alone
            and in a batch.
    """

    variant: str
    model: str
    version: int
    original_sha256: str
    original_file: str
    recipe: StoredRecipe
    session: SessionSpec
    signature: Signature
    created_unix_s: float
    format: int = FORMAT
    profile: str = ""
    job: str = ""
    records: tuple[StepRecord, ...] = ()
    files: tuple[StoredFile, ...] = ()
    golden: Golden | None = None
    evaluation: Evaluation | None = None
    built_with: dict[str, str] | None = None
    made_from: Ingredients | None = None
    largest_batch_difference: dict[str, float] | None = None
    judged_by: StoredProfile | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of its files on disk."""
        return sum(file.size_bytes for file in self.files)

    @property
    def is_proved(self) -> bool:
        """Whether every gate held when it was measured, wherever that was."""
        return self.evaluation is not None and self.evaluation.verdict is Verdict.PROVED


_ADAPTER = TypeAdapter(Manifest)


def manifest_to_json(manifest: Manifest) -> bytes:
    """The manifest as indented JSON."""
    return _ADAPTER.dump_json(manifest, indent=2) + b"\n"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file.

    Raises:
        VariantDamaged: It is missing, unreadable, or of an unknown format.
    """
    try:
        manifest = _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise VariantDamaged(f"manifest of {path.parent.name}: {error.strerror}") from error
    except (ValidationError, HoneError) as error:
        raise VariantDamaged(f"manifest of {path.parent.name} does not fit: {error}") from error
    if manifest.format != FORMAT:
        raise VariantDamaged(
            f"manifest of {path.parent.name} has format {manifest.format}, expected {FORMAT}"
        )
    return manifest
