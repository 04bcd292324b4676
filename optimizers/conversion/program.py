"""A program of torch.export: read from its file, called with arrays. Reading one can run code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from optimizers.contract.errors import InvalidModel, NotSupported

_FREE_LENGTH: Final = 8
_LONGEST_TEXT: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An exported program whose inputs and outputs are all tensors.

    Attributes:
        exported: As torch read it.
        inputs: Names of its inputs, in order, as its author named them.
        placeholders: What stands for each input in its graph: fake tensors with symbolic shapes.
        outputs: Keys of its outputs if it returns a dict of tensors; None when it does not.
        output_count: How many tensors it returns.
    """

    exported: ExportedProgram
    inputs: tuple[str, ...]
    placeholders: tuple[torch.Tensor, ...]
    outputs: tuple[str, ...] | None
    output_count: int

    @property
    def batch(self) -> int | None:
        """The number of rows it was exported for, by its first input; None when that is free."""
        shape = self.placeholders[0].shape
        return int(shape[0]) if shape and isinstance(shape[0], int) else None

    def random_inputs(self, rows: int, seed: int) -> list[NDArray[Any]]:
        """One array per input: normal floats, whole numbers and booleans 0 or 1.

        Args:
            rows: Length of free first dimensions, moved to the nearest that the program allows.
            seed: The same seed gives the same arrays.
        """
        random = np.random.default_rng(seed)
        lengths = self._lengths(rows)
        arrays = []
        for placeholder in self.placeholders:
            shape = [_length(size, lengths) for size in placeholder.shape]
            dtype = torch.empty(0, dtype=placeholder.dtype).numpy().dtype
            values = (
                random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, shape)
            )
            arrays.append(np.asarray(values, dtype))
        return arrays

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What it answers, in the order of its outputs."""
        tensors = [torch.from_numpy(array) for array in arrays]
        positional, named = pytree.tree_unflatten(tensors, self.exported.call_spec.in_spec)
        with torch.no_grad():
            answer = self.exported.module()(*positional, **named)
        return [tensor.numpy() for tensor in pytree.tree_leaves(answer)]

    def _lengths(self, rows: int) -> dict[Any, int]:
        """Every symbol of its shapes → the length taken for it."""
        lengths: dict[Any, int] = {}
        for placeholder in self.placeholders:
            for axis, size in enumerate(placeholder.shape):
                if isinstance(size, int):
                    continue
                for symbol in size.node.expr.free_symbols:
                    wanted = rows if axis == 0 else _FREE_LENGTH
                    lengths.setdefault(symbol, self._allowed(symbol, wanted))
        return lengths

    def _allowed(self, symbol: Any, wanted: int) -> int:
        span = self.exported.range_constraints.get(symbol)
        if span is None:
            return wanted
        least = max(1, int(span.lower))
        return max(least, wanted if span.upper > wanted else int(span.upper))


def read_program(path: Path) -> Program:
    """Read a file that `torch.export.save` wrote; code in the file may run.

    Raises:
        InvalidModel: It is no such file, or is damaged.
        NotSupported: Something other than a tensor goes in or comes out.
    """
    try:
        exported = torch.export.load(path)
    except Exception as error:
        raise InvalidModel(
            f"{path.name} cannot be read as a program of torch.export ({brief(error)}); expected "
            f"a file written by torch.export.save, readable by torch {torch.__version__}"
        ) from error
    signature = exported.graph_signature
    named = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    inputs, placeholders = [], []
    for spec in signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        name = spec.arg.name
        value = named[name].meta.get("val") if name in named else None
        if not isinstance(spec.arg, TensorArgument) or not isinstance(value, torch.Tensor):
            raise NotSupported(
                f"{path.name}: input '{name}' is no tensor; expected tensors only, so export the "
                "model with that value fixed in the module"
            )
        inputs.append(name)
        placeholders.append(value)
    if not placeholders:
        raise NotSupported(f"{path.name} takes no input; expected at least one tensor")
    outputs = signature.user_outputs
    if not outputs or not all(isinstance(name, str) for name in outputs):
        raise NotSupported(f"{path.name} returns {outputs}; expected tensors only")
    return Program(
        exported=exported,
        inputs=tuple(inputs),
        placeholders=tuple(placeholders),
        outputs=_dict_keys(exported, len(outputs)),
        output_count=len(outputs),
    )


def brief(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = " ".join(str(error).split()) or "no text"
    return f"{type(error).__name__}: {text[:_LONGEST_TEXT]}"


def _dict_keys(exported: ExportedProgram, count: int) -> tuple[str, ...] | None:
    """The keys of the flat dict that a program returns; None when it returns something else."""
    numbered = pytree.tree_unflatten(list(range(count)), exported.call_spec.out_spec)
    is_flat = isinstance(numbered, Mapping) and all(isinstance(n, int) for n in numbered.values())
    if not is_flat or not all(isinstance(key, str) for key in numbered):
        return None
    return tuple(sorted(numbered, key=lambda key: int(numbered[key])))


def _length(size: Any, lengths: Mapping[Any, int]) -> int:
    return size if isinstance(size, int) else int(size.node.expr.subs(lengths))
