"""PyTriton: Triton's C++ front end before a Python process, batching with a delay of 2 ms.

usage: PYTHON pytriton_server.py REPOSITORY GRPC_PORT HTTP_PORT

It brings an interpreter of its own, which must fit the environment's: PyTriton 0.7 with CPython
3.11.7 ends with "RLock has no attribute _recursion_count", and the benchmarks then leave it out.
"""

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from sessions import CPUS, Model, folders


def callable_of(model: Model):
    """What PyTriton runs."""

    @batch
    def infer(x):
        return {"y": model.run(x)}

    return infer


if __name__ == "__main__":
    repository, grpc_port, http_port = sys.argv[1:]
    config = TritonConfig(grpc_port=int(grpc_port), http_port=int(http_port), allow_metrics=False)
    with Triton(config=config) as triton:
        for model in map(Model, folders(repository)):
            triton.bind(
                model_name=model.name,
                infer_func=[callable_of(model)] * (CPUS if model.is_heavy else 1),
                inputs=[Tensor(name="x", dtype=model.dtype, shape=model.row)],
                outputs=[Tensor(name="y", dtype=np.float32, shape=model.result)],
                config=ModelConfig(
                    max_batch_size=1 if model.is_heavy else 32,
                    batcher=DynamicBatcher(max_queue_delay_microseconds=2000),
                ),
                strict=False,
            )
        triton.serve()
