"""What is loaded: loads, unloads, swaps and tells who answers a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from optimizers.contract.directory import VariantDirectory
from optimizers.contract.errors import HoneError, VariantDamaged
from optimizers.contract.evaluation import Verdict
from optimizers.contract.host import Host, memory_available_bytes
from optimizers.contract.manifest import ORIGINAL, Manifest
from optimizers.contract.profile import HoldVersion
from optimizers.contract.runtime import Session, SessionSpec
from server.config import ServerConfig
from server.errors import (
    FailedPrecondition,
    GoldenMismatch,
    InvalidRequest,
    NotReady,
    UnknownModel,
    UnknownVariant,
    UnknownVersion,
)
from server.journal import Journal
from server.metrics import Metrics
from server.model import ModelVersion
from server.opened import Opening, OpenVariant, open_original, open_variant, release_memory
from server.repository import ModelEntry, ModelRepository, VariantStore

_log = logging.getLogger(__name__)

_EXTRA_SESSIONS: Final = 2
_MEMORY_MARGIN: Final = 1.5


class State(StrEnum):
    """Where a model version stands; Triton's words."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"
