"""Addresses of databases and stores that may hold a password, and how they are shown and kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from optimizers.contract.errors import NotSupported

BY_NAME: Final = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
"""An address that an environment variable holds, so that no file has to."""

_MASK: Final = "***"
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_PASSWORD: Final = re.compile(r"(/[^/\s:@]*:)[^\s]+(@)")
_SECRET_PARAMETER: Final = re.compile(
    r"([?&][^=&\s]*(?:pass|secret|token|key)[^=&\s]*=)[^&\s]*", re.IGNORECASE
)
_PASSWORD_WITH_SPACES: Final = re.compile(r"(/[^/\s:@]*:).+(@)", re.DOTALL)
_SECRET_WITH_SPACES: Final = re.compile(
    r"([?&][^=&\s]*(?:pass|secret|token|key)[^=&\s]*=)[^&]*", re.IGNORECASE
)


def without_password(address: str) -> str:
    """An address, or a text with one, whose passwords are `***`; that is how they are shown.

    What begins as an address does is one to its end, so that a password with a space, which is a
    mistake, is not shown where that is told.
    """
    if _ADDRESS.match(address):
        password, secret = _PASSWORD_WITH_SPACES, _SECRET_WITH_SPACES
    else:
        password, secret = _PASSWORD, _SECRET_PARAMETER
    return secret.sub(rf"\g<1>{_MASK}", password.sub(rf"\g<1>{_MASK}\g<2>", address))


def problem_of(address: str) -> str:
    """What is wrong with an address that has a password; "" where nothing is known to be.

    A driver takes what follows the first '@' for the machine, and shows it in its errors.
    """
    if re.search(r"://[^/?#\s:@]*:[^\s@]*@[^\s/?#@]*@", address) is None:
        return ""
    return "expected one '@' between user and machine; write one in a password as %40"


def without_masked_password(address: str) -> str:
    """An address that was kept with `***` for its password, with none: the driver finds it itself.

    That of PostgreSQL looks into PGPASSWORD and the password file of its user.
    """
    place, _, query = address.replace(f":{_MASK}@", "@").partition("?")
    kept = [one for one in query.split("&") if one and not one.endswith(f"={_MASK}")]
    return f"{place}?{'&'.join(kept)}" if kept else place


def resolved_address(address: str, environment: Mapping[str, str], said: str) -> str:
    """What an address stands for: `env:NAME` is the value of an environment variable.

    Args:
        address: As it was written.
        environment: Of this process.
        said: Who names the address, for errors.

    Raises:
        NotSupported: There is no such variable, or it is empty.
    """
    named = BY_NAME.fullmatch(address)
    if named is None:
        return address
    name = named.group(1)
    value = environment.get(name, "").strip()  # secrets often end with a line break
    if not value:
        raise NotSupported(
            f"{said} is {address}, and the environment variable {name} is not set here; set it to "
            "the address for the process that searches"
        )
    return value
