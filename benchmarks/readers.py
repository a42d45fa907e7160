"""Times the input pipeline with 1, 2 and more readers, beside bare decoding.

  python -m benchmarks.readers --dataset=NAME --data_dir=DIR [--json=FILE]

Readers are threads of one process, or processes with one thread each. In turns
they decode the same prepared images bare (simplejpeg, from memory) and load
batches of them (`data.pipeline`: read, decode, crop). Seconds of processor time
an image remain comparable if other programs use the machine, or if there are
more readers than cores. Python runs one thread of a process at a time, so the
pipeline without decoding says what one process can load at most.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import simplejpeg
from absl import flags

from alexnet_jax.data import parallel, pipeline, raw_pixels, sources
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime import command, files, paths, processes, provenance
from benchmarks import tables

SIZE, CROP = 256, 224  # sides of the stored images and of the crops
CORES = 16  # for which the rate is calculated

DECODING, PIPELINE = "bare decoding", "pipeline"
LOCKED, RAW = "pipeline without decoding", "pipeline from raw pixels"
# (processes, threads of each)
READERS = [(1, 1), (1, 2), (2, 1), (4, 1)]


def make(source: Source, work: str, threads: int) -> Callable[[int], None]:
  """A function that does `work` for so many images."""
  if work == DECODING:
    return _decode_bare(source, threads)
  if work != RAW:
    source = dataclasses.replace(source, pixels=None)
  if work == LOCKED:
    pipeline.decode_into = lambda *arguments: None
  stream = pipeline.train_batches(
    source,
    batch_size=_BATCH_SIZE.value,
    seed=0,
    start_step=0,
    size=SIZE,
    crops=pipeline.Crops.centred(SIZE, CROP),
    threads=threads,
  )

  def load(count: int) -> None:
    batches = itertools.islice(stream, count // _BATCH_SIZE.value)
    collections.deque(batches, maxlen=0)

  return load


def _decode_bare(source: Source, threads: int) -> Callable[[int], None]:
  records = [source[i][0] for i in range(min(len(source), 1024))]
  pool = concurrent.futures.ThreadPoolExecutor(threads)

  def decode(start: int) -> None:
    for i in range(start, start + parallel.CHUNK):
      simplejpeg.decode_jpeg(records[i % len(records)])

  def run(count: int) -> None:
    starts = range(0, count, parallel.CHUNK)
    collections.deque(pool.map(decode, starts), maxlen=0)

  return run


def _serve(pipe: Connection, work: str, threads: int) -> None:
  """Works once for every message, in a process of its own.

  The answer has the seconds and the seconds of processor time.
  """
  source = sources.open_split(_DATASET.value, "train", _DATA_DIR.value)
  run = make(source, work, threads)
  run(_BATCH_SIZE.value)  # warms up
  while True:
    pipe.recv()
    start, processor = time.perf_counter(), time.process_time()
    run(_IMAGES.value)
    pipe.send((time.perf_counter() - start, time.process_time() - processor))


class Readers:
  """Processes that do the same work at the same time."""

  def __init__(self, work: str, count: int, threads: int):
    self.work, self.count, self.threads = work, count, threads
    # Forked, so that they need not import everything again; nothing has
    # started threads here.
    context = multiprocessing.get_context("fork")
    self._pipes = []
    for _ in range(count):
      ours, theirs = context.Pipe()
      context.Process(
        target=_serve, args=(theirs, work, threads), daemon=True
      ).start()
      self._pipes.append(ours)
    self._times: list[tuple[float, float]] = []

  def measure(self) -> None:
    for pipe in self._pipes:
      pipe.send("go")
    seconds, processor = zip(
      *[pipe.recv() for pipe in self._pipes], strict=True
    )
    self._times.append((max(seconds), sum(processor)))

  def row(self) -> dict[str, Any]:
    """Medians over the rounds."""
    images = self.count * _IMAGES.value
    seconds, processor = map(statistics.median, zip(*self._times, strict=True))
    return {
      "name": self.work,
      "processes": self.count,
      "threads": self.threads,
      "images_per_second": images / seconds,
      "processor_ms": 1e3 * processor / images,  # an image
    }


def rows(has_raw_pixels: bool) -> list[dict[str, Any]]:
  """All rows; the contenders take turns."""
  readers = [
    Readers(work, count, threads)
    for count, threads in READERS
    for work in (DECODING, PIPELINE)
  ]
  readers += [Readers(work, 1, 2) for work in (LOCKED, *[RAW] * has_raw_pixels)]
  for _ in range(_ROUNDS.value):
    for reader in readers:
      reader.measure()
  return [reader.row() for reader in readers]


def calculate(found: list[dict[str, Any]]) -> dict[str, Any]:
  """What follows from the rows, in images/s and as shares.

  A core loads as many images as its processor time allows. All cores of one
  process together load no more than if Python's lock were held through all that
  is not decoding. (It is not held while bytes are read or copied.)
  """
  ms = {
    (row["name"], row["processes"], row["threads"]): row["processor_ms"]
    for row in found
  }
  core, most = 1e3 / ms[PIPELINE, 1, 2], 1e3 / ms[LOCKED, 1, 2]
  return {
    "share of bare decoding": {
      f"{count} x {threads}": ms[DECODING, count, threads]
      / ms[PIPELINE, count, threads]
      for count, threads in READERS
    },
    "images/s of a core": core,
    "images/s of a process": most,
    "cores": CORES,
    "images/s": min(CORES * core, most),
  }


def main() -> None:
  processes.keep_freed_memory()
  folder = sources.find_dataset(_DATASET.value, _DATA_DIR.value)
  found = rows(os.path.isdir(os.path.join(folder, raw_pixels.FOLDER)))
  result = {"rows": found, "calculated": calculate(found)}
  print(tables.readers_table(result))
  if _JSON.value:
    own = ("--data_dir", "--json")  # paths of this machine
    argv = [a for a in sys.argv[1:] if not a.startswith(own)]
    record = provenance.record(
      "readers of prepared images beside bare decoding",
      " ".join(["python -m benchmarks.readers", *argv]),
      result,
    )
    files.write_atomic(_JSON.value, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  _DATASET = flags.DEFINE_string("dataset", "", "prepared dataset")
  _DATA_DIR = paths.DEFINE_path("data_dir", "", "folder that holds it")
  _JSON = paths.DEFINE_output("json", "", "JSON file for the result")
  _BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "images in a batch", 1)
  _IMAGES = flags.DEFINE_integer("images", 1536, "images of a reader's turn", 1)
  _ROUNDS = flags.DEFINE_integer("rounds", 3, "turns of each contender", 1)
  command.run(main)
