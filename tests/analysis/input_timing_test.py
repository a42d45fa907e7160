"""The input benchmark measures what it says: known delays, known rates."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg

from alexnet_jax.analysis import input_timing, timing
from alexnet_jax.data import parallel, sources


class Slow(sources.Source):
  """Every read takes `delay` seconds."""

  delay = 0.0

  def __getitem__(self, index):
    time.sleep(self.delay)
    return super().__getitem__(index)


@pytest.fixture
def source():
  record = simplejpeg.encode_jpeg(np.full((16, 16, 3), 90, np.uint8))
  return Slow([(record, 0)] * 64, "a", fingerprint="slow", name="slow train")


def measure(source):
  rows = input_timing.benchmark_input(
    source, batch_size=8, size=16, num_images=32, rounds=2
  ).rows
  return {row["name"]: row for row in rows}


def test_rows_and_their_arithmetic(source):
  rows = measure(source)
  assert list(rows) == [
    "read",
    "decode_all_cores",
    "batch",
    "pipeline",
    "transfer",
    "pipeline_to_device",
  ]
  for row in rows.values():
    ms = row["ms"]
    assert 0 < ms["min"] <= ms["median"] <= ms["max"]
    assert row["images_per_second"] == pytest.approx(8 / ms["median"] * 1e3)


def test_reading_slowly_slows_reading_and_the_pipeline_alone(source):
  source.delay = 0.025
  cores = parallel.num_cores()
  rows = measure(source)
  # One thread a core, 25 milliseconds each: 40 images/s a core.
  assert 16 < rows["pipeline"]["images_per_second"] / cores < 40.4
  assert 16 < rows["read"]["images_per_second"] / cores < 40.4
  need = rows["pipeline"]["cores_per_1000_images_per_second"]
  assert 24.7 < need < 63
  assert rows["decode_all_cores"]["images_per_second"] / cores > 80


def test_a_small_set_is_read_again_until_ready_batches_do_not_matter(
  source, monkeypatch
):
  """Grain has up to two batches ready, and one in progress on each core."""
  source.records, counts = source.records[:12], []
  monkeypatch.setattr(
    timing, "time_stream", lambda stream, steps: counts.append(steps) or 1.0
  )
  measure(source)
  cores = parallel.num_cores()
  assert min(counts) >= 8 * cores
  assert {count % cores for count in counts} == {0}


def test_bytes_from_storage_are_those_of_a_file_not_in_the_cache(tmp_path):
  count = input_timing._bytes_from_storage
  if count() is None:
    pytest.skip("this system does not count the bytes read from storage")
  path = tmp_path / "file"
  path.write_bytes(bytes(2**22))
  before = count()
  path.read_bytes()
  assert count() - before < 2**20  # just written, so in the page cache
  with open(path, "rb") as file:
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = count()
    file.read()
  if (read := count() - before) == 0:
    pytest.skip("the file system of the temporary folder is in memory")
  assert read == pytest.approx(2**22, rel=0.2)


def test_decoding_slowly_slows_the_yardstick_alone(source, monkeypatch):
  monkeypatch.setattr(
    input_timing, "_bare_decoder", lambda _: lambda _: time.sleep(0.025)
  )
  cores = parallel.num_cores()
  rows = measure(source)
  assert 16 < rows["decode_all_cores"]["images_per_second"] / cores < 40.4
  assert rows["pipeline"]["images_per_second"] / cores > 80


def test_the_command_writes_what_it_shows(tmp_path, source):
  from alexnet_jax.data import preparing, shards

  for split in ("train", "validation"):
    place = tmp_path / "in" / split / "a"
    place.mkdir(parents=True)
    for i in range(20):
      (place / f"{i}.jpg").write_bytes(source[0][0])
  found = preparing.open_originals(f"folder:{tmp_path / 'in'}")
  encoding = shards.Encoding(size=32)
  preparing.prepare(found, str(tmp_path), "tiny", encoding=encoding)
  command = [sys.executable, "-m", "alexnet_jax.benchmark", "input"]
  options = ["--dataset=tiny", f"--data_dir={tmp_path}", "--size=32"]
  options += ["--batch_size=10", f"--json={tmp_path / 'out.json'}"]
  result = subprocess.run(
    [*command, *options], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  written = json.loads((tmp_path / "out.json").read_text())
  assert "--data_dir" not in written["command"]
  names = [row["name"] for row in written["result"]["rows"]]
  assert {"decode_all_cores", "pipeline"} <= set(names)
  assert all(name in result.stdout for name in names)
  assert "of bare decoding on" in result.stdout
