"""Progress for people: one line in a terminal or a notebook, text in a log.

The line says what a command does now, how far it is and how long it will take.
In a terminal it stays at the bottom and fits the width; in a notebook it is one
line of HTML; elsewhere (a pipe, a file) a line of text is written after two
seconds and then once a minute, and none for work that is finished sooner.
"""

import html
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TextIO

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.text import Text

from alexnet_jax.runtime import watch

FIRST_LINE, NEXT_LINE = 2.0, 60.0  # seconds, in a log
NOTEBOOK_REFRESH = 1.0  # seconds
MIN_BAR, MAX_BAR = 6, 40  # characters
SPINNER = "|/-\\"


class Progress:
  """What a command does now; use it as a context manager around the work.

  `advance` may be called in any thread. While one is open another may be
  opened: it is shown instead until it is closed.

  Attributes:
    title: what is done, such as "drawing images". It may change.
  """

  _open: ClassVar[list["Progress"]] = []  # the last one is shown

  def __init__(
    self,
    title: str,
    total: int | None = None,
    num_done: int = 0,
    unit: str = "images",
    output: TextIO | None = None,
  ):
    """Shows nothing before the context is entered.

    Args:
      title: what is done; "": nothing is ever shown.
      total: units in all; None if unknown.
      num_done: units of these that were finished before.
      unit: what is counted; "": nothing is, only time passes.
      output: where to write; standard error by default.
    """
    self.title = title
    self._total, self._num_done, self._done = total, num_done, num_done
    self._unit = unit
    self._output = output
    self._started = time.monotonic()
    self._display: _Terminal | _Notebook | _Log | None = None

  def __enter__(self) -> "Progress":
    self._started = time.monotonic()
    if self.title:
      self._output = self._output or sys.stderr
      self._display = _make_display(self, self._output)
      for other in Progress._open[-1:]:
        if self._shares_place(other):
          other.hide()
      Progress._open.append(self)
      self.show()
    return self

  def __exit__(self, *exception) -> None:
    if self._display is None:
      return
    self.hide()
    is_last = Progress._open[-1] is self
    Progress._open.remove(self)
    for other in Progress._open[-1:]:
      if is_last and self._shares_place(other):
        other.show()

  def _shares_place(self, other: "Progress") -> bool:
    """Whether only one of the two can be shown."""
    both = (self._display, other._display)
    return self._output is other._output or all(
      isinstance(display, _Terminal) for display in both
    )

  def show(self) -> None:
    """Shows the line again after `hide`."""
    self._display.show()

  def hide(self) -> None:
    """Removes the line; a notebook keeps the last state of counted work."""
    self._display.hide()

  def advance(self, count: int = 1) -> None:
    """Adds `count` finished units; a run does not count as stalled then."""
    watch.progress()
    self._done += count

  def print_line(self, text: str) -> None:
    """Prints a line that stays, above the one that changes."""
    if self._display is None:
      print(text, file=self._output, flush=True)
    else:
      self._display.print_line(text)

  def write_now(self) -> None:
    """Writes the line at once, if it is text in a log."""
    if isinstance(self._display, _Log):
      self._display.write()

  def share(self) -> float | None:
    """The share that is done, 0 to 1; None if it is unknown."""
    return min(self._done / self._total, 1.0) if self._total else None

  def details(self) -> list[str]:
    """What the line says after the title, the most important part first."""
    seconds = time.monotonic() - self._started
    if not self._unit:
      return [f"{duration(seconds)} so far"]
    done, new = self._done, self._done - self._num_done
    count = f"{done:,} {self._unit}"
    if self._total is not None:
      count = f"{done:,} of {self._total:,} {self._unit}"
    if not new:
      return [count]
    rate = new / max(seconds, 1e-3)
    parts = [count, f"{rate:,.0f} {self._unit}/s"]
    if self._total is not None:
      parts.insert(1, f"{duration((self._total - done) / rate)} left")
    return parts

  def text(self) -> str:
    """The line as plain text, whole."""
    share = self.share()
    percent = "" if share is None else f" {share:.0%}"
    return f"{self.title}{percent}: {', '.join(self.details())}"

  def fitted(self, width: int) -> tuple[str, int, list[str]]:
    """Title, number of characters of the bar, and the details that fit.

    A title that is too long is cut.
    """
    title = self.title[: max(width, 1)]
    share, room = self.share(), width - len(title)
    bar = 0
    if share is not None and room >= MIN_BAR + 6:
      bar, room = MIN_BAR, room - MIN_BAR - 6  # with its percentage
    parts = []
    for part in self.details():
      if len(part) + 2 > room:
        break
      parts.append(part)
      room -= len(part) + 2
    if bar:
      bar = min(MAX_BAR, bar + room)
    return title, bar, parts


def waiting(title: str) -> Progress:
  """Shows that something is done whose end cannot be foreseen, and the time."""
  return Progress(title, unit="")


def duration(seconds: float) -> str:
  """Such as 0:05, 12:30 and 2:05:00; "?" if it is not finite."""
  if not math.isfinite(seconds):
    return "?"
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{seconds:02d}"
  return f"{minutes}:{seconds:02d}"


class _Console(Console):
  def show_cursor(self, show: bool = True) -> bool:
    # A command may end by os._exit, which would leave the cursor hidden.
    del show
    return False


class _Terminal:
  """One line at the bottom, drawn anew four times a second."""

  def __init__(self, progress: Progress, console: Console):
    self._progress, self._console = progress, console
    self._live: Live | None = None

  def show(self) -> None:
    self._live = Live(
      self,
      console=self._console,
      transient=True,
      # Else text for a pipe or a file would appear above the line instead.
      redirect_stdout=sys.stdout.isatty(),
      redirect_stderr=sys.stderr.isatty(),
    )
    self._live.start()

  def hide(self) -> None:
    if self._live:
      self._live.stop()
    self._live = None

  def print_line(self, text: str) -> None:
    self._console.print(text, markup=False, highlight=False, soft_wrap=True)

  def __rich_console__(
    self, console: Console, options: ConsoleOptions
  ) -> Iterator[Text]:
    # The last column stays empty: some terminals wrap after it.
    title, bar, parts = self._progress.fitted(options.max_width - 1)
    line = Text(title, style="bold", no_wrap=True, overflow="crop")
    share = self._progress.share()
    if bar:
      full, empty = ("━", "─") if console.encoding == "utf-8" else ("#", "-")
      filled = round(share * bar)
      line.append(f" {full * filled}", style="not bold green")
      line.append(empty * (bar - filled), style="not bold dim")
      line.append(f" {share:4.0%}", style="not bold")
    elif share is None:
      spin = SPINNER[int(4 * time.monotonic()) % len(SPINNER)]
      line.append(f" {spin}", style="not bold")
      parts = parts if len(title) + 4 < options.max_width else []
    line.append("".join(f"  {part}" for part in parts), style="not bold")
    yield line


class _Ticking:
  """A display that a thread writes at intervals."""

  def __init__(self, progress: Progress):
    self._progress = progress
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def show(self) -> None:
    self._stop.clear()
    self._thread = threading.Thread(target=self._tick, daemon=True)
    self._thread.start()

  def hide(self) -> None:
    self._stop.set()
    if self._thread:
      self._thread.join()
    self._thread = None

  def intervals(self) -> Iterator[float]:
    """Seconds to wait before each writing."""
    raise NotImplementedError

  def write(self) -> None:
    raise NotImplementedError

  def _tick(self) -> None:
    for seconds in self.intervals():
      if self._stop.wait(seconds):
        return
      self.write()


class _Notebook(_Ticking):
  """One line of HTML, replaced every second."""

  def __init__(self, progress: Progress):
    super().__init__(progress)
    self._handle: Any = None

  def intervals(self) -> Iterator[float]:
    while True:
      yield NOTEBOOK_REFRESH

  def show(self) -> None:
    self.write()
    super().show()

  def hide(self) -> None:
    if not self._thread:
      return
    super().hide()
    if self._progress.share() is None:  # the time alone says nothing later
      self._handle.update({"text/plain": "", "text/html": ""}, raw=True)
    else:
      self.write()

  def write(self) -> None:
    from IPython import display  # there is one in every notebook

    bundle = {
      "text/plain": self._progress.text(),
      "text/html": _line_of_html(
        self._progress.title, self._progress.share(), self._progress.details()
      ),
    }
    if self._handle is None:
      self._handle = display.display(bundle, raw=True, display_id=True)
    else:
      self._handle.update(bundle, raw=True)

  def print_line(self, text: str) -> None:
    print(text, flush=True)


def _line_of_html(
  title: str, share: float | None, details: Sequence[str]
) -> str:
  parts = [f"<b>{html.escape(title)}</b>"]
  if share is not None:
    parts.append(f'<progress value="{share:.4f}" max="1"></progress>')
    parts.append(f"{share:.0%}")
  parts += map(html.escape, details)
  return f"<div>{' &nbsp;'.join(parts)}</div>"


class _Log(_Ticking):
  """A line of text after two seconds and then once a minute."""

  def __init__(self, progress: Progress, output: TextIO):
    super().__init__(progress)
    self._file = output

  def intervals(self) -> Iterator[float]:
    yield FIRST_LINE
    while True:
      yield NEXT_LINE

  def write(self) -> None:
    self.print_line(self._progress.text())

  def print_line(self, text: str) -> None:
    # One write, because other threads may print at the same time.
    self._file.write(f"{text}\n")
    self._file.flush()


def _make_display(
  progress: Progress, output: TextIO
) -> "_Terminal | _Notebook | _Log":
  if type(output).__module__.startswith("ipykernel."):
    return _Notebook(progress)
  console = _Console(file=output)
  if console.is_terminal and not console.is_dumb_terminal:
    return _Terminal(progress, console)
  return _Log(progress, output)
