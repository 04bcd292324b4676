"""Parameters of a load: a configuration and files in the place of what lies in the repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from optimizers.contract.documents import shown_key
from server.errors import InvalidRequest, TooLarge, Unsupported
from server.file_names import is_plain_file_name, is_version
from server.pb import open_inference_pb2 as pb
from server.triton_config import ModelConfig, model_config_of_json

Files = dict[tuple[int, str], bytes]
"""(version, file name) → content."""

_CONFIG: Final = "config"
_FILE: Final = "file:"
_MOST_FILES: Final = 256


def decode_load(
    parameters: Mapping[str, pb.ModelRepositoryParameter], *, takes_files: bool
) -> tuple[ModelConfig | None, Files]:
    """The configuration that a load brings (None: none) and the files.

    Args:
        parameters: As they came.
        takes_files: Whether files may come this way.

    Raises:
        InvalidRequest: A parameter is unknown, or has another type than Triton's.
        InvalidDocument: The configuration makes no sense.
        TooLarge: There are too many files.
        Unsupported: Files came where none may.
    """
    if len(parameters) > _MOST_FILES + 1:
        raise TooLarge(f"a load may bring at most {_MOST_FILES} files, got {len(parameters)}")
    config: ModelConfig | None = None
    files: Files = {}
    for key, parameter in parameters.items():
        if key == _CONFIG:
            _require(key, parameter, "string_param", "the JSON of a ModelConfig")
            config = model_config_of_json(parameter.string_param, f"load parameter '{_CONFIG}'")
        elif key.startswith(_FILE):
            if not takes_files:
                raise Unsupported(
                    f"load parameter '{shown_key(key)}': files are taken on the admin endpoint only"
                )
            _require(key, parameter, "bytes_param", "the file's bytes")
            files[_place(key)] = parameter.bytes_param
        else:
            raise InvalidRequest(
                f"unknown load parameter '{shown_key(key)}'; expected 'config' or "
                "'file:VERSION/FILE'"
            )
    if files and config is None:
        raise InvalidRequest(
            "a load that brings files must bring their configuration as well, in parameter "
            "'config'; '{}' says nothing and lets Hone find out"
        )
    return config, files


def _require(key: str, parameter: pb.ModelRepositoryParameter, kind: str, wanted: str) -> None:
    given = parameter.WhichOneof("parameter_choice")
    if given != kind:
        raise InvalidRequest(
            f"load parameter '{shown_key(key)}' must be {wanted} as {kind}, got "
            f"{given or 'nothing'}"
        )


def _place(key: str) -> tuple[int, str]:
    version, slash, name = key.removeprefix(_FILE).partition("/")
    if not slash or not is_version(version) or not is_plain_file_name(name):
        raise InvalidRequest(
            f"load parameter '{shown_key(key)}' must be 'file:VERSION/FILE': a version folder and "
            "the name of a file in it"
        )
    return int(version), name
