"""Descriptors under their public names, for clients that ask the server what it offers."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from server.pb import management_pb2, model_config_pb2, open_inference_pb2

_OURS: Final = "hone.oip"
_PUBLIC: Final = "inference"


def descriptor_pool(*, management: bool) -> DescriptorPool:
    """A pool of its own in which our messages bear the names that clients know.

    Args:
        management: Whether the management service is offered too.
    """
    pool = DescriptorPool()
    for module in (model_config_pb2, open_inference_pb2):
        pool.Add(_renamed(module))
    for module in (health_pb2, reflection_pb2, *((management_pb2,) if management else ())):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


def _renamed(module: Any) -> FileDescriptorProto:
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    file.package = _PUBLIC
    for message in file.message_type:
        _rename_fields(message)
    for service in file.service:
        for method in service.method:
            method.input_type = _public_name(method.input_type)
            method.output_type = _public_name(method.output_type)
    return file


def _rename_fields(message: Any) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = _public_name(field.type_name)
    for nested in message.nested_type:
        _rename_fields(nested)


def _public_name(name: str) -> str:
    prefix = f".{_OURS}."
    return f".{_PUBLIC}.{name[len(prefix) :]}" if name.startswith(prefix) else name
