"""What onnxruntime says when it fails, which it does in a dozen unrelated classes."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 400
_SIGNS_OF_NO_MEMORY: Final = (
    *("bad allocation", "bad_alloc", "Failed to allocate memory"),
    *("out of memory", "smaller than requested bytes"),  # of a GPU, of its limited arena
)


def complaint(error: Exception) -> str:
    """Its text in one line of at most 400 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def lacks_memory(error: Exception) -> bool:
    """Whether memory could not be had, which says nothing against the model."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY)
