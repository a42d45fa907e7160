"""This project beside PyTorch: the same network, in one run, in turns.

  python -m benchmarks.compare --output=experiments/results/compare.json

Every contender lives in a process of its own, which waits while the others
compute; a round times each of them once. PyTorch gets float images that are
ready; this project's training step starts from bytes and augments them too.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from absl import flags

from alexnet_jax import command, files, provenance, throughput

CONTENDERS = (
  "pytorch_eager",
  "pytorch_compile",
  "pytorch_eager_kept_memory",
  "pytorch_compile_kept_memory",
  "jax_two_devices",
  "jax_one_device",
)
OURS = "jax_two_devices"


def make(name, work, batch_size, dtype, device):
  """What a contender does once, as a function."""
  if name.startswith("pytorch"):
    from benchmarks import pytorch

    if name.endswith("kept_memory"):
      from alexnet_jax import startup

      startup.keep_memory()
    return pytorch.make(work, batch_size, "compile" in name, dtype, device)
  if dtype != "float32":
    raise command.UserError(f"{name} computes in float32 alone, not in {dtype}")
  from alexnet_jax import benchmark_step, sharding, startup
  from alexnet_jax.network import Network
  from alexnet_jax.recipe import Recipe

  startup.start()
  mesh = sharding.make_mesh(1, 2 if name == "jax_two_devices" else 1)
  train, inference, _ = benchmark_step.make_programs(
    Recipe(Network(), batch_size), mesh
  )
  return {"train": train, "inference": inference}[work]


def worker(name):
  """Serves one contender: a line in asks for one go, a line out is seconds."""
  work, dtype = _WORK.value[0], _DTYPES.value[0]
  batch_size = int(_BATCH_SIZES.value[0])
  output = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what libraries print must not look like an answer
  function = make(name, work, batch_size, dtype, _DEVICE.value)
  for _ in range(3):
    function()
  print("ready", file=output, flush=True)
  for _ in sys.stdin:
    start, cpu = time.perf_counter(), time.process_time()
    function()
    times = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps(times), file=output, flush=True)


def compare(work, batch_size, dtype):
  """One row for each contender."""
  workers = {}
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
      )
      if workers[name].stdout.readline() != "ready\n":
        raise command.UserError(f"{name} did not start; see its message above")
    times = {name: [] for name in workers}
    for _ in range(_ROUNDS.value):
      for name, process in workers.items():
        process.stdin.write("go\n")
        process.stdin.flush()
        times[name].append(json.loads(process.stdout.readline()))
  finally:
    for process in workers.values():
      process.kill()
      process.wait()
  return [
    {"name": name, "work": work, "batch_size": batch_size, "dtype": dtype}
    | _summary(times[name], batch_size)
    for name in workers
  ]


def _summary(times, batch_size):
  wall, cpu = zip(*times, strict=True)
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
  }


def ratios(rows):
  """How many times as fast this project's two devices are as each other."""
  found = []
  for ours in rows:
    if ours["name"] != OURS:
      continue
    for row in rows:
      keys = ("work", "batch_size", "dtype")
      if row is not ours and all(row[key] == ours[key] for key in keys):
        found.append(
          {key: row[key] for key in keys}
          | {
            "over": row["name"],
            "ratio": row["ms"]["median"] / ours["ms"]["median"],
            "cpu_ratio": row["cpu_ms"]["median"] / ours["cpu_ms"]["median"],
          }
        )
  return found


def table(result):
  """The result as Markdown; what each contender takes over what ours takes."""
  found = result["result"]
  over = {(r["work"], r["batch_size"], r["over"]): r for r in found["ratios"]}
  lines = [
    "| | images/s | ms: min, median, max | ratio of medians | of minima |",
    "|---|--:|--:|--:|--:|",
  ]
  for row in found["rows"]:
    key = row["work"], row["batch_size"]
    ours = next(
      r
      for r in found["rows"]
      if (r["work"], r["batch_size"]) == key and r["name"] == OURS
    )
    ratio = over.get((*key, row["name"]), {"ratio": 1.0})["ratio"]
    ms = row["ms"]
    lines.append(
      f"| {row['work']} {row['batch_size']} {row['name']}"
      f" | {row['images_per_second']:.1f}"
      f" | {ms['min']:.0f}, {ms['median']:.0f}, {ms['max']:.0f}"
      f" | {ratio:.2f} | {ms['min'] / ours['ms']['min']:.2f} |"
    )
  return "\n".join(lines)


def plot(rows, path):
  """Images/s of each contender over the batch size."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  works = sorted({row["work"] for row in rows})
  figure, axes = pyplot.subplots(
    1, len(works), figsize=(5 * len(works), 4), squeeze=False
  )
  for axis, work in zip(axes[0], works, strict=True):
    for name, dtype in sorted({(row["name"], row["dtype"]) for row in rows}):
      points = sorted(
        (row["batch_size"], row["images_per_second"])
        for row in rows
        if (row["name"], row["dtype"], row["work"]) == (name, dtype, work)
      )
      axis.plot(*zip(*points, strict=True), marker="o", label=f"{name} {dtype}")
    axis.set(title=work, xlabel="batch size", ylabel="images/s", xscale="log")
  axes[0][0].legend(fontsize="x-small")
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  pyplot.close(figure)


def main() -> None:
  if _WORKER.value:
    worker(_WORKER.value)
    return
  rows = [
    row
    for dtype in _DTYPES.value
    for batch_size in map(int, _BATCH_SIZES.value)
    for work in _WORK.value
    for row in compare(work, batch_size, dtype)
  ]
  throughput.show(
    [
      row | {"name": f"{row['work']} {row['batch_size']} {row['name']}"}
      for row in rows
    ]
  )
  if _OUTPUT.value:
    record = provenance.record(
      "one step of each contender, in turns",
      " ".join(["python -m benchmarks.compare", *sys.argv[1:]]),
      {"rows": rows, "ratios": ratios(rows)},
      libraries={"torch": _torch_version()},
    )
    files.write_whole(_OUTPUT.value, json.dumps(record, indent=1) + "\n")
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
