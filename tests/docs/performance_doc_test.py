"""docs/performance.md: measured numbers are only in the generated tables."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/performance.md").read_text()


def test_the_prose_has_no_numbers_that_become_outdated():
  """Hand-written tables, of what was tried without a script, are exempt."""
  prose = re.sub("<!-- table: .*?<!-- end -->", "", PAGE, flags=re.DOTALL)
  prose = "\n".join(
    line for line in prose.splitlines() if not line.startswith("|")
  )
  units = r"(?:%|(?:ms|s|seconds|images/s|GFLOP/s|MB|GB|times)\b)"
  figures = re.compile(rf"\d[\d.,]*\s?{units}")
  assert figures.findall(prose) == []
  assert figures.findall("70%, 1.2 s a step") == ["70%", "1.2 s"]


def test_its_figure_exists():
  (link,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGE)
  assert (ROOT / "docs" / link).stat().st_size > 10_000
