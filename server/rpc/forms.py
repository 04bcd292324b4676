"""Requests recognised by their bytes: what is like an earlier one is not parsed.

Callers send the same names, datatypes and shapes again and again; only tensors and ids differ. Of
a request that passed every check it is kept where those lie. A later one that is the same byte for
byte everywhere else says the same, since a message is read from its first byte to its last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.signature import NUMPY_DTYPES, Signature
from optimizers.contract.varint import read_varint
from server.pb import open_inference_pb2 as pb
from server.rpc.codec import DecodedRequest
from server.rpc.parameters import Parameter
from server.waiting import Alike, shapes_and_size

_MOST_KINDS: Final = 256
_MOST_ALIKE: Final = 4
"""Forms of one length and model."""

_LONGEST_BYTES: Final = 8192
"""Of what is the same in every request of a form."""

_NOT_PLAIN: Final = ("BYTES", "BOOL")
"""Datatypes whose content is checked, not only its length."""

_MEANT: Final = frozenset(("priority", "timeout", "variant"))
"""Parameters that are the same in many requests; others, such as a trace's id, are in none."""

_ID, _RAW_INPUT = 3, 7
_LENGTH_DELIMITED: Final = 2


class _Span(NamedTuple):
    """Bytes of a request, the last one excluded."""

    start: int
    end: int


class _Input(NamedTuple):
    """An input, and where its bytes lie."""

    name: str
    place: _Span
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Form:
    """What all requests of one form say, and where they say what is their own.

    Attributes:
        owner: By whose checks the first one passed.
        model_name: As the requests say.
        model_version: Likewise.
        parameters: Those of the requests, checked.
        alike: What the requests have in common in the batcher's eyes.
        gives_texts: Whether any output wanted is of datatype BYTES.
        runs_at_once: Whether what answered the last such request by itself has short runs, which
            several may share; so it is taken to be until then.
        same: The bytes that all requests share, piece by piece.
    """

    __slots__ = (
        *("_id", "_inputs", "_places", "alike", "gives_texts"),
        *("model_name", "model_version", "owner", "parameters", "runs_at_once", "same"),
    )

    def __init__(
        self,
        owner: object,
        request: pb.ModelInferRequest,
        parameters: Mapping[str, Parameter],
        decoded: DecodedRequest,
        gives_texts: bool,
        inputs: tuple[_Input, ...],
        id_place: _Span | None,
        places: tuple[_Span, ...],
        content: bytes,
    ) -> None:
        self.owner = owner
        self.model_name = request.model_name
        self.model_version = request.model_version
        self.parameters = parameters
        self.same = [content[start:end] for start, end in places]
        self._places = places
        shapes, size_bytes = shapes_and_size(decoded.feeds, decoded.rows)
        self.gives_texts = gives_texts
        self.runs_at_once = True
        self.alike = Alike(decoded.rows, shapes, size_bytes, decoded.outputs)
        self._inputs = inputs
        self._id = id_place

    def matches(self, content: bytes) -> bool:
        """Whether bytes, as many as the first request had, are a request of this form."""
        return [content[start:end] for start, end in self._places] == self.same

    def request_id(self, content: bytes) -> str:
        """The id of a request that matches.

        Raises:
            UnicodeDecodeError: It is no text, and the bytes are no message.
        """
        return "" if self._id is None else content[self._id.start : self._id.end].decode()

    def decoded(self, content: bytes) -> DecodedRequest:
        """What a request that matches asks; its arrays are copies."""
        return DecodedRequest(self.joined((content,)), self.alike.rows, self.alike.outputs)

    def joined(self, contents: Sequence[bytes]) -> dict[str, NDArray[Any]]:
        """The inputs of requests that match, one's rows behind another's."""
        feeds = {}
        for name, (start, end), dtype, shape in self._inputs:
            together = b"".join([content[start:end] for content in contents])
            rows = shape if len(contents) == 1 else (len(contents) * shape[0], *shape[1:])
            feeds[name] = np.frombuffer(together, dtype).reshape(rows)
        return feeds


class InferenceRequest:
    """A ModelInferRequest as it came, parsed if it had to be.

    Attributes:
        content: Its bytes.
        form: Of whose form it is; None for a new one.
        id: Its id, "" for none.
        model_name: Whom it asks.
        model_version: The address it names, "" for none.
    """

    __slots__ = ("_message", "content", "form", "id", "model_name", "model_version")

    def __init__(self, content: bytes, form: Form | None = None) -> None:
        """Read `content`, which matches `form` if one is given.

        Raises:
            DecodeError: It is no ModelInferRequest.
            UnicodeDecodeError: Likewise, where it matches a form.
        """
        self.content = content
        self.form = form
        self._message: pb.ModelInferRequest | None = None
        if form is not None:
            self.id = form.request_id(content)
            self.model_name = form.model_name
            self.model_version = form.model_version
        else:
            message = self._message = pb.ModelInferRequest.FromString(content)
            self.id = message.id
            self.model_name = message.model_name
            self.model_version = message.model_version

    def let_go(self) -> None:
        """Keep only whom it asks and its id: all else has been taken out of it."""
        self.content, self.form, self._message = b"", None, None

    @property
    def message(self) -> pb.ModelInferRequest:
        """All of it."""
        if self._message is None:
            self._message = pb.ModelInferRequest.FromString(self.content)
        return self._message


class Forms:
    """The forms of requests that are known. Belongs to one event loop."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], tuple[Form, ...]] = {}

    def read(self, content: bytes) -> InferenceRequest:
        """A request, parsed unless its form is known.

        Raises:
            DecodeError: The bytes are no ModelInferRequest.
        """
        for form in self._known.get(_kind(content), ()):
            if form.matches(content):
                try:
                    return InferenceRequest(content, form)
                except UnicodeDecodeError:
                    break  # and be told so by who parses it
        return InferenceRequest(content)

    def learn(
        self,
        owner: object,
        request: InferenceRequest,
        parameters: Mapping[str, Parameter],
        signature: Signature,
        decoded: DecodedRequest,
    ) -> None:
        """Keep the form of a request that passed every check, if there is no more to check.

        Args:
            owner: Whose checks those were; they hold for later requests as long as it does.
            request: What came.
            parameters: Its own, decoded.
            signature: What it was checked against.
            decoded: What was found in it.
        """
        form = _form(owner, request, parameters, signature, decoded)
        if form is None:
            return
        kind = _kind(request.content)
        if len(self._known) >= _MOST_KINDS and kind not in self._known:
            del self._known[next(iter(self._known))]
        # One with the same bytes was another owner's.
        others = [one for one in self._known.get(kind, ()) if one.same != form.same]
        self._known[kind] = (form, *others[: _MOST_ALIKE - 1])


def _kind(content: bytes) -> tuple[int, bytes]:
    """What is looked up: the length and, where clients put it, the model's name."""
    return len(content), content[: 2 + content[1]] if len(content) > 1 else content


def _form(
    owner: object,
    request: InferenceRequest,
    parameters: Mapping[str, Parameter],
    signature: Signature,
    decoded: DecodedRequest,
) -> Form | None:
    """The form of a request; None where more than its tensors and id may differ."""
    message, content = request.message, request.content
    if not _is_plain(message, signature) or not _MEANT.issuperset(parameters):
        return None
    fields = _fields(content)
    if fields is None:
        return None
    ids = [place for number, place in fields if number == _ID]
    tensors = [place for number, place in fields if number == _RAW_INPUT]
    if len(ids) > 1 or len(tensors) != len(message.inputs):
        return None
    places = _between([*ids, *tensors], len(content))
    texts = {spec.name for spec in signature.outputs if spec.datatype == "BYTES"}
    order = {tensor.name: index for index, tensor in enumerate(message.inputs)}
    inputs = tuple(
        _Input(
            spec.name,
            tensors[order[spec.name]],
            NUMPY_DTYPES[spec.datatype],
            decoded.feeds[spec.name].shape,
        )
        for spec in signature.inputs
    )
    id_place = ids[0] if ids else None
    gives_texts = not texts.isdisjoint(decoded.outputs)
    return Form(owner, message, parameters, decoded, gives_texts, inputs, id_place, places, content)


def _is_plain(message: pb.ModelInferRequest, signature: Signature) -> bool:
    """Whether all tensors are bytes of the message of which only the length is checked."""
    return (
        not any(spec.datatype in _NOT_PLAIN for spec in signature.inputs)
        and not any(tensor.parameters or tensor.HasField("contents") for tensor in message.inputs)
        and not any(output.parameters for output in message.outputs)
    )


def _between(places: Sequence[_Span], size: int) -> tuple[_Span, ...]:
    """What lies around `places` in `size` bytes."""
    ordered = sorted(places)
    starts = (0, *[place.end for place in ordered])
    ends = (*[place.start for place in ordered], size)
    around = [_Span(start, end) for start, end in zip(starts, ends, strict=True)]
    return tuple([span for span in around if span.start < span.end])


def _fields(content: bytes) -> list[tuple[int, _Span]] | None:
    """Number and place of each field of a message, in order.

    None where a field has no length, or where what would be the same in every request is too long.
    """
    fields, at, same = [], 0, 0
    while at < len(content):
        start = at
        tag, at = read_varint(content, at)
        if tag & 7 != _LENGTH_DELIMITED:
            return None
        length, at = read_varint(content, at)
        number = tag >> 3
        same += at - start + (0 if number in (_ID, _RAW_INPUT) else length)
        if same > _LONGEST_BYTES:
            return None
        fields.append((number, _Span(at, at + length)))
        at += length
    return fields
