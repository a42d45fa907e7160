"""Number format: how the report writes shares, counts and durations."""

import math


def percent(share: float | None) -> str:
  """A share such as 0.2338 as "23.4%"; "-" if it is unknown."""
  if share is None or not math.isfinite(share):
    return "-"
  # One digit would turn a small share into none.
  digits = 2 if 0.00005 <= abs(share) < 0.0005 else 1
  return f"{100 * share:.{digits}f}%"


def points(difference: float) -> str:
  """A difference of shares in percentage points, such as "+0.3 points"."""
  return f"{100 * difference:+.1f} points"


def number(value: float | None) -> str:
  """Three significant digits, such as "2.30"; "-" if it is unknown."""
  if value is None or not math.isfinite(value):
    return "-"
  if value and not 1e-3 <= abs(value) < 1e4:
    return f"{value:.2g}"
  digits = max(2 - math.floor(math.log10(abs(value))), 0) if value else 0
  return f"{value:,.{digits}f}"


def count(value: float) -> str:
  """A count with separators, such as "1,281,167"; "3.6 million" if larger."""
  if value < 10_000_000:
    return f"{round(value):,}"
  return f"{value / 1e6:,.0f} million"


def duration(seconds: float) -> str:
  """Such as "45 s", "5.7 min" or "3 h 20 min"."""
  if seconds < 60:
    return f"{seconds:.0f} s"
  if seconds < 3600:
    return f"{seconds / 60:.1f} min"
  hours, minutes = divmod(round(seconds / 60), 60)
  return f"{hours:,} h {minutes} min"


def epochs(done: float) -> str:
  """Epochs done, such as "5" or "12.7"."""
  return f"{done:.1f}".removesuffix(".0")
