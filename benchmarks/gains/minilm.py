"""The sentence encoder that gains are measured on, and sentences for it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch

from benchmarks.gains.documents import documents
from benchmarks.gains.encoder import load_encoder, tokenize
from benchmarks.gains.sentences import LENGTH, Part, PartSize, split
from benchmarks.gains.subject import Subject
from optimizers.contract.profile import Task
from optimizers.demo.networks import export_named

_SIZES: Final = {
    "gate": PartSize(documents=5000, sentences=4),
    "search": PartSize(documents=1000, sentences=2),
    "calibration": PartSize(documents=512, sentences=1),
    "train": PartSize(documents=None, sentences=25),
}
_SEED: Final = 0
_DONE: Final = "about.txt"
_SCOPES: Final = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter writes the modules around a node, outermost first, and its own name."""


def minilm(directory: Path, tell: Callable[[str], None]) -> Subject:
    """all-MiniLM-L6-v2 as it was published; written below `directory` when it is not there yet.

    The verdict is by documents, so there are many in the gate: most are single fortunes.

    Raises:
        InvalidData: The weights or the texts are not installed.
    """
    home = directory / "minilm"
    files = {part: home / f"{part}.npz" for part in _SIZES}
    model, done = home / "model.onnx", home / _DONE
    if not done.exists():
        home.mkdir(parents=True, exist_ok=True)
        parts = split(documents(), _SIZES, tokenize, _SEED)
        for name, part in parts.items():
            _write_part(files[name], part)
        _export(model, parts["search"])
        done.write_text(_counts(parts), encoding="utf-8")
    counts = done.read_text(encoding="utf-8")
    tell(f"minilm: {counts}")
    about = (
        f"all-MiniLM-L6-v2 (22.6 million parameters) as published, {LENGTH} tokens, on Debian's "
        f"fortunes, manual pages and Python handbook, split by document; sentences of documents: "
        f"{counts}"
    )
    return Subject(name="minilm", about=about, task=Task.EMBEDDING, model=model, data=files)


def _counts(parts: Mapping[str, Part]) -> str:
    return ", ".join(f"{name} {len(part):,} of {part.documents:,}" for name, part in parts.items())


def _write_part(file: Path, part: Part) -> None:
    tokens = part.tokens
    np.savez_compressed(file, input_ids=tokens.ids, attention_mask=tokens.mask, groups=part.groups)


def _export(model: Path, some: Part) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    export_named(
        load_encoder(),
        {"input_ids": some.tokens.ids, "attention_mask": some.tokens.mask},
        model,
        output="sentence_embedding",
        dynamic={0: batch, 1: length},
    )
    exported = onnx.load(str(model))
    _name_by_modules(exported.graph)
    onnx.save(exported, str(model))


def _name_by_modules(graph: onnx.GraphProto) -> None:
    """Call each node after the module that it is of, so that patterns can choose layers."""
    counts: Counter[str] = Counter()
    for node in graph.node:
        said = {one.key: one.value for one in node.metadata_props}
        module = ast.literal_eval(said.get(_SCOPES, "['', '']"))[-2]
        name = f"{module}/{node.op_type}" if module else node.op_type
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
