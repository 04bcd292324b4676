"""What was found when a variant was first opened on this host, kept for its later starts.

A heavy model is asked half a dozen times before anybody knows what its runs cost. That holds for
as long as the bytes, the processor, the runtime and the arrangement are the same; what changed
since is learned from the runs of real requests.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from optimizers.contract.directory import write_atomically
from optimizers.contract.padding import PaddingPolicy
from optimizers.contract.runtime import SessionSpec
from server.probe import Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found, and the arrangement for which it holds.

    Attributes:
        spec: How the variant was opened.
        threads: Processors that the server handed out.
        findings: What made-up rows showed.
        wide_ratio: A wide run's time over a narrow one's; None where runs are never wide.
        padding: What `hone.yaml` said of filling inputs up.
    """

    spec: SessionSpec
    threads: int
    findings: Findings
    wide_ratio: float | None
    padding: PaddingPolicy = field(default_factory=PaddingPolicy)


_found = TypeAdapter(Found)


def recall(file: Path, spec: SessionSpec, threads: int, padding: PaddingPolicy) -> Found | None:
    """What was found before for this arrangement; None where nothing was, or it is unreadable."""
    try:
        found = _found.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    same = (found.spec, found.threads, found.padding) == (spec, threads, padding)
    return found if same else None


def keep(file: Path, found: Found) -> None:
    """Keep it for later starts; without a place to write, they find out again."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, _found.dump_json(found, indent=2))
