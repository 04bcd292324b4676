"""Numbers are written for people: four digits at most, a fitting unit, no exponent."""

from __future__ import annotations

import pytest

from optimizers.contract.amounts import byte_count, number, percent, quantity, time_span


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.34812, "0.3481"), (27.5, "27.5"), (12_345.6, "12,346"), (-2_000.0, "-2,000")],
)
def test_a_number_has_four_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((12, "12 B"), (3_000, "2.9 KiB"), (11_848_909, "11.30 MiB")),
        *((3 * 2**30, "3.00 GiB"), (0, "0 B")),
    ],
)
def test_bytes_come_in_a_unit_of_their_size(value: float, text: str) -> None:
    assert byte_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(23.22e-6, "0.02322 ms"), (3.481e-4, "0.3481 ms"), (1.25, "1.25 s"), (0.0, "0 ms")],
)
def test_no_time_is_rounded_to_nothing(value: float, text: str) -> None:
    assert time_span(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0 %"), (1e-6, "less than 0.1 %"), (0.0042, "0.4 %")),
        *((0.826, "83 %"), (1.0, "100 %"), (2.0, "200 %")),
    ],
)
def test_a_small_share_is_not_none(value: float, text: str) -> None:
    assert percent(value) == text


def test_a_figure_is_written_in_its_own_unit() -> None:
    assert quantity("s", 0.002) == "2 ms"
    assert quantity("B", 2**20) == "1.00 MiB"
    assert quantity("", 0.95) == "0.9500"
    assert quantity("items/s", 43_210.0) == "43,210 items/s"
