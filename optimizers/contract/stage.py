"""When in a recipe a step may come."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """What a step needs the model to be; a recipe goes through the stages in order.

    Attributes:
        FLOAT: Its weights are floating point: it is reshaped, pruned or trained.
        INTEGER: Its weights become integers, or narrower floats; nothing trains them any more.
        SESSION: The model is complete; only how it is opened changes.
    """

    FLOAT = 1
    INTEGER = 2
    SESSION = 3
