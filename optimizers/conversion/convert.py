"""Turns a program of torch.export into an ONNX model that answers the same."""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from optimizers.contract.converted import REPORT_FILE
from optimizers.contract.errors import InvalidModel, NotSupported
from optimizers.contract.manifest import MODEL_FILE
from optimizers.conversion.comparison import compare
from optimizers.conversion.naming import name_tensors
from optimizers.conversion.program import Program, brief, read_program

_LARGEST_IN_ONE_FILE_BYTES: Final = 1800 << 20
"""Protobuf ends at 2 GiB."""
_OPERATOR: Final = re.compile(r"No (?:ONNX function|decompositions?)[^\n]*?([\w]+(?:::|\.)[\w.]+)")


def convert(source: Path, target: Path, output_names: Sequence[str] = ()) -> None:
    """Write `model.onnx` and a report into the folder `target`; code in `source` may run.

    A batch that is free in the program stays free. Inputs keep their names; outputs are named by
    the keys of the dict that the program returns, else by `output_names`, else `output_0`, ….

    Raises:
        InvalidModel: The file is no program, or the converted model answers otherwise.
        NotSupported: Something in the program has no counterpart in ONNX.
    """
    warnings.simplefilter("ignore")  # torch's own, about its own; a refusal is told by its text
    program = read_program(source)
    outputs = _output_names(program, output_names)
    exported = _export(program)
    name_tensors(exported.model.graph, program.inputs, outputs)
    weights = sum(
        value.const_value.nbytes
        for value in exported.model.graph.initializers.values()
        if value.const_value is not None
    )
    file = target / MODEL_FILE
    exported.save(file, external_data=weights > _LARGEST_IN_ONE_FILE_BYTES)
    report = {"batch": program.batch, "largest_difference": compare(program, file)}
    (target / REPORT_FILE).write_text(json.dumps(report), encoding="utf-8")


def _output_names(program: Program, given: Sequence[str]) -> Sequence[str]:
    if program.outputs is not None:
        return program.outputs
    if not given:
        return [f"output_{index}" for index in range(program.output_count)]
    if len(given) != program.output_count:
        raise InvalidModel(
            f"config.pbtxt names {len(given)} outputs ({', '.join(given)}), the program returns "
            f"{program.output_count}; name all of them in order, or none"
        )
    return given


def _export(program: Program) -> torch.onnx.ONNXProgram:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exported = torch.onnx.export(program.exported, dynamo=True, verbose=False)
    except Exception as error:
        text, cause = "", error.__cause__
        while cause is not None and not text:
            found = _OPERATOR.search(str(cause))
            text = f"operator {found[1]} has no counterpart" if found else ""
            cause = cause.__cause__
        raise NotSupported(
            f"the program cannot be expressed in ONNX: {text or brief(error.__cause__ or error)}; "
            "express it by other operators, or export the model to ONNX yourself"
        ) from error
    if exported is None:
        raise NotSupported("torch.onnx.export made nothing of the program")
    return exported
