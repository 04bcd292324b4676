"""Triton's `config.pbtxt`, read into a value that says only what Hone honours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import json_format, text_format

from optimizers.contract.documents import cut, encoded, shown, shown_key
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.signature import Signature, TensorSpec
from server.file_names import is_plain_file_name
from server.pb import model_config_pb2 as pb
from server.triton_batching import Batching, read_batching
from server.triton_datatypes import DATATYPES, datatype_name
from server.triton_warm_up import WarmUpSample, read_warm_up, unused_samples

_PLATFORMS: Final = ("", "onnxruntime_onnx", "onnx_onnxv1")
_BACKENDS: Final = ("", "onnxruntime")
_THREADS: Final = "intra_op_thread_count"
_FALLBACK: Final = "allow_provider_fallback"
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_MOST_THREADS: Final = 1024
_MOST_LANES: Final = 1024
_LARGEST_VERSION: Final = 10**18 - 1
_LONGEST_PARSE_ERROR: Final = 400
_LONGEST_WORD: Final = 60
_LONG_WORD: Final = re.compile(r"\S{60,}")
_HONOURED: Final = {
    "name": (),
    "platform": (),
    "backend": (),
    "max_batch_size": (),
    "default_model_filename": (),
    "version_policy": (),
    "input": ("name", "data_type", "dims"),
    "output": ("name", "data_type", "dims", "label_filename"),
    "instance_group": ("name", "count", "kind"),
    "dynamic_batching": (),
    "parameters": (_THREADS, _FALLBACK),
    "model_warmup": (),
    "response_cache": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPolicy:
    """Which versions are served.

    Attributes:
        newest: So many of the highest; 0 for all. Not looked at when `specific` is given.
        specific: Exactly these.
    """

    newest: int = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: tuple[int, ...]) -> tuple[int, ...]:
        """The versions to serve out of those that exist, ascending."""
        if self.specific:
            return tuple(sorted(set(self.specific) & set(versions)))
        return tuple(sorted(versions)[-self.newest :] if self.newest else sorted(versions))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What a model's `config.pbtxt` says; every default means "not said".

    Attributes:
        name: The model's name; "" when left out.
        max_batch_size: Most rows in one request and one run; 0: the file's shapes are complete
            and nothing is joined. None: there is no config.pbtxt, Hone finds out by itself.
        inputs: Name, datatype and full shape of the inputs named.
        outputs: The same of the outputs.
        label_files: Output → name of the file in the model's folder that names its classes.
        version_policy: Which versions are served.
        joins: Whether requests may be joined into one run.
        batching: How requests wait and are joined.
        lanes: Concurrent runs; 0 when not said.
        threads: Threads inside one run; 0 when not said.
        stays_on_cpu: Whether every instance group is of KIND_CPU.
        allow_provider_fallback: Whether nodes that the server's provider cannot compute may run
            on the processor.
        model_file: Name of the model file in a version folder.
        cached: Whether answers are kept and given again to equal requests.
        warm_up: Requests to run before a version counts as ready.
        ignored: Fields that are set but that Hone does not honour.
    """

    name: str = ""
    max_batch_size: int | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    label_files: Mapping[str, str] = field(default_factory=dict)
    version_policy: VersionPolicy = field(default_factory=VersionPolicy)
    joins: bool = True
    batching: Batching = field(default_factory=Batching)
    lanes: int = 0
    threads: int = 0
    stays_on_cpu: bool = False
    allow_provider_fallback: bool = False
    model_file: str = "model.onnx"
    cached: bool = False
    warm_up: tuple[WarmUpSample, ...] = ()
    ignored: tuple[str, ...] = ()

    def mismatch(self, signature: Signature) -> str:
        """How the configuration contradicts the model file; "" when it does not."""
        for kind, declared, actual in (
            ("input", self.inputs, signature.inputs),
            ("output", self.outputs, signature.outputs),
        ):
            by_name = {spec.name: spec for spec in actual}
            for spec in declared:
                found = by_name.get(spec.name)
                if found is None:
                    return (
                        f"config.pbtxt names {kind} '{shown_key(spec.name)}', but the model file "
                        f"has {', '.join(by_name)}"
                    )
                if found.datatype != spec.datatype:
                    return (
                        f"config.pbtxt says that {kind} '{spec.name}' is {spec.datatype}, the "
                        f"model file says {found.datatype}"
                    )
                if not _shapes_agree(spec.shape, found.shape):
                    return (
                        f"config.pbtxt says that {kind} '{spec.name}' has shape "
                        f"{shown(list(spec.shape))} (with the batch dimension), the model file "
                        f"says {list(found.shape)}"
                    )
        if self.max_batch_size and any(
            not spec.shape or spec.shape[0] != -1
            for spec in (*signature.inputs, *signature.outputs)
        ):
            return (
                f"config.pbtxt says max_batch_size {self.max_batch_size}, but not every input and "
                "output of the model file starts with a variable dimension; use 0"
            )
        return ""


def model_config(text: str, source: str) -> ModelConfig:
    """Read the text of a `config.pbtxt`.

    Raises:
        InvalidDocument: It is not a model configuration, or contradicts itself; the text names
            the file and the line or field.
    """
    return _read(_parse(text, source), source)


def model_config_of_json(text: str, source: str) -> ModelConfig:
    """Read a model configuration as JSON, the way Triton's clients send it with a load.

    Raises:
        InvalidDocument: It is not a model configuration, or contradicts itself; the text names
            the field.
    """
    message = pb.ModelConfig()
    content = encoded(text, source)
    try:
        json_format.Parse(content, message)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise InvalidDocument(f"{source}: {_brief(error)}") from error
    return _read(message, source)


def _read(message: Any, source: str) -> ModelConfig:
    if message.platform not in _PLATFORMS:
        raise InvalidDocument(
            f"{source}: platform: Hone serves onnxruntime_onnx, got {shown(message.platform)}"
        )
    if message.backend not in _BACKENDS:
        raise InvalidDocument(
            f"{source}: backend: Hone has onnxruntime, got {shown(message.backend)}"
        )
    if message.max_batch_size < 0:
        raise InvalidDocument(
            f"{source}: max_batch_size must not be negative, got {message.max_batch_size}"
        )
    batched = message.max_batch_size > 0
    return ModelConfig(
        name=message.name,
        max_batch_size=message.max_batch_size,
        inputs=tuple(_tensor(source, "input", tensor, batched) for tensor in message.input),
        outputs=tuple(_tensor(source, "output", tensor, batched) for tensor in message.output),
        label_files=_label_files(source, message.output),
        version_policy=_version_policy(source, message.version_policy),
        joins=batched and message.HasField("dynamic_batching"),
        batching=read_batching(source, message),
        lanes=_lanes(source, message.instance_group),
        threads=_threads(source, message),
        allow_provider_fallback=_allows_fallback(source, message),
        stays_on_cpu=bool(message.instance_group)
        and all(one.kind == pb.ModelInstanceGroup.KIND_CPU for one in message.instance_group),
        model_file=_model_file(source, message.default_model_filename),
        cached=message.response_cache.enable,
        warm_up=read_warm_up(source, message),
        ignored=tuple(_ignored(message)),
    )


def _parse(text: str, source: str) -> Any:
    message = pb.ModelConfig()
    try:
        text_format.Parse(encoded(text, source), message)
    except text_format.ParseError as error:
        raise InvalidDocument(f"{source}:{_brief(error)}") from error
    except ValueError as error:  # what protobuf raises for an enum's number beyond 32 bits
        place = text.find(str(error).rpartition(" ")[2])
        line = f":{text.count(chr(10), 0, place) + 1}" if place >= 0 else ""
        raise InvalidDocument(
            f"{source}{line}: {_brief(error)}; expected a value that this field may have"
        ) from error
    return message


def _brief(error: Exception) -> str:
    """An error's text, which holds what was read and may be as long as the file."""
    text = " ".join(str(error).split())
    return cut(_LONG_WORD.sub(lambda word: cut(word[0], _LONGEST_WORD), text), _LONGEST_PARSE_ERROR)


def _tensor(source: str, kind: str, tensor: Any, batched: bool) -> TensorSpec:
    datatype = DATATYPES.get(tensor.data_type)
    if not tensor.name or datatype is None:
        raise InvalidDocument(
            f"{source}: {kind} '{shown_key(tensor.name)}' must have a name and a data_type that "
            f"Hone serves, got {datatype_name(tensor.data_type)}"
        )
    if any(length < -1 for length in tensor.dims):
        raise InvalidDocument(
            f"{source}: {kind} '{shown_key(tensor.name)}': dims must be -1 or more, "
            f"got {shown(list(tensor.dims))}"
        )
    shape = (*((-1,) if batched else ()), *tensor.dims)
    return TensorSpec(name=tensor.name, datatype=datatype, shape=shape)


def _model_file(source: str, name: str) -> str:
    if name and not is_plain_file_name(name):
        raise InvalidDocument(
            f"{source}: default_model_filename must name a file in the version folder, "
            f"got {shown(name)}"
        )
    return name or "model.onnx"


def _label_files(source: str, outputs: Any) -> dict[str, str]:
    for output in outputs:
        if output.label_filename and not is_plain_file_name(output.label_filename):
            raise InvalidDocument(
                f"{source}: output '{shown_key(output.name)}': label_filename must name a file in "
                f"the model's folder, got {shown(output.label_filename)}"
            )
    return {output.name: output.label_filename for output in outputs if output.label_filename}


def _lanes(source: str, groups: Any) -> int:
    """Concurrent runs of all groups on CPUs together; 0 when there are none."""
    lanes = 0
    for group in groups:
        if group.kind not in pb.ModelInstanceGroup.Kind.values():
            kinds = ", ".join(pb.ModelInstanceGroup.Kind.keys())
            raise InvalidDocument(
                f"{source}: instance_group.kind must be one of {kinds}, got {group.kind}"
            )
        if group.count < 0:
            raise InvalidDocument(
                f"{source}: instance_group.count must not be negative, got {group.count}"
            )
        if group.kind != pb.ModelInstanceGroup.KIND_GPU:
            lanes += max(1, group.count)
    if lanes > _MOST_LANES:
        raise InvalidDocument(
            f"{source}: instance_group.count must be at most {_MOST_LANES} in all, got {lanes}"
        )
    return lanes


def _version_policy(source: str, policy: Any) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(newest=0)
        case "specific":
            if not policy.specific.versions:
                raise InvalidDocument(f"{source}: version_policy.specific names no version")
            for version in policy.specific.versions:
                if not 1 <= version <= _LARGEST_VERSION:
                    raise InvalidDocument(
                        f"{source}: version_policy.specific.versions must be from 1 to "
                        f"{_LARGEST_VERSION}, got {version}"
                    )
            return VersionPolicy(specific=tuple(policy.specific.versions))
        case "latest":
            return VersionPolicy(newest=max(1, policy.latest.num_versions))
    return VersionPolicy()


def _threads(source: str, message: Any) -> int:
    if _THREADS not in message.parameters:
        return 0
    text = message.parameters[_THREADS].string_value
    if not _COUNT.fullmatch(text) or int(text) > _MOST_THREADS:
        raise InvalidDocument(
            f"{source}: parameters.{_THREADS} must be a whole number from 0 to {_MOST_THREADS}, "
            f"got {shown(text)}"
        )
    return int(text)


def _allows_fallback(source: str, message: Any) -> bool:
    if _FALLBACK not in message.parameters:
        return False
    text = message.parameters[_FALLBACK].string_value
    if text not in ("true", "false"):
        raise InvalidDocument(
            f"{source}: parameters.{_FALLBACK} must be true or false, got {shown(text)}"
        )
    return bool(text == "true")


def _ignored(message: Any) -> Iterator[str]:
    """Names of the fields that are set and have no effect here."""
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name not in _HONOURED:
            yield name
        elif name == "parameters":
            yield from (
                f"parameters.{shown_key(key)}" for key in value if key not in _HONOURED[name]
            )
        elif name == "model_warmup":
            yield from unused_samples(message)
        elif _HONOURED[name]:
            inner = {field.name for item in value for field, _ in item.ListFields()}
            yield from (f"{name}.{key}" for key in sorted(inner - set(_HONOURED[name])))
        if name == "instance_group" and any(
            group.kind == pb.ModelInstanceGroup.KIND_GPU for group in value
        ):
            yield "instance_group.kind KIND_GPU (--provider puts every model there)"


def _shapes_agree(declared: tuple[int, ...], actual: tuple[int, ...]) -> bool:
    return len(declared) == len(actual) and all(
        one == other or -1 in (one, other) for one, other in zip(declared, actual, strict=True)
    )
