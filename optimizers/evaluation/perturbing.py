"""Items with noise, moved, brighter or with another contrast; the same for both models."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import Arrays
from optimizers.contract.errors import InvalidData
from optimizers.contract.perturbation import Perturbation, PerturbationKind
from optimizers.contract.signature import Signature, TensorSpec

_IMAGE_RANK: Final = 4
_CHANNELS: Final = (1, 3, 4)


def check_perturbation(signature: Signature, items: Arrays, wish: Perturbation) -> None:
    """Make sure that something is there to be perturbed.

    Args:
        signature: The model's.
        items: All that will be perturbed.
        wish: In which way.

    Raises:
        InvalidData: No input can be; the text says which inputs there are and what was expected.
    """
    inputs = ", ".join(
        f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in signature.inputs
    )
    chosen = _chosen(signature, wish)
    if not chosen:
        kind = "images" if wish.kind is PerturbationKind.SHIFT else "floating numbers"
        raise InvalidData(
            f"nothing can be judged under {wish.text}: expected an input of {kind}, and the model "
            f"takes {inputs}; leave the requirement out"
        )
    if wish.kind is PerturbationKind.SHIFT:
        for spec in chosen:
            sides = [items[spec.name].shape[axis] for axis in _sides(items[spec.name])]
            if wish.amount >= min(sides):
                raise InvalidData(
                    f"nothing can be judged under {wish.text}: '{spec.name}' has {sides} pixels"
                )
    elif all(np.ptp(items[spec.name].astype(np.float64)) == 0 for spec in chosen):
        raise InvalidData(
            f"nothing can be judged under {wish.text}: every number of the gate's items is the same"
        )


def perturbed(signature: Signature, items: Arrays, wish: Perturbation, seed: int) -> Arrays:
    """The items as they are judged under `wish`.

    With s and m the standard deviation and the mean of all of an input's numbers, noise adds
    independent N(0, (amount s)^2) to each, brightness amount s, and contrast turns x into
    m + amount (x - m). Shift moves each item by so many pixels up, down, left or right, and what
    is uncovered repeats the edge. Inputs that are no floating numbers stay as they are.

    Args:
        signature: The model's.
        items: They pass `check_perturbation`.
        wish: What is done.
        seed: Of noise and directions; the same seed gives the same items.

    Raises:
        InvalidData: A number becomes too large for its type: what is infinite for both models
            would be the same for both.
    """
    random = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        changed = {
            spec.name: _perturbed(items[spec.name], wish, random)
            for spec in _chosen(signature, wish)
        }
    for name, array in changed.items():
        if not np.isfinite(array).all():
            raise InvalidData(
                f"nothing can be judged under {wish.text}: numbers of '{name}' leave {array.dtype}"
            )
    return {name: changed.get(name, array) for name, array in items.items()}


def _chosen(signature: Signature, wish: Perturbation) -> list[TensorSpec]:
    images_only = wish.kind is PerturbationKind.SHIFT
    return [
        spec
        for spec in signature.inputs
        if spec.is_floating and (len(spec.shape) == _IMAGE_RANK or not images_only)
    ]


def _perturbed(
    array: NDArray[Any], wish: Perturbation, random: np.random.Generator
) -> NDArray[Any]:
    if wish.kind is PerturbationKind.SHIFT:
        return _moved(array, int(wish.amount), random)
    mean, deviation = float(array.mean(dtype=np.float64)), float(array.std(dtype=np.float64))
    changed: NDArray[Any]
    match wish.kind:
        case PerturbationKind.NOISE:
            noise = random.standard_normal(array.shape, np.float32)
            changed = array + wish.amount * deviation * noise
        case PerturbationKind.BRIGHTNESS:
            changed = array + wish.amount * deviation
        case PerturbationKind.CONTRAST:
            changed = mean + wish.amount * (array - mean)
    return changed.astype(array.dtype)


def _moved(array: NDArray[Any], pixels: int, random: np.random.Generator) -> NDArray[Any]:
    moved = np.empty_like(array)
    directions = random.integers(0, 4, len(array))
    for direction in range(4):
        axis = _sides(array)[direction % 2]
        places = np.arange(array.shape[axis]) + (pixels if direction < 2 else -pixels)
        inside = np.clip(places, 0, array.shape[axis] - 1)
        chosen = directions == direction
        moved[chosen] = np.take(array[chosen], inside, axis=axis)
    return moved


def _sides(array: NDArray[Any]) -> tuple[int, int]:
    """The axes of height and width: the last two, but where these end in channels."""
    is_channels_last = array.shape[3] in _CHANNELS and array.shape[1] not in _CHANNELS
    return (1, 2) if is_channels_last else (2, 3)
