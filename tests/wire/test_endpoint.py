"""Health, reflection and who may call what on which endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.support import models
from tests.support.servers import Server, running

INFERENCE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("models")
    models.linear(folder / "linear/1/model.onnx")
    with running(folder, tmp_path_factory.mktemp("state")) as server:
        yield server


@pytest.mark.parametrize("service", ["", INFERENCE])
def test_health_says_serving(server: Server, service: str) -> None:
    with grpc.insecure_channel(server.public) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=10
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service_is_not_found(server: Server) -> None:
    with (
        grpc.insecure_channel(server.public) as channel,
        pytest.raises(grpc.RpcError, match="NOT_FOUND"),
    ):
        health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="nope"), timeout=10
        )


def test_reflection_alone_suffices_to_ask_a_model(server: Server) -> None:
    with grpc.insecure_channel(server.public) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert INFERENCE in database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName(INFERENCE).FindMethodByName("ModelInfer")
        request_class = message_factory.GetMessageClass(method.input_type)
        response_class = message_factory.GetMessageClass(method.output_type)
        request: Any = request_class()
        request.model_name = "linear"
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(bytes(16))
        call = channel.unary_unary(
            f"/{INFERENCE}/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_class.FromString,
        )
        response = call(request, timeout=10)
    assert response.outputs[0].name == "y"


def test_management_is_on_the_admin_endpoint_only(server: Server) -> None:
    def services(address: str) -> list[str]:
        with grpc.insecure_channel(address) as channel:
            return list(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert "hone.v1.Management" in services(server.admin)
    assert "hone.v1.Management" not in services(server.public)
    with grpc.insecure_channel(server.public) as channel:
        call = channel.unary_unary(
            "/hone.v1.Management/ListModels",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            call(b"", timeout=10)


def test_both_endpoints_listen_on_loopback_by_default(server: Server) -> None:
    assert server.public.startswith("127.0.0.1:")
    assert server.admin.startswith("127.0.0.1:")
    assert server.metrics.startswith("http://127.0.0.1:")
