"""Weights in torchvision's and Caffe's layout give PyTorch's scores.

From the same JPEG file: decoding, rescaling, cropping, centring and all layers
are those of `reference.published`. The weights are random, and the networks
narrow.
"""

import io
import json
import pathlib
import struct

import numpy as np
import pytest
import sample_data
from ml_collections import ConfigDict
from PIL import Image
from reference import published as reference
from reference.caffe_files import encode_blob, encode_net, field, varint
from safetensors.numpy import save_file

from alexnet_jax.data import class_words
from alexnet_jax.model import published
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import (
  classifier,
  framework_files,
  run_evaluation,
  weights_file,
)

torch = pytest.importorskip(
  "torch", reason="torch is absent (pip install torch==2.13.0)"
)
ROOT = pathlib.Path(__file__).resolve().parents[2]
CLASSES = 7
# Wide, high, small, and of the stored size.
SHAPES = ((300, 455), (401, 257), (90, 133), (256, 256))
MEAN = np.random.default_rng(5).uniform(90, 130, (3, 256, 256))  # BGR


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("jpegs")
  for seed, (height, width) in enumerate(SHAPES):
    encoded = sample_data.jpeg(seed, height=height, width=width)
    (folder / f"{seed}.jpg").write_bytes(encoded)
  return [str(path) for path in sorted(folder.iterdir())]


def configuration(name, **changes) -> ConfigDict:
  values = configs.load(str(ROOT / "configs" / f"{name}.py"))
  values.network.width /= 16
  values.num_classes = CLASSES
  values.update_from_flattened_dict(changes)
  return values


def torchvision_weights(classes=CLASSES):
  """A state dict of random weights, and the network itself."""
  torch.manual_seed(0)
  net = reference.torchvision_network(torch, 1 / 16, classes)
  with torch.no_grad():
    for parameter in net.parameters():
      parameter.mul_(2)  # or hardly a score depends on the picture
  return {k: v.numpy() for k, v in net.state_dict().items()}, net


def caffe_blobs():
  """[weight, bias] by layer."""
  random = np.random.default_rng(1)
  shapes = {
    "conv1": (6, 3, 11, 11),
    "conv2": (16, 3, 5, 5),
    "conv3": (24, 16, 3, 3),
    "conv4": (24, 12, 3, 3),
    "conv5": (16, 12, 3, 3),
    "fc6": (256, 576),
    "fc7": (256, 256),
    "fc8": (CLASSES, 256),
  }
  return {
    name: [
      random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape),
      random.normal(0, 0.3, shape[0]),
    ]
    for name, shape in shapes.items()
  }


def as_float32(blobs):
  return {k: [x.astype(np.float32) for x in v] for k, v in blobs.items()}


def scores_of(file, config, jpegs):
  return classifier.load(file, config=config).activations(jpegs, "fc8")


def assert_same(found, expected):
  assert expected.std(axis=0).min() > 0.01 * np.abs(expected).max()
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def test_torchvisions_scores_from_the_same_files(jpegs, tmp_path):
  arrays, net = torchvision_weights()
  file = str(tmp_path / "alexnet.safetensors")
  save_file(arrays, file)
  read = [pathlib.Path(path).read_bytes() for path in jpegs]
  inputs = np.stack([reference.torchvision_inputs(x) for x in read])
  with torch.no_grad():
    expected = net(torch.tensor(inputs)).numpy()
  loaded = classifier.load(file, config=configuration("torchvision"))
  assert_same(loaded.activations(jpegs, "fc8"), expected)
  probabilities = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
  np.testing.assert_allclose(loaded.predict(jpegs), probabilities, atol=1e-4)


@pytest.mark.parametrize(
  "name", ["caffe_alexnet", pytest.param("caffenet", marks=pytest.mark.slow)]
)
def test_caffes_scores_from_the_same_files(name, jpegs, tmp_path):
  """The file has a mean image, as `weights import --mean_image` writes it."""
  blobs = as_float32(caffe_blobs())
  file = write_converted(tmp_path, blobs, name)
  read = [pathlib.Path(path).read_bytes() for path in jpegs]
  inputs = np.stack(
    [reference.caffe_inputs(x, MEAN).astype(np.float32) for x in read]
  )
  expected = reference.caffe_scores(
    torch, blobs, inputs, pool_first=name == "caffenet"
  )
  assert_same(scores_of(file, None, jpegs), expected)


def write_converted(folder, blobs, name):
  caffemodel = folder / "net.caffemodel"
  caffemodel.write_bytes(encode_net(blobs))
  mean = folder / "mean.binaryproto"
  mean.write_bytes(encode_blob(MEAN.astype(np.float32)[np.newaxis], old=True))
  output = str(folder / "converted.safetensors")
  weights_file.convert(
    str(caffemodel), configuration(name), output, mean_image=str(mean)
  )
  return output


def test_torchvisions_error_on_a_dataset(tmp_path):
  """Every example counts once; the dataset gives the names of the classes."""
  data_dir = sample_data.write_tiny(tmp_path)
  arrays, net = torchvision_weights(classes=3)
  file = str(tmp_path / "alexnet.safetensors")
  save_file(arrays, file)
  inputs, labels = [], []
  for number in range(40, 50):  # the validation split
    png = io.BytesIO()
    Image.fromarray(sample_data.Tiny.pictures[number]).save(png, "PNG")
    inputs.append(reference.torchvision_inputs(png.getvalue()))
    labels.append(number % 3)
  with torch.no_grad():
    scores = net(torch.tensor(np.stack(inputs)))
  loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels)).item()
  wrong = (scores.argmax(1).numpy() != labels).mean()
  changes = {"dataset": "tiny", "num_classes": 3, "batch_size": 4}
  found = run_evaluation.evaluate_weights(
    file,
    config=configuration("torchvision", **changes),
    views=1,
    split="validation",
    data_dir=data_dir,
  ).result
  assert found["num_examples"] == 10
  assert found["loss"] == pytest.approx(loss, rel=1e-5)
  assert found["top1_error"] == pytest.approx(wrong)


@pytest.mark.slow
def test_swapped_colours_are_seen(jpegs, tmp_path):
  """Weights of RGB that are read as BGR give other scores."""
  arrays, _ = torchvision_weights()
  file = str(tmp_path / "alexnet.safetensors")
  save_file(arrays, file)
  right = scores_of(file, configuration("torchvision"), jpegs)
  arrays["features.0.weight"] = arrays["features.0.weight"][:, ::-1].copy()
  save_file(arrays, file)
  swapped = scores_of(file, configuration("torchvision"), jpegs)
  assert np.abs(swapped - right).max() > 0.01 * np.abs(right).max()
  # The program reads the order of torchvision's files as RGB whatever the order
  # of the configuration is: the same network.
  other = configuration("torchvision", **{"pixels.order": "bgr"})
  found = scores_of(file, other, jpegs)
  np.testing.assert_allclose(found, swapped, atol=1e-5)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_caffemodels_of_three_generations(generation, tmp_path):
  blobs = as_float32(caffe_blobs())
  path = tmp_path / "net.caffemodel"
  path.write_bytes(encode_net(blobs, generation))
  weights = weights_file.read(str(path))
  assert weights.layout.program == "caffe"
  for name, (weight, bias) in blobs.items():
    np.testing.assert_array_equal(weights.arrays[f"{name}.weight"], weight)
    np.testing.assert_array_equal(weights.arrays[f"{name}.bias"], bias)


def test_the_mean_image_of_caffe_is_rgb_in_rows_and_columns(tmp_path):
  blob = MEAN.astype(np.float32)
  (tmp_path / "m.binaryproto").write_bytes(encode_blob(blob[None], old=True))
  np.save(tmp_path / "m.npy", MEAN)
  for name in ("m.binaryproto", "m.npy"):
    found = framework_files.read_mean_image(str(tmp_path / name))
    assert found.shape == (256, 256, 3)
    assert found[3, 200, 0] == blob[2, 3, 200]  # red is last in the file


@pytest.mark.parametrize("separator", [".", "/", "_"])
def test_caffes_blobs_as_safetensors(separator, tmp_path):
  blobs = as_float32(caffe_blobs())
  file = str(tmp_path / "caffe.safetensors")
  save_file(
    {
      f"{name}{separator}{i}": array
      for name, pair in blobs.items()
      for i, array in enumerate(pair)
    },
    file,
  )
  weights = weights_file.read(file)
  assert (weights.layout.program, weights.layout.order) == ("caffe", "bgr")
  np.testing.assert_array_equal(weights.arrays["fc8.bias"], blobs["fc8"][1])


@pytest.mark.parametrize(
  "kind", ["plain", "legacy", "nested", "parallel", "half"]
)
def test_files_of_pytorch(kind, tmp_path):
  arrays, _ = torchvision_weights()
  content = {name: torch.tensor(array) for name, array in arrays.items()}
  if kind == "parallel":  # of torch.nn.DataParallel around the features
    content = {
      name.replace("features.", "features.module."): tensor
      for name, tensor in content.items()
    }
  if kind == "half":
    content = {name: tensor.bfloat16() for name, tensor in content.items()}
    arrays = {name: x.float().numpy() for name, x in content.items()}
  if kind == "nested":
    content = {"epoch": 3, "state_dict": content}
  file = str(tmp_path / "alexnet.pth")
  torch.save(content, file, _use_new_zipfile_serialization=kind != "legacy")
  weights = weights_file.read(file)
  assert weights.layout.program == "torchvision"
  np.testing.assert_array_equal(
    weights.arrays["conv4.weight"], arrays["features.8.weight"]
  )
  assert weights.arrays["conv4.weight"].dtype == np.float32


class Payload:
  """Unpickling it would create a file."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return (open, (self._path, "w"))


def test_a_pickle_is_not_executed(tmp_path):
  file, trace = str(tmp_path / "net.pth"), tmp_path / "trace"
  torch.save({"features.0.weight": Payload(str(trace))}, file)
  with pytest.raises(UserError, match="Python objects other than tensors"):
    weights_file.read(file)
  assert not trace.exists()


def test_pytorch_is_needed_for_its_files(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  (tmp_path / "net.pth").write_bytes(b"PK")
  with pytest.raises(UserError, match="PyTorch, which is not installed"):
    weights_file.read(str(tmp_path / "net.pth"))


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.pth", b"nothing", "not a file of PyTorch|other than tensors"),
    ("a.pth", b"PK\x03\x04 and nothing", "not a file of PyTorch"),
    ("a.pth", b"", "not a file of PyTorch"),
    ("a.pth", b"\x80\x02]q\x00.", "not a file of PyTorch|not a state dict"),
    ("a.caffemodel", b"\xff\xff\xff", "not a file of Caffe, or is damaged"),
    ("a.caffemodel", b"", "no layer with parameters"),
    ("a.caffemodel", "short", "conv1.0 has 5 values, but the shape"),
    ("a.safetensors", b"nothing", "not a safetensors file"),
  ],
)
def test_damaged_files_are_refused(name, content, message, tmp_path):
  if content == "short":
    blob = field(7, field(1, varint(6))) + field(
      5, struct.pack("<5f", *[0] * 5)
    )
    content = field(100, field(1, b"conv1") + field(7, blob))
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    weights_file.read(str(tmp_path / name))


def test_what_does_not_fit_is_named_as_in_the_file(tmp_path):
  arrays, _ = torchvision_weights()
  arrays["features.33.weight"] = arrays.pop("features.3.weight")
  arrays["features.8.weight"] = arrays["features.8.weight"][:, ::2].copy()
  arrays["classifier.1.bias"][2] = np.nan
  arrays["classifier.4.bias"][:3] = np.inf
  file = str(tmp_path / "alexnet.safetensors")
  save_file(arrays, file)
  with pytest.raises(UserError) as error:
    weights_file.read(file).net(configs.to_json(configuration("torchvision")))
  for message in (
    "features.3.weight is missing",
    "features.33.weight is unknown (the nearest name is features.3.weight)",
    "features.8.weight has shape [16, 12, 3, 3], expected [16, 24, 3, 3]",
    "classifier.1.bias has 1 value that is not finite",
    "classifier.4.bias has 3 values that are not finite",
    "The names are those of torchvision: see configs/torchvision.py",
  ):
    assert message in str(error.value)


def test_another_number_of_classes_is_a_sentence(tmp_path):
  file = str(tmp_path / "alexnet.safetensors")
  save_file(torchvision_weights()[0], file)
  config = configuration("torchvision", num_classes=1000)
  with pytest.raises(UserError, match="have 7 classes and the network"):
    classifier.load(file, config=config)


def test_the_configuration_and_the_mean_are_asked_for(tmp_path):
  file = str(tmp_path / "alexnet.safetensors")
  save_file(torchvision_weights()[0], file)
  with pytest.raises(UserError, match="pass --config=configs/torchvision"):
    classifier.load(file)
  (tmp_path / "net.caffemodel").write_bytes(
    encode_net(as_float32(caffe_blobs()))
  )
  with pytest.raises(UserError, match="has no mean image"):
    classifier.load(
      str(tmp_path / "net.caffemodel"), config=configuration("caffenet")
    )


def test_a_thousand_classes_are_imagenets_in_torchvisions_order():
  """Some of torchvision's categories by index; Caffe's synsets.txt is equal."""
  weights = weights_file.Weights("", published.TORCHVISION, {})
  names = weights.class_names({"num_classes": 1000})
  assert list(names) == sorted(names)
  words = class_words.in_words(names)
  found = [words[i] for i in (0, 1, 207, 340, 404, 954, 999)]
  assert found == [
    *("tench", "goldfish", "golden retriever", "zebra", "airliner", "banana"),
    "toilet tissue",
  ]


@pytest.mark.slow
def test_the_commands_read_and_convert(jpegs, tmp_path):
  arrays, _ = torchvision_weights()
  pth = str(tmp_path / "alexnet.pth")
  torch.save({name: torch.tensor(array) for name, array in arrays.items()}, pth)
  output, found = str(tmp_path / "a.safetensors"), str(tmp_path / "a.json")
  config = ["--config=configs/torchvision.py", "--config.network.width=0.0625"]
  config += [f"--config.num_classes={CLASSES}"]
  result = sample_data.command(
    "weights", "import", f"--input={pth}", f"--output={output}", *config
  )
  assert result.returncode == 0, result.stderr
  result = sample_data.command(
    *("predict", f"--weights={output}", f"--json={found}"),
    *("--top=7", jpegs[0]),
  )
  assert result.returncode == 0, result.stderr
  (entry,) = json.loads(pathlib.Path(found).read_text())
  expected = classifier.load(pth, config=configuration("torchvision"))
  expected = expected.predict(jpegs[0])[0]
  for one in entry["classes"]:
    assert one["probability"] == pytest.approx(expected[one["index"]], abs=1e-6)


def test_damaged_metadata_are_refused(tmp_path):
  config = configs.to_json(configuration("torchvision"))
  good = {
    "channels": "rgb",
    "dataset": "letters",
    "fingerprint": "",
    "step": "3",
    "classes": json.dumps(list("abcdefg")),
    "config": json.dumps(config),
  }
  arrays, _ = torchvision_weights()
  file = str(tmp_path / "alexnet.safetensors")
  mean = np.zeros((3, 256, 256), np.float32)
  save_file({**arrays, "mean_image": mean}, file, good)
  assert weights_file.read(file).classes == tuple("abcdefg")
  for wrong in (
    {"channels": "gbr"},
    {"step": "many"},
    {"classes": "[1, 2]"},
    {"config": "[]"},
    {"config": "{}"},
    {"config": json.dumps(config | {"network": 3})},
    {"config": json.dumps(config | {"pixels": {"order": [1]}})},
  ):
    save_file({**arrays, "mean_image": mean}, file, good | wrong)
    with pytest.raises(UserError, match=r"metadata of .* are damaged"):
      weights_file.read(file)
  save_file({**arrays, "mean_image": mean[:, :5]}, file, good)
  with pytest.raises(UserError, match="no mean image of this size"):
    weights_file.read(file)
