"""Files written by operators: YAML text to typed values, with errors that name the line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import yaml

from optimizers.contract.errors import InvalidDocument

Path = tuple[str | int, ...]

_LARGEST_DOCUMENT_BYTES: Final = 1 << 20


class Document:
    """A parsed YAML file that remembers the line of every key.

    Attributes:
        source: The name shown in errors.
        data: Plain lists, dicts, strings and numbers.
    """

    def __init__(self, text: str, source: str) -> None:
        """Parse `text`.

        Raises:
            InvalidDocument: It is too long, is not YAML, or repeats a key.
        """
        self.source = source
        if len(text) > _LARGEST_DOCUMENT_BYTES:
            raise InvalidDocument(f"{source} is longer than {_LARGEST_DOCUMENT_BYTES} bytes")
        self._lines: dict[Path, int] = {}
        try:
            node = yaml.compose(text, Loader=yaml.CSafeLoader)
            self._constructor = yaml.SafeLoader("")
            self.data: Any = {} if node is None else self._build(node, ())
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "not YAML"
            raise InvalidDocument(f"{source}{line}: {problem}") from error

    def line(self, path: Path) -> int | None:
        """The line, counted from 1, of the key at `path` or of its nearest parent."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path)

    def error(self, path: Path, problem: str) -> InvalidDocument:
        """An error that names this file, the line and the key."""
        line = self.line(path)
        where = f"{self.source}:{line}" if line else self.source
        key = ".".join(str(part) for part in path)
        return InvalidDocument(f"{where}: {key}: {problem}" if key else f"{where}: {problem}")

    @contextmanager
    def at(self, path: Path) -> Iterator[None]:
        """Give an error raised inside the file, the line and the key at `path`."""
        try:
            yield
        except InvalidDocument as error:
            raise self.error(path, str(error)) from error

    def mapping(self, path: Path, allowed: Iterable[str] | None = None) -> dict[str, Any]:
        """The mapping at `path`, checked to hold only `allowed` keys when they are given.

        Raises:
            InvalidDocument: Something else stands there, or a key is unknown.
        """
        value: Any = self.data
        for part in path:
            value = value[part]
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(path, f"expected a mapping, got {type(value).__name__}")
        if allowed is not None:
            known = list(allowed)
            for key in value:
                if key not in known:
                    raise self.error((*path, key), unknown_key(str(key), known))
        return value

    def _build(self, node: yaml.Node, path: Path) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                inner = (*path, key)
                self._lines[inner] = key_node.start_mark.line + 1
                if key in mapping:
                    raise self.error(inner, "this key stands twice")
                mapping[key] = self._build(value_node, inner)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._constructor.construct_object(node)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that nobody knows: the nearest one that exists, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown key; {hint}Expected one of {', '.join(known)}"
