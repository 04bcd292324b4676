"""The calls by which clients register shared memory."""

from __future__ import annotations

from typing import Any

from server.errors import NotFound, Unsupported
from server.pb import open_inference_pb2 as pb
from server.rpc.endpoint import Unary
from server.rpc.shared_tensors import DISABLED
from server.shared_memory import SharedMemory


class MemoryCalls:
    """Handlers of the shared memory extension; each takes a message and a deadline.

    CUDA memory cannot be registered. To ask for all of its regions, or to forget all of them, is
    answered all the same: stock clients do so before they use the other kind.
    """

    def __init__(self, memory: SharedMemory | None) -> None:
        """Register in `memory`; None refuses every call."""
        self._memory = memory

    def methods(self) -> dict[str, Unary]:
        """Rpc name → how it is called."""
        return {
            "SystemSharedMemoryStatus": Unary(
                request=pb.SystemSharedMemoryStatusRequest, call=self.status
            ),
            "SystemSharedMemoryRegister": Unary(
                request=pb.SystemSharedMemoryRegisterRequest, call=self.register
            ),
            "SystemSharedMemoryUnregister": Unary(
                request=pb.SystemSharedMemoryUnregisterRequest, call=self.unregister
            ),
            "CudaSharedMemoryStatus": Unary(
                request=pb.CudaSharedMemoryStatusRequest, call=self.cuda_status
            ),
            "CudaSharedMemoryRegister": Unary(
                request=pb.CudaSharedMemoryRegisterRequest, call=self.register_cuda
            ),
            "CudaSharedMemoryUnregister": Unary(
                request=pb.CudaSharedMemoryUnregisterRequest, call=self.unregister_cuda
            ),
        }

    async def status(
        self, request: pb.SystemSharedMemoryStatusRequest, deadline: float | None
    ) -> pb.SystemSharedMemoryStatusResponse:
        """One region, or all of them; an unknown one is NOT_FOUND."""
        response = pb.SystemSharedMemoryStatusResponse()
        for name, region in self._allowed().regions(request.name).items():
            told = response.regions[name]
            told.name, told.key = region.name, region.key
            told.offset, told.byte_size = region.offset, region.byte_size
        return response

    async def register(
        self, request: pb.SystemSharedMemoryRegisterRequest, deadline: float | None
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Let requests name a part of a shared memory object."""
        self._allowed().register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, deadline: float | None
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget one region, or all of them; an unknown one is forgotten already."""
        self._allowed().unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def cuda_status(
        self, request: pb.CudaSharedMemoryStatusRequest, deadline: float | None
    ) -> pb.CudaSharedMemoryStatusResponse:
        """No regions; any that is named is NOT_FOUND."""
        self._allowed()
        if request.name:
            raise NotFound("Unable to find cuda shared memory region: none can be registered here")
        return pb.CudaSharedMemoryStatusResponse()

    async def register_cuda(self, request: Any, deadline: float | None) -> Any:
        """Refused: a handle of CUDA memory can be opened by nothing in this process."""
        self._allowed()
        raise Unsupported(
            "CUDA shared memory is not supported: the runtime here cannot open a client's handle; "
            "use system shared memory"
        )

    async def unregister_cuda(
        self, request: Any, deadline: float | None
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """None is registered, so none is left."""
        self._allowed()
        return pb.CudaSharedMemoryUnregisterResponse()

    def _allowed(self) -> SharedMemory:
        if self._memory is None:
            raise Unsupported(DISABLED)
        return self._memory
