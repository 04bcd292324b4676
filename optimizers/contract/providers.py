"""Opens a model where it is to compute, and proves that it does compute there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import onnxruntime

from optimizers.contract.complaints import complaint, lacks_memory
from optimizers.contract.errors import InvalidModel, NotSupported, OutOfMemory
from optimizers.contract.placement import RECORD_PLACEMENT, misplaced, named, placed_nodes
from optimizers.contract.provider_options import (
    EXECUTION_PROVIDERS,
    Provider,
    ProviderOptions,
    arguments,
    engine_cache,
    profile_shapes,
)

_log = logging.getLogger(__name__)

SMALL_MODEL: Final = bytes.fromhex(
    "08083a440a110a01780a017812017922064d61744d756c1205736d616c6c5a130a0178120e0a0c0801120"
    "80a0208020a02080262130a0179120e0a0c080112080a0208020a02080242040a00100d"
)
"""y [2, 2] = x [2, 2] @ x as an ONNX file: what a provider must be able to compute."""

_ACCEPTED: Final[dict[Provider, tuple[str, ...]]] = {"tensorrt": (EXECUTION_PROVIDERS["cuda"],)}
_EXTRAS: Final = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda", "openvino": "openvino"}
_PREFERRED: Final[tuple[Provider, ...]] = ("cuda", "openvino")
"""What `auto` tries. TensorRT builds engines for minutes: nobody gets it without asking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The provider that a server computes on.

    Attributes:
        provider: Its name.
        why: Why this one, for people.
    """

    provider: Provider
    why: str


class Wanted(Protocol):
    """The part of a session's spec that decides where it computes."""

    @property
    def provider(self) -> Provider:
        """Where."""

    @property
    def provider_options(self) -> ProviderOptions:
        """What that provider is told."""

    @property
    def intra_op_threads(self) -> int:
        """Threads inside one run."""

    @property
    def lanes(self) -> int:
        """Concurrent runs."""

    @property
    def max_batch(self) -> int:
        """Most rows in one run."""


def open_inference_session(
    model: Path, options: onnxruntime.SessionOptions, spec: Wanted
) -> onnxruntime.InferenceSession:
    """Open a model file where `spec` wants it, or not at all.

    onnxruntime goes on with the processor, in silence, when a device is missing, when a node is
    unknown to a provider, and when a run fails: all three are errors here.

    Args:
        model: The file.
        options: The session's options; who computes is added to them.
        spec: Where it is to compute.

    Raises:
        InvalidModel: The file is damaged or unsupported.
        OutOfMemory: The runtime got too little.
        NotSupported: The provider is not to be had here, or leaves nodes to the processor; the
            text names them.
    """
    require_provider(spec.provider)
    wanted = EXECUTION_PROVIDERS[spec.provider]
    elsewhere = spec.provider != "cpu"
    if elsewhere:
        options.add_session_config_entry(RECORD_PLACEMENT, "1")
    try:
        session = onnxruntime.InferenceSession(
            str(model), options, providers=_providers(model, spec), enable_fallback=0
        )
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        if elsewhere:
            try_provider(spec.provider, spec.provider_options)
        text = f"onnxruntime cannot load {model.name}: {complaint(error)}"
        raise (OutOfMemory if lacks_memory(error) else InvalidModel)(text) from error
    used = session.get_providers()
    if used[0] != wanted:
        raise NotSupported(
            f"{model.name} was to run on {spec.provider}, but no usable device was found and "
            f"onnxruntime fell back to {', '.join(used)}; what it missed stands in its log"
        )
    if elsewhere:
        _refuse_misplaced(session, model, spec)
    return session


def require_provider(provider: Provider) -> None:
    """Make sure that this installation of onnxruntime knows `provider`.

    Raises:
        NotSupported: It does not; the text says what to install.
    """
    available = onnxruntime.get_available_providers()
    if EXECUTION_PROVIDERS[provider] not in available:
        raise NotSupported(
            f"provider {provider} needs {EXECUTION_PROVIDERS[provider]}, but this onnxruntime has "
            f"{', '.join(available)}; run: pip install 'hone-server[{_EXTRAS[provider]}]' in an "
            "environment of its own"
        )


def try_provider(provider: Provider, options: ProviderOptions) -> None:
    """Let `provider` compute a product of two small matrices.

    Raises:
        NotSupported: It cannot: its device or its libraries are missing, or it is wrong.
    """
    require_provider(provider)
    wanted = EXECUTION_PROVIDERS[provider]
    quiet = onnxruntime.SessionOptions()
    quiet.intra_op_num_threads = 1
    plain = replace(options, graphs=False)  # a graph needs bound buffers
    told = [(wanted, arguments(provider, plain, threads=1, lanes=1))]
    x = np.array([[1, 2], [3, 4]], np.float32)
    try:
        session = onnxruntime.InferenceSession(
            SMALL_MODEL, quiet, providers=told, enable_fallback=0
        )
        used = session.get_providers()[0]
        [y] = session.run(None, {"x": x})
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise NotSupported(f"provider {provider} does not work here: {complaint(error)}") from error
    if used != wanted:
        raise NotSupported(
            f"provider {provider} does not work here: onnxruntime found no usable device or not "
            f"all libraries, and fell back to {used}; what it missed stands in its log"
        )
    if not np.allclose(y, x @ x, rtol=1e-2):
        raise NotSupported(f"provider {provider} computes wrongly here: {y.tolist()}")


def settle_provider(asked: Literal["auto", Provider], options: ProviderOptions) -> Choice:
    """Find out whether the provider asked for works here; for `auto`, which is the best that does.

    Raises:
        NotSupported: The one asked for does not; the text says what it misses.
    """
    if asked == "cpu":
        return Choice(provider="cpu", why="asked for")
    if asked != "auto":
        try_provider(asked, options)
        return Choice(provider=asked, why="asked for; it computed a small model")
    refusals = []
    for provider in _PREFERRED:
        if EXECUTION_PROVIDERS[provider] not in onnxruntime.get_available_providers():
            refusals.append(f"this onnxruntime has no {provider}")
            continue
        try:
            try_provider(provider, options)
        except NotSupported as error:
            refusals.append(str(error))
            continue
        return Choice(provider=provider, why="; ".join([*refusals, "it computed a small model"]))
    return Choice(provider="cpu", why="; ".join(refusals))


def _providers(model: Path, spec: Wanted) -> list[tuple[str, dict[str, str]]]:
    """Whom to ask, in order, and what to tell each; the processor always comes last."""
    options, threads, lanes = spec.provider_options, spec.intra_op_threads, spec.lanes
    told = arguments(spec.provider, options, threads=threads, lanes=lanes)
    providers = [(EXECUTION_PROVIDERS[spec.provider], told)]
    if spec.provider == "tensorrt":
        told.update(engine_cache())
        told.update(profile_shapes(_inputs(model), spec.max_batch))
        plain = replace(options, graphs=False)  # a graph holds all of a model or nothing
        cuda = arguments("cuda", plain, threads=threads, lanes=lanes)
        providers.append((EXECUTION_PROVIDERS["cuda"], cuda))
    return providers


def _inputs(model: Path) -> Sequence[Any]:
    """Name and shape of each input."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    cpu = [EXECUTION_PROVIDERS["cpu"]]
    session = onnxruntime.InferenceSession(str(model), options, providers=cpu)
    return tuple(session.get_inputs())


def _refuse_misplaced(session: onnxruntime.InferenceSession, model: Path, spec: Wanted) -> None:
    nodes = placed_nodes(session)
    away = misplaced(nodes, EXECUTION_PROVIDERS[spec.provider], _ACCEPTED.get(spec.provider, ()))
    if not away:
        return
    text = (
        f"{model.name} was to run on {spec.provider}, but {len(away)} of its {len(nodes)} nodes "
        f"went to {', '.join(sorted({node.provider for node in away}))}: {named(away)}"
    )
    if not spec.provider_options.allow_fallback:
        raise NotSupported(
            f'{text}; allow it with parameters.allow_provider_fallback "true" in config.pbtxt, '
            "or keep the model on the processor with an instance_group of KIND_CPU"
        )
    _log.warning("%s", text)
