"""Files written by operators: YAML text to typed values, with errors that name the line."""

from __future__ import annotations

import difflib
import pathlib
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import yaml

from optimizers.contract.addresses import without_password
from optimizers.contract.errors import InvalidDocument

Path = tuple[str | int, ...]

LARGEST_DOCUMENT_BYTES: Final = 1 << 20
"""No file that an operator writes is longer."""

_DEEPEST: Final = 32
_MOST_VALUES: Final = 50_000
_LONGEST_NUMBER: Final = 64
_LARGEST_INTEGER: Final = (1 << 63) - 1
_LONGEST_SHOWN: Final = 120
_LONGEST_KEY_SHOWN: Final = 64

_Scalar: TypeAlias = str | int | float | bool | None
_TAG: Final = "tag:yaml.org,2002:"
_NUMBERS: Final = (f"{_TAG}int", f"{_TAG}float")
_SCALARS: Final = (*_NUMBERS, f"{_TAG}str", f"{_TAG}bool", f"{_TAG}null")


class Document:
    """A parsed YAML file that remembers the line of every key.

    Attributes:
        source: The name shown in errors.
        data: Plain lists, dicts, strings and numbers.
    """

    def __init__(self, text: str, source: str) -> None:
        """Parse `text`.

        Raises:
            InvalidDocument: It is too long, too deep or too large with its aliases written out, is
                not YAML, repeats a key, or holds something else than texts, numbers, true, false,
                null, lists and mappings.
        """
        self.source = source
        self._lines: dict[Path, int] = {}
        self._values = 0
        self._open: list[yaml.Node] = []
        self._constructor = yaml.SafeLoader("")
        node = self._compose(text)
        self.data: Any = {} if node is None else self._build(node, ())

    @classmethod
    def from_data(cls, data: object, source: str) -> Document:
        """A document of values that were read before; its errors name no line."""
        document = cls("", source)
        document.data = data
        return document

    def line(self, path: Path) -> int | None:
        """The line, counted from 1, of the key at `path` or of its nearest parent."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path)

    def error(self, path: Path, problem: str) -> InvalidDocument:
        """An error that names this file, the line and the key."""
        line = self.line(path)
        where = f"{self.source}:{line}" if line else self.source
        key = ".".join(shown_key(part) for part in path)
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

    def _compose(self, text: str) -> yaml.Node | None:
        """The text's nodes, aliases not yet followed."""
        content = encoded(text, self.source)
        try:
            return yaml.compose(text, Loader=yaml.CSafeLoader)
        except yaml.reader.ReaderError as error:
            line = content.count(b"\n", 0, error.position) + 1
            raise InvalidDocument(f"{self.source}:{line}: {error.reason}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            problem = cut(getattr(error, "problem", None) or "not YAML")
            raise InvalidDocument(f"{self.source}:{line}: {problem}") from error

    def _build(self, node: yaml.Node, path: Path) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        self._values += 1
        if self._values > _MOST_VALUES:
            raise self.error(path, f"expected at most {_MOST_VALUES} values, aliases written out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node in self._open:
            raise self.error(path, "this alias stands inside what it repeats")
        if len(path) >= _DEEPEST:
            raise self.error(path, f"expected at most {_DEEPEST} levels of lists and mappings")
        self._open.append(node)
        try:
            return self._collection(node, path)
        finally:
            self._open.pop()

    def _collection(self, node: yaml.Node, path: Path) -> list[Any] | dict[str, Any]:
        if node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if node.tag == f"{_TAG}seq":
            return [self._build(item, (*path, index)) for index, item in enumerate(node.value)]
        raise self.error(path, f"expected a plain list or mapping, got the tag {cut(node.tag)}")

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._lines[path] = key_node.start_mark.line + 1
                raise self.error(path, "expected a text before ':', got a list or a mapping")
            key = str(key_node.value)
            inner = (*path, key)
            self._lines[inner] = key_node.start_mark.line + 1
            if key in mapping:
                raise self.error(inner, "this key stands twice")
            mapping[key] = self._build(value_node, inner)
        return mapping

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> _Scalar:
        value = shown(node.value)
        if node.tag not in _SCALARS:
            kind = cut(node.tag.removeprefix(_TAG))
            raise self.error(
                path,
                f"expected a text, a number, true, false or null, got {value}, which YAML takes "
                f"for a {kind}; quote it if it is a text",
            )
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise self.error(
                path, f"expected a number of at most {_LONGEST_NUMBER} digits, got {value}"
            )
        try:
            built: _Scalar = self._constructor.construct_object(node)
        except (ValueError, LookupError) as error:
            kind = node.tag.removeprefix(_TAG)
            raise self.error(path, f"expected a value of type {kind}, got {value}") from error
        if isinstance(built, int) and abs(built) > _LARGEST_INTEGER:
            raise self.error(path, f"expected a number of at most 64 bits, got {value}")
        return built


def read_text(path: pathlib.Path, source: str) -> str | None:
    """The text of a file that an operator may have written, or None where there is none.

    Args:
        path: Where it lies.
        source: The name shown in errors.

    Raises:
        InvalidDocument: It is no file, too long, unreadable or not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidDocument(f"{source}: expected a file, got a folder or a device")
        if status.st_size > LARGEST_DOCUMENT_BYTES:
            raise _too_long(source, status.st_size)
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidDocument(
            f"{source}:{line}: expected UTF-8 text, got {error.reason}"
        ) from error
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidDocument(f"{source} links to a file that does not exist") from None
        return None
    except OSError as error:
        raise InvalidDocument(f"{source} cannot be read: {error.strerror}") from error


def encoded(text: str, source: str) -> bytes:
    """The text as UTF-8.

    Raises:
        InvalidDocument: It is too long for what an operator writes, or holds half a character.
    """
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise InvalidDocument(
            f"{source}:{line}: expected UTF-8 text, got {error.reason}"
        ) from error
    if len(content) > LARGEST_DOCUMENT_BYTES:
        raise _too_long(source, len(content))
    return content


def cut(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """The text, or its beginning and its end when it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def shown(value: object) -> str:
    """How an error shows a value, whatever it is: never long, on one line, without passwords."""
    try:
        return cut(without_password(repr(value)))
    except ValueError:  # an integer too large to be written in decimal
        return f"a {type(value).__name__} too large to be shown"


def shown_key(key: object) -> str:
    """How an error shows a key or a name: as it is, unless it is long or cannot be printed."""
    text = str(key)
    return cut(text if text.isprintable() else repr(text), _LONGEST_KEY_SHOWN)


def unknown_key(key: str, known: Iterable[str], kind: str = "key") -> str:
    """What to say of a key that nobody knows: the nearest one that exists, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(key[:_LONGEST_KEY_SHOWN], known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown {kind}; {hint}Expected one of {', '.join(known)}"


def _too_long(source: str, size: int) -> InvalidDocument:
    return InvalidDocument(f"{source}: expected at most {LARGEST_DOCUMENT_BYTES} bytes, got {size}")
