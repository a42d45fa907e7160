"""Patterns: a procedural tfds dataset, drawn instead of downloaded.

An image has two halves, one above the other, one in a warm and one in a cool
colour, each filled with a pattern. The class determines the patterns, the
colours and which of them is above, so a network needs colour, shape and
arrangement; a left-right flip does not change the class. The strength of the
colours, the background, scale, position, tilt, light and noise are random.
"""

import io
import itertools
import os
import pathlib
import shutil
import tempfile

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

from alexnet_jax.data import parallel
from alexnet_jax.runtime.command import UserError

SIDES = (130, 280)  # pixels, so that every image is rescaled
SHAPES = ("horizontal bars", "vertical bars", "checkerboard", "rings", "discs")
NUM_SHAPES = len(SHAPES)
NUM_HUES = 10  # pairs of a warm and a cool hue
FIRST_HUES = (0.02, 0.52)  # red and cyan, of a colour wheel of 1
SHRINKAGE = 0.75  # of a pattern from one scale to the next
MAX_CLASSES = NUM_SHAPES * 2 * NUM_HUES * NUM_SHAPES * 4


class Patterns(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The tfds builder; the name of a configuration is its number of classes."""

  VERSION = tfds.core.Version("1.1.0")
  # Where this class was when the first runs trained. tfds stores the name in
  # dataset_info.json, whose digest identifies the dataset in a checkpoint.
  __module__ = "alexnet_jax.patterns"

  def __init__(self, *, data_dir: str, num_classes: int):
    self._num_classes = num_classes
    super().__init__(
      data_dir=data_dir,
      config=tfds.core.BuilderConfig(name=str(num_classes)),
      file_format="array_record",
    )

  def _log_download_bytes(self) -> None:
    pass  # nothing is downloaded, and a progress bar shows the drawing

  _log_download_done = _log_download_bytes

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      "image": tfds.features.Image(encoding_format="jpeg"),
      "label": tfds.features.ClassLabel(num_classes=self._num_classes),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description="Procedural images that need colour, shape and arrangement.",
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      split: self._generate_examples(split, count)
      for split, count in split_sizes(self._num_classes).items()
    }

  def _generate_examples(self, split: str, count: int):
    def example(index):
      image, label = draw(split, index, self._num_classes)
      encoded = simplejpeg.encode_jpeg(image, 85, colorsubsampling="420")
      return index, {"image": io.BytesIO(encoded), "label": label}

    chunks = parallel.map_images(
      lambda indices: list(map(example, indices.tolist())),
      parallel.chunks(np.arange(count)),
      f"Drawing patterns/{self._num_classes} {split}",
    )
    return itertools.chain.from_iterable(chunks)


def split_sizes(num_classes: int) -> dict[str, int]:
  """Number of images in each split: 4,000 and 1,000, or 20 and 5 per class."""
  train = max(4000, 20 * num_classes)
  return {"train": train, "validation": train // 4}


def class_properties(label: int) -> tuple[int, int, int, int, int]:
  """(upper shape, lower shape, whether cool is above, hue, scale) of a class.

  The first ten classes differ in shape and arrangement, the next ninety also
  in hue.
  """
  rest, upper = divmod(label, NUM_SHAPES)
  rest, cool_above = divmod(rest, 2)
  rest, hue = divmod(rest, NUM_HUES)
  scale, further = divmod(rest, NUM_SHAPES)
  return upper, (upper + further) % NUM_SHAPES, cool_above, hue, scale


def _turn(hue: int) -> float:
  """How far a class's hues are from FIRST_HUES, towards green and magenta."""
  return 0.3 * hue / NUM_HUES


def class_words(num_classes: int) -> list[str]:
  """A readable name for each class, such as "rings, warm above cool".

  With more than ten classes the words have the hues (in degrees: 0 is red, 180
  cyan), with more than a hundred both shapes, with more than 500 the scale.
  """
  words = []
  for label in range(num_classes):
    upper, lower, cool_above, hue, scale = class_properties(label)
    shapes, colors = SHAPES[upper], ["warm", "cool"]
    if num_classes > 2 * NUM_SHAPES:
      warm, cool = (round(360 * (_turn(hue) + base)) for base in FIRST_HUES)
      colors = [f"warm ({warm}°)", f"cool ({cool}°)"]
    if num_classes > 2 * NUM_SHAPES * NUM_HUES:
      shapes = f"{SHAPES[upper]} above {SHAPES[lower]}"
    if cool_above:
      colors.reverse()
    text = f"{shapes}, {' above '.join(colors)}"
    if num_classes > 2 * NUM_SHAPES**2 * NUM_HUES:
      text += f", at {SHRINKAGE**scale:.0%} of the size"
    words.append(text)
  return words


def draw(split: str, index: int, num_classes: int) -> tuple[np.ndarray, int]:
  """Draws image `index` of a split: uint8[H,W,3] RGB and its label.

  All classes have the same number of images. Each image of each split has its
  own random stream, so no image is in two splits.
  """
  label = index % num_classes
  random = np.random.default_rng([split == "validation", index])
  *shapes, cool_above, hue, scale = class_properties(label)

  height, width = random.integers(*SIDES, 2)
  axes = (
    np.linspace(-1, 1, side, dtype=np.float32) * side / min(height, width)
    for side in (height, width)
  )
  down, across = np.meshgrid(*axes, indexing="ij")
  tilt = random.uniform(-0.2, 0.2)  # radians
  cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
  down, across = down * cos + across * sin, across * cos - down * sin
  down -= np.float32(random.uniform(-0.15, 0.15))  # the border: down == 0
  colors = [_color(_turn(hue) + base, random) for base in FIRST_HUES]
  if cool_above:
    colors.reverse()

  ground = np.float32(random.uniform(0, 90) + random.normal(0, 8, 3))
  masks = np.empty((height, width, 2), np.float32)
  for i, half in enumerate((down < 0, down >= 0)):
    period = random.uniform(0.5, 0.65) * SHRINKAGE**scale
    masks[..., i] = _coverage(shapes[i], down, across, period, random) * half
  image = masks @ (np.stack(colors) - ground) + ground
  slope, level = random.uniform((-0.25, 0.8), (0.25, 1.2)).astype(np.float32)
  light = level + slope * across
  image *= light[..., np.newaxis]
  noise = np.frombuffer(random.bytes(image.size), np.int8)  # cheap and even
  image += (noise / np.float32(8)).reshape(image.shape)  # levels, -16 to 16
  return image.clip(0, 255, out=image).astype(np.uint8), label


def _coverage(kind, down, across, period, random) -> np.ndarray:
  """f32[H,W], how much of each pixel a shape covers.

  Every shape covers half of the area, so the mean colour does not reveal it.
  """
  phases = random.uniform(-0.6, 0.6, 2)
  y, x = (
    np.float32(2 * np.pi / period) * position + np.float32(phase)
    for position, phase in zip((down, across), phases, strict=True)
  )
  if kind == 0:  # horizontal bars
    wave = np.sin(y)
  elif kind == 1:  # vertical bars
    wave = np.sin(x)
  elif kind == 2:  # a checkerboard
    wave = np.sin(y) * np.sin(x)
  elif kind == 3:  # rings
    center = np.float32(random.uniform(-0.5, 0.5))
    radius = np.hypot(down, across - center)
    turns = np.float32(2 * np.pi / period) * radius
    wave = np.sin(turns + np.float32(phases[0]))
  else:  # discs: radius .4 of the period covers half
    turns = (v / np.float32(2 * np.pi) for v in (y, x))
    distance = np.hypot(*(v - np.floor(v) - np.float32(0.5) for v in turns))
    wave = 8 * (np.float32(np.sqrt(0.5 / np.pi)) - distance)
  wave *= 3
  wave += 0.5
  return wave.clip(0, 1, out=wave)


def _color(hue: float, random) -> np.ndarray:
  """A saturated colour f32[3], 0-255, of about this hue (0 red, 1/3 green)."""
  hue += random.uniform(-0.01, 0.01)
  wheel = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
  saturation, value = random.uniform(0.5, 1), random.uniform(130, 255)
  color = value * (1 - saturation * (1 - wheel.clip(0, 1)))
  return color.astype(np.float32)


def full_name(name: str) -> str:
  """The name with its number of classes, which is ten for "patterns"."""
  return "patterns/10" if name == "patterns" else name


def generate(name: str, data_dir: str) -> None:
  """Generates `patterns/N` in `data_dir` unless it exists.

  If several processes generate it at once, one result is kept. Raises UserError
  if N is not a valid number of classes.
  """
  base = name.partition(":")[0]
  config = base.partition("/")[2]
  if not config.isdecimal() or not 2 <= int(config) <= MAX_CLASSES:
    raise UserError(
      f"Dataset {name} does not exist: the name is patterns/N, where N is the"
      f" number of classes, 2 to {MAX_CLASSES:,}."
    )
  target = pathlib.Path(data_dir, base, str(Patterns.VERSION))
  if (target / "dataset_info.json").is_file():
    return
  os.makedirs(data_dir, exist_ok=True)
  unfinished = tempfile.mkdtemp(prefix=f".patterns-{config}-", dir=data_dir)
  tfds.disable_progress_bar()
  try:
    builder = Patterns(data_dir=unfinished, num_classes=int(config))
    builder.download_and_prepare()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
      os.rename(builder.data_dir, target)
    except OSError:
      if not target.is_dir():  # another process was not faster
        raise
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
