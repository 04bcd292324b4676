"""What the benchmarks conclude from what they have measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import LoadFailed, Target, check_summary, grpc_body, percentile, read_log
from benchmarks.peers.environments import PEERS
from benchmarks.peers.floors import RAW_CPU_MS, expected_share, recorded_share, too_slow
from benchmarks.report import verdicts
from benchmarks.rows import Row

SUMMARY = """\
finished in 1.50s, 2642.00 req/s, 389.46KB/s
requests: {done} total, 132 started, {done} done, {succeeded} succeeded, 0 failed, 0 errored
status codes: {succeeded} 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 10.00KB (10240) total, 1.00KB (1024) headers (space savings 95.33%), 7.00KB ({data}) data
"""
TARGET = Target(url="http://127.0.0.1:1/x", body=Path("x"), answer_bytes=70)


def test_a_line_of_the_log_is_one_answer_in_seconds() -> None:
    answers = read_log("1795578816847207\t200\t20083\n1795578816847706\t200\t500\n")
    assert [one.status for one in answers] == [200, 200]
    assert answers[0].latency_s == pytest.approx(0.020083)
    assert answers[1].end_s - answers[0].start_s == pytest.approx(0.000999, abs=1e-6)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.50) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7


def test_a_grpc_body_tells_its_length() -> None:
    assert grpc_body(b"abc") == b"\0\0\0\0\x03abc"


def test_a_run_of_whole_answers_is_taken() -> None:
    check_summary(SUMMARY.format(done=100, succeeded=100, data=7000), TARGET)


@pytest.mark.parametrize(
    ("done", "succeeded", "data"),
    [(100, 99, 7000), (0, 0, 0), (100, 100, 6860)],
    ids=["a failed request", "no request", "two refused calls, which have no body"],
)
def test_a_run_that_went_wrong_is_refused(done: int, succeeded: int, data: int) -> None:
    with pytest.raises(LoadFailed):
        check_summary(SUMMARY.format(done=done, succeeded=succeeded, data=data), TARGET)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([1.2, 9.0, 1.1], "aim"), ([1.6, 1.5, 0.1], "yes"), ([2.5, 2.1, 1.0], "no")],
)
def test_the_median_decides(values: list[float], verdict: str) -> None:
    row = Row(figure="cpu", values=values, least=2, aim=1.3, unit="x")
    assert row.verdict == verdict


def test_more_is_better_where_it_is() -> None:
    row = Row(figure="rate", values=[7.5], least=7, aim=9, unit="x", high_is_good=True)
    assert row.verdict == "yes"
    assert "| rate | 7.5x | ≥ 7x | ≥ 9x | yes |" in verdicts([row])


def test_a_row_without_values_says_why() -> None:
    row = Row(figure="peers", values=(), least=7, aim=9, unit="x", note="run `make bench-peers`")
    assert "| run `make bench-peers` |" in verdicts([row])
    assert row.verdict == "not measured"


@pytest.mark.parametrize("peer", [peer.name for peer in PEERS])
@pytest.mark.parametrize("model", ["tiny", "lenet", "resnet18"])
def test_a_peer_may_fall_a_fifth_below_what_is_expected(peer: str, model: str) -> None:
    there = RAW_CPU_MS.get(model, 0.0)
    recorded, expected = recorded_share(peer, model), expected_share(peer, model, there)
    assert expected is not None
    assert expected == pytest.approx(recorded), "where raw costs what it did"
    assert too_slow(peer, model, 0.81 * expected, expected) is None
    assert peer in (too_slow(peer, model, 0.79 * expected, expected) or "")


def test_where_raw_is_cheaper_a_peers_own_code_weighs_more() -> None:
    assert expected_share("kserve", "tiny", 0.23) == pytest.approx(0.23 / (0.23 + 0.83 - 0.60))
    dearer = 2 * RAW_CPU_MS["tiny"]
    assert expected_share("kserve", "tiny", dearer) == recorded_share("kserve", "tiny")
    assert expected_share("kserve", "resnet18", 0.1) == recorded_share("kserve", "resnet18")
    assert expected_share("kserve", "minilm", 0.1) is None


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_package_of_a_peer_is_pinned(peer: object) -> None:
    lines = next(one for one in PEERS if one is peer).requirements.read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert packages
    assert all("==" in line for line in packages)
