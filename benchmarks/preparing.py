"""Measures `prepare`: time, cores, memory, disk, and the effect of kills.

  python -m benchmarks.preparing --data_dir=DIR [--json=FILE]

Writes tars in the official layout from the tfds dataset imagenet2012 in DIR. A
sample of it is enough: each image is used `--copies` times. Prepares the tars
at several qualities on one core and on all cores, and once more with kills at
random moments, after which the result should be the same to the byte. Linux.
"""

import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from absl import flags

from alexnet_jax.data import parallel, sources
from alexnet_jax.runtime import command, files, paths, provenance

_DATA_DIR = paths.DEFINE_path(
  "data_dir", None, "folder of imagenet2012, or a sample", required=True
)
_COPIES = flags.DEFINE_integer("copies", 10, "how often each image is used", 1)
_KILLS = flags.DEFINE_integer(
  "kills", 5, "number of kills at random moments", 0
)
_JSON = paths.DEFINE_output("json", "", "JSON file for the results")

ENCODINGS = ((95, "444"), (90, "420"), (85, "420"))


def write_tars(data_dir: str, folder: pathlib.Path, copies: int) -> None:
  """Writes the two official tars, with every image `copies` times."""

  def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))

  train = sources.open_split("imagenet2012", "train", data_dir)
  classes = {}
  for encoded, label in (train[i] for i in range(len(train))):
    classes.setdefault(train.class_names[label], []).append(encoded)
  with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
    for wnid, contents in sorted(classes.items()):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        for number, content in enumerate(contents * copies):
          add(tar, f"{wnid}_{number}.JPEG", content)
      add(outer, f"{wnid}.tar", inner.getvalue())
  validation = sources.open_split("imagenet2012", "validation", data_dir)
  with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
    for i in range(len(validation)):
      add(tar, f"ILSVRC2012_val_{i + 1:08}.JPEG", validation[i][0])


def prepare_command(tars, target, quality, subsampling) -> list[str]:
  return [
    sys.executable,
    "-m",
    "alexnet_jax.prepare",
    f"--source=tars:{tars}",
    f"--data_dir={target}",
    f"--quality={quality}",
    f"--subsampling={subsampling}",
  ]


def measure(arguments: list[str], cores: int) -> dict[str, float]:
  """Runs a command on a number of cores.

  Returns:
    `seconds`; `cores_used`, CPU seconds per second; `cores_wanted`, the same
    with the time in which its threads waited for a core, that is what it would
    use on an idle machine; `peak_memory_mb`.
  """
  usable = sorted(os.sched_getaffinity(0))[:cores]
  pinned = ["taskset", "-c", ",".join(map(str, usable)), *arguments]
  start = time.perf_counter()
  with tempfile.TemporaryFile() as error:
    process = subprocess.Popen(pinned, stdout=subprocess.DEVNULL, stderr=error)
    threads = {}
    done = 0
    while not done:
      threads |= thread_times(process.pid)
      time.sleep(0.1)
      done, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - start
    if status:
      error.seek(0)
      raise RuntimeError(error.read().decode())
  return {
    "cores": cores,
    "seconds": seconds,
    "cores_used": (usage.ru_utime + usage.ru_stime) / seconds,
    "cores_wanted": sum(map(sum, threads.values())) / seconds,
    "peak_memory_mb": usage.ru_maxrss / 1024,
  }


def thread_times(process: int) -> dict[str, tuple[float, float]]:
  """Seconds that each thread ran, and waited for a core (Linux)."""
  found = {}
  for path in pathlib.Path(f"/proc/{process}/task").glob("*/schedstat"):
    try:
      ran, waited, _ = map(int, path.read_text().split())
    except (OSError, ValueError):  # the thread has just ended
      continue
    found[path.parent.name] = ran / 1e9, waited / 1e9
  return found


def kill_and_restart(arguments: list[str], kills: int, seconds: float) -> int:
  """Kills the command at random moments, then lets it finish.

  Returns:
    The number of kills that hit a running process.
  """
  moments, hits = random.Random(0), 0
  for _ in range(kills):
    process = subprocess.Popen(
      arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # The start takes a second or two, and five kills must fit into one run.
    time.sleep(1.5 + moments.uniform(0, 0.12) * seconds)
    process.send_signal(signal.SIGKILL)
    hits += process.wait() == -signal.SIGKILL
  subprocess.run(arguments, check=True, capture_output=True)
  return hits


def digests(folder: pathlib.Path) -> dict[str, str]:
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.iterdir())
  }


def main() -> None:
  rows = []
  all_cores = parallel.num_cores()
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    tars = scratch / "tars"
    tars.mkdir()
    write_tars(_DATA_DIR.value, tars, _COPIES.value)
    source_bytes = sum(path.stat().st_size for path in tars.iterdir())
    for quality, subsampling in ENCODINGS:
      for cores in sorted({1, all_cores}):
        target = scratch / f"{quality}-{cores}"
        arguments = prepare_command(tars, target, quality, subsampling)
        print(f"quality {quality}, {subsampling}, {cores} cores", flush=True)
        cost = measure(arguments, cores)
        folder = target / "imagenet2012_256" / "1.0.0"
        manifest = json.loads((folder / "manifest.json").read_text())
        splits = manifest["splits"].values()
        images = sum(split["num_examples"] for split in splits)
        num_bytes = sum(split["num_bytes"] for split in splits)
        rows.append(
          {
            "quality": quality,
            "subsampling": subsampling,
            **cost,
            "images": images,
            "images_per_second": images / cost["seconds"],
            "bytes_per_image": num_bytes / images,
          }
        )
        print(json.dumps(rows[-1]), flush=True)
        if (quality, cores) != (ENCODINGS[0][0], all_cores):
          shutil.rmtree(target)
    killed = scratch / "killed"
    quality, subsampling = ENCODINGS[0]
    arguments = prepare_command(tars, killed, quality, subsampling)
    seconds = next(r["seconds"] for r in rows if r["cores"] == all_cores)
    hits = kill_and_restart(arguments, _KILLS.value, seconds)
    parts = ("imagenet2012_256", "1.0.0")
    whole = (scratch / f"{quality}-{all_cores}").joinpath(*parts)
    same = digests(killed.joinpath(*parts)) == digests(whole)
    print(f"{hits} kills; result the same to the byte: {same}")
  if _JSON.value:
    record = provenance.record(
      "prepare: from the official tars to a dataset",
      "python -m benchmarks.preparing --data_dir=DIR"
      f" --copies={_COPIES.value} --kills={_KILLS.value}",
      {
        "source_bytes": source_bytes,
        "rows": rows,
        "kills": hits,
        "same_bytes_after_kills": same,
      },
    )
    files.write_atomic(_JSON.value, json.dumps(record, indent=1))


if __name__ == "__main__":
  command.run(main)
