"""Whether the models that a recipe names fit the original: its teachers and its students."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from optimizers.contract.distillation import Distill
from optimizers.contract.errors import InvalidModel
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import Signature, TensorSpec


def check_models(recipe: Recipe, models: Mapping[str, Path], original: Signature) -> None:
    """Make sure that teachers can teach the original's answers, and students take its place.

    Args:
        recipe: What names them.
        models: Name in the recipe → file.
        original: What the original takes and gives.

    Raises:
        InvalidModel: One cannot be opened, or takes or gives something else.
    """
    for step in recipe.steps:
        if not isinstance(step, Distill):
            continue
        if step.teacher:
            with closing(Session(models[step.teacher], SessionSpec())) as session:
                taught_outputs(step.teacher, session.signature, original)
        if step.student:
            with closing(Session(models[step.student], SessionSpec())) as session:
                check_student(step.student, session.signature, original)


def check_student(name: str, student: Signature, original: Signature) -> None:
    """Make sure that callers of the original cannot tell the student from it.

    Raises:
        InvalidModel: They could; the text names the first tensor that is another.
    """
    for kind, found, wanted in (
        ("inputs", student.inputs, original.inputs),
        ("outputs", student.outputs, original.outputs),
    ):
        shown = [_shown(spec) for spec in found], [_shown(spec) for spec in wanted]
        if shown[0] != shown[1]:
            raise InvalidModel(
                f"the student {name} has the {kind} {', '.join(shown[0])}; expected those of the "
                f"original: {', '.join(shown[1])}"
            )


def taught_outputs(name: str, teacher: Signature, original: Signature) -> dict[str, str]:
    """Which output of the teacher teaches which of the original: by name, else by place.

    An output that has the name of one of the original's teaches no other.

    Args:
        name: Of the teacher, for errors.
        teacher: Takes inputs of the original, perhaps not all of them, and batches of any size.
        original: What the student answers like.

    Returns:
        The teacher's output → the original's, for those that are floating point.

    Raises:
        InvalidModel: The teacher takes something else, or gives no answer or one of another form.
    """
    if not teacher.has_batch_dimension:
        raise InvalidModel(f"the teacher {name} takes no batches of any size, which it needs to")
    given = {spec.name: spec for spec in original.inputs}
    for spec in teacher.inputs:
        if spec.name not in given or not _fits(spec, given[spec.name]):
            raise InvalidModel(
                f"the teacher {name} takes {_shown(spec)}; the data has the original's inputs: "
                f"{', '.join(map(_shown, original.inputs))}"
            )
    wanted = [spec for spec in original.outputs if spec.is_floating]
    by_name = {spec.name: spec for spec in teacher.outputs}
    pairs = [(by_name[spec.name], spec) for spec in wanted if spec.name in by_name]
    if len(teacher.outputs) == len(original.outputs):
        known = {spec.name for spec in original.outputs}
        pairs += [
            (theirs, own)
            for theirs, own in zip(teacher.outputs, original.outputs, strict=True)
            if own.is_floating and own.name not in by_name and theirs.name not in known
        ]
    for theirs, own in pairs:
        if not theirs.is_floating or not _same_form(theirs, own):
            raise InvalidModel(f"the teacher {name} gives {_shown(theirs)}; expected {_shown(own)}")
    if len(pairs) < len(wanted):
        taught = {own.name for _, own in pairs}
        missing = [_shown(spec) for spec in wanted if spec.name not in taught]
        raise InvalidModel(
            f"the teacher {name} gives {', '.join(map(_shown, teacher.outputs))} and not "
            f"{', '.join(missing)}, which the original gives"
        )
    return {theirs.name: own.name for theirs, own in pairs}


def _fits(taker: TensorSpec, given: TensorSpec) -> bool:
    """Whether whatever fits `given` can be taken."""
    lengths = zip(taker.shape, given.shape, strict=False)
    return (taker.datatype, len(taker.shape)) == (given.datatype, len(given.shape)) and all(
        wanted in (-1, length) for wanted, length in lengths
    )


def _same_form(one: TensorSpec, other: TensorSpec) -> bool:
    lengths = zip(one.shape, other.shape, strict=False)
    return len(one.shape) == len(other.shape) and all(
        length == wanted or -1 in (length, wanted) for length, wanted in lengths
    )


def _shown(spec: TensorSpec) -> str:
    lengths = ", ".join("any" if length < 0 else str(length) for length in spec.shape)
    return f"'{spec.name}' {spec.datatype} [{lengths}]"
