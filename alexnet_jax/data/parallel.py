"""Work on many images at once: one thread per core, bounded memory.

Decoding, rescaling and encoding release Python's global lock, so threads are
enough.
"""

import collections
import concurrent.futures
import itertools
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from alexnet_jax.runtime.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")

CHUNK = 16  # consecutive images per task, so that a disk seeks once for them
AHEAD = 64  # finished results that may wait for the consumer

NICENESS = 10  # of decoding threads on Linux; the training step has 0


def num_cores() -> int:
  """Cores this process may use: of the machine, its affinity and CPU quota.

  A container usually sees every core of its machine and may use the time of
  only some of them.
  """
  if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  return max(1, math.ceil(min(cores, _cpu_quota())))


def _cpu_quota(root: str = "/") -> float:
  """The CPU quota of this process's control groups, in cores (Linux).

  Version 2 of control groups has `cpu.max`, version 1 `cpu.cfs_quota_us` and
  `cpu.cfs_period_us`. The quota of a group also limits the groups below it. A
  container often sees its own group as the highest.
  """
  quota = math.inf
  proc = pathlib.Path(root, "proc/self/cgroup")
  try:
    lines = proc.read_text().splitlines()
  except OSError:  # not Linux
    return quota
  for line in lines:
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
      continue
    for mount in ("", "unified", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
      top = pathlib.Path(root, "sys/fs/cgroup", mount)
      group = top / path.strip("/")
      for folder in (group, *group.parents):
        quota = min(quota, _quota_of(folder))
        if folder == top:
          break
  return quota


def _quota_of(group: pathlib.Path) -> float:
  """The CPU quota of one control group, in cores; infinite without one."""
  try:
    if (group / "cpu.max").exists():
      quota, period = (group / "cpu.max").read_text().split()
    else:
      quota = (group / "cpu.cfs_quota_us").read_text()
      period = (group / "cpu.cfs_period_us").read_text()
    cores = float(quota) / float(period)
  except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
    return math.inf
  return cores if cores > 0 else math.inf


def chunks(indices: np.ndarray) -> list[np.ndarray]:
  """Cuts i64[N] indices into chunks of CHUNK, the last one shorter."""
  return np.array_split(indices, range(CHUNK, len(indices), CHUNK))


def map_images(
  function: Callable[[Task], Result],
  tasks: Iterable[Task],
  title: str,
  *,
  size: Callable[[Task], int] = len,
  total: int | None = None,
  num_done: int = 0,
  unit: str = "images",
  ahead: int = AHEAD,
  threads: int = 0,
) -> Iterator[Result]:
  """Yields `function(task)` for each task, in order, computed on all cores.

  At most `ahead` results wait for the consumer while each thread computes one
  more, so memory does not grow with the number of tasks. Progress is shown on
  standard error, unless `title` is "". An interrupt or an error does not wait
  for tasks that have begun.

  Args:
    size: how many images a task has.
    total: images of all tasks; None: computed, which needs a sequence.
    num_done: images that were finished earlier, which no task has.
    unit: what is counted, if it is not images.
    ahead: results that may wait.
    threads: number of threads; 0: `num_cores`.
  """
  if total is None:
    total = sum(map(size, tasks))
  waiting = collections.deque()
  threads = threads or num_cores()
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  finished = False
  try:
    with Progress(title, num_done + total, num_done, unit) as progress:
      remaining = iter(tasks)
      while True:
        room = ahead + threads - len(waiting)
        for task in itertools.islice(remaining, room):
          waiting.append((task, pool.submit(function, task)))
        if not waiting:
          finished = True
          return
        task, future = waiting.popleft()
        result = future.result()
        progress.advance(size(task))
        yield result
        del result, future  # while waiting for the next one
  finally:  # what has not begun need not be done
    pool.shutdown(wait=finished, cancel_futures=True)


def lower_thread_priority() -> None:
  """Lets the training step run before this decoding thread, on Linux only.

  A step waits for the slowest of its threads; batches are decoded ahead.
  """
  if sys.platform == "linux":  # where 0 is the calling thread
    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
