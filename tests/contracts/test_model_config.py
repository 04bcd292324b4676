"""What `config.pbtxt` says of waiting, joining, warming up and caching, as values."""

from __future__ import annotations

import pytest

from optimizers.contract.errors import InvalidDocument
from server.triton_batching import Batching, QueuePolicy
from server.triton_config import model_config
from server.triton_warm_up import WarmUpInput, WarmUpSample

BATCHING = """\
max_batch_size: 8
dynamic_batching {
  preferred_batch_size: [ 8, 4, 4 ]
  max_queue_delay_microseconds: 250
  preserve_ordering: true
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { default_timeout_microseconds: 50000 allow_timeout_override: true }
  priority_queue_policy {
    key: 3 value { timeout_action: DELAY default_timeout_microseconds: 1 max_queue_size: 16 }
  }
}
"""
WARM_UP = """\
max_batch_size: 8
model_warmup [
  {
    name: "made up" batch_size: 4 count: 2
    inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4, 2 ] zero_data: true } }
    inputs { key: "mask" value { data_type: TYPE_INT64 dims: [ 1 ] random_data: true } }
  },
  {
    name: "stored" batch_size: 1
    inputs { key: "x" value { data_type: TYPE_STRING dims: [ 2 ] input_data_file: "x.bin" } }
  },
  { name: "nothing" }
]
"""


def test_how_requests_wait_is_read() -> None:
    config = model_config(BATCHING, "m/config.pbtxt")
    assert config.joins
    assert config.ignored == ()
    assert config.batching == Batching(
        max_delay_s=250e-6,
        preferred=(4, 8),
        priority_levels=3,
        default_priority=2,
        default_policy=QueuePolicy(timeout_s=0.05),
        policies={3: QueuePolicy(timeout_s=1e-6, delays=True, allows_override=False, max_items=16)},
    )
    assert config.batching.policy(1) == QueuePolicy(timeout_s=0.05)
    assert config.batching.policy(3).delays


def test_nothing_said_means_no_wait_no_bound_of_its_own_and_timeouts_that_count() -> None:
    assert model_config("", "m/config.pbtxt").batching == Batching()
    assert model_config("dynamic_batching { }", "m/config.pbtxt").batching == Batching()
    assert Batching().policy(0) == QueuePolicy(allows_override=True)


def test_samples_to_warm_up_with_are_read() -> None:
    config = model_config(WARM_UP, "m/config.pbtxt")
    assert config.warm_up == (
        WarmUpSample(
            name="made up",
            batch_size=4,
            count=2,
            inputs=(
                WarmUpInput(name="mask", datatype="INT64", shape=(4, 1), content="random"),
                WarmUpInput(name="x", datatype="FP32", shape=(4, 4, 2), content="zero"),
            ),
        ),
        WarmUpSample(
            name="stored",
            batch_size=1,
            count=1,
            inputs=(
                WarmUpInput(name="x", datatype="BYTES", shape=(1, 2), content="file", file="x.bin"),
            ),
        ),
    )
    assert config.ignored == ("model_warmup 'nothing' (its batch_size is 0)",)


def test_without_a_batch_dimension_a_sample_has_the_shape_it_says() -> None:
    config = model_config(
        WARM_UP.replace("max_batch_size: 8", "").replace("4 count", "1 count"), "m"
    )
    assert config.warm_up[0].inputs[1].shape == (4, 2)


def test_caching_and_files_of_labels_are_read() -> None:
    config = model_config(
        "response_cache { enable: true }\n"
        'output [ { name: "y", data_type: TYPE_FP32, dims: [ 3 ], label_filename: "labels.txt" } ]',
        "m/config.pbtxt",
    )
    assert config.cached
    assert config.label_files == {"y": "labels.txt"}
    assert config.ignored == ()
    assert not model_config("response_cache { }", "m/config.pbtxt").cached


def batching(text: str) -> str:
    return f"max_batch_size: 8\ndynamic_batching {{ {text} }}"


def sample(text: str, head: str = 'name: "s" batch_size: 1') -> str:
    return f'max_batch_size: 8\nmodel_warmup {{ {head} inputs {{ key: "x" value {{ {text} }} }} }}'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            batching("preferred_batch_size: [ 9 ]"),
            "preferred_batch_size must be from 1 to max_batch_size, which is 8, got 9",
        ),
        (batching("preferred_batch_size: [ 0 ]"), "must be from 1 to max_batch_size"),
        ("dynamic_batching { preferred_batch_size: [ 4 ] }", "which is 0, got 4"),
        (
            batching("max_queue_delay_microseconds: 3600000001"),
            "dynamic_batching.max_queue_delay_microseconds must be at most 3600000000",
        ),
        (batching("priority_levels: 2"), "default_priority_level must be from 1 to"),
        (batching("priority_levels: 2 default_priority_level: 3"), "which is 2, got 3"),
        (batching("default_priority_level: 1"), "needs priority_levels, got 1 without them"),
        (
            batching("priority_levels: 18446744073709551615 default_priority_level: 1"),
            "priority_levels must be at most 1024, got 18446744073709551615",
        ),
        (
            batching("priority_queue_policy { key: 1 value { } }"),
            "priority_queue_policy: a key must be from 1 to priority_levels, which is 0, got 1",
        ),
        (
            batching("default_queue_policy { timeout_action: 7 }"),
            "default_queue_policy.timeout_action must be one of REJECT, DELAY, got 7",
        ),
        (
            batching("default_queue_policy { default_timeout_microseconds: 18446744073709551615 }"),
            "default_queue_policy.default_timeout_microseconds must be at most",
        ),
        (sample("", 'name: "s" batch_size: 9'), "model_warmup 's': batch_size must be at most 8"),
        (sample("", "batch_size: 1"), "every sample must have a name"),
        (sample("", 'name: "s" batch_size: 1 count: 10001'), "count must be at most 10000"),
        (sample("zero_data: true"), "'s': input 'x' must have a data_type that Hone serves"),
        (sample("data_type: TYPE_BF16"), "got TYPE_BF16"),
        (
            sample("data_type: TYPE_FP32 dims: [ 4 ]"),
            "input 'x' must have zero_data, random_data or input_data_file",
        ),
        (
            sample("data_type: TYPE_FP32 dims: [ -1 ] zero_data: true"),
            "input 'x': dims must be 1 or more, got [-1]",
        ),
        (
            sample("data_type: TYPE_FP32 dims: [ 9223372036854775807, 9 ] zero_data: true"),
            "input 'x': expected at most 1073741824 bytes",
        ),
        (
            sample('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "../1/model.onnx"'),
            "input_data_file must name a file in the model's warmup folder",
        ),
        (
            sample('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: ""'),
            "input_data_file must name a file",
        ),
        (
            'output { name: "y" data_type: TYPE_FP32 label_filename: "/etc/passwd" }',
            "output 'y': label_filename must name a file in the model's folder",
        ),
    ],
)
def test_a_mistake_is_explained(text: str, part: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        model_config(text, "m/config.pbtxt")
    assert part in str(caught.value)
    assert str(caught.value).startswith("m/config.pbtxt")
    assert len(str(caught.value)) < 1000
