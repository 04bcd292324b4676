"""Answers kept for equal requests: exact, bounded, and gone with their variant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray
from prometheus_client import generate_latest

from server.cache import ResponseCache, VariantCache
from server.metrics import Metrics
from server.totals import CacheTotals
from tests.support.calls import floats

Feeds = dict[str, NDArray[Any]]

feeds = st.dictionaries(
    st.sampled_from(["a", "b", "ab"]),
    arrays_of.arrays(
        st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]),
        arrays_of.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3),
    )
    | st.lists(st.sampled_from([b"", b"a", b"ab", "", "a", "ä"]), max_size=4).map(
        lambda texts: np.array([None, *texts], object)[1:]
    ),
    max_size=3,
)
outputs = st.lists(st.sampled_from(["y", "z", "yz"]), max_size=3)


def new(limit_bytes: int = 1 << 20) -> tuple[ResponseCache, VariantCache]:
    cache = ResponseCache(limit_bytes)
    return cache, cache.of_variant(CacheTotals())


def same(one: Feeds, other: Feeds) -> bool:
    """Equal to the last byte, whatever the memory layout."""
    return list(one) == list(other) and all(
        first.dtype == second.dtype
        and first.shape == second.shape
        and (
            list(first.flat) == list(second.flat)
            if first.dtype == np.object_
            else first.tobytes() == second.tobytes()
        )
        for first, second in zip(one.values(), other.values(), strict=True)
    )


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(feeds, feeds, outputs, outputs)
def test_keys_are_equal_for_equal_requests_and_for_no_others(
    one: Feeds, other: Feeds, wanted: list[str], others: list[str]
) -> None:
    _, cache = new()
    equal = same(one, other) and wanted == others
    assert (cache.key(one, wanted) == cache.key(other, others)) == equal
    again = {name: np.asfortranarray(array.copy()) for name, array in one.items()}
    assert cache.key(one, wanted) == cache.key(again, wanted)


def test_neighbouring_texts_do_not_read_the_same() -> None:
    _, cache = new()
    texts = [[b"ab", b"c"], [b"a", b"bc"], [b"abc", b""], ["ab", b"c"], [b"ab\0", b"c"]]
    keys = {cache.key({"x": np.array(pair, object)}, ["y"]) for pair in texts}
    assert len(keys) == len(texts)


def test_a_view_of_other_bytes_is_another_request() -> None:
    _, cache = new()
    whole = floats(4, 4)
    assert cache.key({"x": whole.T}, ["y"]) != cache.key({"x": whole}, ["y"])
    assert cache.key({"x": whole[::2]}, ["y"]) == cache.key({"x": whole[::2].copy()}, ["y"])
    zero = np.zeros(1, np.float32)
    assert cache.key({"x": -zero}, ["y"]) != cache.key({"x": zero}, ["y"])


def test_what_was_kept_is_given_again_and_cannot_be_changed() -> None:
    _, cache = new()
    key, answer = cache.look_up({"x": floats(1, 4)}, ["y"])
    assert answer is None
    run = floats(32, 4, seed=1)
    cache.put(key, [run[3:4]])
    expected = run[3:4].copy()
    run[:] = 0
    again, answer = cache.look_up({"x": floats(1, 4)}, ["y"])
    assert again == key
    assert answer is not None
    np.testing.assert_array_equal(answer[0], expected)
    assert answer[0].base is None, "a view keeps the whole run alive"
    with pytest.raises(ValueError, match="read-only"):
        answer[0][:] = 1


def test_another_opening_shares_nothing() -> None:
    cache, one = new()
    other = cache.of_variant(CacheTotals())
    key, _ = one.look_up({"x": floats(1)}, ["y"])
    one.put(key, [floats(1)])
    assert other.look_up({"x": floats(1)}, ["y"])[1] is None


def test_a_closed_variant_leaves_nothing_and_keeps_nothing_more() -> None:
    cache, one = new()
    other = cache.of_variant(CacheTotals())
    for owner in (one, other):
        for seed in range(5):
            owner.put(owner.key({"x": floats(1, seed=seed)}, ["y"]), [floats(100)])
    half = cache.size_bytes // 2
    one.close()
    assert (len(cache), cache.size_bytes) == (5, half)
    late = one.key({"x": floats(2)}, ["y"])
    one.put(late, [floats(1)])
    assert (len(cache), one.keys) == (5, set())
    other.close()
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache, owner = new(limit_bytes=3 * 1700)
    keys = [owner.key({"x": floats(1, seed=seed)}, ["y"]) for seed in range(4)]
    for key in keys[:3]:
        owner.put(key, [np.zeros(250, np.float32)])
    assert len(cache) == 3
    assert cache.get(keys[0]) is not None
    owner.put(keys[3], [np.zeros(250, np.float32)])
    kept = [cache.get(key) is not None for key in keys]
    assert kept == [True, False, True, True]
    owner.put(owner.key({"x": floats(9)}, ["y"]), [np.zeros(1 << 20, np.float32)])
    assert len(cache) == 3, "what can never fit drives nobody out"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400), st.booleans()), max_size=60))
def test_the_bound_holds_and_the_size_is_the_sum(steps: list[tuple[int, int, bool]]) -> None:
    cache = ResponseCache(4096)
    owners = [cache.of_variant(CacheTotals()) for _ in range(2)]
    for number, length, first in steps:
        owner = owners[0 if first else 1]
        texts = np.array([b"t" * length], object)
        owner.put(owner.key({"x": np.array([number])}, ["y"]), [np.zeros(length), texts])
        assert cache.size_bytes <= 4096
        assert sum(len(one.keys) for one in owners) == len(cache)
    for owner in owners:
        owner.close()
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_hits_misses_and_bytes_are_told() -> None:
    metrics = Metrics(triton_names=True)
    cache = ResponseCache(1 << 20)
    metrics.show_cache(lambda: cache.size_bytes)
    variant = metrics.of_variant("net", 1, "original")
    assert b"hone_cache_hits_total{" not in generate_latest(metrics.registry)
    owner = cache.of_variant(variant.cached())
    key, _ = owner.look_up({"x": floats(1)}, ["y"])
    owner.put(key, [floats(3)])
    for _ in range(2):
        owner.look_up({"x": floats(1)}, ["y"])
    page = generate_latest(metrics.registry).decode()
    labels = 'model="net",variant="original",version="1"'
    assert f"hone_cache_hits_total{{{labels}}} 2.0" in page
    assert f"hone_cache_misses_total{{{labels}}} 1.0" in page
    assert f"hone_cache_bytes {float(cache.size_bytes)}" in page
    assert 'nv_cache_num_hits_per_model{model="net",version="1"} 2.0' in page
    totals = metrics.statistics("net", 1)
    assert (totals.cache.hits.count, totals.cache.misses.count) == (2, 1)
    assert totals.cache.misses.nanoseconds > 0
