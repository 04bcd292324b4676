"""Filling inputs up: what is filled and cut, when it is refused, and who then shares a run."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidModel
from optimizers.contract.padding import PaddedInput, PaddingPolicy, TrimmedOutput
from optimizers.contract.profile import model_policy
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import Signature, TensorSpec
from server.client import Client
from server.cost import Measured
from server.found import Found, keep, recall
from server.padding import Padding
from server.padding_proof import harm_of_padding
from server.pb import management_pb2 as management
from server.probe import Findings, probe
from tests.support import models
from tests.support.calls import index
from tests.support.servers import Server, running

EDGES = (4, 8, 16)
TEXT = PaddingPolicy(
    inputs={"tokens": PaddedInput(axis=1, edges=EDGES, value=9, mask="mask")},
    trim={"hidden": TrimmedOutput(axis=1, like="tokens")},
)


def spec(name: str, datatype: str, *shape: int, symbols: tuple[str, ...] = ()) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape, symbols=symbols)


TEXT_MODEL = Signature(
    inputs=(spec("tokens", "INT64", -1, -1), spec("mask", "INT64", -1, -1)),
    outputs=(spec("hidden", "FP32", -1, -1, 8), spec("mean", "FP32", -1, 8)),
)


def text(length: int, rows: int = 1, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    tokens = np.random.default_rng(seed).integers(0, 100, (rows, length))
    return {"tokens": tokens, "mask": np.ones_like(tokens)}


# What is filled up


@given(rows=some.integers(0, 5), length=some.integers(0, 40), behind=some.integers(0, 3))
def test_what_was_filled_up_is_cut_back_to_what_it_was(rows: int, length: int, behind: int) -> None:
    axis = 2
    policy = PaddingPolicy(
        inputs={"x": PaddedInput(axis=axis, edges=EDGES, value=-1.5)},
        trim={"y": TrimmedOutput(axis=axis, like="x")},
    )
    shape = (-1, 3, -1) + (-1,) * behind
    model = Signature(inputs=(spec("x", "FP32", *shape),), outputs=(spec("y", "FP32", *shape),))
    padding = Padding(policy, model)
    array = np.random.default_rng(0).random((rows, 3, length) + (2,) * behind, dtype=np.float32)
    before = array.copy()
    feeds, lengths = padding.pad({"x": array})
    filled = feeds["x"]
    fits = 0 < length <= EDGES[-1]
    assert filled.shape[axis] == (min(e for e in EDGES if e >= length) if fits else length)
    assert filled.dtype == array.dtype
    np.testing.assert_array_equal(filled[:, :, :length], array)
    assert (filled[:, :, length:] == -1.5).all()
    np.testing.assert_array_equal(padding.trim([filled], ["y"], lengths)[0], before)
    np.testing.assert_array_equal(array, before)
    assert bool(lengths) == (filled.shape != array.shape)


def test_the_mask_says_what_is_real_and_the_order_of_inputs_stays() -> None:
    padding = Padding(TEXT, TEXT_MODEL)
    feeds, lengths = padding.pad(text(5, rows=2))
    assert list(feeds) == ["tokens", "mask"]
    assert feeds["tokens"].shape == feeds["mask"].shape == (2, 8)
    assert (feeds["tokens"][:, 5:] == 9).all()
    np.testing.assert_array_equal(feeds["mask"], [[1] * 5 + [0] * 3] * 2)
    hidden, mean = np.ones((2, 8, 8)), np.ones((2, 8))
    cut, kept = padding.trim([hidden, mean], ["hidden", "mean"], lengths)
    assert (cut.shape, kept.shape) == ((2, 5, 8), (2, 8))


@pytest.mark.parametrize(
    "feeds",
    [
        text(17),
        text(16),
        text(0),
        {"tokens": text(5)["tokens"], "mask": text(6)["mask"]},
        text(1, rows=(1 << 18) + 1),
    ],
    ids=["longer", "at an edge", "empty", "mask of another length", "would be too large"],
)
def test_what_does_not_fit_goes_on_as_it_came(feeds: dict[str, NDArray[np.int64]]) -> None:
    filled, lengths = Padding(TEXT, TEXT_MODEL).pad(feeds)
    assert filled is feeds
    assert lengths == {}


def test_inputs_with_other_edges_have_lengths_of_their_own() -> None:
    policy = PaddingPolicy(
        inputs={
            "a": PaddedInput(axis=1, edges=(4,)),
            "b": PaddedInput(axis=1, edges=(8,)),
        },
        trim={"y": TrimmedOutput(axis=1, like="b")},
    )
    model = Signature(
        inputs=(spec("a", "FP32", -1, -1), spec("b", "FP32", -1, -1)),
        outputs=(spec("y", "FP32", -1, -1),),
    )
    padding = Padding(policy, model)
    feeds, lengths = padding.pad({"a": np.ones((1, 3)), "b": np.ones((1, 5))})
    assert [array.shape[1] for array in feeds.values()] == [4, 8]
    assert padding.trim([np.ones((1, 8))], ["y"], lengths)[0].shape == (1, 5)
    feeds, lengths = padding.pad({"a": np.ones((1, 3)), "b": np.ones((1, 9))})
    assert [array.shape[1] for array in feeds.values()] == [4, 9]
    assert padding.trim([np.ones((1, 9))], ["y"], lengths)[0].shape == (1, 9)


# What contradicts the model

N = ("batch", "n")


def policy(trim: dict[str, int] | None = None, **inputs: dict[str, Any]) -> PaddingPolicy:
    like = next(iter(inputs))
    return PaddingPolicy(
        inputs={
            name: PaddedInput(**{"axis": 1, "edges": EDGES, **changes})
            for name, changes in inputs.items()
        },
        trim={name: TrimmedOutput(axis=axis, like=like) for name, axis in (trim or {}).items()},
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (policy(token={}), r"padding.token: unknown input; did you mean 'tokens'\?"),
        (policy(tokens={"mask": "maks"}), r"padding.tokens.mask: .*did you mean 'mask'\?"),
        (policy(tokens={"axis": 2}), r"padding.tokens.axis: .*shape \[-1, -1\] .*expected axis 2"),
        (policy(fixed={}), r"padding.fixed.axis: .*expected axis 1 to be of variable length"),
        (policy(tokens={"mask": "fixed"}), "padding.tokens.mask: input 'fixed' has shape"),
        (policy(words={}), "padding.words.axis: input 'words' holds texts"),
        (policy(tokens={"value": 0.5}), "padding.tokens.value: .*INT64; expected a whole number"),
        (policy(small={"value": -1}), "padding.small.value: .*UINT8; .*from 0 to 255, got -1"),
        (policy(flags={"value": 2}), "padding.flags.value: .*BOOL; .*from 0 to 1, got 2"),
        (policy(half={"value": 1e6}), "padding.half.value: .*FP16; expected a number from"),
        (policy({"hiden": 1}, tokens={}), r"trim.hiden: .*did you mean 'hidden'\?"),
        (policy({"hidden": 2}, tokens={}), "trim.hidden: .*expected axis 2 to be of variable"),
        (policy({"hidden": 3}, tokens={}), "trim.hidden: .*expected axis 3 to be of variable"),
        (policy(named={}), "padding: input 'also_named' has the length 'n' of 'named'"),
        (
            policy(named={}, also_named={"edges": (5,)}),
            "padding: inputs 'named' and 'also_named' share the length 'n' .*equal edges",
        ),
    ],
)
def test_a_policy_that_contradicts_the_model_is_refused(wrong: PaddingPolicy, said: str) -> None:
    model = Signature(
        inputs=(
            *TEXT_MODEL.inputs,
            spec("fixed", "FP32", -1, 4),
            spec("words", "BYTES", -1, -1),
            spec("small", "UINT8", -1, -1),
            spec("flags", "BOOL", -1, -1),
            spec("half", "FP16", -1, -1),
            spec("named", "FP32", -1, -1, symbols=N),
            spec("also_named", "FP32", -1, -1, symbols=N),
        ),
        outputs=TEXT_MODEL.outputs,
    )
    with pytest.raises(InvalidModel, match=f"hone.yaml: {said}"):
        Padding(wrong, model)
    Padding(policy({"hidden": 1}, tokens={"mask": "mask"}, named={}, also_named={}), model)


# What a model makes of it

X = {"x": PaddedInput(axis=1, edges=EDGES)}
Y = {"y": TrimmedOutput(axis=1, like="x")}
UNTRIMMED = PaddingPolicy(inputs=TEXT.inputs)
NO_MASK = PaddingPolicy(inputs={**policy(tokens={}, mask={}).inputs}, trim=TEXT.trim)
ONES = PaddingPolicy(inputs={"x": PaddedInput(axis=1, edges=EDGES, value=1)})


@pytest.mark.parametrize(
    ("build", "asked", "harm"),
    [
        (models.masked_mean, TEXT, ""),
        (models.masked_mean, UNTRIMMED, r"output 'hidden' has shape \[1, 4, 8\] .* under 'trim'"),
        (models.masked_mean, NO_MASK, ""),  # the mask is an input as others: 0 does no harm
        (
            lambda path: models.masked_mean(path, uses_mask=False),
            TEXT,
            "output 'mean' changes with 'tokens' of 1 filled up to 4",
        ),
        (lambda path: models.reduced(path, "ReduceSum"), PaddingPolicy(inputs=X), ""),
        (lambda path: models.reduced(path, "ReduceSum"), ONES, "output 'y' changes"),
        (lambda path: models.reduced(path, "ReduceMax"), PaddingPolicy(inputs=X), "changes"),
        (lambda path: models.reduced(path, "ReduceMin"), PaddingPolicy(inputs=X), "changes"),
        (lambda path: models.reduced(path, "ReduceMin"), ONES, "output 'y' changes"),
        (
            lambda path: models.with_positions(path, most=16),
            PaddingPolicy(inputs=X, trim=Y),
            "",
        ),
        (
            lambda path: models.with_positions(path, most=15),
            PaddingPolicy(inputs=X, trim=Y),
            "filled-up requests could not be run",
        ),
    ],
)
@pytest.mark.parametrize("most_rows", [2, 8])
def test_padding_that_changes_answers_is_found(
    tmp_path: Path, build: Callable[[Path], Path], asked: PaddingPolicy, harm: str, most_rows: int
) -> None:
    session = Session(build(tmp_path / "model.onnx"), SessionSpec(max_batch=8))
    padding = Padding(asked, session.signature)
    said = harm_of_padding(session, padding, most_rows)
    if harm:
        with pytest.raises(AssertionError, match=harm):
            raise AssertionError(said)
    else:
        assert said == ""
    session.close()


def test_nothing_is_filled_up_where_nothing_is_joined(tmp_path: Path) -> None:
    session = Session(models.masked_mean(tmp_path / "model.onnx"), SessionSpec(max_batch=1))
    findings = probe(session, Padding(TEXT, session.signature))
    assert (findings.pads, findings.padding_note) == (False, "")
    assert "served unbatched" in findings.notes
    session.close()


def test_what_was_found_holds_for_the_same_policy_only(tmp_path: Path) -> None:
    measured = Measured(seconds={1: 0.001}, row_bytes=8, shapes=((1,),))
    findings = Findings(measured=measured, max_batch=8, pads=True)
    spec = SessionSpec(max_batch=8)
    found = Found(spec=spec, threads=2, findings=findings, wide_ratio=1.0, padding=TEXT)
    keep(tmp_path / "found.json", found)
    assert recall(tmp_path / "found.json", spec, 2, TEXT) == found
    assert recall(tmp_path / "found.json", spec, 2, UNTRIMMED) is None
    assert recall(tmp_path / "found.json", spec, 2, PaddingPolicy()) is None


# A server that pads

POLICY = """\
padding:
  tokens: {axis: 1, value: 0, edges: [16, 32, 64], mask: mask}
trim: {hidden: 1}
"""
OF_TEXT = '{model="text",variant="original",version="1"}'
AT_ONCE = "max_batch_size: 8\ndynamic_batching {}\n"
IN_FOURS = (
    "max_batch_size: 8\n"
    "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 2000000 }\n"
)


def text_model(
    root: Path, *, uses_mask: bool = True, config: str = IN_FOURS, width: int = 8
) -> Path:
    file = root / "models/text/1/model.onnx"
    model = models.masked_mean(file, uses_mask=uses_mask, width=width)
    (root / "models/text/hone.yaml").write_text(POLICY)
    (root / "models/text/config.pbtxt").write_text(config)
    return model


async def sample(server: Server, name: str) -> float:
    def read() -> str:
        with urllib.request.urlopen(server.metrics) as page:
            content: bytes = page.read()
            return content.decode()

    lines = (await asyncio.to_thread(read)).splitlines()
    [line] = [one for one in lines if one.startswith(name)]
    return float(line.rpartition(" ")[2])


async def batching_note(server: Server) -> str:
    async with Client(server.admin) as client:
        answer = await client.call(
            "ListModels", management.ListModelsRequest(), management.ListModelsResponse
        )
    note: str = answer.models[0].versions[0].batching_note
    return note


async def answers(server: Server, requests: list[dict[str, NDArray[np.int64]]]) -> Any:
    async with Client(server.public) as client:
        calls = [client.infer("text", request) for request in requests]
        return [arrays for arrays, _ in await asyncio.gather(*calls)]


def check(session: Session, request: dict[str, Any], answer: dict[str, Any]) -> None:
    for name, wanted in zip(("hidden", "mean"), session.run(request), strict=True):
        assert answer[name].shape == wanted.shape
        np.testing.assert_allclose(answer[name], wanted, rtol=1e-5, atol=1e-5)


async def test_requests_of_other_lengths_share_a_run_and_each_gets_its_own_answer(
    tmp_path: Path,
) -> None:
    session = Session(text_model(tmp_path), SessionSpec())
    with running(tmp_path / "models", tmp_path / "state") as server:
        requests = [text(n, seed=n) for n in (17, 20, 31, 32)]
        for request, answer in zip(requests, await answers(server, requests), strict=True):
            check(session, request, answer)
        assert await sample(server, f"hone_batch_size_count{OF_TEXT}") == 1
        assert await sample(server, f"hone_batch_size_sum{OF_TEXT}") == 4
        mixed = [text(n, seed=n) for n in (1, 2, 5, 16, 33, 64, 40, 63, 65, 65, 65, 65)]
        for request, answer in zip(mixed, await answers(server, mixed), strict=True):
            check(session, request, answer)
        assert await sample(server, f"hone_batch_size_count{OF_TEXT}") == 4
    session.close()


async def test_a_later_start_pads_as_before_and_another_policy_is_tried_anew(
    tmp_path: Path,
) -> None:
    width = 4096  # large enough for what was found to be kept
    text_model(tmp_path, width=width)
    requests = [text(n, seed=n) for n in (17, 20, 31, 32)]
    for policy, edges, runs in (
        (POLICY, [16, 32, 64], 1),
        (POLICY, [16, 32, 64], 1),
        (POLICY.replace("32, ", ""), [16, 64], 1),
        ("", None, 4),
    ):
        (tmp_path / "models/text/hone.yaml").write_text(policy)
        with running(tmp_path / "models", tmp_path / "state") as server:
            for answer in await answers(server, requests):
                assert answer["mean"].shape == (1, width)
            assert await sample(server, f"hone_batch_size_count{OF_TEXT}") == runs
        [file] = (tmp_path / "state/packed").glob("*.json")
        kept = json.loads(file.read_text())
        assert kept["findings"]["pads"] is bool(policy)
        assert kept["padding"]["inputs"].get("tokens", {}).get("edges") == edges


async def test_kept_answers_are_of_the_request_as_it_came(tmp_path: Path) -> None:
    config = AT_ONCE + "response_cache { enable: true }\n"
    session = Session(text_model(tmp_path, config=config), SessionSpec())
    with running(tmp_path / "models", tmp_path / "state", "--cache-bytes", "1000000") as server:
        longer = text(18)
        shorter = {name: array[:, :17] for name, array in longer.items()}
        for request in (longer, shorter, longer, shorter):
            [answer] = await answers(server, [request])
            check(session, request, answer)
        assert await sample(server, f"hone_cache_hits_total{OF_TEXT}") == 2
        assert await batching_note(server) == ""
    session.close()


async def test_a_model_that_ignores_its_mask_is_not_padded_and_it_is_said(tmp_path: Path) -> None:
    session = Session(text_model(tmp_path, uses_mask=False, config=AT_ONCE), SessionSpec())
    with running(tmp_path / "models", tmp_path / "state") as server:
        requests = [text(n, seed=n) for n in (17, 20, 31, 32)]
        for request, answer in zip(requests, await answers(server, requests), strict=True):
            check(session, request, answer)
        assert await sample(server, f"hone_batch_size_count{OF_TEXT}") == 4
        note = await batching_note(server)
        assert "inputs are not padded: output 'mean' changes with 'tokens' of 1" in note
        assert server.stop() == 0
    assert [line for line in server.log if "WARNING" in line and "are not padded" in line]
    session.close()


async def test_a_policy_that_contradicts_its_model_keeps_it_from_loading(tmp_path: Path) -> None:
    text_model(tmp_path)
    wrong = POLICY.replace("axis: 1", "axis: 2")
    assert model_policy(wrong, "text/hone.yaml").padding
    (tmp_path / "models/text/hone.yaml").write_text(wrong)
    with running(tmp_path / "models", tmp_path / "state") as server:
        state, reason = (await index(server.public))[("text", "1")]
    assert state == "UNAVAILABLE"
    assert "hone.yaml: padding.tokens.axis: input 'tokens' has shape [-1, -1]" in reason
