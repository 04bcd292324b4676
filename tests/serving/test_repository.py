"""What lies on disk: Triton's layout, its config.pbtxt, and the variant store."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.signature import Signature, TensorSpec
from server.errors import FailedPrecondition, UnknownModel
from server.journal import Journal, Route
from server.repository import ModelRepository, VariantStore
from server.triton_config import ModelConfig, VersionPolicy, model_config
from tests.support import models
from tests.support.calls import floats
from tests.support.variants import make_variant

FULL = """
name: "net"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 3 ] } ]
version_policy: { latest: { num_versions: 2 } }
dynamic_batching { }
instance_group [ { count: 2, kind: KIND_CPU } ]
parameters: { key: "intra_op_thread_count" value: { string_value: "3" } }
"""
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),),
)


def test_every_field_we_honour_is_read() -> None:
    config = model_config(FULL, "net/config.pbtxt")
    assert config == ModelConfig(
        name="net",
        max_batch_size=8,
        inputs=SIGNATURE.inputs,
        outputs=SIGNATURE.outputs,
        version_policy=VersionPolicy(newest=2),
        joins=True,
        lanes=2,
        threads=3,
        stays_on_cpu=True,
    )
    assert config.mismatch(SIGNATURE) == ""


def test_every_field_we_do_not_honour_is_named() -> None:
    config = model_config(
        FULL
        + "optimization { priority: PRIORITY_MAX }\n"
        + 'parameters: { key: "enable_mem_arena" value: { string_value: "1" } }\n',
        "net/config.pbtxt",
    )
    assert set(config.ignored) == {"optimization", "parameters.enable_mem_arena"}


def threads(value: str) -> str:
    return f'parameters: {{ key: "intra_op_thread_count" value: {{ string_value: {value} }} }}'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("max_batch_sise: 3", "net/config.pbtxt:1:1"),
        ('platform: "tensorflow_savedmodel"', "Hone serves onnxruntime_onnx"),
        ('backend: "python"', "Hone has onnxruntime"),
        ("max_batch_size: -1", "must not be negative"),
        ('default_model_filename: "../other.onnx"', "must name a file in the version folder"),
        ("input [ { dims: [ 4 ] } ]", "must have a name and a data_type"),
        (
            'parameters: { key: "intra_op_thread_count" value: { string_value: "many" } }',
            "parameters.intra_op_thread_count must be a whole number from 0 to 1024, got 'many'",
        ),
        (threads('"²"'), "must be a whole number from 0 to 1024, got '²'"),
        (threads(f'"{"9" * 5000}"'), "must be a whole number from 0 to 1024, got '999"),
        (threads('"1025"'), "must be a whole number from 0 to 1024, got '1025'"),
        (threads('"-1"'), "must be a whole number from 0 to 1024, got '-1'"),
        (threads('" 1"'), "must be a whole number from 0 to 1024, got ' 1'"),
        (threads('""'), "must be a whole number from 0 to 1024, got ''"),
        (
            'input [ { name: "x", data_type: 99 } ]',
            "input 'x' must have a name and a data_type that Hone serves, got 99",
        ),
        ('output [ { name: "y", data_type: -1 } ]', "output 'y' must have a name and a data_type"),
        ('input [ { name: "x", data_type: TYPE_BF16 } ]', "that Hone serves, got TYPE_BF16"),
        ('\ninput [ { name: "x", data_type: 99999999999 } ]', "net/config.pbtxt:2: Value out of"),
        ('input [ { name: "x", data_type: TYPE_FP32, dims: [ -2 ] } ]', "dims must be -1 or more"),
        ("version_policy: { specific: { } }", "names no version"),
        (
            "version_policy: { specific: { versions: [ 0 ] } }",
            "version_policy.specific.versions must be from 1 to 999999999999999999, got 0",
        ),
        ("version_policy: { specific: { versions: [ -1 ] } }", "must be from 1 to"),
        (
            "version_policy: { specific: { versions: [ 9223372036854775807 ] } }",
            "must be from 1 to 999999999999999999, got 9223372036854775807",
        ),
        (
            f"\nversion_policy: {{ specific: {{ versions: [ {'9' * 5000} ] }} }}",
            "net/config.pbtxt:2:",
        ),
        ("version_policy: { latest: { num_versions: 4294967296 } }", "net/config.pbtxt:1:43"),
        (f"version_policy: {{ latest: {{ num_versions: {'9' * 5000} }} }}", "config.pbtxt:1:43"),
        (
            "instance_group [ { count: 1024 }, { count: 1 } ]",
            "instance_group.count must be at most 1024 in all, got 1025",
        ),
        ("instance_group [ { count: 2147483647 } ]", "must be at most 1024 in all, got 2147483647"),
        ("instance_group [ { count: -1 } ]", "instance_group.count must not be negative, got -1"),
        ("instance_group [ { kind: 77 } ]", "instance_group.kind must be one of KIND_AUTO"),
        ('default_model_filename: "a\\000b"', "must name a file in the version folder"),
        (f'default_model_filename: "{"a" * 256}"', "must name a file in the version folder"),
        ('name: "\\377"', "net/config.pbtxt:1:13"),
        (f'platform: "{"a" * 5000}"', "Hone serves onnxruntime_onnx, got 'aaa"),
    ],
)
def test_a_mistake_in_config_pbtxt_is_explained(text: str, part: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        model_config(text, "net/config.pbtxt")
    assert part in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_as_many_versions_as_can_be_written_are_all_that_exist() -> None:
    config = model_config("version_policy: { latest: { num_versions: 4294967295 } }", "net/c")
    assert config.version_policy.choose((1, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('input [ { name: "z", data_type: TYPE_FP32, dims: [ 4 ] } ]', "names input 'z'"),
        ('input [ { name: "x", data_type: TYPE_INT8, dims: [ 4 ] } ]', "is INT8, the model file"),
        ('input [ { name: "x", data_type: TYPE_FP32, dims: [ 5 ] } ]', "has shape [-1, 5]"),
    ],
)
def test_a_contradiction_with_the_model_is_explained(line: str, part: str) -> None:
    config = model_config(f"max_batch_size: 8\n{line}", "net/config.pbtxt")
    assert part in config.mismatch(SIGNATURE)


def test_versions_are_chosen_by_policy() -> None:
    versions = (1, 2, 5, 9)
    assert VersionPolicy().choose(versions) == (9,)
    assert VersionPolicy(newest=2).choose(versions) == (5, 9)
    assert VersionPolicy(newest=0).choose(versions) == versions
    assert VersionPolicy(specific=(2, 7)).choose(versions) == (2,)


def test_a_repository_is_scanned_and_what_is_wrong_stays_with_its_model(tmp_path: Path) -> None:
    models.linear(tmp_path / "good/1/model.onnx")
    models.linear(tmp_path / "good/12/model.onnx")
    (tmp_path / "good/notes").mkdir()
    (tmp_path / "good/0").mkdir()
    models.linear(tmp_path / "renamed/1/model.onnx")
    (tmp_path / "renamed/config.pbtxt").write_text('name: "other"')
    (tmp_path / "bad name").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("not a model")
    entries = ModelRepository(tmp_path).scan()
    assert list(entries) == ["good", "renamed"]
    assert list(entries["good"].versions) == [1, 12]
    assert "name is 'other', but the folder is 'renamed'" in entries["renamed"].error


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../good", "", "a\x00b", "-x"])
def test_names_that_are_no_folder_of_the_repository_are_unknown(tmp_path: Path, name: str) -> None:
    (tmp_path / "models/good/1").mkdir(parents=True)
    (tmp_path / "good").mkdir()
    with pytest.raises(UnknownModel):
        ModelRepository(tmp_path / "models").entry(name)


def test_one_server_at_a_time_owns_the_state(tmp_path: Path) -> None:
    first = VariantStore(tmp_path / "state")
    with pytest.raises(FailedPrecondition, match="another server"):
        VariantStore(tmp_path / "state")
    first.close()
    VariantStore(tmp_path / "state").close()


def test_too_little_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    store = VariantStore(tmp_path / "state")
    with pytest.raises(FailedPrecondition, match="hone variants rm"):
        store.require_free_disk(1 << 60)
    store.close()


def test_half_written_variants_are_swept_and_those_of_another_original_left_alone(
    tmp_path: Path,
) -> None:
    original = models.linear(tmp_path / "original.onnx")
    sealed = make_variant(
        tmp_path / "state",
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
    )
    half = sealed.path.parent / ".abc.part"
    half.mkdir()
    store = VariantStore(tmp_path / "state")
    found, problems = store.variants("linear", 1, sealed.manifest.original_sha256)
    assert (list(found), problems, half.exists()) == ([sealed.manifest.variant], [], False)
    other, problems = store.variants("linear", 1, "0" * 64)
    assert (other, problems, sealed.path.exists()) == ({}, [], True)
    store.remove(found[sealed.manifest.variant])
    assert not list(sealed.path.parent.iterdir())
    store.close()


async def test_routes_and_events_survive_in_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    route = Route(model="m", version=1, variant="a", previous="original")
    await journal.set_route(route, "promoted", "a: proved")
    journal.record("n", 2, "job_submitted", "job 1")
    assert [await journal.spend_gate("g", "m") for _ in range(2)] == [1, 2]
    assert await journal.spend_gate("g", "n") == 1
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite")
    assert journal.route("m", 1) == route
    assert journal.route("m", 2) is None
    assert [event.kind for event in await journal.events()] == ["promoted", "job_submitted"]
    assert [event.text for event in await journal.events("m")] == ["a: proved"]
    assert len(await journal.events(limit=1)) == 1
    assert await journal.spend_gate("g", "m") == 3
    journal.close()
