"""Which version of Hone this is."""

from importlib.metadata import PackageNotFoundError, version


def product_version() -> str:
    """The installed version of Hone."""
    try:
        return version("hone-server")
    except PackageNotFoundError:
        return "0+unknown"
