"""Times this project and PyTorch on the same network, in alternating rounds.

  python -m benchmarks.compare --output=experiments/results/compare.json

Every contender has its own process, which waits while the others compute; a
round times each of them once. PyTorch receives float images without
augmentation; this project's training step also converts and augments the bytes.
Each keeps its default precision for float32 products (on a GPU possibly TF32),
which the record states. Needs benchmarks/requirements.txt.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from absl import flags

from alexnet_jax.runtime import command, files, paths, provenance
from experiments.common import markdown

CONTENDERS = (
  "pytorch_eager",
  "pytorch_compile",
  "pytorch_eager_kept_memory",
  "pytorch_compile_kept_memory",
  "jax_two_devices",
  "jax_one_device",
)


def make(name, work, batch_size, dtype, device):
  """A function without arguments that does one step or one inference.

  Args:
    name: one of CONTENDERS.
    work: "train" or "inference".
    batch_size: images.
    dtype: "float32" or "bfloat16".
    device: "cpu" or "cuda".
  """
  if name.startswith("pytorch"):
    from benchmarks import pytorch

    if name.endswith("kept_memory"):
      from alexnet_jax.runtime import processes

      processes.keep_freed_memory()
    return pytorch.make(work, batch_size, "compile" in name, dtype, device)
  import jax

  from alexnet_jax.analysis import timing
  from alexnet_jax.model import sharding
  from alexnet_jax.model.network import Network
  from alexnet_jax.runtime import processes
  from alexnet_jax.training.job import Recipe

  jax.config.update("jax_platforms", device)
  processes.configure()
  mesh = sharding.make_mesh(1, 2 if name == "jax_two_devices" else 1)
  train, inference, _ = timing.make_programs(
    Recipe(Network(compute_dtype=dtype), batch_size), mesh
  )
  return {"train": train, "inference": inference}[work]


def precision(name):
  """The settings that decide the precision of float32 products on a GPU."""
  if name.startswith("pytorch"):
    import torch

    return {
      "torch.backends.cuda.matmul.allow_tf32": (
        torch.backends.cuda.matmul.allow_tf32
      ),
      "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
    }
  import jax

  # None is XLA's default, which is TF32 on GPUs that have it.
  chosen = jax.config.jax_default_matmul_precision
  return {"jax_default_matmul_precision": chosen}


def peak_memory(name, device):
  """The largest memory of this process so far, in bytes; on a GPU, its own."""
  if device == "cpu":
    with open("/proc/self/status") as lines:  # Linux
      (peak,) = [line for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(peak.split()[1])
  if name.startswith("pytorch"):
    import torch

    return torch.cuda.max_memory_allocated()
  import jax

  return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def worker(name):
  """Serves one contender: runs once for every line of standard input.

  The first line of output, after a warm-up, is its `precision`; every other one
  has the wall seconds, CPU seconds and peak memory in bytes of one run.
  """
  work, dtype = _WORK.value[0], _DTYPES.value[0]
  batch_size = int(_BATCH_SIZES.value[0])
  output = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # so that output of libraries is not taken for an answer
  function = make(name, work, batch_size, dtype, _DEVICE.value)
  for _ in range(3):
    function()
  print(json.dumps(precision(name)), file=output, flush=True)
  for _ in sys.stdin:
    start, cpu = time.perf_counter(), time.process_time()
    function()
    times = time.perf_counter() - start, time.process_time() - cpu
    answer = *times, peak_memory(name, _DEVICE.value)
    print(json.dumps(answer), file=output, flush=True)


def compare(work, batch_size, dtype):
  """Runs all contenders: one row for each, and {contender: its `precision`}."""
  workers, precisions = {}, {}
  # The processes share a GPU, so JAX must not reserve most of its memory.
  environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  try:
    for name in _CONTENDERS.value:
      workers[name] = subprocess.Popen(
        [
          *(sys.executable, "-m", "benchmarks.compare"),
          *(f"--worker={name}", f"--work={work}", f"--dtypes={dtype}"),
          *(f"--batch_sizes={batch_size}", f"--device={_DEVICE.value}"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
      )
      ready = workers[name].stdout.readline()
      if not ready:
        raise command.UserError(
          f"{name} did not start; its output above has the reason"
        )
      precisions[name] = json.loads(ready)
    answers = {name: [] for name in workers}
    for _ in range(_ROUNDS.value):
      for name, process in workers.items():
        process.stdin.write("go\n")
        process.stdin.flush()
        answers[name].append(json.loads(process.stdout.readline()))
  finally:
    for process in workers.values():
      process.kill()
      process.wait()
  rows = [
    {"name": name, "work": work, "batch_size": batch_size, "dtype": dtype}
    | summary(answers[name], batch_size)
    for name in workers
  ]
  return rows, precisions


def summary(answers, batch_size):
  """Statistics of the answers of all rounds; times in ms, memory in MiB."""
  wall, cpu, peak = zip(*answers, strict=True)
  return {
    "images_per_second": batch_size / statistics.median(wall),
    "ms": {
      "min": 1e3 * min(wall),
      "median": 1e3 * statistics.median(wall),
      "max": 1e3 * max(wall),
    },
    "cpu_ms": {
      "min": 1e3 * min(cpu),
      "median": 1e3 * statistics.median(cpu),
      "max": 1e3 * max(cpu),
    },
    "peak_memory_mb": peak[-1] / 2**20,
  }


def ratios(rows):
  """Each contender's time over this project's, of the same work.

  This project's is `jax_two_devices`, or `jax_one_device` if that is absent.
  """
  found = []
  for row in rows:
    ours = beside(row, rows)
    if row["name"] != ours["name"]:
      found.append(
        {key: row[key] for key in ("work", "batch_size", "dtype")}
        | {
          "over": row["name"],
          "ratio": row["ms"]["median"] / ours["ms"]["median"],
          "cpu_ratio": row["cpu_ms"]["median"] / ours["cpu_ms"]["median"],
        }
      )
  return found


def beside(row, rows):
  """This project's row of the same work, batch size and dtype, or `row`."""
  keys = ("work", "batch_size", "dtype")
  ours = [
    other
    for other in rows
    if other["name"].startswith("jax")
    and all(other[key] == row[key] for key in keys)
  ]
  return max(ours or [row], key=lambda row: row["name"] == "jax_two_devices")


def table(rows):
  """The rows as Markdown, with the ratio of each time to this project's."""
  headings = (
    "|batch||images/s|ms: min, median, max|ratio of medians|of minima|"
    "peak memory"
  )
  cells = []
  for row in rows:
    ms, ours = row["ms"], beside(row, rows)["ms"]
    memory = row.get("peak_memory_mb")  # absent in older records
    cells.append(
      [
        f"{row['work']}, {row['dtype']}",
        f"{row['batch_size']}",
        row["name"],
        f"{row['images_per_second']:.1f}",
        f"{ms['min']:.0f}, {ms['median']:.0f}, {ms['max']:.0f}",
        f"{ms['median'] / ours['median']:.2f}",
        f"{ms['min'] / ours['min']:.2f}",
        f"{memory:,.0f} MB" if memory else "",
      ]
    )
  return markdown.table(headings.split("|"), cells, "lrlrrrrr")


def plot(rows, path):
  """Draws images/s over the batch size; bfloat16 is dashed.

  One panel for each kind of work, one line for each contender, with its name at
  the end.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot, ticker

  works = [work for work in ("train", "inference") if _of(rows, work=work)]
  figure, axes = pyplot.subplots(
    1, len(works), figsize=(6 * len(works), 4.5), squeeze=False
  )
  names = list(dict.fromkeys(row["name"] for row in rows))
  sizes = sorted({row["batch_size"] for row in rows})
  for axis, work in zip(axes[0], works, strict=True):
    ends = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
      for i, name in enumerate(names):
        line = sorted(
          (row["batch_size"], row["images_per_second"])
          for row in _of(rows, work=work, dtype=dtype, name=name)
        )
        if line:
          half = dtype == "bfloat16"
          axis.plot(
            *zip(*line, strict=True), "o--" if half else "o-", color=f"C{i}"
          )
          label = f"{name} {dtype}" if half else name
          ends.append((line[-1], label, f"C{i}"))
    axis.set(title=work, xlabel="images in a batch", ylabel="images/s")
    axis.set(xscale="log", yscale="log", xlim=(sizes[0] / 1.3, sizes[-1] * 1.3))
    axis.set_xticks(sizes, map(str, sizes))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3)
    _write_beside(axis, ends)
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  pyplot.close(figure)


def _of(rows, **values):
  return [row for row in rows if values.items() <= row.items()]


def _write_beside(axis, ends):
  """Writes each line's name at its end, moved up or down to be readable."""
  axis.get_ylim()  # fixes the scale
  place = (axis.transData - axis.transAxes).transform
  ends = sorted(ends, key=lambda line: line[0][1])
  heights = [place(end)[1] for end, _, _ in ends]
  for i in range(1, len(ends)):
    heights[i] = max(heights[i], heights[i - 1] + 0.05)
  highest = 1.0
  for i in reversed(range(len(ends))):
    heights[i] = min(heights[i], highest)
    highest = heights[i] - 0.05
  for (end, label, colour), height in zip(ends, heights, strict=True):
    axis.annotate(
      label,
      place(end),
      (1.02, height),
      xycoords="axes fraction",
      textcoords="axes fraction",
      color=colour,
      fontsize=8,
      va="center",
      arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.3},
    )


def main() -> None:
  if _WORKER.value:
    worker(_WORKER.value)
    return
  from alexnet_jax.analysis import timing

  rows, precisions = [], {}
  for dtype in _DTYPES.value:
    for batch_size in map(int, _BATCH_SIZES.value):
      for work in _WORK.value:
        more, precisions = compare(work, batch_size, dtype)
        rows += more
        timing.print_rows(
          [
            row | {"name": f"{dtype} {work} {batch_size} {row['name']}"}
            for row in more
          ]
        )
  if _OUTPUT.value:
    record = provenance.record(
      "one step of each contender, in turns",
      " ".join(["python -m benchmarks.compare", *sys.argv[1:]]),
      {"rows": rows, "ratios": ratios(rows), "precision": precisions},
      libraries={"torch": _torch_version()},
    )
    files.write_atomic(_OUTPUT.value, json.dumps(record, indent=1) + "\n")
    plot(rows, _OUTPUT.value.removesuffix(".json") + ".png")


def _torch_version():
  import importlib.metadata

  return importlib.metadata.version("torch")


if __name__ == "__main__":
  _OUTPUT = paths.DEFINE_output(
    "output", "", "JSON file for the results; the figure goes to its .png"
  )
  _WORK = flags.DEFINE_list("work", ["train", "inference"], "train, inference")
  _BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["64"], "images per step")
  _CONTENDERS = flags.DEFINE_list(
    "contenders", list(CONTENDERS), "what is timed"
  )
  _DTYPES = flags.DEFINE_list("dtypes", ["float32"], "float32, bfloat16")
  _DEVICE = flags.DEFINE_string("device", "cpu", "cpu or cuda")
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "number of timed rounds", 1)
  _WORKER = flags.DEFINE_string("worker", "", "internal: run as this contender")
  command.run(main)
