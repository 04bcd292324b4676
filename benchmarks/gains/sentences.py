"""Sentences out of documents, in parts that share neither a document nor a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gains.documents import Document

LENGTH: Final = 16
"""Tokens of every sentence: longer ones are cut, shorter ones filled up."""

_END: Final = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["')]))\s+(?=["'(]?[A-Z])""")
_FEWEST_WORDS: Final = 4
_MOST_WORDS: Final = 64
_LEAST_LETTERS: Final = 0.75


class Tokens(NamedTuple):
    """Sentences as an encoder takes them.

    Attributes:
        ids: int64 [sentences, LENGTH].
        mask: 1 where a token is, 0 where the sentence was filled up; int64, of the same shape.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSize:
    """How much of the documents one part gets.

    Attributes:
        documents: How many; None: all that are left.
        sentences: Of one document, at most so many.
    """

    documents: int | None
    sentences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Sentences of some documents, mixed.

    Attributes:
        tokens: Of each sentence.
        groups: The name of each sentence's document, <U [sentences].
    """

    tokens: Tokens
    groups: NDArray[np.str_]

    @property
    def documents(self) -> int:
        """How many documents they come from."""
        return len(np.unique(self.groups))

    def __len__(self) -> int:
        return len(self.groups)


def split(
    documents: Sequence[Document],
    sizes: Mapping[str, PartSize],
    tokenize: Callable[[Sequence[str]], Tokens],
    seed: int,
) -> dict[str, Part]:
    """Deal the documents out, in the order of `sizes`.

    A sentence whose tokens came before, in this part or in an earlier one, is dropped.

    Args:
        documents: In an order that is always the same.
        sizes: Part → how much it gets.
        tokenize: Makes tokens of texts.
        seed: The same seed deals them out the same way.
    """
    random = np.random.default_rng(seed)
    shuffled = [documents[index] for index in random.permutation(len(documents))]
    seen: set[bytes] = set()
    parts, first = {}, 0
    for name, size in sizes.items():
        last = len(shuffled) if size.documents is None else first + size.documents
        parts[name] = _part(shuffled[first:last], size.sentences, tokenize, seen, random)
        first = last
    return parts


def _part(
    documents: Sequence[Document],
    most: int,
    tokenize: Callable[[Sequence[str]], Tokens],
    seen: set[bytes],
    random: np.random.Generator,
) -> Part:
    pairs = [(one.name, text) for one in documents for text in sentences(one.text)]
    names = np.array([name for name, _ in pairs])
    tokens = tokenize([text for _, text in pairs])
    taken: dict[str, int] = {}
    kept = []
    for index in random.permutation(len(pairs)):
        name, content = pairs[index][0], tokens.ids[index].tobytes()
        if content not in seen and taken.get(name, 0) < most:
            seen.add(content)
            taken[name] = taken.get(name, 0) + 1
            kept.append(index)
    return Part(tokens=Tokens(tokens.ids[kept], tokens.mask[kept]), groups=names[kept])


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text in its order, without what is too short, too long or no prose."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _END.split(" ".join(paragraph.split())):
            if _is_prose(sentence):
                yield sentence


def _is_prose(sentence: str) -> bool:
    letters = sum(letter.isalpha() or letter == " " for letter in sentence)
    is_long_enough = _FEWEST_WORDS <= len(sentence.split()) <= _MOST_WORDS
    return is_long_enough and sentence.isprintable() and letters >= _LEAST_LETTERS * len(sentence)
