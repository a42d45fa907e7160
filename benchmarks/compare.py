"""This project beside PyTorch: the same network, in one run, in turns.

  python -m benchmarks.compare --output=experiments/results/compare.json

Every contender lives in a process of its own, which waits while the others
compute; a round times each of them once. PyTorch gets float images that are
ready; this project's training step starts from bytes and augments them too.
Each keeps its own defaults for the products of float32 (which on a GPU may mean
TF32); the record says which.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from absl import flags

from alexnet_jax.runtime import command, files, provenance

CONTENDERS = (
  "pytorch_eager",
  "pytorch_compile",
  "pytorch_eager_kept_memory",
  "pytorch_compile_kept_memory",
  "jax_two_devices",
  "jax_one_device",
)


def make(name, work, batch_size, dtype, device):
  """What a contender does once, as a function."""
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
  from alexnet_jax.training.recipe import Recipe

  jax.config.update("jax_platforms", device)
  processes.configure()
  mesh = sharding.make_mesh(1, 2 if name == "jax_two_devices" else 1)
  train, inference, _ = timing.make_programs(
    Recipe(Network(compute_dtype=dtype), batch_size), mesh
  )
  return {"train": train, "inference": inference}[work]


def precision(name):
  """What a contender's library does with products of float32 on a GPU."""
  if name.startswith("pytorch"):
    import torch

    return {
      "torch.backends.cuda.matmul.allow_tf32": (
        torch.backends.cuda.matmul.allow_tf32
      ),
      "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
    }
  import jax

  # None leaves it to XLA, whose default is TF32 where the GPU has it.
  chosen = jax.config.jax_default_matmul_precision
  return {"jax_default_matmul_precision": chosen}


def peak_memory(name, device):
  """The most bytes that this process ever held, on the GPU if it uses one."""
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
  """Serves one contender: a line in asks for one go, a line out answers.

  The first line out, once it has warmed up, is its `precision`; each of the
  others a go's wall and CPU seconds and the peak memory so far.
  """
  work, dtype = _WORK.value[0], _DTYPES.value[0]
  batch_size = int(_BATCH_SIZES.value[0])
  output = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what libraries print must not look like an answer
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
  """One row for each contender, and {contender: its `precision`}."""
  workers, precisions = {}, {}
  # Several processes share a GPU: JAX must not take most of it beforehand.
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
        raise command.UserError(f"{name} did not start; see its message above")
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
  """A row's figures, from the answers of all rounds."""
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
  """How many times as long as this project's each contender takes.

  Beside `jax_two_devices`, or the one device where there is only one.
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
  """This project's row of the same work, batch size and dtype, if any."""
  keys = ("work", "batch_size", "dtype")
  ours = [
    other
    for other in rows
    if other["name"].startswith("jax")
    and all(other[key] == row[key] for key in keys)
  ]
  return max(ours or [row], key=lambda row: row["name"] == "jax_two_devices")


def table(rows):
  """The rows as Markdown; what each contender takes over what ours takes."""
  lines = [
    "| | batch | | images/s | ms: min, median, max | ratio of medians |"
    " of minima | peak memory |",
    "|---|--:|---|--:|--:|--:|--:|--:|",
  ]
  for row in rows:
    ms, ours = row["ms"], beside(row, rows)["ms"]
    memory = row.get("peak_memory_mb")  # not in older records
    lines.append(
      f"| {row['work']}, {row['dtype']} | {row['batch_size']} | {row['name']}"
      f" | {row['images_per_second']:.1f}"
      f" | {ms['min']:.0f}, {ms['median']:.0f}, {ms['max']:.0f}"
      f" | {ms['median'] / ours['median']:.2f}"
      f" | {ms['min'] / ours['min']:.2f}"
      f" | {f'{memory:,.0f} MB' if memory else ''} |"
    )
  return "\n".join(lines)


def plot(rows, path):
  """Images/s over the batch size: a panel for each work, a line for each
  contender with its name at the end; bfloat16 is dashed."""
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
  """Names right of the axis, at the height of the lines' ends or as near as
  lets each be read."""
  axis.get_ylim()  # now the scale is final
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
  _OUTPUT = flags.DEFINE_string(
    "output", "", "JSON file, and its .png beside it"
  )
  _WORK = flags.DEFINE_list("work", ["train", "inference"], "what to time")
  _BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["64"], "of all contenders")
  _CONTENDERS = flags.DEFINE_list("contenders", list(CONTENDERS), "which")
  _DTYPES = flags.DEFINE_list("dtypes", ["float32"], "float32, bfloat16")
  _DEVICE = flags.DEFINE_string("device", "cpu", "cpu or cuda")
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "of timing", 1)
  _WORKER = flags.DEFINE_string("worker", "", "internal: be this contender")
  command.run(main)
