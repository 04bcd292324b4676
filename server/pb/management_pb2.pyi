from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "error", "versions", "warnings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    error: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., error: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "state", "reason", "is_default", "active_variant", "previous_variant", "lanes", "threads", "max_batch", "batching_note", "profiles", "serve", "task", "memory_bytes", "wide_threads", "provider")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_VARIANT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VARIANT_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    BATCHING_NOTE_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    SERVE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    WIDE_THREADS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    version: int
    state: str
    reason: str
    is_default: bool
    active_variant: str
    previous_variant: str
    lanes: int
    threads: int
    max_batch: int
    batching_note: str
    profiles: _containers.RepeatedScalarFieldContainer[str]
    serve: str
    task: str
    memory_bytes: int
    wide_threads: int
    provider: str
    def __init__(self, version: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., is_default: bool = ..., active_variant: _Optional[str] = ..., previous_variant: _Optional[str] = ..., lanes: _Optional[int] = ..., threads: _Optional[int] = ..., max_batch: _Optional[int] = ..., batching_note: _Optional[str] = ..., profiles: _Optional[_Iterable[str]] = ..., serve: _Optional[str] = ..., task: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., wide_threads: _Optional[int] = ..., provider: _Optional[str] = ...) -> None: ...

class ListVariantsRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ListVariantsResponse(_message.Message):
    __slots__ = ("variants",)
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    def __init__(self, variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("value", "lower", "upper")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    value: float
    lower: float
    upper: float
    def __init__(self, value: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("name", "unit", "samples", "value", "original", "difference", "ratio", "method", "condition", "of_items")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    OF_ITEMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    samples: int
    value: Estimate
    original: Estimate
    difference: Estimate
    ratio: Estimate
    method: str
    condition: str
    of_items: int
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., samples: _Optional[int] = ..., value: _Optional[_Union[Estimate, _Mapping]] = ..., original: _Optional[_Union[Estimate, _Mapping]] = ..., difference: _Optional[_Union[Estimate, _Mapping]] = ..., ratio: _Optional[_Union[Estimate, _Mapping]] = ..., method: _Optional[str] = ..., condition: _Optional[str] = ..., of_items: _Optional[int] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("gate", "passed", "text")
    GATE_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    gate: str
    passed: bool
    text: str
    def __init__(self, gate: _Optional[str] = ..., passed: bool = ..., text: _Optional[str] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("host", "cpu_features", "gpus", "onnxruntime", "provider", "issued_unix_s", "confidence", "gate_use", "gate_sha256")
    HOST_FIELD_NUMBER: _ClassVar[int]
    CPU_FEATURES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    ONNXRUNTIME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    ISSUED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    GATE_USE_FIELD_NUMBER: _ClassVar[int]
    GATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    host: str
    cpu_features: _containers.RepeatedScalarFieldContainer[str]
    gpus: _containers.RepeatedScalarFieldContainer[str]
    onnxruntime: str
    provider: str
    issued_unix_s: float
    confidence: float
    gate_use: int
    gate_sha256: str
    def __init__(self, host: _Optional[str] = ..., cpu_features: _Optional[_Iterable[str]] = ..., gpus: _Optional[_Iterable[str]] = ..., onnxruntime: _Optional[str] = ..., provider: _Optional[str] = ..., issued_unix_s: _Optional[float] = ..., confidence: _Optional[float] = ..., gate_use: _Optional[int] = ..., gate_sha256: _Optional[str] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("model", "version", "id", "profile", "recipe", "verdict", "reasons", "figures", "checks", "notes", "active", "open", "size_bytes", "created_unix_s", "certificate_void", "certificate")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_VOID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    id: str
    profile: str
    recipe: str
    verdict: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    notes: _containers.RepeatedScalarFieldContainer[str]
    active: bool
    open: bool
    size_bytes: int
    created_unix_s: float
    certificate_void: str
    certificate: Certificate
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., id: _Optional[str] = ..., profile: _Optional[str] = ..., recipe: _Optional[str] = ..., verdict: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., active: bool = ..., open: bool = ..., size_bytes: _Optional[int] = ..., created_unix_s: _Optional[float] = ..., certificate_void: _Optional[str] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ...) -> None: ...

class SubmitJobRequest(_message.Message):
    __slots__ = ("model", "version", "profile", "profile_text", "resume")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_TEXT_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    profile: str
    profile_text: str
    resume: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., profile: _Optional[str] = ..., profile_text: _Optional[str] = ..., resume: bool = ...) -> None: ...

class SubmitJobResponse(_message.Message):
    __slots__ = ("job", "existed")
    JOB_FIELD_NUMBER: _ClassVar[int]
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    job: Job
    existed: bool
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., existed: bool = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("number", "recipe", "origin", "state", "level", "levels", "figures", "violation", "reason", "seconds")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    VIOLATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    number: int
    recipe: str
    origin: str
    state: str
    level: int
    levels: int
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    violation: float
    reason: str
    seconds: float
    def __init__(self, number: _Optional[int] = ..., recipe: _Optional[str] = ..., origin: _Optional[str] = ..., state: _Optional[str] = ..., level: _Optional[int] = ..., levels: _Optional[int] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ..., violation: _Optional[float] = ..., reason: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class Search(_message.Message):
    __slots__ = ("trials_done", "trials_total", "seconds_left", "newest", "front", "winner", "ended_because")
    TRIALS_DONE_FIELD_NUMBER: _ClassVar[int]
    TRIALS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    FRONT_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    ENDED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    trials_done: int
    trials_total: int
    seconds_left: float
    newest: _containers.RepeatedCompositeFieldContainer[Trial]
    front: _containers.RepeatedCompositeFieldContainer[Trial]
    winner: int
    ended_because: str
    def __init__(self, trials_done: _Optional[int] = ..., trials_total: _Optional[int] = ..., seconds_left: _Optional[float] = ..., newest: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ..., front: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ..., winner: _Optional[int] = ..., ended_because: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "model", "version", "profile", "state", "stage", "fraction", "text", "reason", "variant", "submitted_unix_s", "finished_unix_s", "position", "search")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    version: int
    profile: str
    state: str
    stage: str
    fraction: float
    text: str
    reason: str
    variant: str
    submitted_unix_s: float
    finished_unix_s: float
    position: int
    search: Search
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., profile: _Optional[str] = ..., state: _Optional[str] = ..., stage: _Optional[str] = ..., fraction: _Optional[float] = ..., text: _Optional[str] = ..., reason: _Optional[str] = ..., variant: _Optional[str] = ..., submitted_unix_s: _Optional[float] = ..., finished_unix_s: _Optional[float] = ..., position: _Optional[int] = ..., search: _Optional[_Union[Search, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveJobResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetRouteRequest(_message.Message):
    __slots__ = ("model", "version", "variant", "unverified")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    UNVERIFIED_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    variant: str
    unverified: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., variant: _Optional[str] = ..., unverified: bool = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("model", "version", "variant", "previous")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    variant: str
    previous: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., variant: _Optional[str] = ..., previous: _Optional[str] = ...) -> None: ...

class RemoveVariantRequest(_message.Message):
    __slots__ = ("model", "version", "variant")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    variant: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., variant: _Optional[str] = ...) -> None: ...

class RemoveVariantResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model", "version", "variant", "job")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    variant: str
    job: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., variant: _Optional[str] = ..., job: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("explanation", "job", "variant")
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    explanation: str
    job: Job
    variant: Variant
    def __init__(self, explanation: _Optional[str] = ..., job: _Optional[_Union[Job, _Mapping]] = ..., variant: _Optional[_Union[Variant, _Mapping]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("of", "picture")
    OF_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    of: ExplainRequest
    picture: bool
    def __init__(self, of: _Optional[_Union[ExplainRequest, _Mapping]] = ..., picture: bool = ...) -> None: ...

class ReportPart(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("model", "limit")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    model: str
    limit: int
    def __init__(self, model: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "unix_s", "model", "version", "kind", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: int
    unix_s: float
    model: str
    version: int
    kind: str
    text: str
    def __init__(self, id: _Optional[int] = ..., unix_s: _Optional[float] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., kind: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...
