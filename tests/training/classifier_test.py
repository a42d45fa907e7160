"""Probabilities and activations of pictures, against float64 NumPy."""

import functools
import io

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from reference import alexnet as reference
from reference import formulas

from alexnet_jax.data.augment import ImageStatistics
from alexnet_jax.model.alexnet import abstract_net
from alexnet_jax.model.network import Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import classifier

SIZE, CROP, CLASSES = 72, 64, 5
NETWORK = Network(num_classes=CLASSES, width=1 / 24, crop_size=CROP)
UNITS = 85  # of a tower's fc6 and fc7
RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 256, (6, 6, 6, 3), np.uint8)
PICTURES = PICTURES.repeat(SIZE // 6, 1).repeat(SIZE // 6, 2)
MEAN = RANDOM.uniform(90, 160, (SIZE, SIZE, 3)).astype(np.float32)
VIEWS = [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]


def make_parameters():
  """As the reference has them; activations stay near 1."""
  features = {"conv1": 2, "conv2": 5, "conv3": 8, "conv4": 8, "conv5": 5}
  shapes = {
    "conv1": (11, 11, 3),
    "conv2": (5, 5, 2),
    "conv3": (3, 3, 10),
    "conv4": (3, 3, 8),
    "conv5": (3, 3, 8),
    "fc6": (10,),
    "fc7": (2 * UNITS,),
  }

  def layer(name):
    shape = (*shapes[name], features.get(name, UNITS))
    kernel = RANDOM.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
    if name == "conv1":
      kernel /= 60  # of levels
    return [kernel, RANDOM.normal(size=shape[-1])]

  parameters = {name: [layer(name), layer(name)] for name in shapes}
  last = RANDOM.normal(size=(2, UNITS, CLASSES)) / 4
  parameters["fc8"] = [[last[0]], [last[1]]]
  parameters["fc8_bias"] = [[RANDOM.normal(size=CLASSES)]]
  return parameters


PARAMETERS = make_parameters()


@pytest.fixture(scope="module")
def net():
  def leaf(path, like):
    names = [key.name for key in path]
    if names[0] == "fc8_bias":
      value = PARAMETERS["fc8_bias"][0][0]
    else:
      index = ["kernel", "bias"].index(names[2])
      value = np.stack([tower[index] for tower in PARAMETERS[names[1]]])
    assert value.shape == like.shape
    return jnp.asarray(value, jnp.float32)

  model = jax.tree.map_with_path(leaf, abstract_net(NETWORK))
  names = ["n01440764", "oak", "elm", "ash", "fir"]
  statistics = ImageStatistics(MEAN, np.zeros((3, 3), np.float32))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(classifier, "BATCH", 4)  # six are a full batch and a part
    yield classifier.Classifier(
      model, statistics, image_size=SIZE, classes=names
    )


def view(images, top, left):
  crop = np.s_[:, top : top + CROP, left : left + CROP]
  return images[crop].astype(float) - MEAN[np.newaxis][crop]


def softmax(scores):
  powers = np.exp(scores - scores.max(1, keepdims=True))
  return powers / powers.sum(1, keepdims=True)


@functools.cache
def scores_of_views():
  """f64[10,6,CLASSES]: five places, then the same mirrored."""
  crops = [view(PICTURES, *place) for place in VIEWS]
  crops += [crop[:, :, ::-1] for crop in crops]
  return np.stack([reference.run(PARAMETERS, crop)[0] for crop in crops])


def test_probabilities_are_those_of_the_reference(net):
  wanted = softmax(scores_of_views()[0])
  assert np.ptp(wanted, axis=0).max() > 0.05  # the pictures differ
  found = net.predict(PICTURES)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
  wanted = np.mean([softmax(scores) for scores in scores_of_views()], axis=0)
  np.testing.assert_allclose(
    net.predict(PICTURES[:4], views=10), wanted[:4], rtol=1e-4, atol=1e-6
  )


def test_activations_are_those_of_the_reference(net):
  """fc8's scores; fc7 through an fc8 that copies it; conv2 by its stem."""
  crops = view(PICTURES, 4, 4)
  np.testing.assert_allclose(
    net.activations(PICTURES, "fc8"), scores_of_views()[0], rtol=1e-4, atol=1e-4
  )
  copies = np.split(np.eye(2 * UNITS), 2)  # tower 0's units first
  copying = PARAMETERS | {
    "fc8": [[copy] for copy in copies],
    "fc8_bias": [[np.zeros(2 * UNITS)]],
  }
  wanted, _ = reference.run(copying, crops)
  assert (wanted > 0).any(0).mean() > 0.5
  found = net.activations(PICTURES, "fc7")
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  towers = [
    reference.paper_stem(
      crops,
      functools.partial(convolve, "conv1", t, stride=4, padding=(0, 3)),
      functools.partial(convolve, "conv2", t, padding=(2, 2)),
    )[0]
    for t in range(2)
  ]
  found = net.activations(PICTURES, "conv2")
  assert found.shape == (6, 3, 3, 10)
  wanted = np.concatenate(towers, -1)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  "exchanges, towers",
  [(["conv3"], []), (["fc6"], []), (["fc7"], []), ([], [0]), (["fc6"], [1])],
)
def test_a_cut_network_is_the_reference_with_silent_towers(
  net, monkeypatch, exchanges, towers
):
  """The reference sets to zero what a tower would read of another one."""
  places = iter(["conv3", "fc6", "fc7"])

  def exchange(parts):
    cut = next(places) in exchanges

    def read_by(reader):
      return np.concatenate(
        [
          x if i == reader or not (cut or i in towers) else np.zeros_like(x)
          for i, (x, _) in enumerate(parts)
        ],
        -1,
      )

    return [(read_by(reader), None) for reader in range(len(parts))]

  monkeypatch.setattr(reference, "exchange", exchange)
  last = [
    [0 * kernel if tower in towers else kernel]
    for tower, [kernel] in enumerate(PARAMETERS["fc8"])
  ]
  scores, _ = reference.run(PARAMETERS | {"fc8": last}, view(PICTURES, 4, 4))
  found = net.cut(exchanges, towers).predict(PICTURES)
  np.testing.assert_allclose(found, softmax(scores), rtol=1e-4, atol=1e-6)
  assert np.abs(found - net.predict(PICTURES)).max() > 0.01


def test_the_activations_of_all_layers_are_those_of_each(net):
  found = net.all_activations(PICTURES[:2])
  assert tuple(found) and set(found) == set(net.layers)
  for layer in ("conv2", "fc7", "fc8"):
    np.testing.assert_allclose(
      found[layer], net.activations(PICTURES[:2], layer), atol=1e-5
    )


def test_the_crop_is_the_centre_of_the_square(net):
  np.testing.assert_array_equal(net.crop(PICTURES[0]), PICTURES[0, 4:68, 4:68])


def convolve(name, tower, x, **options):
  return formulas.conv(x, *PARAMETERS[name][tower], **options)


def test_pictures_of_any_size_and_kind(net, tmp_path):
  """A file, an image of Pillow and an array of the same pixels are the same."""
  coarse = RANDOM.integers(0, 256, (5, 4, 3), np.uint8)
  large = cv2.resize(coarse, (144, 200), interpolation=cv2.INTER_CUBIC)
  scaled = cv2.resize(large, (72, 100), interpolation=cv2.INTER_AREA)[14:86]
  file = tmp_path / "large.png"
  Image.fromarray(large).save(file)
  grey = large[:, :, 1]
  clear = Image.fromarray(large).convert("RGBA")
  clear.putalpha(Image.fromarray(np.where(grey > 99, 255, 0).astype(np.uint8)))
  on_white = np.where(grey[..., np.newaxis] > 99, large, 255).astype(np.uint8)
  reduced = Image.fromarray(large).quantize(16)
  found = net.predict(
    [
      *(scaled, large, str(file), file, Image.open(file)),
      *(grey, np.stack([grey] * 3, -1), clear, on_white),
      *(reduced, np.asarray(reduced.convert("RGB"))),
    ]
  )
  assert np.unique(found.round(4), axis=0).shape[0] == 4
  for same in ([0, 1, 2, 3, 4], [5, 6], [7, 8], [9, 10]):
    assert np.ptp(found[same], axis=0).max() < 1e-6
  alone = net.predict(large)
  assert alone.shape == (1, CLASSES)
  np.testing.assert_allclose(alone[0], found[0], atol=1e-6)
  np.testing.assert_allclose(net.predict(iter([file])), alone, atol=1e-6)


def test_a_photograph_is_turned_upright_unless_the_classes_are_imagenet_s(
  net, tmp_path
):
  """Orientation 6: the camera was turned, and the pixels are stored so."""
  upright = cv2.resize(PICTURES[0], (90, 72))
  exif, file = Image.Exif(), tmp_path / "turned.png"
  exif[0x0112] = 6
  Image.fromarray(np.rot90(upright)).save(file, exif=exif)
  found = net.predict([upright, file, Image.open(file)])
  assert np.ptp(found, axis=0).max() < 1e-6
  imagenet = classifier.Classifier(
    net.model, net._statistics, image_size=SIZE, classes=["n01440764"] * CLASSES
  )
  assert net.upright and not imagenet.upright
  np.testing.assert_array_equal(
    imagenet.square(file), imagenet.square(np.rot90(upright))
  )


@pytest.mark.parametrize(
  "pictures, words",
  [
    ("missing.png", "missing.png cannot be read: No such file"),
    ("/dev/zero", "/dev/zero cannot be read: it is not a file"),
    ([b"bytes"], "uint8"),
    ([PICTURES[0], PICTURES[0] / 255], r"got float64\[72, 72, 3\]"),
    ([PICTURES[0, :, :, :2]], r"got uint8\[72, 72, 2\]"),
    ([PICTURES[0, :0]], "no pixels"),
    ([PICTURES], r"got uint8\[6, 72, 72, 3\]"),
    ([], "no pictures"),
    (7, "got int"),
  ],
)
def test_what_is_no_picture_is_an_error(net, pictures, words):
  with pytest.raises(UserError, match=words):
    net.predict(pictures)


def test_a_path_with_nothing_there_is_said_to_be_missing(tmp_path):
  with pytest.raises(UserError, match=r"none\.safetensors does not exist"):
    classifier.load(tmp_path / "none.safetensors")


def test_a_wrong_layer_or_view_is_an_error(net):
  with pytest.raises(UserError, match=r"conv1.*fc8.*nearest is 'fc7'"):
    net.activations(PICTURES, "fc_7")
  with pytest.raises(UserError, match=r"1 .* or 10 \(got 5\)"):
    net.predict(PICTURES, views=5)


def test_a_damaged_file_is_named(net, tmp_path):
  file = tmp_path / "cut.png"
  content = io.BytesIO()
  Image.fromarray(PICTURES[0]).save(content, "PNG")
  file.write_bytes(content.getvalue()[:200])
  with pytest.raises(UserError, match=r"cut\.png cannot be read: "):
    net.predict([PICTURES[0], file])


def test_the_classifier_names_its_classes_and_layers(net):
  assert net.classes == ("n01440764", "oak", "elm", "ash", "fir")
  assert net.words == ("tench", "oak", "elm", "ash", "fir")
  convolutions = ("conv1", "conv2", "conv3", "conv4", "conv5")
  assert net.layers == (*convolutions, "fc6", "fc7", "fc8")
