"""Request parameters: the reserved ones checked, all of them as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from optimizers.contract.documents import shown, shown_key
from server.errors import InvalidRequest, TooLarge, Unsupported
from server.pb import open_inference_pb2 as pb

Parameter = bool | int | float | str

_MOST: Final = 64


def decode_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """Request parameters as plain values, reserved ones checked.

    Raises:
        InvalidRequest: A reserved one has the wrong type or value.
        TooLarge: There are too many.
        Unsupported: A reserved one asks for something that Hone does not do.
    """
    if not parameters:
        return {}
    if len(parameters) > _MOST:
        raise TooLarge(f"{len(parameters)} parameters given, at most {_MOST} may be")
    plain: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"parameter '{shown_key(name)}' has no value")
        value = getattr(parameter, kind)
        _check_reserved(name, kind, value)
        plain[name] = value
    return plain


def _check_reserved(name: str, kind: str, value: Parameter) -> None:
    match name:
        case "sequence_id" | "sequence_start" | "sequence_end":
            if value:
                raise Unsupported("sequences are not supported")
        case "priority" | "timeout":
            if kind not in ("int64_param", "uint64_param") or int(value) < 0:
                raise InvalidRequest(
                    f"parameter '{name}' must be a non-negative integer, got {shown(value)}"
                )
        case "variant":
            if kind != "string_param":
                raise InvalidRequest(f"parameter 'variant' must be a text, got {shown(value)}")
        case "triton_enable_empty_final_response":
            pass
        case _ if name.startswith("triton_"):
            raise InvalidRequest(
                f"parameter '{shown_key(name)}' uses the reserved prefix 'triton_'"
            )
