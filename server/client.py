"""A typed asynchronous client of a Hone server, for the command line, tests and benchmarks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from optimizers.contract.errors import HoneError
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec
from server.pb import management_pb2 as management
from server.pb import open_inference_pb2 as inference

_INFERENCE: Final = "/inference.GRPCInferenceService/"
_MANAGEMENT: Final = "/hone.v1.Management/"
_HEALTH: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = b"\x08\x01"
_LARGEST_MESSAGE: Final = 1 << 30
_ATTEMPTS: Final = 2
_DATATYPES: Final = {dtype: name for name, dtype in NUMPY_DTYPES.items() if name != "BYTES"}
_Response = TypeVar("_Response", bound=Message)


class CallFailed(HoneError):
    """A server refused a call or could not be reached.

    Attributes:
        code: The gRPC status.
    """

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Client:
    """One connection; use it as an asynchronous context manager."""

    def __init__(self, address: str) -> None:
        """Talk to `HOST:PORT`; the admin endpoint for management calls."""
        self._address = address
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
                ("grpc.max_send_message_length", _LARGEST_MESSAGE),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> tuple[dict[str, NDArray[Any]], str]:
        """Ask a model.

        Args:
            model: Its name.
            inputs: Input name → array; texts as an object array of bytes.
            version: "" | VERSION, each with optional @VARIANT.
            outputs: Names wanted; none for all.
            timeout: Seconds until the call is given up.

        Returns:
            Output name → array, and the id of the variant that answered.

        Raises:
            CallFailed: The server refused or could not be reached.
        """
        request = inference_request(model, inputs, version=version, outputs=outputs)
        response = await self.call(
            "ModelInfer", request, inference.ModelInferResponse, timeout=timeout
        )
        arrays = {
            tensor.name: _array(tensor.datatype, tuple(tensor.shape), raw)
            for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        return arrays, response.parameters["variant"].string_param

    async def signature(self, model: str, version: str = "") -> Signature:
        """What a model takes and gives.

        Raises:
            CallFailed: The server refused or could not be reached.
        """
        metadata = await self.call(
            "ModelMetadata",
            inference.ModelMetadataRequest(name=model, version=version),
            inference.ModelMetadataResponse,
        )

        def specs(tensors: Any) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(name=one.name, datatype=one.datatype, shape=tuple(one.shape))
                for one in tensors
            )

        return Signature(inputs=specs(metadata.inputs), outputs=specs(metadata.outputs))

    async def call(
        self,
        method: str,
        request: Message,
        response: type[_Response],
        *,
        timeout: float | None = None,
    ) -> _Response:
        """Call a method of the inference service, or of management if it is not one.

        Raises:
            CallFailed: The server refused or could not be reached.
        """
        service = _INFERENCE if request.DESCRIPTOR.full_name.startswith("hone.oip") else _MANAGEMENT
        call: Any = self._channel.unary_unary(
            service + method,
            request_serializer=_serialize,
            response_deserializer=response.FromString,
        )
        try:
            answer: _Response = await call(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        return answer

    async def watch_job(self, job: str) -> AsyncIterator[management.Job]:
        """A job now and after each change, until it has ended.

        A connection that breaks is made once more, and the state then told again.

        Raises:
            CallFailed: There is no such job, or the server went away.
        """
        call: Any = self._channel.unary_stream(
            _MANAGEMENT + "WatchJob",
            request_serializer=_serialize,
            response_deserializer=management.Job.FromString,
        )
        attempts = _ATTEMPTS
        while True:
            try:
                async for message in call(management.WatchJobRequest(id=job)):
                    attempts = _ATTEMPTS
                    yield message
                return
            except grpc.aio.AioRpcError as error:
                attempts -= 1
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not attempts:
                    raise self._failure(error) from error

    async def report(self, of: management.ExplainRequest, *, picture: bool = False) -> bytes:
        """The page that a search wrote, or its picture.

        Raises:
            CallFailed: There is none, or the server went away.
        """
        call: Any = self._channel.unary_stream(
            _MANAGEMENT + "Report",
            request_serializer=_serialize,
            response_deserializer=management.ReportPart.FromString,
        )
        request = management.ReportRequest(of=of, picture=picture)
        try:
            return b"".join([part.content async for part in call(request)])
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    async def is_serving(self, timeout: float = 5.0) -> bool:
        """Whether the health service says SERVING.

        Raises:
            CallFailed: The server could not be reached.
        """
        channel: Any = self._channel
        call = channel.unary_unary(_HEALTH)
        try:
            answer: bytes = await call(b"", timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        return answer == _SERVING

    def _failure(self, error: grpc.aio.AioRpcError) -> CallFailed:
        text = error.details() or error.code().name
        if error.code() is grpc.StatusCode.UNAVAILABLE and "onnect" in text:
            text = f"no server answers at {self._address}; is `hone serve` running there?"
        return CallFailed(error.code(), text)


def inference_request(
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    *,
    version: str = "",
    outputs: Sequence[str] = (),
) -> inference.ModelInferRequest:
    """A request message with raw contents; see `Client.infer`."""
    request = inference.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        datatype = _DATATYPES.get(array.dtype, "BYTES")
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(
            _texts(array) if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
        )
    for name in outputs:
        request.outputs.add(name=name)
    return request


def as_data(message: Message) -> dict[str, Any]:
    """A message as plain values, every field present, numbers as numbers."""
    data: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            data[field.name] = None
            continue
        value = getattr(message, field.name)
        if field.message_type is None:
            data[field.name] = list(value) if field.is_repeated else value
        else:
            data[field.name] = (
                [as_data(one) for one in value] if field.is_repeated else as_data(value)
            )
    return data


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _texts(array: NDArray[Any]) -> bytes:
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _array(datatype: str, shape: tuple[int, ...], raw: bytes) -> NDArray[Any]:
    if datatype != "BYTES":
        return np.frombuffer(raw, NUMPY_DTYPES[datatype]).reshape(shape)
    texts, position = [], 0
    while position < len(raw):
        length = int.from_bytes(raw[position : position + 4], "little")
        texts.append(raw[position + 4 : position + 4 + length])
        position += 4 + length
    array = np.empty(len(texts), dtype=np.object_)
    array[:] = texts
    return array.reshape(shape)
