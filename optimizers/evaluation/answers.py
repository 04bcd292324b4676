"""What both models answer to the gate's items, alone and in company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from optimizers.calibration import Arrays, item_count, open_data, take
from optimizers.contract.errors import InvalidData, RunFailed
from optimizers.contract.evaluation import Gate
from optimizers.contract.goal import FigureName
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import Signature
from optimizers.evaluation.clusters import Clusters, clusters_of
from optimizers.evaluation.fidelity import Outputs, answer
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.invariance import (
    LARGER_BATCH,
    LARGEST_RELATIVE_DIFFERENCE,
    Invariance,
    measure_invariance,
)
from optimizers.evaluation.progress import Report, Share, at_most_every
from optimizers.evaluation.subject import Subject

_TELL_EVERY_S: Final = 1.0
_FIDELITY_FIGURES: Final = (FigureName.AGREEMENT, FigureName.COSINE, FigureName.SQNR)
_UNBATCHED: Final = "no strangers share a run; a caller's own rows were judged together too"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedItems:
    """Items that answers are compared on, read: the gate's, or a search's.

    Attributes:
        items: One array per input, first axis = items.
        labels: One per item, or None.
        clusters: Which items belong together; None where each stands for itself.
        first: The original's answers to the first item.
    """

    items: Arrays
    labels: NDArray[Any] | None
    clusters: Clusters | None
    first: Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """How the variant is to be served after what its answers showed.

    Attributes:
        session: How it is opened; unbatched if its answers depend on their neighbours.
        batch_difference: Output name → largest difference between alone and batched.
    """

    session: SessionSpec
    batch_difference: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What both models said to the gate's items.

    Attributes:
        signature: Of both.
        original: The original's answers, each item alone.
        variant: The variant's, alone and then in every company they may have.
        arrangement: How the variant is to be served.
    """

    signature: Signature
    original: Outputs
    variant: tuple[Outputs, ...]
    arrangement: Arrangement


def read_gate(subject: Subject, original: Session) -> JudgedItems | None:
    """The gate's items, tried on the original; None when none are declared.

    Raises:
        InvalidData: They do not fit the model.
    """
    return None if subject.gate_data is None else read_items(subject.gate_data, original)


def read_items(path: Path, original: Session) -> JudgedItems:
    """Items from a file or folder, tried on the original.

    Raises:
        InvalidData: They do not fit the model.
    """
    with open_data(path, original.signature) as file:
        items, labels, groups = file.take(None), file.labels(None), file.groups()
    clusters = None if groups is None else clusters_of(groups)
    try:
        first = answer(original, take(items, slice(0, 1)))
    except RunFailed as error:
        raise InvalidData(f"{path.name}: the original fails on it: {error}") from error
    return JudgedItems(items=items, labels=labels, clusters=clusters, first=first)


def without_gate(subject: Subject, findings: Findings) -> Arrangement:
    """Say that no answers can be judged; then nobody has seen that rows may share a run."""
    missing = "declare data.gate in hone.yaml"
    findings.missing |= dict.fromkeys(_FIDELITY_FIGURES, missing)
    findings.missing[FigureName.ACCURACY] = f"{missing}, with `labels`"
    findings.check(
        Gate.FIDELITY,
        None,
        "fidelity is not judged: no gate data is declared; name an .npz as data.gate in hone.yaml "
        "(a step that compares answers does so on random inputs, which is weak proof)",
    )
    return Arrangement(session=replace(subject.session, max_batch=1), batch_difference={})


def ask(
    sessions: tuple[Session, Session],
    items: Arrays,
    seed: int,
    findings: Findings,
    report: Report,
    wanted: Outputs | None = None,
) -> Answers:
    """Both models' answers to all items, the variant's in every company they may have.

    Args:
        sessions: The original and the variant, open.
        items: What is asked.
        seed: Of the company.
        findings: Takes the checks.
        report: Takes progress.
        wanted: The original's answers to these items, where they are known.

    Raises:
        Broken: The variant's answers have another shape.
        RunFailed: The runtime refused.
    """
    original, variant = sessions
    if wanted is None:
        told = _told(report, "the original's answers", 0.05, items)
        wanted = answer(original, items, share=told)
    alone = answer(variant, items, share=_told(report, "fidelity", 0.1, items))
    _check_shapes(original.signature, wanted, alone, findings)
    arrangement, together = _arrange(sessions, items, alone, seed, findings, report)
    return Answers(
        signature=original.signature,
        original=wanted,
        variant=(alone, *together),
        arrangement=arrangement,
    )


def _told(report: Report, stage: str, start: float, items: Arrays, width: float = 0.05) -> Share:
    """Progress of one pass over the items, from share `start` of the evaluation on."""
    count = item_count(items)
    report(stage, start, f"{count} items")
    return at_most_every(
        _TELL_EVERY_S,
        lambda done: report(stage, start + width * done, f"{round(done * count)} of {count} items"),
    )


def _check_shapes(
    signature: Signature, wanted: Outputs, alone: Outputs, findings: Findings
) -> None:
    for spec, one, other in zip(signature.outputs, wanted, alone, strict=True):
        if one.shape != other.shape:
            shapes = f"{list(other.shape[1:])} an item, the original's {list(one.shape[1:])}"
            findings.check(Gate.FIDELITY, False, f"output '{spec.name}' has shape {shapes}")


def _arrange(
    sessions: tuple[Session, Session],
    items: Arrays,
    alone: Outputs,
    seed: int,
    findings: Findings,
    report: Report,
) -> tuple[Arrangement, tuple[Outputs, ...]]:
    """How the variant is served, and its answers in batches: a caller's own rows share a run."""
    original, variant = sessions
    served = variant.spec
    most = served.max_batch
    unbatched = replace(served, max_batch=1)
    if not _takes_batches(original, items):
        text = "the original takes one row a run, so no answer can depend on another"
        findings.check(Gate.INVARIANCE, True, text)
        return Arrangement(session=unbatched, batch_difference={}), ()
    sizes = sorted({2, LARGER_BATCH} if most == 1 else {2, min(LARGER_BATCH, most), most})
    told = _told(report, "batch invariance", 0.15, items, width=0.1)
    found = measure_invariance(variant, items, alone, sizes, seed, told)
    together = most > 1 and found.holds
    findings.check(Gate.INVARIANCE, True, _describe(found, sizes, together=together))
    session = served if together else unbatched
    return Arrangement(session=session, batch_difference=found.difference), found.together


def _takes_batches(original: Session, items: Arrays) -> bool:
    """Whether it computes rows together; a variable first dimension alone does not say so."""
    if not original.signature.has_batch_dimension:
        return False
    try:
        answer(original, take(items, slice(0, 2)), batch=2)
    except RunFailed:
        return False
    return True


def _describe(found: Invariance, sizes: Sequence[int], *, together: bool) -> str:
    name, relative = max(found.relative.items(), key=lambda pair: pair[1])
    extreme = " and beside an extreme neighbour" if found.met_extreme else ""
    text = (
        f"in batches of {', '.join(map(str, sizes))}{extreme}, '{name}' moves by at most "
        f"{found.difference[name]:.3g} ({relative:.2g} of its range; "
        f"{LARGEST_RELATIVE_DIFFERENCE:.0e} is allowed)"
    )
    return text if together else f"{text}; it is served unbatched: {_UNBATCHED}"
