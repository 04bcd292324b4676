"""Values that files hold in a form of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import CoreSchema, core_schema

_T = TypeVar("_T")


_adapters: dict[type, TypeAdapter[Any]] = {}


def adapter(kind: type[_T]) -> TypeAdapter[_T]:
    """What reads and writes values of a type; made when it is first needed, since it takes time."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


@dataclass(frozen=True, slots=True)
class StoredBy:
    """How a field is written and read, as an annotation of its type.

    pydantic's own validators and serialisers of this kind work out the schema of the type all the
    same, which for a recipe is that of every step there is.

    Attributes:
        read: Makes the value of what a file held; given a value, it gives that value.
        write: Makes plain data of the value.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """What pydantic asks an annotation for."""
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(self.write)
        )
