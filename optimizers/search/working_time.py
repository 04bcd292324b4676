"""The end of the time that a search may work."""

from __future__ import annotations


class TimeIsUp(Exception):
    """A search's time ended while a trial was under way; nothing follows for the trial."""
