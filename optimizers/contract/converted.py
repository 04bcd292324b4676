"""What lies beside a model that was converted from a PyTorch program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.contract.errors import InvalidModel

REPORT_FILE: Final = "conversion.json"
_MOST_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What a conversion found.

    Attributes:
        batch: The number of rows the program was exported for; None when it is free.
        largest_difference: Between program and model, as a share of an output's magnitude.
    """

    batch: int | None
    largest_difference: float


def read_report(directory: Path) -> ConversionReport:
    """Read the report in a converted model's folder; its writer is not trusted.

    Raises:
        InvalidModel: There is none, or it does not say what it must.
    """
    path = directory / REPORT_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        batch = document["batch"]
        return ConversionReport(
            batch=None if batch is None else int(batch),
            largest_difference=float(document["largest_difference"]),
        )
    except (OSError, ArithmeticError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidModel(
            f"the conversion left no {REPORT_FILE} that can be read; expected its batch and "
            "largest difference"
        ) from error
