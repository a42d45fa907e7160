"""Inspection: what a dataset is like, before a long run is spent on it.

A verdict a line. `FAIL` is what would spoil a run, `note` what one should
know; each says what it saw.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import io
import itertools
import json
import pathlib
import re
import threading
import time

import cv2
import numpy as np
from PIL import Image

from alexnet_jax.data import (
  images,
  parallel,
  pipeline,
  pixel_statistics,
  shards,
  sources,
)
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime.command import UserError


@dataclasses.dataclass
class Findings:
  """What one look at every image of a split finds; N images.

  Attributes:
    labels: i32[N].
    contents: u64[N], a digest of the encoded image.
    looks: u64[N], a digest of how a thumbnail's brightness runs from left to
      right, 0 where it hardly changes; of nearly equal images nearly equal.
    damaged: names of the images that cannot be read or decoded, with reasons.
    sizes: how often each (height, width) occurs.
    range: the least and the greatest level.
    flat: how many images are of one colour.
    channel_error: mean absolute difference to Pillow's decoding, for RGB and
      for BGR, over every 64th image.
    moments: of the pixels, rescaled.
  """

  labels: np.ndarray
  contents: np.ndarray
  looks: np.ndarray
  damaged: list[str]
  sizes: collections.Counter
  range: tuple[int, int]
  flat: int
  channel_error: np.ndarray
  moments: pixel_statistics.PixelSums


def inspect(data_dir: str, name: str, need: float) -> int:
  """Prints the verdicts on a dataset, or on all prepared ones in a folder.

  Args:
    data_dir: the folder that holds datasets.
    name: of the dataset; "" is every one that `prepare` made.
    need: images/s that training will use; 0 is not known.

  Returns:
    the exit status: 1 if a verdict is FAIL, else 0.

  Raises:
    UserError: there is none.
  """
  if name:
    folders = [sources.find_dataset(name, data_dir)]
  else:
    found = pathlib.Path(data_dir).glob("*/*/manifest.json")
    folders = sorted(str(path.parent) for path in found)
  if not folders:
    raise UserError(
      f"{data_dir} holds no prepared dataset: looked for"
      " NAME/VERSION/manifest.json. Prepare one with --source, or --name any"
      " other tfds dataset."
    )
  verdicts = [
    verdict for folder in folders for verdict in _inspect_one(folder, need)
  ]
  return int("FAIL" in verdicts)


def _inspect_one(folder: str, need: float) -> list[str]:
  """Prints a verdict a line as they come; returns their first words."""
  manifest = _read_manifest(folder)
  size = manifest["plan"]["size"] if manifest else 256
  opened = {
    split: sources.open_directory(folder, split) for split in _splits(folder)
  }
  print(f"{folder}:")
  found = {split: _look(opened[split], size) for split in opened}
  verdicts = []
  for what, (verdict, text) in itertools.chain(
    *(_of_split(opened[s], found[s], manifest, s) for s in opened),
    _of_training(opened, found, folder, size, need),
  ):
    print(f"{verdict:4}  {what}: {text}")
    verdicts.append(verdict)
  return verdicts


def _of_split(source: Source, found: Findings, manifest, split: str):
  """Yields (what, (verdict, text)) on one split."""
  yield f"{split} images", _decodable(source, found, manifest, split)
  yield f"{split} labels", _labels(source, found, manifest, split)
  yield f"{split} channel order", _channels(found)
  yield f"{split} value range", _value_range(found)


def _of_training(opened, found, folder: str, size: int, need: float):
  """Yields (what, (verdict, text)) on the dataset as a whole."""
  for one, other in itertools.combinations(found, 2):
    yield (
      f"duplicates in {one} and {other}",
      _duplicates(opened[one], found[one], opened[other], found[other]),
    )
  if "train" in opened:
    yield "shuffling", _shuffling(found["train"].labels)
    yield "statistics", _statistics(opened["train"], found["train"], folder)
    yield "throughput", _throughput(opened["train"], size, need)


def _look(source: Source, size: int) -> Findings:
  """Reads and decodes every image of a split, on all cores."""
  count = len(source)
  found = Findings(
    labels=np.full(count, -1, np.int32),
    contents=np.zeros(count, np.uint64),
    looks=np.zeros(count, np.uint64),
    damaged=[],
    sizes=collections.Counter(),
    range=(255, 0),
    flat=0,
    channel_error=np.zeros(3),
    moments=pixel_statistics.PixelSums(size),
  )
  lock = threading.Lock()

  def look(indices: np.ndarray) -> None:
    moments = pixel_statistics.PixelSums(size)
    for index in indices.tolist():
      try:
        encoded, found.labels[index] = source[index]
        image = images.decode(encoded)
      except (ValueError, RuntimeError, IndexError) as error:
        with lock:
          found.damaged.append(f"{source.example_name(index)} ({error})")
        continue
      digest = hashlib.blake2b(encoded, digest_size=8).digest()
      found.contents[index] = np.frombuffer(digest, np.uint64)[0]
      found.looks[index] = _look_of(image)
      moments.add(images.rescale(image, size))
      low, high = int(image.min()), int(image.max())
      with lock:
        found.sizes[image.shape[:2]] += 1
        found.range = min(found.range[0], low), max(found.range[1], high)
        found.flat += low == high
        if index % 64 == 0:
          found.channel_error += _compare_decoders(encoded, image)
    with lock:
      found.moments.merge(moments)

  with (
    shards.progress_bar() as progress,
    concurrent.futures.ThreadPoolExecutor(parallel.num_cores()) as pool,
  ):
    bar = progress.add_task(f"Looking at {source.name}", total=count, rate="")
    runs = shards.runs(np.arange(count))
    for run, _ in zip(runs, pool.map(look, runs), strict=True):
      progress.advance(bar, len(run))
  return found


def _look_of(image: np.ndarray) -> np.uint64:
  """64 bits: where an 8 x 9 thumbnail's brightness rises to the right."""
  thumbnail = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA)
  brightness = thumbnail.astype(np.int64).sum(2)
  if brightness.std() < 20:  # of 765: a plain sky looks like any other
    return np.uint64(0)
  bits = np.packbits(brightness[:, 1:] > brightness[:, :-1])
  return bits.view(np.uint64)[0]


def _compare_decoders(encoded: bytes, image: np.ndarray) -> np.ndarray:
  """f64[3]: 1, and the mean error to Pillow's RGB, and to its BGR."""
  with Image.open(io.BytesIO(encoded)) as opened:
    if opened.mode != "RGB":
      return np.zeros(3)
    pillow = np.asarray(opened).astype(np.float64)
  errors = [np.abs(image - pillow[..., ::step]).mean() for step in (1, -1)]
  return np.array([1, *errors])


def _decodable(source: Source, found: Findings, manifest, split: str):
  wrong = []
  if found.damaged:
    wrong.append(
      f"{len(found.damaged):,} cannot be decoded, {found.damaged[0]}"
    )
  expected = manifest and manifest["splits"][split]["num_examples"]
  if manifest and expected != len(source):
    wrong.append(f"the manifest counts {expected:,}")
  side = manifest and manifest["plan"]["size"]
  if manifest and set(found.sizes) - {(side, side)}:
    wrong.append(f"not all are {side} x {side}")
  if wrong:
    return "FAIL", f"{len(source):,}; {'; '.join(wrong)}"
  kinds = f"{len(found.sizes):,} sizes, rescaled while training"
  if len(found.sizes) == 1:
    kinds = "all {} x {}".format(*next(iter(found.sizes)))
  return "ok", f"{len(source):,}, {kinds}"


def _labels(source: Source, found: Findings, manifest, split: str):
  labels = found.labels[found.labels >= 0]
  if (labels >= source.num_classes).any() or len(labels) < len(found.labels):
    return "FAIL", f"some are outside 0 to {source.num_classes - 1}"
  counts = np.bincount(labels, minlength=source.num_classes)
  text = (
    f"{source.num_classes:,} classes of {counts.min():,} to"
    f" {counts.max():,} images, median {np.median(counts):,.0f}"
  )
  if manifest:
    told = list(manifest["splits"][split]["classes"].values())
    if told != counts.tolist():
      return "FAIL", f"{text}; the manifest tells other counts"
  if absent := int((counts == 0).sum()):
    return "note", f"{text}; {absent:,} classes have no image"
  return "ok", text


def _channels(found: Findings):
  count, as_rgb, as_bgr = found.channel_error
  mean = found.moments.total.mean((0, 1)) / max(found.moments.num_images, 1)
  text = "mean red {:.1f}, green {:.1f}, blue {:.1f}".format(*mean)
  if count and as_rgb > as_bgr:
    return "FAIL", f"{text}; another decoder sees blue where this sees red"
  if mean[0] < mean[2]:
    return "note", (
      f"{text}; photographs have more red than blue: were the images stored"
      " with their channels exchanged?"
    )
  return "ok", f"RGB, {text}"


def _value_range(found: Findings):
  low, high = found.range
  mean = found.moments.total.mean() / max(found.moments.num_images, 1)
  text = f"{low} to {high}, mean {mean:.1f}"
  if high <= 1 or high - low < 32:
    return "FAIL", f"{text}; levels are to be 0 to 255"
  if low > 10 or high < 245 or not 40 < mean < 215:
    return "note", f"{text}; unusual for photographs"
  if found.flat:
    return "note", f"{text}; {found.flat:,} images are of one colour"
  return "ok", text


def _duplicates(one: Source, first: Findings, other: Source, second: Findings):
  equal = _common(first.contents, second.contents)
  alike = _alike(first.looks, second.looks)
  pairs = equal or alike
  if not pairs:
    return "ok", "none"
  names = (
    f"{one.example_name(pairs[0][0])} and {other.example_name(pairs[0][1])}"
  )
  if equal:
    return "FAIL", f"{len(equal):,} images are in both, {names}"
  return "note", f"{len(alike):,} pairs of images look alike, {names}"


def _common(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
  """Places in both of each value but 0 that is in both."""
  values, here, there = np.intersect1d(one, other, return_indices=True)
  return [
    (int(i), int(j))
    for value, i, j in zip(values, here, there, strict=True)
    if value
  ]


def _alike(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
  """Places in both where at most 3 of 64 bits differ, but for zeros.

  Then one of four 16-bit parts is equal, and few share such a part.
  """
  pairs = set()
  for part in range(4):
    here, there = (
      x.view(np.uint16).reshape(-1, 4)[:, part] for x in (one, other)
    )
    order = np.argsort(here)
    low, high = (
      np.searchsorted(here[order], there, side) for side in ("left", "right")
    )
    for j in np.flatnonzero((high > low) & (other != 0)):
      near = order[low[j] : high[j]]
      near = near[np.bitwise_count(one[near] ^ other[j]) <= 3]
      pairs.update((int(i), int(j)) for i in near if one[i])
  return sorted(pairs)


def _shuffling(labels: np.ndarray):
  """Neighbours of one class: as often as chance has it, when training."""

  def share(order):
    return float(np.mean(order[1:] == order[:-1])) if len(order) > 1 else 0.0

  frequencies = np.bincount(labels[labels >= 0]) / len(labels)
  chance = float((frequencies**2).sum())
  trained = share(labels[sources.permutation(len(labels), 0, 0)])
  spread = (chance * (1 - chance) / len(labels)) ** 0.5
  text = (
    f"neighbours share a class in {trained:.1%} of cases in training's order,"
    f" {share(labels):.1%} on disk, {chance:.1%} by chance"
  )
  verdict = "ok" if abs(trained - chance) <= 6 * spread + 1e-9 else "FAIL"
  if verdict == "ok" and share(labels) > 0.5 > 2 * chance:
    return "note", f"{text}; sorted on disk, which only other readers mind"
  return verdict, text


def _statistics(source: Source, found: Findings, folder: str):
  path = pathlib.Path(folder, "statistics.npz")
  side = len(found.moments.total)
  if not path.is_file():
    return "note", "not stored beside the dataset: training computes them first"
  if not found.moments.num_images:
    return "FAIL", "there is no image to compare them with"
  stored = pixel_statistics.load(str(path), source.fingerprint, side)
  if stored is None:
    return "FAIL", f"{path} is damaged, or of another dataset"
  computed = found.moments.statistics()
  mean = float(np.abs(stored.mean_image - computed.mean_image).max())
  scale = computed.eigenvalues.max()
  values = (
    float(np.abs(stored.eigenvalues - computed.eigenvalues).max()) / scale
  )
  text = f"mean image off by {mean:.1g} levels, eigenvalues by {values:.1g}"
  # The same images, another machine's decoder: a hundredth of a level.
  good = mean < 0.5 and values < 1e-3
  deviations = np.sqrt(stored.eigenvalues).round(1).tolist()
  return ("ok" if good else "FAIL"), f"{text}; deviations {deviations}"


def _throughput(source: Source, size: int, need: float):
  batches = pipeline.train_batches(
    source,
    batch_size=128,
    seed=0,
    start_step=0,
    size=size,
    max_undecodable=len(source),
  )
  for _ in range(2 * parallel.num_cores() + 4):  # what was made ahead
    next(batches)
  start, count = time.monotonic(), 0
  while time.monotonic() - start < 4:
    count += len(next(batches)["label"])
  rate = count / (time.monotonic() - start)
  text = (
    f"{rate:,.0f} images/s on {parallel.num_cores()} cores:"
    f" {90 * len(source) / rate / 3600:,.2f} hours for 90 epochs"
  )
  if not need:
    return "ok", f"{text} (--need=N compares it with what training uses)"
  verdict = "ok" if rate >= need else "FAIL"
  return verdict, f"{text}; {need:,.0f} are needed"


def _read_manifest(folder: str):
  path = pathlib.Path(folder, "manifest.json")
  if not path.is_file():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise UserError(f"{path} is damaged: {error}.") from error


def _splits(folder: str) -> list[str]:
  """The splits of a tfds dataset that are there."""
  info = json.loads(pathlib.Path(folder, "dataset_info.json").read_text())
  names = [split["name"] for split in info["splits"]]
  return [name for name in names if re.fullmatch(r"\w+", name)]
