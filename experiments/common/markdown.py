"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(
  headings: Sequence[str], rows: Iterable[Sequence[str]], align: str = ""
) -> str:
  """A table without a newline at its end.

  Args:
    headings: one text for each column.
    rows: the cells of each row.
    align: "l" or "r" for each column; by default all are "l".
  """
  rules = {"l": "---", "r": "--:"}
  rule = "|".join(rules[letter] for letter in align or "l" * len(headings))
  lines = [_line(headings), f"|{rule}|", *map(_line, rows)]
  return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"
