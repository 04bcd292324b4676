"""Files that operators write: whatever they hold is read or refused by name, nothing else."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.profile import model_policy, profile_document
from server.config import server_config
from server.errors import FailedPrecondition
from server.pb import model_config_pb2 as pb
from server.repository import ModelRepository
from server.triton_config import ModelConfig, model_config
from tests.support import models

_NOBODY = 65534
_LONGEST_ERROR = 1200

bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

POLICIES = (
    """\
task: classification
data: {calibration: data/calibration.npz, train: data/train.npz, gate: data/gate.npz}
serve: fast
hold_version: until_proven
labels: {stable: 1, canary: 2}
profiles:
  fast:
    recipe: [{dynamic_int8: {per_channel: true}}]
    goal:
      optimize: [latency_p50]
      require: ["accuracy <= 1 point worse", "agreement >= 0.97", "memory <= 64 MiB"]
      confidence: 0.95
""",
    """\
profiles:
  one:
    recipe:
    - static_int8: {scheme: u8s8, percentile: 99.9, samples: 64, exclude: ["a", b]}
    - tune_session: {threads: [1, 2], arena: [true], optimization: [all]}
    goal: &goal {optimize: throughput, require: []}
  two:
    recipe: [dynamic_int8]
    goal: *goal
""",
)
PROFILES = (
    "recipe: [{dynamic_int8: {reduce_range: auto, exclude: []}}]\ngoal: {confidence: 0.9}\n",
    "recipe:\n- tune_session\ngoal:\n  optimize: [size, cost]\n  require: ['sqnr >= 20 dB']\n",
)
CONFIGS = (
    """\
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4, -1 ] } ]
output [ { name: "y", data_type: TYPE_STRING, dims: [ 3 ], label_filename: "names" } ]
version_policy: { latest: { num_versions: 2 } }
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 100 }
instance_group [ { count: 2, kind: KIND_CPU }, { kind: KIND_GPU, gpus: [ 0 ] } ]
parameters: { key: "intra_op_thread_count" value: { string_value: "3" } }
""",
    """\
max_batch_size: 8
dynamic_batching {
  priority_levels: 2 default_priority_level: 1 preserve_ordering: true
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 max_queue_size: 9 }
  priority_queue_policy { key: 2 value { allow_timeout_override: true } }
}
model_warmup {
  name: "one" batch_size: 2 count: 3
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } }
  inputs { key: "z" value { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "texts" } }
}
response_cache { enable: true }
""",
    'backend: "onnxruntime"\nversion_policy { specific { versions: [ 1, 3 ] } }\n'
    'default_model_filename: "net.onnx"\noptimization { priority: PRIORITY_MAX }\n',
)
PIECES = (
    *("&a ", "*a", "[", "]", "{", "}", ": ", "- ", "? ", "<<: *a", "!!int ", "!!set ", "!a ", "%"),
    *("'", '"', "\\", "#", "\n", "\t", "\0", "\x85", "\u2028", "\ufeff", "\udc80", "²", "é"),
    *("~", "null", "yes", "=", "-1", "0x", "1e999", ".nan", "1:2:3", "2020-13-45", "2020-01-01"),
    *("9" * 20, "9" * 5000, "0x" + "f" * 5000, "a" * 300, "[" * 40, "{a: " * 40, "99", "0"),
)


def policy(text: str) -> object:
    return model_policy(text, "m/file")


def one_profile(text: str) -> object:
    return profile_document(text, "m/file", "fast")


def config(text: str) -> object:
    return model_config(text, "m/file")


def is_read_or_refused(read: Callable[[str], object], text: str) -> None:
    problem = "m/file"
    try:
        read(text)
    except InvalidDocument as error:
        problem = str(error)
    assert problem.startswith("m/file")
    assert len(problem) < _LONGEST_ERROR


@some.composite
def mutated(draw: some.DrawFn, documents: tuple[str, ...]) -> str:
    """A valid document with a few of its characters or lines taken, added or repeated."""
    text = draw(some.sampled_from(documents))
    for _ in range(draw(some.integers(1, 5))):
        start = draw(some.integers(0, len(text)))
        end = min(len(text), start + draw(some.integers(0, 12)))
        lines = text.splitlines(keepends=True) or [""]
        line = draw(some.sampled_from(lines))
        match draw(some.sampled_from(("cut", "insert", "replace", "repeat", "drop"))):
            case "cut":
                text = text[:start] + text[end:]
            case "insert":
                text = text[:start] + draw(some.sampled_from(PIECES)) + text[start:]
            case "replace":
                text = text[:start] + draw(some.sampled_from(PIECES)) + text[end:]
            case "repeat":
                text = text[:start] + line + text[start:]
            case "drop":
                text = text.replace(line, "", 1)
    return text


@some.composite
def damaged(draw: some.DrawFn, documents: tuple[str, ...]) -> str:
    """A valid document of which single bytes were overwritten."""
    content = bytearray(draw(some.sampled_from(documents)).encode())
    for _ in range(draw(some.integers(1, 8))):
        content[draw(some.integers(0, len(content) - 1))] = draw(some.integers(0, 255))
    return content.decode("utf-8", "surrogateescape")


KEYS = some.sampled_from(
    (
        *("task", "data", "serve", "hold_version", "profiles", "labels", "fast", "stable"),
        *("recipe", "goal", "optimize", "require", "confidence", "gate", "dynamic_int8"),
        *("static_int8", "tune_session", "threads", "samples", "percentile", "exclude"),
    )
)
SCALARS = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.integers(min_value=10**30, max_value=10**40)
    | some.floats()
    | some.text(max_size=12)
    | some.dates()
    | some.datetimes()
    | some.binary(max_size=8)
    | KEYS
)
VALUES = some.recursive(
    SCALARS,
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.dictionaries(KEYS | some.text(max_size=6) | some.integers(), inner, max_size=4)
        | inner.map(lambda value: [value, {"fast": value}])
    ),
    max_leaves=20,
)
STRUCTURES = (
    VALUES
    | some.dictionaries(KEYS, VALUES, max_size=5)
    | VALUES.map(lambda value: {"profiles": {"fast": {"recipe": value}}})
    | VALUES.map(lambda value: {"recipe": [{"static_int8": value}], "goal": value})
    | VALUES.map(lambda value: {"recipe": ["dynamic_int8"], "goal": {"require": value}})
)


def field_text(descriptor: Any) -> some.SearchStrategy[str]:
    """Fields of a message with values that mostly do not fit."""

    def one(field: Any) -> some.SearchStrategy[str]:
        if field.message_type is not None:
            inner = some.deferred(lambda: field_text(field.message_type))
            return inner.map(lambda text: f"{field.name} {{ {text} }}")
        return some.one_of(
            some.integers(-2, 2**70).map(str),
            some.sampled_from(('"x"', '""', "99", "-1", "1e9", "true", "TYPE_FP32", '"²"', "nan")),
            some.text(max_size=4).map(lambda text: f'"{text}"'),
        ).map(lambda value: f"{field.name}: {value}")

    if not descriptor.fields:
        return some.just("")
    fields = some.sampled_from(list(descriptor.fields)).flatmap(one)
    return some.lists(fields, max_size=3).map("\n".join)


@bounded
@given(text=mutated(POLICIES) | damaged(POLICIES) | STRUCTURES.map(yaml.safe_dump))
def test_any_hone_yaml_is_read_or_refused(text: str) -> None:
    is_read_or_refused(policy, text)


@bounded
@given(text=mutated(PROFILES) | damaged(PROFILES) | STRUCTURES.map(yaml.safe_dump))
def test_any_profile_is_read_or_refused(text: str) -> None:
    is_read_or_refused(one_profile, text)


@bounded
@given(
    text=mutated(CONFIGS)
    | damaged(CONFIGS)
    | field_text(pb.ModelConfig.DESCRIPTOR)
    | some.text(max_size=60)
)
def test_any_config_pbtxt_is_read_or_refused(text: str) -> None:
    is_read_or_refused(config, text)


@pytest.mark.parametrize("text", [*POLICIES, *PROFILES, *CONFIGS])
def test_what_the_mutations_start_from_is_valid(text: str) -> None:
    read = policy if text in POLICIES else one_profile if text in PROFILES else config
    read(text)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b"# a\n# \xff\n")


def more_than_a_megabyte(path: Path) -> None:
    path.write_bytes(b"#" * (1 << 20) + b"\n")


PLANTED: dict[Callable[[Path], None], str] = {
    a_folder: "{}: expected a file, got a folder or a device",
    a_pipe: "{}: expected a file, got a folder or a device",
    a_link_to_nothing: "{} links to a file that does not exist",
    bytes_that_are_no_text: "{}:2: expected UTF-8 text, got invalid start byte",
    more_than_a_megabyte: "{}: expected at most 1048576 bytes, got 1048577",
}
planted = pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)


@planted
@pytest.mark.parametrize("name", ["config.pbtxt", "hone.yaml"])
def test_what_is_no_readable_text_stays_with_its_model(
    tmp_path: Path, plant: Callable[[Path], None], name: str
) -> None:
    models.linear(tmp_path / "bad/1/model.onnx")
    models.linear(tmp_path / "good/1/model.onnx")
    plant(tmp_path / "bad" / name)
    entries = ModelRepository(tmp_path).scan()
    assert entries["bad"].error == PLANTED[plant].format(f"bad/{name}")
    assert entries["good"].error == ""


@planted
def test_a_settings_file_that_is_no_readable_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "hone-server.toml")
    with pytest.raises(InvalidDocument) as caught:
        server_config(repository=tmp_path)
    assert str(caught.value) == PLANTED[plant].format("hone-server.toml")


@contextlib.contextmanager
def without_privileges() -> Iterator[Path]:
    """An empty folder, and no right to read what is closed to its owner."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(_NOBODY)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (0o000, "bad/config.pbtxt cannot be read: Permission denied"),
        (0o444, "bad/config.pbtxt cannot be read: Permission denied"),
        (0o111, "bad cannot be looked into: Permission denied"),
    ],
)
def test_a_model_folder_that_cannot_be_read_stays_with_its_model(mode: int, problem: str) -> None:
    with without_privileges() as repository:
        for name in ("bad", "good"):
            (repository / name / "1").mkdir(parents=True)
        (repository / "bad").chmod(mode)
        entries = ModelRepository(repository).scan()
        (repository / "bad").chmod(0o777)
    assert (entries["bad"].error, entries["good"].error) == (problem, "")


def test_a_settings_file_that_may_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with without_privileges() as folder:
        monkeypatch.chdir(folder)
        (folder / "hone-server.toml").write_text("jobs = 2\n")
        (folder / "hone-server.toml").chmod(0)
        with pytest.raises(InvalidDocument, match=r"hone-server.toml cannot be read: Permission"):
            server_config(repository=folder)
        monkeypatch.undo()


def test_a_repository_that_cannot_be_listed_is_refused_by_name() -> None:
    with without_privileges() as folder:
        (folder / "models").mkdir(mode=0o311)
        with pytest.raises(FailedPrecondition, match="models' cannot be listed: Permission denied"):
            ModelRepository(folder / "models").scan()


def test_an_error_that_nobody_thought_of_stays_with_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        models.linear(tmp_path / name / "1/model.onnx")
    (tmp_path / "bad/config.pbtxt").write_text("")

    def planted_fault(text: str, source: str) -> ModelConfig:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("server.repository.model_config", planted_fault)
    entries = ModelRepository(tmp_path).scan()
    assert entries["bad"].error == (
        "bad cannot be read: unexpected ZeroDivisionError; the server's log has more"
    )
    assert list(entries["good"].versions) == [1]
    assert "ZeroDivisionError: secret" in caplog.text


def test_a_loop_of_links_in_the_place_of_a_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").symlink_to("missing")
    (tmp_path / "good/1").mkdir(parents=True)
    entries = ModelRepository(tmp_path).scan()
    assert list(entries) == ["good", "loop"]
    assert "Too many levels of symbolic links" in entries["loop"].error


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("jobs = ", r"^hone-server\.toml: Invalid value \(at end of document\)$"),
        ("[jobs\n", r"^hone-server\.toml: Expected ']' at the end of a table"),
        ("jobs = 1\njobs = 2\n", r"^hone-server\.toml: Cannot overwrite a value \(at line 2"),
        ("host = 2020-13-45", r"^hone-server\.toml: "),
        ("jobs = " + "9" * 5000, r"^hone-server\.toml: Exceeds the limit"),
        ("jobs = 0x" + "f" * 5000, r"jobs in hone-server\.toml\): .* too large to be shown$"),
        ("jobs = " + "[" * 5000, r"^hone-server\.toml: values are nested too deeply"),
        ("jobs = [1]", r"jobs in hone-server\.toml\): .*, got \[1\]$"),
        ("[jobs]\na = 1", r"jobs in hone-server\.toml\): .*, got \{'a': 1\}$"),
        ("cpus = 1000000", "less than or equal to 4096, got 1000000$"),
        ("max_message_bytes = 2147483648", "less than or equal to 2147483647, got 2147483648$"),
        ("job_memory_bytes = 9223372036854775808", "less than or equal to 9223372036854775807"),
        ("drain_seconds = inf", "should be a finite number, got inf$"),
        ("measure_seconds = nan", "measure_seconds in hone-server.* got nan$"),
        ('state = "a\\u0000b"', r"must not hold a zero byte, got PosixPath|zero byte, got 'a"),
        ('host = "a\\u0000b"', r"must not hold a zero byte, got 'a\\x00b'$"),
        ("'" + "k" * 500 + "' = 1", r"^hone-server\.toml: k+\.\.\.k+: unknown key"),
    ],
    ids=lambda text: text[:30],
)
def test_a_mistake_in_the_settings_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hone-server.toml").write_text(text)
    with pytest.raises(InvalidDocument, match=problem) as caught:
        server_config(repository=tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < _LONGEST_ERROR


@bounded
@given(content=damaged(("jobs = 2\nhost = '127.0.0.1'\ndrain_seconds = 1.5\n[a]\nb = [1, 2]\n",)))
def test_any_settings_file_is_read_or_refused(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        file = Path(folder) / "hone-server.toml"
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
        with contextlib.suppress(InvalidDocument):
            server_config(repository=Path(folder))
