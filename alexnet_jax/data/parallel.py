"""Work on many images at once: one thread per core, bounded memory.

Decoding, rescaling and encoding release Python's global lock, so threads are
enough.
"""

import collections
import concurrent.futures
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import rich.console
import rich.progress

Task = TypeVar("Task")
Result = TypeVar("Result")

CHUNK = 16  # consecutive images per task, so that a disk seeks once for them
AHEAD = 64  # finished tasks that may wait for the consumer

NICENESS = 10  # of decoding threads on Linux; the training step has 0


def num_cores() -> int:
  """Cores this process may use, which may be fewer than the machine has."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def chunks(indices: np.ndarray) -> list[np.ndarray]:
  """Cuts i64[N] indices into chunks of CHUNK, the last one shorter."""
  return np.array_split(indices, range(CHUNK, len(indices), CHUNK))


def map_images(
  function: Callable[[Task], Result],
  tasks: Sequence[Task],
  title: str,
  *,
  size: Callable[[Task], int] = len,
  num_done: int = 0,
) -> Iterator[Result]:
  """Yields `function(task)` for each task, in order, computed on all cores.

  A progress bar on standard error counts images: `size(task)` for each task,
  and `num_done` that were finished earlier. At most AHEAD results wait for the
  consumer, so memory does not grow with the number of tasks.
  """
  console = rich.console.Console(stderr=True)
  progress = rich.progress.Progress(
    "{task.description}",
    rich.progress.BarColumn(bar_width=None),
    rich.progress.MofNCompleteColumn(),
    _RateColumn(),
    rich.progress.TimeRemainingColumn(),
    console=console,
    disable=not console.is_terminal,
    transient=True,
  )
  total = num_done + sum(map(size, tasks))
  waiting = collections.deque()
  with progress, concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
    bar = progress.add_task(title, total=total, completed=num_done)
    remaining = iter(tasks)
    try:
      while True:
        for task in itertools.islice(remaining, AHEAD + 1 - len(waiting)):
          waiting.append((task, pool.submit(function, task)))
        if not waiting:
          return
        task, future = waiting.popleft()
        result = future.result()
        progress.advance(bar, size(task))
        yield result
    finally:  # after an error, what has not begun need not be done
      pool.shutdown(cancel_futures=True)


class _RateColumn(rich.progress.ProgressColumn):
  """Images per second, over the last updates."""

  def render(self, task: rich.progress.Task) -> str:
    return f"{task.speed:,.0f} images/s" if task.speed else ""


def lower_thread_priority() -> None:
  """Lets the training step run before this decoding thread, on Linux only.

  A step waits for the slowest of its threads; batches are decoded ahead.
  """
  if sys.platform == "linux":  # where 0 is the calling thread
    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
