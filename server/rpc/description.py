"""A served model version in Triton's words: its configuration and its statistics."""

from __future__ import annotations

from typing import Any, Final

from optimizers.contract.provider_options import ON_GPU
from optimizers.contract.signature import TensorSpec
from server.model import ModelVersion
from server.pb import model_config_pb2 as config_pb
from server.pb import open_inference_pb2 as pb
from server.totals import Duration, Statistics
from server.triton_batching import Batching, QueuePolicy
from server.triton_datatypes import DATATYPES
from server.triton_warm_up import WarmUpSample

PLATFORM: Final = "onnxruntime_onnx"

_DATATYPE_NUMBERS: Final[dict[str, Any]] = {name: number for number, name in DATATYPES.items()}


def model_config(model: ModelVersion) -> config_pb.ModelConfig:
    """What is in effect; the batch sizes are those of the original, whichever variant answers."""
    session = model.original.session
    max_batch = max_batch_size(model)
    config = config_pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=max_batch,
        default_model_filename=model.entry.config.model_file,
    )
    for tensor in model.signature.inputs:
        config.input.add(**_tensor(tensor, max_batch > 0))
    label_files = model.entry.config.label_files
    for tensor in model.signature.outputs:
        config.output.add(
            **_tensor(tensor, max_batch > 0), label_filename=label_files.get(tensor.name, "")
        )
    on_gpu = session.provider in ON_GPU
    config.instance_group.add(
        name=model.name,
        count=model.active.policy.lanes,
        kind=(
            config_pb.ModelInstanceGroup.KIND_GPU
            if on_gpu
            else config_pb.ModelInstanceGroup.KIND_CPU
        ),
    )
    if model.signature.has_batch_dimension and session.max_batch > 1:
        config.dynamic_batching.CopyFrom(_dynamic_batching(model.entry.config.batching))
    if model.entry.config.cached:
        config.response_cache.enable = True
    config.model_warmup.extend(
        _warm_up(sample, max_batch > 0) for sample in model.entry.config.warm_up
    )
    chosen = model.entry.config.version_policy
    if chosen.specific:
        config.version_policy.specific.versions.extend(chosen.specific)
    elif chosen.newest:
        config.version_policy.latest.num_versions = chosen.newest
    else:
        config.version_policy.all.SetInParent()
    threads = model.active.manifest.session.intra_op_threads
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    return config


def max_batch_size(model: ModelVersion) -> int:
    """Triton's word for whether the first dimension counts rows: 0 when it does not."""
    declared = model.entry.config.max_batch_size
    if declared is not None:
        return declared
    most = model.original.session.max_batch
    return most if model.signature.has_batch_dimension and most > 1 else 0


def model_statistics(model: ModelVersion, totals: Statistics) -> pb.ModelStatistics:
    """Running totals of one version and the memory of its open sessions."""
    nothing = pb.StatisticDuration()
    memory = sum(opened.opening.memory.total_bytes for opened in model.all_opened())
    return pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=int(totals.last_unix_s * 1000),
        inference_count=totals.rows,
        execution_count=totals.runs,
        inference_stats=pb.InferStatistics(
            success=_duration(totals.success),
            fail=_duration(totals.fail),
            queue=_duration(totals.queue),
            compute_input=nothing,
            compute_infer=_duration(totals.compute),
            compute_output=nothing,
            cache_hit=_duration(totals.cache.hits),
            cache_miss=_duration(totals.cache.misses),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=nothing,
                compute_infer=_duration(totals.by_rows[rows]),
                compute_output=nothing,
            )
            for rows in sorted(totals.by_rows)
        ],
        memory_usage=[pb.MemoryUsage(type="CPU", id=0, byte_size=memory)],
    )


def _dynamic_batching(batching: Batching) -> config_pb.ModelDynamicBatching:
    message = config_pb.ModelDynamicBatching(
        preferred_batch_size=batching.preferred,
        max_queue_delay_microseconds=_microseconds(batching.max_delay_s),
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority,
        priority_queue_policy={
            level: _queue_policy(policy) for level, policy in batching.policies.items()
        },
    )
    if batching.default_policy != QueuePolicy():
        message.default_queue_policy.CopyFrom(_queue_policy(batching.default_policy))
    return message


def _queue_policy(policy: QueuePolicy) -> config_pb.ModelQueuePolicy:
    actions = config_pb.ModelQueuePolicy
    return config_pb.ModelQueuePolicy(
        timeout_action=actions.DELAY if policy.delays else actions.REJECT,
        default_timeout_microseconds=_microseconds(policy.timeout_s),
        allow_timeout_override=policy.allows_override,
        max_queue_size=policy.max_items,
    )


def _microseconds(seconds: float) -> int:
    return round(1e6 * seconds)


def _warm_up(sample: WarmUpSample, batched: bool) -> config_pb.ModelWarmup:
    message = config_pb.ModelWarmup(
        name=sample.name, batch_size=sample.batch_size, count=sample.count
    )
    for one in sample.inputs:
        given = message.inputs[one.name]
        given.data_type = _DATATYPE_NUMBERS[one.datatype]
        given.dims.extend(one.shape[1:] if batched else one.shape)
        match one.content:
            case "zero":
                given.zero_data = True
            case "random":
                given.random_data = True
            case "file":
                given.input_data_file = one.file
    return message


def _duration(total: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=total.nanoseconds)


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": _DATATYPE_NUMBERS[spec.datatype],
        "dims": spec.shape[1:] if batched else spec.shape,
    }
