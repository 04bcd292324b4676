"""How the process logs: one record a line, as text or as JSON, and no text can forge a record."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal

from optimizers.contract.documents import cut

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

_FIELDS: Final = ("model", "version", "variant", "request_id")
_ATTRIBUTE: Final = "log_fields"
_LONGEST_FIELD: Final = 256
_LONGEST_MESSAGE: Final = 16 << 10
_LONGEST_TRACEBACK: Final = 64 << 10
_INDENT: Final = "  "


def configure(kind: Format, level: Level) -> None:
    """Log everything of at least `level` to standard error, warnings of libraries too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def concern(
    error: BaseException, *, model: str, version: int, variant: str, request_id: str
) -> None:
    """Remember in an error which request it ended, for the record that may be logged of it."""
    error.__dict__[_ATTRIBUTE] = {
        "model": model,
        "version": str(version),
        "variant": variant,
        "request_id": cut(request_id, _LONGEST_FIELD),
    }


class TextFormatter(logging.Formatter):
    """`LEVEL logger: message`, what it concerns in brackets, a traceback on indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record; only its own first line is not indented."""
        message = _one_line(cut(record.getMessage(), _LONGEST_MESSAGE))
        line = f"{record.levelname} {record.name}: {message}"
        fields = _fields(record)
        if fields:
            told = " ".join(f"{name}={_one_line(repr(text))}" for name, text in fields.items())
            line = f"{line} [{told}]"
        for text in _traceback(self, record).splitlines():
            line += f"\n{_INDENT}{_one_line(text)}"
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `logger`, `message`, what it concerns, `traceback`.

    Every character outside ASCII and every control character is written as an escape.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record."""
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": cut(record.getMessage(), _LONGEST_MESSAGE),
            **_fields(record),
        }
        traceback = _traceback(self, record)
        if traceback:
            content["traceback"] = traceback
        return json.dumps(content)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    """What a record concerns: by its own `extra`, else by the error it tells of."""
    named = {name: str(getattr(record, name)) for name in _FIELDS if hasattr(record, name)}
    error = record.exc_info[1] if record.exc_info else None
    known: dict[str, str] = getattr(error, _ATTRIBUTE, {})
    return {**known, **named}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    return cut(formatter.formatException(record.exc_info), _LONGEST_TRACEBACK)


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
