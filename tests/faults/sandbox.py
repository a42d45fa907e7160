"""A sandbox for faults: a dataset, a configuration and real runs.

Faults inside the process are injected by the configuration file, which is
Python, so the package needs no hooks for these tests.
"""

import functools
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import jax
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

from .fork_server import Forked, ForkServer

PATIENCE = 300  # seconds; for slow machines
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOTAL_STEPS = 24
TIMINGS = ("seconds", "images_per_second", "data_wait_fraction")

CONFIG = '''
"""A tiny run; text after the colon names a fault to inject."""

import threading
import time

from configs import quickstart


def get_config(fault=""):
  config = quickstart.get_config()
  config.dataset = "faulty"
  config.splits.test = "validation"
  config.data_dir = DATA_DIR
  config.network.width = 1 / 16
  config.network.crop_size = 64
  config.image_size = 72
  config.batch_size = 16
  config.total_steps = TOTAL_STEPS
  config.schedule.name = "plateau"
  config.schedule.patience = 1
  config.log_every_steps = 1
  config.report_at_end = False
  config.eval_every_epochs = 2  # 12 steps
  config.checkpoint_every_steps = 4
  config.stall_minutes = 1.0  # a hang shows where
  print_steps()
  if fault:
    inject(**{name: float(x) for name, x in
               (item.split("=") for item in fault.split(","))})
  return config


def print_steps():
  """Prints a line such as "step 3/" when a training step is logged."""
  from alexnet_jax.training.metrics import MetricsWriter

  def write(self, step, epoch, split, original=MetricsWriter.write, **values):
    original(self, step, epoch, split, **values)
    if split == "train":
      print(f"step {step}/", flush=True)

  MetricsWriter.write = write


def inject(slow=0.0, block=0.0, explode=0.0):
  """Injects a fault.

  Args:
    slow: additional seconds per image.
    block: number of training images after which the input hangs; 0: never.
    explode: learning rate to use; 0: the schedule's.
  """
  from itertools import count

  import numpy as np

  from alexnet_jax.data import pipeline, pixel_statistics
  from alexnet_jax.training.optimizer import Rates
  from alexnet_jax.training.schedule import Plateau

  if explode:
    rates = Rates(*[np.float32(explode)] * 4)
    Plateau.rates = lambda self, epoch: rates

  training = threading.Event()

  def train_batches(*arguments, original=pipeline.train_batches, **more):
    training.set()
    return original(*arguments, **more)

  pipeline.train_batches = train_batches
  for module, name in (
    (pixel_statistics, "decode"), (pipeline, "decode_into")
  ):
    def decode(*arguments, original=getattr(module, name), turns=count(1)):
      time.sleep(slow)
      # Each reader takes its own number, because a late one may come after
      # many others.
      if training.is_set() and next(turns) > block > 0:
        threading.Event().wait()
      return original(*arguments)
    setattr(module, name, decode)
'''


class Faulty(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A dataset of given encoded images; example i has class i % 10."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, data_dir: str, splits: dict[str, list[bytes]]):
    self._splits_of_bytes = splits
    super().__init__(data_dir=data_dir, file_format="array_record")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      split: self._generate_examples(images)
      for split, images in self._splits_of_bytes.items()
    }

  def _generate_examples(self, images):
    for number, encoded in enumerate(images):
      yield number, {"image": io.BytesIO(encoded), "label": number % 10}


def noisy_jpegs(count: int, seed: int) -> list[bytes]:
  """Encoded JPEG images of noise."""
  random = np.random.default_rng(seed)
  return [
    simplejpeg.encode_jpeg(random.integers(0, 256, (80, 90, 3), np.uint8))
    for _ in range(count)
  ]


class Sandbox:
  """A folder with its own data, configuration, caches and workdirs."""

  def __init__(self, folder: str | os.PathLike):
    self.folder = pathlib.Path(folder).resolve()
    self.folder.mkdir(parents=True, exist_ok=True)
    self.data_dir = self.write_data(
      "data", noisy_jpegs(96, 0), noisy_jpegs(32, 1)
    )
    self.config = self.folder / "tiny.py"
    self.config.write_text(
      CONFIG.replace("DATA_DIR", repr(self.data_dir)).replace(
        "TOTAL_STEPS", str(TOTAL_STEPS)
      )
    )
    self._fork_server: ForkServer | None = None
    self.compiled = str(self.folder / "compiled")
    self.temporary = self.folder / "temporary"
    self.temporary.mkdir(exist_ok=True)

  def write_data(
    self, name: str, train: list[bytes], validation: list[bytes]
  ) -> str:
    """Writes the dataset `faulty` to a new data_dir and returns that."""
    data_dir = str(self.folder / name)
    builder = Faulty(data_dir, {"train": train, "validation": validation})
    builder.download_and_prepare()
    return data_dir

  def workdir(self, name: str) -> str:
    return str(self.folder / "runs" / name)

  def environment(
    self, cache: str = "cache", compile_anew: bool = False
  ) -> dict[str, str]:
    """What the environment of a process has beside that of this one."""
    return {
      "HOME": str(self.folder / "home"),
      "TMPDIR": str(self.temporary),
      "XDG_CACHE_HOME": str(self.folder / cache),
      "JAX_COMPILATION_CACHE_DIR": "" if compile_anew else self.compiled,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles in a third of the time
      "PYTHONDONTWRITEBYTECODE": "1",
      "PYTHONFAULTHANDLER": "1",
      "PYTHONUNBUFFERED": "1",
    }

  def start(
    self,
    workdir: str,
    *arguments: str,
    fault: str = "",
    compile_anew: bool = False,
    cache: str = "cache",
    module: str = "main",
    config: pathlib.Path | None = None,
    readers: bool = False,
    closed: bool = False,
    forked: bool = False,
    settings: dict[str, str] | None = None,
  ) -> "Process":
    """Starts the real training command, or another command.

    Args:
      workdir: of the run.
      *arguments: further flags.
      fault: the fault that the configuration injects.
      compile_anew: whether not to use the compilation cache.
      cache: name of the folder for statistics.
      module: the command; any other than "main" gets `arguments` only.
      config: configuration file; None: the sandbox's own.
      readers: whether its output passes through processes that can be killed.
      closed: whether it begins without descriptors 0, 1 and 2.
      forked: whether it is the fork of a process with the imports done.
      settings: environment variables, beside or instead of the sandbox's own.
    """
    config = config or self.config
    if module == "main":
      given = f"--config={config}:{fault}" if fault else f"--config={config}"
      arguments = (given, f"--workdir={workdir}", *arguments)
    environment = self.environment(cache, compile_anew) | (settings or {})
    if forked:
      if self._fork_server is None:
        self._fork_server = ForkServer(os.environ | environment, str(ROOT))
      return Process(list(arguments), self._fork_server.start, readers)
    command = [sys.executable, "-m", f"alexnet_jax.{module}", *arguments]
    if closed:
      script = 'exec "$@" <&- >&- 2>&-'
      command = ["bash", "-c", script, "bash", *command]
    # Not a fork of this process, which has threads of JAX and its own.
    start = functools.partial(
      subprocess.Popen,
      env=os.environ | environment,
      cwd=ROOT,
      stdin=subprocess.DEVNULL,
    )
    return Process(
      command, lambda x, out, err: start(x, stdout=out, stderr=err), readers
    )

  def finish(self, workdir: str, *arguments: str) -> "Process":
    """Runs the same command again and waits for success."""
    process = self.start(workdir, *arguments)
    status = process.end()
    assert status == 0, process.output()
    return process


RUNNING: set["Process"] = set()


class Process:
  """One process of a command, and its output."""

  def __init__(
    self,
    command: list[str],
    start: Callable[[list[str], int, int], subprocess.Popen | Forked],
    readers: bool = False,
  ):
    """Starts a command; `start` receives it and where its output goes."""
    collected, output = os.pipe()
    self._readers = {
      name: subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
      for name in (("stdout", "stderr") if readers else ())
    }
    pipes = [reader.stdin.fileno() for reader in self._readers.values()]
    self._process = start(command, *(pipes or (output, output)))
    for reader in self._readers.values():
      reader.stdin.close()
    os.close(output)
    self._collected = collected
    RUNNING.add(self)
    self.pid = self._process.pid
    self.status: int | None = None
    self._lines: list[str] = []
    self._news = threading.Condition()
    self._ended = False
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self) -> None:
    with open(self._collected, errors="replace") as file:
      for line in file:
        with self._news:
          self._lines.append(line)
          self._news.notify_all()
    with self._news:
      self._ended = True
      self._news.notify_all()

  def kill_reader(self, *names: str) -> None:
    """Kills what reads "stdout" or "stderr", as Ctrl-C kills `| tee log`."""
    for name in names:
      self._readers[name].kill()
      self._readers[name].wait()

  def handles(self, number: int) -> bool:
    """Whether the process has a handler for a signal."""
    status = pathlib.Path("/proc", str(self.pid), "status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    return bool(caught >> (number - 1) & 1)

  def output(self) -> str:
    with self._news:
      return "".join(self._lines)

  def until(self, pattern: str, count: int = 1) -> bool:
    """Waits for `count` matching lines; False if the process ended before."""
    deadline = time.monotonic() + PATIENCE
    seen = 0
    with self._news:
      while True:
        for line in self._lines[seen:]:
          count -= bool(re.search(pattern, line))
          if not count:
            return True
        seen = len(self._lines)
        if self._ended:
          return False
        if not self._news.wait(deadline - time.monotonic()):
          self._time_out(f"no {pattern!r}")

  def until_silent(self, seconds: float) -> None:
    """Waits until nothing is printed for so long, or the process has ended."""
    with self._news:
      while not self._ended and self._news.wait(seconds):
        pass

  def until_new_file(self, folder: str) -> bool:
    """Waits for a new file; polls 200 times a second."""

    def names() -> set[str]:
      return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    before = names()
    while not self._ended:
      if names() - before:
        return True
      time.sleep(0.005)
    return False

  def has_ended(self) -> bool:
    return self._process.poll() is not None

  def end(self, number: int = 0, patience: float = PATIENCE) -> int:
    """Sends a signal, if any, waits for the end and returns the exit status."""
    if number and self._process.poll() is None:
      os.kill(self.pid, number)
    try:
      self.status = self._process.wait(patience)
    except subprocess.TimeoutExpired:
      self._time_out("no end")
    RUNNING.discard(self)
    self._reader.join()
    for reader in self._readers.values():
      reader.wait()
    return self.status

  def _time_out(self, why: str) -> NoReturn:
    """Aborts the process so that Python's fault handler prints its stacks."""
    self._process.send_signal(signal.SIGABRT)
    self._process.wait()
    raise TimeoutError(f"{why} within {PATIENCE} s: {''.join(self._lines)}")


def outcome(workdir: str) -> tuple[dict[str, bytes], list[dict]]:
  """The outcome of a run: the bytes of the newest checkpoint's arrays, and the
  metrics lines without timings."""
  import orbax.checkpoint as ocp

  checkpoints = pathlib.Path(workdir, "checkpoints")
  last = max(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit())
  with ocp.StandardCheckpointer() as reader:
    device = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    path = checkpoints / str(last) / "arrays"
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
      reader.metadata(path).item_metadata.tree,
    )
    arrays = reader.restore(path, abstract)
  bits = {
    jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
    for path, leaf in jax.tree.leaves_with_path(arrays)
  }
  lines = []
  for text in pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines():
    line = json.loads(text)
    lines.append({k: v for k, v in line.items() if k not in TIMINGS})
  return bits, lines


def difference(workdir: str, expected: tuple) -> str:
  """How a run differs from the expected outcome; "" if it does not."""
  bits, lines = outcome(workdir)
  found = [name for name in expected[0] if bits.get(name) != expected[0][name]]
  if bits.keys() != expected[0].keys() or found:
    return f"arrays differ: {', '.join(found)}"
  if lines != expected[1]:
    each = zip(lines, expected[1], strict=False)
    first = next((pair for pair in each if pair[0] != pair[1]), "")
    return f"{len(lines)} metrics lines for {len(expected[1])}; first {first}"
  return ""


def snapshot(*folders: str | os.PathLike) -> dict[str, tuple]:
  """Sizes and times of all files by name, to detect any change."""
  found = {}
  for folder in folders:
    for path in sorted(pathlib.Path(folder).rglob("*")):
      status = path.lstat()
      if not path.is_dir():
        found[str(path)] = (status.st_size, status.st_mtime_ns)
  return found
