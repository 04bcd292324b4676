"""Sealed variants made without a worker, for tests about what the server does with them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from optimizers.contract.directory import VariantDirectory, seal, write_golden
from optimizers.contract.evaluation import Certificate, Evaluation, Verdict
from optimizers.contract.host import Host, this_host
from optimizers.contract.ingredients import Ingredients
from optimizers.contract.manifest import MODEL_FILE, Golden, Manifest
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Profile
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import Session, SessionSpec


def make_variant(
    state: Path,
    original: Path,
    model: str,
    written_by: Any,
    *,
    version: int = 1,
    profile: str = "fast",
    golden_inputs: dict[str, NDArray[Any]],
    tolerance: float = 1e-4,
    spoil_golden: float = 0.0,
    verdict: Verdict = Verdict.PROVED,
    host: Host | None = None,
    cpus: int = 2,
    max_batch: int = 8,
    judged_by: Profile | None = None,
    made_from: Ingredients | None = None,
    job: str = "",
) -> VariantDirectory:
    """Seal a variant whose model file `written_by(path)` writes, where a server will find it.

    Args:
        state: The server's state directory.
        original: The original's model file.
        model: Name in the repository.
        written_by: Writes the variant's model file.
        version: Version folder.
        profile: Name of the profile it counts as built for.
        golden_inputs: Stored with the variant's own answers to them.
        tolerance: Allowed difference from these.
        spoil_golden: Added to the stored answers, to make a variant that fails its check.
        verdict: What its certificate says.
        host: Where it counts as measured; this machine when left out.
        cpus: Processors of the server that will serve it.
        max_batch: Most rows joined into one run.
        judged_by: The whole profile it counts as built for.
        made_from: All that it counts as made of.
        job: Id of the job that counts as its maker.
    """
    fresh = state / f"fresh-{time.time_ns()}"
    fresh.mkdir(parents=True)
    written_by(fresh / MODEL_FILE)
    spec = SessionSpec(lanes=cpus, max_batch=max_batch)
    session = Session(fresh / MODEL_FILE, spec)
    names = [output.name for output in session.signature.outputs]
    answers = dict(zip(names, session.run(golden_inputs), strict=True))
    spoiled = {name: array + array.dtype.type(spoil_golden) for name, array in answers.items()}
    write_golden(fresh, golden_inputs, spoiled)
    manifest = Manifest(
        variant="",
        model=model,
        version=version,
        original_sha256=read_onnx_file(original).sha256(),
        original_file=f"{version}/model.onnx",
        profile=profile,
        judged_by=judged_by,
        made_from=made_from,
        job=job,
        recipe=Recipe(steps=(DynamicInt8(),)),
        session=spec,
        signature=session.signature,
        created_unix_s=time.time(),
        golden=Golden(items=1, tolerance=dict.fromkeys(names, tolerance)),
        evaluation=Evaluation(
            verdict=verdict,
            reasons=() if verdict is Verdict.PROVED else ("made so by a test",),
            checks=(),
            figures=(),
            certificate=Certificate(
                host=host or this_host(cpus),
                provider="cpu",
                issued_unix_s=time.time(),
                confidence=0.95,
                gate_use=1,
                gate_sha256="",
            ),
        ),
    )
    session.close()
    sealed = seal(fresh, manifest)
    target = state / "variants" / model / str(version) / sealed.manifest.variant
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh.rename(target)
    return VariantDirectory(path=target, manifest=sealed.manifest)
