"""Progress: a line that fits in a terminal, few lines in a log, HTML."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
import types

import pytest
from sample_data import ROOT

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.progress import Progress, duration, waiting


class Terminal(io.StringIO):
  """Text that claims to be shown in a terminal."""

  encoding = "utf-8"

  def isatty(self):
    return True


@pytest.fixture
def terminal(monkeypatch):
  """A function of the columns; returns such a terminal."""
  monkeypatch.setenv("TERM", "xterm")

  def make(columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    return Terminal()

  return make


def frames(shown):
  """What was shown, state by state, without colours and control codes."""
  states = re.split(r"\r|\n", shown.getvalue())
  states = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", state) for state in states]
  return [state for state in states if state.strip()]


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_line_fits_the_terminal_and_keeps_what_matters_most(
  terminal, columns
):
  shown = terminal(columns)
  with Progress("drawing", 4000, output=shown) as work:
    work.advance(1000)
    time.sleep(0.02)
  assert all(len(state) < columns for state in frames(shown))
  last = frames(shown)[-1]
  assert last.startswith("drawing")
  # In the order of their importance: the more room, the more is said.
  parts = (" 25%", "1,000 of 4,000 images", " left", "images/s")
  kept = [part in last for part in parts]
  assert kept == sorted(kept, reverse=True)
  assert sum(kept) == {20: 1, 40: 1, 80: 4, 200: 4}[columns]
  if columns >= 80:  # a quarter of the bar is full
    full, empty = last.count("━"), last.count("─")
    assert full == round((full + empty) / 4) > 0


def test_a_terminal_keeps_nothing_of_the_line_but_what_is_printed(terminal):
  shown = terminal(80)
  with waiting("compiling") as work:
    pass
  with Progress("drawing", 9, output=shown) as work:
    work.print_line("[a line] that stays")
  # Carriage return and "erase the line" are the last things written.
  assert shown.getvalue().rstrip().endswith("\x1b[2K")
  assert "[a line] that stays\n" in shown.getvalue()
  assert "\x1b[?25l" not in shown.getvalue()  # the cursor stays visible


def test_an_inner_one_takes_the_place_of_an_outer_one(terminal):
  shown = terminal(80)
  with Progress("outer", 2, output=shown) as outer:
    with Progress("inner", 2, output=shown):
      pass
    outer.advance()
  titles = [state.split()[0] for state in frames(shown)]
  changes = [
    a for a, b in zip(titles, [*titles[1:], ""], strict=True) if a != b
  ]
  assert changes == ["outer", "inner", "outer"]


@pytest.fixture
def quick_log(monkeypatch):
  monkeypatch.setattr(progress, "FIRST_LINE", 0.05)
  monkeypatch.setattr(progress, "NEXT_LINE", 0.05)


def test_a_log_has_lines_of_text(quick_log):
  log = io.StringIO()
  with Progress("Reading", 10, num_done=5, unit="files", output=log) as work:
    work.advance(3)
    _wait(lambda: log.getvalue().count("\n") >= 2)
    work.print_line("between")
  *states, between = log.getvalue().splitlines()
  assert between == "between"
  line = r"Reading 80%: 8 of 10 files, \d+:\d\d left, [\d,]+ files/s"
  assert all(re.fullmatch(line, state) for state in states)


def test_a_log_says_how_long_it_has_waited(quick_log, capsys):
  with waiting("compiling"):
    _wait(lambda: True)
    time.sleep(0.3)
  assert re.match(r"compiling: 0:00 so far\n", capsys.readouterr().err)


def test_short_work_leaves_no_line_in_a_log():
  log = io.StringIO()
  with Progress("Reading", 10, output=log) as work:
    work.advance(10)
  assert log.getvalue() == ""


def test_without_a_title_nothing_is_shown(terminal):
  shown = terminal(80)
  with Progress("", 10, output=shown) as work:
    work.advance()
  assert shown.getvalue() == ""


def test_a_notebook_has_one_line_of_html_that_is_replaced(monkeypatch):
  """With a stand-in for IPython, whose displays can be updated."""
  shown = []

  class Handle:
    def update(self, bundle, raw):
      assert raw
      shown[-1].append(bundle)

  def display(bundle, raw, display_id):
    assert raw and display_id
    shown.append([bundle])
    return Handle()

  stand_in = types.ModuleType("IPython")
  stand_in.display = types.SimpleNamespace(display=display)
  monkeypatch.setitem(sys.modules, "IPython", stand_in)
  monkeypatch.setattr(progress, "NOTEBOOK_REFRESH", 0.02)
  OutStream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.x"})
  with Progress("<drawing>", 4, output=OutStream()) as work:
    work.advance(3)
    _wait(lambda: len(shown[0]) > 2)
  ((first, *_, last),) = shown
  assert "&lt;drawing&gt;" in first["text/html"] and "0%" in first["text/html"]
  assert 'value="0.7500"' in last["text/html"]
  assert last["text/plain"].startswith("<drawing> 75%: 3 of 4 images")
  shown.clear()
  with Progress("opening", unit="", output=OutStream()):
    pass
  ((first, *_, last),) = shown
  assert "opening" in first["text/html"] and last["text/html"] == ""


def test_time_left_is_that_of_the_rate_so_far(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  work = Progress("Reading", 1000, num_done=400)
  now[0] += 50
  work.advance(100)  # two a second, so 500 more need 250 seconds
  assert work.details() == ["500 of 1,000 images", "4:10 left", "2 images/s"]


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (7500, "2:05:00")],
)
def test_durations(seconds, text):
  assert duration(seconds) == text
  assert duration(float("inf")) == "?"


def test_no_thread_is_left():
  before = threading.active_count()
  with Progress("Reading", 10, output=io.StringIO()):
    assert threading.active_count() == before + 1
  assert threading.active_count() == before


PRINTING = """
from alexnet_jax.data import parallel
for number in parallel.map_images(int, range(5), "title", size=lambda _: 1):
  print("number", number)
"""


def test_text_for_a_pipe_does_not_appear_above_the_line():
  """Standard error is a terminal, standard output is not."""
  master, inside = pty.openpty()
  result = subprocess.run(
    [sys.executable, "-c", PRINTING],
    cwd=ROOT,
    env=os.environ | {"TERM": "xterm"},
    stdout=subprocess.PIPE,
    stderr=inside,
    text=True,
    timeout=120,
  )
  os.close(inside)
  shown = os.read(master, 100_000).decode()
  os.close(master)
  assert result.stdout == "".join(f"number {i}\n" for i in range(5))
  assert "title" in shown and "number" not in shown


def _wait(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)
