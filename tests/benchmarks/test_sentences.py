"""Sentences for the encoder: parts share neither a document nor a sentence."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from benchmarks.gains.documents import Document
from benchmarks.gains.sentences import LENGTH, PartSize, Tokens, sentences, split

SIZES = {
    "gate": PartSize(documents=5, sentences=2),
    "train": PartSize(documents=None, sentences=100),
}


def by_words(texts: Sequence[str]) -> Tokens:
    """Every word a number, the same one wherever it stands."""
    ids = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in enumerate(texts):
        words = [zlib.crc32(word.encode()) for word in text.split()][:LENGTH]
        ids[row, : len(words)] = words
    return Tokens(ids, (ids > 0).astype(np.int64))


def document(number: int) -> Document:
    own = " ".join(f"Sentence {'abcdefgh'[part]} of document {number}." for part in range(6))
    return Document(f"text/{number}", f"{own} This one stands in every document.")


def test_parts_share_neither_documents_nor_sentences() -> None:
    parts = split([document(number) for number in range(20)], SIZES, by_words, seed=3)
    gate, train = parts["gate"], parts["train"]
    assert (gate.documents, train.documents) == (5, 15)
    assert not {*gate.groups} & {*train.groups}
    everything = [row.tobytes() for part in parts.values() for row in part.tokens.ids]
    assert len(everything) == len(set(everything))
    assert len(train) in (15 * 6, 15 * 6 + 1), "the sentence of all documents is there once"
    assert np.unique(gate.groups, return_counts=True)[1].tolist() == [2] * 5


def test_the_seed_decides_which_documents_judge() -> None:
    texts = [document(number) for number in range(20)]
    one, same, other = (
        split(texts, SIZES, by_words, seed)["gate"].groups.tolist() for seed in (0, 0, 1)
    )
    assert one == same
    assert {*one} != {*other}


def test_sentences_end_where_a_reader_would_say() -> None:
    text = (
        'He said it. "She did\nnot hear him." Was it so? i.e. we do not know.\n\n'
        "Too short.\n\n| 17 | 23 | 42 | 99 | 12 |\n\nA paragraph of its own"
    )
    assert list(sentences(f"{text}\n\n{'word ' * 65}")) == [
        '"She did not hear him."',
        "Was it so? i.e. we do not know.",
        "A paragraph of its own",
    ]
