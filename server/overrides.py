"""What a load says of a model in the place of what lies in its folder."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server.errors import FailedPrecondition
from server.file_names import is_plain_file_name, is_version
from server.triton_config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """How a model is loaded until a load says otherwise.

    Attributes:
        config: In the place of `config.pbtxt`.
        directory: A folder with version folders in the place of the model's own; None for those.
    """

    config: ModelConfig
    directory: Path | None = None


class OverrideFiles:
    """Files that came with a load. They do not survive the server, and neither does the load."""

    def __init__(self, directory: Path) -> None:
        """Keep files below `directory`, which is ours alone and emptied first."""
        shutil.rmtree(directory, ignore_errors=True)
        self._directory = directory
        self._numbers = itertools.count(1)

    def write(self, files: Mapping[tuple[int, str], bytes]) -> Path:
        """Write (version, file name) → content; blocks.

        Returns:
            A new folder that holds VERSION/FILE.

        Raises:
            FailedPrecondition: They cannot be written.
        """
        target = self._directory / str(next(self._numbers))
        try:
            for (version, name), content in files.items():
                if not is_version(str(version)) or not is_plain_file_name(name):
                    raise ValueError(f"{version}/{name} would not lie in its folder")
                path = target / str(version) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
            raise FailedPrecondition(
                f"the files of this load cannot be written: {error.strerror}"
            ) from error
        return target

    def remove(self, override: Override | None) -> None:
        """Delete the files of an override that is no longer loaded, if it has any; blocks."""
        if override is not None and override.directory is not None:
            shutil.rmtree(override.directory, ignore_errors=True)
