"""How the report writes numbers."""

import math

import pytest

from alexnet_jax.analysis import number_format


@pytest.mark.parametrize(
  "share, text",
  [
    *((0.2338, "23.4%"), (0.0, "0.0%"), (1.0, "100.0%"), (0.0004, "0.04%")),
    *((0.0005, "0.1%"), (1e-7, "0.0%"), (None, "-"), (math.nan, "-")),
  ],
)
def test_shares_are_percentages_with_one_digit(share, text):
  assert number_format.percent(share) == text


@pytest.mark.parametrize(
  "value, text",
  [
    *((2.302585, "2.30"), (278.4, "278"), (0.01, "0.0100"), (0.0, "0")),
    *((1e-5, "1e-05"), (4.25e7, "4.2e+07"), (9999.0, "9,999"), (None, "-")),
  ],
)
def test_numbers_have_three_digits(value, text):
  assert number_format.number(value) == text


def test_counts_durations_and_epochs():
  counts = (1_281_167, 60_965_224, 7.0)
  assert list(map(number_format.count, counts)) == [
    *("1,281,167", "61 million", "7")
  ]
  seconds = (42.4, 342, 12_000, 500_000)
  assert list(map(number_format.duration, seconds)) == [
    *("42 s", "5.7 min", "3 h 20 min", "138 h 53 min")
  ]
  assert list(map(number_format.epochs, (5.008, 12.69, 90.0))) == [
    *("5", "12.7", "90")
  ]
  assert number_format.points(-0.0034) == "-0.3 points"
