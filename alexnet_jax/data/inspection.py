"""Inspection: checks of a dataset before a long run, one line per check.

Each line starts with a verdict: `FAIL` for what would spoil a run, `note` for
what one should know, else `ok`.
"""

import hashlib
import itertools
import pathlib
import re
import time
from typing import Any

import cv2
import numpy as np

from alexnet_jax.data import (
  images,
  loading,
  parallel,
  pipeline,
  preparing,
  sources,
)
from alexnet_jax.data.pixel_statistics import PixelSums, Statistics
from alexnet_jax.data.sources import Source
from alexnet_jax.data.tfds_originals import open_stored_split
from alexnet_jax.runtime.command import UserError

Verdict = tuple[str, str]  # "ok", "note" or "FAIL", and an explanation

THROUGHPUT_SECONDS = 4.0  # duration of the measurement
MAX_HASH_DISTANCE = 3  # bits of 64 in which similar images may differ

# What is recorded of each image of a split.
FACTS = np.dtype(
  [
    ("label", np.int64),  # -1 if the record is damaged, or has none
    ("content_hash", np.uint64),  # of the encoded image
    ("difference_hash", np.uint64),  # similar images have similar ones
    ("height", np.int32),
    ("width", np.int32),
    ("low", np.uint8),  # smallest and largest pixel value
    ("high", np.uint8),
  ]
)


class Scan:
  """What is found in the images of a split, rescaled to side `size`."""

  def __init__(self, source: Source, size: int):
    self.source, self.size = source, size
    self.facts = np.zeros(len(source), FACTS)
    self.facts["label"] = -1
    self.damaged: list[str] = []  # names of undecodable images, with reasons
    self.other_pixels: list[str] = []  # names of images unlike their raw pixels
    # Sums over a sample of images: their number, and the mean absolute
    # differences to Pillow's pixels as RGB and as BGR.
    self.decoder_errors = np.zeros(3)
    self.sums = PixelSums(size)

  def decoded(self) -> np.ndarray:
    """The facts of the images that can be decoded."""
    return self.facts[self.facts["height"] > 0]


def inspect(data_dir: str, name: str, need: float) -> int:
  """Prints the checks of a dataset; returns the exit status, 1 for a failure.

  Args:
    name: of the dataset; "" for every dataset that `prepare` made.
    need: images/s that training needs; 0 if unknown.

  Raises:
    UserError: the dataset does not exist.
  """
  found = pathlib.Path(data_dir).glob("*/*/manifest.json")
  folders = sorted(str(path.parent) for path in found)
  if name:
    folders = [sources.find_dataset(name, data_dir)]
  if not folders:
    raise UserError(
      f"{data_dir} has no prepared dataset: looked for"
      " NAME/VERSION/manifest.json. Prepare one with --source, or name any"
      " other tfds dataset with --name."
    )
  # A list: every dataset is checked, even after a failure.
  return int(not all([_inspect_dataset(folder, need) for folder in folders]))


def _inspect_dataset(folder: str, need: float) -> bool:
  """Prints the checks of a dataset as they finish; whether all passed."""
  manifest = preparing.read_manifest(folder)
  size = manifest["plan"]["size"] if manifest else 256
  verdicts = []

  def report(check: str, verdict: Verdict) -> None:
    print(f"{verdict[0]:4}  {check}: {verdict[1]}")
    verdicts.append(verdict[0])

  print(f"{folder}:")
  scans = {
    split: scan(open_stored_split(folder, split), size)
    for split in sources.open_builder(folder).info.splits
    if re.fullmatch(r"\w+", split)
  }
  for split, found in scans.items():
    expected = manifest["splits"][split] if manifest else None
    report(f"{split} images", _check_images(found, expected))
    needed = split == "train"
    report(f"{split} labels", _check_labels(found, expected, needed))
    report(f"{split} channel order", _check_channels(found))
    report(f"{split} value range", _check_value_range(found))
    if found.source.pixels is not None:
      report(f"{split} raw pixels", _check_raw_pixels(found))
  for one, other in itertools.combinations(scans, 2):
    duplicates = _check_duplicates(scans[one], scans[other])
    report(f"duplicates in {one} and {other}", duplicates)
  if train := scans.get("train"):
    report("shuffling", _check_shuffling(train.facts["label"]))
    report("statistics", _check_statistics(train, folder))
    try:
      throughput = _check_throughput(train.source, size, need)
    except UserError as error:  # a label of no class
      throughput = "FAIL", f"not measured: {error}"
    report("throughput", throughput)
  return "FAIL" not in verdicts


def scan(source: Source, size: int) -> Scan:
  """Reads and decodes every image of a split, on all cores."""
  found = Scan(source, size)

  def read(indices: np.ndarray) -> tuple[list[str], np.ndarray]:
    damaged, decoder_errors = [], np.zeros(3)
    for index in indices.tolist():
      try:
        # `source[index]` would refuse the labels that are to be listed.
        encoded, found.facts["label"][index] = source.records[index]
        image = images.decode(encoded)
      except (ValueError, RuntimeError, IndexError) as error:
        damaged.append(f"{source.example_name(index)} ({error})")
        continue
      digest = hashlib.blake2b(encoded, digest_size=8).digest()
      found.facts[index] = (
        found.facts["label"][index],
        np.frombuffer(digest, np.uint64)[0],
        _difference_hash(image),
        *image.shape[:2],
        image.min(),
        image.max(),
      )
      found.sums.add(images.rescale(image, size))
      if not _has_these_pixels(source, index, image):
        found.other_pixels.append(source.example_name(index))
      if index % 64 == 0:
        decoder_errors += _compare_decoders(encoded, image)
    return damaged, decoder_errors

  tasks = parallel.chunks(np.arange(len(source)))
  parts = parallel.map_images(read, tasks, f"Checking {source.name}")
  for damaged, decoder_errors in parts:
    found.damaged += damaged
    found.decoder_errors += decoder_errors
  return found


def _has_these_pixels(source: Source, index: int, image: np.ndarray) -> bool:
  """Whether the raw pixels of an example, if there are any, are `image`."""
  if source.pixels is None:
    return True
  stored, label = source.pixels[index]
  return label == source.records[index][1] and np.array_equal(stored, image)


def _difference_hash(image: np.ndarray) -> np.uint64:
  """64 bits: where the brightness of an 8 x 9 thumbnail rises to the right."""
  thumbnail = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA)
  brightness = thumbnail.astype(np.int64).sum(2)
  if brightness.std() < 20:  # of 765: plain skies resemble each other
    return np.uint64(0)
  bits = np.packbits(brightness[:, 1:] > brightness[:, :-1])
  return bits.view(np.uint64)[0]


def _compare_decoders(encoded: bytes, image: np.ndarray) -> np.ndarray:
  """f64[3]: 1, and the mean differences to Pillow's RGB and to its BGR."""
  with images.open_image(encoded) as opened:
    if opened.mode != "RGB":
      return np.zeros(3)
    pillow = np.asarray(opened).astype(np.float64)
  errors = [np.abs(image - pillow[..., ::step]).mean() for step in (1, -1)]
  return np.array([1, *errors])


def _check_images(found: Scan, expected: dict[str, Any] | None) -> Verdict:
  """Whether all images are there, can be decoded and have the right size."""
  decoded, damaged = found.decoded(), found.damaged
  sizes = set(zip(decoded["height"], decoded["width"], strict=True))
  problems = []
  if damaged:
    problems.append(f"{len(damaged):,} cannot be decoded, {damaged[0]}")
  count = f"{len(found.source):,}"
  if expected and expected["num_examples"] != len(found.source):
    problems.append(f"the manifest lists {expected['num_examples']:,}")
  if expected and sizes - {(found.size, found.size)}:
    problems.append(f"not all are {found.size} x {found.size}")
  if problems:
    return "FAIL", f"{count}; {'; '.join(problems)}"
  if len(sizes) == 1:
    ((height, width),) = sizes
    return "ok", f"{count}, all {height} x {width}"
  return "ok", f"{count}, {len(sizes):,} sizes, rescaled in training"


def _check_raw_pixels(found: Scan) -> Verdict:
  """Whether the raw pixels are those of the JPEGs."""
  if wrong := sorted(found.other_pixels):
    return "FAIL", (
      f"{len(wrong):,} images have other pixels or labels, for example"
      f" {wrong[0]}; remove the folder raw/ and run prepare --raw again"
    )
  return "ok", f"{len(found.source):,}, equal to the decoded images"


def _check_labels(
  found: Scan, expected: dict[str, Any] | None, needed: bool
) -> Verdict:
  """Whether labels are those of classes; not every split `needed` has them."""
  num_classes = found.source.num_classes
  labels = found.facts["label"]
  if (labels == -1).all() and not needed:
    return "note", "none (all are -1): nothing can be evaluated on this split"
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if len(wrong):
    index = int(wrong[0])
    return "FAIL", (
      f"{len(wrong):,} are outside 0 to {num_classes - 1}, for example"
      f" {labels[index]} of {found.source.example_name(index)}"
    )
  counts = np.bincount(labels, minlength=num_classes)
  text = (
    f"{num_classes:,} classes of {counts.min():,} to"
    f" {counts.max():,} images, median {np.median(counts):,.0f}"
  )
  if expected and list(expected["classes"].values()) != counts.tolist():
    return "FAIL", f"{text}; the manifest lists other counts"
  if empty := int((counts == 0).sum()):
    return "note", f"{text}; {empty:,} classes have no images"
  return "ok", text


def _check_channels(found: Scan) -> Verdict:
  count, as_rgb, as_bgr = found.decoder_errors
  mean = found.sums.total.mean((0, 1)) / max(found.sums.num_images, 1)
  text = "mean red {:.1f}, green {:.1f}, blue {:.1f}".format(*mean)
  if count and as_rgb > as_bgr:
    return "FAIL", f"{text}; Pillow decodes red and blue the other way round"
  if mean[0] < mean[2]:
    return "note", (
      f"{text}; photographs usually have more red than blue: check that the"
      " images were not stored as BGR"
    )
  return "ok", f"RGB, {text}"


def _check_value_range(found: Scan) -> Verdict:
  decoded = found.decoded()
  low, high = decoded["low"].min(initial=255), decoded["high"].max(initial=0)
  flat = np.count_nonzero(decoded["low"] == decoded["high"])
  mean = found.sums.total.mean() / max(found.sums.num_images, 1)
  text = f"{low} to {high}, mean {mean:.1f}"
  if high <= 1 or int(high) - int(low) < 32:
    return "FAIL", f"{text}; expected 0 to 255"
  if low > 10 or high < 245 or not 40 < mean < 215:
    return "note", f"{text}; unusual for photographs"
  if flat:
    return "note", f"{text}; {flat:,} images have a single value"
  return "ok", text


def _check_duplicates(one: Scan, other: Scan) -> Verdict:
  """Whether two splits share images, or have similar ones."""
  hashes = (s.facts["content_hash"] for s in (one, other))
  values, *places = np.intersect1d(*hashes, return_indices=True)
  equal = [(i, j) for v, i, j in zip(values, *places, strict=True) if v]
  similar = _find_similar(*(s.facts["difference_hash"] for s in (one, other)))
  pairs = equal or similar
  if not pairs:
    return "ok", "none"
  i, j = pairs[0]
  names = one.source.example_name(i), other.source.example_name(j)
  example = f"for example {' and '.join(names)}"
  if equal:
    return "FAIL", f"{len(equal):,} images are in both, {example}"
  return "note", f"{len(similar):,} pairs of images are similar, {example}"


def _find_similar(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
  """Pairs of indices of hashes with a small distance, ignoring 0.

  If at most 3 of 64 bits differ, one of four 16-bit parts is equal, and few
  hashes share such a part.
  """
  pairs = set()
  all_parts = [np.ascontiguousarray(h).view(np.uint16) for h in (one, other)]
  for part in range(4):
    here, there = (parts[part::4] for parts in all_parts)
    order = np.argsort(here)
    low, high = (
      np.searchsorted(here[order], there, side) for side in ("left", "right")
    )
    for j in np.flatnonzero((high > low) & (other != 0)):
      near = order[low[j] : high[j]]
      distances = np.bitwise_count(one[near] ^ other[j])
      near = near[distances <= MAX_HASH_DISTANCE]
      pairs.update((int(i), int(j)) for i in near if one[i])
  return sorted(pairs)


def _check_shuffling(labels: np.ndarray) -> Verdict:
  """Whether neighbours in training's order share a class as by chance."""

  def share_of_equal_neighbours(order):
    return float(np.mean(order[1:] == order[:-1])) if len(order) > 1 else 0.0

  _, counts = np.unique(labels[labels >= 0], return_counts=True)
  frequencies = counts / len(labels)
  chance = float((frequencies**2).sum())
  order = sources.permutation(len(labels), 0, 0)
  in_training = share_of_equal_neighbours(labels[order])
  on_disk = share_of_equal_neighbours(labels)
  deviation = (chance * (1 - chance) / len(labels)) ** 0.5
  text = (
    f"neighbours share a class in {in_training:.1%} of cases in the order of"
    f" training, {on_disk:.1%} on disk, {chance:.1%} by chance"
  )
  if abs(in_training - chance) > 6 * deviation + 1e-9:
    return "FAIL", text
  if on_disk > 0.5 > 2 * chance:
    return "note", f"{text}; sorted by class on disk, which training shuffles"
  return "ok", text


def _check_statistics(found: Scan, folder: str) -> Verdict:
  """Whether the stored pixel statistics are those of the images."""
  path = pathlib.Path(folder, "statistics.npz")
  if not path.is_file():
    return "note", "not stored beside the dataset: training computes them first"
  if not found.sums.num_images:
    return "FAIL", "no image can be decoded to check them"
  stored = Statistics.load(str(path), found.source.fingerprint, found.size)
  if stored is None:
    return "FAIL", f"{path} is damaged, or belongs to another dataset"
  computed = found.sums.statistics()
  mean = float(np.abs(stored.mean_image - computed.mean_image).max())
  errors = np.abs(stored.eigenvalues - computed.eigenvalues)
  values = float(errors.max() / computed.eigenvalues.max())
  deviations = np.sqrt(stored.eigenvalues).round(1).tolist()
  text = (
    f"mean image off by {mean:.1g} levels, eigenvalues by {values:.1g};"
    f" standard deviations {deviations}"
  )
  # Another machine's decoder differs by a hundredth of a level.
  return "ok" if mean < 0.5 and values < 1e-3 else "FAIL", text


def _check_throughput(source: Source, size: int, need: float) -> Verdict:
  """Whether the input pipeline is fast enough."""
  batches = pipeline.train_batches(
    source,
    batch_size=128,
    seed=0,
    start_step=0,
    size=size,
    max_undecodable=len(source),
  )
  for _ in range(loading.AHEAD + 1):  # batches made ahead
    next(batches)
  start, count = time.monotonic(), 0
  while time.monotonic() - start < THROUGHPUT_SECONDS:
    count += len(next(batches)["label"])
  rate = count / (time.monotonic() - start)
  text = (
    f"{rate:,.0f} images/s on {parallel.num_cores()} cores:"
    f" {90 * len(source) / rate / 3600:,.2f} hours for 90 epochs"
  )
  if not need:
    return "ok", f"{text} (--need=N compares it with what training needs)"
  return "ok" if rate >= need else "FAIL", f"{text}; {need:,.0f} are needed"
