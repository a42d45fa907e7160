"""Program: the training command as a user runs it, from files."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from alexnet_jax.analysis import checks, input_timing
from alexnet_jax.data import sources
from benchmarks.gpu import noise
from benchmarks.gpu.record import Record
from benchmarks.gpu.repetition import FLAGS
from benchmarks.gpu.sizes import Sizes


class Dataset(NamedTuple):
  """A prepared dataset; drawn by `noise` if it is not the user's own."""

  name: str
  data_dir: str

  def wait(self, seconds: float = 60) -> None:
    """Waits until another process has drawn it."""
    end = time.monotonic() + seconds
    folder = pathlib.Path(self.data_dir, self.name)
    while time.monotonic() < end:
      if list(folder.glob("*/dataset_info.json")):
        return
      time.sleep(0.5)
    raise TimeoutError(f"{folder} was not drawn within {seconds:.0f} s")


def program(record: Record, sizes: Sizes, dataset: Dataset) -> None:
  """A training in float32 at the smallest batch size, with an evaluation."""
  _train(record, sizes, dataset, sizes.batches[0], "float32")


def end_to_end(record: Record, sizes: Sizes, dataset: Dataset) -> None:
  """A training in bfloat16 at the middle batch size; the input by itself."""
  _train(record, sizes, dataset, sizes.middle, "bfloat16")
  source = sources.open_split(dataset.name, "train", dataset.data_dir)
  sample = [len(source[i][0]) for i in range(0, len(source), 16)]
  record["mean bytes of a JPEG"] = sum(sample) / len(sample)
  for batch in dict.fromkeys(sizes.batches[:2]):
    with record.trying(f"input {batch}"):
      found = input_timing.benchmark_input(
        source, batch, sizes.image, num_images=len(source), rounds=2
      )
      record[f"input {batch}, images/s"] = {
        row["name"]: row["images_per_second"] for row in found.rows
      }


def _train(record, sizes, dataset, batch, dtype) -> None:
  dataset.wait()
  with tempfile.TemporaryDirectory() as workdir:
    start = time.perf_counter()
    done = subprocess.run(
      [
        *(sys.executable, "-m", "alexnet_jax.main"),
        *("--config=configs/paper.py", f"--workdir={workdir}"),
        *sizes.flags(),
        f"--config.dataset={dataset.name}",
        f"--config.data_dir={dataset.data_dir}",
        f"--config.network.compute_dtype={dtype}",
        f"--config.batch_size={batch}",
        f"--config.total_steps={sizes.steps}",
        f"--config.log_every_steps={sizes.steps // 3}",
        "--config.diagnose_every_lines=0",
        "--config.report_at_end=False",
      ],
      capture_output=True,
      text=True,
    )
    record["seconds"] = time.perf_counter() - start
    record["exit status"] = done.returncode
    record["output"] = (done.stdout + done.stderr)[-1500:]
    record["lines"] = _lines(workdir)


def _lines(workdir: str) -> list[dict[str, Any]]:
  path = pathlib.Path(workdir, "metrics.jsonl")
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def resume(record: Record, sizes: Sizes) -> None:
  """Kills and resumes a run of the quickstart's network, bit for bit."""
  del sizes  # the quickstart is small
  flags = os.environ.get("XLA_FLAGS", "")
  for name in ("deterministic", "default"):
    os.environ["XLA_FLAGS"] = f"{flags} {FLAGS[name]}".strip()
    with record.trying(name):
      record[name] = checks.check_resume()


def draw(sizes: Sizes, data_dir: str) -> None:
  """Draws the dataset of a session."""
  noise.draw(data_dir, sizes.images, sizes.image, sizes.classes)
